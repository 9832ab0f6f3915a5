//! Receives the bodies of requests, within a deadline and within memory.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::refusal::Refusal;

const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// How long a large body waits for those before it.
const TURN_DEADLINE: Duration = Duration::from_secs(30);

/// How long a shutdown waits for the rest of a body.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// A body up to this size is read at once, and parsed on the journal's own thread.
pub(crate) const SMALL_BODY_BYTES: usize = 64 * 1024;

/// Memory for all larger bodies that are processed at the same time.
const LARGE_BODIES_BYTES: usize = 100 * 1024 * 1024;

#[derive(Clone)]
pub(crate) struct BodyReader {
    max_body_bytes: usize,
    /// Bytes of [`LARGE_BODIES_BYTES`] that are free.
    free: Arc<Semaphore>,
    /// Cancelled when the container is told to stop.
    draining: CancellationToken,
}

impl BodyReader {
    pub fn new(max_body_bytes: usize, draining: CancellationToken) -> Self {
        let free = Arc::new(Semaphore::new(LARGE_BODIES_BYTES));
        Self { max_body_bytes, free, draining }
    }

    /// Reads a body, unless the shutdown ends first. The permit stands for the memory of a large body.
    pub async fn receive(
        &self,
        length: Option<usize>,
        payload: Payload,
    ) -> Result<(Option<OwnedSemaphorePermit>, Bytes), Refusal> {
        let drained = async {
            self.draining.cancelled().await;
            tokio::time::sleep(DRAIN_GRACE).await;
        };
        let late = |_| {
            let seconds = BODY_DEADLINE.as_secs();
            Refusal::invalid(format!("the body was not received within {seconds} s"))
        };
        tokio::select! {
            body = tokio::time::timeout(BODY_DEADLINE, self.read(length, payload)) => {
                body.map_err(late)?
            }
            () = drained => Err(Refusal::shutting_down()),
        }
    }

    /// Reads a body into memory of its own length. Once it is large, it waits for its turn.
    async fn read(
        &self,
        length: Option<usize>,
        mut payload: Payload,
    ) -> Result<(Option<OwnedSemaphorePermit>, Bytes), Refusal> {
        let limit = self.max_body_bytes;
        let (mut body, mut turn) = (BytesMut::new(), None);
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| {
                let text = format!("the body was not received whole: {error}");
                Refusal { cut: true, ..Refusal::invalid(text) }
            })?;
            let bytes = body.len() + chunk.len();
            if bytes > limit {
                return Err(Refusal::too_large(limit));
            }
            if bytes > SMALL_BODY_BYTES && turn.is_none() {
                let bytes = length.unwrap_or(limit).clamp(bytes, limit);
                turn = Some(self.turn_for(bytes).await?);
                body.reserve(bytes - body.len());
            }
            body.extend_from_slice(&chunk);
        }
        if let Some(turn) = &mut turn {
            // For a body without a length, more was reserved.
            drop(turn.split(turn.num_permits().saturating_sub(body.len())));
        }
        Ok((turn, body.freeze()))
    }

    /// Waits until there is memory for a large body.
    async fn turn_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = u32::try_from(bytes.min(LARGE_BODIES_BYTES)).unwrap_or(u32::MAX);
        let turn = Arc::clone(&self.free).acquire_many_owned(bytes);
        match tokio::time::timeout(TURN_DEADLINE, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Refusal::busy()),
        }
    }
}
