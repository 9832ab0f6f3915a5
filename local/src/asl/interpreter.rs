use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::definition::{Resource, Retrier, State, StateMachine, Task};
use super::expression::evaluate;

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

    /// Lets time pass: the Wait state, and the delay before a retry.
    fn wait(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }
}

/// What an execution uses of what Step Functions bills and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// State transitions: one for each state entered and for each retry.
    pub transitions: u32,
    /// Events in the execution's history.
    pub history_events: u32,
}

/// A failed call, in the words that Retry and Catch match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceError {
    /// Such as `DynamoDB.ConditionalCheckFailedException`.
    pub error: String,
    /// What a person reads.
    pub cause: String,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
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
    pub async fn run(&self, machine: &StateMachine, services: &impl Services) -> (Outcome, Usage) {
        let mut run = Run {
            execution: self,
            started: services.now(),
            variables: Map::new(),
            // ExecutionStarted, and the event that ends it.
            usage: Usage { transitions: 0, history_events: 2 },
        };
        let mut input = self.input.clone();
        let mut name = machine.start_at.as_str();
        let outcome = loop {
            let Some(state) = machine.states.get(name) else {
                break failed("States.Runtime", format!("there is no state {name:?}"));
            };
            run.usage.transitions += 1;
            run.usage.history_events += state.history_events();
            if run.usage.history_events > MAX_HISTORY_EVENTS {
                let cause = format!("the execution has more than {MAX_HISTORY_EVENTS} events");
                break failed("States.Runtime", cause);
            }
            match run.enter(name, state, input, services).await {
                Ok(Step::Next(next, output)) => (name, input) = (next, output),
                Ok(Step::End(outcome)) => break outcome,
                Err(ServiceError { error, cause }) => break Outcome::Failed { error, cause },
            }
        };
        (outcome, run.usage)
    }
}

fn failed(error: &str, cause: String) -> Outcome {
    Outcome::Failed { error: error.to_owned(), cause }
}

struct Run<'a> {
    execution: &'a Execution,
    started: DateTime<Utc>,
    variables: Map<String, Value>,
    usage: Usage,
}

enum Step<'a> {
    Next(&'a str, Value),
    End(Outcome),
}

impl Run<'_> {
    async fn enter<'a>(
        &mut self,
        name: &str,
        state: &'a State,
        input: Value,
        services: &impl Services,
    ) -> Result<Step<'a>, ServiceError> {
        let mut scope = self.scope(name, &input, services.now());
        match state {
            State::Pass(pass) => {
                let output = match &pass.output {
                    Some(output) => eval(output, &scope)?,
                    None => input,
                };
                self.assign(&pass.assign, &scope)?;
                Ok(Step::Next(&pass.next, output))
            }
            State::Choice(choice) => {
                for rule in &choice.choices {
                    let met = eval(&rule.condition, &scope)?;
                    let met = met.as_bool().ok_or_else(|| {
                        query_error(format!("Condition must be true or false, not {met}"))
                    })?;
                    if met {
                        self.assign(&rule.assign, &scope)?;
                        return Ok(Step::Next(&rule.next, input));
                    }
                }
                Ok(Step::Next(&choice.default, input))
            }
            State::Wait(wait) => {
                let seconds = eval(&wait.seconds, &scope)?;
                let seconds = seconds.as_u64().ok_or_else(|| {
                    query_error(format!("Seconds must be a whole number, not {seconds}"))
                })?;
                services.wait(Duration::from_secs(seconds)).await;
                self.assign(&wait.assign, &scope)?;
                Ok(Step::Next(&wait.next, input))
            }
            State::Task(task) => match self.attempt(task, &mut scope, services).await {
                Ok(output) => Ok(Step::Next(&task.next, output)),
                Err(error) => {
                    let catcher = task
                        .catch
                        .iter()
                        .find(|catcher| matches(&catcher.error_equals, &error.error));
                    let Some(catcher) = catcher else { return Err(error) };
                    let output = json!({"Error": error.error, "Cause": error.cause});
                    set_states(&mut scope, "errorOutput", output.clone());
                    self.assign(&catcher.assign, &scope)?;
                    Ok(Step::Next(&catcher.next, output))
                }
            },
            State::Succeed(_) => Ok(Step::End(Outcome::Succeeded(input))),
            State::Fail(fail) => {
                let text = |value: Value| value.as_str().map_or(value.to_string(), str::to_owned);
                let error = text(eval(&fail.error, &scope)?);
                Ok(Step::End(failed(&error, text(eval(&fail.cause, &scope)?))))
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
            // Evaluated anew at every attempt, as Step Functions does.
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

    /// What expressions of a state see: the variables, and `$states`.
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

    /// Makes assignments; all of them see the values from before any of them.
    fn assign(
        &mut self,
        assign: &Map<String, Value>,
        scope: &Map<String, Value>,
    ) -> Result<(), ServiceError> {
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
    /// Events that it leaves in the execution's history, without retries.
    fn history_events(&self) -> u32 {
        match self {
            Self::Fail(_) => 1,
            Self::Task(_) => 2 + RETRY_EVENTS,
            Self::Pass(_) | Self::Choice(_) | Self::Wait(_) | Self::Succeed(_) => 2,
        }
    }
}

fn eval(value: &Value, scope: &Map<String, Value>) -> Result<Value, ServiceError> {
    evaluate(value, scope).map_err(query_error)
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
