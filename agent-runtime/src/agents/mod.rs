//! The kinds of agent that the host brings.

mod command;
mod output;

pub use command::CommandAgent;
