//! What the body of `/invocations` means.

use std::collections::BTreeMap;

use actix_web::web::Bytes;
use journal::text::is_invocation_id;
use journal::{InvalidSessionId, SessionId, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use telemetry::TraceParent;
use thiserror::Error;

use crate::Input;
use crate::body::{Body, nesting};

/// How deep a body may be nested: many parsers accept 127 levels, including those of the envelope.
const MAX_NESTING: usize = 120;

/// A body that was understood.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub session_id: SessionId,
    pub invocation_id: String,
    pub after: Option<Timestamp>,
    pub input: Input,
    /// What caused the request, if the envelope has a valid `traceparent`.
    pub traceparent: Option<TraceParent>,
}

/// A body that was not understood. The text is the `error` of the answer 400.
#[derive(Debug, PartialEq, Error)]
pub(crate) enum BadRequest {
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    #[error("the body is nested deeper than {MAX_NESTING} levels")]
    TooDeep,
    #[error(transparent)]
    SessionId(#[from] InvalidSessionId),
    #[error(
        "no session id: send it in the header X-Amzn-Bedrock-AgentCore-Runtime-Session-Id or as \
         \"session_id\" in the body, such as {{\"session_id\": \"session-2026-11-23-0123456789-abcdef\", \
         \"prompt\": \"hi\"}}; {InvalidSessionId}"
    )]
    NoSessionId,
    #[error("the body has \"sessionId\" and no session id: its name is \"session_id\"")]
    MisnamedSessionId,
    #[error("the session id in the body differs from the one in the header")]
    TwoSessionIds,
    #[error("the session id is in two headers that differ")]
    TwoSessionHeaders,
    #[error("\"{0}\" {1}")]
    Field(&'static str, &'static str),
}

/// Reads the body. It is the invoker's envelope if and only if it has both `input` and
/// `invocation_id`. Any other JSON is itself the input, without its `session_id`. `header` is the
/// session id in the header, `request_id` the run's id if the body names none.
pub(crate) fn parse(
    body: &Bytes,
    header: Option<&SessionId>,
    request_id: &str,
) -> Result<Request, BadRequest> {
    if nesting(body) > MAX_NESTING {
        return Err(BadRequest::TooDeep);
    }
    let read = Body::read(body).map_err(|error| BadRequest::Json(error.to_string()))?;
    let in_body = match read.member("session_id") {
        None => None,
        Some(id) => Some(serde_json::from_str(id.get()).map_err(|_| InvalidSessionId)?),
    };
    let session_id = match (header, in_body) {
        (Some(header), Some(in_body)) if *header != in_body => {
            return Err(BadRequest::TwoSessionIds);
        }
        (Some(header), _) => header.clone(),
        (None, Some(in_body)) => in_body,
        (None, None) if read.member("sessionId").is_some() => {
            return Err(BadRequest::MisnamedSessionId);
        }
        (None, None) => return Err(BadRequest::NoSessionId),
    };
    if let (Some(input), Some(run)) = (read.member("input"), read.member("invocation_id")) {
        const RUN: &str = "must be a text of 1 to 512 bytes without control characters";
        const AFTER: &str = "must be null, or UTC in the form 2026-11-23T02:45:00.120000Z";
        const ENVIRONMENT: &str = "may hold SESSION_ID, equal to the session id, and nothing else";
        let run = serde_json::from_str::<String>(run.get()).ok().filter(|id| is_invocation_id(id));
        let environment = field::<BTreeMap<String, Value>>(&read, "environment", ENVIRONMENT)?;
        // A body must not be able to set `LD_PRELOAD` or `AWS_*` for the command that runs.
        let is_id =
            |(name, value): (String, Value)| name == "SESSION_ID" && value == session_id.as_str();
        if !environment.into_iter().flatten().all(is_id) {
            return Err(BadRequest::Field("environment", ENVIRONMENT));
        }
        const TRACE: &str = "must hold \"traceparent\" as a text";
        let trace = field::<Value>(&read, "trace", TRACE)?.unwrap_or_default();
        let traceparent = match trace.get("traceparent") {
            None => None,
            // One that is not valid is ignored, as its standard says.
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => return Err(BadRequest::Field("trace", TRACE)),
        };
        return Ok(Request {
            session_id,
            invocation_id: run.ok_or(BadRequest::Field("invocation_id", RUN))?,
            after: field(&read, "after", AFTER)?,
            input: Input(body.slice_ref(input.get().as_bytes())),
            traceparent,
        });
    }
    if read.member("input").is_some() {
        tracing::warn!(
            "the body has \"input\" and no \"invocation_id\", so it is no envelope: the agent gets the whole body"
        );
    }
    let (invocation_id, input) = (request_id.to_owned(), Input(read.without("session_id")));
    Ok(Request { session_id, invocation_id, after: None, input, traceparent: None })
}

/// A member of the envelope, which may be absent or null.
fn field<T: DeserializeOwned>(
    body: &Body,
    name: &'static str,
    rule: &'static str,
) -> Result<Option<T>, BadRequest> {
    let read = |value: &RawValue| serde_json::from_str(value.get());
    let value = body.member(name).map(read).transpose();
    value.map(Option::flatten).map_err(|_| BadRequest::Field(name, rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const ID: &str = "session-2026-11-23-0123456789-abcdef";

    fn id() -> SessionId {
        ID.parse().unwrap()
    }

    fn read(body: Value) -> Result<Request, BadRequest> {
        parse(&body.to_string().into(), Some(&id()), "request-1")
    }

    fn input(request: &Request) -> Value {
        request.input.read().unwrap()
    }

    #[test]
    fn a_plain_body_is_itself_the_input_less_the_session_id() {
        let body = json!({"session_id": ID, "prompt": "hi", "input": 1}).to_string();
        let request = parse(&body.into(), None, "request-1").unwrap();
        assert_eq!(input(&request), json!({"prompt": "hi", "input": 1}));
        assert_eq!(request.invocation_id, "request-1");
        assert_eq!(input(&read(json!("hi")).unwrap()), json!("hi"));
    }

    #[test]
    fn an_envelope_is_opened() {
        let request = read(json!({
            "input": {"prompt": "hi"}, "invocation_id": "run-1", "after": "2026-11-23T02:45:00.120000Z",
            "environment": {"SESSION_ID": ID}, "trace": {"traceparent": TRACEPARENT},
        }))
        .unwrap();
        assert_eq!(input(&request), json!({"prompt": "hi"}));
        assert_eq!(request.invocation_id, "run-1");
        assert_eq!(request.after.unwrap().to_string(), "2026-11-23T02:45:00.120000Z");
        assert_eq!(request.traceparent.unwrap().to_string(), TRACEPARENT);
    }

    #[test]
    fn a_traceparent_that_is_not_valid_is_ignored() {
        let trace = json!({"traceparent": "00-1-2-01"});
        let body = json!({"input": 1, "invocation_id": "r", "trace": trace}).to_string();
        let request = parse(&body.into(), Some(&id()), "request-1").unwrap();
        assert_eq!(request.traceparent, None);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_the_rule() {
        let envelope = |extra: Value| {
            let mut body = json!({"input": 1, "invocation_id": "run-1"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            read(body).unwrap_err().to_string()
        };
        for variables in [
            json!({"LD_PRELOAD": "x"}),
            json!({"SESSION_ID": ID, "AWS_REGION": "x"}),
            json!({"SESSION_ID": "another"}),
            json!({"SESSION_ID": 1}),
            json!([]),
        ] {
            let error = envelope(json!({"environment": variables}));
            assert!(error.contains("SESSION_ID, equal to the session id"), "{error}");
        }
        assert!(envelope(json!({"invocation_id": ""})).contains("1 to 512 bytes"));
        assert!(envelope(json!({"invocation_id": 7})).contains("1 to 512 bytes"));
        assert!(envelope(json!({"after": "yesterday"})).contains("2026-11-23T02:45:00.120000Z"));
        assert!(envelope(json!({"after": 1})).contains("after"));
        assert!(envelope(json!({"trace": {"traceparent": 1}})).contains("traceparent"));
        assert_eq!(read(json!({"session_id": format!("{ID}x")})), Err(BadRequest::TwoSessionIds));
        assert_eq!(read(json!({"session_id": 7})), Err(InvalidSessionId.into()));
        assert_eq!(parse(&Bytes::from("{}"), None, "r"), Err(BadRequest::NoSessionId));
        assert!(matches!(
            parse(&Bytes::from_static(b"\xff"), Some(&id()), "r"),
            Err(BadRequest::Json(_))
        ));
        let deep = |levels| Bytes::from("[".repeat(levels) + &"]".repeat(levels));
        assert_eq!(parse(&deep(10_000), Some(&id()), "r"), Err(BadRequest::TooDeep));
        assert!(parse(&deep(MAX_NESTING), Some(&id()), "r").is_ok());
        let unclosed = Bytes::from("[".repeat(100));
        assert!(matches!(parse(&unclosed, Some(&id()), "r"), Err(BadRequest::Json(_))));
    }

    #[test]
    fn the_input_is_the_callers_bytes() {
        let text = r#"[10928588.983213553, 123456789012345678901234567890 , {"b":1,"a":2,"b":3}]"#;
        let body = format!(r#"{{"invocation_id":"r","input": {text} }}"#);
        let request = parse(&body.into(), Some(&id()), "request-1").unwrap();
        assert_eq!(request.input.as_str(), text);
        let whole = parse(&Bytes::from(text), Some(&id()), "request-1").unwrap();
        assert_eq!(whole.input.as_str(), text);
    }
}
