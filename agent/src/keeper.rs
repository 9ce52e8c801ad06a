//! The keeper: the root container of a member. It holds the sandbox and ends it when its lifetime is over.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::channel::set_nonblocking;
use crate::signals::{self, Received};

const LINE_BYTES: usize = 64;
/// What the keeper exits with when the lifetime is over.
const LIFETIME_OVER: u8 = 124;

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Lifetime(Duration),
    Ping,
    Stop,
    Unknown,
}

impl Command {
    fn parse(line: &[u8]) -> Command {
        match line {
            b"ping" => Command::Ping,
            b"stop" => Command::Stop,
            _ => line
                .strip_prefix(b"lifetime ")
                .filter(|digits| digits.iter().all(u8::is_ascii_digit))
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
                .map_or(Command::Unknown, |milliseconds| {
                    Command::Lifetime(Duration::from_millis(milliseconds))
                }),
        }
    }
}

/// Collects lines; one that is too long counts as one unknown command.
struct Lines {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Lines {
    fn new() -> Lines {
        Lines { bytes: [0; LINE_BYTES], length: 0 }
    }

    fn push(&mut self, byte: u8) -> Option<Command> {
        if byte == b'\n' {
            let length = std::mem::take(&mut self.length);
            return Some(self.bytes.get(..length).map_or(Command::Unknown, Command::parse));
        }
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
        }
        self.length = (self.length + 1).min(LINE_BYTES + 1);
        None
    }
}

struct Keeper {
    signals: OwnedFd,
    lines: Lines,
    listening: bool,
    end: Option<Instant>,
    exit: Option<u8>,
}

/// Keep the sandbox; return the code to exit with.
pub fn run() -> Result<u8, Errno> {
    let signals = signals::take()?;
    set_nonblocking(rustix::stdio::stdin())?;
    set_nonblocking(rustix::stdio::stdout())?;
    let mut keeper = Keeper { signals, lines: Lines::new(), listening: true, end: None, exit: None };
    answer("ready\n");
    loop {
        if let Some(code) = keeper.exit {
            return Ok(code);
        }
        keeper.wait()?;
    }
}

impl Keeper {
    fn wait(&mut self) -> Result<(), Errno> {
        let timeout = self.end.map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN),
        ];
        let watched = if self.listening { &mut fds[..] } else { &mut fds[..1] };
        match rustix::event::poll(watched, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let spoken = !fds[1].revents().is_empty();
        for received in signals::received(&self.signals) {
            match received {
                Received::Terminate => self.exit = Some(0),
                Received::Child => {
                    while matches!(rustix::process::wait(rustix::process::WaitOptions::NOHANG), Ok(Some(_))) {
                    }
                }
            }
        }
        if self.listening && spoken {
            self.listen();
        }
        if self.end.is_some_and(|end| end <= Instant::now()) {
            self.exit.get_or_insert(LIFETIME_OVER);
        }
        Ok(())
    }

    fn listen(&mut self) {
        let mut bytes = [0; LINE_BYTES];
        match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(0) => self.listening = false,
            Ok(count) => bytes[..count].iter().for_each(|byte| self.take(*byte)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.listening = false,
        }
    }

    fn take(&mut self, byte: u8) {
        match self.lines.push(byte) {
            None => {}
            Some(Command::Ping) => answer("ok\n"),
            Some(Command::Unknown) => answer("error\n"),
            Some(Command::Stop) => self.exit = Some(0),
            Some(Command::Lifetime(lifetime)) => match Instant::now().checked_add(lifetime) {
                Some(end) => {
                    self.end = Some(end);
                    answer("ok\n");
                }
                None => answer("error\n"),
            },
        }
    }
}

/// Answer if anybody reads; nobody who does not can stop the keeper.
fn answer(line: &str) {
    let _ = rustix::io::write(rustix::stdio::stdout(), line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(bytes: &[u8]) -> Vec<Command> {
        let mut lines = Lines::new();
        bytes.iter().filter_map(|byte| lines.push(*byte)).collect()
    }

    #[test]
    fn lines_are_obeyed_in_order() {
        let asked = commands(b"ping\nlifetime 1500\nstop\n");
        assert_eq!(asked, [Command::Ping, Command::Lifetime(Duration::from_millis(1500)), Command::Stop]);
    }

    #[test]
    fn what_is_unknown_or_too_long_changes_nothing() {
        for line in ["", "pings", "lifetime", "lifetime -1", "lifetime +1", "lifetime 99999999999999999999"] {
            assert_eq!(commands(format!("{line}\n").as_bytes()), [Command::Unknown], "{line:?}");
        }
        let long = [b"p".repeat(200), b"\nping\n".to_vec()].concat();
        assert_eq!(commands(&long), [Command::Unknown, Command::Ping]);
        let exact = [b"p".repeat(64), b"\n".to_vec()].concat();
        assert_eq!(commands(&exact), [Command::Unknown]);
    }
}
