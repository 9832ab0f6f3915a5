//! The function against AgentCores that answer, refuse, hang and break off.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_bedrockagentcore::Client;
use aws_sdk_bedrockagentcore::config::retry::RetryConfig;
use aws_sdk_bedrockagentcore::config::{BehaviorVersion, Builder, Credentials, Region};
use invoker::{Handler, Response, Settings};
use journal::{Event, Journal, SessionId};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::{Value, json};
use testing::{Dynamo, Fault, TABLE_NAME};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const AFTER: &str = "2026-11-23T02:45:00.120000Z";

/// What AgentCore does with one request.
#[derive(Clone)]
enum Answer {
    Status(u16, &'static str, String),
    /// Promises more bytes than it sends, and closes.
    Cut,
    /// Closes without an answer.
    Close,
    Hang,
}

fn ok(body: &Value) -> Answer {
    Answer::Status(200, "", body.to_string())
}

fn refusal(status: u16, code: &'static str) -> Answer {
    Answer::Status(status, code, json!({"message": "because"}).to_string())
}

fn journal_settings() -> journal::Settings {
    journal::Settings { table_name: TABLE_NAME.to_owned(), retention_days: None }
}

/// The requests that AgentCore got: head and body.
type Requests = Arc<Mutex<Vec<(String, Value)>>>;

async fn agentcore(answers: Vec<Answer>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answers.next().unwrap();
            tokio::spawn(serve(stream, answer, Arc::clone(&seen)));
        }
    });
    (url, requests)
}

/// Serves one request of one connection.
async fn serve(stream: TcpStream, answer: Answer, seen: Requests) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    seen.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
    let reply = match answer {
        Answer::Status(status, code, body) => format!(
            "HTTP/1.1 {status} x\r\n{}content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            match code {
                // A proxy's.
                "" => String::new(),
                code => format!("x-amzn-errortype: {code}\r\nx-amzn-requestid: request-1\r\n"),
            },
            body.len()
        ),
        Answer::Cut => {
            "HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"st"
                .to_owned()
        }
        Answer::Close => return,
        Answer::Hang => std::future::pending().await,
    };
    stream.write_all(reply.as_bytes()).await.unwrap();
}

struct Outcome {
    result: Result<Response, Diagnostic>,
    events: Vec<Event>,
    requests: Vec<(String, Value)>,
}

impl Outcome {
    fn statuses(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.status.as_str()).collect()
    }

    fn diagnostic(self) -> Diagnostic {
        self.result.unwrap_err()
    }
}

fn session_id() -> SessionId {
    "session-of-the-invoker-0123456789-abcdef".parse().unwrap()
}

fn request() -> Value {
    json!({"session_id": session_id(), "invocation_id": "run-1", "after": AFTER, "input": {"prompt": "hi"}})
}

/// As Lambda gives it.
const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// Runs the function once, with `left` of its time.
async fn run(dynamo: &Dynamo, answers: Vec<Answer>, request: Value, left: Duration) -> Outcome {
    let (url, requests) = agentcore(answers).await;
    let client = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("a", "b", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(url)
        .build();
    let settings = Settings {
        journal: journal_settings(),
        agent_runtime_arn: "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/agent-1"
            .to_owned(),
        qualifier: Some("prod".to_owned()),
    };
    let handler = Handler::new(
        Journal::new(dynamo.config(), journal_settings()),
        Client::from_conf(client),
        settings,
    );
    let mut context = Context::default();
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + left;
    context.deadline = deadline.as_millis().try_into().unwrap();
    context.xray_trace_id = Some(XRAY.to_owned());
    let result = handler
        .handle(LambdaEvent::new(serde_json::value::to_raw_value(&request).unwrap(), context))
        .await;
    let calm = Dynamo::over(dynamo.database.clone(), |_| Fault::None);
    let calm = Journal::new(calm.config(), journal_settings());
    let events = calm.events(&session_id()).await.unwrap();
    let requests = requests.lock().unwrap().clone();
    Outcome { result, events, requests }
}

async fn run_calmly(answers: Vec<Answer>) -> Outcome {
    run(&Dynamo::new(|_| Fault::None), answers, request(), Duration::from_secs(120)).await
}

fn started() -> Answer {
    ok(&json!({"status": "started", "after": "2026-11-23T02:46:00.000000Z"}))
}

#[tokio::test]
async fn a_session_is_invoked_once_with_its_own_id_and_journaled() {
    let outcome = run_calmly(vec![started()]).await;
    assert_eq!(outcome.statuses(), ["AGENT_INVOCATION_STARTED", "AGENT_INVOCATION_SUCCEEDED"]);
    assert!(
        outcome
            .events
            .iter()
            .all(|event| event.source == "invoker" && event.invocation_id == "run-1")
    );
    let [(head, body)] = outcome.requests.as_slice() else { unreachable!() };
    assert!(head.starts_with("POST /runtimes/arn%3Aaws%3Abedrock-agentcore"), "{head}");
    assert!(head.contains("qualifier=prod"), "{head}");
    let header = format!("x-amzn-bedrock-agentcore-runtime-session-id: {}", session_id());
    assert!(head.to_lowercase().contains(&header), "{head}");
    assert_eq!(body["input"], json!({"prompt": "hi"}));
    assert_eq!(body["invocation_id"], "run-1");
    assert_eq!(body["after"], outcome.events[0].timestamp);
    assert_eq!(body["environment"], json!({"SESSION_ID": session_id()}));
    let response = outcome.result.unwrap();
    assert_eq!(response.status_code, Some(200));
    assert_eq!(response.after.to_string(), outcome.events[1].timestamp);
}

#[tokio::test]
async fn the_workflows_trace_goes_on_and_else_the_one_of_x_ray() {
    let xray = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (traceparent, sent) in
        [(json!(given), given), (json!("00-1-2-01"), xray), (Value::Null, xray)]
    {
        let mut request = request();
        request["traceparent"] = traceparent;
        let dynamo = Dynamo::new(|_| Fault::None);
        let outcome = run(&dynamo, vec![started()], request, Duration::from_secs(120)).await;
        let [(head, body)] = outcome.requests.as_slice() else { unreachable!() };
        // The SDK's parameter, and the envelope, which needs no allowance.
        assert!(head.to_lowercase().contains(&format!("traceparent: {sent}")), "{head}");
        assert_eq!(body["trace"], json!({"traceparent": sent}));
        let trace = sent.split('-').nth(1);
        assert!(outcome.events.iter().all(|event| event.trace_id.as_deref() == trace));
    }
}

#[tokio::test]
async fn its_events_sort_after_their_causes() {
    let ahead = (chrono::Utc::now() + chrono::TimeDelta::minutes(9))
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let further = (chrono::Utc::now() + chrono::TimeDelta::minutes(19))
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let mut request = request();
    request["after"] = json!(ahead);
    let answer = ok(&json!({"after": further}));
    let outcome =
        run(&Dynamo::new(|_| Fault::None), vec![answer], request, Duration::from_secs(120)).await;
    assert!(outcome.events[0].timestamp > ahead);
    assert!(outcome.events[1].timestamp > further);
}

#[tokio::test]
async fn a_definite_failure_is_not_retried_and_carries_the_code() {
    for (status, code) in [
        (400, "ValidationException"),
        (402, "ServiceQuotaExceededException"),
        (403, "AccessDeniedException"),
        (404, "ResourceNotFoundException"),
        (424, "RuntimeClientError"),
    ] {
        let outcome = run_calmly(vec![refusal(status, code)]).await;
        assert_eq!(
            outcome.statuses(),
            ["AGENT_INVOCATION_STARTED", "AGENT_INVOCATION_FAILED"],
            "{code}"
        );
        assert_eq!(outcome.events[1].error_type.as_deref(), Some(code));
        let message = format!("InvokeAgentRuntime failed: {code}: because");
        assert_eq!(outcome.events[1].error_message.as_deref(), Some(&*message));
        let diagnostic = outcome.diagnostic();
        assert_eq!((&*diagnostic.error_type, diagnostic.error_message), (code, message));
    }
}

#[tokio::test]
async fn a_passing_failure_is_retried_with_the_same_session_and_journaled_once() {
    for (status, code) in [
        (409, "RetryableConflictException"),
        (429, "ThrottlingException"),
        (500, "InternalServerException"),
    ] {
        let outcome =
            run_calmly(vec![refusal(status, code), refusal(status, code), started()]).await;
        assert_eq!(
            outcome.statuses(),
            ["AGENT_INVOCATION_STARTED", "AGENT_INVOCATION_SUCCEEDED"],
            "{code}"
        );
        assert_eq!(outcome.requests.len(), 3);
        assert!(outcome.requests.iter().all(|(head, body)| {
            head.contains(session_id().as_str()) && *body == outcome.requests[0].1
        }));
        let outcome = run_calmly(vec![refusal(status, code); 4]).await;
        assert_eq!(
            outcome.statuses(),
            ["AGENT_INVOCATION_STARTED", "AGENT_INVOCATION_FAILED"],
            "{code}"
        );
        assert_eq!(outcome.diagnostic().error_type, code, "bounded");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_agentcores_is_definite_for_4xx_and_unknown_for_5xx() {
    let page = |status| Answer::Status(status, "", "<html>".to_owned());
    let outcome = run_calmly(vec![page(403)]).await;
    assert_eq!(outcome.statuses()[1], "AGENT_INVOCATION_FAILED");
    assert_eq!(outcome.diagnostic().error_type, "HTTP403");
    let busy = run_calmly(vec![page(429), page(429), page(429), page(429)]).await;
    assert_eq!(busy.diagnostic().error_type, "HTTP429", "nothing was applied");
    // It may have handed these on.
    for answer in [page(408), page(504), Answer::Status(408, "", r#"{"code":"Timeout"}"#.into())] {
        let outcome = run_calmly(vec![answer]).await;
        assert_eq!(outcome.events[1].error_type.as_deref(), Some("OutcomeUnknown"));
    }
    let outcome = run_calmly(vec![page(504)]).await;
    assert_eq!(outcome.events[1].error_type.as_deref(), Some("OutcomeUnknown"));
    assert_eq!(outcome.result.unwrap().status_code, None);
}

#[tokio::test]
async fn an_ambiguous_failure_returns_and_says_that_the_outcome_is_unknown() {
    for (answer, left) in [
        (Answer::Cut, Duration::from_secs(120)),
        (Answer::Close, Duration::from_secs(120)),
        (Answer::Hang, Duration::from_millis(5_500)),
    ] {
        let outcome = run(&Dynamo::new(|_| Fault::None), vec![answer], request(), left).await;
        assert_eq!(outcome.statuses(), ["AGENT_INVOCATION_STARTED", "AGENT_INVOCATION_FAILED"]);
        assert_eq!(outcome.events[1].error_type.as_deref(), Some("OutcomeUnknown"));
        assert_eq!(outcome.requests.len(), 1, "not retried: the agent may be running");
        assert_eq!(outcome.result.unwrap().status_code, None);
    }
}

#[tokio::test]
async fn with_too_little_time_left_nothing_is_sent_and_the_failure_says_so() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let outcome = run(&dynamo, vec![], request(), Duration::from_secs(4)).await;
    assert!(outcome.requests.is_empty());
    assert_eq!(outcome.statuses(), ["AGENT_INVOCATION_STARTED", "AGENT_INVOCATION_FAILED"]);
    assert_eq!(outcome.diagnostic().error_type, "NoTimeLeft");
}

#[tokio::test]
async fn without_credentials_nothing_is_sent_and_the_failure_says_so() {
    let dynamo = Dynamo::new(|_| Fault::Refused("ExpiredTokenException"));
    let outcome = run(&dynamo, vec![], request(), Duration::from_secs(120)).await;
    assert!(outcome.requests.is_empty());
    let diagnostic = outcome.diagnostic();
    assert_eq!(diagnostic.error_type, "JournalError");
    assert!(
        diagnostic.error_message.contains("no valid AWS credentials"),
        "{}",
        diagnostic.error_message
    );
}

#[tokio::test]
async fn an_agent_is_not_invoked_before_the_start_is_durable() {
    let dynamo = Dynamo::new(|_| Fault::Refused("AccessDeniedException"));
    let outcome = run(&dynamo, vec![], request(), Duration::from_secs(120)).await;
    assert!(outcome.requests.is_empty());
    let diagnostic = outcome.diagnostic();
    assert_eq!(diagnostic.error_type, "JournalError");
    assert!(
        diagnostic.error_message.contains("dynamodb:PutItem on table agent-journal is denied"),
        "{}",
        diagnostic.error_message
    );
}

#[tokio::test]
async fn a_success_that_cannot_be_journaled_is_a_success() {
    let dynamo = Dynamo::new(|call| match call.status() {
        "AGENT_INVOCATION_SUCCEEDED" => Fault::Refused("AccessDeniedException"),
        _ => Fault::None,
    });
    let outcome = run(&dynamo, vec![started()], request(), Duration::from_secs(120)).await;
    let response = outcome.result.unwrap();
    assert_eq!(
        (response.status_code, response.after.to_string()),
        (Some(200), "2026-11-23T02:46:00.000000Z".to_owned())
    );
}

#[tokio::test]
async fn a_malformed_request_is_refused_with_the_rule_before_any_write() {
    for (field, value, said) in [
        ("session_id", json!("short"), "33 to 100 characters"),
        ("after", json!("yesterday"), "2026-11-23T02:45:00.120000Z"),
        ("invocation_id", json!(7), "invalid type"),
        ("invocation_id", json!(""), "1 to 512 bytes without control characters"),
        ("invocation_id", json!("a\nb"), "1 to 512 bytes without control characters"),
        ("invocation_id", json!("x".repeat(513)), "1 to 512 bytes without control characters"),
    ] {
        let mut request = request();
        request[field] = value;
        let dynamo = Dynamo::new(|_| Fault::None);
        let outcome = run(&dynamo, vec![], request, Duration::from_secs(120)).await;
        assert!(outcome.events.is_empty() && outcome.requests.is_empty());
        let diagnostic = outcome.diagnostic();
        assert_eq!(diagnostic.error_type, "InvalidRequest");
        assert!(diagnostic.error_message.contains(said), "{}", diagnostic.error_message);
    }
}
