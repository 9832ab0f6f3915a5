//! What the body of `/invocations` means.

use journal::text::MAX_ID_BYTES;
use journal::{InvalidSessionId, SessionId, Timestamp};
use serde_json::{Map, Value};
use telemetry::TraceParent;
use thiserror::Error;

/// A body that was understood.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub session_id: SessionId,
    pub invocation_id: String,
    pub after: Option<Timestamp>,
    pub input: Value,
    /// What caused the request, if the envelope has a valid `traceparent`.
    pub traceparent: Option<TraceParent>,
}

/// A body that was not; its text is the answer's `error`, with 400.
#[derive(Debug, PartialEq, Error)]
pub(crate) enum BadRequest {
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    #[error(transparent)]
    SessionId(#[from] InvalidSessionId),
    #[error(
        "no session id: send it in the header X-Amzn-Bedrock-AgentCore-Runtime-Session-Id or as \
         \"session_id\" in the body, such as {{\"session_id\": \"session-2026-11-23-0123456789-abcdef\", \
         \"prompt\": \"hi\"}}; {InvalidSessionId}"
    )]
    NoSessionId,
    #[error("the session id in the body differs from the one in the header")]
    TwoSessionIds,
    #[error("\"{0}\" {1}")]
    Field(&'static str, &'static str),
}

/// Reads the body. It is the invoker's envelope if and only if it has both `input` and
/// `invocation_id`; any other JSON is itself the input, less a `session_id`. `header` is the
/// session id of the header, `request_id` the run's id if the body names none.
pub(crate) fn parse(
    body: &[u8],
    header: Option<&SessionId>,
    request_id: &str,
) -> Result<Request, BadRequest> {
    let mut body: Value =
        serde_json::from_slice(body).map_err(|error| BadRequest::Json(error.to_string()))?;
    let in_body = match body.as_object_mut().and_then(|body| body.remove("session_id")) {
        None => None,
        Some(Value::String(id)) => Some(id.parse::<SessionId>()?),
        Some(_) => return Err(InvalidSessionId.into()),
    };
    let session_id = match (header, in_body) {
        (Some(header), Some(in_body)) if *header != in_body => {
            return Err(BadRequest::TwoSessionIds);
        }
        (Some(header), _) => header.clone(),
        (None, Some(in_body)) => in_body,
        (None, None) => return Err(BadRequest::NoSessionId),
    };
    let (input, invocation_id, after, traceparent) = match body {
        Value::Object(envelope)
            if envelope.contains_key("input") && envelope.contains_key("invocation_id") =>
        {
            open(envelope, &session_id)?
        }
        input => (input, request_id.to_owned(), None, None),
    };
    Ok(Request { session_id, invocation_id, after, input, traceparent })
}

type Envelope = (Value, String, Option<Timestamp>, Option<TraceParent>);

fn open(mut envelope: Map<String, Value>, session_id: &SessionId) -> Result<Envelope, BadRequest> {
    let mut take = |name| envelope.remove(name).filter(|value| !value.is_null());
    let input = take("input").unwrap_or_default();
    let invocation_id = match take("invocation_id") {
        Some(Value::String(id)) if is_id(&id) => id,
        _ => {
            return Err(BadRequest::Field(
                "invocation_id",
                "must be a text of 1 to 512 bytes without control characters",
            ));
        }
    };
    let after = match take("after") {
        None => None,
        Some(Value::String(time)) => Some(time.parse().map_err(|_| {
            BadRequest::Field("after", "must be UTC in the form 2026-11-23T02:45:00.120000Z")
        })?),
        Some(_) => return Err(BadRequest::Field("after", "must be a text or null")),
    };
    // A body must not be able to set LD_PRELOAD or AWS_* for the command that runs.
    const ENVIRONMENT: BadRequest = BadRequest::Field(
        "environment",
        "may hold SESSION_ID, equal to the session id, and nothing else",
    );
    match take("environment") {
        None => {}
        Some(Value::Object(variables)) => {
            let allowed = |(name, value): (&String, &Value)| {
                name == "SESSION_ID" && value.as_str() == Some(session_id.as_str())
            };
            if !variables.iter().all(allowed) {
                return Err(ENVIRONMENT);
            }
        }
        Some(_) => return Err(ENVIRONMENT),
    }
    let traceparent = match take("trace").as_ref().and_then(|trace| trace.get("traceparent")) {
        None => None,
        Some(Value::String(value)) => value.parse().ok(),
        Some(_) => return Err(BadRequest::Field("trace", "must hold \"traceparent\" as a text")),
    };
    Ok((input, invocation_id, after, traceparent))
}

/// Whether a caller's text may become an attribute of an event and an environment variable.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
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
        parse(body.to_string().as_bytes(), Some(&id()), "request-1")
    }

    #[test]
    fn a_plain_body_is_itself_the_input_less_the_session_id() {
        let body = json!({"session_id": ID, "prompt": "hi", "input": 1}).to_string();
        let request = parse(body.as_bytes(), None, "request-1").unwrap();
        assert_eq!(request.input, json!({"prompt": "hi", "input": 1}));
        assert_eq!(request.invocation_id, "request-1");
        assert_eq!(read(json!("hi")).unwrap().input, json!("hi"));
    }

    #[test]
    fn an_envelope_is_opened() {
        let request = read(json!({
            "input": {"prompt": "hi"}, "invocation_id": "run-1", "after": "2026-11-23T02:45:00.120000Z",
            "environment": {"SESSION_ID": ID}, "trace": {"traceparent": TRACEPARENT},
        }))
        .unwrap();
        assert_eq!(request.input, json!({"prompt": "hi"}));
        assert_eq!(request.invocation_id, "run-1");
        assert_eq!(request.after.unwrap().to_string(), "2026-11-23T02:45:00.120000Z");
        assert_eq!(request.traceparent.unwrap().to_string(), TRACEPARENT);
    }

    #[test]
    fn a_traceparent_that_is_not_valid_is_ignored() {
        let trace = json!({"traceparent": "00-1-2-01"});
        let body = json!({"input": 1, "invocation_id": "r", "trace": trace}).to_string();
        let request = parse(body.as_bytes(), Some(&id()), "request-1").unwrap();
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
        assert_eq!(parse(b"{}", None, "r"), Err(BadRequest::NoSessionId));
        assert!(matches!(parse(b"\xff", Some(&id()), "r"), Err(BadRequest::Json(_))));
        assert!(matches!(
            parse("[".repeat(10_000).as_bytes(), Some(&id()), "r"),
            Err(BadRequest::Json(_))
        ));
    }
}
