//! The processes that execs have started, from the start to the last byte of their pipes.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::WaitOptions;

use crate::contain::{Containment, Member};
use crate::events::{Events, Token, Until};
use crate::exec::Starter;
use crate::open::{Exec, Size};
use crate::process::{self, Expiry, Flow, Process, Scratch};
use crate::streams::Streams;

/// What a look for a child that has ended has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    One,
    None,
    /// There is no child at all.
    Childless,
}

pub struct Processes {
    all: BTreeMap<u32, Process>,
    starter: Starter,
    containment: Containment,
    scratch: Box<Scratch>,
    /// What is over and can wait until the host has been told.
    over: Vec<OwnedFd>,
    left: Vec<Member>,
}

impl Processes {
    pub fn new(null: OwnedFd) -> Processes {
        Processes {
            all: BTreeMap::new(),
            starter: Starter::new(null),
            containment: Containment::default(),
            scratch: Box::new([0; size_of::<Scratch>()]),
            over: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Contain what is started from now on, and bound how many there may be.
    pub fn contain(&mut self, containment: Containment, processes: Option<u32>) {
        self.containment = containment;
        self.starter.processes = processes;
    }

    pub fn start(&mut self, streams: &mut Streams, events: &Events, id: u32, request: &Exec) {
        match self.starter.start(streams, &mut self.containment, id, request) {
            Ok(process) => {
                self.all.insert(id, process);
                self.watch_source(events, id, 1);
                self.watch_source(events, id, 2);
            }
            Err(refusal) => streams.refuse(id, &refusal),
        }
    }

    pub fn signal(&mut self, id: u32, number: i32) {
        if let Some(process) = self.all.get_mut(&id) {
            process.signal(number);
        }
    }

    /// Resize the terminal of a process that has one.
    pub fn resize(&mut self, id: u32, size: Size) {
        if let Some(process) = self.all.get(&id) {
            process.resize(size);
        }
    }

    /// The host needs nothing more of the stream; what the process writes from now on is read and dropped.
    pub fn close(&mut self, streams: &mut Streams, events: &Events, id: u32) {
        self.close_sink(events, id);
        self.credit(streams, events, id, 1);
        self.credit(streams, events, id, 2);
    }

    // Output

    pub fn pump_out(&mut self, streams: &mut Streams, events: &Events, id: u32, channel: u8) {
        let Some(source) = self.all.get_mut(&id).and_then(|process| process.source(channel)) else {
            return;
        };
        match process::pump_out(source, streams, id, channel, &mut self.scratch) {
            Flow::Watch => {}
            Flow::Pause => {
                source.watched = false;
                events.forget(&source.fd);
            }
            Flow::Closed => self.close_source(streams, events, id, channel),
        }
    }

    /// Nothing lies in a channel, and nobody can write to it any more.
    pub fn hung_up(&mut self, streams: &mut Streams, events: &Events, id: u32, channel: u8) {
        match self.all.get(&id) {
            // Of a channel to a process, or a terminal, that need not be its end.
            Some(process) if channel > 0 && !process.has_terminal() => {
                self.close_source(streams, events, id, channel);
            }
            _ if channel > 0 => self.pump_out(streams, events, id, channel),
            _ => self.pump_in(streams, events, id),
        }
    }

    /// There is room for more of a channel.
    pub fn credit(&mut self, streams: &mut Streams, events: &Events, id: u32, channel: u8) {
        // Of a terminal that is about to be hung up no event would come while somebody else holds it silently.
        match self.all.get_mut(&id).and_then(|process| process.source(channel)) {
            Some(source) if source.is_last_call() => self.hang_up(streams, events, id),
            _ => self.watch_source(events, id, channel),
        }
    }

    fn watch_source(&mut self, events: &Events, id: u32, channel: u8) {
        let Some(source) = self.all.get_mut(&id).and_then(|process| process.source(channel)) else {
            return;
        };
        if !source.watched {
            let token = Token::Process(id, channel);
            source.watched = events.watch(&source.fd, token, Until::Readable).is_ok();
        }
    }

    fn close_source(&mut self, streams: &mut Streams, events: &Events, id: u32, channel: u8) {
        let has_terminal = self.all.get(&id).is_some_and(Process::has_terminal);
        if let Some(process) = self.all.get_mut(&id)
            && let Some(slot) = process.sources.get_mut(usize::from(channel) - 1)
            && let Some(source) = slot.take()
        {
            if source.watched && has_terminal {
                // Its input is a copy, so closing this one does not end the watch, as it does for a pipe.
                events.forget(&source.fd);
            }
            self.over.push(source.fd);
        }
        if has_terminal {
            self.close_sink(events, id);
            abandon_input(streams, id);
        }
        streams.close_output(id, channel);
        self.drop_if_finished(streams, events, id);
    }

    // Input

    pub fn pump_in(&mut self, streams: &mut Streams, events: &Events, id: u32) {
        let Some(process) = self.all.get_mut(&id) else {
            return abandon_input(streams, id);
        };
        let Some(sink) = &mut process.sink else {
            return abandon_input(streams, id);
        };
        let flow = process::pump_in(sink, streams, id);
        let watch = flow == Flow::Watch;
        if watch != sink.watched {
            sink.watched = watch;
            match watch {
                true => drop(events.watch(&sink.fd, Token::Process(id, 0), Until::Writable)),
                false => events.forget(&sink.fd),
            }
        }
        if flow == Flow::Closed {
            process.sink = None;
            abandon_input(streams, id);
        }
    }

    fn close_sink(&mut self, events: &Events, id: u32) {
        if let Some(sink) = self.all.get_mut(&id).and_then(|process| process.sink.take())
            && sink.watched
        {
            events.forget(&sink.fd);
        }
    }

    // The end

    /// Reap everything that has ended, orphans included; tell whether nothing is left to wait for.
    pub fn reap(&mut self, streams: &mut Streams, events: &Events) -> bool {
        loop {
            match self.reap_one(streams, events) {
                Reaped::One => {}
                Reaped::None => return false,
                Reaped::Childless => return true,
            }
        }
    }

    pub fn reap_one(&mut self, streams: &mut Streams, events: &Events) -> Reaped {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let found = self.all.iter_mut().find(|(_, process)| process.pid == pid);
                if let Some((id, process)) = found {
                    let id = *id;
                    process.reaped(status);
                    self.tell_exit(streams, events, id);
                }
                Reaped::One
            }
            Err(Errno::CHILD) => Reaped::Childless,
            Ok(None) | Err(_) => Reaped::None,
        }
    }

    fn tell_exit(&mut self, streams: &mut Streams, events: &Events, id: u32) {
        if let Some(exit) = self.all.get_mut(&id).and_then(Process::exit) {
            streams.exit(id, exit);
        }
        self.hang_up(streams, events, id);
        self.drop_if_finished(streams, events, id);
    }

    /// Take what lies in the terminal of a process that has ended, then close it, whoever else still holds it: as the
    /// end of its session leader does in Linux, but not in gVisor.
    fn hang_up(&mut self, streams: &mut Streams, events: &Events, id: u32) {
        loop {
            let Some(process) = self.all.get_mut(&id) else { return };
            let Some(source) = process.last_call() else { return };
            match process::pump_out(source, streams, id, 1, &mut self.scratch) {
                Flow::Watch => {}
                Flow::Pause => {
                    if std::mem::take(&mut source.watched) {
                        events.forget(&source.fd);
                    }
                    return;
                }
                Flow::Closed => return self.close_source(streams, events, id, 1),
            }
        }
    }

    fn drop_if_finished(&mut self, streams: &mut Streams, events: &Events, id: u32) {
        if !self.all.get(&id).is_some_and(Process::finished) {
            return;
        }
        self.close_sink(events, id);
        if let Some(process) = self.all.remove(&id) {
            self.left.push(process.member);
            abandon_input(streams, id);
        }
    }

    /// Put away what is over and make ready for the next start, when nobody waits for it.
    pub fn tidy(&mut self) {
        self.over.clear();
        if !self.left.is_empty() {
            self.starter.make_ready();
        }
        for member in self.left.drain(..) {
            self.containment.release(member);
        }
    }

    /// Return when the next deadline of any is.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.values().filter_map(|process| process.deadline).min()
    }

    /// Do what the deadlines ask for that have come; tell whether a kill has left nothing to wait for.
    pub fn expire(&mut self, streams: &mut Streams, events: &Events, now: Instant) -> bool {
        let due = |process: &Process| process.deadline.is_some_and(|deadline| deadline <= now);
        let expired: Vec<u32> =
            self.all.iter().filter(|(_, process)| due(process)).map(|(id, _)| *id).collect();
        expired.into_iter().fold(false, |childless, id| self.expire_one(streams, events, id, now) | childless)
    }

    fn expire_one(&mut self, streams: &mut Streams, events: &Events, id: u32, now: Instant) -> bool {
        let Some(process) = self.all.get_mut(&id) else {
            return false;
        };
        match process.expire(now) {
            Expiry::Kill => {
                self.containment.kill(&process.member, process.pid);
                return self.reap(streams, events);
            }
            Expiry::GiveUp(exit) => {
                if let Some(exit) = exit {
                    streams.exit(id, exit);
                }
                for channel in [1, 2] {
                    self.pump_out(streams, events, id, channel);
                    self.close_source(streams, events, id, channel);
                }
            }
        }
        false
    }
}

/// Nobody reads channel 0 any more: what comes is dropped and its credit returned.
fn abandon_input(streams: &mut Streams, id: u32) {
    if let Some(input) = streams.input(id) {
        input.abandon();
        streams.consumed(id);
    }
}
