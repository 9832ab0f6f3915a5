//! AgentCore's API: InvokeAgentRuntime over HTTP, passed on to a container as AgentCore does it, and
//! StopRuntimeSession.

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use agent_runtime::{REQUEST_HEADER, SESSION_HEADER};
use anyhow::{Context, Result};
use journal::{InvalidSessionId, SessionId};
use serde_json::json;
use uuid::Uuid;

use crate::agentcore::Containers;
use crate::server::Server;

/// AgentCore's limit of a payload in bytes.
const MAX_PAYLOAD_BYTES: usize = 100 * 1024 * 1024;

const CLIENT_ERROR: &str = "RuntimeClientError";

/// What AgentCore says if the container does not answer.
const NOT_STARTED: &str =
    "Runtime initialization failed. Please check your CloudWatch logs for more information.";

/// Headers that AgentCore passes on.
const FORWARDED: [&str; 4] = ["content-type", "baggage", "traceparent", "tracestate"];

/// The containers to which the front door passes requests.
#[derive(Clone)]
pub enum Behind {
    /// A container for each session.
    Containers(Arc<Containers>),
    /// One container for all, at this address.
    One(String),
}

impl Behind {
    async fn address(&self, session_id: &SessionId) -> Result<String> {
        match self {
            Self::Containers(containers) => containers.address(session_id).await,
            Self::One(address) => Ok(address.clone()),
        }
    }
}

#[derive(Clone)]
struct State {
    client: reqwest::Client,
    behind: Behind,
}

/// Serves the front door of one container on a free port until this process ends.
///
/// # Errors
/// If no port can be had.
pub fn start(agent: &str) -> Result<SocketAddr> {
    Ok(start_on(0, Behind::One(agent.to_owned()))?.address)
}

/// Serves the front door on `port` of 127.0.0.1 (0: any) until it is stopped.
///
/// # Errors
/// If the port is taken.
pub fn start_on(port: u16, behind: Behind) -> Result<Server> {
    let state = State { client: reqwest::Client::builder().no_proxy().build()?, behind };
    let state = Data::new(state);
    Server::start(port, move |routes| {
        routes
            .app_data(state.clone())
            .app_data(web::PayloadConfig::new(MAX_PAYLOAD_BYTES))
            .route("/runtimes/{arn}/invocations", web::post().to(invoke))
            .route("/runtimes/{arn}/stopruntimesession", web::post().to(stop));
    })
    .with_context(|| format!("cannot serve AgentCore on 127.0.0.1:{port}"))
}

fn session(http: &HttpRequest) -> Result<SessionId, InvalidSessionId> {
    let header = http.headers().get(SESSION_HEADER).and_then(|value| value.to_str().ok());
    header.unwrap_or_default().parse()
}

fn invalid(error: &InvalidSessionId) -> HttpResponse {
    error_answer(StatusCode::BAD_REQUEST, "ValidationException", &error.to_string())
}

/// StopRuntimeSession.
async fn stop(http: HttpRequest, state: Data<State>) -> HttpResponse {
    let session_id = match session(&http) {
        Ok(session_id) => session_id,
        Err(error) => return invalid(&error),
    };
    let process = match &state.behind {
        Behind::Containers(containers) => containers.process(&session_id),
        Behind::One(_) => None,
    };
    let Some(process) = process.filter(|process| !process.has_ended()) else {
        let message = "the session has no container";
        return error_answer(StatusCode::NOT_FOUND, "ResourceNotFoundException", message);
    };
    process.stop().await;
    HttpResponse::Ok().insert_header((SESSION_HEADER, session_id.as_str())).json(json!({}))
}

async fn invoke(http: HttpRequest, body: Bytes, state: Data<State>) -> HttpResponse {
    let session_id = match session(&http) {
        Ok(session_id) => session_id,
        Err(error) => return invalid(&error),
    };
    let address = match state.behind.address(&session_id).await {
        Ok(address) => address,
        Err(error) => {
            telemetry::log_line(&format!("warning: no container for {session_id}: {error:#}"));
            return error_answer(StatusCode::FORBIDDEN, CLIENT_ERROR, NOT_STARTED);
        }
    };
    let header = |name: &str| http.headers().get(name).and_then(|value| value.to_str().ok());
    let mut request = state
        .client
        .post(format!("http://{address}/invocations"))
        .header(SESSION_HEADER, session_id.as_str())
        .header(REQUEST_HEADER, Uuid::new_v4().to_string());
    for name in FORWARDED {
        request = match header(name) {
            Some(value) => request.header(name, value),
            None => request,
        };
    }
    let answer = match request.body(body.to_vec()).send().await {
        Ok(answer) => answer,
        Err(_) => return error_answer(StatusCode::FORBIDDEN, CLIENT_ERROR, NOT_STARTED),
    };
    let status = answer.status();
    match answer.bytes().await {
        Ok(body) if status.is_success() => HttpResponse::Ok()
            .content_type("application/json")
            .insert_header((SESSION_HEADER, session_id.as_str()))
            .body(body),
        _ => client_error(status.as_u16()),
    }
}

/// The caller gets any failure of the container as 424, without the container's message.
fn client_error(status: u16) -> HttpResponse {
    let message = format!(
        "Received error ({status}) from runtime. Please check your CloudWatch logs for more information."
    );
    error_answer(StatusCode::FAILED_DEPENDENCY, CLIENT_ERROR, &message)
}

fn error_answer(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header(("x-amzn-errortype", code))
        .insert_header(("x-amzn-requestid", Uuid::new_v4().to_string()))
        .json(json!({ "message": message }))
}
