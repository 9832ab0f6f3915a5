use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What `/ping` answers. AgentCore stops a container that has been idle for some time, so a running
/// task lives only if the answer is right. So `time_of_last_update` changes when the status changes.
/// It also changes after a gap in the pings: AgentCore takes a snapshot of the container at its first
/// ping and may restore it days later. Otherwise the container would look idle since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Ping {
    status: &'static str,
    time_of_last_update: u64,
}

/// Counts what keeps the container busy. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Mutex<State>>);

struct State {
    busy: usize,
    changed_at: u64,
    /// By the clock, which jumps when a snapshot is restored.
    pinged_at: u64,
}

/// AgentCore pings every two seconds. A longer gap than this one means that a snapshot was restored.
const MAX_GAP_SECONDS: u64 = 60;

/// Keeps the container busy until dropped: one per task, from before its first event until its
/// last event is durable.
pub(crate) struct Busy(Health);

impl Health {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            busy: 0,
            changed_at: unix_seconds(),
            pinged_at: unix_seconds(),
        })))
    }

    pub(crate) fn busy(&self) -> Busy {
        self.update(|busy| busy + 1);
        Busy(self.clone())
    }

    pub(crate) fn ping(&self) -> Ping {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = unix_seconds();
        if state.busy == 0 && now.saturating_sub(state.pinged_at) > MAX_GAP_SECONDS {
            state.changed_at = now;
        }
        state.pinged_at = now;
        let status = if state.busy > 0 { "HealthyBusy" } else { "Healthy" };
        Ping { status, time_of_last_update: state.changed_at }
    }

    fn update(&self, count: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = count(state.busy);
        if (busy == 0) != (state.busy == 0) {
            state.changed_at = unix_seconds();
        }
        state.busy = busy;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.update(|busy| busy.saturating_sub(1));
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
