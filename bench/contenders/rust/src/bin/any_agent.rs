//! The container for an agent that is not in Rust.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_runtime::run_from_env()
}
