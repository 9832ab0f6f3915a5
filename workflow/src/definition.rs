use serde_json::Value;
use thiserror::Error;

/// The definition with its substitutions still to be made.
pub const SOURCE: &str = include_str!("../session.asl.json");

/// Polls that fit the 25,000 history events of an execution, which ends without SESSION_FAILED when
/// it runs out of them: 9 per page, two pages of the most talkative task (1,000 events of progress
/// of 1 KB each), and some 3,000 for the retries of failed calls.
const MAX_POLL_ATTEMPTS: u32 = 1_200;

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
    /// `MaxPollAttempts`: polls after which the session is given up, at most 1,200.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use journal::{SORT_KEY_PREFIX, SessionId, Status};

    use super::*;

    fn definition() -> Definition {
        Definition {
            journal_table_name: "table-7".to_owned(),
            invoker_function_arn: "function-7".to_owned(),
            journal_retention_days: 7,
            poll_min_seconds: 2,
            poll_max_seconds: 60,
            max_poll_attempts: 600,
        }
    }

    /// Every text of the source that begins and ends with a quote and is shaped like `pattern`.
    fn words(shaped: impl Fn(&str) -> bool) -> BTreeSet<String> {
        SOURCE.split(['\'', '"']).filter(|word| shaped(word)).map(str::to_owned).collect()
    }

    #[test]
    fn every_substitution_is_made_and_none_is_superfluous() {
        let rendered = definition().render().unwrap().to_string();
        assert!(!rendered.contains("${"));
        assert!(rendered.contains("table-7") && rendered.contains("function-7"));
        for (name, _) in definition().substitutions() {
            assert!(SOURCE.contains(&format!("${{{name}}}")), "{name} is not used");
        }
    }

    #[test]
    fn a_number_out_of_bounds_and_a_broken_value_are_refused() {
        let error = Definition { max_poll_attempts: 1_201, ..definition() }.render().unwrap_err();
        assert_eq!(error.to_string(), "MaxPollAttempts is 1201: it must be from 1 to 1200");
        assert!(Definition { poll_min_seconds: 0, ..definition() }.render().is_err());
        assert!(Definition { poll_max_seconds: 1, ..definition() }.render().is_err());
        let quoted = Definition { journal_table_name: "a\"b".to_owned(), ..definition() };
        assert!(matches!(quoted.render(), Err(DefinitionError::Json(_))));
        let nested = Definition { journal_table_name: "${Other}".to_owned(), ..definition() };
        assert!(
            matches!(nested.render(), Err(DefinitionError::NotSubstituted(name)) if name == "Other")
        );
    }

    #[test]
    fn statuses_are_those_of_the_journal() {
        let used = words(|word| {
            let named = word.starts_with("SESSION_") || word.starts_with("AGENT_");
            named && !word.contains(' ')
        });
        let known: BTreeSet<_> = Status::ALL.iter().map(ToString::to_string).collect();
        assert!(used.is_subset(&known), "{used:?}");
        for status in [
            Status::SessionInitiated,
            Status::SessionFailed,
            Status::AgentBackgroundTaskStarted,
            Status::AgentBackgroundTaskCompleted,
            Status::AgentBackgroundTaskFailed,
            Status::AgentEntrypointFailed,
        ] {
            assert!(used.contains(status.as_str()), "{status}");
        }
    }

    #[test]
    fn attributes_and_keys_are_those_of_the_journal() {
        // What a writer puts, as the journal's own event names it.
        let attributes = [
            "PK",
            "SK",
            "Timestamp",
            "Status",
            "EventId",
            "InvocationId",
            "Source",
            "ErrorType",
            "ErrorMessage",
            "ExpiresAt",
            "Result",
            "ResultTruncated",
            "TraceId",
        ];
        let event = include_str!("../../journal/src/event.rs");
        for attribute in attributes {
            assert!(
                event.contains(&format!("\"{attribute}\"")),
                "{attribute} is not the journal's"
            );
            assert!(SOURCE.contains(attribute), "{attribute} is not used");
        }
        let put = words(|word| attributes.contains(&word));
        for required in &attributes[..7] {
            assert!(put.contains(*required), "{required} is not put");
        }
        assert!(SOURCE.contains(&format!("'{SORT_KEY_PREFIX}' & $time")));
        assert!(SOURCE.contains("'SESSION#' & $sessionId"));
        assert!(SOURCE.contains(&SessionId::PATTERN.replace('\\', "\\\\")), "the same rule");
        assert!(SOURCE.contains("'Source': {'S': 'workflow'}"));
        assert_eq!(journal::Source::Workflow.as_str(), "workflow");
    }

    /// The states' `Assign` blocks, those of rules and catchers too.
    fn assignments(value: &Value, found: &mut Vec<serde_json::Map<String, Value>>) {
        if let Some(Value::Object(assign)) = value.get("Assign") {
            found.push(assign.clone());
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|field| assignments(field, found)),
            Value::Array(items) => items.iter().for_each(|item| assignments(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_engine_sees_the_same_variables() {
        let mut found = Vec::new();
        assignments(&definition().render().unwrap(), &mut found);
        assert!(found.len() > 10);
        for assign in found {
            for name in assign.keys() {
                // Engines differ in whether an assignment sees the others of its block.
                let variable = format!("${name}");
                let reads = |text: &str| {
                    text.match_indices(&variable).any(|(at, _)| {
                        !text[at + variable.len()..].starts_with(|c: char| c.is_alphanumeric())
                    })
                };
                let read = assign.values().filter_map(Value::as_str).any(reads);
                assert!(!read, "{name} is read where it is set");
                let built_in = [
                    "error", "string", "count", "merge", "max", "min", "now", "millis", "type",
                    "keys",
                ];
                assert!(!built_in.contains(&name.as_str()), "{name} is a function of JSONata");
            }
        }
    }
}
