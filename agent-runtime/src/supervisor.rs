//! Starts tasks, each invocation once, and stops them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture,
    WrapFuture,
};
use actix_web::web::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use journal::{AppendError, SessionId, SessionJournal, Timestamp};
use lru::LruCache;
use serde_json::json;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Invocation;
use crate::agent::AnyAgent;
use crate::health::Health;
use crate::task::{Metrics, Task};
use crate::worker::Worker;

/// Answers kept for callers that send the same invocation again; the oldest is forgotten first.
const ANSWERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// What identifies an invocation: the session and the run.
type Run = (SessionId, String);

/// The answer to all callers of one invocation, while its start is under way and afterwards.
type Answer = Shared<BoxFuture<'static, Result<Bytes, StartError>>>;

pub(crate) struct Supervisor {
    agent: AnyAgent,
    agents: Handle,
    health: Health,
    tasks: TaskTracker,
    give_up: CancellationToken,
    metrics: Metrics,
    workers: HashMap<Uuid, Addr<Worker>>,
    answers: LruCache<Run, (Uuid, Answer)>,
    draining: bool,
}

/// Starts a task unless the same invocation was started before; either way the answer is that of
/// the first call, byte for byte.
pub(crate) struct Start {
    pub journal: SessionJournal,
    pub invocation: Invocation,
    /// AGENT_ENTRYPOINT_STARTED of this call.
    pub after: Timestamp,
    /// The context of this call's span.
    pub trace: opentelemetry::Context,
}

impl Message for Start {
    type Result = Result<Bytes, StartError>;
}

/// Stops every task and refuses new ones.
pub(crate) struct Drain;

impl Message for Drain {
    type Result = ();
}

/// A task's terminal event is durable, or the task was never started.
struct Ended(Uuid);

impl Message for Ended {
    type Result = ();
}

/// Why no task was started.
#[derive(Debug, Clone, Error)]
pub(crate) enum StartError {
    #[error("the container is shutting down")]
    ShuttingDown,
    #[error("the task was not started: {}", journal::display_chain(&**.0))]
    NotJournaled(Arc<AppendError>),
    #[error("the task was not started: its guard ended early")]
    Lost,
}

impl Supervisor {
    pub(crate) fn new(
        agent: AnyAgent,
        agents: Handle,
        health: Health,
        tasks: TaskTracker,
        give_up: CancellationToken,
    ) -> Self {
        let (workers, answers) = (HashMap::new(), LruCache::new(ANSWERS));
        let metrics = Metrics::new();
        Self { agent, agents, health, tasks, give_up, metrics, workers, answers, draining: false }
    }

    fn start_task(&mut self, start: Start, supervisor: &Addr<Self>) -> (Uuid, Answer) {
        let id = Uuid::new_v4();
        let session_id = start.journal.session_id().clone();
        let abort = CancellationToken::new();
        let (started, when_started) = oneshot::channel();
        let task = Task {
            journal: start.journal,
            agent: Arc::clone(&self.agent),
            agents: self.agents.clone(),
            after: start.after,
            trace: start.trace,
            metrics: self.metrics.clone(),
            abort: abort.clone(),
            give_up: self.give_up.clone(),
            busy: self.health.busy(),
        };
        let supervisor = supervisor.downgrade();
        self.tasks.spawn(async move {
            task.run(start.invocation, started).await;
            if let Some(supervisor) = supervisor.upgrade() {
                supervisor.do_send(Ended(id));
            }
        });
        self.workers.insert(id, Worker { _abort: abort.drop_guard() }.start());
        let answer = async move {
            let after = when_started
                .await
                .map_err(|_| StartError::Lost)?
                .map_err(|error| StartError::NotJournaled(Arc::new(error)))?;
            let answer = json!({
                "status": "started", "session_id": session_id, "task_id": id.to_string(), "after": after,
            });
            Ok(Bytes::from(answer.to_string()))
        };
        (id, answer.boxed().shared())
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Start> for Supervisor {
    type Result = ResponseActFuture<Self, Result<Bytes, StartError>>;

    fn handle(&mut self, start: Start, ctx: &mut Self::Context) -> Self::Result {
        if self.draining {
            return Box::pin(actix::fut::ready(Err(StartError::ShuttingDown)));
        }
        let run = (start.journal.session_id().clone(), start.journal.invocation_id().to_owned());
        let (id, answer) = match self.answers.get(&run) {
            Some(known) => known.clone(),
            None => {
                let new = self.start_task(start, &ctx.address());
                self.answers.put(run.clone(), new.clone());
                new
            }
        };
        Box::pin(answer.into_actor(self).map(move |answer, supervisor, _| {
            // A start that failed is forgotten, unless another one has taken its place.
            if answer.is_err() && supervisor.answers.peek(&run).is_some_and(|(kept, _)| *kept == id)
            {
                supervisor.answers.pop(&run);
            }
            answer
        }))
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Self::Context) {
        self.draining = true;
        self.workers.clear();
    }
}

impl Handler<Ended> for Supervisor {
    type Result = ();

    fn handle(&mut self, Ended(id): Ended, _: &mut Self::Context) {
        self.workers.remove(&id);
    }
}
