//! `loadgen`: one publisher and very many viewers for a WHIP and WHEP server, or rooms of members that speak LiveKit's protocol, and what
//! serving them cost it.
//!
//! ```text
//!   main       starts the server, times the run, reads the server's CPU time and memory, prints the report
//!   publisher  one thread: synthetic VP8 and Opus by WHIP
//!   joiners    threads that POST offers to WHEP, so that many join at a time
//!   receivers  threads that own the viewers' sockets: epoll, recvmmsg, UDP_GRO
//!   members    the same for rooms in which everybody publishes
//! ```
//!
//! The generator is meant not to be what limits, and to say so when it was. After the handshake a viewer reads sequence
//! numbers, which SRTP leaves in the clear; only a sample of the viewers decrypts all that comes. The others decrypt a packet
//! now and then, and the first after the measurement began: it tells which of the publisher's packets it is, so that a loss
//! at the beginning or at the end is seen as well.

mod awake;
mod cli;
mod histogram;
mod http;
mod join;
mod media;
mod members;
mod process;
mod publisher;
mod receiver;
mod report;
mod run;
mod sdp;
mod sink;
mod storm;
mod sys;
mod tally;
mod transport;
mod viewer;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match cli::from_environment() {
        cli::Action::Run(options) => run::run(&options),
        cli::Action::Members(options) => members::run(&options),
    };
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}
