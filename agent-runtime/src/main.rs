//! The container's main process: runs the agent that the environment names for each invocation.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_runtime::run_from_env()
}
