//! The state machine of a session: `session.asl.json`, which Step Functions runs once its `${…}`
//! substitutions are made. SAM makes them on AWS (`deploy/template.yaml`), [`Definition::render`]
//! for an engine on this machine.

mod definition;

pub use definition::{Definition, MAX_POLL_ATTEMPTS, SOURCE};
