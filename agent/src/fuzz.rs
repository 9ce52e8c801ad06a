//! Random hosts against the session: nothing that one sends may panic, or make us break the protocol.
//!
//! Set SKERRY_FUZZ_SECONDS to run longer than the default, and SKERRY_FUZZ_SEED to repeat a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::golden;
use super::*;
use crate::frame::{Decoder, HEADER_BYTES};
use crate::message::Exit;
use crate::packer::Packer;
use crate::ring::RING_LIMIT;

/// A small generator of pseudo-random numbers (xorshift64*), so that a run can be repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    /// Return a number of the kind at which code goes wrong.
    fn number(&mut self) -> u64 {
        let edges = [0, 1, 8, 0xffff, 1 << 20, (1 << 20) + 1, u32::MAX.into(), i64::MAX as u64, u64::MAX];
        match self.below(3) {
            0 => edges[self.below(edges.len())],
            1 => self.below(5_000) as u64,
            _ => self.next(),
        }
    }
}

/// What the host knows of a channel, to check what comes.
#[derive(Default)]
struct Told {
    offset: u64,
    limit: u64,
    acknowledged: u64,
    ended: bool,
}

/// A host that plays by the rules for the most part, with an agent whose processes do random things.
struct Game {
    random: Random,
    session: Session,
    decoder: Decoder,
    wire: Vec<u8>,
    told: BTreeMap<(u32, u8), Told>,
    inputs: BTreeMap<u32, (u64, u64)>,
    open: BTreeSet<u32>,
    processes: BTreeSet<u32>,
    last: u32,
}

impl Game {
    fn new(seed: u64) -> Game {
        Game {
            random: Random(seed | 1),
            session: Session::default(),
            decoder: Decoder::new(),
            wire: Vec::new(),
            told: BTreeMap::new(),
            inputs: BTreeMap::new(),
            open: BTreeSet::new(),
            processes: BTreeSet::new(),
            last: 0,
        }
    }

    fn frame(kind: u8, id: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Header::encode(payload.len(), id, Kind::Data, flags).to_vec();
        frame[8] = kind;
        frame.extend_from_slice(payload);
        frame
    }

    fn hello(&mut self, proof: bool) -> Vec<u8> {
        let mut packer = Packer::map(5);
        packer.text("version").unsigned(1);
        packer.text("secret").binary(&[7; 32]);
        packer.text("generation").unsigned(self.random.below(10) as u64);
        match proof {
            true => {
                packer.text("proof").binary(&[7; 32]);
                packer.text("setup").nil();
            }
            false => {
                packer.text("proof").nil();
                packer.text("setup").open_map(6);
                packer.text("hostname").text("box");
                packer.text("files").open_array(0);
                packer.text("attributes").open_array(0);
                packer.text("cpus").unsigned(0);
                packer.text("processes").unsigned(100);
                packer.text("cgroup").flag(false);
            }
        }
        packer.finish()
    }

    /// Return an OPEN for an operation that has channels, or one that has none.
    fn open_payload(&mut self) -> Vec<u8> {
        let op = ["exec", "read", "write", "list", "stat", "remove", "watch", "pack", "unpack"]
            [self.random.below(9)];
        let mut packer = Packer::map(16);
        packer.text("op").text(op);
        packer.text("path").binary(b"/tmp/x");
        packer.text("offset").unsigned(0);
        packer.text("length").nil();
        packer.text("limit").unsigned(self.random.below(1 << 20) as u64);
        packer.text("mode").nil();
        packer.text("parents").flag(true);
        packer.text("append").flag(false);
        packer.text("recursive").flag(false);
        packer.text("argv").open_array(1);
        packer.binary(b"true");
        packer.text("env").open_array(0);
        packer.text("cwd").binary(b"/");
        packer.text("user").text("root");
        packer.text("stdin").text("pipe");
        packer.text("stdout").text("pipe");
        let terminal = self.random.one_in(3);
        packer.text("stderr").text(if terminal { "stdout" } else { "pipe" });
        let mut payload = packer.finish();
        // Sixteen members are written above, and seven more follow: the map's header says how many.
        payload.splice(..3, [0xde, 0, 23]);
        let mut rest = Packer::map(7);
        rest.text("timeout_ms").unsigned(0);
        rest.text("no_new_privileges").flag(false);
        rest.text("target").binary(b"/tmp/y");
        rest.text("kinds").open_array(0);
        rest.text("name").nil();
        rest.text("terminal");
        match terminal {
            true => {
                rest.open_map(3);
                rest.text("rows").unsigned(24);
                rest.text("columns").unsigned(80);
                rest.text("term").text("xterm");
            }
            false => rest.nil(),
        }
        rest.text("limits").open_array(2);
        let limits = [self.random.below(1 << 20), self.random.below(1 << 20)];
        limits.into_iter().for_each(|limit| rest.unsigned(limit as u64));
        payload.extend_from_slice(&rest.finish()[1..]);
        payload
    }

    fn some_stream(&mut self) -> u32 {
        let known: Vec<u32> = self.open.iter().copied().collect();
        match known.is_empty() || self.random.one_in(2_000) {
            true => self.random.number() as u32,
            false => known[self.random.below(known.len())],
        }
    }

    /// Return what the host does next.
    fn act(&mut self) -> Vec<u8> {
        let id = self.some_stream();
        let choice = if self.open.is_empty() { 1 } else { self.random.below(12) };
        let mut frame = match choice {
            0 => Game::frame(3, 0, 0, b"ping"),
            1 | 2 => {
                self.last += 1 + self.random.below(3) as u32;
                let payload = self.open_payload();
                Game::frame(5, self.last, 0, &payload)
            }
            3..=5 => self.data(id),
            6 => match self.inputs.remove(&id) {
                Some((sent, _)) => Game::frame(8, id, 0, &sent.to_le_bytes()),
                None => Vec::new(),
            },
            7..=9 => self.credit(id),
            10 if self.processes.contains(&id) => Game::frame(10, id, 0, &[1 + self.random.below(64) as u8]),
            10 => Vec::new(),
            11 if self.processes.contains(&id) && self.random.one_in(2) => {
                let size = [1 + self.random.below(255) as u8; 4];
                Game::frame(11, id, 0, &size)
            }
            _ => {
                self.open.remove(&id);
                Game::frame(15, id, 0, &[])
            }
        };
        if self.random.one_in(500) && !frame.is_empty() {
            let at = self.random.below(frame.len());
            frame[at] ^= 1 << self.random.below(8);
        }
        frame
    }

    fn data(&mut self, id: u32) -> Vec<u8> {
        let Some((sent, limit)) = self.inputs.get_mut(&id) else {
            return Vec::new();
        };
        let length = (*limit - *sent).min(1 + self.random.below(20_000) as u64);
        if length == 0 {
            return Vec::new();
        }
        let payload = [&sent.to_le_bytes()[..], &vec![3; length as usize]].concat();
        *sent += length;
        Game::frame(7, id, 0, &payload)
    }

    fn credit(&mut self, id: u32) -> Vec<u8> {
        let channel = 1 + self.random.below(2) as u8;
        let Some(told) = self.told.get_mut(&(id, channel)) else {
            return Vec::new();
        };
        let room = told.offset - told.acknowledged;
        told.acknowledged += if room == 0 { 0 } else { self.random.next() % (room + 1) };
        told.limit = told.limit.max(told.acknowledged + self.random.next() % (1 << 20));
        told.limit = told.limit.min(told.acknowledged + (1 << 20));
        let payload = [told.acknowledged.to_le_bytes(), told.limit.to_le_bytes()].concat();
        Game::frame(9, id, channel, &payload)
    }

    /// Feed bytes in pieces of random size; false when they broke the protocol.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut left = bytes;
        while !left.is_empty() {
            let (mut piece, rest) = left.split_at(1 + self.random.below(left.len()));
            left = rest;
            loop {
                let event = match self.decoder.next(&mut piece) {
                    Ok(None) => break,
                    Ok(Some(found)) => self.session.receive(found),
                    Err(_) => return false,
                };
                match event {
                    Ok(Some(event)) => self.react(event),
                    Ok(None) => {}
                    Err(_) => return false,
                }
            }
        }
        true
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Hello(hello) => self.session.welcome(&hello),
            Event::Open(id, open) => self.start(id, &open),
            Event::Input(id) => {
                if let Some(input) = self.session.streams.input(id) {
                    let count = self.random.below(input.ring.len() + 1);
                    input.consume(count);
                    self.session.streams.consumed(id);
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, id: u32, open: &Open) {
        if self.random.one_in(8) {
            return self.session.streams.refuse(id, &Refusal::new("io", "no luck"));
        }
        match open {
            Open::Exec(exec) => {
                self.session.streams.open_output(id, 1, exec.limits[0]);
                if exec.terminal.is_none() {
                    self.session.streams.open_output(id, 2, exec.limits[1]);
                    self.told.insert((id, 2), Told { limit: exec.limits[1], ..Told::default() });
                }
                self.session.streams.started(id, Some(5), &message::started(Some(5)));
                self.session.streams.open_input(id);
                self.told.insert((id, 1), Told { limit: exec.limits[0], ..Told::default() });
                self.processes.insert(id);
            }
            Open::Read { limit, .. }
            | Open::List { limit, .. }
            | Open::Watch { limit, .. }
            | Open::Pack { limit, .. } => {
                self.session.streams.open_output(id, 1, *limit);
                self.session.streams.started(id, None, &message::started(None));
                self.told.insert((id, 1), Told { limit: *limit, ..Told::default() });
            }
            Open::Write { .. } | Open::Unpack { .. } => {
                self.session.streams.started(id, None, &message::started(None));
                self.session.streams.open_input(id);
            }
            _ => return self.session.streams.result(id, message::done()),
        }
        self.open.insert(id);
    }

    /// Let processes and files do something.
    fn produce(&mut self) {
        let id = self.some_stream();
        let channel = 1 + self.random.below(2) as u8;
        let more = self.random.below(30_000);
        match self.session.streams.outgoing(id, channel) {
            Some(output) if !output.state().2 => {
                let count = more.min(output.ring.room());
                output.ring.append(&vec![9; count]);
                self.session.streams.produced(id, channel);
                if self.random.one_in(20) {
                    self.session.streams.close_output(id, channel);
                }
            }
            _ => {}
        }
        match self.random.below(60) {
            0 => {
                let exit = Exit { code: Some(0), signal: None, reason: "exited", evidence: String::new() };
                if self.processes.remove(&id) {
                    self.session.streams.exit(id, exit);
                }
            }
            1 if !self.processes.contains(&id) => self.session.streams.result(id, message::done()),
            2 if !self.processes.contains(&id) => {
                self.session.streams.refuse(id, &Refusal::new("io", "bad luck"))
            }
            3 => drop(self.session.streams.sweep()),
            _ => {}
        }
        if let Some(input) = self.session.streams.input(id) {
            let count = self.random.below(input.ring.len() + 1);
            input.consume(count);
            self.session.streams.consumed(id);
        }
    }

    /// Take some of what is to be written, and check it as a host would.
    fn drain(&mut self) {
        let pieces = self.session.streams.slices().concat();
        let count = match self.random.one_in(3) {
            true => self.random.below(pieces.len() + 1),
            false => pieces.len(),
        };
        self.wire.extend_from_slice(&pieces[..count]);
        if count > 0 {
            self.session.streams.wrote(count);
        }
        while let Some(length) = self.wire.get(..4) {
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            if self.wire.len() < HEADER_BYTES + length {
                break;
            }
            let frame: Vec<u8> = self.wire.drain(..HEADER_BYTES + length).collect();
            self.check(&frame);
        }
    }

    fn check(&mut self, frame: &[u8]) {
        let id = u32::from_le_bytes(frame[4..8].try_into().expect("a header"));
        let payload = &frame[HEADER_BYTES..];
        let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("a number"));
        match frame[8] {
            7 => {
                let told = self.told.get_mut(&(id, frame[9])).expect("a channel that was opened");
                assert_eq!(number(0), told.offset, "DATA does not follow");
                told.offset += payload.len() as u64 - 8;
                assert!(told.offset <= told.limit && !told.ended, "DATA beyond credit or after END");
            }
            8 => {
                let told = self.told.get_mut(&(id, frame[9])).expect("a channel that was opened");
                assert!(number(0) == told.offset && !told.ended, "END at the wrong place");
                told.ended = true;
            }
            9 => {
                assert!(number(8) <= number(0) + (1 << 20));
                // The host has no use for more credit once it has said the end.
                if number(0) == 0 && self.open.contains(&id) {
                    self.inputs.entry(id).or_default();
                }
                if let Some((sent, limit)) = self.inputs.get_mut(&id) {
                    assert!(number(0) <= *sent && number(8) >= *limit);
                    *limit = number(8);
                }
            }
            2 | 4 | 6 | 12 | 13 | 14 => {}
            kind => panic!("the agent has sent type {kind}"),
        }
    }

    /// Lose the channel and attach anew: the host goes on from what it has stored.
    fn attach(&mut self) {
        self.session.streams.disconnect();
        self.decoder = Decoder::new();
        self.wire.clear();
        let payload = self.hello(true);
        let hello = Hello::parse(&payload).expect("our own HELLO");
        assert!(self.session.proves(&hello));
        self.session.welcome(&hello);
        self.open = self.session.streams.iter().map(|(id, _)| *id).collect();
        for id in self.open.clone() {
            for channel in [1, 2] {
                let Some(output) = self.session.streams.outgoing(id, channel) else {
                    continue;
                };
                let (acknowledged, end, _) = output.state();
                let told = self.told.entry((id, channel)).or_default();
                assert!(acknowledged <= told.offset && told.offset <= end);
                (told.acknowledged, told.ended) = (told.offset, false);
                told.limit = told.offset + self.random.next() % (1 << 20);
                let payload = [told.acknowledged.to_le_bytes(), told.limit.to_le_bytes()].concat();
                assert!(self.feed(&Game::frame(9, id, channel, &payload)), "good credit after an attach");
            }
            if let Some(input) = self.session.streams.input(id) {
                let (acknowledged, limit, ended) = input.state();
                match ended {
                    true => drop(self.inputs.remove(&id)),
                    false => drop(self.inputs.insert(id, (acknowledged, limit))),
                }
            }
        }
    }

    /// Play until something breaks the protocol, or long enough; return the number of frames.
    fn play(&mut self, frames: usize) -> usize {
        let hello = self.hello(false);
        assert!(self.feed(&Game::frame(1, 0, 0, &hello)), "our own HELLO");
        for played in 0..frames {
            let action = self.act();
            if !self.feed(&action) {
                return played;
            }
            self.produce();
            self.drain();
            if self.random.one_in(400) {
                self.attach();
            }
            self.check_bounds();
        }
        frames
    }

    fn check_bounds(&mut self) {
        assert!(self.session.streams.open() <= STREAM_LIMIT);
        for stream in self.session.streams.iter().map(|(_, stream)| stream) {
            assert!(stream.outputs().all(|(_, output)| output.ring.len() <= RING_LIMIT));
            assert!(stream.input.as_ref().is_none_or(|input| input.ring.len() <= RING_LIMIT));
        }
    }
}

/// Change a golden sequence a little, and feed it whatever it means.
fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(4) {
        let frame = &corpus[random.below(corpus.len())];
        bytes.extend_from_slice(&frame[..frame.len().min(70_000)]);
    }
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes.truncate(at.max(1)),
            2 => drop(bytes.splice(at..at, random.number().to_le_bytes())),
            _ => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len() - 1).max(at))),
        }
    }
    bytes
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn fuzz_no_host_makes_the_agent_panic_or_break_the_protocol() {
    let end = Instant::now() + Duration::from_secs(setting("SKERRY_FUZZ_SECONDS", 2));
    let mut seed = setting("SKERRY_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15);
    let frames = golden::load().into_iter();
    let corpus: Vec<Vec<u8>> = frames
        .flat_map(|golden| {
            golden.setup.into_iter().filter(|(to_agent, _)| *to_agent).map(|(_, b)| b).chain([golden.bytes])
        })
        .filter(|bytes| !bytes.is_empty())
        .collect();
    let (mut games, mut played) = (0, 0);
    while Instant::now() < end {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        println!("seed {seed}");
        played += Game::new(seed).play(2_000);
        let mut game = Game::new(seed);
        for _ in 0..20 {
            let bytes = mutate(&mut game.random, &corpus);
            game.decoder = Decoder::new();
            if game.session.streams.greeted() && game.random.one_in(3) {
                game.session = Session::default();
            }
            game.feed(&bytes);
            let _ = game.session.streams.slices();
        }
        games += 1;
    }
    println!("{games} games, {played} frames");
    assert!(played > games * 20, "the games end too early to say anything: {played} frames in {games}");
}
