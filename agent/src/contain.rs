//! Which processes an exec has left behind, and how to end them all.
//!
//! Where the sandbox has a cgroup file system (cgroup2, made by gVisor inside the sandbox), each exec runs in a
//! group of its own, which no process leaves by forking, by a new session or by clearing its environment, and
//! `cgroup.kill` ends all members at once. The guest's root may mount that file system too, in a user namespace of
//! its own. So each exec gets a cgroup namespace: what it mounts begins at its own group, which has no others below
//! and whose limits cannot be changed from within (nsdelegate). Where a sandbox has no such file system, members are found by session, process group,
//! parents and a mark in their environment; what changes all four escapes.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal};
use thiserror::Error;

/// Groups kept ready for later execs: making one costs more than joining it.
const SPARE_GROUPS: usize = 8;
/// A part of all processes that one exec cannot take, so that others can still start.
const RESERVE: u32 = 8;
/// The environment variable by which members are found where there are no groups.
const MARK: &str = "SKERRY_STREAM=";
/// Each pass ends what the one before has missed because it was just being made.
const PASSES: usize = 8;

#[derive(Debug, Error)]
pub enum ContainError {
    #[error("cannot mount the sandbox's cgroup file system: {0}")]
    Mount(io::Error),
    #[error("cannot open the sandbox's cgroup file system: {0}")]
    Open(io::Error),
    #[error("cannot make the group of all processes: {0}")]
    Group(io::Error),
    #[error("cannot bound the number of processes: {0}")]
    Bound(io::Error),
}

/// The membership of one exec.
pub struct Member {
    stream: u32,
    group: Option<Group>,
}

struct Group {
    number: u32,
    procs: OwnedFd,
}

impl Member {
    /// Return the file through which the child joins, if there are groups.
    pub fn join(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(|group| group.procs.as_fd())
    }
}

/// All execs of the sandbox.
#[derive(Default)]
pub struct Containment {
    groups: Option<Groups>,
}

struct Groups {
    all: OwnedFd,
    made: u32,
    /// How many processes one exec may have at once.
    each: Option<u32>,
    spare: Vec<Group>,
    /// Groups of execs that are over, in which something may still run.
    lingering: Vec<Group>,
}

impl Containment {
    /// Use the sandbox's cgroup file system, mounted at `place` for a moment only, so that nobody finds it.
    pub fn by_groups(place: &str, processes: u32) -> Result<Containment, ContainError> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("cgroup2", place, "cgroup2", flags, c"nsdelegate")
            .map_err(|errno| ContainError::Mount(errno.into()))?;
        let root = open_folder(rustix::fs::CWD, place).map_err(ContainError::Open);
        let unmounted = rustix::mount::unmount(place, UnmountFlags::DETACH);
        let root = root?;
        unmounted.map_err(|errno| ContainError::Mount(errno.into()))?;
        let all = make_group(root.as_fd(), "skerry").map_err(ContainError::Group)?;
        write_file(all.as_fd(), "cgroup.subtree_control", "+pids").map_err(ContainError::Bound)?;
        let bounded = Some(processes).filter(|processes| *processes > 0);
        let each = bounded.map(|processes| processes - processes / RESERVE);
        write_file(all.as_fd(), "pids.max", &bound(bounded)).map_err(ContainError::Bound)?;
        let groups = Groups { all, made: 0, each, spare: Vec::new(), lingering: Vec::new() };
        Ok(Containment { groups: Some(groups) })
    }

    /// Return a membership for the exec of `stream`.
    pub fn admit(&mut self, stream: u32) -> io::Result<Member> {
        let group = self.groups.as_mut().map(Groups::acquire).transpose()?;
        Ok(Member { stream, group })
    }

    /// Return the environment entry by which members are found, where one is needed.
    pub fn mark(&self, stream: u32) -> Option<Vec<u8>> {
        self.groups.is_none().then(|| format!("{MARK}{stream}").into_bytes())
    }

    /// End everything that belongs to the exec, whose first process is or was `leader`.
    pub fn kill(&mut self, member: &Member, leader: Pid) {
        match (&self.groups, &member.group) {
            (Some(groups), Some(group)) => {
                let path = format!("{}/cgroup.kill", group.number);
                if write_file(groups.all.as_fd(), &path, "1").is_err() {
                    kill_found(member.stream, leader);
                }
            }
            _ => kill_found(member.stream, leader),
        }
    }

    /// Give the membership back once its exec is over.
    pub fn release(&mut self, member: Member) {
        if let (Some(groups), Some(group)) = (&mut self.groups, member.group) {
            groups.release(group);
        }
    }
}

impl Groups {
    fn acquire(&mut self) -> io::Result<Group> {
        self.recycle();
        match self.spare.pop() {
            Some(group) => Ok(group),
            None => self.make(),
        }
    }

    fn make(&mut self) -> io::Result<Group> {
        self.made += 1;
        let number = self.made;
        let folder = make_group(self.all.as_fd(), &number.to_string())?;
        write_file(folder.as_fd(), "pids.max", &bound(self.each))?;
        write_file(folder.as_fd(), "cgroup.max.descendants", "0")?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let procs = rustix::fs::openat(&folder, "cgroup.procs", flags, Mode::empty())?;
        Ok(Group { number, procs })
    }

    fn release(&mut self, group: Group) {
        if !is_empty(&group) {
            self.lingering.push(group);
        } else if self.spare.len() < SPARE_GROUPS {
            self.spare.push(group);
        } else {
            self.remove(&group);
        }
    }

    /// Look at one lingering group: it may have become empty since.
    fn recycle(&mut self) {
        if self.spare.is_empty()
            && let Some(group) = self.lingering.pop()
        {
            match is_empty(&group) {
                true => self.spare.push(group),
                // Others get their look before this one is looked at again.
                false => self.lingering.insert(0, group),
            }
        }
    }

    fn remove(&self, group: &Group) {
        let _ = rustix::fs::unlinkat(&self.all, group.number.to_string(), AtFlags::REMOVEDIR);
    }
}

/// Return what `pids.max` takes.
fn bound(processes: Option<u32>) -> String {
    processes.map_or_else(|| "max".to_owned(), |processes| processes.to_string())
}

fn is_empty(group: &Group) -> bool {
    let mut byte = [0];
    matches!(rustix::io::pread(&group.procs, &mut byte, 0), Ok(0))
}

fn make_group(parent: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open_folder(parent, name),
        Err(errno) => Err(errno.into()),
    }
}

fn open_folder(parent: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn write_file(folder: BorrowedFd, path: &str, content: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, path, flags, Mode::empty())?;
    rustix::io::write(&file, content.as_bytes())?;
    Ok(())
}

/// End what can be found of an exec without groups.
fn kill_found(stream: u32, leader: Pid) {
    let mark = format!("{MARK}{stream}");
    for _ in 0..PASSES {
        let found = members(&processes(), leader.as_raw_nonzero().get(), |pid| marked(pid, mark.as_bytes()));
        if found.is_empty() {
            return;
        }
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// What /proc tells of a process.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    dead: bool,
}

/// Return the living processes that belong to `leader`: by session, group, mark, or as a child of one that does.
fn members(all: &[Seen], leader: i32, marked: impl Fn(i32) -> bool) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([leader]);
    for seen in all {
        if seen.session == leader || seen.group == leader || marked(seen.pid) {
            found.insert(seen.pid);
        }
    }
    loop {
        let children = all.iter().filter(|seen| found.contains(&seen.parent) && !found.contains(&seen.pid));
        let children: Vec<i32> = children.map(|seen| seen.pid).collect();
        if children.is_empty() {
            break;
        }
        found.extend(children);
    }
    let living = |pid: &i32| all.iter().any(|seen| seen.pid == *pid && !seen.dead);
    found.into_iter().filter(|pid| *pid > 1 && living(pid)).collect()
}

fn processes() -> Vec<Seen> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    folder.flatten().filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn look(pid: i32) -> Option<Seen> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so the fields are counted from its end.
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(stat.get(after + 2..)?).ok()?;
    let mut fields = text.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Seen { pid, parent: number()?, group: number()?, session: number()?, dead })
}

fn marked(pid: i32, mark: &[u8]) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ"));
    environment.is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|entry| entry == mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: i32, parent: i32, group: i32, session: i32) -> Seen {
        Seen { pid, parent, group, session, dead: false }
    }

    #[test]
    fn members_are_found_by_session_group_parents_and_mark() {
        let all = [
            seen(1, 0, 0, 0),
            seen(10, 1, 10, 10),
            seen(11, 10, 11, 10),
            seen(12, 11, 12, 12),
            seen(13, 1, 10, 13),
            seen(14, 1, 14, 14),
            seen(20, 1, 20, 20),
            Seen { dead: true, ..seen(15, 10, 10, 10) },
        ];
        let found = members(&all, 10, |pid| pid == 14);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
    }

    #[test]
    fn init_is_never_a_member_whatever_it_seems_to_share() {
        let found = members(&[seen(1, 10, 10, 10), seen(10, 1, 10, 10)], 10, |_| true);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [10]);
    }
}
