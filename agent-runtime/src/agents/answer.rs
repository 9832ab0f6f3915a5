//! What an agent's server answers: one result, or a stream of events.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::output::{Head, MAX_RESULT_BYTES};
use crate::AgentError;

/// What the SDKs for AgentCore answer when the agent's function fails.
#[derive(Debug, Default, Deserialize)]
struct Said {
    error: Value,
    error_type: Option<String>,
    details: Option<Value>,
    message: Option<String>,
}

/// The failure that an answer other than 2xx means. `how` is its status.
pub(super) fn refusal(body: &Head, how: &str) -> AgentError {
    let text = String::from_utf8_lossy(&body.kept);
    let Ok(said) = serde_json::from_str::<Said>(&text) else {
        let words = if text.trim().is_empty() { "the agent gave no reason" } else { text.trim() };
        return format!("{words} ({how})").into();
    };
    let more = said.message.clone().or_else(|| said.details.as_ref().map(text_of));
    let more = more.map(|more| format!(": {more}")).unwrap_or_default();
    failure_of(&said, &format!("{more} ({how})"))
}

fn failure_of(said: &Said, more: &str) -> AgentError {
    let text = text_of(&said.error);
    match &said.error_type {
        Some(error_type) => AgentError::new(error_type, format!("{error_type}: {text}{more}")),
        None => format!("{text}{more}").into(),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Server-sent events, as they arrive: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    name: String,
    data: Option<String>,
    /// The JSON array of what came.
    list: Head,
    count: usize,
    /// What the last event means, if it reports a failure.
    failure: Option<AgentError>,
}

impl Events {
    pub fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend_line(line);
            self.end_line();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend_line(bytes);
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = MAX_RESULT_BYTES.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => self.end_event(),
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => self.data = Some(value.to_owned()),
            },
            // A comment, which keeps the connection open, or a field that does not concern us.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let Some(data) = self.data.take() else { return };
        let is_json = serde_json::from_str::<&RawValue>(&data).is_ok();
        let json = if is_json { data.clone() } else { Value::from(data.as_str()).to_string() };
        self.list.push(if self.count == 0 { b"[" } else { b"," });
        self.list.push(json.as_bytes());
        self.count += 1;
        let said = serde_json::from_str::<Said>(&data).ok();
        // The TypeScript SDK names the event, the Python SDK gives the exception's class.
        let said = said.filter(|said| name == "error" || said.error_type.is_some());
        self.failure = said.map(|said| failure_of(&said, " (in the stream)"));
    }

    /// The JSON array of all events.
    ///
    /// # Errors
    /// If the last one reports a failure.
    pub fn end(mut self) -> Result<Head, AgentError> {
        self.end_line();
        self.end_event();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.list.push(if self.count == 0 { b"[]" } else { b"]" });
        Ok(self.list)
    }

    /// How many events came.
    pub fn count(&self) -> usize {
        self.count
    }
}
