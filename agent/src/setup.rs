//! What a claim makes of the container before anything runs in it, and what PID 1 gives up afterwards.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::mount::MountFlags;
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet};
use thiserror::Error;

use crate::contain::Containment;
use crate::hello::{Attribute, Setup, SetupFile};

/// Our own small file system inside the container; it never becomes part of an image.
const FOLDER: &str = "/run/skerry/etc";
const FOLDER_OPTIONS: &std::ffi::CStr = c"mode=0755,size=2m";

/// What processes in a container usually may do; neither CAP_SYS_ADMIN nor CAP_SYS_RESOURCE is among it.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

#[derive(Debug, Error)]
pub enum SetupError {
    #[error("cannot set the host name: {0}")]
    Hostname(io::Error),
    #[error("cannot mount {FOLDER}: {0}")]
    Mount(io::Error),
    #[error("cannot write {0}: {1}")]
    Write(String, io::Error),
    #[error("cannot bind {0}: {1}")]
    Bind(String, io::Error),
    #[error("cannot set {1} of {0}: {2}")]
    Attribute(String, String, io::Error),
    #[error("cannot set the CPUs: {0}")]
    Cpus(io::Error),
    #[error("cannot give up capabilities: {0}")]
    Capabilities(io::Error),
    #[error("cannot contain processes: {0}")]
    Contain(#[from] crate::contain::ContainError),
}

/// Do all of it, and return how processes are contained.
pub fn prepare(setup: &Setup) -> Result<Containment, SetupError> {
    rustix::system::sethostname(setup.hostname.as_bytes())
        .map_err(|errno| SetupError::Hostname(errno.into()))?;
    if setup.cgroup || !setup.files.is_empty() {
        mount_folder().map_err(SetupError::Mount)?;
    }
    for attribute in &setup.attributes {
        restore(attribute)?;
    }
    for (index, file) in setup.files.iter().enumerate() {
        place(file, index)?;
    }
    let containment = contain(setup)?;
    limit_cpus(setup.cpus).map_err(SetupError::Cpus)?;
    give_up_capabilities(setup.cgroup).map_err(SetupError::Capabilities)?;
    Ok(containment)
}

/// Give a file of the image an attribute that the image could not hold; this copies the file to the writable layer.
fn restore(attribute: &Attribute) -> Result<(), SetupError> {
    let Attribute { path, name, value } = attribute;
    if name == "security.capability" && !may_be_executed_with(value) {
        return Ok(());
    }
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).map_err(|errno| {
        SetupError::Attribute(String::from_utf8_lossy(path).into_owned(), name.clone(), errno.into())
    })
}

/// Tell whether a file with these capabilities can be executed here. execve refuses one that is to have an effective
/// capability that nobody here may have (capabilities(7)): without its capabilities it runs, and ping, say, also works.
fn may_be_executed_with(capabilities: &[u8]) -> bool {
    const EFFECTIVE: u32 = 1; // VFS_CAP_FLAGS_EFFECTIVE
    let word = |index: usize| {
        let bytes = capabilities.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let (Some(magic), Some(low), Some(high)) = (word(0), word(1), word(3)) else { return true };
    let permitted = CapabilitySet::from_bits_retain(u64::from(high) << 32 | u64::from(low));
    let allowed = |capability| {
        CAPABILITIES.contains(capability)
            && rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
    };
    magic & EFFECTIVE == 0 || permitted.iter().all(allowed)
}

fn mount_folder() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("skerry", FOLDER, "tmpfs", flags, FOLDER_OPTIONS)?)
}

/// Write one file to our folder and bind it over its path.
fn place(file: &SetupFile, index: usize) -> Result<(), SetupError> {
    let source = format!("{FOLDER}/{index}");
    write_source(&source, file).map_err(|error| SetupError::Write(source.clone(), error))?;
    ensure_file(Path::new(&file.path)).map_err(|error| SetupError::Write(file.path.clone(), error))?;
    rustix::mount::mount_bind(&source, &file.path)
        .map_err(|errno| SetupError::Bind(file.path.clone(), errno.into()))
}

fn write_source(source: &str, file: &SetupFile) -> io::Result<()> {
    fs::write(source, &file.content)?;
    fs::set_permissions(source, fs::Permissions::from_mode(file.mode))
}

/// Make the mount point, and where the path is a link that leads nowhere, what it should lead to.
fn ensure_file(path: &Path) -> io::Result<()> {
    let touch = || fs::OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path);
    if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
        if let Ok(target) = fs::read_link(path)
            && let Some(target_folder) = folder.join(target).parent()
        {
            fs::create_dir_all(target_folder)?;
        }
    }
    touch().map(drop)
}

fn contain(setup: &Setup) -> Result<Containment, SetupError> {
    if !setup.cgroup {
        return Ok(Containment::default());
    }
    let place = format!("{FOLDER}/cgroup");
    fs::create_dir(&place).map_err(|error| SetupError::Write(place.clone(), error))?;
    let containment = Containment::by_groups(&place, setup.processes)?;
    let _ = fs::remove_dir(&place);
    Ok(containment)
}

/// Let PID 1, and so everything that it starts, use the first `count` CPUs only; 0 means all.
fn limit_cpus(count: u32) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let mut chosen = CpuSet::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(count as usize) {
        chosen.set(cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &chosen)?)
}

/// Keep the usual set. Children lose the rest by execve because it leaves the bounding set too. With groups PID 1
/// may still take up SYS_ADMIN, but does not: a child does, to be given its cgroup namespace (spawn.rs).
fn give_up_capabilities(groups: bool) -> io::Result<()> {
    let held = rustix::thread::capabilities(None)?;
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        if rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    let kept = held.permitted.intersection(CAPABILITIES);
    let dormant = if groups { CapabilitySet::SYS_ADMIN } else { CapabilitySet::empty() };
    let permitted = kept.union(held.permitted.intersection(dormant));
    let sets = CapabilitySets { effective: kept, permitted, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `security.capability` of revision 2 with these permitted capabilities.
    fn attribute(effective: bool, permitted: CapabilitySet) -> Vec<u8> {
        let words = [
            0x0200_0000 | u32::from(effective),
            permitted.bits() as u32,
            0,
            (permitted.bits() >> 32) as u32,
            0,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_capability_that_nobody_here_may_have_is_left_off() {
        assert!(!may_be_executed_with(&attribute(true, CapabilitySet::NET_ADMIN)));
        assert!(!may_be_executed_with(&attribute(true, CapabilitySet::CHOWN | CapabilitySet::SYS_ADMIN)));
        assert!(!may_be_executed_with(&attribute(true, CapabilitySet::BPF)));
    }

    #[test]
    fn one_that_stops_no_program_is_kept() {
        assert!(may_be_executed_with(&attribute(false, CapabilitySet::NET_ADMIN)));
        assert!(may_be_executed_with(&attribute(true, CapabilitySet::empty())));
        if rustix::thread::capability_is_in_bounding_set(CapabilitySet::CHOWN).unwrap_or(false) {
            assert!(may_be_executed_with(&attribute(true, CapabilitySet::CHOWN)));
        }
        for short in [&b""[..], b"\x01\x00\x00\x02", b"\x01\x00\x00\x02\x00\x10\x00\x00"] {
            assert!(may_be_executed_with(short));
        }
    }
}
