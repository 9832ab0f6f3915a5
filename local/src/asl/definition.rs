use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use super::expression::Template;

/// A definition that was checked as a whole: it parses, and every state it names exists.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub struct StateMachine {
    #[serde(default, rename = "Comment")]
    _comment: String,
    #[serde(rename = "QueryLanguage")]
    _query_language: QueryLanguage,
    pub(super) start_at: String,
    pub(super) states: BTreeMap<String, State>,
}

/// Step Functions might run the definition, but this interpreter does not.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A field, a state type, a resource or an expression that is not supported, or no state machine
    /// at all.
    #[error("the definition has something that is not supported")]
    Unsupported(#[from] serde_json::Error),
    /// A transition leads nowhere.
    #[error("there is no state {0:?}")]
    NoSuchState(String),
}

/// Variables and what they are set to.
pub(super) type Assign = BTreeMap<String, Template>;

#[derive(Debug, Deserialize)]
enum QueryLanguage {
    #[serde(rename = "JSONata")]
    JsonAta,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "Type")]
pub(super) enum State {
    Pass(Pass),
    Choice(Choice),
    Wait(Wait),
    Task(Box<Task>),
    Succeed(Succeed),
    Fail(Fail),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Pass {
    #[serde(default)]
    pub assign: Assign,
    pub output: Option<Template>,
    pub next: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Choice {
    pub choices: Vec<Rule>,
    pub default: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Rule {
    pub condition: Template,
    #[serde(default)]
    pub assign: Assign,
    pub next: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Wait {
    pub seconds: Template,
    #[serde(default)]
    pub assign: Assign,
    pub next: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Task {
    pub resource: Resource,
    pub timeout_seconds: u64,
    pub arguments: Template,
    #[serde(default)]
    pub assign: Assign,
    #[serde(default)]
    pub retry: Vec<Retrier>,
    #[serde(default)]
    pub catch: Vec<Catcher>,
    pub next: String,
}

/// A service integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Resource {
    /// The optimised PutItem, whose errors are `DynamoDB.…`.
    #[serde(rename = "arn:aws:states:::dynamodb:putItem")]
    PutItem,
    /// The SDK's Query, whose errors are `DynamoDb.…`.
    #[serde(rename = "arn:aws:states:::aws-sdk:dynamodb:query")]
    Query,
    /// The optimised Invoke, whose errors are the function's `errorType`.
    #[serde(rename = "arn:aws:states:::lambda:invoke")]
    Invoke,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Retrier {
    pub error_equals: Vec<String>,
    #[serde(default = "one")]
    pub interval_seconds: u32,
    #[serde(default = "two")]
    pub backoff_rate: f64,
    #[serde(default = "three")]
    pub max_attempts: u32,
    pub max_delay_seconds: Option<u32>,
}

fn one() -> u32 {
    1
}

fn two() -> f64 {
    2.0
}

fn three() -> u32 {
    3
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Catcher {
    pub error_equals: Vec<String>,
    #[serde(default)]
    pub assign: Assign,
    pub next: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Succeed {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Fail {
    pub error: Template,
    pub cause: Template,
}

impl StateMachine {
    /// Checks a rendered definition, a JSON text.
    ///
    /// # Errors
    /// If this interpreter would run any part of it differently from Step Functions.
    pub fn load(definition: &str) -> Result<Self, LoadError> {
        let machine: Self = serde_json::from_str(definition)?;
        let targets = machine.states.values().flat_map(State::targets);
        for target in targets.chain([machine.start_at.as_str()]) {
            if !machine.states.contains_key(target) {
                return Err(LoadError::NoSuchState(target.to_owned()));
            }
        }
        Ok(machine)
    }
}

impl State {
    fn targets(&self) -> Vec<&str> {
        match self {
            Self::Pass(pass) => vec![&pass.next],
            Self::Choice(choice) => {
                choice.choices.iter().map(|rule| &*rule.next).chain([&*choice.default]).collect()
            }
            Self::Wait(wait) => vec![&wait.next],
            Self::Task(task) => {
                task.catch.iter().map(|catcher| &*catcher.next).chain([&*task.next]).collect()
            }
            Self::Succeed(_) | Self::Fail(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn load(state: Value) -> Result<StateMachine, LoadError> {
        let definition = json!({
            "QueryLanguage": "JSONata", "StartAt": "A",
            "States": {"A": state, "B": {"Type": "Succeed"}},
        });
        StateMachine::load(&definition.to_string())
    }

    #[test]
    fn refuses_what_it_would_not_run_as_step_functions_does() {
        assert!(load(json!({"Type": "Pass", "Next": "B"})).is_ok());
        for state in [
            json!({"Type": "Map", "Next": "B"}),
            json!({"Type": "Pass", "ResultPath": "$", "Next": "B"}),
            json!({"Type": "Pass", "End": true}),
            json!({"Type": "Pass", "Output": "{% ( %}", "Next": "B"}),
            json!({"Type": "Succeed", "Output": 1}),
            json!({"Type": "Wait", "Seconds": 1, "Timestamp": "x", "Next": "B"}),
            json!({"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "TimeoutSeconds": 1, "Arguments": {}, "Next": "B"}),
            json!({"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "TimeoutSeconds": 1, "HeartbeatSeconds": 1, "Arguments": {}, "Next": "B"}),
        ] {
            assert!(matches!(load(state.clone()), Err(LoadError::Unsupported(_))), "{state}");
        }
        assert!(matches!(
            load(json!({"Type": "Pass", "Next": "C"})),
            Err(LoadError::NoSuchState(_))
        ));
    }
}
