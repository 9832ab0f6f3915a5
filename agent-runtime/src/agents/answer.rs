//! What an agent's server answers: one result, or a stream of events.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::output::Head;
use crate::AgentError;

/// The answer of the SDKs for AgentCore when the agent's function fails.
#[derive(Debug, Default, Deserialize)]
struct Said {
    error: Value,
    #[serde(default)]
    error_type: String,
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
    let text = if text.trim().is_empty() { "the agent gave no reason" } else { text.trim() };
    match said.error_type.as_str() {
        "" => format!("{text}{more}").into(),
        error_type => AgentError::new(error_type, format!("{error_type}: {text}{more}")),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

const IN_THE_STREAM: &str = " (in the stream)";

/// Server-sent events, as they arrive: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Head,
    name: String,
    data: Option<Head>,
    /// The JSON array of the events so far.
    list: Head,
    count: usize,
    /// What the last event means, if it reports a failure.
    failure: Option<AgentError>,
}

impl Events {
    pub fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.line.push(line);
            self.end_line();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.line.push(bytes);
    }

    fn end_line(&mut self) {
        let Head { mut kept, bytes } = std::mem::take(&mut self.line);
        let is_whole = kept.len() == bytes;
        if is_whole && kept.ends_with(b"\r") {
            kept.pop();
        }
        if kept.is_empty() {
            return self.end_event();
        }
        let colon = kept.iter().position(|byte| *byte == b':').unwrap_or(kept.len());
        let (field, value) = kept.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field.strip_prefix(b"\xef\xbb\xbf").unwrap_or(field) {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                let more = self.data.is_some();
                let data = self.data.get_or_insert_default();
                data.push(if more { b"\n" } else { b"" });
                data.push(value);
                data.bytes += if is_whole { 0 } else { bytes - kept.len() };
            }
            // A comment, which keeps the connection open, or a field that we do not need.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let Some(data) = self.data.take() else { return };
        let text = String::from_utf8_lossy(&data.kept);
        let is_json = serde_json::from_str::<&RawValue>(&text).is_ok();
        self.list.push(if self.count == 0 { b"[" } else { b"," });
        match is_json {
            true => self.list.push(&data.kept),
            false => self.list.push(Value::from(&*text).to_string().as_bytes()),
        }
        self.list.bytes += data.bytes - data.kept.len();
        self.count += 1;
        // The TypeScript SDK names the event, the Python SDK gives the exception's class.
        let said = serde_json::from_str::<Said>(&text).ok();
        let failure = || Some(failure_of(said.as_ref()?, IN_THE_STREAM));
        self.failure = match &said {
            Some(said) if !said.error_type.is_empty() => failure(),
            _ if name == "error" => {
                Some(failure().unwrap_or_else(|| format!("{text}{IN_THE_STREAM}").into()))
            }
            _ => None,
        };
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
