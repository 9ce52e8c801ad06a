//! The two pipes to the node: reading frames and writing what the streams have, without ever waiting.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::frame::Decoder;
use crate::streams::Streams;

const READ_BYTES: usize = 64 << 10;
/// Bytes that one turn writes before the loop looks at everything else again.
const TURN_BYTES: usize = 1 << 20;

/// What a turn of reading or writing has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more to do at once.
    More,
    /// The pipe takes or gives no more for now.
    Waiting,
    /// The node is gone.
    Closed,
}

pub struct Channel {
    input: OwnedFd,
    output: OwnedFd,
    decoder: Decoder,
    buffer: Box<[u8]>,
}

impl Channel {
    /// Take over two pipes whose file descriptions nobody else uses.
    pub fn new(input: OwnedFd, output: OwnedFd) -> Result<Channel, Errno> {
        set_nonblocking(&input)?;
        set_nonblocking(&output)?;
        Ok(Channel { input, output, decoder: Decoder::new(), buffer: vec![0; READ_BYTES].into_boxed_slice() })
    }

    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    pub fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Read once; return the parser and the bytes for it.
    pub fn read(&mut self) -> Result<(&mut Decoder, &[u8]), Progress> {
        match rustix::io::read(&self.input, &mut self.buffer[..]) {
            Ok(0) => Err(Progress::Closed),
            Ok(count) => Ok((&mut self.decoder, &self.buffer[..count])),
            Err(Errno::AGAIN | Errno::INTR) => Err(Progress::Waiting),
            Err(_) => Err(Progress::Closed),
        }
    }

    /// Write what the streams have.
    pub fn write(&self, streams: &mut Streams) -> Progress {
        let mut left = TURN_BYTES;
        while left > 0 {
            let pieces = streams.slices();
            let total: usize = pieces.iter().map(|piece| piece.len()).sum();
            if total == 0 {
                return Progress::Waiting;
            }
            match rustix::io::writev(&self.output, &pieces.map(IoSlice::new)) {
                Ok(count) => {
                    streams.wrote(count);
                    left = left.saturating_sub(count);
                    if count < total {
                        return Progress::More;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::More,
                Err(_) => return Progress::Closed,
            }
        }
        Progress::More
    }
}

pub fn set_nonblocking(fd: impl AsFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
}
