//! Runs one session, and shows its journal and its trace.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use journal::SessionId;
use journal::text::headline;
use local::asl::{Execution, ExecutionEnd};
use local::collector::Collector;
use local::options::Options;
use local::system::System;
use operator::history::runs;
use operator::{Printer, View, timeline};
use serde_json::json;
use testing::TABLE_NAME;
use uuid::Uuid;

use crate::cli::{SessionArgs, Stop, as_installed, options};

/// How often the journal is read while a session is shown.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

const TRY_NEXT: &str = "Try next:
  cargo run -- /does/not/exist    a session that fails
  cargo run -- --agent-command 'tr a-z A-Z'    an agent of your own
  cargo run -- up    the system for curl, the AWS CLI and agent-journal";

/// Runs one session, shows its journal and its trace.
pub async fn one_session(args: SessionArgs) -> Result<ExitCode> {
    // The bundled agent counts the lines below a path.
    if let ([word], true) = (args.prompt.as_slice(), args.agent.is_bundled()) {
        ensure!(
            word.contains('/') || Path::new(word).exists(),
            "there is no path {word:?}, and no command of this name. The command is `up`"
        );
    }
    let mut stop = Stop::new()?;
    let collector = Collector::start(0)?;
    let otlp = Some(collector.endpoint());
    let system = System::start(&Options { otlp, ..options(args.agent)? }).await?;
    let name = Uuid::new_v4().to_string();
    let session_id: SessionId = name.parse()?;
    let execution = Execution::new(&name, json!({ "prompt": args.prompt.join(" ") }));
    let code = tokio::select! {
        code = show(&system, &session_id, &execution) => code,
        () = stop.requested() => {
            eprintln!("\nStopped. The journal in .local/journal.db says how far the session came.");
            Ok(ExitCode::from(130))
        }
    };
    // The processes send their last spans when they end.
    system.stop().await;
    let mut out = io::stdout();
    for (trace_id, spans) in collector.traces() {
        write!(out, "\n{}", local::trace::tree(&trace_id, &spans))?;
    }
    if code.is_ok() {
        writeln!(out, "\n{}", as_installed(TRY_NEXT))?;
    }
    code
}

/// Runs an execution, and prints its events as they arrive and how it ended.
async fn show(system: &System, session_id: &SessionId, execution: &Execution) -> Result<ExitCode> {
    let mut out = io::stdout();
    let endpoint = system.table.endpoint();
    writeln!(out, "session  {session_id}")?;
    writeln!(out, "table    {TABLE_NAME} at {endpoint}, kept in .local/journal.db\n")?;
    let journal = system.journal();
    let mut printer = Printer::new(View { all: true, ..View::default() }, None);
    let run = system.run(execution);
    tokio::pin!(run);
    let end = loop {
        tokio::select! {
            end = &mut run => break end,
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
        printer.print(&runs(&journal.events(session_id).await?), &execution.id)?;
    };
    let events = journal.events(session_id).await?;
    printer.print(&runs(&events), &execution.id)?;
    match &end {
        ExecutionEnd::Succeeded(result) => {
            writeln!(out, "\nThe session completed. Result:")?;
            for line in format!("{result:#}").lines() {
                writeln!(out, "{}", timeline::escape(line))?;
            }
            if events.iter().any(|event| event.result_truncated) {
                writeln!(out, "(cut: the journal keeps the first 64 KB)")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ExecutionEnd::Failed { error, cause } => {
            let failure = timeline::escape(&headline(error, cause));
            writeln!(out, "\nThe session failed. {failure}")?;
            for line in cause.lines().skip(1) {
                writeln!(out, "  {}", timeline::escape(line))?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
