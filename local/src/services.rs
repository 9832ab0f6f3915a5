//! The services that the state machine calls, on this machine.

use serde_json::{Value, json};

use crate::asl::{Resource, ServiceError, Services};
use crate::system::System;

impl Services for System {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        if resource == Resource::Invoke {
            let payload = arguments.get("Payload").cloned().unwrap_or_default();
            let answer = self.lambda.invoke(payload).await?;
            return Ok(json!({"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": answer}));
        }
        let operation = if resource == Resource::PutItem { "PutItem" } else { "Query" };
        let request = self
            .client
            .post(self.table.endpoint())
            // Step Functions signs its calls. No engine here checks a signature.
            .header("authorization", "AWS4-HMAC-SHA256 Credential=, SignedHeaders=, Signature=")
            .header("x-amz-date", "")
            .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
            .json(&arguments);
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.bytes().await?))
        };
        match answer.await {
            Ok((status, body)) => dynamodb(resource, status, &body),
            Err(error) => Err(failure(resource, "SdkClientException", &error.to_string())),
        }
    }
}

/// DynamoDB's answer as a state gets it.
///
/// # Errors
/// Named as in Step Functions: a prefix for each of its two integrations, and the name of DynamoDB's
/// exception.
pub fn dynamodb(resource: Resource, status: u16, body: &[u8]) -> Result<Value, ServiceError> {
    let answer: Value = serde_json::from_slice(body)
        .map_err(|error| failure(resource, "SdkClientException", &error.to_string()))?;
    if status == 200 {
        return Ok(answer);
    }
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    let name = text("__type").and_then(|name| name.rsplit('#').next()).unwrap_or_default();
    let message = text("message").or(text("Message")).unwrap_or_default();
    Err(failure(resource, name, message))
}

fn failure(resource: Resource, name: &str, cause: &str) -> ServiceError {
    let (prefix, fallback) = match resource {
        Resource::PutItem => ("DynamoDB", "AmazonDynamoDBException"),
        _ => ("DynamoDb", "DynamoDbException"),
    };
    let name = if matches!(name, "" | "ValidationException") { fallback } else { name };
    ServiceError { error: format!("{prefix}.{name}"), cause: cause.to_owned() }
}
