//! The golden frames of `proto/frames.json`, as far as they go to the agent.
//!
//! What the frames before one say is applied to a session: what the host sends goes through the parser, what
//! the agent sends is what the session is made to send.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::*;
use crate::frame::{Decoder, HEADER_BYTES};
use crate::message::Exit;
use crate::open::Stderr;
use crate::value::{Map, Value};

pub struct Golden {
    pub name: String,
    pub setup: Vec<(bool, Vec<u8>)>,
    pub bytes: Vec<u8>,
    pub expect: String,
}

/// Return the frames that go to the agent.
pub fn load() -> Vec<Golden> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/frames.json");
    let text = std::fs::read_to_string(path).expect("proto/frames.json lies beside the agent's folder");
    let frames: Vec<Json> = serde_json::from_str(&text).expect("a list of frames");
    let to_agent = |frame: &Json| frame["direction"] == "to_agent";
    frames
        .iter()
        .filter(|frame| to_agent(frame))
        .map(|frame| Golden {
            name: frame["name"].as_str().expect("a name").to_owned(),
            setup: frame["setup"]
                .as_array()
                .expect("the frames before it")
                .iter()
                .map(|before| (to_agent(before), unpack(&before["bytes"])))
                .collect(),
            bytes: unpack(&frame["bytes"]),
            expect: frame["expect"].as_str().expect("a verdict").to_owned(),
        })
        .collect()
}

fn unpack(segments: &Json) -> Vec<u8> {
    let bytes = |hex: &Json| {
        let hex = hex.as_str().expect("hexadecimal text").as_bytes();
        let digits =
            |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        hex.chunks(2).map(|pair| digits(pair).expect("two digits")).collect::<Vec<u8>>()
    };
    let segments = segments.as_array().expect("segments").iter();
    let unpacked = segments.map(|segment| match segment.get("times") {
        Some(times) => bytes(&segment["repeat"]).repeat(times.as_u64().expect("a count") as usize),
        None => bytes(&segment["hex"]),
    });
    unpacked.collect::<Vec<_>>().concat()
}

#[derive(Default)]
struct Replay {
    session: Session,
    opened: BTreeMap<u32, Open>,
}

impl Replay {
    /// Feed what the host sends; return whether it ended with a whole frame.
    fn feed(&mut self, bytes: &[u8]) -> Result<bool, Violation> {
        let (mut decoder, mut input) = (Decoder::new(), bytes);
        while let Some(piece) = decoder.next(&mut input)? {
            if let Piece::Frame(header, payload) = &piece
                && header.kind == Kind::Hello
                && !self.session.streams.greeted()
                && let Some(hello) = Hello::parse(payload).ok().filter(|hello| hello.proof.is_some())
            {
                self.session.secret = hello.proof;
                assert!(self.session.proves(&hello));
                self.session.welcome(&hello);
                continue;
            }
            match self.session.receive(piece)? {
                Some(Event::Hello(hello)) => self.session.welcome(&hello),
                Some(Event::Open(id, open)) => drop(self.opened.insert(id, open)),
                _ => {}
            }
        }
        self.flush();
        Ok(decoder.is_between_frames())
    }

    fn flush(&mut self) {
        loop {
            let total = self.session.streams.slices().iter().map(|piece| piece.len()).sum();
            if total == 0 {
                return;
            }
            self.session.streams.wrote(total);
        }
    }

    /// Make the session say what the agent says in this frame.
    fn say(&mut self, frame: &[u8]) {
        let id = u32::from_le_bytes(frame[4..8].try_into().expect("a header"));
        let (kind, channel, payload) = (frame[8], frame[9], &frame[HEADER_BYTES..]);
        match kind {
            2 => self.restore(payload),
            4 => {}
            6 => self.start(id, payload),
            7 => {
                self.session.streams.outgoing(id, channel).expect("a channel").ring.append(&payload[8..]);
                self.session.streams.produced(id, channel);
            }
            8 => self.session.streams.close_output(id, channel),
            9 => {
                let numbers =
                    |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().expect("a number"));
                self.session.streams.input(id).expect("channel 0").restore(numbers(0), numbers(8), false);
            }
            12 => self.session.streams.exit(id, exit_of(&Map::parse(payload).expect("an EXIT"))),
            13 => self.session.streams.refuse(id, &Refusal::new("io", "")),
            14 => self.session.streams.result(id, payload.to_vec()),
            _ => panic!("the agent sends no type {kind}"),
        }
        self.flush();
    }

    fn start(&mut self, id: u32, payload: &[u8]) {
        self.session.streams.started(id, Some(1), payload);
        let stream = self.session.streams.get_mut(id).expect("an open stream");
        match &self.opened[&id] {
            Open::Exec(exec) => {
                for (channel, piped) in [(1, exec.stdout), (2, exec.stderr == Stderr::Pipe)] {
                    if piped {
                        stream.open_output(channel, exec.limits[usize::from(channel) - 1]);
                    }
                }
                if exec.stdin {
                    stream.open_input();
                }
            }
            Open::Write { .. } | Open::Unpack { .. } => stream.open_input(),
            Open::Read { limit, .. }
            | Open::List { limit, .. }
            | Open::Watch { limit, .. }
            | Open::Pack { limit, .. } => {
                stream.open_output(1, *limit);
            }
            _ => panic!("an operation without STARTED"),
        }
    }

    /// Bring the session into the state that a READY tells.
    fn restore(&mut self, payload: &[u8]) {
        let map = Map::parse(payload).expect("a READY");
        self.session.last_stream = map.unsigned("last_stream").expect("a number") as u32;
        for told in map.array("streams").expect("streams") {
            let told = told.as_map().expect("a stream");
            let op = ["exec", "read", "write", "list", "watch", "pack", "unpack"]
                .into_iter()
                .find(|op| told.text("op") == Ok(op));
            let mut stream = Stream::new(op.expect("an operation"));
            stream.exit = told.optional("exit", |exit| Ok(exit_of(exit.as_map()?))).expect("an exit or nil");
            if let Value::Map(stdin) = told.get("stdin").expect("stdin or nil") {
                stream.open_input();
                let input = stream.input.as_mut().expect("just opened");
                let (acknowledged, limit) = (stdin.unsigned("acknowledged"), stdin.unsigned("limit"));
                let ended = stdin.flag("ended").expect("a flag");
                input.restore(acknowledged.expect("a number"), limit.expect("a number"), ended);
            }
            for told in told.array("channels").expect("channels") {
                let told = told.as_map().expect("a channel");
                let number = |key: &str| told.unsigned(key).expect("a number");
                stream.open_output(number("channel") as u8, 0);
                let output = stream.output(number("channel") as u8).expect("just opened");
                output.restore(number("acknowledged"), number("end"), told.flag("ended") == Ok(true));
            }
            self.session.streams.insert(told.unsigned("stream").expect("a number") as u32, stream);
        }
    }
}

fn exit_of(map: &Map) -> Exit {
    let number = |key: &str| map.optional(key, Value::as_unsigned).expect("a number or nil");
    Exit {
        code: number("code").map(|code| code as i32),
        signal: number("signal").map(|signal| signal as i32),
        reason: "exited",
        evidence: String::new(),
    }
}

#[test]
fn golden_frames_are_judged_as_the_protocol_says() {
    let frames = load();
    assert!(frames.len() > 100, "only {} frames go to the agent", frames.len());
    let mut wrong = Vec::new();
    for golden in frames {
        let mut replay = Replay::default();
        for (to_agent, bytes) in &golden.setup {
            match to_agent {
                true => assert_eq!(replay.feed(bytes), Ok(true), "before {}", golden.name),
                false => replay.say(bytes),
            }
        }
        let verdict = match replay.feed(&golden.bytes) {
            Ok(true) => "ok".to_owned(),
            Ok(false) => "incomplete".to_owned(),
            Err(violation) => violation.to_string(),
        };
        if verdict != golden.expect {
            wrong.push(format!("{}: {verdict}, expected {}", golden.name, golden.expect));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
