//! AgentCore's containers: a process for each session, started at the session's first request, pinged
//! every two seconds, and ended at its idle timeout, its maximum lifetime or StopRuntimeSession.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use journal::SessionId;
use serde_json::Value;
use testing::{Process, Spec};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::container::listen;

const PING_INTERVAL: Duration = Duration::from_secs(2);

/// `LifecycleConfiguration` of an AgentCore runtime.
#[derive(Debug, Clone, Copy)]
pub struct Lifecycle {
    /// How long a container may be idle: `IdleRuntimeSessionTimeout`.
    pub idle_timeout: Duration,
    /// How long it may live, whatever it does: `MaxLifetime`.
    pub max_lifetime: Duration,
}

impl Default for Lifecycle {
    /// As `deploy/template.yaml` has it.
    fn default() -> Self {
        let (idle_timeout, max_lifetime) = (Duration::from_secs(120), Duration::from_secs(28_800));
        Self { idle_timeout, max_lifetime }
    }
}

/// A session's container.
struct Container {
    /// Where it listens: `host:port`.
    address: String,
    process: Arc<Process>,
}

/// The containers of all sessions.
pub struct Containers {
    spec: Spec,
    lifecycle: Lifecycle,
    client: reqwest::Client,
    /// A cell is empty while its container starts.
    of_sessions: Mutex<HashMap<SessionId, Arc<OnceCell<Container>>>>,
}

impl Containers {
    /// No container yet. Each one will run this process.
    pub fn new(spec: Spec, lifecycle: Lifecycle) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(PING_INTERVAL).build()?;
        Ok(Self { spec, lifecycle, client, of_sessions: Mutex::default() })
    }

    /// The address of the session's container. Starts one if there is none, or if it has ended.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn address(&self, session_id: &SessionId) -> Result<String> {
        let cell = {
            let mut cells = self.cells();
            let ended = |cell: &Arc<OnceCell<Container>>| {
                cell.get().is_some_and(|container| container.process.has_ended())
            };
            cells.retain(|id, cell| id != session_id || !ended(cell));
            Arc::clone(cells.entry(session_id.clone()).or_default())
        };
        let container = cell
            .get_or_try_init(|| async {
                let (address, process) = listen(&self.spec, "0").await?;
                let process = Arc::new(process);
                tokio::spawn(watch(
                    self.client.clone(),
                    format!("http://{address}/ping"),
                    Arc::clone(&process),
                    self.lifecycle,
                ));
                Ok::<_, anyhow::Error>(Container { address, process })
            })
            .await?;
        Ok(container.address.clone())
    }

    /// The process of the session's container, if one was started.
    pub fn process(&self, session_id: &SessionId) -> Option<Arc<Process>> {
        Some(Arc::clone(&self.cells().get(session_id)?.get()?.process))
    }

    /// Stops all of them.
    pub async fn stop(&self) {
        let cells = Vec::from_iter(self.cells().values().cloned());
        let containers = cells.iter().filter_map(|cell| cell.get());
        futures_util::future::join_all(containers.map(|it| it.process.stop())).await;
    }

    fn cells(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<OnceCell<Container>>>> {
        self.of_sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pings a container, and ends it at its idle timeout or maximum lifetime.
async fn watch(client: reqwest::Client, ping: String, process: Arc<Process>, lifecycle: Lifecycle) {
    let started = Instant::now();
    // If a container does not say since when it is idle, the timeout counts from its start, whatever
    // else it says.
    let mut idle_since = started;
    while !process.has_ended() {
        tokio::time::sleep(PING_INTERVAL).await;
        let answer = async { client.get(&ping).send().await.ok()?.json().await.ok() };
        if let Some(idle) = answer.await.and_then(|answer| idle_by(&answer, SystemTime::now())) {
            idle_since = Instant::now().checked_sub(idle).unwrap_or(started);
        }
        if idle_since.elapsed() >= lifecycle.idle_timeout
            || started.elapsed() >= lifecycle.max_lifetime
        {
            return process.stop().await;
        }
    }
}

/// For how long a container has been idle by its answer; `None` if it does not say so in whole Unix
/// seconds.
fn idle_by(answer: &Value, now: SystemTime) -> Option<Duration> {
    let changed_at = answer.get("time_of_last_update")?.as_u64()?;
    if answer.get("status")? == "HealthyBusy" {
        return Some(Duration::ZERO);
    }
    now.duration_since(UNIX_EPOCH + Duration::from_secs(changed_at)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ping_that_lies_is_taken_as_agentcore_takes_it() {
        let idle = |answer: Value| idle_by(&answer, UNIX_EPOCH + Duration::from_secs(1_000));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(idle(json!({"status": "Healthy", "time_of_last_update": 900})), seconds(100));
        assert_eq!(idle(json!({"status": "HealthyBusy", "time_of_last_update": 900})), seconds(0));
        // Stamped anew at every ping: it is never idle.
        assert_eq!(idle(json!({"status": "Healthy", "time_of_last_update": 1_000})), seconds(0));
        // Without the number it does not count that the container says that it is busy.
        assert_eq!(idle(json!({"status": "HealthyBusy"})), None);
        let text = json!({"status": "HealthyBusy", "time_of_last_update": "2026-11-25T00:00:00Z"});
        assert_eq!(idle(text), None);
    }
}
