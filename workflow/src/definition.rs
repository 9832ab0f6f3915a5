use serde_json::Value;
use thiserror::Error;

/// The definition with its substitutions still to be made.
pub const SOURCE: &str = include_str!("../session.asl.json");

/// Polls that fit the 25,000 history events of an execution: 9 per poll, less what the rest of the
/// session and its retries need.
const MAX_POLL_ATTEMPTS: u32 = 2_700;

/// What the definition is rendered with: the `DefinitionSubstitutions` of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `JournalTableName`: the DynamoDB table.
    pub journal_table_name: String,
    /// `InvokerFunctionArn`: the Lambda function, or its name.
    pub invoker_function_arn: String,
    /// `JournalRetentionDays`: days until an event may expire; 0 keeps events for ever.
    pub journal_retention_days: u32,
    /// `PollMinSeconds`: the shortest wait between two polls, in seconds.
    pub poll_min_seconds: u32,
    /// `PollMaxSeconds`: the longest wait between two polls, in seconds.
    pub poll_max_seconds: u32,
    /// `MaxPollAttempts`: polls after which the session is given up, at most 2,700.
    pub max_poll_attempts: u32,
}

/// The definition cannot be rendered: mend the setting that it names.
#[derive(Debug, Error)]
pub enum DefinitionError {
    /// A number is out of its bounds.
    #[error("{name} is {value}: it must be from {min} to {max}")]
    OutOfBounds {
        /// The substitution.
        name: &'static str,
        /// Its value.
        value: u32,
        /// The smallest value.
        min: u32,
        /// The largest value.
        max: u32,
    },
    /// A substitution is in the file that is not made here.
    #[error("a substitution is not made: ${{{0}}}")]
    NotSubstituted(String),
    /// The rendered text is no JSON; a value may hold a quote.
    #[error("the rendered definition is not valid JSON")]
    Json(#[from] serde_json::Error),
}

impl Definition {
    /// Makes the substitutions.
    ///
    /// # Errors
    /// If a number is out of bounds, or a substitution is left over.
    pub fn render(&self) -> Result<Value, DefinitionError> {
        bounded("PollMinSeconds", self.poll_min_seconds, 1, 60)?;
        bounded("PollMaxSeconds", self.poll_max_seconds, self.poll_min_seconds, 3_600)?;
        bounded("MaxPollAttempts", self.max_poll_attempts, 1, MAX_POLL_ATTEMPTS)?;
        let mut text = SOURCE.to_owned();
        for (name, value) in self.substitutions() {
            text = text.replace(&format!("${{{name}}}"), &value);
        }
        if let Some((_, rest)) = text.split_once("${") {
            let name = rest.split('}').next().unwrap_or(rest);
            return Err(DefinitionError::NotSubstituted(name.to_owned()));
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Every substitution with its value.
    #[must_use]
    pub fn substitutions(&self) -> [(&'static str, String); 6] {
        [
            ("JournalTableName", self.journal_table_name.clone()),
            ("InvokerFunctionArn", self.invoker_function_arn.clone()),
            ("JournalRetentionDays", self.journal_retention_days.to_string()),
            ("PollMinSeconds", self.poll_min_seconds.to_string()),
            ("PollMaxSeconds", self.poll_max_seconds.to_string()),
            ("MaxPollAttempts", self.max_poll_attempts.to_string()),
        ]
    }
}

fn bounded(name: &'static str, value: u32, min: u32, max: u32) -> Result<(), DefinitionError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(DefinitionError::OutOfBounds { name, value, min, max })
}
