//! Removing a tree: without following links, without recursion, in bounded steps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::files::Step;
use crate::message::{self, Refusal};
use crate::paths::{self, refusal};

/// Entries that one step removes.
const ENTRIES: usize = 128;
/// Folders inside folders that we go into.
const DEPTH_LIMIT: usize = 4_096;
/// Folders that are kept open at once; those further up are opened again on the way back.
const OPEN_LIMIT: usize = 32;

pub struct Removal {
    path: Vec<u8>,
    /// The folder that holds the tree.
    above: OwnedFd,
    levels: Vec<Level>,
}

/// A folder on the way from the tree's root to where we are.
struct Level {
    name: Vec<u8>,
    identity: (u64, u64),
    folder: Option<Dir>,
}

impl Removal {
    /// Remove what is no folder, or an empty one, at once; return what takes more steps.
    pub fn begin(path: Vec<u8>, recursive: bool) -> Result<Option<Removal>, Refusal> {
        let failed = |errno| refusal("remove", &path, errno);
        let (folder, name) = paths::split(paths::trim(&path)).ok_or_else(|| failed(Errno::INVAL))?;
        let above = paths::open_folder(CWD, folder).map_err(failed)?;
        let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_folder && recursive {
            let level = Level::open(above.as_fd(), name).map_err(failed)?;
            return Ok(Some(Removal { above, levels: vec![level], path }));
        }
        let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&above, name, flags).map_err(failed)?;
        Ok(None)
    }

    pub fn step(&mut self) -> Step {
        for _ in 0..ENTRIES {
            let advanced = match self.levels.last_mut() {
                None => return Step::Done(message::done()),
                Some(level) => match level.next() {
                    Ok(Some(name)) => self.remove_entry(name),
                    Ok(None) => self.leave(),
                    Err(errno) => Err(errno),
                },
            };
            if let Err(errno) = advanced {
                return Step::Failed(refusal("remove", &self.path, errno));
            }
        }
        Step::More
    }

    /// Remove an entry of the folder where we are, or go into it.
    fn remove_entry(&mut self, name: Vec<u8>) -> Result<(), Errno> {
        let here = self.here()?;
        match rustix::fs::unlinkat(here, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Linux says EISDIR; POSIX allows EPERM, and some file systems use it.
            Err(Errno::ISDIR | Errno::PERM) => {
                let level = Level::open(here, &name).map_err(|errno| match errno {
                    Errno::NOTDIR => Errno::PERM,
                    errno => errno,
                })?;
                self.enter(level)
            }
            Err(errno) => Err(errno),
        }
    }

    fn enter(&mut self, level: Level) -> Result<(), Errno> {
        if self.levels.len() >= DEPTH_LIMIT {
            return Err(Errno::FBIG);
        }
        self.levels.push(level);
        if let Some(far) = self.levels.len().checked_sub(OPEN_LIMIT + 1) {
            self.levels[far].folder = None;
        }
        Ok(())
    }

    /// Go back up and remove the folder that is empty now.
    fn leave(&mut self) -> Result<(), Errno> {
        let Some(left) = self.levels.pop() else {
            return Ok(());
        };
        if let Some(level) = self.levels.last_mut()
            && level.folder.is_none()
        {
            let back = left.folder.as_ref().ok_or(Errno::BADF)?.fd()?;
            level.reopen(back)?;
        }
        match rustix::fs::unlinkat(self.here()?, &*left.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Return the folder where we are: the deepest level, or what holds the tree.
    fn here(&self) -> Result<BorrowedFd<'_>, Errno> {
        match self.levels.last() {
            Some(level) => level.folder.as_ref().ok_or(Errno::BADF)?.fd(),
            None => Ok(self.above.as_fd()),
        }
    }
}

impl Level {
    fn open(above: BorrowedFd, name: &[u8]) -> Result<Level, Errno> {
        let (folder, stat) = open_folder(above, name)?;
        Ok(Level { name: name.to_vec(), identity: identity(&stat), folder: Some(folder) })
    }

    /// Open this level again from a folder in it, unless somebody has moved that one elsewhere.
    fn reopen(&mut self, inside: BorrowedFd) -> Result<(), Errno> {
        let (folder, stat) = open_folder(inside, b"..")?;
        if identity(&stat) != self.identity {
            return Err(Errno::BUSY);
        }
        self.folder = Some(folder);
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        let folder = self.folder.as_mut().ok_or(Errno::BADF)?;
        while let Some(found) = folder.read() {
            let found = found?;
            let name = found.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                return Ok(Some(name.to_vec()));
            }
        }
        Ok(None)
    }
}

fn open_folder(above: BorrowedFd, name: &[u8]) -> Result<(Dir, Stat), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(above, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    Ok((Dir::new(fd)?, stat))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    fn remove(path: &Path) -> Result<(), Refusal> {
        let Some(mut removal) = Removal::begin(path.as_os_str().as_bytes().to_vec(), true)? else {
            return Ok(());
        };
        loop {
            match removal.step() {
                Step::More => {}
                Step::Done(_) => return Ok(()),
                Step::Failed(refusal) => return Err(refusal),
                Step::Waiting => unreachable!("a removal waits for nobody"),
            }
        }
    }

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let base = std::env::temp_dir().join(format!("skerry-removal-{}", std::process::id()));
        let tree = base.join("tree");
        let mut deep = tree.clone();
        for depth in 0..100 {
            deep.push(format!("d{depth}"));
        }
        std::fs::create_dir_all(&deep).expect("a deep tree");
        std::fs::create_dir_all(base.join("kept")).expect("a folder outside");
        std::fs::write(base.join("kept/file"), "x").expect("a file outside");
        for width in 0..300 {
            std::fs::write(tree.join(format!("f{width}")), "x").expect("a file");
        }
        std::os::unix::fs::symlink(base.join("kept"), deep.join("link")).expect("a link");
        remove(&tree).expect("the tree is ours");
        assert!(!tree.exists() && base.join("kept/file").exists());
        assert_eq!(remove(&tree).expect_err("it is gone").code, "not_found");
        std::fs::remove_dir_all(&base).expect("clean up");
    }
}
