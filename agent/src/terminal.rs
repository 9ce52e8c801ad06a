//! A terminal for one process: our end of it, the process's end, its size, and the end of file that is typed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};

use crate::open::Size;
use crate::users::Identity;

/// The device number of the multiplexer, of which each opening is a new terminal.
const MULTIPLEXER: (u32, u32) = (5, 2);
/// Only the process's user may open it again, as programs do that ask for a password.
const MODE: u32 = 0o600;

/// Return a new terminal as (our end, the process's end). It becomes nobody's controlling terminal yet.
pub fn open(size: Size, identity: &Identity) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let ours = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&ours)?;
    let genuine = stat.st_rdev == rustix::fs::makedev(MULTIPLEXER.0, MULTIPLEXER.1);
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || !genuine {
        return Err(Errno::NODEV);
    }
    rustix::pty::unlockpt(&ours)?;
    // By our end and not by its name, which may lead elsewhere.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let its = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::fs::fchown(&its, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(&its, Mode::from_raw_mode(MODE))?;
    resize(&ours, size)?;
    Ok((ours, its))
}

/// Set the size; the foreground process group gets SIGWINCH if it is another one than before.
pub fn resize(terminal: impl AsFd, size: Size) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Return what has to be typed so that a reader meets the end of file. In the middle of a line the first one only
/// sends what stands there. Who reads single keys, as shells do at their prompt, gets it as a key.
pub fn end_of_file(terminal: impl AsFd, mid_line: bool) -> Vec<u8> {
    let Ok(modes) = rustix::termios::tcgetattr(terminal) else { return Vec::new() };
    let by_line = modes.local_modes.contains(LocalModes::ICANON);
    match modes.special_codes[SpecialCodeIndex::VEOF] {
        0 => Vec::new(), // _POSIX_VDISABLE: there is none
        key => vec![key; 1 + usize::from(mid_line && by_line)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Option<(OwnedFd, OwnedFd)> {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let identity = Identity { uid: user, gid: group, groups: vec![], name: "x".into(), home: "/".into() };
        match open(Size { rows: 30, columns: 100 }, &identity) {
            Ok(pair) => Some(pair),
            Err(errno) => {
                println!("skipped: this machine gives no terminal ({errno})");
                None
            }
        }
    }

    #[test]
    fn a_terminal_has_the_size_that_was_asked_for_and_takes_another() {
        let Some((ours, its)) = pair() else { return };
        let size = |fd: &OwnedFd| rustix::termios::tcgetwinsize(fd).map(|size| (size.ws_row, size.ws_col));
        assert_eq!(size(&its), Ok((30, 100)));
        resize(&ours, Size { rows: u16::MAX, columns: 1 }).expect("a size");
        assert_eq!(size(&its), Ok((u16::MAX, 1)));
    }

    #[test]
    fn the_end_of_file_is_typed_twice_in_the_middle_of_a_line_and_once_where_keys_are_read() {
        let Some((ours, its)) = pair() else { return };
        assert_eq!(end_of_file(&ours, false), [4]);
        assert_eq!(end_of_file(&ours, true), [4, 4]);
        let mut modes = rustix::termios::tcgetattr(&its).expect("its modes");
        modes.make_raw();
        rustix::termios::tcsetattr(&its, rustix::termios::OptionalActions::Now, &modes).expect("raw mode");
        assert_eq!(end_of_file(&ours, true), [4]);
    }
}
