//! The whole system on one machine, offline, in one process tree.
//!
//! The real state machine, invoker, agent-runtime and journal, on engines that stand in for AWS:
//! `testing` and [`dynamodb`] for DynamoDB, [`asl`] and [`step_functions`] for Step Functions, [`lambda`]
//! for the Lambda Runtime API, [`front_door`] and [`agentcore`] for AgentCore, [`collector`] and [`trace`]
//! for a tracing tool. [`system`] puts them together, as [`options`] say.
//!
//! It is for development and tests: it has no accounts, checks no IAM permissions, and removes no
//! expired events.

pub mod agentcore;
pub mod asl;
pub mod collector;
mod container;
pub mod dynamodb;
mod executions;
pub mod front_door;
pub mod lambda;
pub mod options;
mod server;
pub mod services;
pub mod step_functions;
pub mod system;
pub mod trace;

pub use server::Server;
