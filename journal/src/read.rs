use std::collections::HashMap;

use aws_sdk_dynamodb::config::{Config, retry::RetryConfig};
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use thiserror::Error;

use crate::event::SORT_KEY_PREFIX;
use crate::fault::{SdkFault, refusal};
use crate::{Event, Journal, SessionId};

/// A page of a session's events could not be read, so the session is not known as a whole.
#[derive(Debug, Clone, Error)]
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
        let query = |query: QueryFluentBuilder| query.set_exclusive_start_key(start);
        let page = read(&self.journal, &self.session_id, query).await?;
        self.next = page.last_evaluated_key.map_or(Next::Done, Next::After);
        Ok(Some(events(page.items)))
    }

    /// Whether the page read last was the last one.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.next, Next::Done)
    }
}

/// The session's newest event.
pub(crate) async fn newest(
    journal: &Journal,
    session_id: &SessionId,
) -> Result<Option<Event>, ReadError> {
    let query = |query: QueryFluentBuilder| query.scan_index_forward(false).limit(1);
    Ok(events(read(journal, session_id, query).await?.items).pop())
}

fn events(items: Option<Vec<HashMap<String, AttributeValue>>>) -> Vec<Event> {
    items.unwrap_or_default().into_iter().map(Event::from_item).collect()
}

/// Queries a session's events, strongly consistent, with the SDK's own retries.
async fn read(
    journal: &Journal,
    session_id: &SessionId,
    refine: impl FnOnce(QueryFluentBuilder) -> QueryFluentBuilder,
) -> Result<QueryOutput, ReadError> {
    let table = &journal.settings.table_name;
    let session = AttributeValue::S(session_id.partition_key());
    let query = journal
        .client
        .query()
        .table_name(table)
        .consistent_read(true)
        .key_condition_expression("PK = :session AND begins_with(SK, :event)")
        .expression_attribute_values(":session", session)
        .expression_attribute_values(":event", AttributeValue::S(SORT_KEY_PREFIX.to_owned()));
    refine(query)
        .customize()
        .config_override(Config::builder().retry_config(RetryConfig::standard()))
        .send()
        .await
        .map_err(|error| ReadError {
            session_id: session_id.clone(),
            table: table.clone(),
            fault: SdkFault::new(&error),
        })
}
