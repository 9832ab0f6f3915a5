//! `cargo run`: one session on the whole system, or with `up` the system to try things on.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command {
        Some(cli::Command::AgentRuntimeProcess) => {
            local::process::end_with_parent();
            agent_runtime::run_from_env()
        }
        Some(cli::Command::InvokerProcess) => {
            local::process::end_with_parent();
            invoker::run()
        }
        _ => cli::run(cli),
    }
}
