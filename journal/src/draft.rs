use std::time::Duration;

use crate::text::{
    MAX_ERROR_MESSAGE_BYTES, MAX_ID_BYTES, MAX_PROGRESS_BYTES, MAX_RESULT_BYTES, truncate,
};
use crate::{InvalidPhase, Status, Step, Timestamp};

/// An event that a writer will append. The append gives it its time and its ids.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(crate) status: Status,
    pub(crate) error: Option<(String, String)>,
    pub(crate) result: Option<String>,
    /// Of a result that was cut: the size of the whole.
    pub(crate) result_bytes: Option<u64>,
    pub(crate) message: Option<String>,
    pub(crate) heartbeat_seconds: Option<u64>,
    pub(crate) at: Option<Timestamp>,
}

impl Draft {
    /// An event that reports no failure.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Self {
            status,
            error: None,
            result: None,
            result_bytes: None,
            message: None,
            heartbeat_seconds: None,
            at: None,
        }
    }

    /// AGENT_BACKGROUND_TASK_STARTED of a task that gives a sign of life this often; `None`: never.
    #[must_use]
    pub fn task_started(heartbeat: Option<Duration>) -> Self {
        let heartbeat_seconds = heartbeat.map(|time| time.as_secs().max(1));
        Self { heartbeat_seconds, ..Self::new(Status::AgentBackgroundTaskStarted) }
    }

    /// The same event with this time, instead of the time of the append.
    #[must_use]
    pub fn at(self, time: Timestamp) -> Self {
        Self { at: Some(time), ..self }
    }

    /// An event that reports a failure: a stable `ErrorType`, and an `ErrorMessage` that a person
    /// can act on (cut at [`MAX_ERROR_MESSAGE_BYTES`]).
    #[must_use]
    pub fn failure(status: Status, error_type: &str, message: &str) -> Self {
        let error_type = truncate(error_type, MAX_ID_BYTES).to_owned();
        let message = truncate(message, MAX_ERROR_MESSAGE_BYTES).to_owned();
        Self { error: Some((error_type, message)), ..Self::new(status) }
    }

    /// An agent's own progress, with a text for people if it is not empty (cut at
    /// [`MAX_PROGRESS_BYTES`]); on a failure it is the `ErrorMessage`. An exception's name before a
    /// colon is the `ErrorType`.
    ///
    /// # Errors
    /// If the phase breaks the rule of [`Status::phase`].
    pub fn progress(phase: &str, step: Step, text: &str) -> Result<Self, InvalidPhase> {
        let (status, text) = (Status::phase(phase, step)?, truncate(text, MAX_PROGRESS_BYTES));
        Ok(match step {
            Step::Failed if text.is_empty() => {
                Self::failure(status, "AgentError", "the agent gave no reason")
            }
            Step::Failed => {
                let class = text.split(": ").next().unwrap_or_default();
                let is_class = (class.ends_with("Error") || class.ends_with("Exception"))
                    && class.bytes().all(|byte| byte.is_ascii_alphanumeric());
                Self::failure(status, if is_class { class } else { "AgentError" }, text)
            }
            Step::Started | Step::Completed => {
                let message = Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
                Self { message, ..Self::new(status) }
            }
        })
    }

    /// AGENT_BACKGROUND_TASK_COMPLETED with the task's result as JSON text, or with its beginning. It
    /// is cut at [`MAX_RESULT_BYTES`]. `bytes` is the size of the whole result. If the event has less,
    /// `ResultTruncated` and `ResultBytes` say so.
    #[must_use]
    pub fn completed(json: &str, bytes: usize) -> Self {
        let cut = truncate(json, MAX_RESULT_BYTES);
        Self {
            result: Some(cut.to_owned()),
            result_bytes: (cut.len() < bytes).then_some(bytes as u64),
            ..Self::new(Status::AgentBackgroundTaskCompleted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_megabyte_is_cut_between_two_characters() {
        let draft = Draft::failure(Status::SessionFailed, "Error", &"é".repeat(500_000));
        let (_, message) = draft.error.unwrap();
        assert_eq!(message, "é".repeat(MAX_ERROR_MESSAGE_BYTES / 2));
    }

    #[test]
    fn a_long_result_is_cut_and_says_so() {
        let short = Draft::completed("\"ok\"", 4);
        assert_eq!((short.result.as_deref(), short.result_bytes), (Some("\"ok\""), None));
        let text = format!("\"{}\"", "é".repeat(MAX_RESULT_BYTES));
        let long = Draft::completed(&text, text.len());
        assert_eq!(long.result_bytes, Some(2 * 65_536 + 2));
        assert_eq!(long.result.unwrap().len(), MAX_RESULT_BYTES - 1);
    }
}
