//! The process: environment, logs, clients, the Lambda Runtime API.

use std::process::ExitCode;

use aws_sdk_bedrockagentcore::Client;
use aws_sdk_bedrockagentcore::config::Builder;
use aws_sdk_bedrockagentcore::config::retry::RetryConfig;
use journal::Journal;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::{Handler, Settings};

/// Exit code of a process whose environment is not as it must be.
const BAD_ENVIRONMENT: u8 = 2;

/// Runs the function until the Lambda Runtime API ends it. The exit code is 2 if the environment
/// (see [`Settings`]) is not as it must be.
#[must_use]
pub fn run() -> ExitCode {
    let settings = match Settings::from_env(|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("invoker: {error}");
            return ExitCode::from(BAD_ENVIRONMENT);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would report a closed stderr on stderr, and panic.
        .log_internal_errors(false)
        .init();
    match serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("invoker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: Settings) -> Result<(), lambda_runtime::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let aws = aws_config::load_from_env().await;
        let journal = Journal::new((&aws).into(), settings.journal.clone());
        let client = Builder::from(&aws).retry_config(RetryConfig::disabled()).build();
        let handler = Handler::new(journal, Client::from_conf(client), settings);
        lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| handler.handle(event))).await
    })
}
