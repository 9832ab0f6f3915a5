//! A program and everything that it starts, as one process group.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

/// How often to look for the remaining processes of a group that has to end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A process group; killed when dropped.
#[derive(Debug)]
pub(super) struct ProcessGroup(Pid);

impl ProcessGroup {
    /// The group that `child` leads.
    pub fn of(child: &Child) -> Option<Self> {
        let group =
            child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw).map(Self)?;
        // When memory runs out, the kernel shall kill the agent and not the runtime. It chooses by size
        // and by this score, which children inherit. The write fails if the program has ended.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", group.0), "1000");
        Some(group)
    }

    pub fn signal(&self, signal: Signal) {
        // It fails only if no process of the group is left.
        let _ = killpg(self.0, signal);
    }

    /// Waits until no process of the group is left.
    pub async fn empty(&self) {
        while killpg(self.0, None).is_ok() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// How a program ended, for people.
pub(super) fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(9) => format!("{status}; the memory may have run out"),
        _ => status.to_string(),
    }
}
