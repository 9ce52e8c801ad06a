//! What Linux does for PID 1 and gVisor does not: signals from inside leave it alone.
//!
//! gVisor lets the sandbox's root kill or stop PID 1 (its task_signals.go says so in a TODO), and that would end
//! the sandbox. So every process runs behind a seccomp filter that turns a signal to process 1 into nothing, as
//! Linux does, and refuses the other calls by which one process changes another. The filter looks at arguments
//! of these few calls only; for all others gVisor remembers the verdict, so that they cost nothing more.

use std::io;
use std::ptr;

/// Process 1 is also the leader of the process group 1, which some calls write as -1.
const INIT: u32 = 1;
const INIT_GROUP: u32 = u32::MAX;
const F_SETOWN_EX: u32 = 15;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where the parts of a call stand in what a filter sees (struct seccomp_data).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// A call that is not made, when each of these arguments (by its lower half) has this value.
struct Rule {
    call: libc::c_long,
    arguments: &'static [(u32, u32)],
    errno: i32,
}

/// A signal to PID 1 is said to have been sent, and does nothing.
const IGNORED: i32 = 0;

const RULES: &[Rule] = &[
    Rule { call: libc::SYS_kill, arguments: &[(0, INIT)], errno: IGNORED },
    Rule { call: libc::SYS_tkill, arguments: &[(0, INIT)], errno: IGNORED },
    Rule { call: libc::SYS_tgkill, arguments: &[(0, INIT)], errno: IGNORED },
    Rule { call: libc::SYS_rt_sigqueueinfo, arguments: &[(0, INIT)], errno: IGNORED },
    Rule { call: libc::SYS_rt_tgsigqueueinfo, arguments: &[(0, INIT)], errno: IGNORED },
    Rule { call: libc::SYS_pidfd_open, arguments: &[(0, INIT)], errno: libc::EPERM },
    // What it is given may stand for PID 1: a folder of /proc is one of the things that it takes (gVisor's pidfd.go).
    // Programs that use it know kernels without it, and send their signals by number there.
    Rule { call: libc::SYS_pidfd_send_signal, arguments: &[], errno: libc::ENOSYS },
    Rule { call: libc::SYS_prlimit64, arguments: &[(0, INIT)], errno: libc::EPERM },
    Rule { call: libc::SYS_sched_setaffinity, arguments: &[(0, INIT)], errno: libc::EPERM },
    Rule { call: libc::SYS_sched_setscheduler, arguments: &[(0, INIT)], errno: libc::EPERM },
    Rule { call: libc::SYS_sched_setparam, arguments: &[(0, INIT)], errno: libc::EPERM },
    Rule { call: libc::SYS_setpriority, arguments: &[(1, INIT)], errno: libc::EPERM },
    // A descriptor can be told to send a signal of one's choice when it is ready.
    Rule { call: libc::SYS_fcntl, arguments: &[(1, libc::F_SETOWN as u32), (2, INIT)], errno: libc::EPERM },
    Rule {
        call: libc::SYS_fcntl,
        arguments: &[(1, libc::F_SETOWN as u32), (2, INIT_GROUP)],
        errno: libc::EPERM,
    },
    Rule { call: libc::SYS_fcntl, arguments: &[(1, F_SETOWN_EX)], errno: libc::EPERM },
    Rule { call: libc::SYS_ioctl, arguments: &[(1, FIOSETOWN)], errno: libc::EPERM },
    Rule { call: libc::SYS_ioctl, arguments: &[(1, SIOCSPGRP)], errno: libc::EPERM },
];

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn statement(code: u32, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: operand }
}

/// Go on with the next instruction if what was loaded is `value`, else skip `otherwise` of them.
fn unless_equal_skip(value: u32, otherwise: usize) -> libc::sock_filter {
    libc::sock_filter { code: EQUAL as u16, jt: 0, jf: otherwise as u8, k: value }
}

fn program() -> Vec<libc::sock_filter> {
    let mut program = vec![
        statement(LOAD, ARCHITECTURE_AT),
        // Numbers of another architecture mean other calls.
        libc::sock_filter { code: EQUAL as u16, jt: 1, jf: 0, k: ARCHITECTURE },
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    for rule in RULES {
        let tests = 2 * rule.arguments.len();
        program.push(statement(LOAD, NUMBER_AT));
        program.push(unless_equal_skip(rule.call as u32, tests + 1));
        for (index, (argument, value)) in rule.arguments.iter().enumerate() {
            program.push(statement(LOAD, ARGUMENTS_AT + 8 * argument));
            program.push(unless_equal_skip(*value, tests - 2 * (index + 1) + 1));
        }
        program.push(statement(RETURN, libc::SECCOMP_RET_ERRNO | rule.errno as u32));
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}

/// Put this process, and so everything that it starts, behind the filter; needs CAP_SYS_ADMIN.
pub fn raise() -> io::Result<()> {
    let mut program = program();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program and its description outlive the call, which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER as usize,
            0usize,
            ptr::from_ref(&filter),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run the program on a call, as the kernel does.
    fn verdict(call: libc::c_long, arguments: [u32; 3]) -> u32 {
        let program = program();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let instruction = &program[at];
            at += 1;
            match u32::from(instruction.code) {
                LOAD => {
                    loaded = match instruction.k {
                        NUMBER_AT => call as u32,
                        ARCHITECTURE_AT => ARCHITECTURE,
                        offset => arguments[(offset - ARGUMENTS_AT) as usize / 8],
                    }
                }
                EQUAL if loaded == instruction.k => at += usize::from(instruction.jt),
                EQUAL => at += usize::from(instruction.jf),
                _ => return instruction.k,
            }
        }
    }

    #[test]
    fn a_signal_to_init_does_nothing_and_to_others_goes_through() {
        let nothing = libc::SECCOMP_RET_ERRNO;
        for call in [libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo] {
            assert_eq!(verdict(call, [1, 9, 0]), nothing);
            for target in [2, 0, u32::MAX] {
                assert_eq!(verdict(call, [target, 9, 0]), libc::SECCOMP_RET_ALLOW);
            }
        }
    }

    #[test]
    fn init_is_nobodys_to_change() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        assert_eq!(verdict(libc::SYS_prlimit64, [1, 0, 0]), refused);
        assert_eq!(verdict(libc::SYS_prlimit64, [0, 0, 0]), libc::SECCOMP_RET_ALLOW);
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(verdict(libc::SYS_pidfd_send_signal, [5, 9, 0]), absent);
        let set_owner = libc::F_SETOWN as u32;
        assert_eq!(verdict(libc::SYS_fcntl, [5, set_owner, 1]), refused);
        assert_eq!(verdict(libc::SYS_fcntl, [5, set_owner, u32::MAX]), refused);
        assert_eq!(verdict(libc::SYS_fcntl, [5, set_owner, 7]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(libc::SYS_fcntl, [1, libc::F_DUPFD as u32, 1]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(verdict(libc::SYS_getpid, [1, 1, 1]), libc::SECCOMP_RET_ALLOW);
    }
}
