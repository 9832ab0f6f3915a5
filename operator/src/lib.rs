//! What the journal of a session tells a person.
//!
//! It reads events and decides nothing about a running session.
//!
//! - [`history`] finds runs, durations and contradictions in a session's events.
//! - [`timeline`] shows events and how a run stands; [`Printer`] prints them as they come.
//! - [`listing`] has sessions as lines of a list, [`log_line`] makes log lines readable.
//! - [`explain`] says what happened, at which hop, and whether a task lives.
//!
//! The binary `agent-journal` is these for the terminal.

mod alive;
mod explain;
pub mod history;
mod hop;
pub mod listing;
pub mod log_line;
mod printer;
pub mod timeline;

pub use explain::{explain, explain_with};
pub use printer::{Printer, View};
