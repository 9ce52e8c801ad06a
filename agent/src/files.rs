//! File operations that take more than one step: reading, writing, listing, removing trees.
//!
//! PID 1 has other things to do, so each `step` does a bounded piece of work and none of them waits.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::message::{self, Refusal};
use crate::open::Open;
use crate::pack::Packing;
use crate::paths::{self, Target, refusal};
use crate::removal::Removal;
use crate::streams::Streams;
use crate::unpack::Unpacking;
use crate::users::{Accounts, Names};
use crate::watch::Watching;

/// Bytes that one step reads or writes.
const CHUNK: usize = 256 << 10;
/// Entries that one step lists.
const ENTRIES: usize = 64;
/// Names tried for a temporary file before we give up.
const TEMPORARY_NAMES: u32 = 100;

/// What a step has come to.
pub enum Step {
    /// There is more to do at once.
    More,
    /// Nothing can be done before the host sends bytes or credit.
    Waiting,
    Done(Vec<u8>),
    Failed(Refusal),
}

pub enum Task {
    Read(Reading),
    Write(Writing),
    List(Listing),
    Remove(Removal),
    Pack(Packing),
    Unpack(Box<Unpacking>),
    Watch(Watching),
}

/// An operation that goes on, or the RESULT of one that is over already.
pub enum Begun {
    Task(Box<Task>),
    Done(Vec<u8>),
}

/// Begin an operation on files and tell the host which channels it has.
pub fn begin(streams: &mut Streams, id: u32, open: Open) -> Result<Begun, Refusal> {
    let task = match open {
        Open::Read { path, offset, length, limit } => {
            let (reading, size) = Reading::begin(path, offset, length)?;
            streams.open_output(id, 1, limit);
            streams.started(id, None, &message::started_reading(size));
            Task::Read(reading)
        }
        Open::Write { path, mode, parents, append } => {
            let writing = Writing::begin(id, path, mode, parents, append)?;
            streams.started(id, None, &message::started(None));
            streams.open_input(id);
            Task::Write(writing)
        }
        Open::List { path, limit } => {
            let listing = Listing::begin(path)?;
            streams.open_output(id, 1, limit);
            streams.started(id, None, &message::started(None));
            Task::List(listing)
        }
        Open::Remove { path, recursive } => match Removal::begin(path, recursive)? {
            Some(removal) => Task::Remove(removal),
            None => return Ok(Begun::Done(message::done())),
        },
        Open::Mkdir { path, mode, parents } => {
            paths::make_folder(&path, mode, parents)?;
            return Ok(Begun::Done(message::done()));
        }
        Open::Rename { path, target } => {
            paths::rename(&path, &target)?;
            return Ok(Begun::Done(message::done()));
        }
        Open::Pack { path, limit } => {
            let (packing, size) = Packing::begin(path)?;
            streams.open_output(id, 1, limit);
            streams.started(id, None, &message::started_reading(size));
            Task::Pack(packing)
        }
        Open::Unpack { path, name, parents } => {
            let unpacking = Unpacking::begin(id, path, name, parents)?;
            streams.started(id, None, &message::started(None));
            streams.open_input(id);
            Task::Unpack(Box::new(unpacking))
        }
        Open::Watch { path, recursive, kinds, timeout_ms, limit } => {
            let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
            let watching = Watching::begin(&path, recursive, kinds, timeout)?;
            streams.open_output(id, 1, limit);
            Task::Watch(watching)
        }
        Open::Stat { path } => return Ok(Begun::Done(paths::stat_entry(&path)?)),
        Open::Exec(_) => return Err(Refusal::new("unimplemented", "an exec is no file operation")),
    };
    Ok(Begun::Task(Box::new(task)))
}

impl Task {
    pub fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        match self {
            Task::Read(reading) => reading.step(streams, id),
            Task::Write(writing) => writing.step(streams, id),
            Task::List(listing) => listing.step(streams, id),
            Task::Remove(removal) => removal.step(),
            Task::Pack(packing) => packing.step(streams, id),
            Task::Unpack(unpacking) => unpacking.step(streams, id),
            Task::Watch(watching) => watching.step(streams, id),
        }
    }

    /// Return what says by itself that there is something to do.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        match self {
            Task::Watch(watching) => Some(watching.descriptor()),
            _ => None,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Task::Watch(watching) => watching.deadline(),
            _ => None,
        }
    }
}

pub struct Reading {
    file: OwnedFd,
    path: Vec<u8>,
    /// Bytes that are still asked for.
    left: u64,
    /// Bytes that the file seems to have still, for the size of the buffer only.
    expected: u64,
}

impl Reading {
    fn begin(path: Vec<u8>, offset: u64, length: Option<u64>) -> Result<(Reading, u64), Refusal> {
        let (file, stat) = paths::open_regular("read", &path, OFlags::RDONLY, Mode::empty())?;
        if offset > 0 {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset))
                .map_err(|errno| refusal("read", &path, errno))?;
        }
        let size = stat.st_size.max(0) as u64;
        let expected = size.saturating_sub(offset);
        Ok((Reading { file, path, left: length.unwrap_or(u64::MAX), expected }, size))
    }

    fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        let Some(output) = streams.outgoing(id, 1) else {
            return Step::Waiting;
        };
        let ring = &mut output.ring;
        let wanted = self.left.min(ring.room().min(CHUNK) as u64) as usize;
        if self.left > 0 && wanted == 0 {
            return Step::Waiting;
        }
        ring.grow(wanted.min(self.expected.max(512) as usize));
        match rustix::io::readv(&self.file, &mut ring.vacant_slices(wanted)) {
            Ok(0) => {
                streams.close_output(id, 1);
                Step::Done(message::done())
            }
            Ok(count) => {
                ring.filled(count);
                self.left -= count as u64;
                self.expected = self.expected.saturating_sub(count as u64);
                streams.produced(id, 1);
                Step::More
            }
            Err(Errno::INTR) => Step::More,
            Err(errno) => Step::Failed(refusal("read", &self.path, errno)),
        }
    }
}

pub struct Writing {
    path: Vec<u8>,
    target: Target,
    /// The name of the file that is filled before it takes the target's place; none when appending.
    temporary: Option<String>,
    file: OwnedFd,
}

impl Writing {
    fn begin(
        id: u32,
        path: Vec<u8>,
        mode: Option<u32>,
        parents: bool,
        append: bool,
    ) -> Result<Writing, Refusal> {
        let target = paths::resolve("write", &path, parents)?;
        if let Some(stat) = &target.stat {
            paths::check_regular("write", &path, stat)?;
        }
        if append {
            let file = open_to_append(&path, &target, mode.unwrap_or(0o644))?;
            return Ok(Writing { path, target, temporary: None, file });
        }
        let (name, file) = open_temporary(id, &path, &target)?;
        let writing = Writing { path, target, temporary: Some(name), file };
        writing.take_attributes(mode)?;
        Ok(writing)
    }

    /// Give the temporary file the owner and mode of the file that it will replace, or the mode asked for.
    fn take_attributes(&self, mode: Option<u32>) -> Result<(), Refusal> {
        let failed = |errno| refusal("write", &self.path, errno);
        let mode = match &self.target.stat {
            Some(stat) => {
                let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(&self.file, Some(owner), Some(group)).map_err(failed)?;
                stat.st_mode & 0o7777
            }
            None => mode.unwrap_or(0o644),
        };
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode)).map_err(failed)
    }

    fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        let Some(input) = streams.input(id) else {
            return Step::Waiting;
        };
        if input.finished() {
            return self.commit();
        }
        let (first, second) = input.ring.slices(0, CHUNK);
        if first.is_empty() {
            return Step::Waiting;
        }
        match rustix::io::writev(&self.file, &[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(count) => {
                input.consume(count);
                streams.consumed(id);
                Step::More
            }
            Err(Errno::INTR) => Step::More,
            Err(errno) => Step::Failed(refusal("write", &self.path, errno)),
        }
    }

    /// Put the file in its place.
    fn commit(&mut self) -> Step {
        if let Some(temporary) = &self.temporary {
            let folder = &self.target.folder;
            if let Err(errno) = rustix::fs::renameat(folder, temporary, folder, &*self.target.name) {
                return Step::Failed(refusal("write", &self.path, errno));
            }
            self.temporary = None;
        }
        match rustix::fs::fstat(&self.file) {
            Ok(stat) => Step::Done(message::written(stat.st_size.max(0) as u64)),
            Err(errno) => Step::Failed(refusal("write", &self.path, errno)),
        }
    }
}

impl Drop for Writing {
    /// A file that was not finished goes.
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.target.folder, temporary, AtFlags::empty());
        }
    }
}

fn open_to_append(path: &[u8], target: &Target, mode: u32) -> Result<OwnedFd, Refusal> {
    let failed = |errno| refusal("append to", path, errno);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat(&target.folder, &*target.name, flags, Mode::from_raw_mode(mode))
        .map_err(failed)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    paths::check_regular("append to", path, &stat)?;
    Ok(file)
}

fn open_temporary(id: u32, path: &[u8], target: &Target) -> Result<(String, OwnedFd), Refusal> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for attempt in 0..TEMPORARY_NAMES {
        let name = format!(".skerry-{id}-{attempt}");
        match rustix::fs::openat(&target.folder, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((name, file)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(refusal("write", path, errno)),
        }
    }
    Err(refusal("write", path, Errno::EXIST))
}

pub struct Listing {
    path: Vec<u8>,
    folder: Dir,
    names: Names,
    /// An entry for which there was no room yet.
    pending: Option<Vec<u8>>,
}

impl Listing {
    fn begin(path: Vec<u8>) -> Result<Listing, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let folder = paths::open(CWD, &path, flags, Mode::empty())
            .and_then(Dir::new)
            .map_err(|errno| refusal("list", &path, errno))?;
        Ok(Listing { path, folder, names: Accounts::read().names(), pending: None })
    }

    fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        for _ in 0..ENTRIES {
            let entry = match self.pending.take().map_or_else(|| self.next(), |entry| Ok(Some(entry))) {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    streams.close_output(id, 1);
                    return Step::Done(message::done());
                }
                Err(errno) => return Step::Failed(refusal("list", &self.path, errno)),
            };
            let Some(output) = streams.outgoing(id, 1) else {
                return Step::Waiting;
            };
            if output.ring.room() < entry.len() {
                self.pending = Some(entry);
                return Step::Waiting;
            }
            output.ring.append(&entry);
            streams.produced(id, 1);
        }
        Step::More
    }

    /// Return the next packed entry; one that went away in between is left out.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        while let Some(found) = self.folder.read() {
            let found = found?;
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let folder = self.folder.fd()?;
            match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let name = name.to_bytes();
                    let entry = paths::entry(folder.as_fd(), name, name, &stat, &self.names);
                    return Ok(Some(message::listed(&entry)));
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }
}
