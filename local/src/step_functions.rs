//! Step Functions' API, as far as starting an execution and asking for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, rt};
use anyhow::{Context, Result};
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::asl::{Execution, ExecutionEnd};
use crate::server::Server;
use crate::system::System;

/// The ARN of the one state machine.
pub const STATE_MACHINE_ARN: &str = "arn:aws:states:us-east-1:000000000000:stateMachine:session";

/// What the name of an execution must not have (Step Functions' API reference).
const NOT_IN_A_NAME: &str = "<>{}[]?*\"#%\\^|~`$&,;:/";

/// An execution by its ARN: as it was started, and as DescribeExecution answers it.
type Executions = Mutex<HashMap<String, (StartExecution, Value)>>;

#[derive(Clone)]
struct State {
    system: Arc<System>,
    executions: Arc<Executions>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct StartExecution {
    state_machine_arn: String,
    name: Option<String>,
    input: Option<String>,
}

/// An error's name and message.
struct Refusal(&'static str, String);

/// Serves the API on `port` of 127.0.0.1 (0: any), with executions that run on `system` until it is
/// stopped.
///
/// # Errors
/// If the port is taken.
pub fn start(port: u16, system: Arc<System>) -> Result<Server> {
    let state = State { system, executions: Arc::default() };
    Server::start(port, move |routes| {
        routes.app_data(Data::new(state.clone())).route("/", web::post().to(answer));
    })
    .with_context(|| format!("cannot serve Step Functions on 127.0.0.1:{port}"))
}

async fn answer(http: HttpRequest, body: Bytes, state: Data<State>) -> HttpResponse {
    let target = http.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    let result = match target.and_then(|target| target.strip_prefix("AWSStepFunctions.")) {
        Some("StartExecution") => start_execution(&body, &state),
        Some("DescribeExecution") => describe_execution(&body, &state),
        _ => Err(Refusal(
            "UnknownOperationException",
            "only StartExecution and DescribeExecution are served on this machine".to_owned(),
        )),
    };
    match result {
        Ok(answer) => HttpResponse::Ok().content_type("application/x-amz-json-1.0").json(answer),
        Err(Refusal(name, message)) => HttpResponse::BadRequest()
            .content_type("application/x-amz-json-1.0")
            .json(json!({"__type": name, "message": message})),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal("ValidationException", error.to_string()))
}

fn start_execution(body: &[u8], state: &State) -> Result<Value, Refusal> {
    let request: StartExecution = parse(body)?;
    if request.state_machine_arn != STATE_MACHINE_ARN {
        let message = format!("the state machine on this machine is {STATE_MACHINE_ARN}");
        return Err(Refusal("StateMachineDoesNotExist", message));
    }
    let input = input(request.input.as_deref().unwrap_or("{}"))?;
    let name = request.name.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !NOT_IN_A_NAME.contains(c);
    if !name.chars().all(allowed) || !(1..=80).contains(&name.chars().count()) {
        let rule =
            format!("a name is 1 to 80 characters, without spaces and any of {NOT_IN_A_NAME}");
        return Err(Refusal("InvalidName", rule));
    }
    let execution = Execution::new(&name, input);
    let arn = execution.id.clone();
    let mut executions = state.executions.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((first, described)) = executions.get(&arn) {
        // The same request again is answered as the first one was, while the execution runs.
        if *first == request && described["status"] == "RUNNING" {
            return Ok(json!({"executionArn": arn, "startDate": described["startDate"]}));
        }
        return Err(Refusal("ExecutionAlreadyExists", format!("{arn} exists")));
    }
    let started = epoch_seconds();
    let described = json!({
        "executionArn": arn,
        "stateMachineArn": STATE_MACHINE_ARN,
        "name": name,
        "status": "RUNNING",
        "startDate": started,
        "input": execution.input.to_string(),
    });
    executions.insert(arn.clone(), (request, described));
    let state = state.clone();
    rt::spawn(async move {
        let outcome = state.system.run(&execution).await;
        let mut executions = state.executions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, described)) = executions.get_mut(&execution.id) {
            described["stopDate"] = epoch_seconds();
            match outcome {
                ExecutionEnd::Succeeded(output) => {
                    described["status"] = json!("SUCCEEDED");
                    described["output"] = json!(output.to_string());
                }
                ExecutionEnd::Failed { error, cause } => {
                    described["status"] = json!("FAILED");
                    described["error"] = json!(error);
                    described["cause"] = json!(cause);
                }
            }
        }
    });
    Ok(json!({"executionArn": arn, "startDate": started}))
}

fn input(text: &str) -> Result<Value, Refusal> {
    let refused = |error: serde_json::Error| {
        let mut message = error.to_string();
        if message.starts_with("recursion limit") {
            message = "the input is nested 120 levels or more: a limit of this machine, not of \
                       Step Functions"
                .to_owned();
        }
        Refusal("InvalidExecutionInput", message)
    };
    let input = serde_json::from_str(text).map_err(refused)?;
    // With the levels that the interpreter adds, JSON ends at 127.
    serde_json::from_str::<Value>(&format!("[[[[[[[[{text}]]]]]]]]")).map_err(refused)?;
    Ok(input)
}

fn describe_execution(body: &[u8], state: &State) -> Result<Value, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct DescribeExecution {
        execution_arn: String,
    }
    let DescribeExecution { execution_arn } = parse(body)?;
    let executions = state.executions.lock().unwrap_or_else(PoisonError::into_inner);
    let described = executions.get(&execution_arn).map(|(_, described)| described.clone());
    described.ok_or_else(|| {
        Refusal("ExecutionDoesNotExist", format!("{execution_arn} was not started here"))
    })
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are exact for as long as it matters")]
fn epoch_seconds() -> Value {
    json!(Utc::now().timestamp_millis() as f64 / 1e3)
}
