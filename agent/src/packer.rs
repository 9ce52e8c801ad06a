//! msgpack as we write it.

use rmp::encode as pack;

/// Writes msgpack into memory, which cannot fail.
#[derive(Default)]
pub struct Packer(Vec<u8>);

impl Packer {
    pub fn new() -> Packer {
        Packer(Vec::new())
    }

    pub fn map(members: u32) -> Packer {
        let mut packer = Packer::new();
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

    pub fn float(&mut self, number: f64) {
        let _ = pack::write_f64(&mut self.0, number);
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

    pub fn signed(&mut self, number: Option<i32>) {
        match number {
            Some(number) => drop(pack::write_sint(&mut self.0, number.into())),
            None => self.nil(),
        }
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
