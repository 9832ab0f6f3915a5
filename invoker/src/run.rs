//! The process: environment, telemetry, clients, the Lambda Runtime API.

use std::process::ExitCode;

use aws_sdk_bedrockagentcore::Client;
use aws_sdk_bedrockagentcore::config::Builder;
use aws_sdk_bedrockagentcore::config::retry::RetryConfig;
use journal::Journal;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::AndThenLayer;
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde_json::Value;
use telemetry::Telemetry;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Handler, Settings};

/// Exit code of a process whose environment is not as it must be.
const BAD_ENVIRONMENT: u8 = 2;

/// Runs the function until the Lambda Runtime API or SIGTERM ends it. The exit code is 2 if the environment
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
    let telemetry = Telemetry::start("invoker");
    let served = serve(settings, &telemetry);
    telemetry.stop();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("invoker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: Settings, telemetry: &Telemetry) -> Result<(), lambda_runtime::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let aws = aws_config::load_from_env().await;
        let journal = Journal::new((&aws).into(), settings.journal.clone());
        let client = Builder::from(&aws).retry_config(RetryConfig::disabled()).build();
        let handler = Handler::new(journal, Client::from_conf(client), settings);
        // Sent behind the answer, for which the caller does not wait any longer, and before the
        // sandbox is frozen.
        let flush = AndThenLayer::new(|()| async {
            telemetry.flush().await;
            Ok(())
        });
        let function = Runtime::new(service_fn(|event: LambdaEvent<Value>| handler.handle(event)))
            .layer(TracingLayer::new())
            .layer(flush);
        tokio::select! {
            ended = function.run() => ended,
            _ = terminate.recv() => Ok(()),
        }
    });
    // Its drop would wait for a flush that still blocks.
    runtime.shutdown_background();
    served
}
