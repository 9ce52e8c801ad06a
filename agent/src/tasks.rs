//! The file operations that go on at once, and which of them can take a step.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::events::{Events, Token, Until};
use crate::files::{self, Begun, Step, Task};
use crate::message::Refusal;
use crate::open::Open;
use crate::streams::Streams;

/// Paths that may be watched at once: each has an instance of inotify, of which there are few.
const WATCHES: usize = 64;

#[derive(Default)]
pub struct Tasks {
    all: BTreeMap<u32, Box<Task>>,
    /// Those that can go on at once.
    runnable: Vec<u32>,
}

impl Tasks {
    /// Begin an operation, and answer it where that was all.
    pub fn open(&mut self, streams: &mut Streams, events: &Events, id: u32, open: Open) {
        if matches!(open, Open::Watch { .. }) && self.watches() >= WATCHES {
            let message = format!("{WATCHES} paths are watched already; end one of those watches first");
            return streams.refuse(id, &Refusal::new("resource_exhausted", message));
        }
        match files::begin(streams, id, open) {
            Ok(Begun::Task(task)) => {
                if let Some(descriptor) = task.descriptor() {
                    let _ = events.watch(descriptor, Token::Task(id), Until::Readable);
                }
                self.all.insert(id, task);
                self.wake(id);
            }
            Ok(Begun::Done(payload)) => streams.result(id, payload),
            Err(refusal) => streams.refuse(id, &refusal),
        }
    }

    /// Let the operation take its next step, if `id` is one; tell whether it is.
    pub fn wake(&mut self, id: u32) -> bool {
        let known = self.all.contains_key(&id);
        if known && !self.runnable.contains(&id) {
            self.runnable.push(id);
        }
        known
    }

    /// Tell whether an operation can go on without waiting for anything.
    pub fn busy(&self) -> bool {
        !self.runnable.is_empty()
    }

    /// Do one step of each operation that can go on.
    pub fn step(&mut self, streams: &mut Streams) {
        for id in std::mem::take(&mut self.runnable) {
            let Some(task) = self.all.get_mut(&id) else {
                continue;
            };
            match task.step(streams, id) {
                Step::More => {
                    self.wake(id);
                }
                Step::Waiting => {}
                Step::Done(payload) => {
                    self.close(id);
                    streams.result(id, payload);
                }
                Step::Failed(refusal) => {
                    self.close(id);
                    streams.refuse(id, &refusal);
                }
            }
        }
    }

    /// Return when the first operation ends by itself.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.values().filter_map(|task| task.deadline()).min()
    }

    /// Let those go on whose time is over.
    pub fn expire(&mut self, now: Instant) {
        let due = |task: &Task| task.deadline().is_some_and(|deadline| deadline <= now);
        let over: Vec<u32> = self.all.iter().filter(|(_, task)| due(task)).map(|(id, _)| *id).collect();
        for id in over {
            self.wake(id);
        }
    }

    fn watches(&self) -> usize {
        self.all.values().filter(|task| task.descriptor().is_some()).count()
    }

    /// Give the operation up; what it has not finished goes.
    pub fn close(&mut self, id: u32) {
        self.all.remove(&id);
    }
}
