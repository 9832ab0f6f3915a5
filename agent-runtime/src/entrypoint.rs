//! `POST /invocations`: journal the request, have a task started, answer at once.
//!
//! The body is read and parsed before AGENT_ENTRYPOINT_STARTED is written, because it carries the
//! run's id and the timestamp of the cause, after which the event has to sort. The request is
//! accepted or refused after the event, so that a refusal is journaled too.

use std::collections::BTreeMap;
use std::time::Duration;

use actix::Addr;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::{BoxFuture, Shared};
use journal::{Draft, Journal, SessionJournal, Source, Status};
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanRef, TraceContextExt};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::body_reader::{BodyReader, SMALL_BODY_BYTES};
use crate::caller::Caller;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::request::{Request, parse};
use crate::socket::Socket;
use crate::supervisor::{Start, Supervisor};
use crate::{Invocation, TaskContext};

const STARTED_DEADLINE: Duration = Duration::from_secs(10);
const FAILED_DEADLINE: Duration = Duration::from_secs(5);

/// What the entrypoint needs from the process.
#[derive(Clone)]
pub(crate) struct Entrypoint {
    /// Takes milliseconds at first: the SDK reads the system's certificates.
    pub journal: Shared<BoxFuture<'static, Journal>>,
    pub supervisor: Addr<Supervisor>,
    pub host: Host,
    pub bodies: BodyReader,
    /// The runtime of the journal.
    pub runtime: Handle,
}

/// The handler of `POST /invocations`.
pub(crate) async fn invocations(
    http: HttpRequest,
    payload: Payload,
    entrypoint: Data<Entrypoint>,
) -> HttpResponse {
    // actix drops this handler if it gives the connection up.
    let given_up = CancellationToken::new();
    let guard = given_up.clone().drop_guard();
    let socket = http.conn_data::<Socket>().cloned().map(|socket| (socket, given_up));
    let answer = entrypoint.answer(http.headers(), socket, payload).await;
    guard.disarm();
    match answer {
        Ok(answer) => HttpResponse::Ok().content_type("application/json").body(answer),
        Err(refusal) => HttpResponse::from(&refusal),
    }
}

impl Entrypoint {
    /// Answers a request. A separate task handles it, so that its last event is written even if the
    /// caller hangs up.
    async fn answer(
        &self,
        headers: &HeaderMap,
        socket: Option<(Socket, CancellationToken)>,
        payload: Payload,
    ) -> Result<Bytes, Refusal> {
        // The shutdown waits for this, from the head of the request on.
        let pending = self.host.tasks.token();
        if self.host.draining.is_cancelled() {
            return Err(Refusal::shutting_down());
        }
        let caller = Caller::of(headers)?;
        let entrypoint = self.clone();
        // On this thread, which reads the socket, until the body is there.
        let handled = actix_web::rt::spawn(async move {
            let _pending = pending;
            let (runtime, tasks) = (entrypoint.runtime.clone(), entrypoint.host.tasks.clone());
            let (turn, body) = match entrypoint.bodies.receive(caller.content_length, payload).await
            {
                Ok((turn, body)) => (turn, Ok(body)),
                Err(refusal) => (None, Err(refusal)),
            };
            let cut = body.as_ref().err().filter(|refusal| refusal.cut).cloned();
            let handle = async move {
                let (caller, request) = understand(caller, body).await;
                let answer = entrypoint.handle(caller, request).await;
                drop(turn);
                answer
            };
            let answer = tasks.spawn_on(handle, &runtime).await;
            if let (Some((socket, given_up)), Some(refusal)) = (socket, cut)
                && given_up.is_cancelled()
            {
                socket.answer(&refusal);
            }
            answer
        });
        handled.await.flatten().unwrap_or_else(|error| {
            Err(Refusal::internal(format!("the entrypoint failed: {error}")))
        })
    }

    /// Handles a request in its span, if its session is known.
    async fn handle(
        self,
        caller: Caller,
        request: Result<Request, Refusal>,
    ) -> Result<Bytes, Refusal> {
        let (session_id, invocation_id) = match (&request, &caller.session_id) {
            (Ok(request), _) => (request.session_id.clone(), request.invocation_id.clone()),
            (Err(_), Some(header)) => (header.clone(), caller.run()),
            (Err(_), None) => return request.map(|_| Bytes::new()),
        };
        let trace = caller.trace(request.as_ref().ok(), &session_id, &invocation_id);
        let logs = telemetry::log_span(&session_id, &invocation_id, &trace);
        let journal = self.journal.clone().await;
        let journal = journal.session(session_id, invocation_id, Source::Agent);
        let journal = journal.in_trace(trace.clone());
        let answer = tokio::select! {
            answer = self.start(journal, request, caller).instrument(logs) => answer,
            // The journal does not answer, and the process is about to exit.
            () = self.host.give_up.cancelled() => Err(Refusal::shutting_down()),
        };
        end_span(&trace.span(), &answer);
        answer
    }

    /// Journals the request, has its task started, and journals the refusal if there is one.
    async fn start(
        &self,
        journal: SessionJournal,
        request: Result<Request, Refusal>,
        caller: Caller,
    ) -> Result<Bytes, Refusal> {
        let after = request.as_ref().ok().and_then(|request| request.after);
        let draft = Draft::new(Status::AgentEntrypointStarted);
        let started = journal.append(draft, after, STARTED_DEADLINE).await;
        let answer = match (started, request) {
            (Err(error), _) => Err(Refusal::journal(journal::display_chain(&error))),
            (Ok(_), Err(refusal)) => Err(refusal),
            (Ok(after), Ok(request)) => {
                let invocation = invocation(request, caller);
                let start = Start { journal: journal.clone(), invocation, after };
                match self.supervisor.send(start).await {
                    Ok(answer) => answer.map_err(Refusal::from),
                    Err(error) => {
                        Err(Refusal::internal(format!("the supervisor is gone: {error}")))
                    }
                }
            }
        };
        if let Err(Refusal { error_type, message, .. }) = &answer {
            tracing::warn!(error_type, "invocation refused: {message}");
            let draft = Draft::failure(Status::AgentEntrypointFailed, error_type, message);
            if let Err(error) = journal.append(draft, after, FAILED_DEADLINE).await {
                let error = journal::display_chain(&error);
                tracing::error!("the refusal is not in the journal: {error}");
            }
        }
        answer
    }
}

/// Reads a body. A large one is read on another thread, because that takes milliseconds.
async fn understand(
    caller: Caller,
    body: Result<Bytes, Refusal>,
) -> (Caller, Result<Request, Refusal>) {
    let large = body.as_ref().is_ok_and(|body| body.len() > SMALL_BODY_BYTES);
    let understand = move || {
        let request =
            body.and_then(|body| Ok(parse(&body, caller.session_id.as_ref(), &caller.request_id)?));
        (caller, request)
    };
    if !large {
        return understand();
    }
    match tokio::task::spawn_blocking(understand).await {
        Ok(understood) => understood,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn invocation(request: Request, caller: Caller) -> Invocation {
    let mut environment = BTreeMap::from([
        ("SESSION_ID".to_owned(), request.session_id.to_string()),
        ("INVOCATION_ID".to_owned(), request.invocation_id.clone()),
    ]);
    environment.extend(caller.baggage.map(|baggage| ("BAGGAGE".to_owned(), baggage)));
    Invocation {
        session_id: request.session_id,
        invocation_id: request.invocation_id,
        input: request.input,
        environment,
        headers: caller.headers,
        context: TaskContext::default(),
    }
}

/// A refusal is an error of the span, even with a status 4xx, which OpenTelemetry would not count as
/// one: it is a failure in the journal, and the trace must agree.
fn end_span(span: &SpanRef<'_>, answer: &Result<Bytes, Refusal>) {
    let status = match answer {
        Ok(_) => StatusCode::OK,
        Err(refusal) => {
            telemetry::record_error(span, refusal.error_type, &refusal.message);
            refusal.status
        }
    };
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    span.end();
}
