//! Frames: the header, the limits of each type, and a parser that does no I/O.
//!
//! The rules are those of `proto/agent.md`, sections 1 and 2. A frame that breaks one is a [`Violation`].

use thiserror::Error;

/// Bytes of the header that precedes every payload.
pub const HEADER_BYTES: usize = 12;
/// Bytes of the offset that starts the payload of DATA.
pub const OFFSET_BYTES: usize = 8;
/// The most bytes of a channel that one DATA may carry when we receive it.
pub const DATA_LIMIT: usize = 1 << 20;
/// The most bytes of a channel that we put into one DATA.
pub const DATA_SENT: usize = 256 << 10;

/// A rule of the protocol that the host has broken; its text is the rule's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("frame_too_large")]
    FrameTooLarge,
    #[error("malformed_frame")]
    MalformedFrame,
    #[error("unknown_type")]
    UnknownType,
    #[error("malformed_payload")]
    MalformedPayload,
    #[error("stream_reused")]
    StreamReused,
    #[error("unknown_stream")]
    UnknownStream,
    #[error("unexpected_frame")]
    UnexpectedFrame,
    #[error("hello_expected")]
    HelloExpected,
    #[error("second_hello")]
    SecondHello,
    #[error("offset_jumped")]
    OffsetJumped,
    #[error("channel_ended")]
    ChannelEnded,
    #[error("bad_credit")]
    BadCredit,
    #[error("over_credit")]
    OverCredit,
}

/// The types of frames, by their number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Ready = 2,
    Ping = 3,
    Pong = 4,
    Open = 5,
    Started = 6,
    Data = 7,
    End = 8,
    Credit = 9,
    Signal = 10,
    Resize = 11,
    Exit = 12,
    Error = 13,
    Result = 14,
    Close = 15,
    Shutdown = 16,
}

impl Kind {
    /// Return the type of a frame that may travel to the agent.
    fn to_agent(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Hello,
            3 => Kind::Ping,
            5 => Kind::Open,
            7 => Kind::Data,
            8 => Kind::End,
            9 => Kind::Credit,
            10 => Kind::Signal,
            11 => Kind::Resize,
            15 => Kind::Close,
            16 => Kind::Shutdown,
            _ => return None,
        })
    }

    /// Return the smallest and the largest payload of this type.
    fn payload(self) -> (usize, usize) {
        match self {
            Kind::Data => (OFFSET_BYTES + 1, OFFSET_BYTES + DATA_LIMIT),
            Kind::Open => (0, 262_144),
            Kind::Ready => (0, 1_048_576),
            Kind::Ping | Kind::Pong => (0, 64),
            Kind::End => (8, 8),
            Kind::Credit => (16, 16),
            Kind::Signal => (1, 1),
            Kind::Resize | Kind::Shutdown => (4, 4),
            Kind::Close => (0, 0),
            _ => (0, 65_536),
        }
    }

    /// Return the most bytes of a payload that is not too large, though it may have another fault.
    fn limit(self) -> usize {
        let (least, most) = self.payload();
        if least == most { 65_536 } else { most }
    }

    fn allows_flags(self, flags: u8) -> bool {
        match self {
            Kind::Data | Kind::End => flags == 0,
            Kind::Credit => flags == 1 || flags == 2,
            _ => flags == 0,
        }
    }

    fn allows_stream(self, stream: u32) -> bool {
        match self {
            Kind::Hello | Kind::Ping | Kind::Shutdown => stream == 0,
            _ => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub length: usize,
    pub stream: u32,
    pub kind: Kind,
    pub flags: u8,
}

impl Header {
    /// Return the header of a frame to the agent, if it keeps the rules of section 1.
    pub fn parse(raw: &[u8; HEADER_BYTES]) -> Result<Header, Violation> {
        let length = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]) as usize;
        let stream = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
        let kind = Kind::to_agent(raw[8]).ok_or(Violation::UnknownType)?;
        let flags = raw[9];
        if length > kind.limit() {
            return Err(Violation::FrameTooLarge);
        }
        let (least, most) = kind.payload();
        let sized = (least..=most).contains(&length);
        if !sized || raw[10] != 0 || raw[11] != 0 || !kind.allows_flags(flags) || !kind.allows_stream(stream)
        {
            return Err(Violation::MalformedFrame);
        }
        Ok(Header { length, stream, kind, flags })
    }

    /// Return the bytes of a header to the host.
    pub fn encode(length: usize, stream: u32, kind: Kind, flags: u8) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        raw[..4].copy_from_slice(&(length as u32).to_le_bytes());
        raw[4..8].copy_from_slice(&stream.to_le_bytes());
        raw[8] = kind as u8;
        raw[9] = flags;
        raw
    }
}

/// What the parser has found next. DATA is handed on as it comes, so that no frame of 1 MiB is ever kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole frame other than DATA.
    Frame(Header, &'a [u8]),
    /// A DATA begins: the offset of its first byte, and how many bytes it carries.
    DataStart { stream: u32, offset: u64, length: usize },
    /// The next bytes of the DATA that has begun.
    DataBytes(&'a [u8]),
}

#[derive(Clone, Copy)]
enum State {
    Header,
    Payload(Header),
    Offset(Header),
    Data(usize),
}

/// Splits a byte sequence into frames, whatever the pieces it arrives in.
pub struct Decoder {
    state: State,
    fixed: [u8; HEADER_BYTES],
    filled: usize,
    payload: Vec<u8>,
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder { state: State::Header, fixed: [0; HEADER_BYTES], filled: 0, payload: Vec::new() }
    }

    #[cfg(test)]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header) && self.filled == 0
    }

    /// Take the next piece off `input`; `None` means that `input` is used up.
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Piece<'a>>, Violation> {
        loop {
            match self.state {
                State::Header => {
                    if !self.fill(HEADER_BYTES, input) {
                        return Ok(None);
                    }
                    let header = Header::parse(&self.fixed)?;
                    self.payload = Vec::new();
                    self.state = match header.kind {
                        Kind::Data => State::Offset(header),
                        _ => State::Payload(header),
                    };
                }
                State::Offset(header) => {
                    if !self.fill(OFFSET_BYTES, input) {
                        return Ok(None);
                    }
                    let mut offset = [0; OFFSET_BYTES];
                    offset.copy_from_slice(&self.fixed[..OFFSET_BYTES]);
                    let length = header.length - OFFSET_BYTES;
                    self.state = State::Data(length);
                    let offset = u64::from_le_bytes(offset);
                    return Ok(Some(Piece::DataStart { stream: header.stream, offset, length }));
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let bytes = take(input, left);
                    let left = left - bytes.len();
                    self.state = if left == 0 { State::Header } else { State::Data(left) };
                    return Ok(Some(Piece::DataBytes(bytes)));
                }
                State::Payload(header) => {
                    if self.payload.is_empty() && input.len() >= header.length {
                        self.state = State::Header;
                        return Ok(Some(Piece::Frame(header, take(input, header.length))));
                    }
                    self.payload.extend_from_slice(take(input, header.length - self.payload.len()));
                    if self.payload.len() < header.length {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    return Ok(Some(Piece::Frame(header, &self.payload)));
                }
            }
        }
    }

    /// Collect `wanted` bytes in `fixed`; false while some are missing.
    fn fill(&mut self, wanted: usize, input: &mut &[u8]) -> bool {
        let bytes = take(input, wanted - self.filled);
        self.fixed[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        let full = self.filled == wanted;
        if full {
            self.filled = 0;
        }
        full
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (head, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(length: u32, stream: u32, kind: u8, flags: u8, zero: u16) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        raw[..4].copy_from_slice(&length.to_le_bytes());
        raw[4..8].copy_from_slice(&stream.to_le_bytes());
        raw[8] = kind;
        raw[9] = flags;
        raw[10..].copy_from_slice(&zero.to_le_bytes());
        raw
    }

    #[test]
    fn each_type_has_its_limit_and_one_byte_beyond_it_is_refused() {
        for (kind, limit) in [(1, 65_536), (3, 64), (5, 262_144), (7, 8 + (1 << 20))] {
            assert!(Header::parse(&raw(limit, 0, kind, 0, 0)).is_ok(), "type {kind}");
            let beyond = Header::parse(&raw(limit + 1, 0, kind, 0, 0));
            assert_eq!(beyond, Err(Violation::FrameTooLarge), "type {kind}");
        }
    }

    #[test]
    fn a_fixed_type_has_one_size() {
        for (kind, size) in [(8, 8), (10, 1), (11, 4), (15, 0), (16, 4)] {
            assert!(Header::parse(&raw(size, 0, kind, 0, 0)).is_ok(), "type {kind}");
            assert_eq!(Header::parse(&raw(size + 1, 0, kind, 0, 0)), Err(Violation::MalformedFrame));
        }
    }

    #[test]
    fn types_of_the_other_direction_are_unknown() {
        for kind in [0, 2, 4, 6, 12, 13, 14, 17, 255] {
            assert_eq!(Header::parse(&raw(1, 0, kind, 0, 0)), Err(Violation::UnknownType));
        }
    }

    #[test]
    fn the_reserved_bytes_and_undefined_flags_must_be_zero() {
        assert_eq!(Header::parse(&raw(0, 0, 3, 0, 1)), Err(Violation::MalformedFrame));
        assert_eq!(Header::parse(&raw(0, 0, 3, 1, 0)), Err(Violation::MalformedFrame));
        assert_eq!(Header::parse(&raw(9, 1, 7, 1, 0)), Err(Violation::MalformedFrame));
        assert_eq!(Header::parse(&raw(16, 1, 9, 3, 0)), Err(Violation::MalformedFrame));
    }

    #[test]
    fn frames_arrive_whole_however_their_bytes_are_split() {
        let mut wire = Vec::new();
        wire.extend(raw(3, 0, 3, 0, 0));
        wire.extend(b"abc");
        wire.extend(raw(8 + 5, 7, 7, 0, 0));
        wire.extend(9u64.to_le_bytes());
        wire.extend(b"hello");
        wire.extend(raw(0, 7, 15, 0, 0));
        for step in 1..=wire.len() {
            let mut decoder = Decoder::new();
            let (mut seen, mut data) = (Vec::new(), Vec::new());
            for chunk in wire.chunks(step) {
                let mut input = chunk;
                while let Some(piece) = decoder.next(&mut input).expect("these frames keep the rules") {
                    match piece {
                        Piece::Frame(header, payload) => seen.push((header.kind, payload.to_vec())),
                        Piece::DataStart { stream, offset, length } => {
                            assert_eq!((stream, offset, length), (7, 9, 5))
                        }
                        Piece::DataBytes(bytes) => data.extend_from_slice(bytes),
                    }
                }
            }
            assert_eq!(seen, [(Kind::Ping, b"abc".to_vec()), (Kind::Close, vec![])]);
            assert_eq!(data, b"hello");
        }
    }
}
