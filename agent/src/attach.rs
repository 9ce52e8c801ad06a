//! A new channel after the node was lost: how it is handed over, and why nobody else can take its place.
//!
//! `attach` runs inside the container with new pipes as its stdin and stdout, and hands both to PID 1 over an
//! abstract socket. Every process of the sandbox can do that too. So a pair counts for nothing until a HELLO
//! that proves the secret was read from it, and reading it cannot stop us.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use thiserror::Error;

use crate::channel::Channel;
use crate::frame::{Decoder, Kind, Piece};
use crate::hello::Hello;
use crate::session::Session;
use crate::signals::Alarm;

const NAME: &[u8] = b"skerry-agent";
/// How long `attach` waits for its turn while others offer pipes too.
const PATIENCE: Duration = Duration::from_secs(2);
/// Offers that one turn takes, so that a flood of them does not keep us from everything else.
const PER_TURN: usize = 4;
const ALARM_MS: i64 = 20;
const READ_BYTES: usize = 4 << 10;
const READS: usize = 4;

#[derive(Debug, Error)]
pub enum AttachError {
    #[error("cannot make the socket: {0}")]
    Socket(Errno),
    #[error("cannot take the name of the socket: {0}")]
    Bind(Errno),
    #[error("cannot reach the agent: {0}")]
    Connect(Errno),
    #[error("cannot hand over the pipes: {0}")]
    Send(Errno),
}

fn address() -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(NAME)
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
}

/// Hand our stdin and stdout to the agent of this container.
pub fn run() -> Result<(), AttachError> {
    let socket = socket(SocketFlags::CLOEXEC).map_err(AttachError::Socket)?;
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))
        .map_err(AttachError::Socket)?;
    rustix::net::connect(&socket, &address().map_err(AttachError::Connect)?).map_err(AttachError::Connect)?;
    let pipes = [rustix::stdio::stdin(), rustix::stdio::stdout()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&pipes));
    rustix::net::sendmsg(&socket, &[IoSlice::new(b"a")], &mut ancillary, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(AttachError::Send)
}

/// PID 1's side of the socket.
pub struct Door {
    socket: OwnedFd,
}

impl Door {
    /// Take the socket's name, before anything else runs in the sandbox.
    pub fn open() -> Result<Door, AttachError> {
        let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(AttachError::Socket)?;
        rustix::net::bind(&socket, &address().map_err(AttachError::Bind)?).map_err(AttachError::Bind)?;
        Ok(Door { socket })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Take what has been offered, and return the channel that proves itself, if one does.
    ///
    /// The node has written its HELLO before it offers the pipes, so an offer without one is dropped at once
    /// and nobody can fill up places for offers that wait.
    pub fn receive(&self, session: &Session) -> Option<(Hello, Channel)> {
        for _ in 0..PER_TURN {
            let Some((input, output)) = self.next_pair()? else {
                continue;
            };
            if let Some(hello) = read_hello(&input).filter(|hello| session.proves(hello))
                && let Ok(channel) = Channel::new(input, output)
            {
                return Some((hello, channel));
            }
        }
        None
    }

    /// Return the next offer: `None` if there is none, `Some(None)` if it is no pair of pipes.
    fn next_pair(&self) -> Option<Option<(OwnedFd, OwnedFd)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags).ok()?;
        let mut offered = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                offered.extend(fds);
            }
        }
        let Ok([input, output]) = <[OwnedFd; 2]>::try_from(offered) else {
            return Some(None);
        };
        Some((is_pipe(&input) && is_pipe(&output)).then_some((input, output)))
    }
}

fn is_pipe(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// Return the HELLO that lies in the pipe, whole and alone: the node sends no more before READY.
fn read_hello(pipe: &OwnedFd) -> Option<Hello> {
    // Whoever has offered the pipe may still hold it, and empty it or make it blocking at any moment.
    let _alarm = Alarm::every(ALARM_MS);
    let (mut decoder, mut buffer) = (Decoder::new(), [0; READ_BYTES]);
    for _ in 0..READS {
        if !readable(pipe) {
            return None;
        }
        let count = rustix::io::read(pipe, &mut buffer).ok().filter(|count| *count > 0)?;
        let mut input = &buffer[..count];
        match decoder.next(&mut input) {
            Ok(None) => {}
            Ok(Some(Piece::Frame(header, payload))) if header.kind == Kind::Hello => {
                return Hello::parse(payload).ok().filter(|_| input.is_empty());
            }
            _ => return None,
        }
    }
    None
}

fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
