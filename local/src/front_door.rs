//! AgentCore's front door: InvokeAgentRuntime over HTTP, handed to the agent-runtime's container
//! port as AgentCore hands it.

use std::net::SocketAddr;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use agent_runtime::{REQUEST_HEADER, SESSION_HEADER};
use anyhow::Result;
use journal::SessionId;
use serde_json::json;
use uuid::Uuid;

use crate::server::Server;

/// AgentCore's limit of a payload in bytes.
const MAX_PAYLOAD_BYTES: usize = 100 * 1024 * 1024;

const CLIENT_ERROR: &str = "RuntimeClientError";

/// What AgentCore says if the container does not answer.
const NOT_STARTED: &str =
    "Runtime initialization failed. Please check your CloudWatch logs for more information.";

/// Headers that AgentCore hands on.
const FORWARDED: [&str; 4] = ["content-type", "baggage", "traceparent", "tracestate"];

#[derive(Clone)]
struct Target {
    client: reqwest::Client,
    invocations: String,
}

/// Serves the front door on a free port until this process ends.
///
/// # Errors
/// If no port can be had.
pub fn start(agent: &str) -> Result<SocketAddr> {
    let target = Data::new(Target {
        client: reqwest::Client::builder().no_proxy().build()?,
        invocations: format!("http://{agent}/invocations"),
    });
    let server = Server::start(0, move |routes| {
        routes
            .app_data(target.clone())
            .app_data(web::PayloadConfig::new(MAX_PAYLOAD_BYTES))
            .route("/runtimes/{arn}/invocations", web::post().to(invoke));
    })?;
    Ok(server.address)
}

async fn invoke(http: HttpRequest, body: Bytes, target: Data<Target>) -> HttpResponse {
    let header = |name: &str| http.headers().get(name).and_then(|value| value.to_str().ok());
    let session_id = header(SESSION_HEADER).unwrap_or_default();
    if let Err(error) = session_id.parse::<SessionId>() {
        return error_answer(StatusCode::BAD_REQUEST, "ValidationException", &error.to_string());
    }
    let mut request = target
        .client
        .post(&target.invocations)
        .header(SESSION_HEADER, session_id)
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
            .insert_header((SESSION_HEADER, session_id))
            .body(body),
        _ => client_error(status.as_u16()),
    }
}

/// Any failure of the container reaches the caller as 424, with nothing of what the container said.
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
