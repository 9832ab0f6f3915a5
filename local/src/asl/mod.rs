//! An interpreter of the part of the Amazon States Language that `session.asl.json` uses: JSONata,
//! and the states Pass, Choice, Wait, Task, Succeed and Fail.
//!
//! It refuses to load a definition that it would run differently from Step Functions: one with an
//! unknown field, another state type, another service integration, or an expression that does not parse.

mod definition;
mod execution;
mod expression;
mod interpreter;

pub use definition::{LoadError, Resource, StateMachine};
pub use execution::{Execution, ExecutionEnd, ServiceError, Services, Usage};
