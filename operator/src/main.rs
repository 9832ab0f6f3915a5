//! `agent-journal`: starts and stops sessions, shows their journal, and says what happened to them.

mod access;
mod follow;
mod list;
mod logs;
mod show;
mod start;
mod stop;

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use journal::{InvalidSessionId, SessionId, display_chain};
use operator::ui::Ui;

use access::{Access, Targets};

/// Start and stop sessions, show their journal, and say what happened to them
///
/// Region, credentials and endpoints are those of the AWS SDKs (AWS_PROFILE, AWS_REGION, …). The
/// exit code is 0 if the session completed (for stop: if its task has ended or its container is gone), 1
/// if it failed, 2 on a usage or access error, 3 if it still runs, nobody watches it, or its end is not
/// known any more, 4 if its history is broken.
#[derive(Parser)]
#[command(name = "agent-journal", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    targets: Targets,
}

#[derive(Subcommand)]
enum Command {
    /// Start a session and print its id
    Start(start::StartArgs),
    /// List sessions: how each stands, where it stopped and why
    List(list::ListArgs),
    /// Show the journal of a session
    Events(show::EventsArgs),
    /// Print a session as one self-contained HTML page: page ID > session.html
    Page(SessionArg),
    /// Serve the list of sessions and their pages to a browser on this machine
    Ui {
        /// The port of 127.0.0.1; 0 takes a free one
        #[arg(long, default_value_t = 8085)]
        port: u16,
    },
    /// Show what the container and the invoker logged for a session
    Logs(logs::LogsArgs),
    /// End the running task of a session; the journal keeps the reason
    Stop(stop::StopArgs),
    /// Say in plain words what happened to a session, and where it stopped
    Explain(SessionArg),
}

#[derive(clap::Args)]
struct SessionArg {
    /// The session's id
    #[arg(value_parser = session_id)]
    id: SessionId,
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

async fn run(Cli { command, targets }: Cli) -> Result<ExitCode> {
    let access = Access::new(targets).await?;
    match command {
        Command::Start(args) => start::start(&access, args).await,
        Command::List(args) => list::list(&access, &args).await,
        Command::Events(args) => show::events(&access, &args).await,
        Command::Explain(session) => show::explained(&access, &session.id).await,
        Command::Page(session) => show::page(&access, &session.id).await,
        Command::Ui { port } => ui(&access, port).await,
        Command::Logs(args) => logs::logs(&access, &args).await,
        Command::Stop(args) => stop::stop(&access, &args).await,
    }
}

/// Serves the pages until Ctrl-C.
async fn ui(access: &Access, port: u16) -> Result<ExitCode> {
    let ui = Ui {
        state_machine: access.state_machine()?.to_owned(),
        sources: access.sources()?,
        traces_url: access.traces_url().map(str::to_owned),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listener.with_context(|| format!("cannot use port {port}; try --port 0"))?;
    let address = listener.local_addr()?;
    writeln!(io::stdout(), "The sessions are at http://{address}. Ctrl-C stops it.")?;
    tokio::select! {
        ended = ui.serve(listener)? => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// A session's id. An execution's ARN, whose name is usually the id, and a partition key are accepted too.
fn session_id(text: &str) -> Result<SessionId, InvalidSessionId> {
    let of_arn = text.starts_with("arn:").then(|| text.rsplit(':').next()).flatten();
    of_arn.unwrap_or(text).trim_start_matches("SESSION#").parse()
}
