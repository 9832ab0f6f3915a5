//! One call of InvokeAgentRuntime, retried where a retry cannot start a second agent.

use std::time::Duration;

use aws_sdk_bedrockagentcore::Client;
use aws_sdk_bedrockagentcore::primitives::{Blob, ByteStream};
use journal::{FaultKind, SdkFault, SessionId, Timestamp, TraceParent, display_chain};
use serde_json::Value;

use crate::Settings;

/// Attempts of one call.
const ATTEMPTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// How much of the answer is read; the entrypoint's is far smaller.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// AgentCore's answer.
pub(crate) struct Answer {
    /// HTTP status of the container.
    pub status_code: i32,
    /// The last event that the container knew of, if it is one of ours.
    pub after: Option<Timestamp>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The agent was not started.
    Definite { error_type: String, message: String },
    /// It may be running.
    Unknown(String),
}

/// Calls the runtime. The caller bounds the time.
pub(crate) async fn invoke(
    client: &Client,
    settings: &Settings,
    session_id: &SessionId,
    payload: &Value,
    traceparent: Option<&TraceParent>,
) -> Result<Answer, Failure> {
    let mut backoff = FIRST_BACKOFF;
    let mut attempt = 1;
    loop {
        let sent = client
            .invoke_agent_runtime()
            .agent_runtime_arn(&settings.agent_runtime_arn)
            .set_qualifier(settings.qualifier.clone())
            // Never left to the SDK, which would invent one and so split the journal.
            .runtime_session_id(session_id.as_str())
            .content_type("application/json")
            .accept("application/json")
            .set_trace_parent(traceparent.map(|parent| parent.as_str().to_owned()))
            .payload(Blob::new(payload.to_string()))
            .send()
            .await;
        let error = match sent {
            Ok(output) => {
                let status_code = output.status_code.unwrap_or(200);
                let body = read(output.response).await.map_err(Failure::Unknown)?;
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
            tracing::warn!(%session_id, attempt, "InvokeAgentRuntime will be retried: {fault}");
            tokio::time::sleep(backoff).await;
            backoff *= 2;
            attempt += 1;
            continue;
        }
        let code = service.and_then(|service| service.meta().code());
        return Err(match (&fault.kind, code) {
            (FaultKind::Credentials, _) => definite(SdkFault::CREDENTIALS_ERROR, &fault),
            (FaultKind::NotConnected, _) => definite("NotConnected", &fault),
            (_, Some(code)) => definite(code, &fault),
            (FaultKind::Refused { code }, None) => definite(code, &fault),
            (_, None) => Failure::Unknown(fault.to_string()),
        });
    }
}

fn definite(error_type: &str, fault: &SdkFault) -> Failure {
    let message = format!("InvokeAgentRuntime failed: {fault}");
    Failure::Definite { error_type: error_type.to_owned(), message }
}

/// The whole answer, or its beginning if it is longer than any of ours.
async fn read(mut stream: ByteStream) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(
            &chunk.map_err(|error| format!("the answer was cut: {}", display_chain(&error)))?,
        );
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
