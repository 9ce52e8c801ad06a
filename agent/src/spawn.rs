//! Starting a program: a child that shares our memory until it has become the program.
//!
//! `fork` would copy PID 1's address space for nothing. The child runs on a stack of its own, makes raw system
//! calls only, and reports a failure through shared memory, while we wait for it to leave that memory: a pipe
//! that closes on exec tells when. CLONE_VFORK would do the same wait in the kernel, but without an end: from
//! the moment at which the child belongs to its user, that user can stop it, and PID 1 with it.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::users::Identity;

const STACK_BYTES: usize = 64 << 10;
/// How long we wait before we look whether the child was stopped, and how often we continue it.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
const CONTINUES: u32 = 200;
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// The step at which a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    Clone = 1,
    Contain,
    Descriptors,
    Limits,
    Identity,
    Directory,
    Execute,
}

#[derive(Debug)]
pub struct SpawnError {
    pub step: Step,
    pub errno: Errno,
}

/// Everything that a start needs.
pub struct Request<'a> {
    pub argv: &'a [Vec<u8>],
    pub env: Vec<Vec<u8>>,
    pub cwd: &'a [u8],
    pub identity: &'a Identity,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Descriptor 0 becomes the controlling terminal.
    pub terminal: bool,
    /// `cgroup.procs` of the group to join.
    pub join: Option<BorrowedFd<'a>>,
    pub processes: Option<u32>,
    pub open_files: Option<libc::rlimit>,
    pub no_new_privileges: bool,
}

/// The same as plain memory that the child can use without allocating.
struct Plan {
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    /// `/bin/sh`, a place for the script's path, and the arguments after the first.
    script_argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// Null where it is the root, in which PID 1 is already.
    cwd: *const c_char,
    stdio: [c_int; 3],
    terminal: bool,
    join: c_int,
    groups: Vec<libc::gid_t>,
    gid: libc::gid_t,
    uid: libc::uid_t,
    processes: Option<libc::rlimit>,
    open_files: Option<libc::rlimit>,
    no_new_privileges: bool,
    /// Our own capabilities.
    held: Option<CapabilitySets>,
    failed: Option<(Step, c_int)>,
}

/// The stack that every child uses in turn, and a pipe that is made ahead.
pub struct Spawner {
    stack: Box<[u8]>,
    /// Our own capabilities: what the sandbox was set up with, and nobody changes afterwards.
    held: Option<CapabilitySets>,
    departure: Option<(OwnedFd, OwnedFd)>,
}

impl Spawner {
    pub fn new() -> Spawner {
        Spawner { stack: vec![0; STACK_BYTES].into_boxed_slice(), held: None, departure: None }
    }

    /// Make what the next child needs.
    pub fn make_ready(&mut self) {
        if self.held.is_none() {
            self.held = rustix::thread::capabilities(None).ok();
        }
        if self.departure.is_none() {
            self.departure = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok();
        }
    }

    /// Start the program and return its process id. After `Step::Execute` the child is a zombie to be reaped.
    pub fn spawn(&mut self, request: &Request) -> (Option<u32>, Result<(), SpawnError>) {
        let argv = c_strings(request.argv);
        let env = c_strings(&request.env);
        let candidates = c_strings(&candidates(&request.argv[0], &request.env));
        let cwd = c_string(request.cwd);
        let mut plan = Plan {
            candidates: pointers(&candidates),
            argv: pointers(&argv),
            script_argv: [SHELL.as_ptr(), ptr::null()].into_iter().chain(pointers(&argv[1..])).collect(),
            envp: pointers(&env),
            cwd: if request.cwd == b"/" { ptr::null() } else { cwd.as_ptr() },
            stdio: [0, 1, 2].map(|index| request.stdio[index].as_raw_fd()),
            terminal: request.terminal,
            join: request.join.map_or(-1, |fd| fd.as_raw_fd()),
            groups: request.identity.groups.clone(),
            gid: request.identity.gid,
            uid: request.identity.uid,
            processes: request
                .processes
                .map(|most| libc::rlimit { rlim_cur: most.into(), rlim_max: most.into() }),
            open_files: request.open_files,
            no_new_privileges: request.no_new_privileges,
            held: self.held,
            failed: None,
        };
        let pid = self.clone_child(&mut plan);
        // SAFETY: the child has left this memory, so that nobody else writes to the plan any more.
        let failed = unsafe { ptr::from_ref(&plan.failed).read_volatile() };
        match (pid, failed) {
            (Err(errno), _) => (None, Err(SpawnError { step: Step::Clone, errno })),
            (Ok(pid), None) => (Some(pid), Ok(())),
            (Ok(pid), Some((step, errno))) => {
                (Some(pid), Err(SpawnError { step, errno: Errno::from_raw_os_error(errno) }))
            }
        }
    }

    fn clone_child(&mut self, plan: &mut Plan) -> Result<u32, Errno> {
        let ready = self.departure.take();
        let (gone, held) = ready.map_or_else(|| rustix::pipe::pipe_with(PipeFlags::CLOEXEC), Ok)?;
        let argument: *mut Plan = plan;
        // SAFETY: the stack is used by no other child and large enough for `child`, which only makes system
        // calls. Until `await_departure` returns we touch neither stack nor plan, nor errno, which is the
        // child's too: the calls that we make meanwhile are rustix's, which do without it.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr().add(self.stack.len());
            let top = top.sub(top as usize % 16);
            libc::clone(child, top.cast(), libc::CLONE_VM | libc::SIGCHLD, argument.cast())
        };
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Err(last_errno());
        };
        drop(held);
        await_departure(&gone, pid);
        Ok(pid.as_raw_nonzero().get() as u32)
    }
}

/// Wait until the child has executed its program or is dead. One that somebody keeps stopping is continued for
/// a while, then killed.
fn await_departure(gone: &OwnedFd, pid: Pid) {
    for round in 0u32.. {
        let mut fds = [PollFd::new(gone, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&PATIENCE)) {
            Ok(0) => {
                let signal = if round < CONTINUES { Signal::CONT } else { Signal::KILL };
                let _ = rustix::process::kill_process(pid, signal);
            }
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Return the paths to try, as a shell would: `name` itself if it has a slash, else below each folder of PATH.
fn candidates(name: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(|byte| *byte == b':')
        .map(|folder| match folder {
            b"" => [b"./", name].concat(),
            folder => [folder, b"/", name].concat(),
        })
        .collect()
}

/// Bytes that were checked to be free of NUL become a C string.
fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

fn c_strings(items: &[Vec<u8>]) -> Vec<CString> {
    items.iter().map(|item| c_string(item)).collect()
}

fn pointers(items: &[CString]) -> Vec<*const c_char> {
    items.iter().map(|item| item.as_ptr()).chain([ptr::null()]).collect()
}

/// What runs in the child. It never returns to Rust code of the parent: it executes or exits.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the plan of the parent, which touches nothing of it until we are gone.
    let plan = unsafe { &mut *argument.cast::<Plan>() };
    let failed = become_program(plan);
    plan.failed = Some(failed);
    // The codes that shells use: not found, and found but not executed.
    let code = if failed == (Step::Execute, libc::ENOENT) { 127 } else { 126 };
    // SAFETY: the child ends here without running any of the parent's clean-up.
    unsafe { libc::_exit(code) }
}

/// Walk through the steps; returns only when one has failed.
fn become_program(plan: &mut Plan) -> (Step, c_int) {
    let prepared = contain(plan)
        .and_then(|()| arrange_descriptors(plan))
        .and_then(|()| set_limits(plan))
        .and_then(|()| take_identity(plan))
        .and_then(|()| enter_directory(plan))
        .and_then(|()| clear_signals());
    match prepared {
        Err(failed) => failed,
        Ok(()) => execute(plan),
    }
}

type Stepped = Result<(), (Step, c_int)>;

/// Make one system call of the step.
macro_rules! call {
    ($step:expr, $number:expr $(, $argument:expr)*) => {{
        // SAFETY: a raw system call whose pointers, if any, lead into the plan, which outlives the child.
        let result = unsafe { libc::syscall($number $(, $argument as usize)*) };
        if result < 0 { Err(($step, errno())) } else { Ok(result) }
    }};
}

fn errno() -> c_int {
    // SAFETY: the address of errno is valid; the parent, whose thread we share it with, leaves it alone.
    unsafe { *libc::__errno_location() }
}

fn contain(plan: &Plan) -> Stepped {
    if plan.join >= 0 {
        call!(Step::Contain, libc::SYS_write, plan.join, c"0".as_ptr(), 1)?;
        delimit(plan.held).map_err(|errno| (Step::Contain, errno.raw_os_error()))?;
    }
    call!(Step::Contain, libc::SYS_setsid).map(drop)
}

/// Let every cgroup file system that the process may come to see begin at the group that it is in now. That needs
/// what PID 1 may do and does not use, and what the process loses here.
fn delimit(known: Option<CapabilitySets>) -> Result<(), Errno> {
    let held = known.map_or_else(|| rustix::thread::capabilities(None), Ok)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })?;
    // SAFETY: a cgroup namespace takes nothing away from the memory and descriptors that we share with the parent.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?;
    let kept = held.permitted.difference(CapabilitySet::SYS_ADMIN);
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, ..held })
}

fn arrange_descriptors(plan: &Plan) -> Stepped {
    for (target, source) in plan.stdio.iter().enumerate() {
        // The sources are all above 2 and close on exec, which their copies do not.
        call!(Step::Descriptors, libc::SYS_dup3, *source, target as c_int, 0)?;
    }
    if plan.terminal {
        // The session is new and the terminal too, so nobody is robbed of one.
        call!(Step::Descriptors, libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0)?;
    }
    Ok(())
}

fn set_limits(plan: &Plan) -> Stepped {
    for (resource, limit) in [(libc::RLIMIT_NPROC, &plan.processes), (libc::RLIMIT_NOFILE, &plan.open_files)]
    {
        if let Some(limit) = limit {
            let none = ptr::null_mut::<libc::rlimit>();
            call!(Step::Limits, libc::SYS_prlimit64, 0, resource, ptr::from_ref(limit), none)?;
        }
    }
    if plan.no_new_privileges {
        call!(Step::Limits, libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    }
    Ok(())
}

fn take_identity(plan: &Plan) -> Stepped {
    if plan.uid == 0 && plan.gid == 0 && plan.groups.is_empty() {
        return Ok(()); // That is what PID 1 is.
    }
    call!(Step::Identity, libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr())?;
    call!(Step::Identity, libc::SYS_setresgid, plan.gid, plan.gid, plan.gid)?;
    call!(Step::Identity, libc::SYS_setresuid, plan.uid, plan.uid, plan.uid).map(drop)
}

/// Like chdir, but not through a link of procfs: what it leads to may answer never (see paths.rs), and PID 1 waits.
fn enter_directory(plan: &Plan) -> Stepped {
    if plan.cwd.is_null() {
        return Ok(());
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let how = [flags as u64, 0, libc::RESOLVE_NO_MAGICLINKS]; // struct open_how: flags, mode, resolve
    let (how, size) = (&raw const how, size_of_val(&how));
    let folder = call!(Step::Directory, libc::SYS_openat2, libc::AT_FDCWD, plan.cwd, how, size)?;
    call!(Step::Directory, libc::SYS_fchdir, folder).map(drop)
}

/// Unblock every signal; their dispositions are the default ones already, or become so by execve.
fn clear_signals() -> Stepped {
    let none: u64 = 0;
    let old = ptr::null_mut::<u64>();
    call!(Step::Execute, libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, old, size_of::<u64>())
        .map(drop)
}

/// Try each candidate, as execvp does: a script without an interpreter line is given to the shell.
fn execute(plan: &mut Plan) -> (Step, c_int) {
    let mut refused = libc::ENOENT;
    for index in 0..plan.candidates.len() - 1 {
        let path = plan.candidates[index];
        let mut failure = try_execute(path, plan.argv.as_ptr(), plan.envp.as_ptr());
        if failure == libc::ENOEXEC {
            plan.script_argv[1] = path;
            failure = try_execute(SHELL.as_ptr(), plan.script_argv.as_ptr(), plan.envp.as_ptr());
        }
        match failure {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => refused = libc::EACCES,
            failure => return (Step::Execute, failure),
        }
    }
    (Step::Execute, refused)
}

fn try_execute(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
    // SAFETY: the path is a C string and both lists end with a null pointer; all live in the plan.
    unsafe { libc::syscall(libc::SYS_execve, path, argv, envp) };
    errno()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_each_folder_of_the_path_of_its_environment() {
        let env = vec![b"PATH=/a::/b".to_vec()];
        assert_eq!(candidates(b"x", &env), [b"/a/x".to_vec(), b"./x".to_vec(), b"/b/x".to_vec()]);
        assert_eq!(candidates(b"./x", &env), [b"./x".to_vec()]);
        assert_eq!(candidates(b"x", &[]).len(), 6);
    }
}
