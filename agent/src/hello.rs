//! HELLO: who the host is, and what a claim makes of the container.

use crate::value::{BAD, Map, Parsed, Value};

/// The protocol's version; another one is refused.
pub const VERSION: u64 = 1;
const SECRET_BYTES: usize = 32;
const SETUP_FILES: usize = 16;
const SETUP_ATTRIBUTES: usize = 256;

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
            cpus: map.small("cpus")?,
            processes: map.small("processes")?,
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
