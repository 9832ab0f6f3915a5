use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{SessionId, Status, Timestamp};

/// What begins every sort key of an event; the event's timestamp follows.
pub const SORT_KEY_PREFIX: &str = "EVENT#";

/// Who wrote an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The state machine.
    Workflow,
    /// The Lambda function.
    Invoker,
    /// The container.
    Agent,
    /// A person, by the command `agent-journal`.
    Operator,
}

impl Source {
    /// The text in the table's `Source` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Invoker => "invoker",
            Self::Agent => "agent",
            Self::Operator => "operator",
        }
    }
}

/// One immutable event, as it stands in the table.
///
/// Serialises to and from the table's attribute names. It keeps what another program wrote: a text
/// attribute of another type becomes its JSON, and unknown attributes are in [`Event::extra`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    /// `SESSION#{session_id}`.
    #[serde(rename = "PK")]
    pub partition_key: String,
    /// `EVENT#{Timestamp}`.
    #[serde(rename = "SK")]
    pub sort_key: String,
    /// When it happened; the text of a [`Timestamp`] unless something foreign wrote the item.
    pub timestamp: String,
    /// What happened.
    pub status: Status,
    /// Unique per transition; the same event retried keeps it.
    pub event_id: String,
    /// The run of the session to which the event belongs.
    pub invocation_id: String,
    /// Who wrote it: the text of a [`Source`].
    pub source: String,
    /// On a failure: text a person can act on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// On a failure: a stable name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// On AGENT_BACKGROUND_TASK_COMPLETED: the result's JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Whether `result` was cut, so that it is not JSON any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub result_truncated: bool,
    /// On an agent's own progress: a text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// On AGENT_BACKGROUND_TASK_STARTED: seconds between two signs of life, if the task gives them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u64>,
    /// How many bytes the whole result has, if it was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// The trace in which it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Epoch seconds after which the table may delete it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Attributes that this version does not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Event {
    /// Puts the event at `time`, which decides its sort key.
    pub(crate) fn set_time(&mut self, time: Timestamp) {
        self.timestamp = time.to_string();
        self.sort_key = format!("{SORT_KEY_PREFIX}{time}");
    }

    /// The session to which the event belongs, unless something foreign wrote the item.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        self.partition_key.strip_prefix("SESSION#")?.parse().ok()
    }

    /// The item that a put writes.
    pub(crate) fn to_item(&self) -> HashMap<String, AttributeValue> {
        let Ok(Value::Object(attributes)) = serde_json::to_value(self) else {
            return HashMap::new();
        };
        let attribute = |value| match value {
            Value::String(text) => AttributeValue::S(text),
            Value::Number(number) => AttributeValue::N(number.to_string()),
            Value::Bool(value) => AttributeValue::Bool(value),
            other => AttributeValue::S(other.to_string()),
        };
        attributes.into_iter().map(|(name, value)| (name, attribute(value))).collect()
    }

    /// Reads an item. The event keeps everything that the item holds.
    pub(crate) fn from_item(mut item: HashMap<String, AttributeValue>) -> Self {
        let sort_key = take_text(&mut item, "SK").unwrap_or_default();
        let timestamp = take_text(&mut item, "Timestamp")
            .unwrap_or_else(|| sort_key.trim_start_matches(SORT_KEY_PREFIX).to_owned());
        Self {
            partition_key: take_text(&mut item, "PK").unwrap_or_default(),
            sort_key,
            timestamp,
            status: take_text(&mut item, "Status").unwrap_or_default().as_str().into(),
            event_id: take_text(&mut item, "EventId").unwrap_or_default(),
            invocation_id: take_text(&mut item, "InvocationId").unwrap_or_default(),
            source: take_text(&mut item, "Source").unwrap_or_default(),
            error_message: take_text(&mut item, "ErrorMessage"),
            error_type: take_text(&mut item, "ErrorType"),
            result: take_text(&mut item, "Result"),
            message: take_text(&mut item, "Message"),
            result_truncated: take(&mut item, "ResultTruncated", |v| v.as_bool().ok().copied())
                .unwrap_or_default(),
            result_bytes: take(&mut item, "ResultBytes", number),
            heartbeat_seconds: take(&mut item, "HeartbeatSeconds", number),
            trace_id: take_text(&mut item, "TraceId"),
            expires_at: take(&mut item, "ExpiresAt", number),
            extra: item.into_iter().map(|(name, value)| (name, to_json(value))).collect(),
        }
    }
}

/// Takes an attribute out of the item if it is of the expected type, and leaves it there if not.
fn take<T>(
    item: &mut HashMap<String, AttributeValue>,
    name: &str,
    read: impl FnOnce(&AttributeValue) -> Option<T>,
) -> Option<T> {
    let value = read(item.get(name)?)?;
    item.remove(name);
    Some(value)
}

fn number<N: FromStr>(value: &AttributeValue) -> Option<N> {
    value.as_n().ok()?.parse().ok()
}

/// A text attribute; one of another type as its JSON.
fn take_text(item: &mut HashMap<String, AttributeValue>, name: &str) -> Option<String> {
    Some(match item.remove(name)? {
        AttributeValue::S(text) => text,
        other => to_json(other).to_string(),
    })
}

fn to_json(value: AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => Value::String(text),
        AttributeValue::N(digits) => serde_json::from_str(&digits).unwrap_or(Value::String(digits)),
        AttributeValue::Bool(value) => Value::Bool(value),
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::L(items) => items.into_iter().map(to_json).collect(),
        AttributeValue::M(map) => map.into_iter().map(|(k, v)| (k, to_json(v))).collect(),
        AttributeValue::Ss(items) | AttributeValue::Ns(items) => items.into_iter().collect(),
        other => Value::String(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_keeps_everything_it_holds() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = HashMap::from([
            ("PK".to_owned(), text("SESSION#x")),
            ("SK".to_owned(), text("EVENT#2026-11-23T02:45:00.120000Z")),
            ("Status".to_owned(), text("SOMETHING_NEW")),
            ("Source".to_owned(), AttributeValue::N("7".to_owned())),
            ("Progress".to_owned(), AttributeValue::L(vec![AttributeValue::Bool(true)])),
            ("Blob".to_owned(), AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new("x"))),
        ]);
        let event = Event::from_item(item);
        assert_eq!(event.status, Status::Other("SOMETHING_NEW".into()));
        assert_eq!(event.timestamp, "2026-11-23T02:45:00.120000Z");
        assert_eq!(event.source, "7");
        assert_eq!(event.extra["Progress"], serde_json::json!([true]));
        assert!(event.extra.contains_key("Blob"));
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event, "{line}");
    }
}
