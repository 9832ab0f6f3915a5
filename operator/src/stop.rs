use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use aws_config::SdkConfig;
use aws_sdk_bedrockagentcore::operation::stop_runtime_session::StopRuntimeSessionError as StopError;
use clap::Args;
use journal::{Ending, Event, Journal, Mark, SdkFault, SessionId, SignKind, Source, Status};
use operator::explain;
use operator::history::{Run, runs};
use operator::timeline::{escape, failure};
use tokio::time::{Instant, sleep};

use crate::access::Access;
use crate::show::read;

/// How long to wait for a sign of life that answers the stop.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// How long to wait for the end of a task whose container lives.
const END_DEADLINE: Duration = Duration::from_secs(180);

#[derive(Args)]
pub struct StopArgs {
    /// The session's id
    #[arg(value_parser = crate::session_id)]
    id: SessionId,
    /// Why: the ErrorMessage of the task's end
    #[arg(long, default_value = "an operator stopped the task")]
    reason: String,
    /// Have AgentCore stop the session's container at once. The task's end may be missing in the journal
    #[arg(long, conflicts_with = "reason")]
    now: bool,
    /// The AgentCore runtime's ARN, to stop a container that does not answer
    #[arg(long, value_name = "ARN", env = "AGENT_RUNTIME_ARN", hide_env_values = true)]
    runtime: Option<String>,
}

/// Ends the newest running task of a session.
pub async fn stop(access: &Access, args: &StopArgs) -> Result<ExitCode> {
    let (journal, mut out) = (access.journal()?, anstream::stdout());
    let events = read(&journal, &args.id).await?;
    if args.now {
        return stop_container(&access.config, args).await;
    }
    let runs = runs(&events);
    let Some(run) = runs.iter().rfind(|run| works(run)) else {
        let explained = explain(&runs, SystemTime::now().into(), access.traces_url());
        writeln!(out, "There is no task to stop. {explained}")?;
        let (hint, code) = match runs.last().map(|run| run.ending) {
            Some(Ending::Completed(_)) => return Ok(ExitCode::SUCCESS),
            Some(Ending::Failed(_)) => ("To stop its container if that still lives, use --now.", 0),
            _ => ("If it has only just begun, try again in some seconds.", 3),
        };
        writeln!(out, "{hint}")?;
        return Ok(code.into());
    };
    let (task, mut slot) = newest_task(&journal, &args.id, run).await?.context(
        "the task gives no signs of life (an older image, or HEARTBEAT_SECONDS=0), so it cannot be \
         asked to end; stop its container with --now",
    )?;
    let session = journal.session(args.id.clone(), run.invocation_id, Source::Operator);
    let mut signs = session.signs(&task.timestamp, slot);
    while signs.take(Mark::Stop(&args.reason)).await.context("the stop was not written")?.is_some()
    {
        slot += 1;
    }
    writeln!(out, "Asking the container to end the task. This takes up to 30 s.")?;
    let (asked, ended, mut answered) = (Instant::now(), ends(run).len(), false);
    loop {
        sleep(Duration::from_secs(1)).await;
        // A failed read is repeated, but not forever.
        let events = match journal.events(&args.id).await {
            Err(_) if asked.elapsed() <= END_DEADLINE => continue,
            events => events.context("the stop was written; its outcome is not known")?,
        };
        let now = operator::history::runs(&events);
        let own = now.iter().find(|other| other.invocation_id == run.invocation_id);
        if let Some(event) = own.and_then(|own| ends(own).get(ended).copied()) {
            let why = failure(event).map(|why| format!(" {why}")).unwrap_or_default();
            writeln!(out, "The task has ended: {}{why}", event.status)?;
            if now.iter().any(works) {
                writeln!(out, "Another task of the session works. To end it, stop again.")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(signs) = journal.signs(&args.id, &task.timestamp).await {
            answered |= signs.iter().any(|sign| sign.kind == SignKind::Beat && sign.slot > slot);
        }
        if answered && asked.elapsed() > END_DEADLINE {
            let text = "The container lives and was asked, but its task has not ended.";
            writeln!(out, "{text} To stop the container, use --now.")?;
            return Ok(3.into());
        }
        if !answered && asked.elapsed() > ANSWER_DEADLINE {
            writeln!(out, "The container has given no sign of life for 60 s.")?;
            ensure!(
                now.last().is_some_and(|last| last.invocation_id == run.invocation_id),
                "the session has a newer run, whose container may still work. To stop that container, use --now"
            );
            return stop_container(&access.config, args).await;
        }
    }
}

/// Whether the run has a task without an end, and is not given up.
fn works(run: &Run) -> bool {
    let is_task = |event: &&Event| event.status == Status::AgentBackgroundTaskStarted;
    run.open.iter().any(is_task) && !run.has(&Status::SessionFailed)
}

/// The ends of the run's tasks.
fn ends<'a>(run: &Run<'a>) -> Vec<&'a Event> {
    let ends = [Status::AgentBackgroundTaskCompleted, Status::AgentBackgroundTaskFailed];
    run.entries.iter().map(|entry| entry.event).filter(|it| ends.contains(&it.status)).collect()
}

/// Of the run's tasks, the start of the one whose last sign of life is the newest, and its next free
/// slot: a container that was replaced leaves a task without an end. `None` if none gives signs.
async fn newest_task<'a>(
    journal: &Journal,
    id: &SessionId,
    run: &Run<'a>,
) -> Result<Option<(&'a Event, u32)>> {
    let mut tasks = Vec::new();
    let events = run.entries.iter().map(|entry| entry.event);
    for task in events.filter(|event| event.heartbeat_seconds.is_some()) {
        let signs = journal.signs(id, &task.timestamp).await?;
        let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
        let last = beat.and_then(|beat| beat.timestamp).or(task.timestamp.parse().ok());
        tasks.push((last, task, signs.first().map_or(0, |sign| sign.slot + 1)));
    }
    Ok(tasks.into_iter().max_by_key(|(last, ..)| *last).map(|(_, task, slot)| (task, slot)))
}

/// Has AgentCore stop the session's container.
async fn stop_container(config: &SdkConfig, args: &StopArgs) -> Result<ExitCode> {
    let runtime = args.runtime.as_ref().context(
        "the AgentCore runtime's ARN is missing: set --runtime or AGENT_RUNTIME_ARN (output AgentRuntimeArn of the stack)",
    )?;
    let stop = aws_sdk_bedrockagentcore::Client::new(config).stop_runtime_session();
    let stop = stop.agent_runtime_arn(runtime).runtime_session_id(args.id.as_str());
    let is_gone = StopError::is_resource_not_found_exception;
    let said = match stop.send().await {
        Err(error) if error.as_service_error().is_some_and(is_gone) => {
            let fault = escape(&SdkFault::new(&error).to_string());
            format!("AgentCore has no container of the session any more ({fault}).")
        }
        answer => {
            let answer = answer.map_err(|error| SdkFault::new(&error));
            answer.context("AgentCore did not stop the session's container")?;
            "AgentCore has stopped the session's container. If an execution waits for it, that ends by itself, within four minutes by default.".to_owned()
        }
    };
    writeln!(anstream::stdout(), "{said}")?;
    Ok(ExitCode::SUCCESS)
}
