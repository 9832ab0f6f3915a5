//! The state machine of a session: `session.asl.json`, which Step Functions runs as it stands once
//! its `${…}` substitutions are made.
//!
//! On AWS, SAM substitutes (`deploy/template.yaml`); [`Definition::render`] does the same for an
//! engine on this machine. [`timeline`] shows a session's events to a person.

mod definition;
pub mod timeline;

pub use definition::{Definition, DefinitionError, SOURCE};
