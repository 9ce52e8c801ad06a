//! The file operations that go on at once, and which of them can take a step.

use std::collections::BTreeMap;

use crate::files::{self, Begun, Step, Task};
use crate::open::Open;
use crate::streams::Streams;

#[derive(Default)]
pub struct Tasks {
    all: BTreeMap<u32, Box<Task>>,
    /// Those that can go on at once.
    runnable: Vec<u32>,
}

impl Tasks {
    /// Begin an operation, and answer it where that was all.
    pub fn open(&mut self, streams: &mut Streams, id: u32, open: Open) {
        match files::begin(streams, id, open) {
            Ok(Begun::Task(task)) => {
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

    /// Give the operation up; what it has not finished goes.
    pub fn close(&mut self, id: u32) {
        self.all.remove(&id);
    }
}
