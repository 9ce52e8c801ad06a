//! Who a process runs as: names and numbers, looked up in the sandbox's own passwd and group files.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

use crate::message::Refusal;
use crate::paths;

/// Of each file only the lines that are whole within so many bytes count: the sandbox writes these files, and PID 1
/// reads them at each start.
const FILE_LIMIT: usize = 64 << 10;
const GROUPS_LIMIT: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
}

impl Identity {
    /// Return what HOME, USER and LOGNAME are where the caller has not set them.
    pub fn complete(&self, env: &mut Vec<Vec<u8>>) {
        for (key, value) in [("HOME=", &self.home), ("USER=", &self.name), ("LOGNAME=", &self.name)] {
            if !env.iter().any(|entry| entry.starts_with(key.as_bytes())) {
                env.push([key.as_bytes(), value.as_bytes()].concat());
            }
        }
    }
}

/// A line of passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of group.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The two files, read once for each operation.
pub struct Accounts {
    passwd: String,
    group: String,
    _files: [Option<OwnedFd>; 2],
}

impl Accounts {
    /// Read the files as they are now; one that is missing or cannot be read counts as empty.
    pub fn read() -> Accounts {
        let ((passwd, passwd_file), (group, group_file)) =
            (read_text("/etc/passwd"), read_text("/etc/group"));
        Accounts { passwd, group, _files: [passwd_file, group_file] }
    }

    fn users(&self) -> impl DoubleEndedIterator<Item = User<'_>> {
        records(&self.passwd).filter_map(user)
    }

    fn groups(&self) -> impl DoubleEndedIterator<Item = Group<'_>> {
        records(&self.group).filter_map(group)
    }

    /// Return who `user` is: `name`, `uid`, `name:group` or `uid:gid`.
    pub fn identify(&self, user: &str) -> Result<Identity, Refusal> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (user, None),
        };
        let mut identity = self.user(user)?;
        match group {
            Some(group) => {
                identity.gid = self.group(group)?;
                identity.groups = Vec::new();
            }
            None => identity.groups = self.memberships(&identity.name, identity.gid),
        }
        Ok(identity)
    }

    fn user(&self, user: &str) -> Result<Identity, Refusal> {
        let number = user.parse::<u32>().ok();
        let known = self.users().find(|account| account.name == user || number == Some(account.uid));
        if let Some(User { name, uid, gid, home }) = known {
            return Ok(Identity { uid, gid, groups: Vec::new(), name: name.into(), home: home.into() });
        }
        let unknown = |uid, home: &str| Identity {
            uid,
            gid: 0,
            groups: Vec::new(),
            name: user.into(),
            home: home.into(),
        };
        match number {
            // An image without passwd has a root all the same.
            _ if user == "root" || number == Some(0) => Ok(unknown(0, "/root")),
            Some(uid) if uid != u32::MAX => Ok(unknown(uid, "/")),
            _ => {
                Err(Refusal::new("failed_precondition", format!("there is no user {user:?} in /etc/passwd")))
            }
        }
    }

    fn group(&self, group: &str) -> Result<u32, Refusal> {
        let named = self.groups().find(|record| record.name == group).map(|record| record.gid);
        named.or_else(|| group.parse().ok().filter(|gid| *gid != u32::MAX)).ok_or_else(|| {
            Refusal::new("failed_precondition", format!("there is no group {group:?} in /etc/group"))
        })
    }

    fn memberships(&self, user: &str, primary: u32) -> Vec<u32> {
        let with_user = self.groups().filter(|group| group.members.split(',').any(|member| member == user));
        with_user.map(|group| group.gid).filter(|gid| *gid != primary).take(GROUPS_LIMIT).collect()
    }

    /// Return the names by their numbers, for whoever looks up many.
    pub fn names(&self) -> Names {
        // The first line for a number is the one that counts, so it is the last to be put in.
        let users = self.users().rev().map(|user| (user.uid, user.name.into())).collect();
        let groups = self.groups().rev().map(|group| (group.gid, group.name.into())).collect();
        Names { users, groups }
    }
}

/// What the numbers of users and groups are called.
pub struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    /// Return the user's name, or the number where there is none.
    pub fn user(&self, uid: u32) -> String {
        name_of(&self.users, uid)
    }

    pub fn group(&self, gid: u32) -> String {
        name_of(&self.groups, gid)
    }
}

fn name_of(names: &BTreeMap<u32, String>, number: u32) -> String {
    names.get(&number).cloned().unwrap_or_else(|| number.to_string())
}

fn user(line: &str) -> Option<User<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid, _, home) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let home = if home.is_empty() { "/" } else { home };
    Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
}

fn group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Group { name, gid: gid.parse().ok()?, members: fields.next().unwrap_or_default() })
}

fn records(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// Return what a file holds, and the file: to close it takes time too.
fn read_text(path: &str) -> (String, Option<OwnedFd>) {
    // The sandbox may have put anything there, a FIFO or a device: neither the open nor the read waits for it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(fd) = paths::open(CWD, path.as_bytes(), flags, Mode::empty()) else {
        return (String::new(), None);
    };
    // One call, and no look at what it is before: a start waits for this, and a file is larger than it was at most once.
    let mut bytes = Vec::with_capacity(FILE_LIMIT);
    let _ = rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes));
    bytes.truncate(FILE_LIMIT);
    (String::from_utf8_lossy(whole_lines(&bytes)).into_owned(), Some(fd))
}

/// Return what was read without a line that the limit has cut: half a number is another one.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    if bytes.len() < FILE_LIMIT {
        return bytes;
    }
    &bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# note\nbroken:x\nuser:x:1000:100::/home/user:\nagain:x:1000:1::/:\n"
                .into(),
            group: "root:x:0:\nusers:x:100:\nsudo:x:27:other,user\nwheel:x:10:user\n".into(),
            _files: [None, None],
        }
    }

    #[test]
    fn a_number_has_the_name_of_its_first_line_or_stays_a_number() {
        let names = accounts().names();
        assert_eq!(names.user(1000), "user");
        assert_eq!(names.group(27), "sudo");
        assert_eq!((names.user(5), names.group(1000)), ("5".into(), "1000".into()));
    }

    #[test]
    fn a_line_that_the_limit_has_cut_does_not_count() {
        let limit = FILE_LIMIT;
        let text = "u:x:1000:1000::/:\n".repeat(limit / 18 + 1);
        let cut = whole_lines(&text.as_bytes()[..limit]);
        assert_eq!(cut.len(), limit / 18 * 18);
        assert_eq!(whole_lines(b"u:x:1:1::/:"), b"u:x:1:1::/:");
        assert_eq!(whole_lines(&vec![b'x'; limit]), b"");
    }

    #[test]
    fn a_name_brings_its_number_group_memberships_and_home() {
        let user = accounts().identify("user").expect("a known user");
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (1000, 100, &[27, 10][..]));
        assert_eq!((user.name.as_str(), user.home.as_str()), ("user", "/home/user"));
        assert_eq!(accounts().identify("1000").expect("the same by number"), user);
    }

    #[test]
    fn an_explicit_group_replaces_the_memberships() {
        let user = accounts().identify("user:wheel").expect("a known group");
        assert_eq!((user.gid, user.groups.len()), (10, 0));
        assert_eq!(accounts().identify("5:6").expect("numbers need no account").gid, 6);
    }

    #[test]
    fn an_unknown_name_is_refused_and_an_unknown_number_is_not() {
        for user in ["nobody", "user:nobody", "", "-1", "4294967295", "1:4294967295"] {
            let refusal = accounts().identify(user).expect_err(user);
            assert_eq!(refusal.code, "failed_precondition");
        }
        let user = accounts().identify("4242").expect("numbers need no account");
        assert_eq!((user.uid, user.gid, user.home.as_str()), (4242, 0, "/"));
    }

    #[test]
    fn root_exists_without_a_passwd() {
        let accounts = Accounts { passwd: String::new(), group: String::new(), _files: [None, None] };
        let root = accounts.identify("root").expect("root");
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
    }

    #[test]
    fn what_the_caller_has_set_is_kept() {
        let mut env = vec![b"HOME=/x".to_vec()];
        accounts().identify("user").expect("a known user").complete(&mut env);
        assert_eq!(env, [b"HOME=/x".to_vec(), b"USER=user".to_vec(), b"LOGNAME=user".to_vec()]);
    }
}
