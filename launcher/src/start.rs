//! The two sides of a start: the one that stays outside and tells the pid, and the one that becomes the program.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit};

use crate::confine::{self, NOBODY};
use crate::options::Options;
use crate::{Failure, Step};

/// Stands for the descriptor that takes /proc away.
const PROC_WORD: &[u8] = b"{proc}";
const MESSAGE_MAX: u64 = 1024;

/// Start the program and return its pid; it has been executed by then.
pub fn start(options: &Options) -> Result<i32, Failure> {
    renumber(&options.pass).step("pass on the descriptors")?;
    for file in &options.join {
        // 0 is the writer itself. Such a thread cannot come or go meanwhile, so the kernel takes no lock against all
        // forks of the machine, for which it would wait 10 ms (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
        fs::write(file, "0").step(&format!("join {}", file.display()))?;
    }
    // The sentry locks memory for moments, to have it faulted in faster, and cannot raise this limit once it is
    // nobody. Where root may not raise it either (a container without SYS_RESOURCE), it does without.
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = rustix::process::setrlimit(Resource::Memlock, unlimited);
    let exe = rustix::fs::open(&options.exe, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step(&format!("open {}", options.exe.display()))?;
    let (mapped, tell_mapped) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    let (failed, tell_failed) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    let pid = clone(options.gofer)?;
    if pid == 0 {
        drop((tell_mapped, failed));
        become_program(options, &exe, mapped, tell_failed)
    }
    drop((mapped, tell_failed));
    let mapped_users = if options.gofer { Ok(()) } else { map_users(pid) };
    let told = mapped_users.and_then(|()| File::from(tell_mapped).write_all(b"m").step("tell the child"));
    let outcome = told.and_then(|()| wait_executed(failed));
    if outcome.is_err() {
        // SAFETY: the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    outcome.map(|()| pid)
}

/// Make the descriptors 3, 4, 5 and so on: the sentry wants some high numbers for itself, and a server with many
/// sandboxes hands over any number.
fn renumber(descriptors: &[i32]) -> Result<(), std::io::Error> {
    let beyond = descriptors.iter().copied().max().unwrap_or(0).max(2 + count(descriptors)) + 1;
    let mut moved = Vec::new();
    for descriptor in descriptors {
        // SAFETY: plain descriptors; whether they are open is the kernel's to say.
        match unsafe { libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, beyond) } {
            -1 => return Err(std::io::Error::last_os_error()),
            copy => moved.push(copy),
        }
        // SAFETY: it was the caller's to give, and nothing here uses its number.
        unsafe { libc::close(*descriptor) };
    }
    for (target, copy) in (3..).zip(moved) {
        // SAFETY: as above; the copies lie beyond all targets. A descriptor that is open at a target is the program's
        // no more, since only those named here are.
        if unsafe { libc::dup2(copy, target) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: opened above.
        unsafe { libc::close(copy) };
    }
    Ok(())
}

fn count(descriptors: &[i32]) -> i32 {
    i32::try_from(descriptors.len()).expect("the kernel bounds arguments far below this")
}

/// Fork into new namespaces of every kind that separates a sentry from the machine. A gofer stays among the machine's
/// users: it keeps the owners of files as its guests set them.
fn clone(gofer: bool) -> Result<i32, Failure> {
    let users = if gofer { 0 } else { libc::CLONE_NEWUSER };
    let kinds = users
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: all-zero is a valid clone_args, which is plain numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(kinds.unsigned_abs());
    arguments.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    let size = size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM this is a fork, and this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) };
    if pid < 0 {
        return Err(std::io::Error::last_os_error()).step("make new namespaces");
    }
    Ok(i32::try_from(pid).expect("a pid fits into 32 bits"))
}

/// Nobody inside is nobody outside, and there is no one else.
fn map_users(pid: i32) -> Result<(), Failure> {
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("{NOBODY} {NOBODY} 1\n"))
            .step(&format!("write the {map}"))?;
    }
    Ok(())
}

fn wait_executed(failed: OwnedFd) -> Result<(), Failure> {
    let mut message = String::new();
    File::from(failed).take(MESSAGE_MAX).read_to_string(&mut message).step("hear from the child")?;
    if message.is_empty() { Ok(()) } else { Err(Failure::Child(message)) }
}

fn become_program(options: &Options, exe: &OwnedFd, mapped: OwnedFd, tell_failed: OwnedFd) -> ! {
    let Err(failure) = confine_and_execute(options, exe, mapped);
    let _ = File::from(tell_failed).write_all(failure.to_string().as_bytes());
    // SAFETY: _exit runs nothing of ours.
    unsafe { libc::_exit(1) }
}

fn confine_and_execute(
    options: &Options,
    exe: &OwnedFd,
    mapped: OwnedFd,
) -> Result<std::convert::Infallible, Failure> {
    File::from(mapped).read_exact(&mut [0]).step("wait for the parent")?;
    rustix::process::setsid().step("start a session")?;
    confine::silence()?;
    confine::leave_no_core()?;
    confine::die_before_others()?;
    if options.gofer {
        confine::leave_groups()?;
        return execute(exe, &options.argv, &options.env);
    }
    confine::become_nobody()?;
    confine::change_root()?;
    let unmount = confine::keep_unmounter()?;
    confine::drop_capabilities()?;
    execute(exe, &named(&options.argv, unmount.as_raw_fd()), &options.env)
}

/// The arguments with the descriptor's number where it belongs.
fn named(argv: &[CString], descriptor: i32) -> Vec<CString> {
    let number = descriptor.to_string();
    argv.iter().map(|word| replaced(word, &number)).collect()
}

fn replaced(word: &CStr, number: &str) -> CString {
    let bytes = word.to_bytes();
    match bytes.windows(PROC_WORD.len()).position(|window| window == PROC_WORD) {
        Some(at) => {
            let whole = [&bytes[..at], number.as_bytes(), &bytes[at + PROC_WORD.len()..]].concat();
            CString::new(whole).expect("no NUL was added")
        }
        None => word.to_owned(),
    }
}

fn execute(exe: &OwnedFd, argv: &[CString], env: &[CString]) -> Result<std::convert::Infallible, Failure> {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            exe.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(std::io::Error::last_os_error()).step("execute the program")
}

/// The array that execve takes: it ends with a null pointer.
fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_become_the_first_ones_in_their_order() {
        // A process of its own: the numbers belong to all threads of this one.
        // SAFETY: the child only makes system calls and ends.
        match unsafe { libc::fork() } {
            0 => {
                let ours: Vec<_> = ["/", "/dev", "/proc"]
                    .iter()
                    .map(|path| rustix::fs::open(*path, OFlags::PATH, Mode::empty()).unwrap())
                    .collect();
                let names = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
                let given: Vec<_> = [2, 0, 1].iter().map(|index| ours[*index].as_raw_fd()).collect();
                let before: Vec<_> = given.iter().map(|fd| names(*fd)).collect();
                let done = renumber(&given).is_ok() && before == [3, 4, 5].map(names);
                // SAFETY: _exit runs nothing of ours.
                unsafe { libc::_exit(i32::from(!done)) }
            }
            child => {
                let mut status = 0;
                // SAFETY: the status is ours to write to.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
    }

    #[test]
    fn the_word_becomes_the_descriptor() {
        let argv = [c"boot".to_owned(), c"--proc-mount-sync-fd={proc}".to_owned(), c"x".to_owned()];
        let expected = [c"boot".to_owned(), c"--proc-mount-sync-fd=17".to_owned(), c"x".to_owned()];
        assert_eq!(named(&argv, 17), expected);
    }
}
