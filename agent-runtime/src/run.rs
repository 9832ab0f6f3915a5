//! The process: environment, telemetry, runtime, signals.

use std::net::TcpListener;
use std::process::ExitCode;

use actix::System;
use journal::Journal;
use telemetry::Telemetry;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::once::{is_command, run_once};
use crate::{Agent, BedrockAgent, BedrockSettings, CommandAgent, Settings, serve};

/// A sixth of an invocation's processor time is spent in the allocator, from several threads.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a process whose environment is not as it must be.
const BAD_ENVIRONMENT: u8 = 2;

/// Runs an agent as the container's main process: reads the environment (see [`Settings`]), logs to
/// stderr, serves until SIGTERM or SIGINT. The exit code is 2 if the environment is not as it must
/// be, and 1 if the server fails.
///
/// Started by another agent-runtime as its `AGENT_COMMAND`, the process runs the agent once instead,
/// as a command is run. So a program that is made to be a container's can be tried with
/// `cargo run -- --agent-command PROGRAM`.
pub fn run(agent: impl Agent) -> ExitCode {
    if is_command() {
        return run_once(agent);
    }
    let settings = match Settings::from_env(env) {
        Ok(settings) => settings,
        Err(error) => return bad_environment(&error),
    };
    let telemetry = Telemetry::start("agent-runtime");
    let served = host(settings, agent);
    telemetry.stop();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

/// [`run`] with the agent that the environment names: the command of `AGENT_COMMAND`, or the model
/// of `MODEL_ID`.
#[must_use]
pub fn run_from_env() -> ExitCode {
    let set = |name| env(name).is_some_and(|value| !value.is_empty());
    if set("MODEL_ID") && !set("AGENT_COMMAND") {
        match BedrockSettings::from_env(env) {
            Ok(settings) => run(BedrockAgent::new(settings)),
            Err(error) => bad_environment(&error),
        }
    } else {
        match CommandAgent::from_env(env) {
            Ok(agent) => run(agent),
            Err(error) => bad_environment(&error),
        }
    }
}

fn host(settings: Settings, agent: impl Agent) -> std::io::Result<()> {
    // Leaked: its drop would wait for whatever still blocks, such as a name that does not resolve.
    let runtime: &'static Runtime =
        Box::leak(Box::new(Builder::new_current_thread().enable_all().build()?));
    System::with_tokio_rt(|| runtime).block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let address = (settings.host, settings.port);
        let listener = TcpListener::bind(address).map_err(|error| {
            std::io::Error::new(
                error.kind(),
                format!("cannot listen on {}:{}: {error}", address.0, address.1),
            )
        })?;
        let address = listener.local_addr()?;
        let journal = async {
            let aws = aws_config::load_from_env().await;
            Journal::new((&aws).into(), settings.journal)
        };
        tracing::info!(%address, "listening");
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(listener, journal, settings.max_body_bytes, agent, shutdown).await
    })
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn bad_environment(error: &journal::SettingError) -> ExitCode {
    eprintln!("agent-runtime: {error}");
    ExitCode::from(BAD_ENVIRONMENT)
}
