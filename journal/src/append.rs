//! The append rule. Which failures are retried, which are final:
//!
//! | the attempt | then |
//! |---|---|
//! | succeeds | done |
//! | finds the same `EventId` under its key | an earlier attempt was applied: done |
//! | finds another `EventId` there | a collision: one tick later and again |
//! | finds an item but is not told which, after an ambiguous attempt | *unknown* |
//! | is throttled, or cannot connect | not applied: again, with backoff, to the deadline |
//! | has to wait for other writes until the deadline | not applied: final |
//! | times out, is cut, is answered 5xx | may be applied: again; from now on a failure is *unknown* |
//! | is refused (no table, denied, no credentials, invalid) | final, unless the event is terminal |

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use opentelemetry::global::BoxedSpan;
use opentelemetry::trace::{Span, Status as SpanStatus, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use thiserror::Error;
use tokio::time::Instant;
use uuid::Uuid;

use crate::fault::{FaultKind, SdkFault, display_chain, refusal};
use crate::text::{MAX_ID_BYTES, truncate};
use crate::{Draft, Event, Journal, SessionId, Source, Timestamp};

/// How long the append of a terminal event goes on, whatever the error.
pub const TERMINAL_DEADLINE: Duration = Duration::from_secs(15 * 60);

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
const MAX_TERMINAL_BACKOFF: Duration = Duration::from_secs(30);
const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// Appends the events of one writer to one run of one session. Cheap to clone.
#[derive(Clone)]
pub struct SessionJournal {
    journal: Journal,
    session_id: SessionId,
    invocation_id: String,
    source: Source,
    trace: Context,
}

/// An event that has its time and is not written yet; see [`SessionJournal::reserve`].
#[derive(Debug)]
pub struct Reserved {
    event: Event,
    time: Timestamp,
}

impl Reserved {
    /// The event's time, unless that is taken when it is written.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.time
    }
}

/// The event is not, or not certainly, in the table.
#[derive(Debug, Error)]
pub enum AppendError {
    /// DynamoDB refused the event; it was not written. Mend the cause, a retry cannot help.
    #[error("{} was not written: {}", event.status, refusal(fault, table, "dynamodb:PutItem"))]
    Refused {
        /// The event that is missing.
        event: Box<Event>,
        /// The journal's table.
        table: String,
        /// DynamoDB's answer.
        #[source]
        fault: SdkFault,
    },
    /// The deadline passed and every attempt certainly failed. Try again later.
    #[error("{} was not written: table {table} took no write within the deadline", event.status)]
    Failed {
        /// The event that is missing.
        event: Box<Event>,
        /// The journal's table.
        table: String,
        /// The last failure.
        #[source]
        fault: SdkFault,
    },
    /// It may or may not be written. Do nothing that contradicts either.
    #[error("whether {} was written to table {table} is unknown", event.status)]
    Unknown {
        /// The event that may be missing.
        event: Box<Event>,
        /// The journal's table.
        table: String,
        /// The last failure.
        #[source]
        fault: SdkFault,
    },
}

impl AppendError {
    /// The event that is not certainly in the table, as it would stand there.
    #[must_use]
    pub fn event(&self) -> &Event {
        match self {
            Self::Refused { event, .. }
            | Self::Failed { event, .. }
            | Self::Unknown { event, .. } => event,
        }
    }
}

enum Put {
    Written,
    /// An item stands there already; its event id, if DynamoDB said which.
    Conflict(Option<String>),
    Fault(SdkFault),
}

/// The variants of [`AppendError`].
#[derive(Debug)]
enum Loss {
    Refused,
    Failed,
    Unknown,
}

impl SessionJournal {
    pub(crate) fn new(
        journal: Journal,
        session_id: SessionId,
        invocation_id: String,
        source: Source,
    ) -> Self {
        Self { journal, session_id, invocation_id, source, trace: Context::new() }
    }

    /// The same within a trace: every event carries its id, and every append is a child of the
    /// context's span.
    #[must_use]
    pub fn in_trace(&self, trace: Context) -> Self {
        Self { trace, ..self.clone() }
    }

    /// That context; an empty one outside of any trace.
    #[must_use]
    pub fn trace(&self) -> &Context {
        &self.trace
    }

    /// The session.
    #[must_use]
    pub fn session_id(&self) -> &SessionId {
        &self.session_id
    }

    /// The run of the session.
    #[must_use]
    pub fn invocation_id(&self) -> &str {
        &self.invocation_id
    }

    /// Appends an event that sorts behind `after`, the last event that its cause knew of, and behind
    /// everything that this process wrote to the session, unless it wrote to 7,000 others since.
    /// Returns its timestamp.
    ///
    /// # Errors
    /// At once if DynamoDB refuses the event, else when `within` has passed; see [`AppendError`]
    /// for what the caller then knows.
    pub async fn append(
        &self,
        draft: Draft,
        after: Option<Timestamp>,
        within: Duration,
    ) -> Result<Timestamp, AppendError> {
        self.append_reserved(self.reserve(draft, after), within).await
    }

    /// Gives an event its time without writing it: what is reserved or appended later sorts behind
    /// it. For what happens now and is written later.
    #[must_use]
    pub fn reserve(&self, draft: Draft, after: Option<Timestamp>) -> Reserved {
        let (event, time) = self.event(draft, after);
        Reserved { event, time }
    }

    /// Appends an event at the time it has.
    ///
    /// # Errors
    /// As [`SessionJournal::append`].
    pub async fn append_reserved(
        &self,
        event: Reserved,
        within: Duration,
    ) -> Result<Timestamp, AppendError> {
        self.append_event(event, Instant::now() + within, false, std::future::pending()).await
    }

    /// Appends the event that ends a task: every error is retried for [`TERMINAL_DEADLINE`], or
    /// until `give_up` resolves because the process has to end.
    ///
    /// # Errors
    /// When the time has passed; then log [`AppendError::event`] whole, as the last resort.
    pub async fn append_terminal(
        &self,
        draft: Draft,
        after: Option<Timestamp>,
        give_up: impl Future<Output = ()>,
    ) -> Result<Timestamp, AppendError> {
        let deadline = Instant::now() + TERMINAL_DEADLINE;
        self.append_event(self.reserve(draft, after), deadline, true, give_up).await
    }

    async fn append_event(
        &self,
        Reserved { mut event, time }: Reserved,
        deadline: Instant,
        terminal: bool,
        give_up: impl Future<Output = ()>,
    ) -> Result<Timestamp, AppendError> {
        let (table, instruments) = (&self.journal.settings.table_name, &self.journal.instruments);
        let began = Instant::now();
        // Progress, of which there may be much, is an event of the span around it instead.
        let progress = event.status.is_progress();
        let mut span =
            (!progress).then(|| instruments.span(table, &self.session_id, &event, &self.trace));
        let written = tokio::select! {
            biased;
            written = self.put_until(&mut event, time, deadline, terminal, span.as_mut()) => written,
            () = give_up => Err((Loss::Unknown, SdkFault::ambiguous("the process has to end"))),
        };
        instruments.appended(&event, written.is_ok(), began.elapsed());
        // The key at last: a collision moves it.
        let key = KeyValue::new("journal.sort_key", event.sort_key.clone());
        match &mut span {
            Some(span) => span.set_attribute(key),
            None if written.is_ok() => {
                let status = event.status.as_str().to_owned();
                let said = event.message.clone().or(event.error_message.clone());
                let said = said.map(|said| KeyValue::new("message", said));
                let attributes = [key].into_iter().chain(said).collect();
                self.trace.span().add_event_with_timestamp(status, time.into(), attributes);
            }
            None => {}
        }
        written.map_err(|(loss, fault)| {
            let error_type = KeyValue::new("error.type", format!("{loss:?}"));
            let error = self.lost(event, loss, fault);
            if let Some(span) = &mut span {
                span.set_attribute(error_type);
                span.set_status(SpanStatus::error(display_chain(&error)));
            }
            error
        })
    }

    async fn put_until(
        &self,
        event: &mut Event,
        mut time: Timestamp,
        deadline: Instant,
        terminal: bool,
        mut span: Option<&mut BoxedSpan>,
    ) -> Result<Timestamp, (Loss, SdkFault)> {
        let max_backoff = if terminal { MAX_TERMINAL_BACKOFF } else { MAX_BACKOFF };
        let mut backoff = FIRST_BACKOFF;
        let mut ambiguous = false;
        loop {
            let fault = match self.put(event.to_item(), deadline).await {
                Put::Written => return Ok(time),
                Put::Conflict(Some(id)) if id == event.event_id => return Ok(time),
                Put::Conflict(None) if ambiguous => {
                    let fault =
                        SdkFault::ambiguous("an item of unknown origin has the event's key");
                    return Err((Loss::Unknown, fault));
                }
                Put::Conflict(_) => {
                    // The key belongs to another event for ever, so no earlier attempt was applied.
                    ambiguous = false;
                    time = self.journal.next_timestamp(&self.session_id, Some(time));
                    event.set_time(time);
                    if let Some(span) = &mut span {
                        span.add_event("collision", Vec::new());
                    }
                    if Instant::now() < deadline {
                        continue;
                    }
                    SdkFault::ambiguous("every key tried belongs to another event")
                }
                Put::Fault(fault) => {
                    ambiguous |= fault.kind == FaultKind::Ambiguous;
                    fault
                }
            };
            let refused = matches!(fault.kind, FaultKind::Refused { .. } | FaultKind::Credentials);
            let wait = jittered(backoff, time);
            if (refused && !terminal) || Instant::now() + wait >= deadline {
                let loss = match (ambiguous, refused) {
                    (true, _) => Loss::Unknown,
                    (false, true) => Loss::Refused,
                    (false, false) => Loss::Failed,
                };
                return Err((loss, fault));
            }
            tracing::warn!(
                session_id = %self.session_id, status = %event.status, wait_ms = wait.as_millis(),
                "append will be retried: {fault}"
            );
            if let Some(span) = &mut span {
                let message = KeyValue::new("exception.message", fault.to_string());
                span.add_event("retry", vec![message]);
            }
            self.journal.instruments.retried();
            tokio::time::sleep(wait).await;
            backoff = (backoff * 2).min(max_backoff);
        }
    }

    fn lost(&self, event: Event, loss: Loss, fault: SdkFault) -> AppendError {
        let (event, table) = (Box::new(event), self.journal.settings.table_name.clone());
        match loss {
            Loss::Refused => AppendError::Refused { event, table, fault },
            Loss::Failed => AppendError::Failed { event, table, fault },
            Loss::Unknown => AppendError::Unknown { event, table, fault },
        }
    }

    fn event(&self, draft: Draft, after: Option<Timestamp>) -> (Event, Timestamp) {
        let time = self.journal.next_timestamp(&self.session_id, after);
        let (error_type, error_message) = draft.error.unzip();
        let retention = self.journal.settings.retention_days.map(i64::from);
        let trace = self.trace.span().span_context().clone();
        let mut event = Event {
            partition_key: self.session_id.partition_key(),
            sort_key: String::new(),
            timestamp: String::new(),
            status: draft.status,
            event_id: Uuid::new_v4().to_string(),
            invocation_id: truncate(&self.invocation_id, MAX_ID_BYTES).to_owned(),
            source: self.source.as_str().to_owned(),
            error_message,
            error_type,
            result: draft.result,
            result_truncated: draft.result_truncated,
            message: draft.message,
            trace_id: trace.is_valid().then(|| trace.trace_id().to_string()),
            expires_at: retention
                .map(|days| self.journal.now().as_micros() / 1_000_000 + days * SECONDS_PER_DAY),
            extra: std::collections::BTreeMap::new(),
        };
        event.set_time(time);
        (event, time)
    }

    /// One attempt: put the item where none is.
    async fn put(&self, item: HashMap<String, AttributeValue>, deadline: Instant) -> Put {
        let turn = tokio::time::timeout_at(deadline, self.journal.turns.acquire());
        // Held until there is an answer.
        let Ok(_turn) = turn.await else {
            let text = "it had to wait for other writes until the deadline";
            return Put::Fault(SdkFault::not_connected(text));
        };
        let request = self
            .journal
            .client
            .put_item()
            .table_name(&self.journal.settings.table_name)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(PK)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send();
        // The SDK's future has 6 KB: here it takes them while it runs, instead of in every task.
        match tokio::time::timeout_at(deadline, Box::pin(request)).await {
            Ok(Ok(_)) => Put::Written,
            Ok(Err(error)) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(conflict)) => {
                    // An item without an event id is not ours either.
                    let id = |item: &HashMap<_, AttributeValue>| {
                        item.get("EventId")
                            .and_then(|id| id.as_s().ok())
                            .cloned()
                            .unwrap_or_default()
                    };
                    Put::Conflict(conflict.item().map(id))
                }
                _ => Put::Fault(SdkFault::new(&error)),
            },
            Err(_) => Put::Fault(SdkFault::ambiguous("no answer before the deadline")),
        }
    }
}

/// Between half and the whole of `backoff`, so that writers who failed together do not return
/// together. The writers' timestamps are what differs between them.
fn jittered(backoff: Duration, timestamp: Timestamp) -> Duration {
    let spread = timestamp.as_micros().unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
    backoff.mul_f64(0.5 + spread as f64 / 2048.0)
}
