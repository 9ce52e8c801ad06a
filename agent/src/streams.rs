//! What is to be sent: the state of every stream, and whose turn it is on the channel in use.
//!
//! Nothing here does I/O. The session says what the host wants, processes and files report what they do, and
//! `slices` and `wrote` hand the answer to whoever writes it.

use std::collections::BTreeMap;

use crate::frame::{DATA_SENT, Kind};
use crate::message::{self, Exit, Refusal};
use crate::output::{Current, Output};
use crate::stream::{Incoming, Outgoing, Stream, Turn};

#[derive(Default)]
pub struct Streams {
    all: BTreeMap<u32, Stream>,
    output: Output,
    /// A channel is in use and has had its HELLO.
    greeted: bool,
}

impl Streams {
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Begin on a new channel: everything goes on from what is acknowledged.
    pub fn rewind(&mut self) {
        self.output.reset();
        self.greeted = true;
        self.all.retain(|_, stream| !stream.closing);
        self.all.values_mut().for_each(Stream::rewind);
    }

    /// Say the last words again, of which READY does not tell.
    pub fn repeat_last_words(&mut self) {
        let ids: Vec<u32> = self.all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.say_last_word(id));
    }

    /// The channel is gone; what happens from now on waits in the streams' state.
    pub fn disconnect(&mut self) {
        self.greeted = false;
        self.output.reset();
    }

    pub fn insert(&mut self, id: u32, stream: Stream) {
        self.all.insert(id, stream);
    }

    pub fn get(&self, id: u32) -> Option<&Stream> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.all.get_mut(&id)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&u32, &Stream)> {
        self.all.iter()
    }

    /// Return how many streams the host has not closed.
    pub fn open(&self) -> usize {
        self.all.values().filter(|stream| !stream.closing).count()
    }

    /// Send a frame that belongs to no stream, or to one of which nothing is kept.
    pub fn say(&mut self, kind: Kind, id: u32, payload: &[u8]) {
        self.output.push(kind, id, 0, payload);
    }

    /// The host needs no more of the stream: say what is left to say, and forget it.
    pub fn close(&mut self, id: u32) {
        let Some(stream) = self.all.get_mut(&id) else {
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
            self.all.remove(&id);
        }
    }

    /// Give the stream its input channel, and the host its first limit.
    pub fn open_input(&mut self, id: u32) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.open_input();
        }
        self.consumed(id);
    }

    pub fn open_output(&mut self, id: u32, channel: u8, limit: u64) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.open_output(channel, limit);
        }
    }

    pub fn started(&mut self, id: u32, pid: Option<u32>, payload: &[u8]) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.pid = pid;
            self.push(Kind::Started, id, 0, payload);
        }
    }

    pub fn exit(&mut self, id: u32, exit: Exit) {
        let payload = message::exit(&exit);
        if let Some(stream) = self.all.get_mut(&id) {
            stream.exit = Some(exit);
            let closing = stream.closing;
            self.push(Kind::Exit, id, 0, &payload);
            if closing {
                self.all.remove(&id);
            }
        }
    }

    /// End the stream by ERROR.
    pub fn refuse(&mut self, id: u32, refusal: &Refusal) {
        let Some(stream) = self.all.get_mut(&id) else {
            return;
        };
        let _ = self.output.forget(id, |current| rest_of(stream, current));
        stream.drop_channels();
        stream.last_word = Some((Kind::Error, message::error(refusal)));
        self.say_last_word(id);
    }

    /// End the stream by RESULT, which follows the END of its channels.
    pub fn result(&mut self, id: u32, payload: Vec<u8>) {
        if let Some(stream) = self.all.get_mut(&id) {
            stream.last_word = Some((Kind::Result, payload));
            self.say_last_word(id);
        }
    }

    fn say_last_word(&mut self, id: u32) {
        let Some(stream) = self.all.get_mut(&id) else {
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
        self.all.get_mut(&id)?.input.as_mut()
    }

    pub fn outgoing(&mut self, id: u32, channel: u8) -> Option<&mut Outgoing> {
        self.all.get_mut(&id)?.output(channel)
    }

    /// Input was consumed: tell the host, if it is time. After the last word it no longer knows the stream.
    pub fn consumed(&mut self, id: u32) {
        let greeted = self.greeted;
        if self.all.get(&id).is_none_or(Stream::is_over) {
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
    pub fn schedule(&mut self, id: u32, channel: u8) {
        if !self.greeted {
            return;
        }
        if let Some(output) = self.all.get_mut(&id).and_then(|stream| stream.output(channel))
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
            let Some(output) = self.all.get_mut(&id).and_then(|stream| stream.output(channel)) else {
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
            && let Some(output) = self.all.get_mut(&current.stream).and_then(|s| s.output(current.channel))
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
        self.all.values_mut().fold(true, |idle, stream| stream.sweep() & idle)
    }
}

fn rest_of(stream: &mut Stream, current: &Current) -> Vec<u8> {
    let (offset, left) = current.body_left();
    stream.output(current.channel).map_or_else(Vec::new, |output| {
        let (first, second) = output.slices(offset, left);
        [first, second].concat()
    })
}
