use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::truncate;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What an event says has happened.
        ///
        /// A reader keeps statuses that it does not know, as [`Status::Other`].
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum Status {
            $($(#[$doc])* $name,)*
            /// A status that this version does not know.
            Other(String),
        }

        impl Status {
            /// Every status of the journal's contract, in the order of a session's life.
            pub const ALL: &[Status] = &[$(Status::$name),*];

            /// The text in the table's `Status` attribute.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Status::$name => $text,)*
                    Status::Other(text) => text,
                }
            }
        }

        impl From<&str> for Status {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Status::$name,)*
                    other => Status::Other(other.to_owned()),
                }
            }
        }
    };
}

statuses! {
    /// The workflow accepted the session.
    SessionInitiated = "SESSION_INITIATED",
    /// The invoker is about to call InvokeAgentRuntime.
    AgentInvocationStarted = "AGENT_INVOCATION_STARTED",
    /// InvokeAgentRuntime answered with success.
    AgentInvocationSucceeded = "AGENT_INVOCATION_SUCCEEDED",
    /// InvokeAgentRuntime failed, or its outcome is unknown.
    AgentInvocationFailed = "AGENT_INVOCATION_FAILED",
    /// The container received the request.
    AgentEntrypointStarted = "AGENT_ENTRYPOINT_STARTED",
    /// The container could not start a task for the request.
    AgentEntrypointFailed = "AGENT_ENTRYPOINT_FAILED",
    /// The agent is about to run.
    AgentBackgroundTaskStarted = "AGENT_BACKGROUND_TASK_STARTED",
    /// The agent ended with a result. Terminal.
    AgentBackgroundTaskCompleted = "AGENT_BACKGROUND_TASK_COMPLETED",
    /// The agent ended without a result. Terminal.
    AgentBackgroundTaskFailed = "AGENT_BACKGROUND_TASK_FAILED",
    /// The workflow's failure path: the session ended without success.
    SessionFailed = "SESSION_FAILED",
}

/// What an agent reports about one of its phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `TASK_{PHASE}_STARTED`
    Started,
    /// `TASK_{PHASE}_COMPLETED`
    Completed,
    /// `TASK_{PHASE}_FAILED`
    Failed,
}

impl Step {
    /// The word for it: `started`, `completed` or `failed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// The step that this word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Started, Self::Completed, Self::Failed].into_iter().find(|it| it.as_str() == word)
    }
}

/// How many bytes of an invalid phase its error quotes.
const MAX_QUOTED_BYTES: usize = 100;

/// The text is not a valid name of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid phase {0:?}: it must be 1 to 50 of A-Z a-z 0-9 _ -")]
pub struct InvalidPhase(String);

impl Status {
    /// An agent's own progress: `TASK_{PHASE}_STARTED`, `…_COMPLETED` or `…_FAILED`, with the phase
    /// in capitals.
    ///
    /// # Errors
    /// If `phase` is not 1 to 50 of `A-Z a-z 0-9 _ -`.
    pub fn phase(phase: &str, step: Step) -> Result<Self, InvalidPhase> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !(1..=50).contains(&phase.len()) || !phase.bytes().all(allowed) {
            return Err(InvalidPhase(truncate(phase, MAX_QUOTED_BYTES).to_owned()));
        }
        Ok(Self::Other(format!("TASK_{phase}_{}", step.as_str()).to_ascii_uppercase()))
    }

    /// Whether the event is an agent's own progress: a [phase](Self::phase).
    #[must_use]
    pub fn is_progress(&self) -> bool {
        matches!(self, Self::Other(status) if status.starts_with("TASK_"))
    }

    /// Whether the event reports a failure, and so carries `ErrorMessage` and `ErrorType`.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.as_str().ends_with("_FAILED")
    }
}

impl From<String> for Status {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Status> for String {
    fn from(status: Status) -> Self {
        status.as_str().to_owned()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_reads_back_and_unknown_ones_are_kept() {
        for status in Status::ALL {
            assert_eq!(&Status::from(status.as_str()), status);
        }
        let unknown = Status::from("TASK_PLAN_STARTED");
        assert_eq!(unknown, Status::Other("TASK_PLAN_STARTED".into()));
        assert_eq!(unknown.to_string(), "TASK_PLAN_STARTED");
        assert!(Status::from("TASK_PLAN_FAILED").is_failure());
        assert!(!unknown.is_failure());
    }

    #[test]
    fn a_phase_becomes_a_status_or_breaks_the_rule() {
        assert_eq!(Status::phase("plan", Step::Started), Ok(Status::from("TASK_PLAN_STARTED")));
        assert_eq!(Status::phase("a-b_7", Step::Failed).unwrap().as_str(), "TASK_A-B_7_FAILED");
        assert!(Status::phase(&"x".repeat(50), Step::Completed).is_ok());
        for phase in ["", "a b", "plän", "a\n", &"x".repeat(51)] {
            let error = Status::phase(phase, Step::Started).unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid phase {phase:?}: ")), "{error}");
        }
    }
}
