//! What the head of a request says: its session, its run and its cause.

use std::collections::BTreeMap;
use std::time::SystemTime;

use actix_web::http::header::{HeaderMap, HeaderValue};
use journal::text::is_invocation_id;
use journal::{SessionId, session_span};
use opentelemetry::trace::{SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue, global};
use telemetry::{TraceParent, split_baggage};
use uuid::Uuid;

use crate::request::{BadRequest, Request};

/// The header in which AgentCore gives the session id.
pub const SESSION_HEADER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id";
/// The header in which AgentCore gives the request's id.
pub const REQUEST_HEADER: &str = "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id";

/// Headers that concern this connection, or that the agent gets in another way.
const NOT_HANDED_ON: [&str; 21] = [
    "accept", "accept-encoding", "baggage", "connection", "content-encoding", "content-length",
    "content-type", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection",
    "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent",
    "x-amzn-bedrock-agentcore-runtime-request-id", "x-amzn-bedrock-agentcore-runtime-session-id",
];

pub(crate) struct Caller {
    pub session_id: Option<SessionId>,
    pub request_id: String,
    traceparent: Option<TraceParent>,
    /// The run that the invoker names for a body that cannot be read.
    run: Option<String>,
    /// The caller's own.
    pub baggage: Option<String>,
    /// The other headers that the agent gets.
    pub headers: BTreeMap<String, String>,
    /// Absent if the body comes in chunks.
    pub content_length: Option<usize>,
    received: SystemTime,
}

impl Caller {
    pub fn of(headers: &HeaderMap) -> Result<Self, BadRequest> {
        let mut session_ids = headers.get_all(SESSION_HEADER);
        let first = session_ids.next();
        if session_ids.any(|other| Some(other) != first) {
            return Err(BadRequest::TwoSessionHeaders);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // A header that is not text cannot be an id either.
        let id = |header: &HeaderValue| header.to_str().unwrap_or_default().parse::<SessionId>();
        let request_id = text(REQUEST_HEADER).filter(|id| is_invocation_id(id)).map(str::to_owned);
        let state = text("tracestate").unwrap_or_default();
        let traceparent = text("traceparent").and_then(|it| TraceParent::read(it, state).ok());
        let lines = headers.get_all("baggage").filter_map(|line| line.to_str().ok());
        let (run, baggage) = split_baggage(&Vec::from_iter(lines).join(","));
        let others = headers.iter().filter(|(name, _)| !NOT_HANDED_ON.contains(&name.as_str()));
        let others = others.filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        Ok(Self {
            headers: others.collect(),
            session_id: first.map(id).transpose()?,
            // A new one if AgentCore (or `curl`) gave none that can be journaled.
            request_id: request_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            traceparent,
            run,
            baggage,
            content_length: text("content-length").and_then(|length| length.parse().ok()),
            received: SystemTime::now(),
        })
    }

    /// The run of a request whose body does not name one.
    pub fn run(&self) -> String {
        self.run.clone().unwrap_or_else(|| self.request_id.clone())
    }

    /// The span that caused the request. The envelope names it, because AgentCore may not pass the
    /// header on. A header of the same trace wins: it names a later span.
    fn parent<'a>(&'a self, request: Option<&'a Request>) -> Option<&'a TraceParent> {
        let header = self.traceparent.as_ref();
        let Some(in_body) = request.and_then(|request| request.traceparent.as_ref()) else {
            return header;
        };
        header.filter(|header| header.same_trace(in_body)).or(Some(in_body))
    }

    /// The context of the request's span:
    /// <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>.
    pub fn trace(
        &self,
        request: Option<&Request>,
        session_id: &SessionId,
        invocation_id: &str,
    ) -> Context {
        let parent = self.parent(request).map(TraceParent::context).unwrap_or_default();
        let request = [
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", "/invocations"),
            KeyValue::new("aws.request_id", self.request_id.clone()),
        ];
        let span = session_span("POST /invocations", request, session_id, invocation_id)
            .with_kind(SpanKind::Server)
            .with_start_time(self.received)
            .start_with_context(&global::tracer("agent-runtime"), &parent);
        parent.with_span(span)
    }
}
