//! An interpreter of the part of the Amazon States Language that `session.asl.json` uses: JSONata,
//! and the states Pass, Choice, Wait, Task, Succeed and Fail.
//!
//! It refuses at load whatever it does not run as Step Functions would: an unknown field, another
//! state type, another service integration, an expression that does not parse.

mod definition;
mod execution;
mod expression;
mod interpreter;

pub use definition::{LoadError, Resource, StateMachine};
pub use execution::{Execution, ExecutionEnd, ServiceError, Services, Usage};
