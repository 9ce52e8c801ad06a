//! From an exec's request to a running process: who, where, with which pipes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, WaitOptions};

use crate::contain::{Containment, Member};
use crate::message::{self, Refusal};
use crate::open::{Exec, Size, Stderr};
use crate::process::{Process, Sink};
use crate::spawn::{Request, SpawnError, Spawner, Step};
use crate::streams::Streams;
use crate::terminal;
use crate::users::{Accounts, Identity};

/// The device number of /dev/null.
const NULL_DEVICE: (u32, u32) = (1, 3);
/// Open files that we want for ourselves: three for each process, at a terminal too.
const OPEN_FILES: u64 = 8_192;

/// What every start uses.
pub struct Starter {
    /// Those of the last start, until there is time to close their files.
    accounts: Option<Accounts>,
    spawner: Spawner,
    spare: SparePipes,
    null: OwnedFd,
    /// What processes get, where we have raised our own.
    open_files: Option<libc::rlimit>,
    pub processes: Option<u32>,
}

/// Each pipe as (our end, the process's end).
struct Pipes {
    stdin: Option<(OwnedFd, OwnedFd)>,
    stdout: Option<(OwnedFd, OwnedFd)>,
    stderr: Option<(OwnedFd, OwnedFd)>,
    /// A terminal in place of all three, our end of it twice.
    terminal: Option<Terminal>,
}

struct Terminal {
    output: OwnedFd,
    input: OwnedFd,
    its: OwnedFd,
}

impl Starter {
    pub fn new(null: OwnedFd) -> Starter {
        Starter {
            accounts: None,
            spawner: Spawner::new(),
            spare: SparePipes::default(),
            null,
            open_files: raise_open_files(),
            processes: None,
        }
    }

    /// Make what the next start needs, so that it need not wait for that. What cannot be made now is made then.
    pub fn make_ready(&mut self) {
        self.accounts = None;
        self.spare.fill();
        self.spawner.make_ready();
    }

    /// Start the process and tell the host. A command that does not exist starts too, and exits 127.
    pub fn start(
        &mut self,
        streams: &mut Streams,
        containment: &mut Containment,
        id: u32,
        exec: &Exec,
    ) -> Result<Process, Refusal> {
        let accounts = self.accounts.insert(Accounts::read());
        let identity = accounts.identify(&exec.user)?;
        let pipes = Pipes::open(exec, &identity, &mut self.spare)?;
        let member = containment.admit(id).map_err(|error| exhausted("the process group", error))?;
        match self.spawn(exec, &identity, &pipes, &member, containment.mark(id)) {
            Ok((pid, complaint)) => {
                let process = pipes.hand_over(streams, id, exec, pid, member);
                if let Some(complaint) = complaint {
                    complain(streams, id, exec, &complaint);
                }
                Ok(process)
            }
            Err(refusal) => {
                containment.release(member);
                Err(refusal)
            }
        }
    }

    /// Return the process's id, and what to say if it could not become the program.
    fn spawn(
        &mut self,
        exec: &Exec,
        identity: &Identity,
        pipes: &Pipes,
        member: &Member,
        mark: Option<Vec<u8>>,
    ) -> Result<(Pid, Option<String>), Refusal> {
        let mut env = exec.env.clone();
        identity.complete(&mut env);
        if let Some(terminal) = &exec.terminal
            && !env.iter().any(|entry| entry.starts_with(b"TERM="))
        {
            env.push(format!("TERM={}", terminal.term).into_bytes());
        }
        env.extend(mark);
        let (pid, started) = self.spawner.spawn(&Request {
            argv: &exec.argv,
            env,
            cwd: &exec.cwd,
            identity,
            stdio: pipes.of_process(self.null.as_fd(), exec.stderr),
            terminal: exec.terminal.is_some(),
            join: member.join(),
            processes: self.processes,
            open_files: self.open_files,
            no_new_privileges: exec.no_new_privileges,
        });
        let pid = pid.and_then(|pid| Pid::from_raw(pid as i32));
        match (pid, started) {
            (Some(pid), Ok(())) => Ok((pid, None)),
            (Some(pid), Err(error)) if error.step == Step::Execute => {
                Ok((pid, Some(complaint(exec, error.errno))))
            }
            (Some(pid), Err(error)) => {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                Err(unprepared(exec, &error))
            }
            (None, Err(error)) => Err(exhausted("the process", error.errno.into())),
            (None, Ok(())) => Err(exhausted("the process", Errno::SRCH.into())),
        }
    }
}

impl Pipes {
    fn open(exec: &Exec, identity: &Identity, spare: &mut SparePipes) -> Result<Pipes, Refusal> {
        let refused = |errno: Errno| exhausted("the pipes", errno.into());
        if let Some(asked) = &exec.terminal {
            let terminal = Terminal::open(asked.size, identity)
                .map_err(|errno| exhausted("the terminal", errno.into()))?;
            return Ok(Pipes { stdin: None, stdout: None, stderr: None, terminal: Some(terminal) });
        }
        Ok(Pipes {
            stdin: exec.stdin.then(|| spare.take_to()).transpose().map_err(refused)?,
            stdout: exec.stdout.then(|| spare.take_from()).transpose().map_err(refused)?,
            stderr: (exec.stderr == Stderr::Pipe).then(|| spare.take_from()).transpose().map_err(refused)?,
            terminal: None,
        })
    }

    fn of_process<'a>(&'a self, null: BorrowedFd<'a>, stderr: Stderr) -> [BorrowedFd<'a>; 3] {
        if let Some(terminal) = &self.terminal {
            return [terminal.its.as_fd(); 3];
        }
        let end = |pipe: &'a Option<(OwnedFd, OwnedFd)>| pipe.as_ref().map_or(null, |(_, its)| its.as_fd());
        let errors = if stderr == Stderr::Stdout { &self.stdout } else { &self.stderr };
        [end(&self.stdin), end(&self.stdout), end(errors)]
    }

    /// Close the process's ends, and give ours to the process's record and the streams.
    fn hand_over(self, streams: &mut Streams, id: u32, exec: &Exec, pid: Pid, member: Member) -> Process {
        let mut process = Process::new(pid, member, Duration::from_millis(exec.timeout_ms));
        for (channel, pipe) in [(1, self.stdout), (2, self.stderr)] {
            if let Some((ours, _)) = pipe {
                process.add_source(channel, ours);
                streams.open_output(id, channel, exec.limits[usize::from(channel) - 1]);
            }
        }
        let fed = self.stdin.is_some() || self.terminal.is_some();
        if let Some((ours, _)) = self.stdin {
            process.sink = Some(Sink::pipe(ours));
        }
        if let Some(terminal) = self.terminal {
            process.add_terminal(terminal.output, terminal.input, terminal.its);
            streams.open_output(id, 1, exec.limits[0]);
        }
        let pid = pid.as_raw_nonzero().get() as u32;
        streams.started(id, Some(pid), &message::started(Some(pid)));
        if fed {
            streams.open_input(id);
        }
        process
    }
}

impl Terminal {
    fn open(size: Size, identity: &Identity) -> Result<Terminal, Errno> {
        let (output, its) = terminal::open(size, identity)?;
        let input = rustix::io::fcntl_dupfd_cloexec(&output, 3)?;
        Ok(Terminal { output, input, its })
    }
}

/// Pipes that no process has yet, each as (our end, the process's end).
#[derive(Default)]
struct SparePipes {
    from: Vec<(OwnedFd, OwnedFd)>,
    to: Option<(OwnedFd, OwnedFd)>,
}

impl SparePipes {
    /// Have as many as one process needs.
    fn fill(&mut self) {
        while self.from.len() < 2 {
            match pipe_from_process() {
                Ok(pipe) => self.from.push(pipe),
                Err(_) => return,
            }
        }
        if self.to.is_none() {
            self.to = pipe_to_process().ok();
        }
    }

    fn take_from(&mut self) -> Result<(OwnedFd, OwnedFd), Errno> {
        self.from.pop().map_or_else(pipe_from_process, Ok)
    }

    fn take_to(&mut self) -> Result<(OwnedFd, OwnedFd), Errno> {
        self.to.take().map_or_else(pipe_to_process, Ok)
    }
}

fn pipe_from_process() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?; // a new pipe has no other flag to keep
    Ok((read, write))
}

fn pipe_to_process() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
    Ok((write, read))
}

/// Say on the process's own stderr why it did not become the program.
fn complain(streams: &mut Streams, id: u32, exec: &Exec, complaint: &str) {
    let channel = if exec.stderr == Stderr::Stdout { 1 } else { 2 };
    // What a terminal shows goes on in the next line, but not at its beginning, unless it is told to.
    let end = if exec.terminal.is_some() { "\r\n" } else { "\n" };
    if let Some(output) = streams.outgoing(id, channel) {
        output.ring.append(format!("{complaint}{end}").as_bytes());
        streams.produced(id, channel);
    }
}

fn complaint(exec: &Exec, errno: Errno) -> String {
    let name = String::from_utf8_lossy(&exec.argv[0]);
    match errno {
        Errno::NOENT => format!("skerry: {name:.512?}: command not found"),
        errno => format!("skerry: {name:.512?}: cannot be executed: {}", io::Error::from(errno)),
    }
}

fn exhausted(what: &str, cause: io::Error) -> Refusal {
    Refusal::new("resource_exhausted", format!("cannot make {what}: {cause}"))
}

/// Return the refusal for a step before the program itself.
fn unprepared(exec: &Exec, error: &SpawnError) -> Refusal {
    let cause = io::Error::from(error.errno);
    let (code, what) = match error.step {
        Step::Directory => {
            let cwd = String::from_utf8_lossy(&exec.cwd);
            ("failed_precondition", format!("cannot enter the working directory {cwd:?}"))
        }
        Step::Identity => ("failed_precondition", format!("cannot become the user {:?}", exec.user)),
        Step::Contain => ("io", "cannot contain the process".to_owned()),
        _ => ("io", "cannot prepare the process".to_owned()),
    };
    Refusal::new(code, format!("{what}: {cause}"))
}

/// Return /dev/null, or where the image has none that is genuine, one of our own that has no name.
pub fn open_null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty())
        && is_null(&null)
    {
        rustix::fs::fcntl_setfl(&null, OFlags::RDWR)?;
        return Ok(null);
    }
    let path = "/.skerry-null";
    let device = rustix::fs::makedev(NULL_DEVICE.0, NULL_DEVICE.1);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        device,
    )?;
    let null = rustix::fs::open(path, flags, Mode::empty());
    rustix::fs::unlink(path)?;
    Ok(null?)
}

fn is_null(fd: &OwnedFd) -> bool {
    let device = rustix::fs::makedev(NULL_DEVICE.0, NULL_DEVICE.1);
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == device
    })
}

/// Raise our own limit of open files; return the one that processes are to have.
fn raise_open_files() -> Option<libc::rlimit> {
    let was = rustix::process::getrlimit(Resource::Nofile);
    if was.current.is_none_or(|soft| soft >= OPEN_FILES) {
        return None;
    }
    let wanted = was.maximum.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    let raised = rustix::process::Rlimit { current: Some(wanted), maximum: was.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).ok()?;
    let unlimited = libc::RLIM_INFINITY;
    Some(libc::rlimit {
        rlim_cur: was.current.unwrap_or(unlimited),
        rlim_max: was.maximum.unwrap_or(unlimited),
    })
}
