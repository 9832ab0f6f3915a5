use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::definition::{Resource, StateMachine};
use super::interpreter::{Interpreter, Transition, failed};

/// History events that an execution may have (a quota of Step Functions). Then it fails, and no
/// state catches that.
const MAX_HISTORY_EVENTS: u32 = 25_000;

/// The services that a state machine calls, and the time it runs in.
pub trait Services {
    /// Calls one; the result is what Step Functions would give the state.
    fn call(
        &self,
        resource: Resource,
        arguments: Value,
    ) -> impl Future<Output = Result<Value, ServiceError>>;

    /// What the clock says.
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    /// A state of this type is entered.
    fn entered(&self, _kind: &str, _name: &str, _input: &Value) {}

    /// Lets time pass: the Wait state, and the delay before a retry.
    fn wait(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }
}

/// How much an execution uses of what Step Functions bills and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// State transitions: one for each state entered and for each retry.
    pub transitions: u32,
    /// Events in the execution's history.
    pub history_events: u32,
}

/// A failed call, with the error name that Retry and Catch match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceError {
    /// Such as `DynamoDB.ConditionalCheckFailedException`.
    pub error: String,
    /// What a person reads.
    pub cause: String,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutionEnd {
    /// With this output.
    Succeeded(Value),
    /// With these two.
    Failed {
        /// The execution's `Error`.
        error: String,
        /// The execution's `Cause`.
        cause: String,
    },
}

/// One run of a state machine.
#[derive(Debug, Clone)]
pub struct Execution {
    /// The execution's ARN.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its input.
    pub input: Value,
}

impl Execution {
    /// An execution on this machine, named as Step Functions would name it.
    #[must_use]
    pub fn new(name: &str, input: Value) -> Self {
        let machine = "arn:aws:states:us-east-1:000000000000:execution:session";
        Self { id: format!("{machine}:{name}"), name: name.to_owned(), input }
    }

    /// Runs the state machine to its end.
    pub async fn run(
        &self,
        machine: &StateMachine,
        services: &impl Services,
    ) -> (ExecutionEnd, Usage) {
        let mut interpreter = Interpreter::new(self, services.now());
        let mut input = self.input.clone();
        let mut name = machine.start_at.as_str();
        let end = loop {
            let Some(state) = machine.states.get(name) else {
                break failed("States.Runtime", format!("there is no state {name:?}"));
            };
            services.entered(state.kind(), name, &input);
            interpreter.usage.transitions += 1;
            interpreter.usage.history_events += state.history_events();
            if interpreter.usage.history_events > MAX_HISTORY_EVENTS {
                let cause = format!("the execution has more than {MAX_HISTORY_EVENTS} events");
                break failed("States.Runtime", cause);
            }
            match interpreter.enter(name, state, input, services).await {
                Ok(Transition::Next(next, output)) => (name, input) = (next, output),
                Ok(Transition::End(end)) => break end,
                Err(ServiceError { error, cause }) => break ExecutionEnd::Failed { error, cause },
            }
        };
        (end, interpreter.usage)
    }
}
