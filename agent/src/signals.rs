//! Signals: PID 1 takes them from a descriptor, and believes only those that come from outside the sandbox.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

const SIGNAL_BYTES: usize = size_of::<libc::signalfd_siginfo>();
/// The highest signal number.
const LAST: i32 = 64;

/// The only signals whose action may be another than the default one: those that Rust has set up before us, and those
/// that whoever starts us may ignore (`nohup`, a shell's `&`). A start waits for each call, so the others get none.
const NOT_DEFAULT: [i32; 10] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGPIPE,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCHLD,
];

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Child,
    Terminate,
}

/// Block every signal and return a descriptor from which SIGCHLD and SIGTERM can be read.
///
/// A blocked signal stays pending, so nothing that a process in the sandbox sends does anything to us; SIGKILL
/// and SIGSTOP, which cannot be blocked, the kernel withholds from PID 1. SIGALRM alone stays open, see `alarm`.
pub fn take() -> Result<OwnedFd, Errno> {
    for number in NOT_DEFAULT {
        set_action(number, libc::SIG_DFL);
    }
    set_action(libc::SIGALRM, ignore as *const () as libc::sighandler_t);
    let blocked = mask(|number| number != libc::SIGALRM);
    let wanted = mask(|number| number == libc::SIGCHLD || number == libc::SIGTERM);
    // SAFETY: both sets are initialised and outlive the calls; the new descriptor is ours alone.
    unsafe {
        if libc::sigprocmask(libc::SIG_SETMASK, &blocked, ptr::null_mut()) != 0 {
            return Err(last_errno());
        }
        match libc::signalfd(-1, &wanted, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(last_errno()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Return the signals that have come and count.
pub fn received(fd: &OwnedFd) -> Vec<Received> {
    // Both that we take fit more than once, so that one call tells that there are no more.
    let mut raw = [0; 4 * SIGNAL_BYTES];
    let mut found = Vec::new();
    while let Ok(count) = rustix::io::read(fd, &mut raw) {
        found.extend(raw[..count].chunks_exact(SIGNAL_BYTES).filter_map(signal));
        if count < raw.len() {
            break;
        }
    }
    found
}

fn signal(raw: &[u8]) -> Option<Received> {
    let number = u32::from_ne_bytes([raw[0], raw[1], raw[2], raw[3]]);
    let sender = u32::from_ne_bytes([raw[12], raw[13], raw[14], raw[15]]);
    match number as i32 {
        libc::SIGCHLD => Some(Received::Child),
        // A sender outside our PID namespace has no number in it.
        libc::SIGTERM if sender == 0 => Some(Received::Terminate),
        _ => None,
    }
}

/// Interrupts system calls of this thread every `milliseconds` while it lives.
///
/// A descriptor that comes from inside the sandbox may be switched to blocking behind our back, between the
/// moment we ask whether there is something to read and the read itself. This ends such a read.
pub struct Alarm;

impl Alarm {
    pub fn every(milliseconds: i64) -> Alarm {
        set_timer(milliseconds * 1_000);
        Alarm
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        set_timer(0);
    }
}

fn set_timer(microseconds: i64) {
    let value = libc::timeval { tv_sec: microseconds / 1_000_000, tv_usec: microseconds % 1_000_000 };
    let timer = libc::itimerval { it_interval: value, it_value: value };
    // SAFETY: the timer's setting is initialised and outlives the call.
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
}

extern "C" fn ignore(_number: i32) {}

fn set_action(number: i32, handler: libc::sighandler_t) {
    // SAFETY: an all-zero sigaction is a valid one; the handler is the default or does nothing at all. Signals
    // whose action cannot be set are refused by the call, which is what we want.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler;
        libc::sigaction(number, &action, ptr::null_mut());
    }
}

fn mask(member: impl Fn(i32) -> bool) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before anything reads it.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for number in (1..=LAST).filter(|number| member(*number)) {
            libc::sigaddset(&mut set, number);
        }
        set
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
