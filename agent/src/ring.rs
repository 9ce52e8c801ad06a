//! A byte ring that grows on demand, up to a bound, and gives its memory back when it is idle.

use std::io::IoSliceMut;

/// The most that a ring holds.
pub const RING_LIMIT: usize = 1 << 20;
/// The size of the first allocation.
const RING_START: usize = 4 << 10;

/// Bytes between a producer and a consumer, first in, first out.
#[derive(Default)]
pub struct Ring {
    /// Its length is 0 or a power of two.
    memory: Box<[u8]>,
    start: usize,
    length: usize,
    /// Whether anything was put in since `sweep` looked last.
    touched: bool,
}

impl Ring {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Return how many more bytes the ring may take in all.
    pub fn room(&self) -> usize {
        RING_LIMIT - self.length
    }

    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Append `bytes`; the caller has seen that there is room.
    pub fn append(&mut self, bytes: &[u8]) {
        self.grow(bytes.len());
        let (first, second) = self.vacant();
        let split = bytes.len().min(first.len());
        first[..split].copy_from_slice(&bytes[..split]);
        second[..bytes.len() - split].copy_from_slice(&bytes[split..]);
        self.filled(bytes.len());
    }

    /// Return up to `most` bytes of allocated, unused memory, for a read straight into it; report what was
    /// read to `filled`.
    pub fn vacant_slices(&mut self, most: usize) -> [IoSliceMut<'_>; 2] {
        let (first, second) = self.vacant();
        let split = most.min(first.len());
        let rest = (most - split).min(second.len());
        [IoSliceMut::new(&mut first[..split]), IoSliceMut::new(&mut second[..rest])]
    }

    pub fn vacant_len(&self) -> usize {
        self.memory.len() - self.length
    }

    pub fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.vacant_len());
        self.length += count;
        self.touched = true;
    }

    /// Return up to `most` bytes from position `at`, in the one or two pieces in which they lie.
    pub fn slices(&self, at: usize, most: usize) -> (&[u8], &[u8]) {
        let size = self.memory.len();
        let count = most.min(self.length.saturating_sub(at));
        if count == 0 {
            return (&[], &[]);
        }
        let begin = (self.start + at) & (size - 1);
        let first = count.min(size - begin);
        (&self.memory[begin..begin + first], &self.memory[..count - first])
    }

    /// Return a copy of the first bytes, if as many are there.
    pub fn copy<const COUNT: usize>(&self) -> Option<[u8; COUNT]> {
        let (first, second) = self.slices(0, COUNT);
        let mut copy = [0; COUNT];
        if first.len() + second.len() < COUNT {
            return None;
        }
        copy[..first.len()].copy_from_slice(first);
        copy[first.len()..].copy_from_slice(second);
        Some(copy)
    }

    /// Forget the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.length);
        self.length -= count;
        self.start = if self.length == 0 { 0 } else { (self.start + count) & (self.memory.len() - 1) };
    }

    /// Make room for `more` bytes in allocated memory, by doubling.
    pub fn grow(&mut self, more: usize) {
        let wanted = (self.length + more).min(RING_LIMIT);
        if wanted <= self.memory.len() {
            return;
        }
        let mut memory = vec![0; wanted.next_power_of_two().max(RING_START)].into_boxed_slice();
        let (first, second) = self.slices(0, self.length);
        memory[..first.len()].copy_from_slice(first);
        memory[first.len()..self.length].copy_from_slice(second);
        self.memory = memory;
        self.start = 0;
    }

    /// Drop the contents and the memory.
    pub fn release(&mut self) {
        *self = Ring::default();
    }

    /// Give the memory back if nothing came since the last call and nothing is kept; false if some remains.
    pub fn sweep(&mut self) -> bool {
        if self.is_empty() && !self.touched {
            self.release();
        }
        self.touched = false;
        self.memory.is_empty()
    }

    fn vacant(&mut self) -> (&mut [u8], &mut [u8]) {
        let size = self.memory.len();
        if size == self.length {
            return (&mut [], &mut []);
        }
        let begin = (self.start + self.length) & (size - 1);
        let room = size - self.length;
        let first = room.min(size - begin);
        let (low, high) = self.memory.split_at_mut(begin);
        (&mut high[..first], &mut low[..room - first])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn a_ring_behaves_like_a_queue_of_bytes() {
        let (mut ring, mut model) = (Ring::default(), VecDeque::new());
        let mut seed = 7u64;
        for step in 0..20_000u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let amount = (seed >> 40) as usize % 3_000;
            if seed >> 63 == 0 {
                let bytes: Vec<u8> =
                    (0..amount.min(ring.room())).map(|i| (step as usize + i) as u8).collect();
                ring.append(&bytes);
                model.extend(bytes);
            } else {
                let count = amount.min(ring.len());
                let (first, second) = ring.slices(0, count);
                let expected: Vec<u8> = model.drain(..count).collect();
                assert_eq!([first, second].concat(), expected);
                ring.consume(count);
            }
            assert_eq!(ring.len(), model.len());
        }
    }

    #[test]
    fn a_ring_never_grows_beyond_its_bound() {
        let mut ring = Ring::default();
        ring.append(&vec![1; RING_LIMIT]);
        ring.grow(1);
        assert_eq!((ring.room(), ring.capacity()), (0, RING_LIMIT));
    }

    #[test]
    fn an_idle_ring_gives_its_memory_back() {
        let mut ring = Ring::default();
        ring.append(b"abc");
        ring.consume(3);
        assert!(!ring.sweep());
        assert!(ring.sweep());
        assert_eq!(ring.capacity(), 0);
    }
}
