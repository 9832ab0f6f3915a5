//! `POST /invocations`: journal the request, have a task started, answer at once.
//!
//! The body is read and parsed before AGENT_ENTRYPOINT_STARTED is written, because it carries the
//! run's id and the timestamp of the cause, behind which the event has to sort. Whether it was
//! understood is decided on after the event: then the failure is journaled too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use actix::Addr;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::{BoxFuture, Shared};
use journal::{
    Draft, Journal, SessionId, SessionJournal, Source, Status, TraceParent, span_attributes,
};
use opentelemetry::trace::{SpanKind, SpanRef, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
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
    /// Takes milliseconds at first: the SDK reads the system's certificates.
    pub journal: Shared<BoxFuture<'static, Journal>>,
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
        let caller = Caller::of(headers)?;
        let entrypoint = self.clone();
        // On this thread, which reads the socket, until the body is there.
        let handled = actix_web::rt::spawn(async move {
            let body = entrypoint.read(payload).await;
            let request = body
                .and_then(|body| Ok(parse(&body, caller.session_id.as_ref(), &caller.request_id)?));
            let (session_id, invocation_id) = match (&request, &caller.session_id) {
                (Ok(request), _) => (request.session_id.clone(), request.invocation_id.clone()),
                (Err(_), Some(header)) => (header.clone(), caller.request_id.clone()),
                // Nobody knows whose journal it would be.
                (Err(_), None) => return Ok(request.map(|_| Bytes::new())),
            };
            let (tasks, runtime) = (entrypoint.tasks.clone(), entrypoint.runtime.clone());
            let start = async move {
                let parent = caller.parent(request.as_ref().ok());
                let trace = caller.trace(parent, &session_id, &invocation_id);
                let logs = telemetry::log_span(&session_id, &invocation_id, &trace);
                let journal = entrypoint.journal.clone().await;
                let journal = journal.session(session_id, invocation_id, Source::Agent);
                let journal = journal.in_trace(trace.clone());
                let started = entrypoint.start(journal, request, caller.baggage);
                let answer = started.instrument(logs).await;
                end_span(&trace.span(), &answer);
                answer
            };
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
        journal: SessionJournal,
        request: Result<Request, Refusal>,
        baggage: Option<String>,
    ) -> Result<Bytes, Refusal> {
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
                let mut environment = BTreeMap::from([
                    ("SESSION_ID".to_owned(), request.session_id.to_string()),
                    ("INVOCATION_ID".to_owned(), request.invocation_id.clone()),
                ]);
                environment.extend(baggage.map(|baggage| ("BAGGAGE".to_owned(), baggage)));
                let invocation = Invocation {
                    session_id: request.session_id,
                    invocation_id: request.invocation_id,
                    input: request.input,
                    environment,
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
            tracing::warn!(error_type, "invocation refused: {message}");
            let draft = Draft::failure(Status::AgentEntrypointFailed, error_type, message);
            if let Err(error) = journal.append(draft, cause, FAILED_DEADLINE).await {
                let error = journal::display_chain(&error);
                tracing::error!("the refusal is not in the journal: {error}");
            }
        }
        answer
    }
}

/// What the head of a request says.
struct Caller {
    session_id: Option<SessionId>,
    request_id: String,
    traceparent: Option<TraceParent>,
    baggage: Option<String>,
    received: SystemTime,
}

impl Caller {
    fn of(headers: &HeaderMap) -> Result<Self, BadRequest> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // A header that is not text cannot be an id either.
        let id = |header: &HeaderValue| header.to_str().unwrap_or_default().parse::<SessionId>();
        let request_id = text(REQUEST_HEADER).filter(|id| is_id(id)).map(str::to_owned);
        let traceparent = text("traceparent").and_then(|text| text.parse::<TraceParent>().ok());
        Ok(Self {
            session_id: headers.get(SESSION_HEADER).map(id).transpose()?,
            // A new one where AgentCore (or `curl`) gave none that can be journaled.
            request_id: request_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            traceparent: traceparent
                .map(|parent| parent.with_state(text("tracestate").unwrap_or_default())),
            baggage: text("baggage").map(str::to_owned),
            received: SystemTime::now(),
        })
    }

    /// The span that caused the request. The envelope names it because AgentCore need not hand the
    /// header on; a header of the same trace comes from nearer by.
    fn parent<'a>(&'a self, request: Option<&'a Request>) -> Option<&'a TraceParent> {
        let header = self.traceparent.as_ref();
        let Some(in_body) = request.and_then(|request| request.traceparent.as_ref()) else {
            return header;
        };
        header.filter(|header| header.same_trace(in_body)).or(Some(in_body))
    }

    /// The context of the request's span:
    /// <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>.
    fn trace(
        &self,
        parent: Option<&TraceParent>,
        session_id: &SessionId,
        invocation_id: &str,
    ) -> Context {
        let (tracer, parent) =
            (global::tracer("agent-runtime"), parent.map(TraceParent::context).unwrap_or_default());
        let request = [
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", "/invocations"),
            KeyValue::new("aws.request_id", self.request_id.clone()),
        ];
        let ids = span_attributes(session_id, invocation_id);
        let span = tracer
            .span_builder("POST /invocations")
            .with_kind(SpanKind::Server)
            .with_start_time(self.received)
            .with_attributes(request.into_iter().chain(ids))
            .start_with_context(&tracer, &parent);
        parent.with_span(span)
    }
}

/// A refusal is an error of the span also where HTTP alone would call it the caller's (4xx): it is
/// one of the journal, and either has to tell of it.
fn end_span(span: &SpanRef<'_>, answer: &Result<Bytes, Refusal>) {
    let status = match answer {
        Ok(_) => StatusCode::OK,
        Err(Refusal(status, error_type, message)) => {
            telemetry::record_error(span, error_type, message);
            *status
        }
    };
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    span.end();
}
