//! What the agent waits for: one epoll, and one timer for whatever comes first.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

const EVENTS: usize = 64;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Input,
    Output,
    Signals,
    Timer,
    Door,
    /// A channel of a process, by the number of its stream.
    Process(u32, u8),
    /// The same, when nothing lies in it and nobody can write to it any more.
    HungUp(u32, u8),
    /// A file operation, by the number of its stream.
    Task(u32),
}

impl Token {
    fn pack(self) -> EventData {
        let (kind, stream) = match self {
            Token::Process(stream, channel) | Token::HungUp(stream, channel) => (u64::from(channel), stream),
            Token::Input => (16, 0),
            Token::Output => (17, 0),
            Token::Signals => (18, 0),
            Token::Timer => (19, 0),
            Token::Door => (20, 0),
            Token::Task(stream) => (21, stream),
        };
        EventData::new_u64(kind << 32 | u64::from(stream))
    }

    fn unpack(data: EventData) -> Token {
        let raw = data.u64();
        match raw >> 32 {
            16 => Token::Input,
            17 => Token::Output,
            18 => Token::Signals,
            19 => Token::Timer,
            20 => Token::Door,
            21 => Token::Task(raw as u32),
            channel => Token::Process(raw as u32, channel as u8),
        }
    }
}

/// Which readiness of a descriptor is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Readable,
    Writable,
}

pub struct Events {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// When the timer goes off next.
    armed: Option<Instant>,
}

impl Events {
    pub fn new() -> Result<Events, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let events = Events { epoll, timer, armed: None };
        events.watch(&events.timer, Token::Timer, Until::Readable)?;
        Ok(events)
    }

    pub fn watch(&self, fd: impl AsFd, token: Token, until: Until) -> Result<(), Errno> {
        let flags = match until {
            Until::Readable => EventFlags::IN,
            Until::Writable => EventFlags::OUT,
        };
        epoll::add(&self.epoll, fd, token.pack(), flags)
    }

    pub fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Return what has happened, after waiting for it unless there is something else to do.
    pub fn wait(&self, busy: bool) -> Result<Vec<Token>, Errno> {
        let mut space = [MaybeUninit::uninit(); EVENTS];
        let timeout = busy.then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
        match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((ready, _)) => Ok(ready.iter().map(told).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    /// Take note that the timer has gone off.
    pub fn take_time(&mut self) -> Instant {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut count);
        self.armed = None;
        Instant::now()
    }

    /// Set the timer.
    pub fn arm(&mut self, next: Option<Instant>) {
        if next == self.armed {
            return;
        }
        self.armed = next;
        let wait = next.map_or(Duration::ZERO, |at| {
            // Zero would disarm the timer.
            at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1))
        });
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() },
        };
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }
}

/// Return what an event tells. Of a pipe at its end the flags say all, so that nobody need read it to learn that.
fn told(event: &Event) -> Token {
    let (data, flags) = (event.data, event.flags);
    match Token::unpack(data) {
        Token::Process(id, channel) if flags == EventFlags::HUP => Token::HungUp(id, channel),
        token => token,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        let tokens = [Token::Input, Token::Output, Token::Signals, Token::Timer, Token::Door, Token::Task(7)];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
        for channel in 0..3 {
            let token = Token::Process(u32::MAX, channel);
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
