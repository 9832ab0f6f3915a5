//! `POST /invocations`: journal the request, have a task started, answer at once.
//!
//! The body is read and parsed before AGENT_ENTRYPOINT_STARTED is written, because it carries the
//! run's id and the timestamp of the cause, behind which the event has to sort. Whether it was
//! understood is decided on after the event: then the failure is journaled too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::Addr;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use journal::{Draft, Journal, SessionId, Source, Status, TraceParent};
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Invocation;
use crate::request::{BadRequest, Request, is_id, parse};
use crate::supervisor::{Start, StartError, Supervisor};

/// The header in which AgentCore gives the session id.
pub const SESSION_HEADER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id";
/// The header in which AgentCore gives the request's id.
pub const REQUEST_HEADER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id";

const BODY_DEADLINE: Duration = Duration::from_secs(60);
const STARTED_DEADLINE: Duration = Duration::from_secs(10);
const FAILED_DEADLINE: Duration = Duration::from_secs(5);

/// What the entrypoint needs of the process around it.
#[derive(Clone)]
pub(crate) struct Entrypoint {
    pub journal: Journal,
    pub supervisor: Addr<Supervisor>,
    pub draining: Arc<AtomicBool>,
    pub max_body_bytes: usize,
    /// The runtime of the journal, and what the shutdown waits for.
    pub runtime: Handle,
    pub tasks: TaskTracker,
}

/// A request that started no task: the answer's status, the event's `ErrorType`, and the text.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str, String);

impl From<BadRequest> for Refusal {
    fn from(error: BadRequest) -> Self {
        Self(StatusCode::BAD_REQUEST, "InvalidRequest", error.to_string())
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::ShuttingDown => Self::shutting_down(),
            other => Self::internal("JournalError", other.to_string()),
        }
    }
}

impl Refusal {
    fn shutting_down() -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "ShuttingDown", StartError::ShuttingDown.to_string())
    }

    fn internal(error_type: &'static str, message: String) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error_type, message)
    }
}

/// The handler of `POST /invocations`.
pub(crate) async fn invocations(
    http: HttpRequest,
    payload: Payload,
    entrypoint: Data<Entrypoint>,
) -> HttpResponse {
    match entrypoint.answer(http.headers(), payload).await {
        Ok(answer) => HttpResponse::Ok().content_type("application/json").body(answer),
        Err(Refusal(status, _, error)) => {
            HttpResponse::build(status).json(json!({ "error": error }))
        }
    }
}

impl Entrypoint {
    /// Answers a request. From its head on it is handled in tasks of its own: it has to come to its
    /// end, and its last event, also when the caller hangs up in the middle.
    async fn answer(&self, headers: &HeaderMap, payload: Payload) -> Result<Bytes, Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::shutting_down());
        }
        let (header, request_id) = (session_id(headers)?, request_id(headers));
        let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let traceparent = traceparent.map(str::to_owned);
        let entrypoint = self.clone();
        // On this thread, which reads the socket, until the body is there.
        let handled = actix_web::rt::spawn(async move {
            let body = entrypoint.read(payload).await;
            let request = body.and_then(|body| {
                Ok(parse(&body, header.as_ref(), &request_id, traceparent.as_deref())?)
            });
            let (session_id, invocation_id) = match (&request, header) {
                (Ok(request), _) => (request.session_id.clone(), request.invocation_id.clone()),
                (Err(_), Some(header)) => (header, request_id),
                (Err(_), None) => return Ok(request.map(|_| Bytes::new())),
            };
            let (tasks, runtime) = (entrypoint.tasks.clone(), entrypoint.runtime.clone());
            let start = async move { entrypoint.start(session_id, invocation_id, request).await };
            tasks.spawn_on(start, &runtime).await
        });
        handled.await.flatten().unwrap_or_else(|error| {
            Err(Refusal::internal("InternalError", format!("the entrypoint failed: {error}")))
        })
    }

    async fn read(&self, payload: Payload) -> Result<Bytes, Refusal> {
        let limit = self.max_body_bytes;
        match tokio::time::timeout(BODY_DEADLINE, payload.to_bytes_limited(limit)).await {
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(error))) => Err(Refusal(
                StatusCode::BAD_REQUEST,
                "InvalidRequest",
                format!("the body was not received whole: {error}"),
            )),
            Ok(Err(_)) => Err(Refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                "PayloadTooLarge",
                format!("the body is larger than {limit} bytes (MAX_BODY_BYTES)"),
            )),
            Err(_) => Err(Refusal(
                StatusCode::BAD_REQUEST,
                "InvalidRequest",
                format!("the body was not received within {} s", BODY_DEADLINE.as_secs()),
            )),
        }
    }

    /// Journals the request, starts its task, and journals the failure if there is one.
    async fn start(
        &self,
        session_id: SessionId,
        invocation_id: String,
        request: Result<Request, Refusal>,
    ) -> Result<Bytes, Refusal> {
        let traceparent = request.as_ref().ok().and_then(|request| request.traceparent.as_ref());
        let trace_id = traceparent.map(TraceParent::trace_id);
        let journal =
            self.journal.session(session_id, invocation_id, Source::Agent).with_trace_id(trace_id);
        let after = request.as_ref().ok().and_then(|request| request.after);
        let draft = Draft::new(Status::AgentEntrypointStarted);
        let started = journal.append(draft, after, STARTED_DEADLINE).await;
        let cause = started.as_ref().ok().copied().or(after);
        let answer = match (started, request) {
            (Err(error), _) => {
                Err(Refusal::internal("JournalError", journal::display_chain(&error)))
            }
            (Ok(_), Err(refusal)) => Err(refusal),
            (Ok(after), Ok(request)) => {
                let invocation = Invocation {
                    session_id: request.session_id,
                    invocation_id: request.invocation_id,
                    input: request.input,
                    environment: request.environment,
                    context: crate::Context::default(),
                };
                let start = Start { journal: journal.clone(), invocation, after };
                match self.supervisor.send(start).await {
                    Ok(answer) => answer.map_err(Refusal::from),
                    Err(error) => Err(Refusal::internal(
                        "InternalError",
                        format!("the supervisor is gone: {error}"),
                    )),
                }
            }
        };
        if let Err(Refusal(_, error_type, message)) = &answer {
            let session_id = journal.session_id();
            tracing::warn!(%session_id, error_type, "invocation refused: {message}");
            let draft = Draft::failure(Status::AgentEntrypointFailed, error_type, message);
            if let Err(error) = journal.append(draft, cause, FAILED_DEADLINE).await {
                let error = journal::display_chain(&error);
                tracing::error!(%session_id, "the refusal is not in the journal: {error}");
            }
        }
        answer
    }
}

fn session_id(headers: &HeaderMap) -> Result<Option<SessionId>, BadRequest> {
    let Some(header) = headers.get(SESSION_HEADER) else { return Ok(None) };
    // A header that is not text cannot be an id either.
    Ok(Some(header.to_str().unwrap_or_default().parse::<SessionId>()?))
}

/// The request's id, or a new one where AgentCore (or `curl`) gave none that can be journaled.
fn request_id(headers: &HeaderMap) -> String {
    let header = headers.get(REQUEST_HEADER).and_then(|header| header.to_str().ok());
    match header {
        Some(id) if is_id(id) => id.to_owned(),
        _ => Uuid::new_v4().to_string(),
    }
}
