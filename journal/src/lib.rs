//! The event journal: immutable events of a session in one DynamoDB table.
//!
//! An event is written once, under a sort key that no other event can take, and is never updated,
//! overwritten or deleted by this crate. In every session a cause sorts before its effect, also
//! when the clocks of the writers differ: each append takes the timestamp of the last event its
//! cause knew of, and is put behind it.
//!
//! This crate is not a queue and not a store of state: nothing is ever claimed, acknowledged or
//! changed. It knows DynamoDB, and neither HTTP servers nor Lambda.
//!
//! - [`SessionId`], [`Timestamp`], [`Status`], [`Event`], [`TraceParent`]: the contract of the table.
//! - [`Journal`] opens the table and reads a session; [`SessionJournal`] appends to one.
//! - [`ending`]: how a run ended, as one function of its events.
//! - [`SdkFault`]: what a failed call of the AWS SDK allows to conclude.
//! - [`Settings`]: the environment variables that every writer reads.

mod append;
mod ending;
mod event;
mod fault;
mod instruments;
mod journal;
mod read;
mod session_id;
pub mod settings;
mod status;
pub mod text;
mod timestamp;
mod trace_parent;

pub use append::{AppendError, Reserved, SessionJournal, TERMINAL_DEADLINE};
pub use ending::{Ending, ending};
pub use event::{Draft, Event, SORT_KEY_PREFIX, Source};
pub use fault::{FaultKind, SdkFault, display_chain};
pub use instruments::span_attributes;
pub use journal::{Clock, Journal};
pub use read::{EventPages, ReadError};
pub use session_id::{InvalidSessionId, SessionId};
pub use settings::{SettingError, Settings};
pub use status::{InvalidPhase, InvalidStep, Status, Step};
pub use timestamp::{InvalidTimestamp, Timestamp};
pub use trace_parent::{InvalidTraceParent, TraceParent};
