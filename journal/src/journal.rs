use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Builder, IdentityCache, retry::RetryConfig};
use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;

use crate::{
    AppendError, AppendErrorKind, BoundedAnswers, Event, SdkFault, SessionId, SessionJournal,
    Settings, Source, Timestamp,
};

/// Most writes at a time. Each has a connection, and a process may open a limited number of files.
/// With the usual 4 ms per write, this is 8,000 writes a second.
const WRITES_AT_A_TIME: usize = 32;

/// Most of these writes that may be progress events. One that is throttled keeps its turn,
/// so progress slows down and leaves a busy table to the starts and ends of tasks.
const PROGRESS_AT_A_TIME: usize = 4;

/// Most signs of life at a time. They have a limit of their own, so that they do not wait for events.
const SIGNS_AT_A_TIME: usize = 8;

/// Longest wait for the answer to one request. An answer that is later may still mean success.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for credentials. The SDK would wait some 20 s, and call it a slow request.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest attempt of one request, fetching credentials included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// Tells the time; tests give clocks that collide, step back and differ.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The journal: a DynamoDB table of immutable events. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    pub(crate) client: Client,
    /// For reads, which the SDK may retry. Made when first needed.
    reader: Arc<OnceLock<Client>>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) progress_turns: Arc<Semaphore>,
    pub(crate) sign_turns: Arc<Semaphore>,
    clock: Clock,
}

impl Journal {
    /// Opens the journal with an SDK configuration (`aws_sdk_dynamodb::config::Builder::from` of
    /// what `aws_config` loaded). Nothing is sent.
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
            .interceptor(BoundedAnswers)
            .build();
        Self {
            client: Client::from_conf(config),
            settings: Arc::new(settings),
            reader: Arc::default(),
            turns: Arc::new(Semaphore::new(WRITES_AT_A_TIME)),
            progress_turns: Arc::new(Semaphore::new(PROGRESS_AT_A_TIME)),
            sign_turns: Arc::new(Semaphore::new(SIGNS_AT_A_TIME)),
            clock: Arc::new(Utc::now),
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

    /// The client for reads.
    pub(crate) fn reader(&self) -> &Client {
        self.reader.get_or_init(|| {
            let config = self.client.config().to_builder();
            Client::from_conf(config.retry_config(RetryConfig::standard()).build())
        })
    }

    /// The clock's time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)().into()
    }

    /// Epoch seconds this many days from now.
    pub(crate) fn expires_at(&self, days: Option<u32>) -> Option<i64> {
        days.map(|days| self.now().as_micros() / 1_000_000 + i64::from(days) * 24 * 60 * 60)
    }

    pub(crate) fn append_error(
        &self,
        event: &Event,
        kind: AppendErrorKind,
        fault: SdkFault,
    ) -> AppendError {
        let (event, table) = (Box::new(event.clone()), self.settings.table_name.clone());
        AppendError { kind, event, table, fault }
    }
}
