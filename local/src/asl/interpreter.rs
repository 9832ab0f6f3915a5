//! What each type of state does.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::definition::{Assign, Retrier, State, Task};
use super::execution::{Execution, ExecutionEnd, ServiceError, Services, Usage};
use super::expression::Template;

pub(super) fn failed(error: &str, cause: String) -> ExecutionEnd {
    ExecutionEnd::Failed { error: error.to_owned(), cause }
}

/// An execution under way.
pub(super) struct Interpreter<'a> {
    execution: &'a Execution,
    started: DateTime<Utc>,
    variables: Map<String, Value>,
    pub usage: Usage,
}

/// What comes after a state.
pub(super) enum Transition<'a> {
    Next(&'a str, Value),
    End(ExecutionEnd),
}

impl<'e> Interpreter<'e> {
    pub fn new(execution: &'e Execution, started: DateTime<Utc>) -> Self {
        // ExecutionStarted, and the event that ends it.
        let usage = Usage { transitions: 0, history_events: 2 };
        Self { execution, started, variables: Map::new(), usage }
    }

    /// Runs one state.
    pub async fn enter<'a>(
        &mut self,
        name: &str,
        state: &'a State,
        input: Value,
        services: &impl Services,
    ) -> Result<Transition<'a>, ServiceError> {
        let mut scope = self.scope(name, &input, services.now());
        match state {
            State::Pass(pass) => {
                let output = match &pass.output {
                    Some(output) => eval(output, &scope)?,
                    None => input,
                };
                self.assign(&pass.assign, &scope)?;
                Ok(Transition::Next(&pass.next, output))
            }
            State::Choice(choice) => {
                for rule in &choice.choices {
                    let met = eval(&rule.condition, &scope)?;
                    let met = met.as_bool().ok_or_else(|| {
                        query_error(format!("Condition must be true or false, not {met}"))
                    })?;
                    if met {
                        self.assign(&rule.assign, &scope)?;
                        return Ok(Transition::Next(&rule.next, input));
                    }
                }
                Ok(Transition::Next(&choice.default, input))
            }
            State::Wait(wait) => {
                let seconds = eval(&wait.seconds, &scope)?;
                let seconds = seconds.as_u64().ok_or_else(|| {
                    query_error(format!("Seconds must be a whole number, not {seconds}"))
                })?;
                services.wait(Duration::from_secs(seconds)).await;
                self.assign(&wait.assign, &scope)?;
                Ok(Transition::Next(&wait.next, input))
            }
            State::Task(task) => match self.attempt(task, &mut scope, services).await {
                Ok(output) => Ok(Transition::Next(&task.next, output)),
                Err(error) => {
                    let catcher = task
                        .catch
                        .iter()
                        .find(|catcher| matches(&catcher.error_equals, &error.error));
                    let Some(catcher) = catcher else { return Err(error) };
                    let output = json!({"Error": error.error, "Cause": error.cause});
                    set_states(&mut scope, "errorOutput", output.clone());
                    self.assign(&catcher.assign, &scope)?;
                    Ok(Transition::Next(&catcher.next, output))
                }
            },
            State::Succeed(_) => Ok(Transition::End(ExecutionEnd::Succeeded(input))),
            State::Fail(fail) => {
                let text = |value: Value| value.as_str().map_or(value.to_string(), str::to_owned);
                let error = text(eval(&fail.error, &scope)?);
                Ok(Transition::End(failed(&error, text(eval(&fail.cause, &scope)?))))
            }
        }
    }

    /// Calls the service, with the state's retries, and makes the state's assignments.
    async fn attempt(
        &mut self,
        task: &Task,
        scope: &mut Map<String, Value>,
        services: &impl Services,
    ) -> Result<Value, ServiceError> {
        let mut retries = vec![0; task.retry.len()];
        loop {
            // Evaluated anew at every attempt, as Transition Functions does.
            let result = match eval(&task.arguments, scope) {
                Ok(arguments) => {
                    let call = services.call(task.resource, arguments);
                    let limit = Duration::from_secs(task.timeout_seconds);
                    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                        let cause = format!("no answer within {} s", task.timeout_seconds);
                        Err(ServiceError { error: "States.Timeout".to_owned(), cause })
                    })
                }
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(result) => {
                    set_states(scope, "result", result.clone());
                    match self.assign(&task.assign, scope) {
                        Ok(()) => return Ok(result),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let retrier = task
                .retry
                .iter()
                .zip(&mut retries)
                .find(|(retrier, _)| matches(&retrier.error_equals, &error.error));
            match retrier {
                Some((retrier, done)) if *done < retrier.max_attempts => {
                    services.wait(delay(retrier, *done)).await;
                    *done += 1;
                    self.usage.transitions += 1;
                    self.usage.history_events += RETRY_EVENTS;
                }
                _ => return Err(error),
            }
        }
    }

    /// The variables and `$states`, which the expressions of a state see.
    fn scope(&self, state: &str, input: &Value, now: DateTime<Utc>) -> Map<String, Value> {
        let mut scope = self.variables.clone();
        scope.insert(
            "states".to_owned(),
            json!({
                "input": input,
                "context": {
                    "Execution": {
                        "Id": self.execution.id,
                        "Name": self.execution.name,
                        "Input": self.execution.input,
                        "StartTime": iso(self.started),
                    },
                    "State": {"Name": state, "EnteredTime": iso(now)},
                },
            }),
        );
        scope
    }

    /// Makes assignments. All of them see the old values.
    fn assign(&mut self, assign: &Assign, scope: &Map<String, Value>) -> Result<(), ServiceError> {
        let values: Vec<_> = assign
            .iter()
            .map(|(name, value)| Ok((name.clone(), eval(value, scope)?)))
            .collect::<Result<_, ServiceError>>()?;
        self.variables.extend(values);
        Ok(())
    }
}

/// TaskScheduled, TaskStarted, and TaskFailed or TaskSucceeded.
const RETRY_EVENTS: u32 = 3;

impl State {
    /// Its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Pass(_) => "Pass",
            Self::Choice(_) => "Choice",
            Self::Wait(_) => "Wait",
            Self::Task(_) => "Task",
            Self::Succeed(_) => "Succeed",
            Self::Fail(_) => "Fail",
        }
    }

    /// Events that it leaves in the execution's history, without retries.
    pub(super) fn history_events(&self) -> u32 {
        match self {
            Self::Fail(_) => 1,
            Self::Task(_) => 2 + RETRY_EVENTS,
            Self::Pass(_) | Self::Choice(_) | Self::Wait(_) | Self::Succeed(_) => 2,
        }
    }
}

fn eval(template: &Template, scope: &Map<String, Value>) -> Result<Value, ServiceError> {
    template.evaluate(scope).map_err(query_error)
}

fn query_error(cause: String) -> ServiceError {
    ServiceError { error: "States.QueryEvaluationError".to_owned(), cause }
}

fn set_states(scope: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(states) = scope.get_mut("states").and_then(Value::as_object_mut) {
        states.insert(name.to_owned(), value);
    }
}

/// `States.ALL` matches everything, `States.TaskFailed` everything but a timeout.
fn matches(names: &[String], error: &str) -> bool {
    names.iter().any(|name| match name.as_str() {
        "States.ALL" => true,
        "States.TaskFailed" => error != "States.Timeout",
        name => name == error,
    })
}

fn delay(retrier: &Retrier, done: u32) -> Duration {
    let grown = f64::from(retrier.interval_seconds)
        * retrier.backoff_rate.powi(i32::try_from(done).unwrap_or(i32::MAX));
    let most = f64::from(retrier.max_delay_seconds.unwrap_or(31_622_400));
    Duration::from_secs_f64(grown.min(most))
}

fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
