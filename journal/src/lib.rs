//! The event journal: immutable events of a session in one DynamoDB table.
//!
//! An event is written once, under a sort key that no other event can take. This crate never
//! updates, overwrites or deletes an event. In every session a cause sorts before its effect, even
//! if the clocks of the writers differ: each append gets the timestamp of the event that caused it,
//! and takes a later one. The events of one writer sort in the order in which it
//! began to append them.
//!
//! This crate is not a queue and does not store state: nothing is ever claimed, acknowledged or
//! changed. It knows DynamoDB, but not HTTP servers or Lambda.
//!
//! - [`SessionId`], [`Timestamp`], [`Status`], [`Event`]: the contract of the table.
//! - [`Journal`] opens the table and reads a session; [`SessionJournal`] appends to one, by the rule
//!   in `append`.
//! - [`Signs`]: what shows that a task lives, and what ends it.
//! - [`ending`]: how a run ended, as one function of its events.
//! - [`SdkFault`]: what a failed call of the AWS SDK allows to conclude.
//! - [`BoundedAnswers`]: limits how much of a service's answer is read into memory.
//! - [`Settings`]: the environment variables that every writer reads.

mod append;
mod append_error;
mod bounded;
mod draft;
mod ending;
mod event;
mod fault;
mod journal;
mod read;
mod session_id;
mod session_journal;
pub mod settings;
mod signs;
mod spans;
mod status;
pub mod text;
mod timestamp;

pub use append_error::{AppendError, AppendErrorKind};
pub use bounded::BoundedAnswers;
pub use draft::Draft;
pub use ending::{Ending, ending};
pub use event::{Event, SORT_KEY_PREFIX, Source};
pub use fault::{FaultKind, SdkFault, display_chain};
pub use journal::{Clock, Journal};
pub use read::ReadError;
pub use session_id::{InvalidSessionId, SessionId};
pub use session_journal::{SessionJournal, TERMINAL_DEADLINE};
pub use settings::{SettingError, Settings};
pub use signs::{Mark, Sign, SignKind, Signs};
pub use spans::session_span;
pub use status::{InvalidPhase, Status, Step};
pub use timestamp::{InvalidTimestamp, Timestamp};
