//! Credentials from the metadata service of AgentCore's machine, as the real SDK asks for them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent_runtime::SESSION_HEADER;
use serde_json::Value;
use support::metadata::{Token, environment, metadata};
use support::{eventually, open_table, session_id};
use testing::{Program, Table};

/// A container whose credentials come from there; and how it answers an invocation.
async fn invoke(endpoint: &str, table: &Table, command: &str) -> (Program, String, Value) {
    let environment = [&environment(endpoint)[..], &[("AGENT_COMMAND", command)]].concat();
    let program = Path::new(env!("CARGO_BIN_EXE_agent-runtime"));
    let program = Program::start(program, table, &environment).await;
    let id = session_id().to_string();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{}/invocations", program.url)).header(SESSION_HEADER, &id);
    let answer = request.body("{}").send().await.unwrap().json().await.unwrap();
    (program, id, answer)
}

#[tokio::test]
async fn a_metadata_service_that_refuses_is_named_with_its_status_in_time() {
    let table = Table::open(None, 0).await.unwrap();
    for (token, said) in [
        (Token::NotAllowed, "(HTTP 405)"),
        (Token::WithoutTtl, "did not contain a TTL header (HTTP 200)"),
        (Token::Hanging, "could not communicate with IMDS"),
    ] {
        let start = Instant::now();
        let (_program, _, answer) = invoke(&metadata(token).0, &table, "cat").await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("no valid AWS credentials") && error.contains(said), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{said}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn credentials_that_expire_in_the_middle_of_a_task_are_asked_for_again() {
    let table = Table::open(None, 0).await.unwrap();
    let (endpoint, given) = metadata(Token::Given);
    let (_program, id, answer) = invoke(&endpoint, &table, "sleep 5").await;
    assert_eq!(answer["status"], "started", "{answer}");
    let before = given.load(Ordering::SeqCst);
    eventually("the end", async || {
        let events = open_table(&table).events(&id.parse().unwrap()).await.unwrap();
        events.into_iter().find(|event| event.status.as_str().ends_with("TASK_COMPLETED"))
    })
    .await;
    assert!(given.load(Ordering::SeqCst) > before, "{before}");
}
