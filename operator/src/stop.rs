use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_config::SdkConfig;
use clap::Args;
use journal::{Event, Journal, Mark, SdkFault, SessionId, SignKind, Source, Status};
use operator::history::{Run, newest, runs};
use operator::timeline::{escape, failure};
use tokio::time::{Instant, sleep};

use crate::show::read;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a sign of life is waited for that answers the stop.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// How long the end of a task is waited for whose container lives.
const END_DEADLINE: Duration = Duration::from_secs(180);

#[derive(Args)]
pub struct StopArgs {
    /// The session's id
    id: SessionId,
    /// Why: the ErrorMessage of the task's end
    #[arg(long, default_value = "an operator stopped the task")]
    reason: String,
    /// Stop the container at once, without a word to the agent; it may write no event any more
    #[arg(long)]
    now: bool,
    /// The AgentCore runtime's ARN, to stop a container that does not answer
    #[arg(long, value_name = "ARN", env = "AGENT_RUNTIME_ARN", hide_env_values = true)]
    runtime: Option<String>,
}

/// Ends the newest running task of a session.
pub async fn stop(config: &SdkConfig, journal: &Journal, args: &StopArgs) -> Result<ExitCode> {
    let mut out = anstream::stdout();
    let events = read(journal, &args.id).await?;
    let runs = runs(&events);
    let running = runs.iter().rev().find_map(|run| Some((run.invocation_id, running(run)?)));
    let Some((run, task)) = running else {
        let ended = newest(&runs).and_then(end);
        let Some(event) = ended else {
            writeln!(out, "No task of the session has started yet, so there is nothing to stop.")?;
            return Ok(3.into());
        };
        writeln!(out, "The task has ended already: {}", said(event))?;
        return Ok(ExitCode::SUCCESS);
    };
    if args.now {
        return stop_container(config, args).await;
    }
    let newest = journal.signs(&args.id, &task.timestamp).await?;
    let first = newest.first().map_or(0, |sign| sign.slot + 1);
    let session = journal.session(args.id.clone(), run, Source::Operator);
    let mut signs = session.signs(&task.timestamp, first);
    let mut slot = first;
    while signs.take(Mark::Stop(&args.reason)).await.context("the stop was not written")?.is_some()
    {
        slot += 1;
    }
    writeln!(out, "The container is asked to end the task; that takes up to 30 s.")?;
    let asked = Instant::now();
    let mut answered = false;
    loop {
        sleep(POLL_INTERVAL).await;
        let events = journal.events(&args.id).await?;
        let runs = operator::history::runs(&events);
        let own = runs.iter().find(|other| other.invocation_id == run);
        if let Some(event) = own.and_then(end) {
            writeln!(out, "The task has ended: {}", said(event))?;
            return Ok(ExitCode::SUCCESS);
        }
        let signs = journal.signs(&args.id, &task.timestamp).await?;
        answered |= signs.iter().any(|sign| sign.kind == SignKind::Beat && sign.slot > slot);
        if !answered && asked.elapsed() > ANSWER_DEADLINE {
            writeln!(out, "The container has given no sign of life for 60 s.")?;
            return stop_container(config, args).await;
        }
        if asked.elapsed() > END_DEADLINE {
            writeln!(
                out,
                "The container lives and was told, but its task has not ended. To stop the container: --now"
            )?;
            return Ok(3.into());
        }
    }
}

/// The start of the run's newest task, if that has no end.
fn running<'a>(run: &Run<'a>) -> Option<&'a Event> {
    let started = Status::AgentBackgroundTaskStarted;
    run.open.iter().rfind(|event| event.status == started && end(run).is_none()).copied()
}

/// The end of the run's task.
fn end<'a>(run: &Run<'a>) -> Option<&'a Event> {
    let ends = [Status::AgentBackgroundTaskCompleted, Status::AgentBackgroundTaskFailed];
    let mut ends = ends.iter().filter_map(|status| run.find(status));
    ends.next().map(|entry| entry.event)
}

fn said(event: &Event) -> String {
    let status = escape(event.status.as_str());
    failure(event).map_or(status.clone(), |failure| format!("{status} {failure}"))
}

/// Has AgentCore stop the session's container.
async fn stop_container(config: &SdkConfig, args: &StopArgs) -> Result<ExitCode> {
    let runtime = args.runtime.as_ref().context(
        "which AgentCore runtime has the session: give --runtime (output AgentRuntimeArn of the stack)",
    )?;
    let client = aws_sdk_bedrockagentcore::Client::new(config);
    let stopped = client
        .stop_runtime_session()
        .agent_runtime_arn(runtime)
        .runtime_session_id(args.id.as_str())
        .send()
        .await;
    stopped
        .map_err(|error| SdkFault::new(&error))
        .context("AgentCore did not stop the session's container")?;
    writeln!(
        anstream::stdout(),
        "AgentCore has stopped the session's container. The execution ends by itself within four minutes."
    )?;
    Ok(ExitCode::SUCCESS)
}
