//! The queue to the host: control frames first, DATA in round robin over channels. Decides without I/O.

use std::collections::VecDeque;

use crate::frame::{HEADER_BYTES, Header, Kind, OFFSET_BYTES};

/// Beyond this many bytes of waiting control frames we read no more from the host.
const CONGESTED: usize = 256 << 10;
/// A queue that was larger than this gives its memory back when it is empty.
const KEPT: usize = 16 << 10;
const HEAD_BYTES: usize = HEADER_BYTES + OFFSET_BYTES;

/// The DATA frame whose turn it is.
pub struct Current {
    pub stream: u32,
    pub channel: u8,
    pub offset: u64,
    pub length: usize,
    head: [u8; HEAD_BYTES],
    /// Bytes of the frame that are written, its head included.
    written: usize,
    /// What is left of the body, once the stream itself is gone.
    rest: Option<Vec<u8>>,
}

impl Current {
    pub fn new(stream: u32, channel: u8, offset: u64, length: usize) -> Current {
        let mut head = [0; HEAD_BYTES];
        let header = Header::encode(OFFSET_BYTES + length, stream, Kind::Data, channel);
        head[..HEADER_BYTES].copy_from_slice(&header);
        head[HEADER_BYTES..].copy_from_slice(&offset.to_le_bytes());
        Current { stream, channel, offset, length, head, written: 0, rest: None }
    }

    fn head_left(&self) -> &[u8] {
        &self.head[self.written.min(HEAD_BYTES)..]
    }

    fn body_written(&self) -> usize {
        self.written.saturating_sub(HEAD_BYTES)
    }

    /// Return the offset of the first byte of the body that is not written, and how many are left.
    pub fn body_left(&self) -> (u64, usize) {
        let written = self.body_written();
        (self.offset + written as u64, self.length - written)
    }

    /// Return the end of what was written, as an offset of the channel.
    pub fn reached(&self) -> u64 {
        self.offset + self.body_written() as u64
    }
}

#[derive(Default)]
pub struct Output {
    control: Vec<u8>,
    control_written: usize,
    current: Option<Current>,
    turns: VecDeque<(u32, u8)>,
}

impl Output {
    /// Queue a control frame.
    pub fn push(&mut self, kind: Kind, stream: u32, flags: u8, payload: &[u8]) {
        self.control.extend_from_slice(&Header::encode(payload.len(), stream, kind, flags));
        self.control.extend_from_slice(payload);
    }

    pub fn congested(&self) -> bool {
        self.control.len() - self.control_written > CONGESTED
    }

    pub fn queue(&mut self, stream: u32, channel: u8) {
        self.turns.push_back((stream, channel));
    }

    pub fn next_in_turn(&mut self) -> Option<(u32, u8)> {
        self.turns.pop_front()
    }

    pub fn begin(&mut self, current: Current) {
        self.current = Some(current);
    }

    pub fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Return the pieces to write now, in order; `body` are the current frame's bytes still in their ring.
    pub fn slices<'a>(&'a self, body: (&'a [u8], &'a [u8])) -> [&'a [u8]; 4] {
        let control = &self.control[self.control_written..];
        let Some(current) = &self.current else {
            return [control, &[], &[], &[]];
        };
        let (first, second) = match &current.rest {
            Some(rest) => (&rest[rest.len() - current.body_left().1..], &[][..]),
            None => body,
        };
        match current.written {
            0 => [control, current.head_left(), first, second],
            _ => [current.head_left(), first, second, control],
        }
    }

    /// Note that `count` bytes of `slices` were written; return the DATA frame that this has moved.
    pub fn wrote(&mut self, mut count: usize) -> Option<(u32, u8, u64)> {
        let started = self.current.as_ref().is_some_and(|current| current.written > 0);
        if !started {
            count -= self.wrote_control(count);
        }
        let moved = match &mut self.current {
            Some(current) if count > 0 => {
                let step = count.min(HEAD_BYTES + current.length - current.written);
                current.written += step;
                count -= step;
                let moved = (current.stream, current.channel, current.reached());
                if current.written == HEAD_BYTES + current.length {
                    self.current = None;
                }
                Some(moved)
            }
            _ => None,
        };
        if started {
            self.wrote_control(count);
        }
        moved
    }

    fn wrote_control(&mut self, count: usize) -> usize {
        let step = count.min(self.control.len() - self.control_written);
        self.control_written += step;
        if self.control_written == self.control.len() {
            self.control.clear();
            self.control_written = 0;
            if self.control.capacity() > KEPT {
                self.control = Vec::new();
            }
        }
        step
    }

    /// A stream's channels go: a frame of them that is partly written keeps its rest, one that is not goes
    /// too and is returned.
    pub fn forget(&mut self, stream: u32, body: impl FnOnce(&Current) -> Vec<u8>) -> Option<Current> {
        self.turns.retain(|(waiting, _)| *waiting != stream);
        let current =
            self.current.as_mut().filter(|current| current.stream == stream && current.rest.is_none())?;
        if current.written == 0 {
            return self.current.take();
        }
        current.rest = Some(body(current));
        None
    }

    /// The channel is gone, and with it everything that was queued for it.
    pub fn reset(&mut self) {
        *self = Output::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(output: &mut Output, body: &[u8], step: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        loop {
            let left = output.current().map_or(0, |current| current.body_left().1).min(body.len());
            let pieces = output.slices((&body[body.len() - left..], &[])).concat();
            if pieces.is_empty() {
                return wire;
            }
            let count = step.min(pieces.len());
            wire.extend_from_slice(&pieces[..count]);
            output.wrote(count);
        }
    }

    #[test]
    fn control_goes_before_data_but_never_into_a_frame() {
        for step in 1..60 {
            let mut output = Output::default();
            output.begin(Current::new(3, 1, 0, 5));
            output.push(Kind::Pong, 0, 0, b"first");
            let wire = drain(&mut output, b"hello", step);
            assert_eq!(&wire[12..17], b"first");
            assert_eq!(&wire[17 + 20..], b"hello");
        }
        let mut output = Output::default();
        output.begin(Current::new(3, 1, 0, 5));
        output.wrote(22);
        output.push(Kind::Pong, 0, 0, b"later");
        let wire = drain(&mut output, b"hello", 100);
        assert_eq!(&wire[..3], b"llo");
        assert_eq!(&wire[3 + 12..], b"later");
    }

    #[test]
    fn a_half_written_frame_is_completed_after_its_stream_is_gone() {
        let mut output = Output::default();
        output.begin(Current::new(3, 1, 0, 5));
        output.wrote(22);
        output.forget(3, |current| b"hello"[current.body_left().0 as usize..].to_vec());
        assert_eq!(drain(&mut output, b"", 1), b"llo");
        output.begin(Current::new(3, 1, 0, 5));
        let dropped = output.forget(3, |_| unreachable!("nothing of it was written"));
        assert!(dropped.is_some() && output.current().is_none());
    }
}
