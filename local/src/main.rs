//! `cargo run`: one session on the whole system, or with `up` the system to try things on.

mod cli;
mod one_session;
mod up;

use std::process::ExitCode;

use clap::Parser;
use local::process::{become_program, end_with_parent};

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
            let error = become_program(&program);
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
