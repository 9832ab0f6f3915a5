//! The append rule. Which failures are retried, which are final:
//!
//! | the attempt | then |
//! |---|---|
//! | succeeds | done |
//! | finds the same `EventId` under its key | an earlier attempt was applied: done |
//! | finds another `EventId` there | a collision: a later key, and again |
//! | finds an item but does not learn which, after an ambiguous attempt | *unknown* |
//! | is throttled, or cannot connect | not applied: again, with backoff, until the deadline |
//! | waits for other writes until the deadline | not applied: final |
//! | times out, is cut, is answered 5xx or unreadably | may be applied: again; from now on a failure is *unknown* |
//! | is refused (no table, denied, no credentials, no region, invalid) | final, unless the event is terminal |

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::operation::RequestId;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::append_error::{AppendError, AppendErrorKind};
use crate::fault::{FaultKind, SdkFault};
use crate::spans::AppendSpan;
use crate::{Event, Journal, Timestamp};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
const MAX_TERMINAL_BACKOFF: Duration = Duration::from_secs(30);

/// How long the attempt at the deadline of a terminal event may take.
const LAST_ATTEMPT: Duration = Duration::from_secs(3);

/// How many microseconds a collision moves an event; each further collision moves it twice as far.
const FIRST_STEP_MICROS: i64 = 1;
const MAX_STEP_MICROS: i64 = 1_000_000;

/// How long an append is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub deadline: Instant,
    /// Whether a refusal is retried too.
    pub terminal: bool,
}

impl Patience {
    /// When an attempt that begins now is given up.
    fn attempt_deadline(&self) -> Instant {
        let last = if self.terminal { LAST_ATTEMPT } else { Duration::ZERO };
        self.deadline.max(Instant::now() + last)
    }
}

/// The outcome of one attempt.
pub(crate) enum Put {
    Written,
    /// An item has the key already: that item, if DynamoDB returned it.
    Conflict(Option<Item>),
    Fault(SdkFault),
}

pub(crate) type Item = HashMap<String, AttributeValue>;

/// Puts the event at `time`. After a collision, `later` turns the next microsecond to try into the
/// next time. Returns the event's time.
pub(crate) async fn append(
    journal: &Journal,
    event: &mut Event,
    mut time: Timestamp,
    later: impl Fn(Timestamp) -> Timestamp,
    patience: Patience,
    span: &mut AppendSpan,
) -> Result<Timestamp, AppendError> {
    let max_backoff = if patience.terminal { MAX_TERMINAL_BACKOFF } else { MAX_BACKOFF };
    let mut backoff = FIRST_BACKOFF;
    let mut step = FIRST_STEP_MICROS;
    let mut ambiguous = false;
    // Held until the event is written or given up.
    let _turn = if event.status.is_progress() {
        let turn = journal.progress_turns.acquire();
        let Ok(turn) = tokio::time::timeout_at(patience.deadline, turn).await else {
            let text = "it waited for other progress until the deadline";
            let fault = SdkFault::of(FaultKind::NotConnected, text);
            return Err(journal.append_error(event, AppendErrorKind::Failed, fault));
        };
        turn.ok()
    } else {
        None
    };
    loop {
        let item = event.to_item();
        let fault = match put(journal, &journal.turns, item, patience.attempt_deadline()).await {
            Put::Written => return Ok(time),
            Put::Conflict(Some(item)) if event_id(&item) == event.event_id => return Ok(time),
            Put::Conflict(None) if ambiguous => {
                let fault =
                    SdkFault::of(FaultKind::Ambiguous, "an unknown item has the event's key");
                return Err(journal.append_error(event, AppendErrorKind::Unknown, fault));
            }
            Put::Conflict(_) => {
                // The key belongs to another event for good, so no earlier attempt was applied.
                ambiguous = false;
                time = later(time.plus_micros(step));
                event.set_time(time);
                // Doubled, because a thousand keys in a row may be taken.
                step = (step * 2).min(MAX_STEP_MICROS);
                // The table has answered.
                backoff = FIRST_BACKOFF;
                span.collided();
                if Instant::now() < patience.deadline {
                    continue;
                }
                SdkFault::of(FaultKind::NotConnected, "other events have every key that was tried")
            }
            Put::Fault(fault) => {
                ambiguous |= fault.kind == FaultKind::Ambiguous;
                fault
            }
        };
        let refused = fault.is_refusal();
        // Writers that failed at the same time must not all retry at the same time.
        let wait = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        let left = patience.deadline.saturating_duration_since(Instant::now());
        // A terminal event is tried once more at the deadline.
        let wait = if patience.terminal { wait.min(left) } else { wait };
        if left.is_zero() || (!patience.terminal && (refused || wait >= left)) {
            let kind = match (ambiguous, refused) {
                (true, _) => AppendErrorKind::Unknown,
                (false, true) => AppendErrorKind::Refused,
                (false, false) => AppendErrorKind::Failed,
            };
            return Err(journal.append_error(event, kind, fault));
        }
        tracing::warn!(
            status = %event.status, wait_ms = wait.as_millis(), "append will be retried: {fault}"
        );
        span.retried(&fault);
        tokio::time::sleep(wait).await;
        backoff = (backoff * 2).min(max_backoff);
    }
}

/// The id of the event that an item holds. An item without one is not ours.
pub(crate) fn event_id(item: &Item) -> &str {
    item.get("EventId").and_then(|id| id.as_s().ok()).map_or("", String::as_str)
}

/// One attempt: puts the item if its key is free, when one of the `turns` is free.
pub(crate) async fn put(
    journal: &Journal,
    turns: &Semaphore,
    item: Item,
    deadline: Instant,
) -> Put {
    // Held until there is an answer.
    let Ok(_turn) = tokio::time::timeout_at(deadline, turns.acquire()).await else {
        let text = "it waited for other writes until the deadline";
        return Put::Fault(SdkFault::of(FaultKind::NotConnected, text));
    };
    let request = journal
        .client
        .put_item()
        .table_name(&journal.settings.table_name)
        .set_item(Some(item))
        .condition_expression("attribute_not_exists(PK)")
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .send();
    // The SDK's future has 6 KB: boxed, a waiting task does not carry them.
    let error = match tokio::time::timeout_at(deadline, Box::pin(request)).await {
        Ok(Ok(output)) if output.request_id().is_some() => return Put::Written,
        // Such as a proxy's empty 200.
        Ok(Ok(_)) => {
            let text = "the answer has no request id, so it is not DynamoDB's";
            return Put::Fault(SdkFault::of(FaultKind::Ambiguous, text));
        }
        Ok(Err(error)) => error,
        Err(_) => {
            return Put::Fault(SdkFault::of(FaultKind::Ambiguous, "no answer before the deadline"));
        }
    };
    let Some(PutItemError::ConditionalCheckFailedException(conflict)) = error.as_service_error()
    else {
        return Put::Fault(SdkFault::new(&error));
    };
    Put::Conflict(conflict.item().cloned())
}
