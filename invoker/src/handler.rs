use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_bedrockagentcore::Client;
use chrono::Utc;
use journal::text::is_invocation_id;
use journal::{Draft, Journal, SessionId, Source, Status, Timestamp, display_chain, session_span};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use opentelemetry::trace::{SpanKind, TraceContextExt};
use opentelemetry::{KeyValue, global};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use telemetry::TraceParent;
use tracing::Instrument;

use crate::Settings;
use crate::invoke::{Answer, OUTCOME_UNKNOWN, Payload};

/// How long to try AGENT_INVOCATION_STARTED. The agent is not called before the event is durable.
const STARTED_DEADLINE: Duration = Duration::from_secs(10);

/// The part of the function's time that is left for the event after the call.
const RESERVE: Duration = Duration::from_secs(5);

/// How long to try that event, because the function has to answer in time.
const OUTCOME_DEADLINE: Duration = Duration::from_secs(4);

/// The request of the workflow.
#[derive(Debug, Clone, Deserialize)]
pub struct Request {
    /// The session.
    pub session_id: SessionId,
    /// The run of the session: the execution's id, checked by the container's rule.
    #[serde(deserialize_with = "invocation_id")]
    pub invocation_id: String,
    /// The timestamp of SESSION_INITIATED.
    pub after: Option<Timestamp>,
    /// The session's W3C `traceparent`. Without a valid one, the invocation's X-Ray header counts.
    pub traceparent: Option<String>,
    /// What the agent gets, as the state machine wrote it.
    pub input: Box<RawValue>,
}

/// The answer to the workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Response {
    /// The session.
    pub session_id: SessionId,
    /// The container's HTTP status; `None` if it is not known whether the agent was started.
    pub status_code: Option<i32>,
    /// The timestamp of the last event that the function knows of.
    pub after: Timestamp,
}

/// The function.
pub struct Handler {
    journal: Journal,
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    /// Whether this is before the first invocation.
    cold: AtomicBool,
}

impl Handler {
    /// The client must not retry by itself: the function has to tell a call that failed from one
    /// that may have started the agent.
    #[must_use]
    pub fn new(journal: Journal, client: Client, settings: Settings) -> Self {
        Self { journal, client, settings, cold: AtomicBool::new(true) }
    }

    /// Invokes the agent once and journals it.
    ///
    /// # Errors
    /// If the agent was certainly not started. The state machine ends the session on the error's type:
    /// `InvalidRequest`, `JournalError` if AGENT_INVOCATION_STARTED may be missing in the journal, or the
    /// code with which InvokeAgentRuntime failed.
    pub async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Response, Diagnostic> {
        let cold = self.cold.swap(false, Ordering::Relaxed);
        let request: Request = serde_json::from_str(event.payload.get())
            .map_err(|error| diagnostic("InvalidRequest", format!("invalid request: {error}")))?;
        let trace = trace(&request, &event.context, cold);
        let logs = telemetry::log_span(&request.session_id, &request.invocation_id, &trace);
        let invoked = self.invoke(request, &event.context, &trace).instrument(logs.clone()).await;
        let result = invoked.inspect_err(|Diagnostic { error_type, error_message }| {
            logs.in_scope(|| tracing::error!(error_type, "not invoked: {error_message}"));
            telemetry::record_error(&trace.span(), error_type, error_message);
        });
        trace.span().end();
        result
    }

    async fn invoke(
        &self,
        request: Request,
        context: &Context,
        trace: &opentelemetry::Context,
    ) -> Result<Response, Diagnostic> {
        let session_id = request.session_id;
        let run = request.invocation_id;
        let journal = self.journal.session(session_id.clone(), run, Source::Invoker);
        let journal = journal.in_trace(trace.clone());
        let draft = Draft::new(Status::AgentInvocationStarted);
        let started = journal.append(draft, request.after, STARTED_DEADLINE).await;
        let started = started.map_err(|error| {
            let error = display_chain(&error);
            diagnostic("JournalError", format!("the agent was not invoked: {error}"))
        })?;
        let payload = Payload::new(&request.input, &journal, started);
        let left = context.deadline.saturating_sub(Utc::now().timestamp_millis().unsigned_abs());
        let within = Duration::from_millis(left).saturating_sub(RESERVE);
        let answer = self.call(&journal, payload, within).await;
        let failed = |Diagnostic { error_type, error_message }: &Diagnostic| {
            Draft::failure(Status::AgentInvocationFailed, error_type, error_message)
        };
        let (draft, after, result) = match answer {
            Ok(Answer { status_code, after }) => {
                let draft = Draft::new(Status::AgentInvocationSucceeded);
                (draft, after.unwrap_or(started), Ok(Some(status_code)))
            }
            Err(failure) if failure.error_type == OUTCOME_UNKNOWN => {
                (failed(&failure), started, Ok(None))
            }
            Err(failure) => (failed(&failure), started, Err(failure)),
        };
        let written = journal.append(draft, Some(after), OUTCOME_DEADLINE).await;
        let after = written.unwrap_or_else(|error| {
            // The agent's own events decide the session, and the caller still gets the outcome.
            let error = display_chain(&error);
            tracing::error!("the outcome of the call is not in the journal: {error}");
            after
        });
        result.map(|status_code| Response { session_id, status_code, after })
    }
}

/// The context of the function's span:
/// <https://opentelemetry.io/docs/specs/semconv/faas/aws-lambda/>.
fn trace(request: &Request, context: &Context, cold: bool) -> opentelemetry::Context {
    let given = request.traceparent.as_deref().and_then(|text| text.parse().ok());
    let xray = || TraceParent::from_xray(context.xray_trace_id.as_deref()?).ok();
    let parent = given.or_else(xray).map(|parent| parent.context()).unwrap_or_default();
    let invocation = [
        KeyValue::new("faas.trigger", "other"),
        KeyValue::new("faas.invocation_id", context.request_id.clone()),
        KeyValue::new("faas.coldstart", cold),
        KeyValue::new("aws.lambda.invoked_arn", context.invoked_function_arn.clone()),
    ];
    let (name, run) = (context.env_config.function_name.clone(), &request.invocation_id);
    let span = session_span(name, invocation, &request.session_id, run)
        .with_kind(SpanKind::Server)
        .start_with_context(&global::tracer("invoker"), &parent);
    parent.with_span(span)
}

fn invocation_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const RULE: &str =
        "\"invocation_id\" must be a text of 1 to 512 bytes without control characters";
    let id = String::deserialize(deserializer)?;
    if is_invocation_id(&id) { Ok(id) } else { Err(D::Error::custom(RULE)) }
}

/// The function's `errorType` and `errorMessage`.
pub(crate) fn diagnostic(error_type: &str, error_message: String) -> Diagnostic {
    Diagnostic { error_type: error_type.to_owned(), error_message }
}
