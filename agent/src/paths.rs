//! Single file operations: what a path leads to, making folders, and the words for what goes wrong.

use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::message::{self, Entry, Refusal};
use crate::users::{Accounts, Names};

/// Links that one path may lead through, as in the kernel.
const LINK_LIMIT: usize = 40;
const UMASK: u32 = 0o022;

/// Return the refusal for a failed step on `path`; control characters in the path are escaped.
pub fn refusal(step: &str, path: &[u8], errno: Errno) -> Refusal {
    let code = match errno {
        Errno::NOENT => "not_found",
        Errno::ISDIR => "is_directory",
        Errno::NOTDIR => "not_directory",
        Errno::EXIST => "already_exists",
        Errno::NOTEMPTY => "not_empty",
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::BUSY => "permission_denied",
        Errno::NOSPC | Errno::DQUOT => "no_space",
        Errno::FBIG => "too_large",
        Errno::NXIO | Errno::NODEV => "not_regular",
        Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL => "invalid_argument",
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => "resource_exhausted",
        _ => "io",
    };
    refused(code, step, path, std::io::Error::from(errno))
}

pub fn refused(code: &'static str, step: &str, path: &[u8], cause: impl Display) -> Refusal {
    Refusal::new(code, format!("cannot {step} {:?}: {cause}", String::from_utf8_lossy(path)))
}

/// Open a path of the sandbox, unless a link of procfs is on the way. Such a link leads past names: to a pipe or a
/// deleted file, or into the mounts of another process, where a file system may answer never, and PID 1 with it.
pub fn open(base: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::NO_MAGICLINKS)
}

/// Open an absolute path on which there is no link at all.
pub fn open_without_links(path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)
}

/// Open a regular file; what is no regular file is refused without waiting for anybody at its other end.
pub fn open_regular(step: &str, path: &[u8], flags: OFlags, mode: Mode) -> Result<(OwnedFd, Stat), Refusal> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(CWD, path, flags, mode).map_err(|errno| refusal(step, path, errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| refusal(step, path, errno))?;
    check_regular(step, path, &stat)?;
    Ok((file, stat))
}

pub fn check_regular(step: &str, path: &[u8], stat: &Stat) -> Result<(), Refusal> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(refusal(step, path, Errno::ISDIR)),
        _ => Err(refused("not_regular", step, path, "it is no regular file")),
    }
}

/// The folder and the name in it that a path means, after following links; and what is there.
pub struct Target {
    pub folder: OwnedFd,
    pub name: Vec<u8>,
    pub stat: Option<Stat>,
}

/// Return where a new file at `path` belongs, so that replacing it replaces what a link leads to.
pub fn resolve(step: &str, path: &[u8], parents: bool) -> Result<Target, Refusal> {
    let failed = |errno| refusal(step, path, errno);
    let mut base = open_folder(CWD, b"/").map_err(failed)?;
    let mut left = path.to_vec();
    for _ in 0..LINK_LIMIT {
        let (folder, name) = split(&left).ok_or_else(|| failed(Errno::ISDIR))?;
        let folder = match parents {
            true => make_folders(&base, folder),
            false => open_folder(&base, folder),
        };
        let folder = folder.map_err(failed)?;
        let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Target { folder, name: name.to_vec(), stat: None }),
            Err(errno) => return Err(failed(errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(Target { folder, name: name.to_vec(), stat: Some(stat) });
        }
        left = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(failed)?.into_bytes();
        base = folder;
    }
    Err(failed(Errno::LOOP))
}

/// Split a path into its folder and its last name; `None` if it ends in no name.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (folder, name) = match at {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    (!matches!(name, b"" | b"." | b"..")).then_some((folder, name))
}

pub fn open_folder(base: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open(base, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Make the folders of `path` that are missing, and open the last one.
fn make_folders(base: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut folder = open_folder(base, if path.starts_with(b"/") { b"/" } else { b"." })?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let made = rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777));
        folder = match (open_folder(&folder, name), made) {
            // A folder that is there may stand in a place where none can be made.
            (Ok(next), _) => next,
            (Err(errno), Ok(()) | Err(Errno::EXIST)) | (Err(_), Err(errno)) => return Err(errno),
        };
    }
    Ok(folder)
}

pub fn make_folder(path: &[u8], mode: u32, parents: bool) -> Result<(), Refusal> {
    const STEP: &str = "make the directory";
    let failed = |errno| refusal(STEP, path, errno);
    let root = open_folder(CWD, b"/").map_err(failed)?;
    let (folder, name) = split(trim(path)).unwrap_or((path, b"."));
    let folder = match parents {
        true => make_folders(&root, folder),
        false => open_folder(&root, folder),
    };
    let folder = folder.map_err(failed)?;
    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(mode)) {
        Ok(()) if mode & UMASK != 0 || mode > 0o777 => set_mode(&folder, name, mode).map_err(failed),
        Ok(()) => Ok(()),
        Err(Errno::EXIST) if parents && open_folder(&folder, name).is_ok() => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// Give the folder a mode that mkdir could not, unless a link has taken its place meanwhile.
fn set_mode(folder: &OwnedFd, name: &[u8], mode: u32) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::fchmod(open(folder, name, flags, Mode::empty())?, Mode::from_raw_mode(mode))
}

/// Give what is at `path` another name, in place of a file or an empty folder that has it.
pub fn rename(path: &[u8], target: &[u8]) -> Result<(), Refusal> {
    const STEP: &str = "rename";
    let failed = |errno| refusal(STEP, path, errno);
    let (folder, name) = split(trim(path)).ok_or_else(|| failed(Errno::INVAL))?;
    let folder = open_folder(CWD, folder).map_err(failed)?;
    let missed = |errno| refusal("rename to", target, errno);
    let (into, new) = split(trim(target)).ok_or_else(|| missed(Errno::INVAL))?;
    let into = open_folder(CWD, into).map_err(missed)?;
    rustix::fs::renameat(&folder, name, &into, new).map_err(|errno| match errno {
        Errno::NOENT => failed(errno),
        Errno::XDEV => {
            let cause = "the new place is on another file system; copy it there and remove it here";
            refused("failed_precondition", STEP, path, cause)
        }
        errno => missed(errno),
    })
}

/// Return the path without slashes at its end.
pub fn trim(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(1, |at| at + 1);
    &path[..end]
}

/// Return the entry for `path` itself: a link is told as a link.
pub fn stat_entry(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let failed = |errno| refusal("look at", path, errno);
    let trimmed = trim(path);
    // A path that ends in no name, such as `/`, is the folder itself.
    let (folder, name) = split(trimmed).unwrap_or((trimmed, b"."));
    let folder = open_folder(CWD, folder).map_err(failed)?;
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let shown = if name == b"." { trimmed } else { name };
    Ok(entry(folder.as_fd(), name, shown, &stat, &Accounts::read().names()))
}

/// Return the packed entry for what lies at `path` below `folder`.
pub fn entry(folder: impl AsFd, path: &[u8], name: &[u8], stat: &Stat, names: &Names) -> Vec<u8> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let target = match kind {
        FileType::Symlink => rustix::fs::readlinkat(folder, path, Vec::new()).ok(),
        _ => None,
    };
    message::entry(&Entry {
        name,
        kind: match kind {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            _ => "device",
        },
        size: stat.st_size.max(0) as u64,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        owner: &names.user(stat.st_uid),
        group: &names.group(stat.st_gid),
        modified: stat.st_mtime as f64 + stat.st_mtime_nsec as f64 / 1e9,
        target: target.as_ref().map(|target| target.to_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_into_folder_and_name() {
        assert_eq!(split(b"/a/b"), Some((&b"/a"[..], &b"b"[..])));
        assert_eq!(split(b"/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(split(b"a"), Some((&b"."[..], &b"a"[..])));
        for path in [&b"/"[..], b"/a/", b"/a/..", b"/."] {
            assert_eq!(split(path), None);
        }
    }

    #[test]
    fn a_link_of_procfs_leads_nowhere() {
        assert!(open_folder(CWD, b"/proc/self").is_ok());
        for path in [&b"/proc/self/root/etc"[..], b"/proc/self/cwd"] {
            assert_eq!(open_folder(CWD, path).expect_err("a magic link"), Errno::LOOP);
        }
    }

    #[test]
    fn slashes_at_the_end_do_not_count() {
        assert_eq!(trim(b"/a//"), b"/a");
        assert_eq!(trim(b"//"), b"/");
    }

    #[test]
    fn control_characters_of_a_path_do_not_reach_a_message() {
        let refusal = refusal("open", b"/a\x1b[2J\n", Errno::NOENT);
        assert_eq!(refusal.code, "not_found");
        assert!(!refusal.message.contains(['\x1b', '\n']), "{}", refusal.message);
    }
}
