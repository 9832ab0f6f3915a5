//! One call of InvokeAgentRuntime, retried where a retry cannot start a second agent.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use aws_sdk_bedrockagentcore::primitives::{Blob, ByteStream};
use journal::{
    FaultKind, SdkFault, SessionId, SessionJournal, Timestamp, display_chain, session_span,
};
use lambda_runtime::Diagnostic;
use opentelemetry::trace::{SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue, global};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use telemetry::{TraceParent, record_error, run_baggage};

use crate::Handler;
use crate::handler::diagnostic;

/// Attempts of one call.
const ATTEMPTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// How much of the answer is read; that of the entrypoint is far smaller.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// `ErrorType` of a failed call after which the agent may be running.
pub(crate) const OUTCOME_UNKNOWN: &str = "OutcomeUnknown";

/// The payload that AgentCore passes to the container.
#[derive(Serialize)]
pub(crate) struct Payload<'a> {
    input: &'a RawValue,
    invocation_id: &'a str,
    after: Timestamp,
    environment: BTreeMap<&'static str, &'a SessionId>,
    /// AgentCore passes the header on only if the runtime allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<BTreeMap<&'static str, String>>,
}

impl<'a> Payload<'a> {
    pub fn new(input: &'a RawValue, journal: &'a SessionJournal, after: Timestamp) -> Self {
        let environment = BTreeMap::from([("SESSION_ID", journal.session_id())]);
        Self { input, invocation_id: journal.invocation_id(), after, environment, trace: None }
    }
}

/// AgentCore's answer.
pub(crate) struct Answer {
    /// HTTP status of the container.
    pub status_code: i32,
    /// The last event that the container knew of; `None` if it is not an agent-runtime.
    pub after: Option<Timestamp>,
}

impl Handler {
    /// Calls the runtime for a session, for `within` at most, as a child of its journal's span:
    /// <https://opentelemetry.io/docs/specs/semconv/cloud-providers/aws-sdk/>.
    ///
    /// # Errors
    /// If the agent was not started, or with [`OUTCOME_UNKNOWN`] if it may be running.
    pub(crate) async fn call(
        &self,
        journal: &SessionJournal,
        mut payload: Payload<'_>,
        within: Duration,
    ) -> Result<Answer, Diagnostic> {
        let call = [
            KeyValue::new("rpc.system", "aws-api"),
            KeyValue::new("rpc.service", "Bedrock AgentCore"),
            KeyValue::new("rpc.method", "InvokeAgentRuntime"),
        ];
        let name = "Bedrock AgentCore.InvokeAgentRuntime";
        let span = session_span(name, call, journal.session_id(), journal.invocation_id())
            .with_kind(SpanKind::Client)
            .start_with_context(&global::tracer("invoker"), journal.trace());
        let trace = journal.trace().with_span(span);
        let traceparent = TraceParent::of(&trace).map(|parent| parent.to_string());
        payload.trace = traceparent.clone().map(|parent| BTreeMap::from([("traceparent", parent)]));
        let payload = Blob::new(serde_json::to_vec(&payload).unwrap_or_default());
        let attempts = self.attempts(journal, payload, traceparent, &trace);
        let late = |_| Err(unknown("InvokeAgentRuntime did not answer in time"));
        let answer = match within.is_zero() {
            false => tokio::time::timeout(within, attempts).await.unwrap_or_else(late),
            true => {
                let message = "the function has too little time left to call the agent";
                Err(diagnostic("NoTimeLeft", message.to_owned()))
            }
        };
        let span = trace.span();
        match &answer {
            Ok(answer) => {
                let status = i64::from(answer.status_code);
                span.set_attribute(KeyValue::new("http.response.status_code", status));
            }
            Err(failure) => record_error(&span, &failure.error_type, &failure.error_message),
        }
        span.end();
        answer
    }

    async fn attempts(
        &self,
        journal: &SessionJournal,
        payload: Blob,
        traceparent: Option<String>,
        trace: &Context,
    ) -> Result<Answer, Diagnostic> {
        let mut backoff = FIRST_BACKOFF;
        let mut attempt = 1;
        loop {
            let sent = self
                .client
                .invoke_agent_runtime()
                .agent_runtime_arn(&self.settings.agent_runtime_arn)
                .set_qualifier(self.settings.qualifier.clone())
                // Never left to the SDK, which would invent one and so split the journal.
                .runtime_session_id(journal.session_id().as_str())
                .content_type("application/json")
                .accept("application/json")
                .set_trace_parent(traceparent.clone())
                .baggage(run_baggage(journal.invocation_id()))
                .payload(payload.clone())
                .send()
                .await;
            let error = match sent {
                Ok(output) => {
                    let status_code = output.status_code.unwrap_or(200);
                    let body = read(output.response).await?;
                    return Ok(Answer { status_code, after: after(&body) });
                }
                Err(error) => error,
            };
            let fault = SdkFault::new(&error);
            let service = error.as_service_error();
            let retryable = matches!(fault.kind, FaultKind::Throttled | FaultKind::NotConnected)
                || service.is_some_and(|service| service.is_internal_server_exception())
                || service.is_some_and(|service| service.is_retryable_conflict_exception());
            if retryable && attempt < ATTEMPTS {
                tracing::warn!(attempt, "InvokeAgentRuntime will be retried: {fault}");
                let message = KeyValue::new("exception.message", fault.to_string());
                trace.span().add_event("retry", vec![message]);
                tokio::time::sleep(backoff).await;
                backoff *= 2;
                attempt += 1;
                continue;
            }
            let code = service.and_then(|service| service.meta().code());
            // The status of an answer that could be read.
            let status = service.and(error.raw_response()).map(|answer| answer.status().as_u16());
            return Err(match (&fault.kind, code, status) {
                (FaultKind::Credentials, ..) => definite(SdkFault::CREDENTIALS_ERROR, &fault),
                (FaultKind::Misconfigured, ..) => definite("Misconfigured", &fault),
                (FaultKind::NotConnected, ..) => definite("NotConnected", &fault),
                (FaultKind::Refused { code }, ..) => definite(code, &fault),
                (FaultKind::Throttled, Some(code), _) => definite(code, &fault),
                (_, Some(code), Some(500)) => definite(code, &fault),
                // A proxy's refusal. It did not pass the request on, except perhaps in these cases.
                (_, _, Some(408 | 421 | 425)) => unknown(&fault),
                (_, _, Some(status @ 400..=499)) => definite(&format!("HTTP{status}"), &fault),
                _ => unknown(&fault),
            });
        }
    }
}

fn definite(error_type: &str, fault: &SdkFault) -> Diagnostic {
    diagnostic(error_type, format!("InvokeAgentRuntime failed: {fault}"))
}

fn unknown(reason: impl Display) -> Diagnostic {
    let meaning = "whether the agent was started is unknown; its own events will tell";
    diagnostic(OUTCOME_UNKNOWN, format!("{meaning}: {reason}"))
}

/// The whole answer, or its beginning if it is longer than any answer of an agent-runtime.
async fn read(mut stream: ByteStream) -> Result<Vec<u8>, Diagnostic> {
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        let cut = |error| unknown(format!("the answer was cut: {}", display_chain(&error)));
        body.extend_from_slice(&chunk.map_err(cut)?);
        if body.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok(body)
}

fn after(body: &[u8]) -> Option<Timestamp> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get("after")?.as_str()?.parse().ok()
}
