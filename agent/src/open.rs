//! OPEN: what the host asks for, and which of it is a mistake of the caller.

use crate::changes::Kinds;
use crate::frame::Violation;
use crate::message::Refusal;
use crate::value::{BAD, Map, Parsed, Value};

const ARGV_BYTES: usize = 65_536;
const ENV_BYTES: usize = 131_072;
const PATH_BYTES: usize = 4_095;
const TERM_BYTES: usize = 64;

/// What an OPEN asks for.
pub enum Open {
    Exec(Exec),
    Read { path: Vec<u8>, offset: u64, length: Option<u64>, limit: u64 },
    Write { path: Vec<u8>, mode: Option<u32>, parents: bool, append: bool },
    List { path: Vec<u8>, limit: u64 },
    Stat { path: Vec<u8> },
    Mkdir { path: Vec<u8>, mode: u32, parents: bool },
    Remove { path: Vec<u8>, recursive: bool },
    Rename { path: Vec<u8>, target: Vec<u8> },
    Pack { path: Vec<u8>, limit: u64 },
    Unpack { path: Vec<u8>, name: Option<Vec<u8>>, parents: bool },
    Watch { path: Vec<u8>, recursive: bool, kinds: Kinds, timeout_ms: u64, limit: u64 },
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
    pub terminal: Option<Terminal>,
    pub limits: [u64; 2],
}

/// The terminal that a process gets instead of pipes.
pub struct Terminal {
    pub size: Size,
    /// What TERM becomes where the environment has none.
    pub term: String,
}

/// Rows and columns, at least one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

impl Size {
    /// Return the size in a RESIZE.
    pub fn parse(payload: [u8; 4]) -> Parsed<Size> {
        let [rows, rows_high, columns, columns_high] = payload;
        let number = |low, high| u16::from_le_bytes([low, high]).into();
        Size::new(number(rows, rows_high), number(columns, columns_high))
    }

    fn new(rows: u64, columns: u64) -> Parsed<Size> {
        let side = |number: u64| u16::try_from(number).ok().filter(|side| *side > 0).ok_or(BAD);
        Ok(Size { rows: side(rows)?, columns: side(columns)? })
    }
}

impl Terminal {
    fn read(map: &Map) -> Parsed<Terminal> {
        let size = Size::new(map.unsigned("rows")?, map.unsigned("columns")?)?;
        Ok(Terminal { size, term: map.text("term")?.to_owned() })
    }

    fn check(&self, exec: &Exec) -> Result<(), Refusal> {
        if !exec.stdin || !exec.stdout || exec.stderr != Stderr::Stdout {
            return invalid("a terminal is stdin, stdout and stderr of its process");
        }
        if self.term.len() > TERM_BYTES || !self.term.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid("term is longer than 64 bytes or holds more than letters, digits and signs");
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    Null,
    Pipe,
    Stdout,
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
            Open::Rename { .. } => "rename",
            Open::Pack { .. } => "pack",
            Open::Unpack { .. } => "unpack",
            Open::Watch { .. } => "watch",
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
                mode: map.optional("mode", Value::as_small)?,
                parents: map.flag("parents")?,
                append: map.flag("append")?,
            },
            "list" => Open::List { path: path(&map)?, limit: window(map.unsigned("limit")?)? },
            "stat" => Open::Stat { path: path(&map)? },
            "mkdir" => {
                Open::Mkdir { path: path(&map)?, mode: map.small("mode")?, parents: map.flag("parents")? }
            }
            "remove" => Open::Remove { path: path(&map)?, recursive: map.flag("recursive")? },
            "rename" => Open::Rename { path: path(&map)?, target: map.binary("target")?.to_vec() },
            "pack" => Open::Pack { path: path(&map)?, limit: window(map.unsigned("limit")?)? },
            "unpack" => Open::Unpack {
                path: path(&map)?,
                name: map.optional("name", |name| Ok(name.as_binary()?.to_vec()))?,
                parents: map.flag("parents")?,
            },
            "watch" => Open::Watch {
                path: path(&map)?,
                recursive: map.flag("recursive")?,
                kinds: kinds(&map)?,
                timeout_ms: map.unsigned("timeout_ms")?,
                limit: window(map.unsigned("limit")?)?,
            },
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
            Open::Remove { path, .. } | Open::Watch { path, .. } => check_path(path),
            Open::Pack { path, .. } => check_path(path),
            Open::Unpack { path, name, .. } => {
                check_path(path).and(name.as_deref().map_or(Ok(()), check_name))
            }
            Open::Rename { path, target } => check_path(path).and(check_path(target)),
            Open::Write { path, mode, .. } => check_path(path).and(check_mode(mode.unwrap_or(0))),
            Open::Mkdir { path, mode, .. } => check_path(path).and(check_mode(*mode)),
        }
    }
}

fn path(map: &Map) -> Parsed<Vec<u8>> {
    Ok(map.binary("path")?.to_vec())
}

fn kinds(map: &Map) -> Parsed<Kinds> {
    let words: Vec<&str> = map.array("kinds")?.iter().map(|word| word.as_text()).collect::<Parsed<_>>()?;
    Kinds::of(words.into_iter()).ok_or(BAD)
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

fn check_name(name: &[u8]) -> Result<(), Refusal> {
    let whole = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
    if whole { Ok(()) } else { invalid("the name is no name of a file") }
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
            terminal: map.optional("terminal", |value| Terminal::read(value.as_map()?))?,
            limits,
        })
    }

    fn check(&self) -> Result<(), Refusal> {
        if let Some(terminal) = &self.terminal {
            terminal.check(self)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packer::Packer;

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
            terminal: None,
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
    }

    #[test]
    fn a_terminal_is_all_three_streams_of_its_process_and_has_a_short_plain_name() {
        let with = |term: &str, change: fn(&mut Exec)| {
            exec(|exec| {
                let size = Size { rows: 24, columns: 80 };
                exec.terminal = Some(Terminal { size, term: term.to_owned() });
                (exec.stdin, exec.stderr) = (true, Stderr::Stdout);
                change(exec);
            })
        };
        assert!(with("xterm-256color", |_| ()).is_ok());
        assert!(with(&"x".repeat(TERM_BYTES), |_| ()).is_ok());
        for refused in [
            with(&"x".repeat(TERM_BYTES + 1), |_| ()),
            with("x term", |_| ()),
            with("x\0", |_| ()),
            with("x", |exec| exec.stdin = false),
            with("x", |exec| exec.stdout = false),
            with("x", |exec| exec.stderr = Stderr::Pipe),
        ] {
            assert_eq!(refused.expect_err("a caller's mistake").code, "invalid_argument");
        }
    }

    #[test]
    fn a_side_of_a_terminal_is_from_one_to_all_that_sixteen_bits_hold() {
        assert_eq!(Size::parse([24, 0, 80, 0]), Ok(Size { rows: 24, columns: 80 }));
        assert_eq!(Size::parse([0xff; 4]), Ok(Size { rows: u16::MAX, columns: u16::MAX }));
        assert_eq!(Size::parse([0, 0, 80, 0]), Err(BAD));
        assert_eq!(Size::parse([24, 0, 0, 0]), Err(BAD));
        assert_eq!(Size::new(65_536, 80), Err(BAD));
    }

    #[test]
    fn an_operation_of_a_later_version_is_unimplemented_and_no_breach() {
        let mut packer = Packer::map(1);
        packer.text("op").text("teleport");
        let answer = Open::parse(&packer.finish()).expect("a well-formed payload");
        assert_eq!(answer.err().expect("a refusal").code, "unimplemented");
    }
}
