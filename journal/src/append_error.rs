use thiserror::Error;

use crate::Event;
use crate::fault::{SdkFault, refusal};

/// The event is not, or not certainly, in the table; [`kind`](Self::kind) says which.
#[derive(Debug, Error)]
#[error("{}", self.text())]
pub struct AppendError {
    /// What the caller knows of the event now.
    pub kind: AppendErrorKind,
    /// The event as it would stand in the table.
    pub event: Box<Event>,
    /// The journal's table.
    pub table: String,
    /// The last failure.
    #[source]
    pub fault: SdkFault,
}

/// What the caller of a failed append knows of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendErrorKind {
    /// DynamoDB refused it: it is not in the table. Correct the cause; a retry cannot help.
    Refused,
    /// The deadline passed and every attempt certainly failed: it is not in the table. Try again
    /// later.
    Failed,
    /// It may be in the table. Do nothing that contradicts either.
    Unknown,
}

impl AppendError {
    fn text(&self) -> String {
        let (status, table) = (&self.event.status, &self.table);
        match self.kind {
            AppendErrorKind::Refused => {
                let reason = refusal(&self.fault, table, "dynamodb:PutItem");
                format!("{status} was not written: {reason}")
            }
            AppendErrorKind::Failed => {
                format!("{status} was not written: table {table} took no write within the deadline")
            }
            AppendErrorKind::Unknown => {
                format!("it is unknown whether {status} was written to table {table}")
            }
        }
    }
}
