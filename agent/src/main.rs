//! The agent: PID 1 of a sandbox's container, and three smaller things that the same program does.

mod agent;
mod attach;
mod changes;
mod channel;
mod contain;
mod events;
mod exec;
mod files;
mod frame;
mod hello;
mod keeper;
mod message;
mod open;
mod output;
mod pack;
mod packer;
mod paths;
mod process;
mod processes;
mod ready;
mod removal;
mod ring;
mod session;
mod setup;
mod signals;
mod spawn;
mod stream;
mod streams;
mod tasks;
mod terminal;
mod tree;
mod unpack;
mod users;
mod value;
mod watch;

use std::fmt::Display;
use std::process::ExitCode;

use dlmalloc::GlobalDlmalloc;

use agent::{Agent, AgentError};

/// musl's own gives each small page back to the kernel at once, which in gVisor costs an exec a tenth of its time.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

/// The host has broken the protocol.
const VIOLATION: u8 = 70;
/// The operating system has refused something that we need.
const FAILURE: u8 = 71;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().map(|argument| argument.to_str()) {
        None => end(Agent::new().and_then(Agent::run).map(|()| 0), |error| match error {
            AgentError::Violation(_) | AgentError::NoHello => VIOLATION,
            _ => FAILURE,
        }),
        Some(Some("keep")) => end(keeper::run(), |_| FAILURE),
        Some(Some("attach")) => end(attach::run().map(|()| 0), |_| FAILURE),
        Some(Some("version")) => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("usage: skerry-agent [keep | attach | version]");
            ExitCode::from(USAGE)
        }
    }
}

/// Exit with the code, or say why there is none.
fn end<E: Display>(result: Result<u8, E>, code: impl Fn(&E) -> u8) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("skerry-agent: {error}");
            ExitCode::from(code(&error))
        }
    }
}
