use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tokio::time::Instant;
use uuid::Uuid;

use crate::append::{Patience, append};
use crate::fault::{FaultKind, SdkFault};
use crate::spans::AppendSpan;
use crate::text::{MAX_ID_BYTES, truncate};
use crate::{
    AppendError, AppendErrorKind, Draft, Event, Journal, SessionId, Signs, Source, Timestamp,
};

/// How long to try a terminal event, even if DynamoDB refuses it.
pub const TERMINAL_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// A timestamp this far ahead of this writer's clock is an error of its writer, not clock skew.
const MAX_AHEAD_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Appends the events of one writer to one run of one session. Cheap to clone: clones are the same
/// writer, and each of its events sorts after those that it began to write before.
#[derive(Clone)]
pub struct SessionJournal {
    pub(crate) journal: Journal,
    session_id: SessionId,
    invocation_id: String,
    pub(crate) source: Source,
    trace: Context,
    /// The newest timestamp that this writer has used.
    last: Arc<Mutex<Option<Timestamp>>>,
}

impl SessionJournal {
    pub(crate) fn new(
        journal: Journal,
        session_id: SessionId,
        invocation_id: String,
        source: Source,
    ) -> Self {
        let (trace, last) = (Context::new(), Arc::default());
        Self { journal, session_id, invocation_id, source, trace, last }
    }

    /// The same writer within a trace: every event carries its id, and every append is a child of
    /// the context's span.
    #[must_use]
    pub fn in_trace(&self, trace: Context) -> Self {
        Self { trace, ..self.clone() }
    }

    /// The trace context; an empty one outside of any trace.
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

    /// The clock's time, for [`Draft::at`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.journal.now()
    }

    /// The slots for signs of life of the task whose AGENT_BACKGROUND_TASK_STARTED has the timestamp
    /// `started`, from the slot with this number on.
    #[must_use]
    pub fn signs(&self, started: &str, slot: u32) -> Signs {
        Signs::new(self.clone(), started.to_owned(), slot)
    }

    /// Appends an event that sorts after `after`, the last event that its cause knew of, and after
    /// everything that this writer has appended before. Returns its timestamp.
    ///
    /// # Errors
    /// At once if DynamoDB refuses the event, otherwise when `within` has passed.
    /// [`AppendError::kind`] says what the caller then knows.
    pub async fn append(
        &self,
        draft: Draft,
        after: Option<Timestamp>,
        within: Duration,
    ) -> Result<Timestamp, AppendError> {
        let patience = Patience { deadline: Instant::now() + within, terminal: false };
        self.append_until(draft, after, patience, std::future::pending()).await
    }

    /// Appends the event that ends a task: every error is retried for [`TERMINAL_DEADLINE`], or
    /// until `give_up` resolves because the process has to end.
    ///
    /// # Errors
    /// When the time has passed. Then log the whole [`AppendError::event`] as the last resort.
    pub async fn append_terminal(
        &self,
        draft: Draft,
        give_up: impl Future<Output = ()>,
    ) -> Result<Timestamp, AppendError> {
        let patience = Patience { deadline: Instant::now() + TERMINAL_DEADLINE, terminal: true };
        self.append_until(draft, None, patience, give_up).await
    }

    async fn append_until(
        &self,
        draft: Draft,
        after: Option<Timestamp>,
        patience: Patience,
        give_up: impl Future<Output = ()>,
    ) -> Result<Timestamp, AppendError> {
        let time = self.next_timestamp(draft.at, after);
        let mut event = self.event(draft, time);
        let table = &self.journal.settings.table_name;
        let mut span = AppendSpan::start(table, &self.session_id, &event, &self.trace);
        let later = |from| self.next_timestamp(Some(from), None);
        let written = tokio::select! {
            biased;
            written = append(&self.journal, &mut event, time, later, patience, &mut span) => written,
            () = give_up => {
                let fault = SdkFault::of(FaultKind::Ambiguous, "the process has to end");
                Err(self.journal.append_error(&event, AppendErrorKind::Unknown, fault))
            }
        };
        match &written {
            Ok(time) => span.written(&event, *time),
            Err(error) => span.failed(error),
        }
        written
    }

    /// The writer's next timestamp: `at` (without one, the clock's time), but later than everything
    /// that it has used and than `after`.
    fn next_timestamp(&self, at: Option<Timestamp>, after: Option<Timestamp>) -> Timestamp {
        let now = self.now();
        let plausible = |after: &Timestamp| {
            let plausible = *after <= now.plus_micros(MAX_AHEAD_MICROS);
            if !plausible {
                tracing::warn!(%after, "ignored a timestamp more than a day ahead");
            }
            plausible
        };
        let after = after.filter(plausible);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = last.max(after).map(|cause| cause.plus_micros(1));
        let wanted = at.unwrap_or(now);
        let time = earliest.map_or(wanted, |earliest| wanted.max(earliest));
        *last = Some(time);
        time
    }

    fn event(&self, draft: Draft, time: Timestamp) -> Event {
        let (error_type, error_message) = draft.error.unzip();
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
            result_truncated: draft.result_bytes.is_some(),
            result_bytes: draft.result_bytes,
            message: draft.message,
            heartbeat_seconds: draft.heartbeat_seconds,
            trace_id: trace.is_valid().then(|| trace.trace_id().to_string()),
            expires_at: self.journal.expires_at(self.journal.settings.retention_days),
            extra: BTreeMap::new(),
        };
        event.set_time(time);
        event
    }
}
