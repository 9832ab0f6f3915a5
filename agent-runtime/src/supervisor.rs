//! Starts tasks, each invocation once.

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
use journal::{AppendError, AppendErrorKind, SessionId, SessionJournal, Timestamp};
use lru::LruCache;
use serde_json::json;
use thiserror::Error;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::Invocation;
use crate::host::Host;
use crate::task::Task;
use crate::worker::Worker;

/// Ended tasks to remember for callers that send their invocation again, up to 700 bytes each. The
/// oldest is forgotten first.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// What identifies an invocation when a caller sends it again: its session, and the run of that.
type InvocationKey = (SessionId, String);

/// A task's id and its AGENT_BACKGROUND_TASK_STARTED.
type Started = (Uuid, Timestamp);

/// A start in progress. All callers of one invocation wait for it.
type Starting = Shared<BoxFuture<'static, Result<Started, StartError>>>;

pub(crate) struct Supervisor {
    host: Host,
    /// The tasks whose terminal event is not durable, each with the actor that stands for it.
    running: HashMap<InvocationKey, (Starting, Addr<Worker>)>,
    ended: LruCache<InvocationKey, Result<Started, StartError>>,
}

/// Starts a task unless the same invocation was started before. The answer is always that of the
/// first call, byte for byte.
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

/// A task's terminal event is durable or given up, or the task was not started.
struct Ended(InvocationKey);

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
    pub(crate) fn new(host: Host) -> Self {
        Self { host, running: HashMap::new(), ended: LruCache::new(REMEMBERED) }
    }

    fn start_task(
        &mut self,
        start: Start,
        key: InvocationKey,
        supervisor: &Addr<Self>,
    ) -> Starting {
        let id = Uuid::new_v4();
        let abort = self.host.draining.child_token();
        let (started, when_started) = oneshot::channel();
        let task = Task {
            journal: start.journal,
            host: self.host.clone(),
            after: start.after,
            abort: abort.clone(),
            busy: self.host.health.busy(),
        };
        let (supervisor, ended) = (supervisor.downgrade(), key.clone());
        self.host.tasks.spawn(async move {
            task.run(start.invocation, started).await;
            if let Some(supervisor) = supervisor.upgrade() {
                supervisor.do_send(Ended(ended));
            }
        });
        let starting = async move {
            match when_started.await {
                Ok(Ok(at)) => Ok((id, at)),
                Ok(Err(error)) => Err(StartError::NotJournaled(Arc::new(error))),
                Err(_) => Err(StartError::Lost),
            }
        };
        let starting = starting.boxed().shared();
        let worker = Worker { _abort: abort.drop_guard() }.start();
        self.running.insert(key, (starting.clone(), worker));
        starting
    }
}

/// The same for every caller of one invocation.
fn answer(session_id: &SessionId, (task_id, after): Started) -> Bytes {
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
        let session_id = start.journal.session_id().clone();
        let key = (session_id.clone(), start.journal.invocation_id().to_owned());
        let starting = if let Some(started) = self.ended.get(&key) {
            futures_util::future::ready(started.clone()).boxed().shared()
        } else if let Some((starting, _)) = self.running.get(&key) {
            starting.clone()
        } else if self.host.draining.is_cancelled() {
            futures_util::future::ready(Err(StartError::ShuttingDown)).boxed().shared()
        } else {
            self.start_task(start, key, &ctx.address())
        };
        let answer = async move { starting.await.map(|started| answer(&session_id, started)) };
        Box::pin(answer.into_actor(self).map(|answer, _, _| answer))
    }
}

impl Handler<Ended> for Supervisor {
    type Result = ();

    fn handle(&mut self, Ended(key): Ended, _: &mut Self::Context) {
        let Some((starting, _)) = self.running.remove(&key) else { return };
        match starting.now_or_never() {
            // It was certainly not started, so the next call may start it.
            Some(Err(StartError::NotJournaled(error)))
                if error.kind != AppendErrorKind::Unknown => {}
            Some(started) => drop(self.ended.put(key, started)),
            None => {}
        }
    }
}
