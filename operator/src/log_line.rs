//! A log line of the container or the invoker for a person at a terminal.

use serde_json::{Map, Value};

/// The line in short: time of day, level if it is not INFO, session, who says it, and what. A line that
/// is not JSON stays as it is.
#[must_use]
pub fn readable(line: &str) -> String {
    short(line).unwrap_or_else(|| line.to_owned())
}

fn short(line: &str) -> Option<String> {
    let line = serde_json::from_str::<Map<String, Value>>(line).ok()?;
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let fields = line.get("fields")?.as_object()?;
    let message = fields.get("message")?.as_str()?;
    let time = text("timestamp").and_then(|time| time.get(11..23)).unwrap_or_default();
    let level = text("level").filter(|level| *level != "INFO").map(|level| format!("{level} "));
    let session = line.get("spans").and_then(|spans| spans.get(0)?.get("session_id")?.as_str());
    let session = session.map(|id| format!("{id} ")).unwrap_or_default();
    let who = match text("target").unwrap_or_default() {
        "agent::stdout" | "agent::stderr" => "agent",
        target => target.split("::").next().unwrap_or_default(),
    };
    let others = fields.iter().filter(|(name, _)| *name != "message");
    let others = others.map(|(name, value)| match value {
        Value::String(text) => format!(" {name}={text}"),
        other => format!(" {name}={other}"),
    });
    let others = others.collect::<String>();
    Some(format!("{time} {}{session}{who}: {message}{others}", level.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_who_and_what() {
        let line = r#"{"timestamp":"2026-11-26T02:55:27.758583Z","level":"INFO","fields":{"message":"working"},"target":"agent::stderr","spans":[{"invocation_id":"run-1","session_id":"a40ff4b1","name":"invocation"}]}"#;
        assert_eq!(readable(line), "02:55:27.758 a40ff4b1 agent: working");
        let line = r#"{"timestamp":"2026-11-26T02:55:27.162514Z","level":"WARN","fields":{"message":"refused","n":7,"address":"127.0.0.1:1"},"target":"agent_runtime::run"}"#;
        assert_eq!(
            readable(line),
            "02:55:27.162 WARN agent_runtime: refused n=7 address=127.0.0.1:1"
        );
        for other in ["no JSON", "{}", "[1]", r#"{"fields":{}}"#] {
            assert_eq!(readable(other), other);
        }
    }
}
