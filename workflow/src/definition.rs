/// The definition with its substitutions still to be made.
pub const SOURCE: &str = include_str!("../session.asl.json");

/// Polls that fit the 25,000 history events of an execution, which ends without SESSION_FAILED when
/// it runs out of them. A poll takes 7, one that reads the signs of life 16, one that challenges the
/// task 21, and a further page 7. The most talkative task (1,000 events of progress of 1 KB each)
/// fills two pages. Some 3,000 events are left for the retries of failed calls.
pub const MAX_POLL_ATTEMPTS: u32 = 780;

/// What the definition is rendered with: the `DefinitionSubstitutions` of the template, with its
/// defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `JournalTableName`: the DynamoDB table.
    pub journal_table_name: String,
    /// `InvokerFunctionArn`: the Lambda function, or its name.
    pub invoker_function_arn: String,
    /// `JournalRetentionDays`: days until an event may expire; 0 keeps events.
    pub journal_retention_days: u32,
    /// `PollMinSeconds`: the shortest wait between two polls, in seconds.
    pub poll_min_seconds: u32,
    /// `PollMaxSeconds`: the longest wait between two polls, in seconds, at most 60.
    pub poll_max_seconds: u32,
    /// `MaxPollAttempts`: polls after which the session is given up, at most [`MAX_POLL_ATTEMPTS`].
    pub max_poll_attempts: u32,
    /// `PatienceSeconds`: seconds without a sign of life after which a session is given up: at least
    /// 120, or 0 to read no signs and wait for the last poll.
    pub patience_seconds: u32,
    /// `SilenceSeconds`: seconds without a sign of life after which the signs are read.
    pub silence_seconds: u32,
    /// `AnswerSeconds`: seconds that a challenged task has to answer before the next poll.
    pub answer_seconds: u32,
    /// `StartSeconds`: seconds after the invocation's end within which a task must have started.
    pub start_seconds: u32,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            journal_table_name: "agent-journal".to_owned(),
            invoker_function_arn: "invoker".to_owned(),
            journal_retention_days: 0,
            poll_min_seconds: 2,
            poll_max_seconds: 60,
            max_poll_attempts: 600,
            patience_seconds: 120,
            silence_seconds: 40,
            answer_seconds: 20,
            start_seconds: 300,
        }
    }
}

impl Definition {
    /// The definition as JSON text, with its substitutions made. What may go into a substitution is
    /// for the caller to check: `deploy/template.yaml` does it on AWS.
    #[must_use]
    pub fn render(&self) -> String {
        let made = |text: String, (name, value): (&str, String)| {
            text.replace(&format!("${{{name}}}"), &value)
        };
        self.substitutions().into_iter().fold(SOURCE.to_owned(), made)
    }

    /// Every substitution with its value.
    #[must_use]
    pub fn substitutions(&self) -> [(&'static str, String); 10] {
        [
            ("JournalTableName", self.journal_table_name.clone()),
            ("InvokerFunctionArn", self.invoker_function_arn.clone()),
            ("JournalRetentionDays", self.journal_retention_days.to_string()),
            ("PollMinSeconds", self.poll_min_seconds.to_string()),
            ("PollMaxSeconds", self.poll_max_seconds.to_string()),
            ("MaxPollAttempts", self.max_poll_attempts.to_string()),
            ("PatienceSeconds", self.patience_seconds.to_string()),
            ("SilenceSeconds", self.silence_seconds.to_string()),
            ("AnswerSeconds", self.answer_seconds.to_string()),
            ("StartSeconds", self.start_seconds.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use journal::{SORT_KEY_PREFIX, SessionId, Status};
    use serde_json::Value;

    use super::*;

    fn definition() -> Definition {
        Definition {
            journal_table_name: "table-7".to_owned(),
            invoker_function_arn: "function-7".to_owned(),
            ..Definition::default()
        }
    }

    /// Every text of the source that begins and ends with a quote and is shaped like `pattern`.
    fn words(shaped: impl Fn(&str) -> bool) -> BTreeSet<String> {
        SOURCE.split(['\'', '"']).filter(|word| shaped(word)).map(str::to_owned).collect()
    }

    #[test]
    fn every_substitution_is_made_and_none_is_superfluous() {
        let rendered = definition().render();
        let _: Value = serde_json::from_str(&rendered).unwrap();
        assert!(!rendered.contains("${"));
        assert!(rendered.contains("table-7") && rendered.contains("function-7"));
        for (name, _) in definition().substitutions() {
            assert!(SOURCE.contains(&format!("${{{name}}}")), "{name} is not used");
        }
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
            "PK", "SK", "Timestamp", "Status", "EventId", "InvocationId", "Source", "ErrorType",
            "ErrorMessage", "ExpiresAt", "HeartbeatSeconds", "Kind", "Result", "ResultBytes",
            "ResultTruncated", "TraceId",
        ];
        let journal = concat!(
            include_str!("../../journal/src/event.rs"),
            include_str!("../../journal/src/signs.rs")
        );
        for attribute in attributes {
            assert!(
                journal.contains(&format!("\"{attribute}\"")),
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
        assert!(SOURCE.contains("'ALIVE#' & $sessionId"));
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
        assignments(&serde_json::from_str(&definition().render()).unwrap(), &mut found);
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
