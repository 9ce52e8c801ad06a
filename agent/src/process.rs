//! One process that an exec has started: its pipes, its deadline, and how it ended.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitStatus};

use crate::contain::Member;
use crate::message::Exit;
use crate::streams::Streams;

/// How long after its deadline a process may still hold its pipes.
const DRAIN: Duration = Duration::from_millis(800);
/// A pipe that is found this full gets the larger size: small pipes are what keeps throughput low.
const BUSY_BYTES: usize = 64 << 10;
const LARGE_PIPE: usize = 1 << 20;
const KILL: i32 = 9;

/// Memory that reads may use beyond a stream's ring, shared by all.
pub type Scratch = [u8; BUSY_BYTES];

/// Our end of a process's stdout or stderr.
pub struct Source {
    pub fd: OwnedFd,
    pub watched: bool,
    enlarged: bool,
}

/// Our end of a process's stdin.
pub struct Sink {
    pub fd: OwnedFd,
    pub watched: bool,
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
            timeout,
            timed_out: false,
            killed_by_host: false,
            status: None,
            exit_told: false,
        }
    }

    pub fn add_source(&mut self, channel: u8, fd: OwnedFd) {
        self.sources[usize::from(channel) - 1] = Some(Source { fd, watched: false, enlarged: false });
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
    Flow::Watch
}

/// The host wants no more of this stream, but the process may go on writing.
fn discard(source: &mut Source, scratch: &mut Scratch) -> Flow {
    match rustix::io::read(&source.fd, scratch) {
        Ok(0) => Flow::Closed,
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Flow::Watch,
        Err(_) => Flow::Closed,
    }
}

/// Write what the host has sent, as far as the process takes it.
pub fn pump_in(sink: &Sink, streams: &mut Streams, id: u32) -> Flow {
    loop {
        let Some(input) = streams.input(id) else {
            return Flow::Closed;
        };
        if input.finished() {
            return Flow::Closed;
        }
        let (first, second) = input.ring.slices(0, usize::MAX);
        if first.is_empty() {
            return Flow::Pause;
        }
        match rustix::io::writev(&sink.fd, &[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(count) => {
                input.consume(count);
                streams.consumed(id);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Flow::Watch,
            Err(_) => return Flow::Closed,
        }
    }
}

/// Send a signal to every process of the sandbox but ourselves.
pub fn signal_all(signal: Signal) {
    // SAFETY: plain integers; PID 1 itself is never among those that -1 means.
    unsafe { libc::kill(-1, signal.as_raw()) };
}
