//! One msgpack map, read strictly: nothing after it, nesting bounded before anything recurses.

use rmp::Marker;
use rmp::decode::{self, bytes::Bytes};

use crate::frame::Violation;

/// Maps and arrays nest at most this deep, the outermost map included.
const DEPTH_LIMIT: usize = 8;

/// A msgpack value that borrows from the payload it was read from.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(&'a str),
    Binary(&'a [u8]),
    Array(Vec<Value<'a>>),
    Map(Map<'a>),
}

/// A map with string keys. Unknown keys stay where they are; a key that is asked for must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Map<'a>(Vec<(&'a str, Value<'a>)>);

/// What reading a payload gives.
pub type Parsed<T> = Result<T, Violation>;
pub const BAD: Violation = Violation::MalformedPayload;

impl<'a> Map<'a> {
    /// Return the one map that `payload` consists of.
    pub fn parse(payload: &'a [u8]) -> Parsed<Map<'a>> {
        let mut reader = Reader { rest: payload };
        let value = reader.value(0)?;
        match value {
            Value::Map(map) if reader.rest.is_empty() => Ok(map),
            _ => Err(BAD),
        }
    }

    pub fn get(&self, key: &str) -> Parsed<&Value<'a>> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value).ok_or(BAD)
    }

    pub fn text(&self, key: &str) -> Parsed<&'a str> {
        self.get(key)?.as_text()
    }

    pub fn binary(&self, key: &str) -> Parsed<&'a [u8]> {
        self.get(key)?.as_binary()
    }

    pub fn unsigned(&self, key: &str) -> Parsed<u64> {
        self.get(key)?.as_unsigned()
    }

    pub fn small(&self, key: &str) -> Parsed<u32> {
        self.get(key)?.as_small()
    }

    pub fn flag(&self, key: &str) -> Parsed<bool> {
        match self.get(key)? {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(BAD),
        }
    }

    pub fn array(&self, key: &str) -> Parsed<&[Value<'a>]> {
        self.get(key)?.as_array()
    }

    /// Return `None` for nil, else what `read` makes of the value.
    pub fn optional<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Parsed<T>) -> Parsed<Option<T>> {
        match self.get(key)? {
            Value::Nil => Ok(None),
            value => read(value).map(Some),
        }
    }
}

impl<'a> Value<'a> {
    pub fn as_text(&self) -> Parsed<&'a str> {
        match self {
            Value::Text(text) => Ok(text),
            _ => Err(BAD),
        }
    }

    pub fn as_binary(&self) -> Parsed<&'a [u8]> {
        match self {
            Value::Binary(bytes) => Ok(bytes),
            _ => Err(BAD),
        }
    }

    /// Return an `int` of the protocol: 0 to 2^63 - 1.
    pub fn as_unsigned(&self) -> Parsed<u64> {
        match self {
            Value::Unsigned(number) if *number <= i64::MAX as u64 => Ok(*number),
            _ => Err(BAD),
        }
    }

    pub fn as_small(&self) -> Parsed<u32> {
        u32::try_from(self.as_unsigned()?).map_err(|_| BAD)
    }

    pub fn as_array(&self) -> Parsed<&[Value<'a>]> {
        match self {
            Value::Array(items) => Ok(items),
            _ => Err(BAD),
        }
    }

    pub fn as_map(&self) -> Parsed<&Map<'a>> {
        match self {
            Value::Map(map) => Ok(map),
            _ => Err(BAD),
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Read one value; `depth` is the number of maps and arrays around it.
    fn value(&mut self, depth: usize) -> Parsed<Value<'a>> {
        let marker = Marker::from_u8(*self.rest.first().ok_or(BAD)?);
        Ok(match marker {
            Marker::Null => {
                self.skip_marker();
                Value::Nil
            }
            Marker::True | Marker::False => {
                self.skip_marker();
                Value::Bool(marker == Marker::True)
            }
            Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => {
                Value::Unsigned(self.with(|bytes| decode::read_int(bytes).ok())?)
            }
            Marker::FixNeg(_) | Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => {
                let number: i64 = self.with(|bytes| decode::read_int(bytes).ok())?;
                u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned)
            }
            Marker::F32 => Value::Float(self.with(|bytes| decode::read_f32(bytes).ok())?.into()),
            Marker::F64 => Value::Float(self.with(|bytes| decode::read_f64(bytes).ok())?),
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => Value::Text(self.text()?),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let length = self.with(|bytes| decode::read_bin_len(bytes).ok())?;
                Value::Binary(self.take(length)?)
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => self.array(depth)?,
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => self.map(depth)?,
            _ => return Err(BAD),
        })
    }

    fn array(&mut self, depth: usize) -> Parsed<Value<'a>> {
        let count = self.with(|bytes| decode::read_array_len(bytes).ok())? as usize;
        self.enter(depth, count)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, depth: usize) -> Parsed<Value<'a>> {
        let count = self.with(|bytes| decode::read_map_len(bytes).ok())? as usize;
        self.enter(depth, count)?;
        let mut entries: Vec<(&str, Value)> = Vec::new();
        for _ in 0..count {
            let key = self.text()?;
            let value = self.value(depth + 1)?;
            entries.push((key, value));
        }
        Ok(Value::Map(Map(entries)))
    }

    /// Refuse what nests too deep, or claims more members than bytes are left.
    fn enter(&self, depth: usize, count: usize) -> Parsed<()> {
        if depth >= DEPTH_LIMIT || count > self.rest.len() { Err(BAD) } else { Ok(()) }
    }

    fn text(&mut self) -> Parsed<&'a str> {
        let length = self.with(|bytes| decode::read_str_len(bytes).ok())?;
        std::str::from_utf8(self.take(length)?).map_err(|_| BAD)
    }

    fn take(&mut self, length: u32) -> Parsed<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length as usize).ok_or(BAD)?;
        self.rest = rest;
        Ok(head)
    }

    fn skip_marker(&mut self) {
        self.rest = &self.rest[1..];
    }

    fn with<T>(&mut self, read: impl FnOnce(&mut Bytes<'a>) -> Option<T>) -> Parsed<T> {
        let mut bytes = Bytes::new(self.rest);
        let value = read(&mut bytes).ok_or(BAD)?;
        self.rest = bytes.remaining_slice();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        let mut payload = vec![0x81, 0xa1, b'k'];
        payload.extend(std::iter::repeat_n(0x91, depth - 1));
        payload.push(0xc0);
        payload
    }

    #[test]
    fn maps_and_arrays_nest_eight_deep_and_no_deeper() {
        assert!(Map::parse(&nested(8)).is_ok());
        assert_eq!(Map::parse(&nested(9)), Err(BAD));
        assert_eq!(Map::parse(&nested(60_000)), Err(BAD));
    }

    #[test]
    fn a_payload_is_one_map_with_string_keys_and_nothing_after_it() {
        assert!(Map::parse(&[0x80]).is_ok());
        assert_eq!(Map::parse(&[]), Err(BAD));
        assert_eq!(Map::parse(&[0x80, 0xc0]), Err(BAD));
        assert_eq!(Map::parse(&[0x90]), Err(BAD));
        assert_eq!(Map::parse(&[0x81, 0x01, 0x01]), Err(BAD));
        assert_eq!(Map::parse(&[0x81, 0xa1, 0xff, 0x01]), Err(BAD));
        assert_eq!(Map::parse(&[0x81, 0xa1, b'k', 0xd4, 0, 0]), Err(BAD));
    }

    #[test]
    fn a_length_beyond_the_payload_is_refused_before_memory_is_taken() {
        assert_eq!(Map::parse(&[0xdf, 0xff, 0xff, 0xff, 0xff]), Err(BAD));
        assert_eq!(Map::parse(&[0x81, 0xa1, b'k', 0xc6, 0xff, 0xff, 0xff, 0xff, 1]), Err(BAD));
    }

    #[test]
    fn integers_are_read_whatever_their_width() {
        let map = [0x82, 0xa1, b'a', 0xcf, 0, 0, 0, 0, 0, 0, 0, 7, 0xa1, b'b', 0xd0, 0xff];
        let map = Map::parse(&map).expect("a map of two integers");
        assert_eq!(map.unsigned("a"), Ok(7));
        assert_eq!(map.get("b"), Ok(&Value::Negative(-1)));
        assert_eq!(map.unsigned("b"), Err(BAD));
        assert_eq!(map.unsigned("c"), Err(BAD));
    }
}
