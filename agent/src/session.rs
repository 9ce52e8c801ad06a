//! The protocol's state: which streams exist, what each frame means for them, what is to be sent next.
//!
//! Nothing here does I/O. `receive` turns the parser's pieces into events for the agent, the agent reports
//! what its processes and files do, and `slices` and `wrote` hand the answer to whoever writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::frame::{DATA_SENT, Header, Kind, Piece, Violation};
use crate::message::{self, Exit, Hello, Open, Packer, Refusal, VERSION};
use crate::output::{Current, Output};
use crate::stream::{Incoming, Outgoing, Stream, Turn};

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
    Close(u32),
    Shutdown(Duration),
}

#[derive(Default)]
pub struct Session {
    secret: Option<[u8; 32]>,
    generation: u64,
    last_stream: u32,
    streams: BTreeMap<u32, Stream>,
    output: Output,
    /// A channel is in use and has had its HELLO.
    greeted: bool,
    /// The stream whose DATA is under way.
    receiving: u32,
}

impl Session {
    /// Take the next piece of what the host sends.
    pub fn receive(&mut self, piece: Piece) -> Result<Option<Event>, Violation> {
        match piece {
            Piece::Frame(header, payload) if header.kind == Kind::Hello => self.hello(payload).map(Some),
            _ if !self.greeted => Err(Violation::HelloExpected),
            Piece::Frame(header, payload) => self.frame(header, payload),
            Piece::DataStart { stream, offset, length } => self.data(stream, offset, length),
            Piece::DataBytes(bytes) => Ok(self.bytes(bytes)),
        }
    }

    fn hello(&mut self, payload: &[u8]) -> Result<Event, Violation> {
        if self.greeted {
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
        self.output.reset();
        self.greeted = true;
        self.streams.retain(|_, stream| !stream.closing);
        self.streams.values_mut().for_each(Stream::rewind);
        let ready = self.ready();
        self.output.push(Kind::Ready, 0, 0, &ready);
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| self.say_last_word(id));
    }

    /// The channel is gone; what happens from now on waits in the streams' state.
    pub fn disconnect(&mut self) {
        self.greeted = false;
        self.output.reset();
    }

    fn ready(&self) -> Vec<u8> {
        let mut packer = Packer::map(5);
        packer.text("version").unsigned(VERSION);
        packer.text("agent").text(env!("CARGO_PKG_VERSION"));
        packer.text("generation").unsigned(self.generation);
        packer.text("last_stream").unsigned(self.last_stream.into());
        packer.text("streams").open_array(self.streams.len() as u32);
        for (id, stream) in &self.streams {
            pack_stream(&mut packer, *id, stream);
        }
        packer.finish()
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let id = header.stream;
        match header.kind {
            Kind::Ping => {
                self.output.push(Kind::Pong, 0, 0, payload);
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
                self.close(id);
                Ok(Some(Event::Close(id)))
            }
            // RESIZE is kept for terminals, which no process has yet.
            _ => self.process(id).map(|_| None),
        }
    }

    /// Return whether the stream is open; one that never was is a violation.
    fn known(&self, id: u32) -> Result<bool, Violation> {
        match self.streams.get(&id) {
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
            Ok(open) if self.open_streams() < STREAM_LIMIT => open,
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
                self.refuse(id, &refusal);
                Ok(None)
            }
        }
    }

    fn open_streams(&self) -> usize {
        self.streams.values().filter(|stream| !stream.closing).count()
    }

    fn turn_away(&mut self, id: u32, refusal: &Refusal) -> Option<Event> {
        self.output.push(Kind::Error, id, 0, &message::error(refusal));
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
        self.input(id)?.receive(bytes);
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
        match self.streams.get_mut(&id) {
            Some(Stream { input: Some(input), .. }) => Ok(Some(input)),
            Some(Stream { last_word: Some(_), .. }) => Ok(None),
            _ => Err(Violation::UnexpectedFrame),
        }
    }

    fn credit(&mut self, id: u32, channel: u8, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let (acknowledged, limit) = payload.split_at(8);
        let (acknowledged, limit) =
            (u64::from_le_bytes(fixed(acknowledged)?), u64::from_le_bytes(fixed(limit)?));
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(None);
        };
        // An ERROR takes the channels away while a CREDIT may be on its way.
        let over = stream.last_word.is_some();
        match stream.output(channel) {
            Some(output) => output.credit(acknowledged, limit)?,
            None if over => return Ok(None),
            None => return Err(Violation::UnexpectedFrame),
        }
        self.schedule(id, channel);
        Ok(Some(Event::Credit(id, channel)))
    }

    fn signal(&mut self, id: u32, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let live = self.process(id)?;
        match u8::from_le_bytes(fixed(payload)?) {
            number @ 1..=64 => Ok(live.then_some(Event::Signal(id, number.into()))),
            _ => Err(Violation::MalformedPayload),
        }
    }

    /// Return whether the stream is a process's; for a file operation the frame breaks the protocol, unless
    /// its last word was said already.
    fn process(&self, id: u32) -> Result<bool, Violation> {
        match self.streams.get(&id) {
            Some(stream) if stream.is_process() => Ok(true),
            Some(stream) if stream.last_word.is_some() => Ok(false),
            _ => Err(Violation::UnexpectedFrame),
        }
    }

    /// The host needs no more of the stream: say what is left to say, and forget it.
    fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let dropped = self.output.forget(id, |current| rest_of(stream, current));
        if let Some(current) = dropped
            && let Some(output) = stream.output(current.channel)
        {
            output.untake(current.offset);
        }
        if stream.is_process() && stream.last_word.is_none() {
            for (channel, offset) in stream.cut_off() {
                self.output.push(Kind::End, id, channel, &offset.to_le_bytes());
            }
            stream.closing = stream.exit.is_none();
        } else if !stream.is_over() {
            let refusal = Refusal::new("aborted", "the host has closed the stream");
            self.output.push(Kind::Error, id, 0, &message::error(&refusal));
        }
        if !stream.closing {
            self.streams.remove(&id);
        }
    }

    /// Give the stream its input channel, and the host its first limit.
    pub fn open_input(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.open_input();
        }
        self.consumed(id);
    }

    pub fn open_output(&mut self, id: u32, channel: u8, limit: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.open_output(channel, limit);
        }
    }

    pub fn started(&mut self, id: u32, pid: Option<u32>, payload: &[u8]) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pid = pid;
            self.push(Kind::Started, id, 0, payload);
        }
    }

    pub fn exit(&mut self, id: u32, exit: Exit) {
        let payload = message::exit(&exit);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.exit = Some(exit);
            let closing = stream.closing;
            self.push(Kind::Exit, id, 0, &payload);
            if closing {
                self.streams.remove(&id);
            }
        }
    }

    /// End the stream by ERROR.
    pub fn refuse(&mut self, id: u32, refusal: &Refusal) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let _ = self.output.forget(id, |current| rest_of(stream, current));
        stream.drop_channels();
        stream.last_word = Some((Kind::Error, message::error(refusal)));
        self.say_last_word(id);
    }

    /// End the stream by RESULT, which follows the END of its channels.
    pub fn result(&mut self, id: u32, payload: Vec<u8>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.last_word = Some((Kind::Result, payload));
            self.say_last_word(id);
        }
    }

    fn say_last_word(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !self.greeted || !stream.last_word_due() {
            return;
        }
        if let Some((kind, payload)) = &stream.last_word {
            self.output.push(*kind, id, 0, payload);
            stream.last_word_sent = true;
        }
    }

    pub fn input(&mut self, id: u32) -> Option<&mut Incoming> {
        self.streams.get_mut(&id)?.input.as_mut()
    }

    pub fn outgoing(&mut self, id: u32, channel: u8) -> Option<&mut Outgoing> {
        self.streams.get_mut(&id)?.output(channel)
    }

    /// Input was consumed: tell the host, if it is time. After the last word it no longer knows the stream.
    pub fn consumed(&mut self, id: u32) {
        let greeted = self.greeted;
        if self.streams.get(&id).is_none_or(Stream::is_over) {
            return;
        }
        let Some(input) = self.input(id) else {
            return;
        };
        if !greeted {
            return;
        }
        if let Some((acknowledged, limit)) = input.credit() {
            let payload = [acknowledged.to_le_bytes(), limit.to_le_bytes()].concat();
            self.output.push(Kind::Credit, id, 0, &payload);
        }
    }

    /// Bytes were added to a channel.
    pub fn produced(&mut self, id: u32, channel: u8) {
        self.schedule(id, channel);
    }

    /// No more bytes will be added to a channel.
    pub fn close_output(&mut self, id: u32, channel: u8) {
        if let Some(output) = self.outgoing(id, channel) {
            output.close();
            self.schedule(id, channel);
        }
    }

    fn push(&mut self, kind: Kind, id: u32, flags: u8, payload: &[u8]) {
        if self.greeted {
            self.output.push(kind, id, flags, payload);
        }
    }

    /// Queue a channel for its turn if it has something to send.
    fn schedule(&mut self, id: u32, channel: u8) {
        if !self.greeted {
            return;
        }
        if let Some(output) = self.streams.get_mut(&id).and_then(|stream| stream.output(channel))
            && !output.queued
            && output.turn(DATA_SENT).is_some()
        {
            output.queued = true;
            self.output.queue(id, channel);
        }
    }

    /// Choose the next DATA frame, and say the ENDs whose turn comes before it.
    fn advance(&mut self) {
        while self.output.current().is_none()
            && let Some((id, channel)) = self.output.next_in_turn()
        {
            let Some(output) = self.streams.get_mut(&id).and_then(|stream| stream.output(channel)) else {
                continue;
            };
            output.queued = false;
            let Some(turn) = output.turn(DATA_SENT) else {
                continue;
            };
            output.take(&turn);
            match turn {
                Turn::Data { offset, length } => {
                    self.output.begin(Current::new(id, channel, offset, length));
                    self.schedule(id, channel);
                }
                Turn::End { offset } => {
                    self.output.push(Kind::End, id, channel, &offset.to_le_bytes());
                    self.say_last_word(id);
                }
            }
        }
    }

    /// Return the bytes to write next; all empty when there is nothing to write.
    pub fn slices(&mut self) -> [&[u8]; 4] {
        self.advance();
        let mut body: (&[u8], &[u8]) = (&[], &[]);
        if let Some(current) = self.output.current()
            && let Some(output) =
                self.streams.get_mut(&current.stream).and_then(|s| s.output(current.channel))
        {
            let (offset, left) = current.body_left();
            body = output.slices(offset, left);
        }
        self.output.slices(body)
    }

    /// Note that `count` bytes of `slices` were written.
    pub fn wrote(&mut self, count: usize) {
        if let Some((id, channel, reached)) = self.output.wrote(count)
            && let Some(output) = self.outgoing(id, channel)
        {
            output.wrote(reached);
        }
    }

    pub fn congested(&self) -> bool {
        self.output.congested()
    }

    /// Give memory back that idle rings hold; false while some still hold any.
    pub fn sweep(&mut self) -> bool {
        self.streams.values_mut().fold(true, |idle, stream| stream.sweep() & idle)
    }
}

fn pack_stream(packer: &mut Packer, id: u32, stream: &Stream) {
    packer.open_map(6);
    packer.text("stream").unsigned(id.into());
    packer.text("op").text(stream.op);
    packer.text("pid").optional(stream.pid.map(u64::from));
    packer.text("exit");
    match &stream.exit {
        Some(exit) => packer.exit(exit),
        None => packer.nil(),
    }
    packer.text("stdin");
    match &stream.input {
        Some(input) => {
            let (acknowledged, limit, ended) = input.state();
            packer.open_map(3);
            packer.text("acknowledged").unsigned(acknowledged);
            packer.text("limit").unsigned(limit);
            packer.text("ended").flag(ended);
        }
        None => packer.nil(),
    }
    packer.text("channels").open_array(stream.outputs().count() as u32);
    for (channel, output) in stream.outputs() {
        let (acknowledged, end, ended) = output.state();
        packer.open_map(4);
        packer.text("channel").unsigned(channel.into());
        packer.text("acknowledged").unsigned(acknowledged);
        packer.text("end").unsigned(end);
        packer.text("ended").flag(ended);
    }
}

fn rest_of(stream: &mut Stream, current: &Current) -> Vec<u8> {
    let (offset, left) = current.body_left();
    stream.output(current.channel).map_or_else(Vec::new, |output| {
        let (first, second) = output.slices(offset, left);
        [first, second].concat()
    })
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
