//! The process: environment, telemetry, clients, the Lambda Runtime API.

use std::process::ExitCode;

use aws_sdk_bedrockagentcore::Client;
use aws_sdk_bedrockagentcore::config::retry::RetryConfig;
use aws_sdk_bedrockagentcore::config::{Builder, StalledStreamProtectionConfig};
use journal::{BoundedAnswers, Journal};
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::tower::util::AndThenLayer;
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde_json::value::RawValue;
use telemetry::Telemetry;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Handler, Settings};

/// Runs the function until the Lambda Runtime API or SIGTERM ends it. The exit code is 2 if a
/// setting (see [`Settings`]) is missing or invalid.
#[must_use]
pub fn run() -> ExitCode {
    let settings = Settings::from_env(|name| std::env::var(name).ok());
    telemetry::run_service("invoker", settings, serve)
}

fn serve(settings: Settings, telemetry: &Telemetry) -> Result<(), lambda_runtime::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let aws = aws_config::load_from_env().await;
        let journal = Journal::new((&aws).into(), settings.journal.clone());
        let client = Builder::from(&aws)
            .retry_config(RetryConfig::disabled())
            // This protection would cut an answer whose body comes long after its head, and repeat the request.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let client = client.interceptor(BoundedAnswers).build();
        let handler = Handler::new(journal, Client::from_conf(client), settings);
        // After the answer, so that the caller does not wait for it, and before the sandbox is
        // frozen.
        let flush = AndThenLayer::new(|()| async {
            telemetry.flush().await;
            Ok(())
        });
        let function =
            Runtime::new(service_fn(|event: LambdaEvent<Box<RawValue>>| handler.handle(event)))
                .layer(TracingLayer::new())
                .layer(flush);
        tokio::select! {
            ended = function.run() => ended,
            _ = terminate.recv() => Ok(()),
        }
    });
    // Dropping the runtime would wait for a flush that still blocks.
    runtime.shutdown_background();
    served
}
