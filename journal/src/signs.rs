//! Signs of life. While a task runs, its container takes one slot after the other; each is an item
//! of the table. The workflow reads the newest one. It challenges a silent task by taking the next
//! slot itself, and a container that lives answers with the slot after that.
//!
//! A slot belongs to the writer that puts it first, and is never overwritten. So nobody compares
//! clocks, and after [`SignKind::Lost`] a container that comes back knows that its session was given
//! up.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::time::Instant;
use uuid::Uuid;

use crate::append::{Item, Put, event_id, put};
use crate::fault::SdkFault;
use crate::text::{MAX_ERROR_MESSAGE_BYTES, truncate};
use crate::{SessionId, SessionJournal, Timestamp};

/// How long one attempt may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The largest number of a slot: it is written with six digits.
const MAX_SLOT: u32 = 999_999;

/// Days until a beat may expire.
const BEAT_DAYS: u32 = 2;

/// Who took a slot, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignKind {
    /// The container lives.
    Beat,
    /// The workflow asks whether it lives. An unknown kind counts as this one.
    Challenge,
    /// The workflow has given the session up.
    Lost,
    /// An operator wants the task to end.
    Stop,
}

/// A slot that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Its number; the first is 0. So is that of a foreign item with a key that no slot has.
    pub slot: u32,
    /// What it says.
    pub kind: SignKind,
    /// When it was taken, by its writer's clock; unless something foreign wrote the item.
    pub timestamp: Option<Timestamp>,
    /// On a beat: the agent's newest progress, if there is any.
    pub last_progress: Option<Timestamp>,
    /// On [`SignKind::Stop`]: what the operator said.
    pub reason: Option<String>,
}

/// What a writer puts into a slot.
#[derive(Debug, Clone, Copy)]
pub enum Mark<'a> {
    /// [`SignKind::Beat`], with the agent's newest progress.
    Beat(Option<Timestamp>),
    /// [`SignKind::Stop`], with the operator's reason.
    Stop(&'a str),
}

/// A writer's view of one task's slots.
pub struct Signs {
    session: SessionJournal,
    /// The timestamp of AGENT_BACKGROUND_TASK_STARTED.
    started: String,
    slot: u32,
    /// Kept until the slot is taken, so that an attempt that was applied is recognised.
    event_id: String,
}

/// The partition key of the signs of a session's tasks.
pub(crate) fn signs_key(session_id: &SessionId) -> String {
    format!("ALIVE#{session_id}")
}

impl Signs {
    pub(crate) fn new(session: SessionJournal, started: String, slot: u32) -> Self {
        Self { session, started, slot, event_id: Uuid::new_v4().to_string() }
    }

    /// Tries once to take the slot. `Some` is the kind of sign with which another writer took it first.
    /// In both cases, the next call tries the next slot.
    ///
    /// # Errors
    /// If the slot may still be free. The next call tries the same one.
    pub async fn take(&mut self, mark: Mark<'_>) -> Result<Option<Sign>, SdkFault> {
        let journal = &self.session.journal;
        let (deadline, item) = (Instant::now() + DEADLINE, self.item(mark));
        let other = match put(journal, &journal.sign_turns, item, deadline).await {
            Put::Fault(fault) => return Err(fault),
            Put::Written => None,
            Put::Conflict(Some(item)) if event_id(&item) == self.event_id => None,
            Put::Conflict(item) => Some(Sign::from_item(&item.unwrap_or_default())),
        };
        self.slot += 1;
        self.event_id = Uuid::new_v4().to_string();
        Ok(other)
    }

    fn item(&self, mark: Mark) -> Item {
        let (session, journal) = (&self.session, &self.session.journal);
        let text = |name: &str, text: &str| (name.to_owned(), AttributeValue::S(text.to_owned()));
        let (kind, own, days) = match mark {
            Mark::Beat(last_progress) => (
                "Beat",
                last_progress.map(|time| text("LastProgress", &time.to_string())),
                Some(BEAT_DAYS),
            ),
            Mark::Stop(reason) => {
                let reason = truncate(reason, MAX_ERROR_MESSAGE_BYTES);
                ("Stop", Some(text("Reason", reason)), journal.settings.retention_days)
            }
        };
        let expires_at = journal.expires_at(days).map(|seconds| seconds.to_string());
        let expires_at = expires_at.map(|n| ("ExpiresAt".to_owned(), AttributeValue::N(n)));
        let shared = [
            text("PK", &signs_key(session.session_id())),
            text("SK", &format!("{}#{:06}", self.started, self.slot)),
            text("Kind", kind),
            text("InvocationId", session.invocation_id()),
            text("EventId", &self.event_id),
            text("Source", session.source.as_str()),
            text("Timestamp", &journal.now().to_string()),
        ];
        shared.into_iter().chain(own).chain(expires_at).collect()
    }
}

impl Sign {
    pub(crate) fn from_item(item: &Item) -> Self {
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
        let time = |name: &str| text(name).and_then(|text| text.parse().ok());
        let number = text("SK").and_then(|key| key.rsplit('#').next()?.parse().ok());
        Self {
            slot: number.filter(|number| *number <= MAX_SLOT).unwrap_or_default(),
            kind: match text("Kind").map(String::as_str) {
                Some("Beat") => SignKind::Beat,
                Some("Lost") => SignKind::Lost,
                Some("Stop") => SignKind::Stop,
                _ => SignKind::Challenge,
            },
            timestamp: time("Timestamp"),
            last_progress: time("LastProgress"),
            reason: text("Reason").cloned(),
        }
    }
}
