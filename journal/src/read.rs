use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::query::QueryError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use thiserror::Error;

use crate::event::SORT_KEY_PREFIX;
use crate::fault::{SdkFault, refusal};
use crate::signs::signs_key;
use crate::{Event, Journal, SessionId, Sign};

/// A page of a session's events could not be read, so the session is not known completely.
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

/// Signs of life that are read: a task that is silent for an hour is challenged 180 times.
const MAX_SIGNS: i32 = 200;

impl Journal {
    /// All events of a session, oldest first, strongly consistent.
    ///
    /// # Errors
    /// If any page cannot be read after the SDK's own retries: a list is whole or it is an error.
    pub async fn events(&self, session_id: &SessionId) -> Result<Vec<Event>, ReadError> {
        let pages = self.query(session_id.partition_key(), SORT_KEY_PREFIX).into_paginator();
        let items = pages.items().send().collect::<Result<Vec<_>, _>>().await;
        let items = items.map_err(|error| self.read_error(session_id, &error))?;
        Ok(items.into_iter().map(Event::from_item).collect())
    }

    /// The newest 200 signs of life of the task that `started` at this timestamp, newest first,
    /// strongly consistent.
    ///
    /// # Errors
    /// If they cannot be read after the SDK's own retries.
    pub async fn signs(
        &self,
        session_id: &SessionId,
        started: &str,
    ) -> Result<Vec<Sign>, ReadError> {
        let query = self.query(signs_key(session_id), &format!("{started}#"));
        let page = query.scan_index_forward(false).limit(MAX_SIGNS).send().await;
        let page = page.map_err(|error| self.read_error(session_id, &error))?;
        Ok(page.items().iter().map(Sign::from_item).collect())
    }

    /// A query of the items of one partition whose sort key has this prefix.
    fn query(&self, partition_key: String, begin: &str) -> QueryFluentBuilder {
        self.reader()
            .query()
            .table_name(&self.settings.table_name)
            .consistent_read(true)
            .key_condition_expression("PK = :partition AND begins_with(SK, :begin)")
            .expression_attribute_values(":partition", AttributeValue::S(partition_key))
            .expression_attribute_values(":begin", AttributeValue::S(begin.to_owned()))
    }

    fn read_error(
        &self,
        session_id: &SessionId,
        error: &SdkError<QueryError, HttpResponse>,
    ) -> ReadError {
        let table = self.settings.table_name.clone();
        ReadError { session_id: session_id.clone(), table, fault: SdkFault::new(error) }
    }
}
