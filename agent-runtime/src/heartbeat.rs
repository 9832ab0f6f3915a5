//! A task's signs of life, and the orders that the task finds in their place.

use std::ops::RangeInclusive;
use std::time::Duration;

use journal::{Mark, SignKind, Signs};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::AgentError;
use crate::outcome::{lost, stopped};
use crate::progress::Progress;

/// Milliseconds before the next attempt to take a slot that may still be free.
const RETRY_MILLIS: RangeInclusive<u64> = 1_000..=2_000;

/// The same while the workflow waits for an answer to its challenge. Each challenge takes a slot, so
/// on a throttled table the answer must not wait long for luck.
const ANSWER_MILLIS: RangeInclusive<u64> = 200..=400;

/// Gives a sign of life every `interval`, and reports the first order that ends the task. It goes on
/// as long as it is polled: until the terminal event is durable, even after an order.
pub(crate) async fn beat(
    mut signs: Signs,
    interval: Option<Duration>,
    progress: &Progress,
    order: oneshot::Sender<AgentError>,
) {
    let Some(interval) = interval else { return std::future::pending().await };
    let (mut order, mut failing, mut challenged) = (Some(order), false, false);
    let mut next = Instant::now() + interval;
    loop {
        tokio::time::sleep_until(next).await;
        // Boxed, as the SDK's future in it: a task that waits does not carry it.
        let taken = Box::pin(signs.take(Mark::Beat(progress.last()))).await;
        next = Instant::now();
        let before = match taken {
            Ok(None) => {
                (failing, challenged, next) = (false, false, next + interval);
                continue;
            }
            Ok(Some(before)) => before,
            Err(fault) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("the task's sign of life will be tried again: {fault}");
                }
                let pause = if challenged { ANSWER_MILLIS } else { RETRY_MILLIS };
                next += Duration::from_millis(fastrand::u64(pause));
                continue;
            }
        };
        let error = match before.kind {
            // Answered by the next slot, at once.
            SignKind::Beat | SignKind::Challenge => {
                challenged = true;
                continue;
            }
            SignKind::Stop => stopped(before.reason),
            SignKind::Lost => lost(),
        };
        // If the outcome is decided, nobody listens.
        let _ = order.take().map(|order| order.send(error));
    }
}
