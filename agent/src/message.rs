//! The payloads of control frames: what the host asks, and what we answer.

use rmp::encode as pack;

use crate::frame::Violation;
use crate::value::{Map, Value};

/// The protocol's version; another one is refused.
pub const VERSION: u64 = 1;
const SECRET_BYTES: usize = 32;
const SETUP_FILES: usize = 16;
const SETUP_ATTRIBUTES: usize = 256;
const MESSAGE_BYTES: usize = 1_024;
const EVIDENCE_BYTES: usize = 256;
const ARGV_BYTES: usize = 65_536;
const ENV_BYTES: usize = 131_072;
const PATH_BYTES: usize = 4_095;

type Parsed<T> = Result<T, Violation>;
const BAD: Violation = Violation::MalformedPayload;

pub struct Hello {
    pub secret: [u8; SECRET_BYTES],
    pub proof: Option<[u8; SECRET_BYTES]>,
    pub generation: u64,
    pub setup: Option<Setup>,
}

/// What a claim makes of the container before anything runs in it.
pub struct Setup {
    pub hostname: String,
    pub files: Vec<SetupFile>,
    pub attributes: Vec<Attribute>,
    pub cpus: u32,
    pub processes: u32,
    pub cgroup: bool,
}

pub struct SetupFile {
    pub path: String,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// An extended attribute that a file of the image should have and does not: gVisor's EROFS holds none.
pub struct Attribute {
    pub path: Vec<u8>,
    pub name: String,
    pub value: Vec<u8>,
}

impl Hello {
    pub fn parse(payload: &[u8]) -> Parsed<Hello> {
        let map = Map::parse(payload)?;
        if map.unsigned("version")? != VERSION {
            return Err(BAD);
        }
        let hello = Hello {
            secret: secret(map.get("secret")?)?,
            proof: map.optional("proof", secret)?,
            generation: map.unsigned("generation")?,
            setup: map.optional("setup", |value| Setup::read(value.as_map()?))?,
        };
        // A claim sets up, an attach proves.
        if hello.proof.is_some() == hello.setup.is_some() { Err(BAD) } else { Ok(hello) }
    }
}

fn secret(value: &Value) -> Parsed<[u8; SECRET_BYTES]> {
    value.as_binary()?.try_into().map_err(|_| BAD)
}

impl Setup {
    fn read(map: &Map) -> Parsed<Setup> {
        let files = map.array("files")?;
        let attributes = map.array("attributes")?;
        if files.len() > SETUP_FILES || attributes.len() > SETUP_ATTRIBUTES {
            return Err(BAD);
        }
        Ok(Setup {
            hostname: map.text("hostname")?.to_owned(),
            files: files.iter().map(SetupFile::read).collect::<Parsed<_>>()?,
            attributes: attributes.iter().map(Attribute::read).collect::<Parsed<_>>()?,
            cpus: number(map.unsigned("cpus")?)?,
            processes: number(map.unsigned("processes")?)?,
            cgroup: map.flag("cgroup")?,
        })
    }
}

impl SetupFile {
    fn read(value: &Value) -> Parsed<SetupFile> {
        match value.as_array()? {
            [Value::Text(path), Value::Unsigned(mode), Value::Binary(content)]
                if path.starts_with('/') && !path.contains('\0') && *mode <= 0o7777 =>
            {
                Ok(SetupFile { path: (*path).to_owned(), mode: *mode as u32, content: content.to_vec() })
            }
            _ => Err(BAD),
        }
    }
}

impl Attribute {
    fn read(value: &Value) -> Parsed<Attribute> {
        match value.as_array()? {
            [Value::Binary(path), Value::Text(name), Value::Binary(content)]
                if path.starts_with(b"/")
                    && !path.contains(&0)
                    && !name.is_empty()
                    && !name.contains('\0') =>
            {
                Ok(Attribute { path: path.to_vec(), name: (*name).to_owned(), value: content.to_vec() })
            }
            _ => Err(BAD),
        }
    }
}

fn number(wide: u64) -> Parsed<u32> {
    u32::try_from(wide).map_err(|_| BAD)
}

/// What an OPEN asks for.
pub enum Open {
    Exec(Exec),
    Read { path: Vec<u8>, offset: u64, length: Option<u64>, limit: u64 },
    Write { path: Vec<u8>, mode: Option<u32>, parents: bool, append: bool },
    List { path: Vec<u8>, limit: u64 },
    Stat { path: Vec<u8> },
    Mkdir { path: Vec<u8>, mode: u32, parents: bool },
    Remove { path: Vec<u8>, recursive: bool },
}

pub struct Exec {
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
    pub user: String,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: Stderr,
    pub timeout_ms: u64,
    pub no_new_privileges: bool,
    pub terminal: bool,
    pub limits: [u64; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    Null,
    Pipe,
    Stdout,
}

/// Why an OPEN that keeps the protocol is answered by ERROR all the same.
#[derive(Debug)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }
}

fn invalid<T>(message: &str) -> Result<T, Refusal> {
    Err(Refusal::new("invalid_argument", message))
}

impl Open {
    pub fn op(&self) -> &'static str {
        match self {
            Open::Exec(_) => "exec",
            Open::Read { .. } => "read",
            Open::Write { .. } => "write",
            Open::List { .. } => "list",
            Open::Stat { .. } => "stat",
            Open::Mkdir { .. } => "mkdir",
            Open::Remove { .. } => "remove",
        }
    }

    /// Return the request; an `op` that we do not know is no breach, so that ops can be added.
    pub fn parse(payload: &[u8]) -> Parsed<Result<Open, Refusal>> {
        let map = Map::parse(payload)?;
        let open = match map.text("op")? {
            "exec" => Open::Exec(Exec::read(&map)?),
            "read" => Open::Read {
                path: path(&map)?,
                offset: map.unsigned("offset")?,
                length: map.optional("length", Value::as_unsigned)?,
                limit: window(map.unsigned("limit")?)?,
            },
            "write" => Open::Write {
                path: path(&map)?,
                mode: map.optional("mode", |value| number(value.as_unsigned()?))?,
                parents: map.flag("parents")?,
                append: map.flag("append")?,
            },
            "list" => Open::List { path: path(&map)?, limit: window(map.unsigned("limit")?)? },
            "stat" => Open::Stat { path: path(&map)? },
            "mkdir" => Open::Mkdir {
                path: path(&map)?,
                mode: number(map.unsigned("mode")?)?,
                parents: map.flag("parents")?,
            },
            "remove" => Open::Remove { path: path(&map)?, recursive: map.flag("recursive")? },
            op => {
                let message = format!("this agent knows no operation {op:.32}");
                return Ok(Err(Refusal::new("unimplemented", message)));
            }
        };
        Ok(Ok(open))
    }

    /// Check what is a mistake of the caller and no breach of the protocol.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Open::Exec(exec) => exec.check(),
            Open::Read { path, .. } | Open::List { path, .. } | Open::Stat { path } => check_path(path),
            Open::Remove { path, .. } => check_path(path),
            Open::Write { path, mode, .. } => check_path(path).and(check_mode(mode.unwrap_or(0))),
            Open::Mkdir { path, mode, .. } => check_path(path).and(check_mode(*mode)),
        }
    }
}

fn path(map: &Map) -> Parsed<Vec<u8>> {
    Ok(map.binary("path")?.to_vec())
}

/// A first limit is at most the window, since nothing is acknowledged yet.
fn window(limit: u64) -> Parsed<u64> {
    if limit > crate::stream::WINDOW { Err(Violation::BadCredit) } else { Ok(limit) }
}

fn check_path(path: &[u8]) -> Result<(), Refusal> {
    if !path.starts_with(b"/") {
        return invalid("the path is not absolute");
    }
    if path.len() > PATH_BYTES {
        return invalid("the path is longer than 4,095 bytes");
    }
    if path.contains(&0) {
        return invalid("the path contains a NUL byte");
    }
    Ok(())
}

fn check_mode(mode: u32) -> Result<(), Refusal> {
    if mode > 0o7777 { invalid("the mode has bits beyond 0o7777") } else { Ok(()) }
}

impl Exec {
    fn read(map: &Map) -> Parsed<Exec> {
        let limits = match map.array("limits")? {
            [Value::Unsigned(stdout), Value::Unsigned(stderr)] => [window(*stdout)?, window(*stderr)?],
            _ => return Err(BAD),
        };
        Ok(Exec {
            argv: list_of_binary(map.array("argv")?)?,
            env: list_of_binary(map.array("env")?)?,
            cwd: map.binary("cwd")?.to_vec(),
            user: map.text("user")?.to_owned(),
            stdin: piped(map.text("stdin")?)?,
            stdout: piped(map.text("stdout")?)?,
            stderr: match map.text("stderr")? {
                "null" => Stderr::Null,
                "pipe" => Stderr::Pipe,
                "stdout" => Stderr::Stdout,
                _ => return Err(BAD),
            },
            timeout_ms: map.unsigned("timeout_ms")?,
            no_new_privileges: map.flag("no_new_privileges")?,
            terminal: map.optional("terminal", |value| value.as_map().map(|_| ()))?.is_some(),
            limits,
        })
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.terminal {
            return Err(Refusal::new("unimplemented", "this agent has no terminals yet"));
        }
        if self.argv.is_empty() || self.argv[0].is_empty() {
            return invalid("argv is empty");
        }
        let bytes = |list: &[Vec<u8>]| list.iter().map(|item| item.len() + 1).sum::<usize>();
        if bytes(&self.argv) > ARGV_BYTES {
            return invalid("argv is longer than 65,536 bytes");
        }
        if bytes(&self.env) > ENV_BYTES {
            return invalid("env is longer than 131,072 bytes");
        }
        if self.argv.iter().chain(&self.env).any(|item| item.contains(&0)) {
            return invalid("argv or env contains a NUL byte");
        }
        if self.env.iter().any(|item| item.iter().position(|byte| *byte == b'=').unwrap_or(0) == 0) {
            return invalid("env has an entry that is not KEY=VALUE");
        }
        check_path(&self.cwd)
            .map_err(|refusal| Refusal::new(refusal.code, format!("cwd: {}", refusal.message)))
    }
}

fn list_of_binary(items: &[Value]) -> Parsed<Vec<Vec<u8>>> {
    items.iter().map(|item| Ok(item.as_binary()?.to_vec())).collect()
}

fn piped(word: &str) -> Parsed<bool> {
    match word {
        "pipe" => Ok(true),
        "null" => Ok(false),
        _ => Err(BAD),
    }
}

/// How a process ended; it is told once, by EXIT or by READY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub reason: &'static str,
    pub evidence: String,
}

/// One entry of `list` and `stat`.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub kind: &'static str,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub owner: &'a str,
    pub group: &'a str,
    pub modified: f64,
    pub target: Option<&'a [u8]>,
}

/// Writes msgpack into memory, which cannot fail.
pub struct Packer(Vec<u8>);

impl Packer {
    pub fn map(members: u32) -> Packer {
        let mut packer = Packer(Vec::new());
        packer.open_map(members);
        packer
    }

    pub fn open_map(&mut self, members: u32) {
        let _ = pack::write_map_len(&mut self.0, members);
    }

    pub fn open_array(&mut self, members: u32) {
        let _ = pack::write_array_len(&mut self.0, members);
    }

    pub fn text(&mut self, text: &str) -> &mut Packer {
        let _ = pack::write_str(&mut self.0, text);
        self
    }

    pub fn binary(&mut self, bytes: &[u8]) {
        let _ = pack::write_bin(&mut self.0, bytes);
    }

    pub fn unsigned(&mut self, number: u64) {
        let _ = pack::write_uint(&mut self.0, number);
    }

    pub fn flag(&mut self, flag: bool) {
        let _ = pack::write_bool(&mut self.0, flag);
    }

    pub fn nil(&mut self) {
        let _ = pack::write_nil(&mut self.0);
    }

    pub fn optional(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.unsigned(number),
            None => self.nil(),
        }
    }

    fn signed(&mut self, number: Option<i32>) {
        match number {
            Some(number) => drop(pack::write_sint(&mut self.0, number.into())),
            None => self.nil(),
        }
    }

    pub fn exit(&mut self, exit: &Exit) {
        self.open_map(4);
        self.text("code").signed(exit.code);
        self.text("signal").signed(exit.signal);
        self.text("reason").text(exit.reason);
        self.text("evidence").text(shortened(&exit.evidence, EVIDENCE_BYTES));
    }

    pub fn entry(&mut self, entry: &Entry) {
        self.open_map(10);
        self.text("name").binary(entry.name);
        self.text("type").text(entry.kind);
        self.text("size").unsigned(entry.size);
        self.text("mode").unsigned(entry.mode.into());
        self.text("uid").unsigned(entry.uid.into());
        self.text("gid").unsigned(entry.gid.into());
        self.text("owner").text(entry.owner);
        self.text("group").text(entry.group);
        let _ = pack::write_f64(&mut self.text("modified").0, entry.modified);
        match entry.target {
            Some(target) => self.text("target").binary(target),
            None => self.text("target").nil(),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

pub fn started(pid: Option<u32>) -> Vec<u8> {
    let mut packer = Packer::map(1);
    packer.text("pid").optional(pid.map(u64::from));
    packer.finish()
}

pub fn started_reading(size: u64) -> Vec<u8> {
    let mut packer = Packer::map(2);
    packer.text("pid").nil();
    packer.text("size").unsigned(size);
    packer.finish()
}

pub fn exit(exit: &Exit) -> Vec<u8> {
    let mut packer = Packer(Vec::new());
    packer.exit(exit);
    packer.finish()
}

pub fn error(refusal: &Refusal) -> Vec<u8> {
    let mut packer = Packer::map(2);
    packer.text("code").text(refusal.code);
    packer.text("message").text(shortened(&refusal.message, MESSAGE_BYTES));
    packer.finish()
}

pub fn entry(entry: &Entry) -> Vec<u8> {
    let mut packer = Packer(Vec::new());
    packer.entry(entry);
    packer.finish()
}

/// Return an entry as `list` sends it: after its length.
pub fn listed(entry: &[u8]) -> Vec<u8> {
    [&(entry.len() as u32).to_le_bytes(), entry].concat()
}

/// RESULT of an operation that has nothing to tell but that it is done.
pub fn done() -> Vec<u8> {
    Packer::map(0).finish()
}

pub fn written(size: u64) -> Vec<u8> {
    let mut packer = Packer::map(1);
    packer.text("size").unsigned(size);
    packer.finish()
}

fn shortened(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(change: impl Fn(&mut Exec)) -> Result<(), Refusal> {
        let mut exec = Exec {
            argv: vec![b"true".to_vec()],
            env: vec![b"A=1".to_vec()],
            cwd: b"/".to_vec(),
            user: "root".into(),
            stdin: false,
            stdout: true,
            stderr: Stderr::Pipe,
            timeout_ms: 0,
            no_new_privileges: false,
            terminal: false,
            limits: [0, 0],
        };
        change(&mut exec);
        exec.check()
    }

    #[test]
    fn an_exec_within_its_bounds_is_accepted_and_one_byte_beyond_is_not() {
        assert!(exec(|exec| exec.argv[0] = vec![b'a'; ARGV_BYTES - 1]).is_ok());
        assert!(exec(|exec| exec.argv[0] = vec![b'a'; ARGV_BYTES]).is_err());
        assert!(exec(|exec| exec.env[0] = [b"A=".to_vec(), vec![b'a'; ENV_BYTES - 3]].concat()).is_ok());
        assert!(exec(|exec| exec.env[0] = [b"A=".to_vec(), vec![b'a'; ENV_BYTES - 2]].concat()).is_err());
    }

    #[test]
    fn what_a_caller_gets_wrong_is_refused_by_its_code() {
        for wrong in [
            exec(|exec| exec.argv.clear()),
            exec(|exec| exec.argv.push(b"a\0b".to_vec())),
            exec(|exec| exec.env.push(b"=x".to_vec())),
            exec(|exec| exec.env.push(b"x".to_vec())),
            exec(|exec| exec.cwd = b"tmp".to_vec()),
        ] {
            assert_eq!(wrong.expect_err("a caller's mistake").code, "invalid_argument");
        }
        assert_eq!(exec(|exec| exec.terminal = true).expect_err("not built").code, "unimplemented");
    }

    #[test]
    fn an_operation_of_a_later_version_is_unimplemented_and_no_breach() {
        let mut packer = Packer::map(1);
        packer.text("op").text("teleport");
        let answer = Open::parse(&packer.finish()).expect("a well-formed payload");
        assert_eq!(answer.err().expect("a refusal").code, "unimplemented");
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(shortened("aé", 2), "a");
        assert_eq!(shortened("aé", 3), "aé");
    }
}
