//! PID 1: one thread and one epoll between the node's pipes, the processes and the files.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;
use thiserror::Error;

use crate::attach::{AttachError, Door};
use crate::channel::{Channel, Progress};
use crate::events::{Events, Token, Until};
use crate::exec;
use crate::frame::Violation;
use crate::hello::Hello;
use crate::open::Open;
use crate::process;
use crate::processes::Processes;
use crate::session::{Event, Session};
use crate::setup::{self, SetupError};
use crate::signals::{self, Received};
use crate::tasks::Tasks;

/// How often idle rings are looked at while any of them holds memory.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("cannot take the signals: {0}")]
    Signals(Errno),
    #[error("cannot stay out of other processes' reach: {0}")]
    Dumpable(Errno),
    #[error("cannot enter the root directory: {0}")]
    Root(Errno),
    #[error("cannot make the event queue: {0}")]
    Events(Errno),
    #[error("cannot keep the node's pipes: {0}")]
    Pipes(Errno),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("cannot open /dev/null or anything in its place: {0}")]
    Null(io::Error),
    #[error("cannot wait for events: {0}")]
    Wait(Errno),
    #[error("the node has broken the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the node has closed the channel before its HELLO")]
    NoHello,
    #[error(transparent)]
    Setup(#[from] SetupError),
}

pub struct Agent {
    events: Events,
    signals: OwnedFd,
    door: Option<Door>,
    channel: Option<Channel>,
    /// The node's pipe is watched for frames, and for room.
    listening: bool,
    blocked: bool,
    session: Session,
    processes: Processes,
    tasks: Tasks,
    /// Signals have come, of which one was looked for: a child that has ended.
    signalled: bool,
    next_sweep: Option<Instant>,
    shutdown: Option<Instant>,
    finished: bool,
}

impl Agent {
    pub fn new() -> Result<Agent, AgentError> {
        // Out of reach: nobody in the sandbox may open what /proc shows of us, or trace us.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .map_err(AgentError::Dumpable)?;
        let signals = signals::take().map_err(AgentError::Signals)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::process::chdir("/").map_err(AgentError::Root)?;
        let null = exec::open_null().map_err(AgentError::Null)?;
        let channel = take_pipes(&null).map_err(AgentError::Pipes)?;
        let events = Events::new().map_err(AgentError::Events)?;
        events.watch(&signals, Token::Signals, Until::Readable).map_err(AgentError::Events)?;
        Ok(Agent {
            events,
            signals,
            door: None,
            channel: Some(channel),
            listening: false,
            blocked: false,
            session: Session::default(),
            processes: Processes::new(null),
            tasks: Tasks::default(),
            signalled: false,
            next_sweep: None,
            shutdown: None,
            finished: false,
        })
    }

    /// Serve until the host ends us.
    pub fn run(mut self) -> Result<(), AgentError> {
        while !self.finished {
            if self.tasks.busy() {
                self.tasks.step(&mut self.session.streams);
                self.schedule_sweep();
            }
            self.write()?;
            if std::mem::take(&mut self.signalled) {
                // The host waits for an exit, and not for us to see whether there are more.
                self.take_signals();
                if self.finished {
                    break;
                }
                self.write()?;
            }
            self.listen();
            self.arm();
            self.processes.tidy();
            for token in self.events.wait(self.tasks.busy()).map_err(AgentError::Wait)? {
                self.dispatch(token)?;
            }
        }
        // What the last processes said and how they ended, as far as the pipe takes it.
        self.write()
    }

    fn dispatch(&mut self, token: Token) -> Result<(), AgentError> {
        match token {
            Token::Input => self.read()?,
            Token::Output => self.write()?,
            Token::Signals => {
                self.signalled = true;
                self.processes.reap_one(&mut self.session.streams, &self.events);
            }
            Token::Timer => self.take_time(),
            Token::Door => self.take_offer(),
            Token::Process(id, channel) => self.pump(id, channel),
            Token::HungUp(id, channel) => {
                self.processes.hung_up(&mut self.session.streams, &self.events, id, channel);
                self.schedule_sweep();
            }
            Token::Task(id) => drop(self.tasks.wake(id)),
        }
        Ok(())
    }

    // The channel

    fn read(&mut self) -> Result<(), AgentError> {
        let Some(mut channel) = self.channel.take() else {
            return Ok(());
        };
        match channel.read() {
            Err(Progress::Closed) => {
                self.channel = Some(channel);
                return self.disconnect();
            }
            Err(_) => {}
            Ok((decoder, mut bytes)) => {
                while let Some(piece) = decoder.next(&mut bytes)? {
                    if let Some(event) = self.session.receive(piece)? {
                        self.handle(event)?;
                    }
                }
            }
        }
        self.channel = Some(channel);
        Ok(())
    }

    fn write(&mut self) -> Result<(), AgentError> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        let progress = channel.write(&mut self.session.streams);
        if progress == Progress::Closed {
            return self.disconnect();
        }
        let blocked = progress == Progress::More;
        if blocked != self.blocked {
            self.blocked = blocked;
            let output = channel.output();
            match blocked {
                true => drop(self.events.watch(output, Token::Output, Until::Writable)),
                false => self.events.forget(output),
            }
        }
        Ok(())
    }

    /// Watch the node's pipe for frames, unless too many answers wait already.
    fn listen(&mut self) {
        let Some(channel) = &self.channel else {
            return;
        };
        let wanted = !self.session.streams.congested();
        if wanted != self.listening {
            self.listening = wanted;
            let input = channel.input();
            match wanted {
                true => drop(self.events.watch(input, Token::Input, Until::Readable)),
                false => self.events.forget(input),
            }
        }
    }

    /// The node is lost: go on without it until another one attaches.
    fn disconnect(&mut self) -> Result<(), AgentError> {
        if let Some(channel) = self.channel.take() {
            self.forget(&channel);
        }
        self.session.streams.disconnect();
        // Before the claim there is no secret, so nobody could ever attach.
        if self.door.is_none() { Err(AgentError::NoHello) } else { Ok(()) }
    }

    /// Stop watching a channel that is about to be closed.
    fn forget(&mut self, channel: &Channel) {
        if std::mem::take(&mut self.listening) {
            self.events.forget(channel.input());
        }
        if std::mem::take(&mut self.blocked) {
            self.events.forget(channel.output());
        }
    }

    fn take_offer(&mut self) {
        let Some(door) = &self.door else {
            return;
        };
        if let Some((hello, channel)) = door.receive(&self.session) {
            if let Some(old) = self.channel.replace(channel) {
                self.forget(&old);
            }
            self.session.welcome(&hello);
        }
    }

    /// The claim: make the container ready, then say so.
    fn claim(&mut self, hello: &Hello) -> Result<(), AgentError> {
        if let Some(setup) = &hello.setup {
            let door = Door::open()?;
            self.events.watch(door.socket(), Token::Door, Until::Readable).map_err(AgentError::Events)?;
            self.door = Some(door);
            let containment = setup::prepare(setup)?;
            self.processes.contain(containment, Some(setup.processes).filter(|processes| *processes > 0));
        }
        self.session.welcome(hello);
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), AgentError> {
        let (streams, events) = (&mut self.session.streams, &self.events);
        match event {
            Event::Hello(hello) => self.claim(&hello)?,
            Event::Open(id, Open::Exec(request)) => self.processes.start(streams, events, id, &request),
            Event::Open(id, open) => self.tasks.open(streams, events, id, open),
            Event::Input(id) => {
                if !self.tasks.wake(id) {
                    self.processes.pump_in(streams, events, id);
                    self.schedule_sweep();
                }
            }
            Event::Credit(id, channel) => {
                if !self.tasks.wake(id) {
                    self.processes.credit(streams, events, id, channel);
                }
            }
            Event::Signal(id, number) => self.processes.signal(id, number),
            Event::Resize(id, size) => self.processes.resize(id, size),
            Event::Close(id) => {
                self.tasks.close(id);
                self.processes.close(streams, events, id);
            }
            Event::Shutdown(grace) => self.shut_down(grace),
        }
        Ok(())
    }

    // Processes

    fn pump(&mut self, id: u32, channel: u8) {
        let (streams, events) = (&mut self.session.streams, &self.events);
        match channel {
            0 => self.processes.pump_in(streams, events, id),
            _ => self.processes.pump_out(streams, events, id, channel),
        }
        self.schedule_sweep();
    }

    fn take_signals(&mut self) {
        for received in signals::received(&self.signals) {
            match received {
                Received::Child => self.reap(),
                Received::Terminate => self.finished = true,
            }
        }
    }

    fn reap(&mut self) {
        let childless = self.processes.reap(&mut self.session.streams, &self.events);
        self.finished |= childless && self.shutdown.is_some();
    }

    // Time

    fn take_time(&mut self) {
        let now = self.events.take_time();
        if self.shutdown.is_some_and(|until| until <= now) {
            process::signal_all(Signal::KILL);
            self.finished = true;
        }
        let childless = self.processes.expire(&mut self.session.streams, &self.events, now);
        self.finished |= childless && self.shutdown.is_some();
        self.tasks.expire(now);
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.next_sweep = (!self.session.streams.sweep()).then(|| now + SWEEP);
        }
    }

    fn schedule_sweep(&mut self) {
        if self.next_sweep.is_none() {
            self.next_sweep = Some(Instant::now() + SWEEP);
        }
    }

    /// Set the timer to whatever comes first.
    fn arm(&mut self) {
        let deadlines = self.processes.deadline().into_iter().chain(self.tasks.deadline());
        let next = deadlines.chain(self.shutdown).chain(self.next_sweep).min();
        self.events.arm(next);
    }

    fn shut_down(&mut self, grace: Duration) {
        self.shutdown = Some(Instant::now() + grace);
        process::signal_all(Signal::TERM);
        self.reap();
    }
}

/// Move the node's pipes away from descriptors 0 and 1, where a process's own would go, and put null there.
fn take_pipes(null: &OwnedFd) -> Result<Channel, Errno> {
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(null)?;
    Channel::new(input, output)
}
