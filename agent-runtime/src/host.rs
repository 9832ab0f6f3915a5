use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::AnyAgent;
use crate::health::Health;
use crate::{Agent, Limits};

/// What the parts of the process share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Host {
    pub agent: AnyAgent,
    /// The runtime on which agents run, apart from the journal's: an agent that blocks its thread
    /// must not keep an event from being written.
    pub agents: Handle,
    pub limits: Limits,
    /// When the process started.
    pub started: Instant,
    pub health: Health,
    /// What the shutdown waits for.
    pub tasks: TaskTracker,
    /// Cancelled when the container is told to stop: refuse new tasks, end those that run.
    pub draining: CancellationToken,
    /// Cancelled when the process is about to exit: log the last events instead of writing them.
    pub give_up: CancellationToken,
}

impl Host {
    pub fn new(agent: impl Agent, agents: Handle, limits: Limits) -> Self {
        Self {
            agent: AnyAgent::new(agent),
            agents,
            limits,
            started: Instant::now(),
            health: Health::new(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            give_up: CancellationToken::new(),
        }
    }
}
