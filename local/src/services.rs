//! The services that the state machine calls, on this machine.

use dynoxide::{Database, DynoxideError};
use serde_json::{Value, json};

use crate::asl::{Resource, ServiceError, Services};
use crate::system::System;

impl Services for System {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        if resource != Resource::Invoke {
            return dynamodb(&self.table.database, resource, arguments);
        }
        let payload = arguments.get("Payload").cloned().unwrap_or_default();
        let answer = self.lambda.invoke(payload).await?;
        Ok(json!({"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": answer}))
    }
}

/// A state's call of DynamoDB, on this engine.
///
/// # Errors
/// In the words of Step Functions.
pub fn dynamodb(
    database: &Database,
    resource: Resource,
    arguments: Value,
) -> Result<Value, ServiceError> {
    if resource == Resource::PutItem {
        answer(arguments, "DynamoDB", "AmazonDynamoDBException", |item| database.put_item(item))
    } else {
        answer(arguments, "DynamoDb", "DynamoDbException", |query| database.query(query))
    }
}

/// Calls the engine with a state's arguments. Errors are named as Step Functions names them:
/// `prefix`, and the exception's name or for a validation error the `fallback`.
fn answer<Q: serde::de::DeserializeOwned, A: serde::Serialize>(
    arguments: Value,
    prefix: &str,
    fallback: &str,
    call: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<Value, ServiceError> {
    let failure =
        |name: &str, cause: String| ServiceError { error: format!("{prefix}.{name}"), cause };
    let request =
        serde_json::from_value(arguments).map_err(|error| failure(fallback, error.to_string()))?;
    let answer = call(request).map_err(|error| {
        let name = error.error_type().rsplit('#').next().unwrap_or_default();
        let name = if name == "ValidationException" { fallback } else { name };
        failure(name, error.to_string())
    })?;
    serde_json::to_value(answer).map_err(|error| failure(fallback, error.to_string()))
}
