//! Shows a session's journal to a person.
//!
//! It reads events and decides nothing about a running session.
//!
//! - [`history`] finds runs, durations and contradictions in a session's events.
//! - [`timeline`] shows events; [`Printer`] prints them as they come.
//! - [`listing`] has sessions as lines of a list, [`log_line`] makes log lines readable.
//! - [`sessions`] reads sessions and executions; [`standing`] says how a run stands.
//! - [`page`] shows a session, or a list, as a page of HTML; [`ui`] serves the pages.
//! - [`explain`] says what happened (`verdict`), in which part of the system (`hop`), and whether a task
//!   lives (`alive`).
//!
//! The binary `agent-journal` uses these modules in a terminal.

mod alive;
mod explain;
pub mod history;
mod hop;
mod lanes;
pub mod listing;
pub mod log_line;
pub mod page;
mod printer;
pub mod sessions;
pub mod standing;
pub mod timeline;
pub mod ui;
mod verdict;

pub use explain::explain;
pub use printer::{Printer, View};
