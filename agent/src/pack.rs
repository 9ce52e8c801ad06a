//! Telling a tree as one stream, without following links and without recursion, in bounded steps.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::files::Step;
use crate::message::{self, Refusal};
use crate::paths::{self, refusal};
use crate::streams::Streams;
use crate::tree::{self, CONTENT_BYTES, DEPTH, Entry, Kind};

/// Entries that one step tells.
const ENTRIES: usize = 64;
/// Bytes of content that one step reads.
const STEP_BYTES: usize = 256 << 10;
/// Room in the ring below which nothing more is put into it: for any record but one of content.
const ROOM: usize = 80 << 10;

pub struct Packing {
    path: Vec<u8>,
    /// The root, until it is told.
    root: Option<(OwnedFd, Stat)>,
    levels: Vec<Level>,
    file: Option<File>,
    buffer: Vec<u8>,
}

/// A folder on the way from the root to where we are.
struct Level {
    path: Vec<u8>,
    folder: Dir,
}

/// A file whose content is being told: as much as it had when it was opened, so that one that grows has an end.
struct File {
    path: Vec<u8>,
    file: OwnedFd,
    left: u64,
}

impl Packing {
    /// Open what `path` leads to, and return its size too.
    pub fn begin(path: Vec<u8>) -> Result<(Packing, u64), Refusal> {
        let failed = |errno| refusal("copy", &path, errno);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let root = paths::open(CWD, &path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            paths::check_regular("copy", &path, &stat)?;
        }
        let size = stat.st_size.max(0) as u64;
        let root = Some((root, stat));
        Ok((Packing { path, root, levels: Vec::new(), file: None, buffer: Vec::new() }, size))
    }

    pub fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        let mut read = 0;
        for _ in 0..ENTRIES {
            let Some(output) = streams.outgoing(id, 1) else {
                return Step::Waiting;
            };
            let room = output.ring.room();
            if room < ROOM {
                return Step::Waiting;
            }
            let told = match self.next(room) {
                Ok(Some(told)) => told,
                Ok(None) => {
                    streams.close_output(id, 1);
                    return Step::Done(message::done());
                }
                Err(errno) => return Step::Failed(refusal("copy", &self.path, errno)),
            };
            output.ring.append(&told);
            output.ring.append(&self.buffer);
            read += self.buffer.len();
            self.buffer.clear();
            streams.produced(id, 1);
            if read >= STEP_BYTES {
                break;
            }
        }
        Step::More
    }

    /// Return what is to be said next, which content in the buffer may follow.
    fn next(&mut self, room: usize) -> Result<Option<Vec<u8>>, Errno> {
        if let Some((root, stat)) = self.root.take() {
            return self.enter(root, &stat, Vec::new()).map(Some);
        }
        if self.file.is_some() {
            return Ok(Some(self.go_on(room)));
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.next() else {
                self.levels.pop();
                continue;
            };
            let path =
                if level.path.is_empty() { name.clone() } else { [&level.path, &b"/"[..], &name].concat() };
            match self.tell(&name, path.clone()) {
                Ok(told) => return Ok(Some(told)),
                // It went away in between.
                Err(Errno::NOENT) => {}
                Err(errno) => return Ok(Some(skipped(&path, errno))),
            }
        }
        Ok(None)
    }

    /// Say what lies under a name in the folder where we are.
    fn tell(&mut self, name: &[u8], path: Vec<u8>) -> Result<Vec<u8>, Errno> {
        let level = self.levels.last().ok_or(Errno::BADF)?;
        let here = level.folder.fd()?;
        let stat = rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let reason = match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(here, name, Vec::new())?.into_bytes();
                return Ok(tree::pack_entry(&entry(path, Kind::Link(target), &stat)));
            }
            FileType::Directory if self.levels.len() >= DEPTH => "it lies deeper than 128 folders",
            FileType::Directory | FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
                let found = paths::open(here, name, flags, Mode::empty())?;
                let stat = rustix::fs::fstat(&found)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory | FileType::RegularFile => return self.enter(found, &stat, path),
                    _ => "something else has taken its place",
                }
            }
            FileType::Fifo => "it is a pipe",
            FileType::Socket => "it is a socket",
            _ => "it is a device",
        };
        Ok(tree::pack_skipped(&path, reason))
    }

    /// Say what is known of a file or a folder; its content or its entries come next.
    fn enter(&mut self, found: OwnedFd, stat: &Stat, path: Vec<u8>) -> Result<Vec<u8>, Errno> {
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.levels.push(Level { path: path.clone(), folder: Dir::new(found)? });
            return Ok(tree::pack_entry(&entry(path, Kind::Folder, stat)));
        }
        let left = stat.st_size.max(0) as u64;
        self.file = Some(File { path: path.clone(), file: found, left });
        Ok(tree::pack_entry(&entry(path, Kind::File, stat)))
    }

    /// Say the next of a file's content, or that it is whole.
    fn go_on(&mut self, room: usize) -> Vec<u8> {
        let Some(file) = &mut self.file else {
            return Vec::new();
        };
        let most = (room - tree::HEAD).min(CONTENT_BYTES) as u64;
        self.buffer.resize(file.left.min(most) as usize, 0);
        let said = match read(&file.file, &mut self.buffer) {
            Ok(0) => tree::pack_done(),
            Ok(count) => {
                self.buffer.truncate(count);
                file.left -= count as u64;
                return tree::pack_content(count).to_vec();
            }
            Err(errno) => skipped(&file.path, errno),
        };
        self.buffer.clear();
        self.file = None;
        said
    }
}

impl Level {
    fn next(&mut self) -> Option<Vec<u8>> {
        while let Some(Ok(found)) = self.folder.read() {
            let name = found.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                return Some(name.to_vec());
            }
        }
        None
    }
}

fn read(file: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    if buffer.is_empty() {
        return Ok(0);
    }
    loop {
        match rustix::io::read(file.as_fd(), &mut *buffer) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn skipped(path: &[u8], errno: Errno) -> Vec<u8> {
    tree::pack_skipped(path, &std::io::Error::from(errno).to_string())
}

fn entry(path: Vec<u8>, kind: Kind, stat: &Stat) -> Entry {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0).min(u32::MAX.into());
    Entry {
        path,
        kind,
        mode: stat.st_mode & tree::MODE,
        modified_ns: seconds * 1_000_000_000 + stat.st_mtime_nsec,
        size: stat.st_size.max(0) as u64,
    }
}
