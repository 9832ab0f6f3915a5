//! The state machine of a session, and what its journal says to a person.
//!
//! - `session.asl.json` is the state machine, which Step Functions runs as it stands once its
//!   `${…}` substitutions are made: by SAM on AWS (`deploy/template.yaml`), by
//!   [`Definition::render`] for an engine on this machine.
//! - [`history`] finds runs, durations and contradictions in a session's events, [`timeline`]
//!   shows them, [`explain`] says what happened. The binary `session` is these for the terminal.

mod definition;
mod explain;
pub mod history;
pub mod timeline;

pub use definition::{Definition, DefinitionError, SOURCE};
pub use explain::explain;
