//! The plain tokio task that guards an agent and writes its one terminal event, even if the agent
//! panics or blocks. It belongs to no actor, because actix drops an actor and all that it runs when
//! a handler panics.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::web::Bytes;
use journal::{
    AppendError, AppendErrorKind, Draft, SessionJournal, Timestamp, display_chain, session_span,
};
use opentelemetry::KeyValue;
use opentelemetry::context::FutureExt;
use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::TraceContextExt;
use telemetry::TraceParent;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::health::Busy;
use crate::heartbeat::beat;
use crate::host::Host;
use crate::outcome::{
    Outcome, lifetime_spent, not_joined, not_started, terminal_event, terminated, timed_out,
};
use crate::{Agent, AgentError, Input, Invocation, Limits, TaskContext};

/// How long to try AGENT_BACKGROUND_TASK_STARTED before the agent is given up.
const STARTED_DEADLINE: Duration = Duration::from_secs(10);

/// How long an aborted agent may take to drop what it owns. One that blocks its thread takes longer;
/// its terminal event does not wait for it.
const ABORT_GRACE: Duration = Duration::from_millis(500);

/// How long before the end of the container's lifetime a task ends.
const LAST_CALL: Duration = Duration::from_secs(180);

pub(crate) struct Task {
    /// In the trace of the request, and from [`Task::run`] on in the task's.
    pub journal: SessionJournal,
    pub host: Host,
    /// AGENT_ENTRYPOINT_STARTED, the cause of this task.
    pub after: Timestamp,
    /// End the agent: cancelled when the container stops, and by the worker actor's drop.
    pub abort: CancellationToken,
    pub busy: Busy,
}

/// Runs one task as the container does, without the container around it, on the current runtime.
/// This is for simulations, in which time is not real. Returns when the task has ended.
///
/// # Errors
/// If it was not started.
#[doc(hidden)]
pub async fn run_task(
    journal: SessionJournal,
    agent: impl Agent,
    after: Timestamp,
    limits: Limits,
) -> Result<Timestamp, AppendError> {
    let invocation = Invocation {
        session_id: journal.session_id().clone(),
        invocation_id: journal.invocation_id().to_owned(),
        input: Input(Bytes::from_static(b"{}")),
        environment: BTreeMap::new(),
        headers: BTreeMap::new(),
        context: TaskContext::default(),
    };
    let host = Host::new(agent, Handle::current(), limits);
    let (abort, busy) = (host.draining.child_token(), host.health.busy());
    let (started, when_started) = oneshot::channel();
    Task { host, journal, after, abort, busy }.run(invocation, started).await;
    // Sent before the task went on.
    when_started.await.unwrap_or(Ok(after))
}

impl Task {
    /// Runs the agent from its first event to its last, and tells `started` whether it was started.
    pub(crate) async fn run(
        mut self,
        invocation: Invocation,
        started: oneshot::Sender<Result<Timestamp, AppendError>>,
    ) {
        let trace = self.journal.trace().with_span(self.span());
        let logs = telemetry::log_span(&invocation.session_id, &invocation.invocation_id, &trace);
        self.journal = self.journal.in_trace(trace);
        self.run_in_span(invocation, started).instrument(logs).await;
    }

    /// The task's span: <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/>.
    fn span(&self) -> BoxedSpan {
        let (session_id, run) = (self.journal.session_id(), self.journal.invocation_id());
        let agent = [
            KeyValue::new("gen_ai.operation.name", "invoke_agent"),
            KeyValue::new("gen_ai.conversation.id", session_id.to_string()),
        ];
        session_span("invoke_agent", agent, session_id, run)
            .start_with_context(&global::tracer("agent-runtime"), self.journal.trace())
    }

    async fn run_in_span(
        self,
        mut invocation: Invocation,
        started: oneshot::Sender<Result<Timestamp, AppendError>>,
    ) {
        let span = self.journal.trace().span();
        if let Some(parent) = TraceParent::of(self.journal.trace()) {
            let environment = &mut invocation.environment;
            environment.insert("TRACEPARENT".to_owned(), parent.to_string());
            if !parent.state().is_empty() {
                environment.insert("TRACESTATE".to_owned(), parent.state());
            }
        }
        let draft = Draft::task_started(self.host.limits.heartbeat);
        let durable = self.journal.append(draft, Some(self.after), STARTED_DEADLINE).await;
        let started_at = durable.as_ref().ok().copied();
        let mut unknown = false;
        if let Err(error) = &durable {
            telemetry::record_error(&span, "JournalError", &display_chain(error));
            unknown = error.kind == AppendErrorKind::Unknown;
        }
        // The caller may have gone away; the task still runs.
        let _ = started.send(durable);
        if let Some(started_at) = started_at {
            let progress = invocation.context.progress.clone();
            progress.open(self.journal.clone());
            let (order, ordered) = oneshot::channel();
            let work = async {
                let context = invocation.context.clone();
                let mut agent = self.start_agent(invocation);
                let outcome = self.outcome(&mut agent, &context, ordered).await;
                let ended = self.end_agent(agent, &context);
                let journaled = async {
                    progress.close().await;
                    if let Err(error) = &outcome {
                        telemetry::record_error(&span, &error.error_type, &error.message);
                    }
                    self.end(&outcome, context.long_result.get()).await;
                };
                tokio::pin!(ended);
                tokio::select! {
                    biased;
                    // The process has to end, so the event does not wait for the agent.
                    () = self.abort.cancelled() => { tokio::join!(ended, journaled); }
                    () = &mut ended => journaled.await,
                }
            };
            let signs = self.journal.signs(&started_at.to_string(), 0);
            tokio::select! {
                () = work => {}
                () = beat(signs, self.host.limits.heartbeat, &progress, order) => {}
            }
        } else if unknown {
            // If the start is in the journal, so is its end.
            self.end(&Err(not_started()), None).await;
        }
        span.end();
        drop(self.busy);
    }

    fn start_agent(&self, invocation: Invocation) -> JoinHandle<Outcome> {
        let agent = (self.host.agent.run)(invocation);
        let agent = agent.with_context(self.journal.trace().clone()).in_current_span();
        self.host.agents.spawn(agent)
    }

    /// How the agent ended by itself, or why it has to end.
    async fn outcome(
        &self,
        agent: &mut JoinHandle<Outcome>,
        context: &TaskContext,
        ordered: oneshot::Receiver<AgentError>,
    ) -> Outcome {
        let work = async {
            let outcome = agent.await.map_err(not_joined)??;
            context.join_children().await.map_err(not_joined)?;
            Ok(outcome)
        };
        let Limits { task_timeout, max_lifetime, .. } = self.host.limits;
        let at = |start: Instant, limit: Option<Duration>| async move {
            match limit {
                Some(limit) => tokio::time::sleep_until(start + limit).await,
                None => std::future::pending().await,
            }
        };
        // A task that starts later may still come to its end before the container does.
        let last_call = max_lifetime.map(|lifetime| lifetime.saturating_sub(LAST_CALL));
        let last_call = last_call.filter(|age| *age > self.host.started.elapsed());
        let order = tokio::select! {
            biased;
            outcome = work => return outcome,
            () = self.abort.cancelled() => terminated(),
            Ok(order) = ordered => order,
            () = at(Instant::now(), task_timeout) => timed_out(task_timeout.unwrap_or_default()),
            () = at(self.host.started, last_call) => {
                lifetime_spent(max_lifetime.unwrap_or_default())
            }
        };
        tracing::warn!(error_type = order.error_type, "the task is ended: {}", order.message);
        Err(order)
    }

    /// Ends an agent that still runs: tells it, and drops it after its grace.
    async fn end_agent(&self, mut agent: JoinHandle<Outcome>, context: &TaskContext) {
        context.ending.cancel();
        let grace = self.host.agent.grace;
        if !agent.is_finished()
            && (grace.is_zero() || tokio::time::timeout(grace, &mut agent).await.is_err())
        {
            agent.abort();
        }
        drop(context.take_children());
        if !agent.is_finished() && tokio::time::timeout(ABORT_GRACE, agent).await.is_err() {
            tracing::warn!("the agent does not stop; its thread stays blocked");
        }
    }

    /// Writes the terminal event; as the last resort it is one JSON line of the log.
    async fn end(&self, outcome: &Outcome, long_result: Option<&(String, usize)>) {
        let draft = terminal_event(outcome, long_result);
        if let Err(error) = self.journal.append_terminal(draft, self.host.give_up.cancelled()).await
        {
            let event = serde_json::to_string(&error.event).unwrap_or_default();
            let error = display_chain(&error);
            tracing::error!(event, "the terminal event is not in the journal: {error}");
        }
    }
}
