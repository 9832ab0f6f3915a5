//! How a run stands, and which of them a list shows.

use aws_sdk_sfn::types::ExecutionStatus;
use derive_more::Display;
use journal::{Ending, Timestamp};
use serde::{Deserialize, Serialize};

use crate::alive::is_silent;
use crate::history::Run;

/// Failures of runs from whose container nothing more was heard.
const LOST: [&str; 3] = ["AgentNotStarted", "ContainerLost", "PollAttemptsSpent"];

/// How a run stands, ordered by urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Display)]
#[serde(rename_all = "lowercase")]
#[display(rename_all = "lowercase")]
pub enum Standing {
    /// It failed because nothing more was heard from its container.
    Lost,
    /// It failed.
    Failed,
    /// It runs, and its container gives no sign of life.
    Silent,
    /// Somebody stopped its execution, or a time limit did. Its agent may still be working.
    Unwatched,
    /// It runs, or its end is not known any more.
    Running,
    /// It completed.
    Completed,
}

impl Run<'_> {
    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        match (self.ending, self.execution.as_ref().map(|end| &end.status)) {
            (Ending::Completed(_), _) => Standing::Completed,
            (Ending::Failed(_), _) | (_, Some(ExecutionStatus::Failed)) => {
                let is_lost = self.error().is_some_and(|(name, _)| LOST.contains(&name));
                if is_lost { Standing::Lost } else { Standing::Failed }
            }
            (_, Some(ExecutionStatus::Succeeded)) => Standing::Completed,
            (_, Some(_)) => Standing::Unwatched,
            _ if is_silent(self, now) => Standing::Silent,
            _ => Standing::Running,
        }
    }

    /// Type and message of its failure, or of its execution's.
    #[must_use]
    pub fn error(&self) -> Option<(&str, &str)> {
        let Some(event) = self.failure() else {
            let end = self.execution.as_ref()?;
            return Some((end.error.as_deref()?, end.cause.as_deref().unwrap_or_default()));
        };
        let error_type = event.error_type.as_deref().unwrap_or("Error");
        Some((error_type, event.error_message.as_deref().unwrap_or_default()))
    }

    /// How it stands, as the exit code of a command: 0 completed, 1 failed, 3 running, not watched or not
    /// known any more, 4 broken.
    #[must_use]
    pub fn exit_code(&self, now: Timestamp) -> u8 {
        match self.standing(now) {
            _ if !self.defects.is_empty() && !self.has_expired(now) => 4,
            Standing::Completed => 0,
            Standing::Lost | Standing::Failed => 1,
            Standing::Running | Standing::Silent | Standing::Unwatched => 3,
        }
    }
}

/// Which sessions are listed. Its name is that of an option, and is in an address.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[display(rename_all = "lowercase")]
pub enum Filter {
    /// All of them.
    #[default]
    All,
    /// Those that failed, give no sign of life, or are not watched any more.
    Failed,
    /// Those that run.
    Running,
    /// Those that give no sign of life, or failed because nothing more was heard from their container.
    Lost,
}

impl Filter {
    /// All filters, as they are offered.
    pub(crate) const ALL: [Self; 4] = [Self::All, Self::Failed, Self::Running, Self::Lost];

    /// Whether an execution of this status may be wanted.
    pub(crate) fn may_want(self, status: &ExecutionStatus) -> bool {
        match self {
            Self::All => true,
            Self::Running => *status == ExecutionStatus::Running,
            // The journal says that a session has failed before its execution has ended.
            Self::Failed | Self::Lost => *status != ExecutionStatus::Succeeded,
        }
    }

    pub(crate) fn wants(self, standing: Standing) -> bool {
        use Standing::*;
        match self {
            Self::All => true,
            Self::Failed => !matches!(standing, Running | Completed),
            Self::Running => matches!(standing, Running | Silent),
            Self::Lost => matches!(standing, Lost | Silent),
        }
    }
}
