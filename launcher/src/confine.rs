//! What the program loses, step by step; gVisor's runsc does the same in three executions of itself (its
//! createSandboxProcess, setUpChroot and CallSelfAsNobody). A test compares what comes out with a sandbox of runsc's.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::{Failure, Step};

pub const NOBODY: u32 = 65534;
/// Everything but what a mount needs in order to be there.
const BARE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// Where the new root is put together: in this mount namespace alone, so the folder only has to exist.
const ROOT: &str = "/tmp";
/// Files of /proc that the sentry reads before it gives up /proc.
const COPIED: [&str; 2] = ["/proc/sys/vm/mmap_min_addr", "/proc/sys/kernel/cap_last_cap"];
const SCORE: &str = "/proc/self/oom_score_adj";
/// Capabilities of kernels to come are refused by the kernel of today, which ends the count.
const CAPABILITIES_MAX: u32 = 64;

/// Take on the one user that the user namespace knows.
pub fn become_nobody() -> Result<(), Failure> {
    leave_groups()?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("set the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("set the user")
}

/// Leave the groups that the server is in.
pub fn leave_groups() -> Result<(), Failure> {
    rustix::thread::set_thread_groups(&[]).step("leave all groups")
}

/// Make standard input, output and error /dev/null.
pub fn silence() -> Result<(), Failure> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("replace stdin")?;
    rustix::stdio::dup2_stdout(&null).step("replace stdout")?;
    rustix::stdio::dup2_stderr(&null).step("replace stderr")
}

/// Let no crash write the memory of a guest to the machine's disk.
pub fn leave_no_core() -> Result<(), Failure> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).step("forbid core dumps")
}

/// Lift a score below 0, which protects a server from the kernel's choice when memory runs out, and would protect its
/// sandboxes too. Raising it needs no right; one above 0 stays.
pub fn die_before_others() -> Result<(), Failure> {
    let score = fs::read_to_string(SCORE).step("read the score for lack of memory")?;
    if score.trim_start().starts_with('-') {
        fs::write(SCORE, "0").step("set the score for lack of memory")?;
    }
    Ok(())
}

/// Replace the root by a sealed folder in memory with a little of /proc.
pub fn change_root() -> Result<(), Failure> {
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).step("keep mounts to ourselves")?;
    mount("skerry-root", ROOT, "tmpfs", BARE)?;
    make_proc()?;
    rustix::mount::mount_remount(ROOT, MountFlags::RDONLY | MountFlags::BIND | BARE, "")
        .step("seal the root")?;
    rustix::process::chdir(ROOT).step("enter the root")?;
    // The old root lands on top of the new one, and is taken off again.
    rustix::process::pivot_root(".", ".").step("change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("let go of the machine's root")
}

fn make_proc() -> Result<(), Failure> {
    let proc = format!("{ROOT}/proc");
    make_folder(&proc)?;
    mount("skerry-proc", &proc, "tmpfs", BARE)?;
    let real = mount_real_proc(&proc)?;
    for folder in ["sys", "sys/kernel", "sys/vm"] {
        make_folder(&format!("{proc}/{folder}"))?;
    }
    for file in COPIED {
        fs::copy(file, format!("{ROOT}{file}")).step("copy a file of /proc")?;
    }
    for name in ["self", "cpuinfo"] {
        let target = format!("{real}/{name}");
        rustix::fs::symlink(target, format!("{proc}/{name}")).step("link a file of /proc")?;
    }
    rustix::fs::chmod(&proc, Mode::from_raw_mode(0o111)).step("hide the names in /proc")
}

/// Mount the real /proc under another name, so that the files of /proc are the same few whatever the machine hides,
/// and return that name.
fn mount_real_proc(proc: &str) -> Result<&'static str, Failure> {
    let new = format!("{proc}/sandbox-proc");
    make_folder(&new)?;
    if mount("proc", &new, "proc", BARE | MountFlags::RDONLY).is_ok() {
        return Ok("sandbox-proc");
    }
    // The kernel refuses a new one where a part of ours is covered, as in a container: then that one has to do.
    let ours = format!("{proc}/host-proc");
    make_folder(&ours)?;
    rustix::mount::mount_bind_recursive("/proc", &ours).step("mount /proc, or bind ours")?;
    Ok("host-proc")
}

/// Fork the process that takes /proc away when a byte comes, and return the descriptor to write that byte to.
pub fn keep_unmounter() -> Result<OwnedFd, Failure> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    // SAFETY: this process has one thread, so the child may do what its parent may.
    match unsafe { libc::fork() } {
        0 => unmount_when_asked(&reader, writer),
        -1 => Err(std::io::Error::last_os_error()).step("fork"),
        _ => {
            // The program gets this one.
            rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).step("keep a descriptor")?;
            Ok(writer)
        }
    }
}

fn unmount_when_asked(reader: &OwnedFd, writer: OwnedFd) -> ! {
    drop(writer);
    close_all_but(reader);
    let asked = matches!(rustix::io::read(reader, &mut [0u8; 1]), Ok(1));
    let done = asked && rustix::mount::unmount("/proc", UnmountFlags::DETACH).is_ok();
    // SAFETY: _exit runs nothing of ours.
    unsafe { libc::_exit(i32::from(!done)) }
}

/// What the program holds (its control socket above all) must not stay open here.
fn close_all_but(kept: &OwnedFd) {
    let kept = kept.as_raw_fd().unsigned_abs();
    for (first, last) in [(0, kept.wrapping_sub(1)), (kept + 1, u32::MAX)] {
        if first <= last && !(kept == 0 && first == 0) {
            // SAFETY: nothing in this process uses the descriptors in these ranges any more.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Give up every capability for good: this process's, and those that a program could bring with it.
pub fn drop_capabilities() -> Result<(), Failure> {
    for number in 0..CAPABILITIES_MAX {
        let Some(one) = CapabilitySet::from_bits(1 << number) else { break };
        if rustix::thread::remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set().step("clear the ambient capabilities")?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).step("drop the capabilities")?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")
}

fn make_folder(path: &str) -> Result<(), Failure> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).step(&format!("make {path}"))
}

fn mount(source: &str, target: &str, kind: &str, flags: MountFlags) -> Result<(), Failure> {
    rustix::mount::mount(source, target, kind, flags, None).step(&format!("mount {kind} at {target}"))
}
