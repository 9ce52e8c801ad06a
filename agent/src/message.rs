//! What we answer: the payloads of control frames to the host.

use crate::packer::Packer;

const MESSAGE_BYTES: usize = 1_024;
const EVIDENCE_BYTES: usize = 256;

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
    let mut packer = Packer::new();
    pack_exit(&mut packer, exit);
    packer.finish()
}

pub fn error(refusal: &Refusal) -> Vec<u8> {
    let mut packer = Packer::map(2);
    packer.text("code").text(refusal.code);
    packer.text("message").text(shortened(&refusal.message, MESSAGE_BYTES));
    packer.finish()
}

pub fn entry(entry: &Entry) -> Vec<u8> {
    let mut packer = Packer::new();
    pack_entry(&mut packer, entry);
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

/// RESULT of `unpack`: where the root of the tree is, and what there was of it.
pub fn unpacked(path: &[u8], entries: u64, size: u64) -> Vec<u8> {
    let mut packer = Packer::map(3);
    packer.text("path").binary(path);
    packer.text("entries").unsigned(entries);
    packer.text("size").unsigned(size);
    packer.finish()
}

/// One change of a watched path.
pub fn change(kind: &str, paths: &[Vec<u8>]) -> Vec<u8> {
    let mut packer = Packer::map(2);
    packer.text("kind").text(kind);
    packer.text("paths").open_array(paths.len() as u32);
    paths.iter().for_each(|path| packer.binary(path));
    packer.finish()
}

pub fn written(size: u64) -> Vec<u8> {
    let mut packer = Packer::map(1);
    packer.text("size").unsigned(size);
    packer.finish()
}

/// Write the map of EXIT, which READY repeats.
pub fn pack_exit(packer: &mut Packer, exit: &Exit) {
    packer.open_map(4);
    packer.text("code").signed(exit.code);
    packer.text("signal").signed(exit.signal);
    packer.text("reason").text(exit.reason);
    packer.text("evidence").text(shortened(&exit.evidence, EVIDENCE_BYTES));
}

fn pack_entry(packer: &mut Packer, entry: &Entry) {
    packer.open_map(10);
    packer.text("name").binary(entry.name);
    packer.text("type").text(entry.kind);
    packer.text("size").unsigned(entry.size);
    packer.text("mode").unsigned(entry.mode.into());
    packer.text("uid").unsigned(entry.uid.into());
    packer.text("gid").unsigned(entry.gid.into());
    packer.text("owner").text(entry.owner);
    packer.text("group").text(entry.group);
    packer.text("modified").float(entry.modified);
    match entry.target {
        Some(target) => packer.text("target").binary(target),
        None => packer.text("target").nil(),
    }
}

fn shortened(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(shortened("aé", 2), "a");
        assert_eq!(shortened("aé", 3), "aé");
    }
}
