//! Who a process runs as: names and numbers, looked up in the sandbox's own passwd and group files.

use std::io::Read;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::message::Refusal;
use crate::paths;

/// Files beyond this are read up to here: the sandbox's files are no reason to grow.
const FILE_LIMIT: u64 = 1 << 20;
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

/// The two files, as text.
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Read the files as they are now; one that is missing or no regular file counts as empty.
    pub fn read() -> Accounts {
        Accounts { passwd: read_text("/etc/passwd"), group: read_text("/etc/group") }
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
        for account in records(&self.passwd) {
            let [name, _, uid, gid, _, home, ..] = account[..] else {
                continue;
            };
            let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
                continue;
            };
            if name == user || number == Some(uid) {
                let home = if home.is_empty() { "/" } else { home };
                return Ok(Identity { uid, gid, groups: Vec::new(), name: name.into(), home: home.into() });
            }
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
        let named = records(&self.group).find_map(|record| match record[..] {
            [name, _, gid, ..] if name == group => gid.parse().ok(),
            _ => None,
        });
        named.or_else(|| group.parse().ok().filter(|gid| *gid != u32::MAX)).ok_or_else(|| {
            Refusal::new("failed_precondition", format!("there is no group {group:?} in /etc/group"))
        })
    }

    fn memberships(&self, user: &str, primary: u32) -> Vec<u32> {
        let groups = records(&self.group).filter_map(|record| match record[..] {
            [_, _, gid, members, ..] if members.split(',').any(|member| member == user) => gid.parse().ok(),
            _ => None,
        });
        groups.filter(|gid| *gid != primary).take(GROUPS_LIMIT).collect()
    }

    /// Return the user's name, or the number where there is none.
    pub fn user_name(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    pub fn group_name(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }
}

/// Both files keep the name in the first field and the number in the third.
fn name_of(text: &str, number: u32) -> String {
    let number = number.to_string();
    let found = records(text).find_map(|record| match record[..] {
        [name, _, id, ..] if id == number => Some(name.to_owned()),
        _ => None,
    });
    found.unwrap_or(number)
}

fn records(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(':').collect())
}

fn read_text(path: &str) -> String {
    // The sandbox may have put a FIFO there, so the open must not wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(fd) = paths::open(CWD, path.as_bytes(), flags, Mode::empty()) else {
        return String::new();
    };
    match rustix::fs::fstat(&fd) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
        _ => return String::new(),
    }
    let mut bytes = Vec::new();
    let _ = std::fs::File::from(fd).take(FILE_LIMIT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# note\nbroken:x\nuser:x:1000:100::/home/user:\n".into(),
            group: "root:x:0:\nusers:x:100:\nsudo:x:27:other,user\nwheel:x:10:user\n".into(),
        }
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
        let accounts = Accounts { passwd: String::new(), group: String::new() };
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
