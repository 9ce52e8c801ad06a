//! PID 1: one thread and one epoll between the node's pipes, the processes and the files.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};
use rustix::time::{TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use thiserror::Error;

use crate::attach::{AttachError, Door};
use crate::channel::{Channel, Progress};
use crate::contain::Containment;
use crate::exec::{self, Starter};
use crate::frame::Violation;
use crate::message::{Hello, Open};
use crate::process::{self, Expiry, Flow, Process, Scratch};
use crate::session::{Event, Session};
use crate::setup::{self, SetupError};
use crate::signals::{self, Received};
use crate::tasks::Tasks;

const EVENTS: usize = 64;
/// How often idle rings are looked at while any of them holds memory.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("cannot take the signals: {0}")]
    Signals(Errno),
    #[error("cannot stay out of other processes' reach: {0}")]
    Dumpable(Errno),
    #[error("cannot make the event queue: {0}")]
    Epoll(Errno),
    #[error("cannot make the timer: {0}")]
    Timer(Errno),
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

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Input,
    Output,
    Signals,
    Timer,
    Door,
    Process(u32, u8),
}

impl Token {
    fn pack(self) -> EventData {
        let (kind, stream) = match self {
            Token::Process(stream, channel) => (u64::from(channel), stream),
            Token::Input => (16, 0),
            Token::Output => (17, 0),
            Token::Signals => (18, 0),
            Token::Timer => (19, 0),
            Token::Door => (20, 0),
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
            channel => Token::Process(raw as u32, channel as u8),
        }
    }
}

pub struct Agent {
    epoll: OwnedFd,
    signals: OwnedFd,
    timer: OwnedFd,
    /// When the timer goes off next.
    armed: Option<Instant>,
    door: Option<Door>,
    channel: Option<Channel>,
    /// The node's pipe is watched for frames, and for room.
    listening: bool,
    blocked: bool,
    session: Session,
    starter: Starter,
    containment: Containment,
    processes: BTreeMap<u32, Process>,
    tasks: Tasks,
    scratch: Box<Scratch>,
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
        let null = exec::open_null().map_err(AgentError::Null)?;
        let channel = take_pipes(&null).map_err(AgentError::Pipes)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(AgentError::Epoll)?;
        let timer_flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, timer_flags)
            .map_err(AgentError::Timer)?;
        let agent = Agent {
            epoll,
            signals,
            timer,
            armed: None,
            door: None,
            channel: Some(channel),
            listening: false,
            blocked: false,
            session: Session::default(),
            starter: Starter::new(null),
            containment: Containment::default(),
            processes: BTreeMap::new(),
            tasks: Tasks::default(),
            scratch: Box::new([0; size_of::<Scratch>()]),
            next_sweep: None,
            shutdown: None,
            finished: false,
        };
        agent.watch(agent.signals.as_fd(), Token::Signals, EventFlags::IN).map_err(AgentError::Epoll)?;
        agent.watch(agent.timer.as_fd(), Token::Timer, EventFlags::IN).map_err(AgentError::Epoll)?;
        Ok(agent)
    }

    /// Serve until the host ends us.
    pub fn run(mut self) -> Result<(), AgentError> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        while !self.finished {
            if self.tasks.busy() {
                self.tasks.step(&mut self.session);
                self.schedule_sweep();
            }
            self.write()?;
            self.listen();
            self.arm();
            let timeout = self.tasks.busy().then_some(rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 });
            let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(AgentError::Wait(errno)),
            };
            for event in ready {
                self.dispatch(Token::unpack(event.data))?;
            }
        }
        // What the last processes said and how they ended, as far as the pipe takes it.
        self.write()
    }

    fn dispatch(&mut self, token: Token) -> Result<(), AgentError> {
        match token {
            Token::Input => self.read()?,
            Token::Output => self.write()?,
            Token::Signals => self.take_signals(),
            Token::Timer => self.take_time(),
            Token::Door => self.take_offer(),
            Token::Process(id, 0) => self.pump_in(id),
            Token::Process(id, channel) => self.pump_out(id, channel),
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
        let progress = channel.write(&mut self.session);
        if progress == Progress::Closed {
            return self.disconnect();
        }
        let blocked = progress == Progress::More;
        if blocked != self.blocked {
            self.blocked = blocked;
            let output = channel.output();
            let _ = match blocked {
                true => self.watch(output, Token::Output, EventFlags::OUT),
                false => epoll::delete(&self.epoll, output),
            };
        }
        Ok(())
    }

    /// Watch the node's pipe for frames, unless too many answers wait already.
    fn listen(&mut self) {
        let Some(channel) = &self.channel else {
            return;
        };
        let wanted = !self.session.congested();
        if wanted != self.listening {
            self.listening = wanted;
            let input = channel.input();
            let _ = match wanted {
                true => self.watch(input, Token::Input, EventFlags::IN),
                false => epoll::delete(&self.epoll, input),
            };
        }
    }

    /// The node is lost: go on without it until another one attaches.
    fn disconnect(&mut self) -> Result<(), AgentError> {
        if let Some(channel) = self.channel.take() {
            self.forget(&channel);
        }
        self.session.disconnect();
        // Before the claim there is no secret, so nobody could ever attach.
        if self.door.is_none() { Err(AgentError::NoHello) } else { Ok(()) }
    }

    /// Stop watching a channel that is about to be closed.
    fn forget(&mut self, channel: &Channel) {
        if std::mem::take(&mut self.listening) {
            let _ = epoll::delete(&self.epoll, channel.input());
        }
        if std::mem::take(&mut self.blocked) {
            let _ = epoll::delete(&self.epoll, channel.output());
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
            self.watch(door.socket(), Token::Door, EventFlags::IN).map_err(AgentError::Epoll)?;
            self.door = Some(door);
            self.containment = setup::prepare(setup)?;
            self.starter.processes = Some(setup.processes).filter(|processes| *processes > 0);
        }
        self.session.welcome(hello);
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), AgentError> {
        match event {
            Event::Hello(hello) => self.claim(&hello)?,
            Event::Open(id, Open::Exec(request)) => self.exec(id, &request),
            Event::Open(id, open) => self.tasks.open(&mut self.session, id, open),
            Event::Input(id) => {
                if !self.tasks.wake(id) {
                    self.pump_in(id);
                }
            }
            Event::Credit(id, channel) => {
                if !self.tasks.wake(id) {
                    self.watch_source(id, channel);
                }
            }
            Event::Signal(id, number) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.signal(number);
                }
            }
            Event::Close(id) => self.close(id),
            Event::Shutdown(grace) => self.shut_down(grace),
        }
        Ok(())
    }

    fn close(&mut self, id: u32) {
        self.tasks.close(id);
        self.close_sink(id);
        // What the process writes from now on is read and dropped.
        self.watch_source(id, 1);
        self.watch_source(id, 2);
    }

    // Processes

    fn exec(&mut self, id: u32, request: &crate::message::Exec) {
        match self.starter.start(&mut self.session, &mut self.containment, id, request) {
            Ok(process) => {
                self.processes.insert(id, process);
                self.watch_source(id, 1);
                self.watch_source(id, 2);
            }
            Err(refusal) => self.session.refuse(id, &refusal),
        }
    }

    fn pump_out(&mut self, id: u32, channel: u8) {
        let Some(source) = self.processes.get_mut(&id).and_then(|process| process.source(channel)) else {
            return;
        };
        let flow = process::pump_out(source, &mut self.session, id, channel, &mut self.scratch);
        match flow {
            Flow::Watch => self.schedule_sweep(),
            Flow::Pause => {
                source.watched = false;
                let _ = epoll::delete(&self.epoll, &source.fd);
            }
            Flow::Closed => self.close_source(id, channel),
        }
    }

    fn watch_source(&mut self, id: u32, channel: u8) {
        let Some(source) = self.processes.get_mut(&id).and_then(|process| process.source(channel)) else {
            return;
        };
        if !source.watched {
            let token = Token::Process(id, channel).pack();
            source.watched = epoll::add(&self.epoll, &source.fd, token, EventFlags::IN).is_ok();
        }
    }

    fn close_source(&mut self, id: u32, channel: u8) {
        if let Some(process) = self.processes.get_mut(&id)
            && let Some(slot) = process.sources.get_mut(usize::from(channel) - 1)
            && let Some(source) = slot.take()
            && source.watched
        {
            // The process's end may live on in copies, so closing ours would not end the watch.
            let _ = epoll::delete(&self.epoll, &source.fd);
        }
        self.session.close_output(id, channel);
        self.drop_if_finished(id);
    }

    fn pump_in(&mut self, id: u32) {
        let Some(process) = self.processes.get_mut(&id) else {
            return self.abandon_input(id);
        };
        let Some(sink) = &mut process.sink else {
            return self.abandon_input(id);
        };
        let flow = process::pump_in(sink, &mut self.session, id);
        let watch = flow == Flow::Watch;
        if watch != sink.watched {
            sink.watched = watch;
            let token = Token::Process(id, 0).pack();
            let _ = match watch {
                true => epoll::add(&self.epoll, &sink.fd, token, EventFlags::OUT),
                false => epoll::delete(&self.epoll, &sink.fd),
            };
        }
        match flow {
            Flow::Closed => {
                process.sink = None;
                self.abandon_input(id);
            }
            _ => self.schedule_sweep(),
        }
    }

    fn close_sink(&mut self, id: u32) {
        if let Some(sink) = self.processes.get_mut(&id).and_then(|process| process.sink.take())
            && sink.watched
        {
            let _ = epoll::delete(&self.epoll, &sink.fd);
        }
    }

    /// Nobody reads channel 0 any more: what comes is dropped and its credit returned.
    fn abandon_input(&mut self, id: u32) {
        if let Some(input) = self.session.input(id) {
            input.abandon();
            self.session.consumed(id);
        }
    }

    fn take_signals(&mut self) {
        while let Some(received) = signals::next(&self.signals) {
            match received {
                Received::Child => self.reap(),
                Received::Terminate => self.finished = true,
            }
        }
    }

    /// Reap everything that has ended, orphans included.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let found = self.processes.iter_mut().find(|(_, process)| process.pid == pid);
                    if let Some((id, process)) = found {
                        let id = *id;
                        process.reaped(status);
                        self.tell_exit(id);
                    }
                }
                Err(Errno::CHILD) => {
                    self.finished |= self.shutdown.is_some();
                    return;
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn tell_exit(&mut self, id: u32) {
        if let Some(exit) = self.processes.get_mut(&id).and_then(Process::exit) {
            self.session.exit(id, exit);
        }
        self.drop_if_finished(id);
    }

    fn drop_if_finished(&mut self, id: u32) {
        if !self.processes.get(&id).is_some_and(Process::finished) {
            return;
        }
        self.close_sink(id);
        if let Some(process) = self.processes.remove(&id) {
            self.containment.release(process.member);
            self.abandon_input(id);
        }
    }

    // Time

    fn take_time(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut count);
        self.armed = None;
        let now = Instant::now();
        if self.shutdown.is_some_and(|until| until <= now) {
            process::signal_all(Signal::KILL);
            self.finished = true;
        }
        let expired: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, process)| process.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        expired.into_iter().for_each(|id| self.expire(id, now));
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.next_sweep = (!self.session.sweep()).then(|| now + SWEEP);
        }
    }

    fn expire(&mut self, id: u32, now: Instant) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        match process.expire(now) {
            Expiry::Kill => {
                self.containment.kill(&process.member, process.pid);
                self.reap();
            }
            Expiry::GiveUp(exit) => {
                if let Some(exit) = exit {
                    self.session.exit(id, exit);
                }
                for channel in [1, 2] {
                    self.pump_out(id, channel);
                    self.close_source(id, channel);
                }
            }
        }
    }

    fn schedule_sweep(&mut self) {
        if self.next_sweep.is_none() {
            self.next_sweep = Some(Instant::now() + SWEEP);
        }
    }

    /// Set the timer to whatever comes first.
    fn arm(&mut self) {
        let deadlines = self.processes.values().filter_map(|process| process.deadline);
        let next = deadlines.chain(self.shutdown).chain(self.next_sweep).min();
        if next == self.armed {
            return;
        }
        self.armed = next;
        let wait = next.map_or(Duration::ZERO, |at| {
            // Zero would disarm the timer.
            at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1))
        });
        let value = rustix::time::Itimerspec {
            it_interval: rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: rustix::time::Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }

    fn shut_down(&mut self, grace: Duration) {
        self.shutdown = Some(Instant::now() + grace);
        process::signal_all(Signal::TERM);
        self.reap();
    }

    fn watch(&self, fd: BorrowedFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, token.pack(), flags)
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
