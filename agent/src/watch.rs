//! Watching a path: what inotify tells of it, as records on channel 1.
//!
//! What waits is bounded whatever happens in the watched tree: inotify is always emptied, and a change for which
//! there is no room is dropped and told as `overflow`.

use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::changes::{Change, Kind, Kinds, Moves};
use crate::files::Step;
use crate::message::{self, Refusal};
use crate::paths::{self, refusal};
use crate::streams::Streams;

/// Folders that one watch may have.
const FOLDERS: usize = 8_192;
/// Bytes of all their paths.
const PATHS_BYTES: usize = 4 << 20;
/// Bytes of records that wait for the host.
const WAITING_BYTES: usize = 256 << 10;
/// Changes that one step takes, and names that one step looks at for folders.
const CHANGES: usize = 256;
const NAMES: usize = 256;
const BUFFER: usize = 16 << 10;

pub struct Watching {
    inotify: OwnedFd,
    /// What is watched, after all links.
    root: Vec<u8>,
    is_folder: bool,
    recursive: bool,
    wanted: Kinds,
    deadline: Option<Instant>,
    root_watch: i32,
    /// Watched folders and, for one file, that file.
    watched: BTreeMap<i32, Vec<u8>>,
    paths_bytes: usize,
    /// Folders whose own folders are not watched yet; only the first is open.
    unseen: VecDeque<Unseen>,
    moves: Moves,
    /// Everything is watched that was there at the start, and the host knows.
    started: bool,
    overflowed: bool,
}

/// A folder to be looked through. What is in one that has come lately is told, since it came before it was watched.
struct Unseen {
    path: Vec<u8>,
    entries: Option<Dir>,
    lately: bool,
}

impl Watching {
    pub fn begin(
        path: &[u8],
        recursive: bool,
        wanted: Kinds,
        timeout: Option<Duration>,
    ) -> Result<Watching, Refusal> {
        let failed = |errno| refusal("watch", path, errno);
        let target = paths::open(CWD, path, OFlags::PATH, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&target).map_err(failed)?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let here = format!("/proc/self/fd/{}", target.as_raw_fd());
        let root = rustix::fs::readlink(&here, Vec::new()).map_err(failed)?.into_bytes();
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let mut watching = Watching {
            inotify,
            root,
            is_folder,
            recursive: recursive && is_folder,
            wanted,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            root_watch: 0,
            watched: BTreeMap::new(),
            paths_bytes: 0,
            unseen: VecDeque::new(),
            moves: Moves::default(),
            started: false,
            overflowed: false,
        };
        watching.root_watch =
            inotify::add_watch(&watching.inotify, &here, watching.flags()).map_err(failed)?;
        watching.remember(watching.root_watch, watching.root.clone());
        if watching.recursive {
            watching.unseen.push_back(Unseen::new(watching.root.clone(), false));
        }
        Ok(watching)
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.inotify
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn step(&mut self, streams: &mut Streams, id: u32) -> Step {
        let over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let drained = match self.take_changes(streams, id) {
            Ok(drained) => drained,
            Err(errno) => return Step::Failed(refusal("watch", &self.root, errno)),
        };
        if let Err(refusal) = self.look_around(streams, id) {
            return Step::Failed(refusal);
        }
        if !self.started && (self.unseen.is_empty() || over) {
            self.started = true;
            streams.started(id, None, &message::started(None));
        }
        if over {
            streams.close_output(id, 1);
            return Step::Done(message::done());
        }
        self.tell_overflow(streams, id);
        if drained && self.unseen.is_empty() && self.moves.is_empty() { Step::Waiting } else { Step::More }
    }

    // Changes

    /// Take what inotify has; tell whether that was all.
    fn take_changes(&mut self, streams: &mut Streams, id: u32) -> Result<bool, Errno> {
        let mut taken = Vec::with_capacity(CHANGES);
        let mut space = [MaybeUninit::uninit(); BUFFER];
        let mut drained = false;
        let mut reader = Reader::new(&self.inotify, &mut space);
        // What the reader has read it must hand out, or it would be lost.
        while taken.len() < CHANGES || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => taken.push(Taken {
                    watch: event.wd(),
                    what: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| name.to_bytes().to_vec()),
                }),
                Err(Errno::AGAIN) => {
                    drained = true;
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let quiet = taken.is_empty();
        for event in taken {
            self.take(streams, id, event);
        }
        if quiet && let Some(change) = self.moves.give_up() {
            self.follow_folder(&change, false);
            self.tell(streams, id, &change);
        }
        Ok(drained)
    }

    fn take(&mut self, streams: &mut Streams, id: u32, event: Taken) {
        if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflowed = true;
            self.look_again();
            return;
        }
        if event.what.contains(ReadFlags::IGNORED) {
            self.forget(event.watch);
            return;
        }
        let Some(folder) = self.watched.get(&event.watch) else {
            return;
        };
        let path = match &event.name {
            Some(name) => join(folder, name),
            None if self.concerns_root(&event) => folder.clone(),
            None => return,
        };
        let arrived = event.what.contains(ReadFlags::MOVED_TO);
        for change in self.moves.judge(event.what, event.cookie, path) {
            self.follow_folder(&change, arrived);
            self.tell(streams, id, &change);
        }
    }

    /// Tell whether a change without a name is one of what is watched: of folders below, the folder above tells.
    fn concerns_root(&self, event: &Taken) -> bool {
        let own = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
        event.watch == self.root_watch && (!self.is_folder || event.what.intersects(own))
    }

    /// Watch what has come, and call what was moved by its new name; `arrived` where a move ends here.
    fn follow_folder(&mut self, change: &Change, arrived: bool) {
        if !self.recursive || !change.of_folder {
            return;
        }
        match (change.kind, &change.paths[..]) {
            (Kind::Move, [from, to]) => self.follow(from, to),
            (Kind::Move, [path]) if !arrived => self.leave(path),
            (Kind::Create | Kind::Move, [path]) => {
                self.overflowed |= !self.see_later(Unseen::new(path.clone(), true));
            }
            _ => {}
        }
    }

    fn tell(&mut self, streams: &mut Streams, id: u32, change: &Change) {
        if !self.started || !self.wanted.has(change.kind) {
            return;
        }
        if self.overflowed || !say(streams, id, change) {
            self.overflowed = true;
        }
    }

    /// Say that changes were lost, once there is room again.
    fn tell_overflow(&mut self, streams: &mut Streams, id: u32) {
        if !self.started || !self.overflowed {
            return;
        }
        let waiting = streams.outgoing(id, 1).map_or(0, |output| output.ring.len());
        let change = Change::of(Kind::Overflow, self.root.clone(), true);
        if waiting < WAITING_BYTES / 2 && say(streams, id, &change) {
            self.overflowed = false;
        }
    }

    // Folders

    /// Look for folders in those that are not seen yet, a bounded number of names at a time.
    fn look_around(&mut self, streams: &mut Streams, id: u32) -> Result<(), Refusal> {
        for _ in 0..NAMES {
            let Some(unseen) = self.unseen.front_mut() else {
                return Ok(());
            };
            if unseen.entries.is_none() && !self.enter()? {
                self.unseen.pop_front();
                continue;
            }
            let Some(unseen) = self.unseen.front_mut() else {
                return Ok(());
            };
            let Some((name, is_folder)) = unseen.next() else {
                self.unseen.pop_front();
                continue;
            };
            let (path, lately) = (join(&unseen.path, &name), unseen.lately);
            if lately {
                self.tell(streams, id, &Change::of(Kind::Create, path.clone(), is_folder));
            }
            if is_folder && !self.see_later(Unseen::new(path, lately)) {
                self.too_many()?;
            }
        }
        Ok(())
    }

    /// Look into a folder when its turn comes; false if too many wait for theirs.
    fn see_later(&mut self, unseen: Unseen) -> bool {
        let room = self.unseen.len() < FOLDERS;
        if room {
            self.unseen.push_back(unseen);
        }
        room
    }

    /// Watch the folder that is seen next, before its names are read; false if it is gone, or no folder any more.
    fn enter(&mut self) -> Result<bool, Refusal> {
        let Some(unseen) = self.unseen.front() else {
            return Ok(false);
        };
        let path = unseen.path.clone();
        // No link may have taken its place: what a link leads to is not in the watched tree.
        let Ok(folder) = paths::open_without_links(&path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Ok(false);
        };
        let here = format!("/proc/self/fd/{}", folder.as_raw_fd());
        if path != self.root {
            if !self.has_room(&path) {
                return self.too_many();
            }
            match inotify::add_watch(&self.inotify, &here, self.flags()) {
                Ok(watch) => self.remember(watch, path),
                Err(Errno::NOSPC | Errno::NOMEM | Errno::MFILE) => return self.too_many(),
                Err(_) => return Ok(false),
            }
        }
        let entries = Dir::new(folder).ok();
        let entered = entries.is_some();
        if let Some(unseen) = self.unseen.front_mut() {
            unseen.entries = entries;
        }
        Ok(entered)
    }

    /// At the start nothing has begun yet and can be refused; later the host is told that it misses something.
    fn too_many(&mut self) -> Result<bool, Refusal> {
        if self.started {
            self.overflowed = true;
            return Ok(false);
        }
        let cause = format!("more than {FOLDERS} folders; watch a part of it");
        Err(paths::refused("resource_exhausted", "watch", &self.root, cause))
    }

    fn has_room(&self, path: &[u8]) -> bool {
        self.watched.len() < FOLDERS && self.paths_bytes + path.len() <= PATHS_BYTES
    }

    fn remember(&mut self, watch: i32, path: Vec<u8>) {
        self.paths_bytes += path.len();
        if let Some(old) = self.watched.insert(watch, path) {
            self.paths_bytes -= old.len();
        }
    }

    fn forget(&mut self, watch: i32) {
        if let Some(path) = self.watched.remove(&watch) {
            self.paths_bytes -= path.len();
        }
    }

    /// A folder was moved within what is watched.
    fn follow(&mut self, from: &[u8], to: &[u8]) {
        let mut paths: Vec<&mut Vec<u8>> = self.watched.values_mut().collect();
        paths.extend(self.unseen.iter_mut().map(|unseen| &mut unseen.path));
        for path in paths.into_iter().filter(|path| is_inside(path, from)) {
            *path = [to, &path[from.len()..]].concat();
        }
        self.paths_bytes = self.watched.values().map(Vec::len).sum();
        // Longer names may take more than was allowed; then those are let go of that have them.
        if self.paths_bytes > PATHS_BYTES {
            self.overflowed = true;
            self.leave(to);
        }
    }

    /// Stop watching a folder that was moved away, and all below it.
    fn leave(&mut self, path: &[u8]) {
        let inside = |(_, folder): &(&i32, &Vec<u8>)| is_inside(folder, path);
        let left: Vec<i32> = self.watched.iter().filter(inside).map(|(watch, _)| *watch).collect();
        for watch in left {
            let _ = inotify::remove_watch(&self.inotify, watch);
            self.forget(watch);
        }
        self.unseen.retain(|unseen| !is_inside(&unseen.path, path));
    }

    /// Changes were lost, and with them perhaps new folders.
    fn look_again(&mut self) {
        if self.recursive && self.unseen.is_empty() {
            self.unseen.push_back(Unseen::new(self.root.clone(), false));
        }
    }

    fn flags(&self) -> WatchFlags {
        let mut flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
        flags |= WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        if self.wanted.has(Kind::Modify) {
            flags |= WatchFlags::MODIFY | WatchFlags::ATTRIB;
        }
        if self.wanted.has(Kind::Access) {
            flags |= WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::CLOSE_WRITE;
        }
        flags
    }
}

/// One of inotify's events.
struct Taken {
    watch: i32,
    what: ReadFlags,
    cookie: u32,
    name: Option<Vec<u8>>,
}

impl Unseen {
    fn new(path: Vec<u8>, lately: bool) -> Unseen {
        Unseen { path, entries: None, lately }
    }

    /// Return the next name in the folder, and whether it is a folder's.
    fn next(&mut self) -> Option<(Vec<u8>, bool)> {
        let entries = self.entries.as_mut()?;
        while let Some(Ok(found)) = entries.read() {
            let name = found.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                return Some((name.to_vec(), is_folder(entries.fd().ok()?, &found)));
            }
        }
        None
    }
}

fn is_folder(folder: BorrowedFd, entry: &rustix::fs::DirEntry) -> bool {
    match entry.file_type() {
        FileType::Unknown => {
            rustix::fs::statat(folder, entry.file_name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        }
        kind => kind == FileType::Directory,
    }
}

fn is_inside(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let between: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
    [folder, between, name].concat()
}

/// Put a change on channel 1; false if there is no room for it.
fn say(streams: &mut Streams, id: u32, change: &Change) -> bool {
    let record = message::listed(&message::change(change.kind.word(), &change.paths));
    let Some(output) = streams.outgoing(id, 1) else {
        return true;
    };
    if output.ring.len() + record.len() > WAITING_BYTES {
        return false;
    }
    output.ring.append(&record);
    streams.produced(id, 1);
    true
}
