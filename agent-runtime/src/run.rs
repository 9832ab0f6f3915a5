//! The process: environment, telemetry, runtime, signals.

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;

use actix::System;
use futures_util::FutureExt;
use futures_util::future::select_all;
use journal::{Journal, SettingError};
use nix::sys::resource::{Resource, getrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::agents::NamedAgent;
use crate::{Agent, CommandAgent, Settings, serve};

/// File descriptors: an idle process has 26, the journal up to 32 connections, and each task of a command
/// its connection and five pipes.
const NEEDED_FILES: u64 = 128;

/// A sixth of an invocation's processor time is spent in the allocator, from several threads.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs an agent as the container's main process: reads the environment (see [`Settings`]), logs to
/// stderr, and serves until SIGTERM, SIGINT, SIGHUP or SIGQUIT. The exit code is 2 if a setting is
/// missing or invalid, and 1 if the server fails.
#[must_use]
pub fn run(agent: impl Agent) -> ExitCode {
    run_service(Ok(agent))
}

/// [`run`] with the agent that `AGENT_COMMAND`, `AGENT_SERVER_COMMAND` or `AGENT_URL` names.
#[must_use]
pub fn run_from_env() -> ExitCode {
    match NamedAgent::from_env(env) {
        Ok(NamedAgent::Command(agent)) => run_service(Ok(agent)),
        Ok(NamedAgent::Http(agent)) => run_service(Ok(agent)),
        Err(error) => run_service(Err::<CommandAgent, _>(error)),
    }
}

/// Whether these variables name an agent for [`run_from_env`].
///
/// # Errors
/// If not, with the rule.
pub fn check_agent(env: impl Fn(&str) -> Option<String>) -> Result<(), SettingError> {
    NamedAgent::from_env(env).map(drop)
}

fn run_service(agent: Result<impl Agent, SettingError>) -> ExitCode {
    let settings = Settings::from_env(env).and_then(|settings| Ok((settings, agent?)));
    telemetry::run_service("agent-runtime", settings, |(settings, agent), _| host(settings, agent))
}

fn host(settings: Settings, agent: impl Agent) -> io::Result<()> {
    enough_files()?;
    // Leaked on purpose: dropping the runtime would wait for blocking tasks, such as a DNS lookup.
    let runtime: &'static Runtime =
        Box::leak(Box::new(Builder::new_current_thread().enable_all().build()?));
    System::with_tokio_rt(|| runtime).block_on(async {
        let signals = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let mut signals = signals.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?;
        let listener = listen(&settings)?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        let journal = async move {
            let config = match settings.journal_endpoint_url {
                Some(url) => journal::settings::config_at(&url),
                None => (&aws_config::load_from_env().await).into(),
            };
            Journal::new(config, settings.journal)
        };
        let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        let shutdown = select_all(received).map(drop);
        serve(listener, journal, settings.limits, agent, shutdown).await
    })
}

fn listen(settings: &Settings) -> io::Result<TcpListener> {
    let (host, port) = (settings.host, settings.port);
    if !host.is_loopback() && port != 8080 {
        tracing::warn!(
            "AgentCore calls port 8080, and PORT is {port}: if the image did not mean that, set PORT=8080 in it"
        );
    }
    TcpListener::bind((host, port)).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {host}:{port}: {error}"))
    })
}

/// Refuses a process that may open so few files that its threads or its agents would not start.
fn enough_files() -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if limit < NEEDED_FILES {
        return Err(io::Error::other(format!(
            "the process may open {limit} files and needs {NEEDED_FILES}: raise its limit (ulimit -n)"
        )));
    }
    Ok(())
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
