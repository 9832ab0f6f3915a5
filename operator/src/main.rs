//! `agent-journal`: starts and stops sessions, shows their journal, and says what happened to them.

mod follow;
mod list;
mod logs;
mod show;
mod start;
mod stop;

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use aws_config::{BehaviorVersion, SdkConfig};
use clap::{Parser, Subcommand};
use journal::{InvalidSessionId, Journal, SessionId, Settings, display_chain};

use list::ListArgs;
use logs::LogsArgs;
use operator::ui::Ui;
use show::EventsArgs;
use start::StartArgs;
use stop::StopArgs;

/// Start and stop sessions, show their journal, and say what happened to them
///
/// Region, credentials and endpoints are those of the AWS SDKs (AWS_PROFILE, AWS_REGION, …). The
/// exit code is 0 if the session completed (for stop: if its task has ended), 1 if it failed, 2 on a
/// usage or access error, 3 if it still runs or its end is not known any more, 4 if its history is
/// broken.
#[derive(Parser)]
#[command(name = "agent-journal", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The journal's DynamoDB table
    #[arg(long, global = true, env = "JOURNAL_TABLE_NAME", hide_env_values = true)]
    table: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Start a session and print its id
    Start(StartArgs),
    /// List sessions: how each stands, where it stopped and why
    List(ListArgs),
    /// Show the journal of a session
    Events(EventsArgs),
    /// Print a session as one self-contained HTML page: page ID > session.html
    Page {
        /// The session's id
        #[arg(value_parser = session_id)]
        id: SessionId,
        /// Address of the tracing tool, to which a trace's id is appended
        #[arg(long, env = "TRACES_URL")]
        traces_url: Option<String>,
    },
    /// Serve the list of sessions and their pages to a browser on this machine
    Ui {
        /// The port of 127.0.0.1; 0 takes a free one
        #[arg(long, default_value_t = 8085)]
        port: u16,
        /// Address of the tracing tool, to which a trace's id is appended
        #[arg(long, env = "TRACES_URL")]
        traces_url: Option<String>,
        /// The state machine's ARN
        #[arg(long, value_name = "ARN", env = "STATE_MACHINE_ARN", hide_env_values = true)]
        state_machine: Option<String>,
    },
    /// Show what the container and the invoker logged for a session
    Logs(LogsArgs),
    /// End the running task of a session; the journal keeps the reason
    Stop(StopArgs),
    /// Say in plain words what happened to a session, and where it stopped
    Explain {
        /// The session's id
        #[arg(value_parser = session_id)]
        id: SessionId,
        /// Address of the tracing tool, to which a trace's id is appended, such as http://127.0.0.1:4318/traces
        #[arg(long, env = "TRACES_URL")]
        traces_url: Option<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    actix_web::rt::System::new().block_on(run(cli)).unwrap_or_else(|error| {
        let unread = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if unread == Some(io::ErrorKind::BrokenPipe) {
            // The reader of the output has stopped, as `head` does. The code is that of an end by SIGPIPE.
            return ExitCode::from(141);
        }
        let mut text = display_chain(error.as_ref());
        if text.contains("Connection refused") {
            text += "\nNothing listens there. If that is the local system: is its `up` running?";
        }
        let _ = writeln!(io::stderr(), "error: {text}");
        ExitCode::from(2)
    })
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    ensure!(
        config.region().is_some(),
        "no AWS region: set AWS_REGION, or a profile that has one; {LOCAL}"
    );
    let journal = || journal(&config, cli.table.as_deref());
    match cli.command {
        Command::Start(args) => start::start(&config, journal, args).await,
        Command::List(args) => list::list(&config, &journal()?, &args).await,
        Command::Events(args) => show::show(&config, &journal()?, &args).await,
        Command::Explain { id, traces_url } => {
            show::explain_session(&config, &journal()?, &id, traces_url).await
        }
        Command::Page { id, traces_url } => show::page(&config, &journal()?, &id, traces_url).await,
        Command::Ui { port, traces_url, state_machine } => {
            let state_machine = self::state_machine(state_machine.as_deref())?.to_owned();
            let workflows = aws_sdk_sfn::Client::new(&config);
            ui(port, Ui { journal: journal()?, workflows, state_machine, traces_url }).await
        }
        Command::Logs(args) => logs::logs(&config, &journal()?, &args).await,
        Command::Stop(args) => stop::stop(&config, &journal()?, &args).await,
    }
}

/// Serves the pages until Ctrl-C.
async fn ui(port: u16, ui: Ui) -> Result<ExitCode> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listener.with_context(|| format!("cannot serve on 127.0.0.1:{port}"))?;
    writeln!(
        io::stdout(),
        "The sessions are at http://{}. Ctrl-C stops it.",
        listener.local_addr()?
    )?;
    let server = ui.serve(listener)?;
    let handle = server.handle();
    tokio::select! {
        ended = server => ended?,
        _ = tokio::signal::ctrl_c() => handle.stop(false).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// The end of an error about a missing setting.
const LOCAL: &str = "for the local system, run `. .local/env`, which its `up` writes";

/// The state machine's ARN, which must be given.
fn state_machine(arn: Option<&str>) -> Result<&str> {
    arn.with_context(|| {
        format!(
            "the state machine is not known: set STATE_MACHINE_ARN or give --state-machine; {LOCAL}"
        )
    })
}

/// A session's id. An execution's ARN, whose name is usually the id, and a partition key are accepted too.
fn session_id(text: &str) -> Result<SessionId, InvalidSessionId> {
    let of_arn = text.starts_with("arn:").then(|| text.rsplit(':').next()).flatten();
    of_arn.unwrap_or(text).trim_start_matches("SESSION#").parse()
}

fn journal(config: &SdkConfig, table: Option<&str>) -> Result<Journal> {
    let settings = Settings::from_env(|name| match name {
        "JOURNAL_TABLE_NAME" => table.map(str::to_owned),
        _ => None,
    });
    let settings = settings.with_context(|| {
        format!("the journal's table is not known: set JOURNAL_TABLE_NAME or give --table; {LOCAL}")
    })?;
    Ok(Journal::new(aws_sdk_dynamodb::config::Builder::from(config), settings))
}
