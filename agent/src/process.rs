//! One process that an exec has started: its pipes, its deadline, and how it ended.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitStatus};

use crate::contain::Member;
use crate::message::Exit;
use crate::open::Size;
use crate::streams::Streams;
use crate::terminal;

/// How long after its deadline a process may still hold its pipes.
const DRAIN: Duration = Duration::from_millis(800);
/// A pipe that is found this full gets the larger size: small pipes are what keeps throughput low.
const BUSY_BYTES: usize = 64 << 10;
const LARGE_PIPE: usize = 1 << 20;
const KILL: i32 = 9;
const CTRL_D: u8 = 4;
/// How much of a terminal is read after its process has ended: more than a terminal holds, but not what somebody
/// in the background goes on writing.
const LAST_BYTES: usize = 256 << 10;

/// Memory that reads may use beyond a stream's ring, shared by all.
pub type Scratch = [u8; BUSY_BYTES];

/// Our end of a process's stdout or stderr.
pub struct Source {
    pub fd: OwnedFd,
    pub watched: bool,
    enlarged: bool,
    /// How much may still be read of a terminal whose process has ended; it is closed once nothing lies in it.
    left: Option<usize>,
}

impl Source {
    pub fn is_last_call(&self) -> bool {
        self.left.is_some()
    }
}

/// Our end of a process's stdin.
pub struct Sink {
    pub fd: OwnedFd,
    pub watched: bool,
    /// It is a terminal, of which `mid_line` tells whether a line was begun.
    terminal: bool,
    mid_line: bool,
}

impl Sink {
    pub fn pipe(fd: OwnedFd) -> Sink {
        Sink { fd, watched: false, terminal: false, mid_line: false }
    }

    pub fn terminal(fd: OwnedFd) -> Sink {
        Sink { terminal: true, ..Sink::pipe(fd) }
    }
}

/// What a turn with a pipe has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// Wait until the pipe is ready.
    Watch,
    /// Wait until the host sends bytes or credit.
    Pause,
    /// The other end is closed.
    Closed,
}

pub struct Process {
    pub pid: Pid,
    pub member: Member,
    pub sink: Option<Sink>,
    pub sources: [Option<Source>; 2],
    pub deadline: Option<Instant>,
    /// Its end of its terminal. As long as we hold it too, it may close all that it has and open it again, as login
    /// does, without that being the end of channel 1.
    terminal: Option<OwnedFd>,
    timeout: Duration,
    timed_out: bool,
    killed_by_host: bool,
    status: Option<WaitStatus>,
    exit_told: bool,
}

impl Process {
    pub fn new(pid: Pid, member: Member, timeout: Duration) -> Process {
        let deadline = (!timeout.is_zero()).then(|| Instant::now().checked_add(timeout)).flatten();
        Process {
            pid,
            member,
            sink: None,
            sources: [None, None],
            deadline,
            terminal: None,
            timeout,
            timed_out: false,
            killed_by_host: false,
            status: None,
            exit_told: false,
        }
    }

    pub fn add_source(&mut self, channel: u8, fd: OwnedFd) {
        self.sources[usize::from(channel) - 1] =
            Some(Source { fd, watched: false, enlarged: false, left: None });
    }

    /// Take both ends of its terminal, ours twice: that it can be read and that it can be written are waited for apart.
    pub fn add_terminal(&mut self, output: OwnedFd, input: OwnedFd, its: OwnedFd) {
        // It has a size of its own, which no pipe's call changes.
        self.sources[0] = Some(Source { fd: output, watched: false, enlarged: true, left: None });
        self.sink = Some(Sink::terminal(input));
        self.terminal = Some(its);
    }

    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    pub fn resize(&self, size: Size) {
        if let Some(terminal) = &self.terminal {
            let _ = terminal::resize(terminal, size);
        }
    }

    /// Return the terminal of a process that has ended, of which only what lies in it is still read.
    pub fn last_call(&mut self) -> Option<&mut Source> {
        if self.terminal.is_none() || !self.exit_told {
            return None;
        }
        let source = self.sources[0].as_mut()?;
        source.left.get_or_insert(LAST_BYTES);
        Some(source)
    }

    pub fn source(&mut self, channel: u8) -> Option<&mut Source> {
        self.sources.get_mut(usize::from(channel).checked_sub(1)?)?.as_mut()
    }

    /// Send a signal to the process group, unless the process is gone and its number may be another's.
    pub fn signal(&mut self, number: i32) {
        if self.status.is_some() {
            return;
        }
        self.killed_by_host |= number == KILL;
        // SAFETY: plain integers; a signal number that does not exist is refused.
        unsafe { libc::kill(-self.pid.as_raw_nonzero().get(), number) };
    }

    /// Note how the process ended.
    pub fn reaped(&mut self, status: WaitStatus) {
        self.status = Some(status);
    }

    /// Return what EXIT says, once.
    pub fn exit(&mut self) -> Option<Exit> {
        let status = self.status?;
        if std::mem::replace(&mut self.exit_told, true) {
            return None;
        }
        let signal = status.terminating_signal();
        let killed = signal == Some(KILL);
        let reason = match signal {
            None => "exited",
            Some(_) if killed && self.timed_out => "timeout",
            Some(_) if killed && self.killed_by_host => "killed",
            Some(_) => "signaled",
        };
        let evidence = match reason {
            "timeout" => format!("still running after {} ms", self.timeout.as_millis()),
            _ => format!("wait status {:#06x}", status.as_raw()),
        };
        Some(Exit { code: status.exit_status(), signal, reason, evidence })
    }

    /// Return what EXIT says of a process that did not even die when it was killed, once.
    fn give_up(&mut self) -> Option<Exit> {
        if std::mem::replace(&mut self.exit_told, true) {
            return None;
        }
        let evidence = format!("killed after {} ms, but not gone", self.timeout.as_millis());
        Some(Exit { code: None, signal: Some(KILL), reason: "timeout", evidence })
    }

    /// Return whether nothing of the exec is left to look after.
    pub fn finished(&self) -> bool {
        self.exit_told && self.sources.iter().all(Option::is_none)
    }

    /// The deadline has come. The first time the caller has to kill; the second time, what still holds the
    /// pipes is left to itself, and the process's EXIT, if it was not told yet, is returned.
    pub fn expire(&mut self, now: Instant) -> Expiry {
        if self.timed_out {
            self.deadline = None;
            return Expiry::GiveUp(self.give_up());
        }
        self.timed_out = true;
        self.deadline = Some(now + DRAIN);
        Expiry::Kill
    }
}

pub enum Expiry {
    Kill,
    GiveUp(Option<Exit>),
}

/// Read what the process has written, as far as its ring has room.
pub fn pump_out(
    source: &mut Source,
    streams: &mut Streams,
    id: u32,
    channel: u8,
    scratch: &mut Scratch,
) -> Flow {
    let Some(output) = streams.outgoing(id, channel) else {
        return discard(source, scratch);
    };
    let ring = &mut output.ring;
    let room = ring.room();
    if room == 0 {
        return Flow::Pause;
    }
    let vacant = ring.vacant_len();
    let [first, second] = ring.vacant_slices(vacant);
    let beyond = IoSliceMut::new(&mut scratch[..BUSY_BYTES.min(room - vacant)]);
    let count = match rustix::io::readv(&source.fd, &mut [first, second, beyond]) {
        Ok(0) => return Flow::Closed,
        Ok(count) => count,
        Err(Errno::AGAIN) if source.is_last_call() => return Flow::Closed,
        Err(Errno::AGAIN | Errno::INTR) => return Flow::Watch,
        Err(_) => return Flow::Closed,
    };
    ring.filled(count.min(vacant));
    if count > vacant {
        ring.append(&scratch[..count - vacant]);
    }
    if count >= BUSY_BYTES && !std::mem::replace(&mut source.enlarged, true) {
        // Refused where the sandbox forbids it; the pipe then stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&source.fd, LARGE_PIPE);
    }
    streams.produced(id, channel);
    after(source, count)
}

/// Tell what comes after `count` bytes.
fn after(source: &mut Source, count: usize) -> Flow {
    let Some(left) = &mut source.left else { return Flow::Watch };
    *left = left.saturating_sub(count);
    if *left == 0 { Flow::Closed } else { Flow::Watch }
}

/// The host wants no more of this stream, but the process may go on writing.
fn discard(source: &mut Source, scratch: &mut Scratch) -> Flow {
    match rustix::io::read(&source.fd, scratch) {
        Ok(0) => Flow::Closed,
        Ok(count) => after(source, count),
        Err(Errno::AGAIN) if source.is_last_call() => Flow::Closed,
        Err(Errno::AGAIN | Errno::INTR) => Flow::Watch,
        Err(_) => Flow::Closed,
    }
}

/// Write what the host has sent, as far as the process takes it.
pub fn pump_in(sink: &mut Sink, streams: &mut Streams, id: u32) -> Flow {
    loop {
        let Some(input) = streams.input(id) else {
            return Flow::Closed;
        };
        if input.finished() {
            return finish_input(sink);
        }
        let (first, second) = input.ring.slices(0, usize::MAX);
        if first.is_empty() {
            return Flow::Pause;
        }
        match rustix::io::writev(&sink.fd, &[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(count) => {
                let last = input.ring.slices(count.saturating_sub(1), 1).0;
                sink.mid_line = !matches!(last, [] | [b'\n' | b'\r' | CTRL_D]);
                input.consume(count);
                streams.consumed(id);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Flow::Watch,
            Err(_) => return Flow::Closed,
        }
    }
}

/// The host will send no more. A pipe is closed; at a terminal the end of file is typed, and it stays.
fn finish_input(sink: &Sink) -> Flow {
    let keys = if sink.terminal { terminal::end_of_file(&sink.fd, sink.mid_line) } else { Vec::new() };
    match keys.is_empty() || rustix::io::write(&sink.fd, &keys) != Err(Errno::AGAIN) {
        true => Flow::Closed,
        false => Flow::Watch,
    }
}

/// Send a signal to every process of the sandbox but ourselves.
pub fn signal_all(signal: Signal) {
    // SAFETY: plain integers; PID 1 itself is never among those that -1 means.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_its_process_a_terminal_is_read_to_its_bound_and_no_further() {
        let (fd, _held) = rustix::pipe::pipe().expect("a pipe");
        let mut source = Source { fd, watched: false, enlarged: true, left: None };
        assert_eq!(after(&mut source, usize::MAX), Flow::Watch, "while its process lives there is no bound");
        source.left = Some(LAST_BYTES);
        assert_eq!(after(&mut source, LAST_BYTES - 1), Flow::Watch);
        assert_eq!(after(&mut source, 1), Flow::Closed);
        assert_eq!(after(&mut source, 1), Flow::Closed);
    }
}
