//! A tree as one stream: the records of `pack` and `unpack`, proto/agent.md, section 5.

use crate::packer::Packer;
use crate::value::{BAD, Map, Parsed};

pub const HEAD: usize = 5;
/// The most bytes of content in one record.
pub const CONTENT_BYTES: usize = 256 << 10;
/// The most bytes of a map in one record.
const MAP_BYTES: usize = 64 << 10;
const PATH_BYTES: usize = 4_095;
/// Folders inside folders.
pub const DEPTH: usize = 128;
/// The bits of a mode that travel: those that give somebody the owner's rights do not.
pub const MODE: u32 = 0o777;

const ENTRY: u8 = 1;
const CONTENT: u8 = 2;
const DONE: u8 = 3;
const SKIPPED: u8 = 4;

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link(Vec<u8>),
}

/// What is said of a file, a folder or a link before its content.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names below the root with slashes between them; empty for the root itself.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub modified_ns: u64,
    pub size: u64,
}

impl Entry {
    /// Return the path of the folder that it lies in, and its name there.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.path[..at], &self.path[at + 1..]),
            None => (b"", &self.path),
        }
    }

    fn parse(payload: &[u8]) -> Parsed<Entry> {
        let map = Map::parse(payload)?;
        let target = map.optional("target", |target| Ok(target.as_binary()?.to_vec()))?;
        let kind = match (map.text("type")?, target) {
            ("file", None) => Kind::File,
            ("directory", None) => Kind::Folder,
            ("symlink", Some(target)) if is_target(&target) => Kind::Link(target),
            _ => return Err(BAD),
        };
        let path = map.binary("path")?.to_vec();
        let mode = map.small("mode")?;
        if !is_path(&path) || mode > MODE {
            return Err(BAD);
        }
        Ok(Entry { path, kind, mode, modified_ns: map.unsigned("modified_ns")?, size: map.unsigned("size")? })
    }
}

/// One record that came whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    Entry(Entry),
    /// As many bytes of content follow the head.
    Content(usize),
    Done,
}

/// Return the kind and the length in a head, if it is one that may come to us.
pub fn head(head: [u8; HEAD]) -> Parsed<(u8, usize)> {
    let [a, b, c, d, kind] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let fits = match kind {
        ENTRY => length <= MAP_BYTES,
        CONTENT => (1..=CONTENT_BYTES).contains(&length),
        DONE => length == 0,
        _ => false,
    };
    if fits { Ok((kind, length)) } else { Err(BAD) }
}

/// Return the record whose head has told this kind and whose payload is this; content is not looked at.
pub fn record(kind: u8, payload: &[u8]) -> Parsed<Record> {
    match kind {
        ENTRY => Entry::parse(payload).map(Record::Entry),
        CONTENT => Ok(Record::Content(payload.len())),
        _ => Ok(Record::Done),
    }
}

pub fn pack_entry(entry: &Entry) -> Vec<u8> {
    let mut packer = Packer::map(6);
    packer.text("path").binary(&entry.path);
    packer.text("type").text(match entry.kind {
        Kind::File => "file",
        Kind::Folder => "directory",
        Kind::Link(_) => "symlink",
    });
    packer.text("mode").unsigned(entry.mode.into());
    packer.text("modified_ns").unsigned(entry.modified_ns);
    packer.text("size").unsigned(entry.size);
    match &entry.kind {
        Kind::Link(target) => packer.text("target").binary(target),
        _ => packer.text("target").nil(),
    }
    framed(ENTRY, &packer.finish())
}

/// Return the head of a record of content.
pub fn pack_content(length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [a, b, c, d, CONTENT]
}

pub fn pack_done() -> Vec<u8> {
    framed(DONE, &[])
}

pub fn pack_skipped(path: &[u8], reason: &str) -> Vec<u8> {
    let mut packer = Packer::map(2);
    packer.text("path").binary(path);
    packer.text("reason").text(reason);
    framed(SKIPPED, &packer.finish())
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], &[kind], payload].concat()
}

/// Tell whether a path names something below the root, or the root.
fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.len() <= PATH_BYTES && (path.is_empty() || path.split(|byte| *byte == b'/').all(is_name))
}

fn is_target(target: &[u8]) -> bool {
    (1..=PATH_BYTES).contains(&target.len()) && !target.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    /// Return what the records come to, a word each, or "bad".
    fn words(stream: &[u8]) -> String {
        let (mut left, mut words) = (stream, Vec::new());
        while !left.is_empty() {
            let Some((start, rest)) = left.split_first_chunk::<HEAD>() else {
                words.push("incomplete".to_owned());
                break;
            };
            let Ok((kind, length)) = head(*start) else { return "bad".to_owned() };
            if rest.len() < length {
                words.push("incomplete".to_owned());
                break;
            }
            let (payload, rest) = rest.split_at(length);
            left = rest;
            words.push(match record(kind, payload) {
                Ok(Record::Entry(entry)) => match entry.kind {
                    Kind::File => "file".to_owned(),
                    Kind::Folder => "directory".to_owned(),
                    Kind::Link(_) => "symlink".to_owned(),
                },
                Ok(Record::Content(_)) => "content".to_owned(),
                Ok(Record::Done) => "done".to_owned(),
                Err(_) => return "bad".to_owned(),
            });
        }
        words.join(" ")
    }

    #[test]
    fn golden_records_are_judged_as_the_protocol_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/trees.json");
        let text = std::fs::read_to_string(path).expect("proto/trees.json lies beside the agent's folder");
        let cases: Vec<Json> = serde_json::from_str(&text).expect("a list of cases");
        assert!(cases.len() > 20);
        for case in cases {
            // Only an agent says what it has skipped.
            let expected = if case["to_agent"].is_null() { &case["expect"] } else { &case["to_agent"] };
            let told = words(&bytes(case["hex"].as_str().expect("hexadecimal text")));
            assert_eq!(Some(told.as_str()), expected.as_str(), "{}", case["name"]);
        }
    }

    #[test]
    fn what_is_packed_is_parsed_again() {
        for kind in [Kind::File, Kind::Folder, Kind::Link(b"../x".to_vec())] {
            let entry = Entry { path: b"a/\xff".to_vec(), kind, mode: 0o750, modified_ns: 7, size: 3 };
            let packed = pack_entry(&entry);
            let (start, payload) = packed.split_first_chunk::<HEAD>().expect("a head");
            let (kind, length) = head(*start).expect("a good head");
            assert_eq!(length, payload.len());
            assert_eq!(record(kind, payload), Ok(Record::Entry(entry)));
        }
    }
}
