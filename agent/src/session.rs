//! What the host says: each frame is judged by the state of its stream, and becomes an event for the agent.

use std::time::Duration;

use crate::frame::{Header, Kind, Piece, Violation};
use crate::hello::Hello;
use crate::message::{self, Refusal};
use crate::open::{Open, Size};
use crate::ready;
use crate::stream::{Incoming, Stream};
use crate::streams::Streams;

/// Streams that may be open at once.
pub const STREAM_LIMIT: usize = 1_024;

/// What the host wants done.
pub enum Event {
    Hello(Hello),
    Open(u32, Open),
    /// Bytes or the end of channel 0 have come.
    Input(u32),
    /// The host has room for more of a channel.
    Credit(u32, u8),
    Signal(u32, i32),
    Resize(u32, Size),
    Close(u32),
    Shutdown(Duration),
}

#[derive(Default)]
pub struct Session {
    pub streams: Streams,
    secret: Option<[u8; 32]>,
    generation: u64,
    last_stream: u32,
    /// The stream whose DATA is under way.
    receiving: u32,
}

impl Session {
    /// Take the next piece of what the host sends.
    pub fn receive(&mut self, piece: Piece) -> Result<Option<Event>, Violation> {
        match piece {
            Piece::Frame(header, payload) if header.kind == Kind::Hello => self.hello(payload).map(Some),
            _ if !self.streams.greeted() => Err(Violation::HelloExpected),
            Piece::Frame(header, payload) => self.frame(header, payload),
            Piece::DataStart { stream, offset, length } => self.data(stream, offset, length),
            Piece::DataBytes(bytes) => Ok(self.bytes(bytes)),
        }
    }

    fn hello(&mut self, payload: &[u8]) -> Result<Event, Violation> {
        if self.streams.greeted() {
            return Err(Violation::SecondHello);
        }
        let hello = Hello::parse(payload)?;
        // The first channel is the claim's; an attach comes by another way.
        if hello.setup.is_none() { Err(Violation::MalformedPayload) } else { Ok(Event::Hello(hello)) }
    }

    /// Return whether `hello` may replace the channel in use.
    pub fn proves(&self, hello: &Hello) -> bool {
        match (&self.secret, &hello.proof) {
            (Some(secret), Some(proof)) => {
                // No early end, so that a guesser learns nothing from the time it takes.
                let difference = secret.iter().zip(proof).fold(0, |sum, (a, b)| sum | (a ^ b));
                difference == 0 && hello.setup.is_none()
            }
            _ => false,
        }
    }

    /// Begin on a new channel: everything goes on from what is acknowledged, and READY says where that is.
    pub fn welcome(&mut self, hello: &Hello) {
        self.secret = Some(hello.secret);
        self.generation = hello.generation;
        self.streams.rewind();
        let ready = ready::payload(self.generation, self.last_stream, &self.streams);
        self.streams.say(Kind::Ready, 0, &ready);
        self.streams.repeat_last_words();
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let id = header.stream;
        match header.kind {
            Kind::Ping => {
                self.streams.say(Kind::Pong, 0, payload);
                return Ok(None);
            }
            Kind::Shutdown => {
                let grace = u32::from_le_bytes(fixed(payload)?);
                return Ok(Some(Event::Shutdown(Duration::from_millis(grace.into()))));
            }
            Kind::Open => return self.open(id, payload),
            _ => {}
        }
        if !self.known(id)? {
            return Ok(None);
        }
        match header.kind {
            Kind::End => self.end(id, u64::from_le_bytes(fixed(payload)?)),
            Kind::Credit => self.credit(id, header.flags, payload),
            Kind::Signal => self.signal(id, payload),
            Kind::Close => {
                self.streams.close(id);
                Ok(Some(Event::Close(id)))
            }
            _ => self.resize(id, payload),
        }
    }

    /// Return whether the stream is open; one that never was is a violation.
    fn known(&self, id: u32) -> Result<bool, Violation> {
        match self.streams.get(id) {
            Some(stream) => Ok(!stream.closing),
            None if id == 0 || id > self.last_stream => Err(Violation::UnknownStream),
            None => Ok(false),
        }
    }

    fn open(&mut self, id: u32, payload: &[u8]) -> Result<Option<Event>, Violation> {
        if id <= self.last_stream {
            return Err(Violation::StreamReused);
        }
        let open = Open::parse(payload)?;
        self.last_stream = id;
        let open = match open {
            Ok(open) if self.streams.open() < STREAM_LIMIT => open,
            // These leave no state behind: a host that misses the answer will not find the stream in READY.
            Ok(_) => {
                let message = format!("{STREAM_LIMIT} streams are open; close one first");
                return Ok(self.turn_away(id, &Refusal::new("resource_exhausted", message)));
            }
            Err(refusal) => return Ok(self.turn_away(id, &refusal)),
        };
        self.streams.insert(id, Stream::new(open.op()));
        match open.check() {
            Ok(()) => Ok(Some(Event::Open(id, open))),
            Err(refusal) => {
                self.streams.refuse(id, &refusal);
                Ok(None)
            }
        }
    }

    fn turn_away(&mut self, id: u32, refusal: &Refusal) -> Option<Event> {
        self.streams.say(Kind::Error, id, &message::error(refusal));
        None
    }

    fn data(&mut self, id: u32, offset: u64, length: usize) -> Result<Option<Event>, Violation> {
        self.receiving = 0;
        if self.known(id)?
            && let Some(input) = self.incoming(id)?
        {
            input.check(offset, length)?;
            self.receiving = id;
        }
        Ok(None)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<Event> {
        let id = self.receiving;
        self.streams.input(id)?.receive(bytes);
        Some(Event::Input(id))
    }

    fn end(&mut self, id: u32, offset: u64) -> Result<Option<Event>, Violation> {
        let Some(input) = self.incoming(id)? else {
            return Ok(None);
        };
        input.end(offset)?;
        Ok(Some(Event::Input(id)))
    }

    /// Return channel 0 of an open stream, or `None` if an ERROR, which the host may not have seen yet, came
    /// before there was one. A frame for a channel that the stream never has breaks the protocol.
    fn incoming(&mut self, id: u32) -> Result<Option<&mut Incoming>, Violation> {
        match self.streams.get_mut(id) {
            Some(Stream { input: Some(input), .. }) => Ok(Some(input)),
            Some(Stream { last_word: Some(_), .. }) => Ok(None),
            _ => Err(Violation::UnexpectedFrame),
        }
    }

    fn credit(&mut self, id: u32, channel: u8, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let (acknowledged, limit) = payload.split_at(8);
        let (acknowledged, limit) =
            (u64::from_le_bytes(fixed(acknowledged)?), u64::from_le_bytes(fixed(limit)?));
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(None);
        };
        // An ERROR takes the channels away while a CREDIT may be on its way.
        let over = stream.last_word.is_some();
        match stream.output(channel) {
            Some(output) => output.credit(acknowledged, limit)?,
            None if over => return Ok(None),
            None => return Err(Violation::UnexpectedFrame),
        }
        self.streams.schedule(id, channel);
        Ok(Some(Event::Credit(id, channel)))
    }

    fn signal(&mut self, id: u32, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let live = self.process(id)?;
        match u8::from_le_bytes(fixed(payload)?) {
            number @ 1..=64 => Ok(live.then_some(Event::Signal(id, number.into()))),
            _ => Err(Violation::MalformedPayload),
        }
    }

    fn resize(&mut self, id: u32, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let live = self.process(id)?;
        let size = Size::parse(fixed(payload)?)?;
        Ok(live.then_some(Event::Resize(id, size)))
    }

    /// Return whether the stream is a process's; for a file operation the frame breaks the protocol, unless
    /// its last word was said already.
    fn process(&self, id: u32) -> Result<bool, Violation> {
        match self.streams.get(id) {
            Some(stream) if stream.is_process() => Ok(true),
            Some(stream) if stream.last_word.is_some() => Ok(false),
            _ => Err(Violation::UnexpectedFrame),
        }
    }
}

fn fixed<const SIZE: usize>(payload: &[u8]) -> Result<[u8; SIZE], Violation> {
    payload.try_into().map_err(|_| Violation::MalformedFrame)
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;

#[cfg(test)]
#[path = "fuzz.rs"]
mod fuzz;
