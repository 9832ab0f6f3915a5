use std::collections::HashMap;

use aws_sdk_dynamodb::config::{Config, retry::RetryConfig};
use aws_sdk_dynamodb::types::AttributeValue;
use thiserror::Error;

use crate::event::SORT_KEY_PREFIX;
use crate::fault::{SdkFault, refusal};
use crate::{Event, Journal, SessionId};

/// A page of a session's events could not be read, so the session is not known as a whole.
#[derive(Debug, Error)]
#[error(
    "the events of session {session_id} could not be read: {}",
    refusal(fault, table, "dynamodb:Query")
)]
pub struct ReadError {
    /// The session.
    pub session_id: SessionId,
    /// The journal's table.
    pub table: String,
    /// DynamoDB's answer, after the SDK's retries.
    #[source]
    pub fault: SdkFault,
}

/// Reads a session's events page by page, oldest first, strongly consistent.
pub struct EventPages {
    journal: Journal,
    session_id: SessionId,
    next: Next,
}

enum Next {
    First,
    After(HashMap<String, AttributeValue>),
    Done,
}

impl EventPages {
    pub(crate) fn new(journal: Journal, session_id: SessionId) -> Self {
        Self { journal, session_id, next: Next::First }
    }

    /// The next page, which may be empty although more follow; `None` after the last one.
    ///
    /// # Errors
    /// If the page cannot be read. The same page may be asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, ReadError> {
        let start = match &self.next {
            Next::First => None,
            Next::After(key) => Some(key.clone()),
            Next::Done => return Ok(None),
        };
        let table = &self.journal.settings.table_name;
        let page = self
            .journal
            .client
            .query()
            .table_name(table)
            .consistent_read(true)
            .key_condition_expression("PK = :session AND begins_with(SK, :event)")
            .expression_attribute_values(
                ":session",
                AttributeValue::S(self.session_id.partition_key()),
            )
            .expression_attribute_values(":event", AttributeValue::S(SORT_KEY_PREFIX.to_owned()))
            .set_exclusive_start_key(start)
            .customize()
            .config_override(Config::builder().retry_config(RetryConfig::standard()))
            .send()
            .await
            .map_err(|error| ReadError {
                session_id: self.session_id.clone(),
                table: table.clone(),
                fault: SdkFault::new(&error),
            })?;
        self.next = page.last_evaluated_key.map_or(Next::Done, Next::After);
        Ok(Some(page.items.unwrap_or_default().into_iter().map(Event::from_item).collect()))
    }
}
