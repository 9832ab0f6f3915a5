//! `cargo run`: runs one session on the whole system, or keeps the system running with `up`.

mod cli;
mod one_session;
mod up;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::AgentRuntimeProcess) => {
            end_with_parent();
            agent_runtime::run_from_env()
        }
        Some(Command::AgentProgramProcess { program }) => {
            end_with_parent();
            // Returns only if it cannot.
            let error = std::process::Command::new(&program).exec();
            eprintln!("cannot start {}: {error}", program.display());
            ExitCode::FAILURE
        }
        Some(Command::InvokerProcess) => {
            end_with_parent();
            invoker::run()
        }
        Some(Command::Up(args)) => cli::run(up::up(args)),
        None => cli::run(one_session::one_session(cli.session)),
    }
}

/// Has the kernel end this process, or the program that it becomes, when its parent dies.
fn end_with_parent() {
    // Only an invalid signal is an error.
    let _ = set_pdeathsig(Signal::SIGTERM);
}
