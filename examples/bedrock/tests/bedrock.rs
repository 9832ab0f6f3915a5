//! The example as a container's main process, against a service that speaks Converse's wire format.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod converse;

use std::path::Path;
use std::time::{Duration, Instant};

use converse::{Answer, Converse, MODEL, answer, tool_use};
use journal::{Event, Journal, Settings};
use serde_json::{Value, json};
use testing::{Program, TABLE_NAME, Table};

/// Runs one task with these answers; gives its events and what the service was asked.
async fn run_with(
    answers: impl IntoIterator<Item = Answer>,
    environment: &[(&str, &str)],
) -> (Vec<Event>, Vec<Value>) {
    let service = Converse::start(answers);
    let table = Table::open(None, 0).await.unwrap();
    let variables = [
        ("MODEL_ID", MODEL),
        ("MAX_TURNS", "3"),
        ("SYSTEM_PROMPT", "Be brief."),
        ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", &service.endpoint),
    ];
    let environment = [&variables[..], environment].concat();
    let program = Path::new(env!("CARGO_BIN_EXE_bedrock-agent"));
    let program = Program::start(program, &table, &environment).await;
    let settings = Settings { table_name: TABLE_NAME.to_owned(), retention_days: None };
    let journal = Journal::new(table.client_config(), settings);
    let id = format!("session-{}", uuid::Uuid::new_v4());
    let body = json!({"session_id": id, "prompt": "What is 2 x 21?"}).to_string();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(format!("{}/invocations", program.url)).body(body).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    let deadline = Instant::now() + Duration::from_secs(60);
    let events = loop {
        let events = journal.events(&id.parse().unwrap()).await.unwrap();
        let ended = |event: &Event| event.result.is_some() || event.error_type.is_some();
        let last = events.last().filter(|event| !event.status.is_progress());
        if last.is_some_and(ended) {
            break events;
        }
        assert!(Instant::now() < deadline, "{events:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    (events, service.stop().await)
}

async fn run(answers: impl IntoIterator<Item = Answer>) -> (Vec<Event>, Vec<Value>) {
    run_with(answers, &[]).await
}

/// How the task failed: type and message.
fn failure(events: &[Event]) -> (&str, &str) {
    let last = events.last().unwrap();
    assert_eq!(last.status.as_str(), "AGENT_BACKGROUND_TASK_FAILED", "{events:?}");
    (last.error_type.as_deref().unwrap(), last.error_message.as_deref().unwrap())
}

fn result(events: &[Event]) -> Option<&str> {
    events.last().unwrap().result.as_deref()
}

fn end() -> Answer {
    answer("end_turn", json!([{"text": "42"}]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_calls_its_tools_until_it_has_an_answer() {
    let started = json!({"phase": "plan", "step": "started", "text": "two numbers"});
    let completed = json!({"phase": "plan", "step": "completed"});
    let (events, asked) = run([
        answer(
            "tool_use",
            json!([{"text": "I plan."}, tool_use("t1", "journal", started), tool_use("t2", "nothing", json!({}))]),
        ),
        // A turn that ends with a call has not ended. Bedrock takes back neither a blank text nor
        // what the SDK does not know.
        answer(
            "end_turn",
            json!([{"text": " "}, {"hologram": {"bytes": "AA=="}}, tool_use("t3", "journal", completed)]),
        ),
        end(),
    ])
    .await;
    let statuses: Vec<_> = events.iter().map(|event| event.status.as_str()).collect();
    let expected = [
        "AGENT_BACKGROUND_TASK_STARTED", "TASK_PLAN_STARTED", "TASK_PLAN_COMPLETED",
        "AGENT_BACKGROUND_TASK_COMPLETED",
    ];
    assert_eq!(statuses[1..], expected);
    assert_eq!(events[2].message.as_deref(), Some("two numbers"));
    assert_eq!(result(&events), Some("\"42\""));
    assert_eq!(asked[0]["system"], json!([{"text": "Be brief."}]));
    let prompt = json!([{"role": "user", "content": [{"text": "What is 2 x 21?"}]}]);
    assert_eq!(asked[0]["messages"], prompt);
    assert_eq!(asked[0]["inferenceConfig"], json!({"maxTokens": 4096}));
    let tools = asked[0]["toolConfig"]["tools"].as_array().unwrap();
    assert_eq!(tools[0]["toolSpec"]["name"], "journal");
    assert_eq!(asked[1]["messages"][1]["content"][0]["text"], "I plan.");
    let results = &asked[1]["messages"][2]["content"];
    assert_eq!(results[0]["toolResult"]["toolUseId"], "t1");
    assert_eq!(results[0]["toolResult"]["status"], "success");
    assert_eq!(results[1]["toolResult"]["status"], "error", "an unknown tool");
    let back = asked[2]["messages"][3]["content"].as_array().unwrap();
    assert_eq!(back.len(), 1, "the call alone: {back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_no_tools_is_asked_without_them() {
    let refused = json!({"message": "This model doesn't support tool use."});
    let (events, asked) = run([(400, "ValidationException", refused), end()]).await;
    assert_eq!(result(&events), Some("\"42\""));
    assert_eq!(asked.len(), 2);
    assert!(asked[1].get("toolConfig").is_none(), "{}", asked[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_is_in_the_journal_with_code_and_message() {
    for (status, code, error_type, calls) in [
        (429, "ThrottlingException", "ClientError", 3),
        (403, "ExpiredTokenException", "CredentialsError", 1),
        (403, "AccessDeniedException", "ClientError", 1),
        (400, "ValidationException", "ClientError", 1),
    ] {
        let (events, asked) = run([(status, code, json!({"message": "because"}))]).await;
        let (found, text) = failure(&events);
        assert_eq!(found, error_type, "{code}: {text}");
        assert!(text.contains(code) && text.contains("because"), "{text}");
        assert_eq!(asked.len(), calls, "{code}: the SDK retries what may pass");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_not_asked_for_again() {
    let (events, asked) = run([converse::cut(), end()]).await;
    assert_eq!(asked.len(), 1, "{events:?}");
    assert_eq!(failure(&events).0, "AgentError");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_answer_fails_with_the_reason() {
    for reason in ["max_tokens", "guardrail_intervened", "something_new"] {
        let (events, _) = run([answer(reason, json!([{"text": "half an ans"}]))]).await;
        let (error_type, text) = failure(&events);
        assert_eq!(error_type, reason);
        assert!(text.contains("half an ans"), "{text}");
    }
    let (events, _) = run([answer("tool_use", json!([{"text": "no call"}]))]).await;
    assert_eq!(failure(&events).0, "tool_use");
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_and_tokens_are_limited() {
    let again = || answer("tool_use", json!([tool_use("t", "nothing", json!({}))]));
    let (events, asked) = run([again()]).await;
    let spent = ("TurnsSpent", "the model has no answer after 3 turns (MAX_TURNS)");
    assert_eq!(failure(&events), spent);
    assert_eq!(asked.len(), 3);
    let (events, asked) = run_with([again()], &[("MAX_TOKENS", "30")]).await;
    assert_eq!(failure(&events).0, "TokensSpent");
    assert_eq!(asked.len(), 2, "15 tokens each");
}
