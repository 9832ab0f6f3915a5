//! Starts tasks, each invocation once, and stops them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
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

/// Invocations remembered for callers that send one again; the oldest is forgotten first.
const KNOWN: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Stands for an invocation's ids, which may be long: 128 bits that no caller can aim at.
type Run = [u64; 2];

/// A start under way, for which all callers of one invocation wait.
type Starting = Shared<BoxFuture<'static, Result<Timestamp, StartError>>>;

/// What is known of an invocation that came before. Ten thousand of them are kept, so they are small.
enum Known {
    Starting(Uuid, Starting),
    /// The task and its AGENT_BACKGROUND_TASK_STARTED.
    Started(Uuid, Timestamp),
}

pub(crate) struct Supervisor {
    agent: AnyAgent,
    agents: Handle,
    health: Health,
    tasks: TaskTracker,
    give_up: CancellationToken,
    metrics: Metrics,
    workers: HashMap<Uuid, Addr<Worker>>,
    known: LruCache<Run, Known>,
    /// What makes a [`Run`] of ids.
    keys: [RandomState; 2],
    draining: bool,
}

/// Starts a task unless the same invocation was started before; either way the answer is that of
/// the first call, byte for byte.
pub(crate) struct Start {
    /// In the trace of this call.
    pub journal: SessionJournal,
    pub invocation: Invocation,
    /// AGENT_ENTRYPOINT_STARTED of this call.
    pub after: Timestamp,
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
        Self {
            agent,
            agents,
            health,
            tasks,
            give_up,
            metrics: Metrics::new(),
            workers: HashMap::new(),
            known: LruCache::new(KNOWN),
            keys: Default::default(),
            draining: false,
        }
    }

    fn start_task(&mut self, start: Start, supervisor: &Addr<Self>) -> (Uuid, Starting) {
        let id = Uuid::new_v4();
        let abort = CancellationToken::new();
        let (started, when_started) = oneshot::channel();
        let task = Task {
            journal: start.journal,
            agent: Arc::clone(&self.agent),
            agents: self.agents.clone(),
            after: start.after,
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
        let starting = async move {
            when_started
                .await
                .map_err(|_| StartError::Lost)?
                .map_err(|error| StartError::NotJournaled(Arc::new(error)))
        };
        (id, starting.boxed().shared())
    }
}

/// The same for every caller of one invocation.
fn answer(session_id: &SessionId, task_id: Uuid, after: Timestamp) -> Bytes {
    let answer = json!({
        "status": "started", "session_id": session_id, "task_id": task_id.to_string(), "after": after,
    });
    Bytes::from(answer.to_string())
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
        let session_id = start.journal.session_id().clone();
        let ids = (&session_id, start.journal.invocation_id());
        let run: Run = self.keys.each_ref().map(|key| key.hash_one(ids));
        let (id, starting) = match self.known.get(&run) {
            Some(Known::Started(id, after)) => {
                return Box::pin(actix::fut::ready(Ok(answer(&session_id, *id, *after))));
            }
            Some(Known::Starting(id, starting)) => (*id, starting.clone()),
            None => {
                let (id, starting) = self.start_task(start, &ctx.address());
                self.known.put(run, Known::Starting(id, starting.clone()));
                (id, starting)
            }
        };
        Box::pin(starting.into_actor(self).map(move |started, supervisor, _| {
            // A start that failed is forgotten, unless another one has taken its place.
            let known = supervisor.known.peek_mut(&run);
            let this =
                |known: &&mut Known| matches!(known, Known::Starting(this, _) if *this == id);
            if let Some(known) = known.filter(this) {
                if let Ok(after) = started {
                    *known = Known::Started(id, after);
                } else {
                    supervisor.known.pop(&run);
                }
            }
            started.map(|after| answer(&session_id, id, after))
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
