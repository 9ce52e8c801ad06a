//! Making a tree from one stream. Nothing in it leads out of where it belongs, and a file appears whole.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::files::Step;
use crate::message::{self, Refusal};
use crate::paths::{self, refusal, refused};
use crate::stream::Incoming;
use crate::streams::Streams;
use crate::tree::{self, DEPTH, Entry, HEAD, Kind, Record};

/// Bytes and records that one step takes.
const STEP_BYTES: usize = 256 << 10;
const RECORDS: usize = 128;
/// Names tried for what is made before it takes its place.
const TEMPORARY_NAMES: u32 = 100;

pub struct Unpacking {
    id: u32,
    /// Where it goes, for messages and for the host.
    path: Vec<u8>,
    place: Place,
    levels: Vec<Level>,
    file: Option<Draft>,
    entries: u64,
    size: u64,
}

/// Where the root of the tree belongs.
enum Place {
    /// It becomes this in a folder.
    Named(OwnedFd, Vec<u8>),
    /// It is this folder.
    Folder(OwnedFd),
    /// It is there.
    Taken,
}

/// A folder of the tree that may still get entries.
struct Level {
    path: Vec<u8>,
    folder: OwnedFd,
    /// What it gets when it is complete; a folder that was there keeps what it has.
    finish: Option<(u32, u64)>,
}

/// A file on its way into place.
struct Draft {
    folder: OwnedFd,
    name: Vec<u8>,
    temporary: Option<String>,
    file: OwnedFd,
    entry: Entry,
}

impl Unpacking {
    /// Find where the tree belongs: at `path`, or under `name` in the folder that is there.
    pub fn begin(id: u32, path: Vec<u8>, name: Option<Vec<u8>>, parents: bool) -> Result<Unpacking, Refusal> {
        let (path, place) = match (paths::open_folder(CWD, &path), name) {
            (Ok(folder), Some(name)) => {
                let trimmed = paths::trim(&path);
                let between: &[u8] = if trimmed == b"/" { b"" } else { b"/" };
                ([trimmed, between, &name].concat(), Place::Named(folder, name))
            }
            (Ok(folder), None) => (path, Place::Folder(folder)),
            (Err(_), _) => {
                let target = paths::resolve("copy to", &path, parents)?;
                (path, Place::Named(target.folder, target.name))
            }
        };
        Ok(Unpacking { id, path, place, levels: Vec::new(), file: None, entries: 0, size: 0 })
    }

    pub fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        let mut taken = 0;
        for _ in 0..RECORDS {
            let Some(input) = streams.input(id) else {
                return Step::Waiting;
            };
            if input.finished() {
                return match self.finish() {
                    Ok(()) => Step::Done(message::unpacked(&self.path, self.entries, self.size)),
                    Err(refusal) => Step::Failed(refusal),
                };
            }
            match self.take(input) {
                Ok(0) if input.ended() => return Step::Failed(broken("it ends inside a record")),
                Ok(0) => {
                    streams.consumed(id);
                    return Step::Waiting;
                }
                Ok(count) => taken += count,
                Err(refusal) => return Step::Failed(refusal),
            }
            if taken >= STEP_BYTES {
                break;
            }
        }
        streams.consumed(id);
        Step::More
    }

    /// Take the next record if it has come whole; return how many bytes it had.
    fn take(&mut self, input: &mut Incoming) -> Result<usize, Refusal> {
        let Some(start) = input.ring.copy::<HEAD>() else {
            return Ok(0);
        };
        let bad = |_| broken("a record of it is none");
        let (kind, length) = tree::head(start).map_err(bad)?;
        if input.ring.len() < HEAD + length {
            return Ok(0);
        }
        let (first, second) = input.ring.slices(HEAD, length);
        let joined;
        let payload = if second.is_empty() {
            first
        } else {
            joined = [first, second].concat();
            &joined
        };
        match tree::record(kind, payload).map_err(bad)? {
            Record::Entry(entry) => self.begin_entry(entry)?,
            Record::Content(_) => self.write(payload)?,
            Record::Done => self.commit()?,
        }
        input.consume(HEAD + length);
        Ok(HEAD + length)
    }

    fn begin_entry(&mut self, entry: Entry) -> Result<(), Refusal> {
        if self.file.is_some() {
            return Err(broken("a file in it has no end"));
        }
        self.entries += 1;
        let path = entry.path.clone();
        self.make(entry).map_err(|errno| self.failed(&path, errno))
    }

    fn make(&mut self, entry: Entry) -> Result<(), Errno> {
        let (folder, name) = self.find(&entry)?;
        match entry.kind {
            Kind::Folder => self.make_folder(folder, &name, entry),
            Kind::Link(ref target) => make_link(self.id, &folder, &name, target, entry.modified_ns),
            Kind::File => {
                if name == b"." {
                    return Err(Errno::ISDIR);
                }
                self.file = Some(Draft::begin(self.id, folder, name, entry)?);
                Ok(())
            }
        }
    }

    /// Return the folder in which an entry belongs, after finishing those that are complete, and its name there.
    fn find(&mut self, entry: &Entry) -> Result<(OwnedFd, Vec<u8>), Errno> {
        if entry.path.is_empty() {
            return match std::mem::replace(&mut self.place, Place::Taken) {
                Place::Named(folder, name) => Ok((folder, name)),
                Place::Folder(folder) => Ok((folder, b".".to_vec())),
                Place::Taken => Err(Errno::INVAL),
            };
        }
        let (above, name) = entry.split();
        while self.levels.last().is_some_and(|level| level.path != above) {
            self.leave()?;
        }
        let level = self.levels.last().ok_or(Errno::INVAL)?;
        Ok((rustix::io::fcntl_dupfd_cloexec(&level.folder, 0)?, name.to_vec()))
    }

    fn make_folder(&mut self, above: OwnedFd, name: &[u8], entry: Entry) -> Result<(), Errno> {
        if self.levels.len() >= DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let made = name != b"." && make_new_folder(&above, name)?;
        let folder = open_below(&above, name)?;
        let finish = made.then_some((entry.mode, entry.modified_ns));
        self.levels.push(Level { path: entry.path, folder, finish });
        Ok(())
    }

    fn write(&mut self, mut content: &[u8]) -> Result<(), Refusal> {
        let Some(draft) = &self.file else {
            return Err(broken("content in it belongs to no file"));
        };
        self.size += content.len() as u64;
        while !content.is_empty() {
            match rustix::io::write(&draft.file, content) {
                Ok(count) => content = &content[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(&draft.entry.path, errno)),
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Refusal> {
        let Some(mut draft) = self.file.take() else {
            return Err(broken("an end in it belongs to no file"));
        };
        draft.commit().map_err(|errno| self.failed(&draft.entry.path, errno))
    }

    fn leave(&mut self) -> Result<(), Errno> {
        if let Some(level) = self.levels.pop()
            && let Some((mode, modified_ns)) = level.finish
        {
            rustix::fs::fchmod(&level.folder, Mode::from_raw_mode(mode))?;
            rustix::fs::futimens(&level.folder, &times(modified_ns))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        if self.file.is_some() || self.entries == 0 {
            return Err(broken("it ends too early"));
        }
        while !self.levels.is_empty() {
            self.leave().map_err(|errno| self.failed(b"", errno))?;
        }
        Ok(())
    }

    fn failed(&self, entry: &[u8], errno: Errno) -> Refusal {
        let between: &[u8] = if entry.is_empty() { b"" } else { b"/" };
        let path = [&self.path, between, entry].concat();
        match errno {
            Errno::LOOP => refused("not_directory", "copy to", &path, "a link is in the way"),
            errno => refusal("copy to", &path, errno),
        }
    }
}

impl Draft {
    fn begin(id: u32, folder: OwnedFd, name: Vec<u8>, entry: Entry) -> Result<Draft, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temporary, file) =
            with_new_name(id, |name| rustix::fs::openat(&folder, name, flags, Mode::RUSR | Mode::WUSR))?;
        Ok(Draft { folder, name, temporary: Some(temporary), file, entry })
    }

    fn commit(&mut self) -> Result<(), Errno> {
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(self.entry.mode))?;
        rustix::fs::futimens(&self.file, &times(self.entry.modified_ns))?;
        if let Some(temporary) = &self.temporary {
            rustix::fs::renameat(&self.folder, temporary, &self.folder, &*self.name)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Draft {
    /// A file that was not finished goes.
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.folder, temporary, AtFlags::empty());
        }
    }
}

/// Make a folder; false if something is there.
fn make_new_folder(above: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::mkdirat(above, name, Mode::RWXU) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Open a folder in a folder, and never what a link in its place leads to.
fn open_below(above: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat2(above, name, flags, Mode::empty(), resolve)
}

fn make_link(id: u32, folder: &OwnedFd, name: &[u8], target: &[u8], modified_ns: u64) -> Result<(), Errno> {
    let (temporary, ()) = with_new_name(id, |name| rustix::fs::symlinkat(target, folder, name))?;
    let itself = AtFlags::SYMLINK_NOFOLLOW;
    // Not every file system keeps the time of a link, and nobody depends on it.
    let _ = rustix::fs::utimensat(folder, &temporary, &times(modified_ns), itself);
    rustix::fs::renameat(folder, &temporary, folder, name).inspect_err(|_| {
        let _ = rustix::fs::unlinkat(folder, &temporary, AtFlags::empty());
    })
}

/// Make something under a name that nothing has yet.
fn with_new_name<T>(id: u32, make: impl Fn(&str) -> Result<T, Errno>) -> Result<(String, T), Errno> {
    for attempt in 0..TEMPORARY_NAMES {
        let name = format!(".skerry-{id}-{attempt}");
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

fn times(modified_ns: u64) -> Timestamps {
    let modified = Timespec {
        tv_sec: (modified_ns / 1_000_000_000) as i64,
        tv_nsec: (modified_ns % 1_000_000_000) as _,
    };
    Timestamps { last_access: modified, last_modification: modified }
}

fn broken(how: &str) -> Refusal {
    Refusal::new("invalid_argument", format!("this is no tree: {how}"))
}
