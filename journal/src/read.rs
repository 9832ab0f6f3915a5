use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
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

/// All events of a session, oldest first, strongly consistent.
pub(crate) async fn events(
    journal: &Journal,
    session_id: &SessionId,
) -> Result<Vec<Event>, ReadError> {
    let table = &journal.settings.table_name;
    let reader = journal.reader.get_or_init(|| {
        let config = journal.client.config().to_builder();
        Client::from_conf(config.retry_config(RetryConfig::standard()).build())
    });
    let items = reader
        .query()
        .table_name(table)
        .consistent_read(true)
        .key_condition_expression("PK = :session AND begins_with(SK, :event)")
        .expression_attribute_values(":session", AttributeValue::S(session_id.partition_key()))
        .expression_attribute_values(":event", AttributeValue::S(SORT_KEY_PREFIX.to_owned()))
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .map_err(|error| ReadError {
            session_id: session_id.clone(),
            table: table.clone(),
            fault: SdkFault::new(&error),
        })?;
    Ok(items.into_iter().map(Event::from_item).collect())
}
