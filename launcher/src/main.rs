//! Starts gVisor's sentry on the host without runsc's command line, confined as that confines it.
//!
//! `skerry-launch [--gofer] [--join FILE]... [--pass FD]... [--env K=V]... --exe FILE -- ARGV0 ARG...`
//!
//! It joins control groups by writing 0 into each
//! FILE, starts the program in namespaces of its own as user 65534 without any capability, in a root that holds
//! nothing but what the sentry reads of /proc, prints the program's pid and exits 0 once it has been executed.
//! The descriptors named by --pass become 3, 4, 5 and so on; the standard ones are /dev/null.
//!
//! `{proc}` in an argument becomes a descriptor: a byte written to it takes /proc away (the sentry's
//! --proc-mount-sync-fd), for which one small process waits that keeps the capability to do so.
//!
//! With --gofer the program is gVisor's gofer, which gives a sandbox the files of its volumes. It puts together its own
//! root, gives up its rights and installs its filter by itself, so it is started as root in all of these namespaces but
//! that of users, and with the machine's files still in sight.

mod confine;
mod options;
mod start;

use std::process::ExitCode;

use options::Options;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "usage: skerry-launch [--gofer] [--join FILE]... [--pass FD]... [--env K=V]... --exe FILE -- ARGV0 ARG... ({0})"
    )]
    Usage(&'static str),
    #[error("cannot {0}: {1}")]
    System(String, std::io::Error),
    #[error("the program was not executed: {0}")]
    Child(String),
}

/// Names the step that failed.
pub trait Step<T> {
    fn step(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::System(what.to_owned(), error.into()))
    }
}

fn main() -> ExitCode {
    let started = Options::parse(std::env::args_os().skip(1)).and_then(|options| start::start(&options));
    match started {
        Ok(pid) => {
            println!("{pid}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("skerry-launch: {failure}");
            ExitCode::FAILURE
        }
    }
}
