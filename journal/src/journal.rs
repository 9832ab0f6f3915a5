use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Builder, IdentityCache, retry::RetryConfig};
use chrono::{DateTime, TimeDelta, Utc};
use lru::LruCache;
use tokio::sync::Semaphore;

use crate::instruments::Instruments;
use crate::{EventPages, ReadError, SessionId, SessionJournal, Settings, Source, Timestamp};

/// Sessions whose last timestamp is remembered; the oldest is forgotten first. The hash table behind
/// a cache of up to 7,168 ends at 16,384 places, behind a larger one at 32,768.
const SESSIONS: NonZeroUsize = NonZeroUsize::new(7_000).unwrap();

/// Writes under way at a time, and with them the connections that are kept: thousands of tasks that
/// end at once must not take all files that a process may open. In 4 ms each, which is usual, these
/// are 8,000 writes a second.
const WRITES_AT_A_TIME: usize = 32;

/// Longest wait for the answer to one request. An answer that is later may still mean success.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for credentials. The SDK would wait some 20 s, and call it a slow request.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest attempt of one request, fetching credentials included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// A timestamp this far ahead of the own clock is an error of its writer, not a clock skew.
const MAX_AHEAD: TimeDelta = TimeDelta::days(1);

/// Tells the time; tests give clocks that collide, step back and differ.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The journal: a DynamoDB table of immutable events. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    pub(crate) client: Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) instruments: Arc<Instruments>,
    pub(crate) turns: Arc<Semaphore>,
    clock: Clock,
    /// By a hash of the session's id: two that share one only get later timestamps than they need.
    last: Arc<Mutex<LruCache<u64, Timestamp>>>,
    hasher: RandomState,
}

impl Journal {
    /// Opens the journal with an SDK configuration (`aws_sdk_dynamodb::config::Builder::from` of
    /// what `aws_config` loaded). Nothing is sent. Spans and metrics of the appends go to the global
    /// providers of OpenTelemetry that are set by now.
    ///
    /// The SDK's retries are switched off for writes: the append rule has to see every attempt to
    /// know whether an earlier one may have been applied, and the SDK's own budget runs dry in a
    /// long outage.
    #[must_use]
    pub fn new(config: Builder, settings: Settings) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(READ_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let identities = IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build();
        let config = config
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .identity_cache(identities)
            .build();
        Self {
            client: Client::from_conf(config),
            settings: Arc::new(settings),
            instruments: Arc::new(Instruments::new()),
            turns: Arc::new(Semaphore::new(WRITES_AT_A_TIME)),
            clock: Arc::new(Utc::now),
            last: Arc::new(Mutex::new(LruCache::new(SESSIONS))),
            hasher: RandomState::new(),
        }
    }

    /// The same journal with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// A writer's view of one run (`invocation_id`) of one session.
    #[must_use]
    pub fn session(
        &self,
        session_id: SessionId,
        invocation_id: impl Into<String>,
        source: Source,
    ) -> SessionJournal {
        SessionJournal::new(self.clone(), session_id, invocation_id.into(), source)
    }

    /// All events of a session, oldest first, strongly consistent.
    ///
    /// # Errors
    /// If any page cannot be read: a list is whole or it is an error.
    pub async fn events(&self, session_id: &SessionId) -> Result<Vec<crate::Event>, ReadError> {
        let mut events = Vec::new();
        let mut pages = self.pages(session_id);
        while let Some(page) = pages.next().await? {
            events.extend(page);
        }
        Ok(events)
    }

    /// The same page by page, for a reader that shows events as they arrive.
    #[must_use]
    pub fn pages(&self, session_id: &SessionId) -> EventPages {
        EventPages::new(self.clone(), session_id.clone())
    }

    /// A session's newest event, if it has one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn newest(&self, session_id: &SessionId) -> Result<Option<crate::Event>, ReadError> {
        crate::read::newest(self, session_id).await
    }

    /// The own clock's time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)().into()
    }

    /// Reserves max(now, last of this session in this process + 1 µs, `after` + 1 µs).
    pub(crate) fn next_timestamp(
        &self,
        session_id: &SessionId,
        after: Option<Timestamp>,
    ) -> Timestamp {
        let now = (self.clock)();
        let limit = Timestamp::from(now + MAX_AHEAD);
        let after = after.filter(|&after| {
            let plausible = after <= limit;
            if !plausible {
                tracing::warn!(%session_id, %after, "ignored a timestamp more than a day ahead");
            }
            plausible
        });
        let session = self.hasher.hash_one(session_id);
        let mut sessions = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = sessions.get(&session).copied().max(after);
        let now = Timestamp::from(now);
        let timestamp = cause.map_or(now, |cause| now.max(cause.tick()));
        sessions.put(session, timestamp);
        timestamp
    }
}
