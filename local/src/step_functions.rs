//! Step Functions' API: starts, stops, describes and lists executions.

#![expect(clippy::indexing_slicing, reason = "of a JSON value, which has null where nothing is")]

use std::path::Path;
use std::sync::Arc;

use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, rt};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::asl::{Execution, Resource, ServiceError, Services};
use crate::executions::{Executions, Record, epoch_seconds};
use crate::server::Server;
use crate::system::System;

/// The ARN of the one state machine.
pub const STATE_MACHINE_ARN: &str = "arn:aws:states:us-east-1:000000000000:stateMachine:session";

/// What the name of an execution must not have (Step Functions' API reference).
const NOT_IN_A_NAME: &str = "<>{}[]?*\"#%\\^|~`$&,;:/";

/// Executions in one answer of ListExecutions, and events in one of GetExecutionHistory.
const MAX_RESULTS: usize = 1_000;

#[derive(Clone)]
struct State {
    system: Arc<System>,
    executions: Arc<Executions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartExecution {
    state_machine_arn: String,
    name: Option<String>,
    input: Option<String>,
}

/// The input of the other operations.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    execution_arn: String,
    state_machine_arn: Option<String>,
    status_filter: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
    #[serde(default)]
    reverse_order: bool,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    cause: Value,
}

/// An error's name and message.
struct Refusal(&'static str, String);

/// Serves the API on `port` of 127.0.0.1 (0: any) until it is stopped. Executions run on `system` and
/// are kept in `file`. `say` gets a line for each start and each end.
///
/// # Errors
/// If the port is taken, or the file cannot be opened.
pub fn start(
    port: u16,
    system: Arc<System>,
    file: Option<&Path>,
    say: Option<fn(&str)>,
) -> Result<Server> {
    let state = State { system, executions: Arc::new(Executions::open(file, say)?) };
    Server::start(port, move |routes| {
        routes.app_data(Data::new(state.clone())).route("/", web::post().to(answer));
    })
    .with_context(|| format!("cannot serve Step Functions on 127.0.0.1:{port}"))
}

async fn answer(http: HttpRequest, body: Bytes, state: Data<State>) -> HttpResponse {
    let target = http.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    let result = match target.and_then(|target| target.strip_prefix("AWSStepFunctions.")) {
        Some("StartExecution") => start_execution(&body, &state),
        Some("DescribeExecution") => parse(&body).and_then(|it| describe_execution(&it, &state)),
        Some("ListExecutions") => parse(&body).and_then(|it| list_executions(&it, &state)),
        Some("StopExecution") => parse(&body).and_then(|it| stop_execution(&it, &state)),
        Some("GetExecutionHistory") => parse(&body).and_then(|it| get_history(&it, &state)),
        _ => Err(Refusal(
            "UnknownOperationException",
            "on this machine, only StartExecution, DescribeExecution, ListExecutions, \
             StopExecution and GetExecutionHistory are served"
                .to_owned(),
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
        return Err(other_state_machine());
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
    let (arn, started) = (execution.id.clone(), epoch_seconds());
    let described = json!({
        "executionArn": arn,
        "stateMachineArn": STATE_MACHINE_ARN,
        "name": name,
        "status": "RUNNING",
        "startDate": started,
        "input": execution.input.to_string(),
    });
    let request = json!([request.name, request.input]);
    let record = Record { request: request.clone(), described, history: Vec::new(), abort: None };
    let taken = state.executions.add(&arn, record, |first| {
        // The same request again is answered as the first one was, while the execution runs.
        if first.request == request && first.described["status"] == "RUNNING" {
            return Ok(json!({"executionArn": arn, "startDate": first.described["startDate"]}));
        }
        Err(Refusal("ExecutionAlreadyExists", format!("{arn} exists")))
    });
    if let Some(answer) = taken {
        return answer;
    }
    let details = json!({"input": execution.input.to_string()});
    state.executions.note(
        &arn,
        "ExecutionStarted",
        Some(("executionStartedEventDetails", details)),
    );
    let (own, id) = (state.clone(), arn.clone());
    let run = rt::spawn(async move {
        let recorded = Recorded { state: &own, arn: &id };
        let end = own.system.run_with(&execution, &recorded).await;
        own.executions.end(&id, Ok(end));
    });
    state.executions.with(&arn, |record| record.abort = Some(run.abort_handle()));
    Ok(json!({"executionArn": arn, "startDate": started}))
}

/// The system's services, with the states of an execution noted in its history.
struct Recorded<'a> {
    state: &'a State,
    arn: &'a str,
}

impl Services for Recorded<'_> {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        self.state.system.call(resource, arguments).await
    }

    fn entered(&self, kind: &str, name: &str, input: &Value) {
        let details = json!({"name": name, "input": input.to_string()});
        let details = Some(("stateEnteredEventDetails", details));
        self.state.executions.note(self.arn, &format!("{kind}StateEntered"), details);
    }
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

fn other_state_machine() -> Refusal {
    let message = format!("the state machine on this machine is {STATE_MACHINE_ARN}");
    Refusal("StateMachineDoesNotExist", message)
}

fn unknown(arn: &str) -> Refusal {
    Refusal("ExecutionDoesNotExist", format!("{arn} was not started here"))
}

fn describe_execution(request: &Request, state: &State) -> Result<Value, Refusal> {
    let arn = &request.execution_arn;
    state.executions.with(arn, |record| record.described.clone()).ok_or_else(|| unknown(arn))
}

fn stop_execution(request: &Request, state: &State) -> Result<Value, Refusal> {
    let arn = &request.execution_arn;
    let abort = state.executions.with(arn, |record| record.abort.take());
    // One that has ended stays as it is.
    if let Some(abort) = abort.ok_or_else(|| unknown(arn))? {
        abort.abort();
        let words = (request.error.clone(), request.cause.clone());
        state.executions.end(arn, Err(words));
    }
    Ok(json!({"stopDate": describe_execution(request, state)?["stopDate"]}))
}

fn list_executions(request: &Request, state: &State) -> Result<Value, Refusal> {
    if request.state_machine_arn.as_deref() != Some(STATE_MACHINE_ARN) {
        return Err(other_state_machine());
    }
    let mut all = state.executions.newest_first();
    if let Some(status) = &request.status_filter {
        let known = ["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "PENDING_REDRIVE"];
        if !known.contains(&status.as_str()) {
            let text = format!("statusFilter must be one of {}", known.join(", "));
            return Err(Refusal("ValidationException", text));
        }
        all.retain(|described| described["status"] == **status);
    }
    let shown = ["executionArn", "stateMachineArn", "name", "status", "startDate", "stopDate"];
    for described in &mut all {
        if let Some(fields) = described.as_object_mut() {
            fields.retain(|name, _| shown.contains(&name.as_str()));
        }
    }
    page("executions", all, request)
}

fn get_history(request: &Request, state: &State) -> Result<Value, Refusal> {
    let arn = &request.execution_arn;
    let history = state.executions.with(arn, |record| record.history.clone());
    let mut events = history.ok_or_else(|| unknown(arn))?;
    if request.reverse_order {
        events.reverse();
    }
    page("events", events, request)
}

/// A page of a list; the token of the next one is where it begins.
fn page(name: &str, all: Vec<Value>, request: &Request) -> Result<Value, Refusal> {
    let begin = request.next_token.as_deref().map_or(Ok(0), str::parse::<usize>);
    let begin = begin.map_err(|_| Refusal("InvalidToken", "the token is not valid".to_owned()))?;
    let size = request.max_results.filter(|size| (1..=MAX_RESULTS).contains(size));
    let end = begin.saturating_add(size.unwrap_or(100));
    let more = (end < all.len()).then(|| end.to_string());
    let items = Vec::from_iter(all.into_iter().take(end).skip(begin));
    Ok(json!({name: items, "nextToken": more}))
}
