use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_config::SdkConfig;
use clap::Args;
use journal::{
    Ending, Event, Journal, Mark, SdkFault, SessionId, SignKind, Source, Status, Timestamp,
};
use operator::history::{Run, newest, runs};
use operator::timeline::{escape, failure};
use tokio::time::{Instant, sleep};

use crate::show::read;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

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
    #[arg(long)]
    now: bool,
    /// The AgentCore runtime's ARN, to stop a container that does not answer
    #[arg(long, value_name = "ARN", env = "AGENT_RUNTIME_ARN", hide_env_values = true, value_parser = runtime_arn)]
    runtime: Option<String>,
}

fn runtime_arn(arn: &str) -> Result<String, &'static str> {
    let valid = arn.starts_with("arn:") && arn.contains(":bedrock-agentcore:");
    valid
        .then(|| arn.to_owned())
        .ok_or("it must be arn:PARTITION:bedrock-agentcore:REGION:ACCOUNT:runtime/ID")
}

/// Ends the newest running task of a session.
pub async fn stop(config: &SdkConfig, journal: &Journal, args: &StopArgs) -> Result<ExitCode> {
    let mut out = anstream::stdout();
    let events = read(journal, &args.id).await?;
    if args.now {
        return stop_container(config, args).await;
    }
    let runs = runs(&events);
    let Some(run) = runs.iter().rfind(|run| works(run)) else {
        let (text, code) = nothing_to_stop(&runs);
        writeln!(out, "{text}")?;
        return Ok(code.into());
    };
    let Some((task, mut slot)) = newest_task(journal, &args.id, run).await? else {
        bail!(
            "the task gives no signs of life (an older image, or HEARTBEAT_SECONDS=0), so it cannot \
             be asked to end; stop its container with --now"
        );
    };
    let session = journal.session(args.id.clone(), run.invocation_id, Source::Operator);
    let mut signs = session.signs(&task.timestamp, slot);
    while signs.take(Mark::Stop(&args.reason)).await.context("the stop was not written")?.is_some()
    {
        slot += 1;
    }
    writeln!(out, "Asking the container to end the task. This takes up to 30 s.")?;
    let (asked, ends, mut answered) = (Instant::now(), ends(run), false);
    loop {
        sleep(POLL_INTERVAL).await;
        // A failed read is repeated, but not forever.
        let events = match journal.events(&args.id).await {
            Ok(events) => events,
            Err(_) if asked.elapsed() <= END_DEADLINE => continue,
            Err(error) => {
                return Err(error).context("the stop was written; its outcome is not known");
            }
        };
        let now = operator::history::runs(&events);
        let own = now.iter().find(|other| other.invocation_id == run.invocation_id);
        if let Some(event) = own.filter(|own| self::ends(own) > ends).and_then(end) {
            writeln!(out, "The task has ended: {}", said(event))?;
            if let Some(other) = now.iter().rfind(|other| works(other)) {
                let which = escape(other.invocation_id);
                writeln!(
                    out,
                    "Another task of the session still works (run {which}). Stop again to end it."
                )?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(signs) = journal.signs(&args.id, &task.timestamp).await {
            answered |= signs.iter().any(|sign| sign.kind == SignKind::Beat && sign.slot > slot);
        }
        if !answered && asked.elapsed() > ANSWER_DEADLINE {
            writeln!(out, "The container has given no sign of life for 60 s.")?;
            ensure!(
                now.last().is_some_and(|last| last.invocation_id == run.invocation_id),
                "the session has a newer run, whose container may still work. To stop that container, use --now"
            );
            return stop_container(config, args).await;
        }
        if asked.elapsed() > END_DEADLINE {
            writeln!(
                out,
                "The container lives and was asked, but its task has not ended. To stop the container, use --now."
            )?;
            return Ok(3.into());
        }
    }
}

/// Whether the run has a task without an end, and is not given up.
fn works(run: &Run) -> bool {
    starts(run).count() > ends(run) && !run.has(&Status::SessionFailed)
}

fn starts<'r, 'a>(run: &'r Run<'a>) -> impl Iterator<Item = &'a Event> + use<'r, 'a> {
    let events = run.entries.iter().map(|entry| entry.event);
    events.filter(|event| event.status == Status::AgentBackgroundTaskStarted)
}

/// Why there is nothing to stop, and the exit code that says so.
fn nothing_to_stop(runs: &[Run]) -> (String, u8) {
    let Some(run) = newest(runs) else { return ("The session has no run.".to_owned(), 3) };
    match (run.ending, end(run)) {
        (Ending::Failed(last), None) => {
            let lost = match starts(run).next() {
                Some(_) => {
                    " If its container lives, it ends its agent when it can reach the table. To stop it at once, use --now."
                }
                None => "",
            };
            (format!("The session has ended already: {}.{lost}", said(last)), 0)
        }
        (_, Some(end)) => (format!("The task has ended already: {}", said(end)), 0),
        (_, None) => {
            let text = "No task of the session has started yet. Try again in some seconds.";
            (text.to_owned(), 3)
        }
    }
}

/// Of the run's tasks, the start of the one whose last sign of life is the newest, and its next free
/// slot: a container that was replaced leaves a task without an end. `None` if none gives signs.
async fn newest_task<'a>(
    journal: &Journal,
    id: &SessionId,
    run: &Run<'a>,
) -> Result<Option<(&'a Event, u32)>> {
    let mut newest: Option<(Option<Timestamp>, &Event, u32)> = None;
    for task in starts(run).filter(|task| task.heartbeat_seconds.is_some()) {
        let signs = journal.signs(id, &task.timestamp).await?;
        let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
        let last = beat.and_then(|beat| beat.timestamp).or(task.timestamp.parse().ok());
        let slot = signs.first().map_or(0, |sign| sign.slot + 1);
        if newest.as_ref().is_none_or(|(newest, ..)| last >= *newest) {
            newest = Some((last, task, slot));
        }
    }
    Ok(newest.map(|(_, task, slot)| (task, slot)))
}

/// How many tasks of the run have ended.
fn ends(run: &Run) -> usize {
    run.entries.iter().filter(|entry| is_end(&entry.event.status)).count()
}

fn is_end(status: &Status) -> bool {
    matches!(status, Status::AgentBackgroundTaskCompleted | Status::AgentBackgroundTaskFailed)
}

/// The newest end of a task of the run.
fn end<'a>(run: &Run<'a>) -> Option<&'a Event> {
    run.entries.iter().rfind(|entry| is_end(&entry.event.status)).map(|entry| entry.event)
}

fn said(event: &Event) -> String {
    let status = escape(event.status.as_str());
    failure(event).map_or(status.clone(), |failure| format!("{status} {failure}"))
}

/// Has AgentCore stop the session's container.
async fn stop_container(config: &SdkConfig, args: &StopArgs) -> Result<ExitCode> {
    let runtime = args.runtime.as_ref().context(
        "the AgentCore runtime's ARN is missing: set --runtime or AGENT_RUNTIME_ARN (output AgentRuntimeArn of the stack)",
    )?;
    let client = aws_sdk_bedrockagentcore::Client::new(config);
    let stopped = client
        .stop_runtime_session()
        .agent_runtime_arn(runtime)
        .runtime_session_id(args.id.as_str())
        .send()
        .await;
    if let Err(error) = stopped {
        let fault = SdkFault::new(&error);
        if error.as_service_error().is_some_and(|it| it.is_resource_not_found_exception()) {
            let text = "AgentCore has no container of the session any more";
            writeln!(anstream::stdout(), "{text} ({}).", escape(&fault.to_string()))?;
            return Ok(ExitCode::SUCCESS);
        }
        return Err(fault).context("AgentCore did not stop the session's container");
    }
    writeln!(
        anstream::stdout(),
        "AgentCore has stopped the session's container. If an execution waits for it, that ends by itself, within four minutes by default."
    )?;
    Ok(ExitCode::SUCCESS)
}
