//! A DynamoDB engine with the journal's table, for the tests of every crate and for `local`.
//!
//! - [`Table`] serves the engine over DynamoDB's protocol on a port of this machine.
//! - [`Dynamo`] puts the same engine under the real AWS SDK as its HTTP connector, and injects
//!   [`Fault`]s there, or serves it with its faults to processes.
//! - [`checker`] decides by the table what became of the sessions of a storm of faults.
//! - [`Process`] is a service as a child process; [`Program`] is a container's program under test.
//!
//! It knows nothing of the journal, so that the journal's own tests can use it.

pub mod checker;
mod dynamo;
mod process;
mod program;
mod proxy;
mod table;

pub use dynamo::{Call, Dynamo, Fault};
pub use process::{Process, Spec};
pub use program::Program;
pub use table::{CREDENTIAL, REGION, TABLE_NAME, Table, create_table, open_database};
