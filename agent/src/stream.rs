//! What is known of one stream: its channels with their offsets and credit. Decides without I/O.

use crate::frame::{Kind, Violation};
use crate::message::Exit;
use crate::ring::{RING_LIMIT, Ring};

/// How far a limit may lie beyond what is acknowledged.
pub const WINDOW: u64 = RING_LIMIT as u64;

/// The bytes of channel 0 that have come and are not consumed yet.
#[derive(Default)]
pub struct Incoming {
    pub ring: Ring,
    received: u64,
    acknowledged: u64,
    told: u64,
    limit: u64,
    ended: bool,
    /// Nobody reads any more: what comes is dropped and acknowledged.
    broken: bool,
}

impl Incoming {
    /// Check the start of a DATA.
    pub fn check(&self, offset: u64, length: usize) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::ChannelEnded);
        }
        if offset != self.received {
            return Err(Violation::OffsetJumped);
        }
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.limit => Ok(()),
            _ => Err(Violation::OverCredit),
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        if self.broken {
            self.acknowledged = self.received;
        } else {
            self.ring.append(bytes);
        }
    }

    pub fn end(&mut self, offset: u64) -> Result<(), Violation> {
        if self.ended {
            return Err(Violation::ChannelEnded);
        }
        if offset != self.received {
            return Err(Violation::OffsetJumped);
        }
        self.ended = true;
        Ok(())
    }

    /// Note that the process or the file has taken the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.ring.consume(count);
        self.acknowledged += count as u64;
    }

    /// Note that nobody will take the rest.
    pub fn abandon(&mut self) {
        self.broken = true;
        self.ring.release();
        self.acknowledged = self.received;
    }

    /// Return whether END has come.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Return whether END has come and everything before it is consumed.
    pub fn finished(&self) -> bool {
        self.ended && self.acknowledged == self.received
    }

    /// Return a new `(acknowledged, limit)` when it is time to tell one.
    pub fn credit(&mut self) -> Option<(u64, u64)> {
        let due = self.limit == 0
            || self.acknowledged - self.told >= WINDOW / 2
            || (self.finished() && self.acknowledged != self.told);
        due.then(|| {
            self.told = self.acknowledged;
            self.limit = self.acknowledged + WINDOW;
            (self.acknowledged, self.limit)
        })
    }

    #[cfg(test)]
    pub fn restore(&mut self, acknowledged: u64, limit: u64, ended: bool) {
        let received = self.received.max(acknowledged);
        *self = Incoming { received, acknowledged, told: acknowledged, limit, ended, ..Incoming::default() };
    }

    /// Forget what came and was not consumed: the next channel sends it again.
    fn rewind(&mut self) {
        if self.received > self.acknowledged {
            self.ended = false;
        }
        self.received = self.acknowledged;
        self.ring.release();
        self.told = self.acknowledged;
        self.limit = self.acknowledged + WINDOW;
    }

    pub fn state(&self) -> (u64, u64, bool) {
        (self.acknowledged, self.limit, self.ended)
    }
}

/// The bytes of channel 1 or 2 that the host has not acknowledged yet.
#[derive(Default)]
pub struct Outgoing {
    pub ring: Ring,
    acknowledged: u64,
    sent: u64,
    /// The highest offset that was ever written to a channel; nothing beyond it can be acknowledged.
    peak: u64,
    limit: u64,
    /// The host has given a limit on the channel in use.
    granted: bool,
    closed: bool,
    end_sent: bool,
    /// It stands in the queue for its turn.
    pub queued: bool,
}

/// What a channel would send if it had its turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Data { offset: u64, length: usize },
    End { offset: u64 },
}

impl Outgoing {
    pub fn new(limit: u64) -> Outgoing {
        Outgoing { limit, granted: true, ..Outgoing::default() }
    }

    #[cfg(test)]
    pub fn restore(&mut self, acknowledged: u64, end: u64, closed: bool) {
        *self = Outgoing {
            acknowledged,
            sent: acknowledged,
            peak: end,
            limit: acknowledged,
            closed,
            ..Outgoing::default()
        };
        self.ring.append(&vec![0; (end - acknowledged) as usize]);
    }

    /// Return the number of bytes that came from the process so far.
    pub fn end(&self) -> u64 {
        self.acknowledged + self.ring.len() as u64
    }

    pub fn end_sent(&self) -> bool {
        self.end_sent
    }

    /// Note that no more bytes will come.
    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn credit(&mut self, acknowledged: u64, limit: u64) -> Result<(), Violation> {
        let backwards = acknowledged < self.acknowledged || limit < self.limit;
        if backwards || acknowledged > self.peak || limit > acknowledged.saturating_add(WINDOW) {
            return Err(Violation::BadCredit);
        }
        self.ring.consume((acknowledged - self.acknowledged) as usize);
        self.acknowledged = acknowledged;
        self.limit = limit;
        if !self.granted {
            // The first limit on a new channel says from where to go on.
            self.granted = true;
            self.sent = acknowledged;
            self.peak = acknowledged;
        }
        Ok(())
    }

    pub fn turn(&self, most: usize) -> Option<Turn> {
        if !self.granted || self.end_sent {
            return None;
        }
        let length = self.limit.min(self.end()).saturating_sub(self.sent).min(most as u64) as usize;
        if length > 0 {
            return Some(Turn::Data { offset: self.sent, length });
        }
        (self.closed && self.sent == self.end()).then_some(Turn::End { offset: self.sent })
    }

    /// Take back what was sent from `offset` on, since none of it was written.
    pub fn untake(&mut self, offset: u64) {
        self.sent = offset;
    }

    /// Say the end now, whatever is left; return where it is, unless it was said before.
    pub fn cut_off(&mut self) -> Option<u64> {
        (!std::mem::replace(&mut self.end_sent, true)).then_some(self.sent)
    }

    /// Take the turn that `turn` has told.
    pub fn take(&mut self, turn: &Turn) {
        match turn {
            Turn::Data { length, .. } => self.sent += *length as u64,
            Turn::End { .. } => self.end_sent = true,
        }
    }

    /// Note that everything before `offset` was written to the channel.
    pub fn wrote(&mut self, offset: u64) {
        self.peak = self.peak.max(offset);
    }

    /// Return the bytes from `offset` on, which is not acknowledged yet.
    pub fn slices(&self, offset: u64, most: usize) -> (&[u8], &[u8]) {
        self.ring.slices((offset - self.acknowledged) as usize, most)
    }

    /// Begin again at what is acknowledged, once the new channel gives a limit.
    fn rewind(&mut self) {
        self.sent = self.acknowledged;
        self.limit = self.acknowledged;
        self.granted = false;
        self.end_sent = false;
        self.queued = false;
    }

    pub fn state(&self) -> (u64, u64, bool) {
        (self.acknowledged, self.end(), self.closed)
    }
}

pub struct Stream {
    pub op: &'static str,
    pub pid: Option<u32>,
    pub exit: Option<Exit>,
    pub input: Option<Incoming>,
    outputs: [Option<Outgoing>; 2],
    /// RESULT or ERROR, kept until the host closes the stream.
    pub last_word: Option<(Kind, Vec<u8>)>,
    /// `last_word` was sent on the channel in use.
    pub last_word_sent: bool,
    /// The host has closed the stream, and only EXIT is still to be said.
    pub closing: bool,
}

impl Stream {
    pub fn new(op: &'static str) -> Stream {
        Stream {
            op,
            pid: None,
            exit: None,
            input: None,
            outputs: [None, None],
            last_word: None,
            last_word_sent: false,
            closing: false,
        }
    }

    pub fn is_process(&self) -> bool {
        self.op == "exec"
    }

    /// Return whether everything was said that the host waits for.
    pub fn is_over(&self) -> bool {
        match self.last_word {
            Some(_) => self.last_word_sent,
            None => self.exit.is_some() && self.outputs.iter().flatten().all(Outgoing::end_sent),
        }
    }

    pub fn open_input(&mut self) {
        self.input = Some(Incoming::default());
    }

    pub fn open_output(&mut self, channel: u8, limit: u64) {
        self.outputs[usize::from(channel) - 1] = Some(Outgoing::new(limit));
    }

    pub fn output(&mut self, channel: u8) -> Option<&mut Outgoing> {
        self.outputs.get_mut(usize::from(channel).checked_sub(1)?)?.as_mut()
    }

    pub fn outputs(&self) -> impl Iterator<Item = (u8, &Outgoing)> {
        self.outputs.iter().zip(1u8..).filter_map(|(output, channel)| Some((channel, output.as_ref()?)))
    }

    /// Drop the channels of a process; return where those end whose END was not said yet.
    pub fn cut_off(&mut self) -> Vec<(u8, u64)> {
        let outputs = self.outputs.iter_mut().zip(1u8..);
        let ends =
            outputs.filter_map(|(output, channel)| Some((channel, output.as_mut()?.cut_off()?))).collect();
        self.outputs = [None, None];
        self.input = None;
        ends
    }

    /// An ERROR ends the stream: nothing more goes out on its channels.
    pub fn drop_channels(&mut self) {
        self.outputs = [None, None];
        if let Some(input) = &mut self.input {
            input.abandon();
        }
    }

    /// Return whether the last word may go now: RESULT waits for the END of each channel.
    pub fn last_word_due(&self) -> bool {
        self.last_word.is_some()
            && !self.last_word_sent
            && self.outputs.iter().flatten().all(Outgoing::end_sent)
    }

    /// Make ready for a new channel, section 7 of the protocol.
    pub fn rewind(&mut self) {
        self.last_word_sent = false;
        if let Some(input) = &mut self.input {
            input.rewind();
        }
        self.outputs.iter_mut().flatten().for_each(Outgoing::rewind);
    }

    /// Give memory back that idle rings hold; false if some still hold any.
    pub fn sweep(&mut self) -> bool {
        let mut idle = self.input.as_mut().is_none_or(|input| input.ring.sweep());
        for output in self.outputs.iter_mut().flatten() {
            idle &= output.ring.sweep();
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_must_follow_without_a_gap_within_the_limit_and_before_the_end() {
        let mut input = Incoming::default();
        assert_eq!(input.credit(), Some((0, WINDOW)));
        assert_eq!(input.check(1, 1), Err(Violation::OffsetJumped));
        assert_eq!(input.check(0, WINDOW as usize + 1), Err(Violation::OverCredit));
        assert_eq!(input.check(0, WINDOW as usize), Ok(()));
        input.receive(b"abc");
        assert_eq!(input.check(2, 1), Err(Violation::OffsetJumped));
        assert_eq!(input.end(4), Err(Violation::OffsetJumped));
        assert_eq!(input.end(3), Ok(()));
        assert_eq!(input.end(3), Err(Violation::ChannelEnded));
        assert_eq!(input.check(3, 1), Err(Violation::ChannelEnded));
        assert_eq!(input.check(u64::MAX, 1), Err(Violation::ChannelEnded));
    }

    #[test]
    fn credit_for_input_comes_back_as_it_is_consumed() {
        let mut input = Incoming::default();
        input.credit();
        input.receive(&vec![0; WINDOW as usize]);
        assert_eq!(input.credit(), None);
        input.consume(WINDOW as usize / 2);
        assert_eq!(input.credit(), Some((WINDOW / 2, WINDOW / 2 + WINDOW)));
        input.abandon();
        assert_eq!(input.credit(), Some((WINDOW, 2 * WINDOW)));
        input.receive(b"more");
        input.end(WINDOW + 4).expect("the end fits");
        assert_eq!(input.credit(), Some((WINDOW + 4, 2 * WINDOW + 4)));
    }

    #[test]
    fn a_new_channel_gets_input_again_from_what_was_consumed() {
        let mut input = Incoming::default();
        input.credit();
        input.receive(b"abcdef");
        input.consume(2);
        input.end(6).expect("the end fits");
        input.rewind();
        assert_eq!(input.state(), (2, 2 + WINDOW, false));
        assert_eq!(input.check(2, 4), Ok(()));
    }

    #[test]
    fn credit_that_goes_back_or_acknowledges_the_unsent_is_bad() {
        let mut output = Outgoing::new(10);
        output.ring.append(b"0123456789abcdef");
        let turn = output.turn(DATA).expect("credit for ten bytes");
        assert_eq!(turn, Turn::Data { offset: 0, length: 10 });
        output.take(&turn);
        assert_eq!(output.credit(10, 10), Err(Violation::BadCredit), "not yet written");
        output.wrote(10);
        assert_eq!(output.credit(4, 9), Err(Violation::BadCredit));
        assert_eq!(output.credit(4, 4 + WINDOW + 1), Err(Violation::BadCredit));
        assert_eq!(output.credit(4, 12), Ok(()));
        assert_eq!(output.credit(3, 12), Err(Violation::BadCredit));
        assert_eq!(output.turn(DATA), Some(Turn::Data { offset: 10, length: 2 }));
    }

    #[test]
    fn the_end_follows_the_last_byte_once() {
        let mut output = Outgoing::new(2);
        output.ring.append(b"abc");
        output.close();
        let turn = output.turn(DATA).expect("two bytes");
        output.take(&turn);
        output.wrote(2);
        assert_eq!(output.turn(DATA), None);
        output.credit(2, 3).expect("good credit");
        let turn = output.turn(DATA).expect("the third byte");
        output.take(&turn);
        let end = output.turn(DATA).expect("the end");
        assert_eq!(end, Turn::End { offset: 3 });
        output.take(&end);
        assert_eq!(output.turn(DATA), None);
    }

    #[test]
    fn a_new_channel_gets_output_again_from_what_its_host_has_stored() {
        let mut output = Outgoing::new(6);
        output.ring.append(b"abcdef");
        let turn = output.turn(DATA).expect("all");
        output.take(&turn);
        output.wrote(6);
        output.credit(1, 7).expect("good credit");
        output.rewind();
        assert_eq!(output.turn(DATA), None, "no limit yet");
        output.credit(4, 4 + WINDOW).expect("the host has stored four");
        assert_eq!(output.turn(DATA), Some(Turn::Data { offset: 4, length: 2 }));
    }

    const DATA: usize = 1 << 18;
}
