//! The container's main process: runs `AGENT_COMMAND` for each invocation.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent_runtime::run_command()
}
