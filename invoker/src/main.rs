//! The Lambda function's process.

use std::process::ExitCode;

fn main() -> ExitCode {
    invoker::run()
}
