//! An agent that is a server. The server is a double, for faults that a real one does not produce on
//! demand; the real SDKs are tried in `local/tests/frameworks.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use agent_runtime::SESSION_HEADER;
use journal::Event;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::container::Container;
use support::{eventually, session_id};

fn command(how: &str) -> String {
    format!("python3 {}/tests/support/server.py {how}", env!("CARGO_MANIFEST_DIR"))
}

async fn start(how: &str) -> Container {
    let environment = [("AGENT_SERVER_COMMAND", command(how)), ("HEARTBEAT_SECONDS", "1".into())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    Container::start_with("", &environment).await
}

async fn result(container: &Container, input: Value) -> Value {
    let end = container.run(&input).await;
    serde_json::from_str(&end.result.unwrap_or_else(|| unreachable!("{:?}", end.error_message)))
        .unwrap()
}

fn said(end: &Event) -> (&str, &str) {
    (end.error_type.as_deref().unwrap(), end.error_message.as_deref().unwrap())
}

async fn pid(container: &Container) -> Pid {
    Pid::from_raw(result(container, json!({"do": "pid"})).await.as_i64().unwrap() as i32)
}

async fn gone(process: Pid) {
    eventually("the server to be gone", async || kill(process, None).err().map(drop)).await;
}

#[tokio::test]
async fn a_server_is_called_as_agentcore_calls_a_container() {
    let (container, id) = (start("").await, session_id());
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = r#"{"do": "echo",  "n": 1.50, "n": 123456789012345678901234567890}"#;
    let request = container.client.post(format!("{}/invocations", container.program.url));
    let request = request.header(SESSION_HEADER, id.as_str()).header("traceparent", parent);
    let request = request.header("baggage", "user=7").header("WorkloadAccessToken", "secret");
    let request = request.header("X-Amzn-Bedrock-AgentCore-Runtime-Custom-Team", "blue");
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let end = container.end(&id).await;
    let echo: Value = serde_json::from_str(end.result.as_deref().unwrap()).unwrap();
    assert_eq!(echo["body"], body);
    assert_eq!(echo["path"], "/invocations");
    let (headers, environment) = (&echo["headers"], &echo["environment"]);
    assert_eq!(headers["x-amzn-bedrock-agentcore-runtime-session-id"], id.as_str());
    assert_eq!(headers["x-amzn-bedrock-agentcore-runtime-request-id"], end.invocation_id);
    assert_eq!(headers["x-amzn-bedrock-agentcore-runtime-custom-team"], "blue");
    assert_eq!(headers["workloadaccesstoken"], "secret");
    assert_eq!(headers["traceparent"], parent, "nothing is exported, so the span is the caller's");
    assert_eq!(headers["baggage"], "user=7");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(environment["SESSION_ID"], id.as_str());
    assert_eq!(environment["PORT"], environment["UVICORN_PORT"]);
    assert_eq!(environment.get("TRACEPARENT"), None);
    assert_eq!(environment.get("INVOCATION_ID"), None, "it is another one for the next task");
}

#[tokio::test]
async fn one_server_serves_all_tasks_and_is_started_again_when_it_has_ended() {
    let container = start("").await;
    assert!(!container.program.log().contains("serving"), "nothing is started before a task");
    let tasks = [pid(&container), pid(&container), pid(&container)];
    let pids = futures_util::future::join_all(tasks).await;
    assert_eq!(pids[0], pids[1]);
    assert_eq!(pids[1], pids[2]);
    assert_eq!(pid(&container).await, pids[0]);
    kill(pids[0], Signal::SIGKILL).unwrap();
    gone(pids[0]).await;
    assert_ne!(pid(&container).await, pids[0]);
}

#[tokio::test]
async fn each_failure_of_a_server_has_its_own_words() {
    let container = start("").await;
    for (input, error_type, message) in [
        (
            json!({"do": "refuse", "status": 500, "text": "{\"error\": \"no tokens left\"}"}),
            "AgentError",
            "no tokens left (the agent answered 500 Internal Server Error)",
        ),
        (
            json!({"do": "refuse", "status": 400, "text": "{\"error\":\"Invalid JSON\",\"details\":\"line 1\"}"}),
            "AgentError",
            "Invalid JSON: line 1 (the agent answered 400 Bad Request)",
        ),
        (
            json!({"do": "refuse", "status": 503, "text": "overloaded"}),
            "AgentError",
            "overloaded (the agent answered 503 Service Unavailable)",
        ),
        (
            json!({"do": "redirect"}),
            "AgentError",
            "the agent gave no reason (the agent answered 307 Temporary Redirect)",
        ),
        (
            json!({"do": "stream", "parts": ["data: 1\n\n", "data: {\"error\": \"boom\", \"error_type\": \"QuotaError\"}\n\n"]}),
            "QuotaError",
            "QuotaError: boom (in the stream)",
        ),
        (
            json!({"do": "stream", "parts": ["event: error\ndata: {\"error\": \"boom\"}\n\n"]}),
            "AgentError",
            "boom (in the stream)",
        ),
    ] {
        let end = container.run(&input).await;
        assert_eq!(said(&end), (error_type, message), "{input}");
    }
    for (input, begins, contains) in [
        (
            json!({"do": "stream", "parts": ["data: 1\n\n", "data: 2\n\ndat"], "whole": false}),
            "the agent's answer broke off after 2 events: ",
            "",
        ),
        (json!({"do": "drop"}), "the agent's server broke off the connection: ", ""),
        (
            json!({"do": "log and refuse"}),
            "ValueError: only in the log\n",
            "\n(the agent answered 500",
        ),
        (
            json!({"do": "die"}),
            "the agent's server ended in the task: exit status: 5\nlast words",
            "",
        ),
        (
            json!({"do": "killed"}),
            "the agent's server ended in the task: signal: 9 (SIGKILL); the memory may have run out",
            "",
        ),
        (json!({"do": "half and die"}), "the agent's server ended in the task: exit status: 5", ""),
        (
            json!({"do": "answer and die"}),
            "the agent's server ended in the task: exit status: 5",
            "",
        ),
        (
            json!({"do": "early and die"}),
            "the agent's server ended in the task: exit status: 5",
            "",
        ),
    ] {
        let end = container.run(&input).await;
        let (_, message) = said(&end);
        assert!(message.starts_with(begins) && message.contains(contains), "{input}: {message}");
    }
    let container = start("broken").await;
    let end = container.run(&json!({"do": "pid"})).await;
    let (error_type, message) = said(&end);
    assert_eq!(error_type, "ModuleNotFoundError");
    assert!(
        message.starts_with("ModuleNotFoundError: No module named 'a_module_that_is_not_there'\n")
    );
    assert!(message.ends_with("(the agent's server ended before it listened: exit status: 1)"));
}

#[tokio::test]
async fn an_answer_is_the_result_as_json_as_text_or_as_its_events() {
    let container = start("").await;
    assert_eq!(result(&container, json!({"do": "text"})).await, "two words");
    let parts = [
        "data: {\"n\": 1", ".50}\r\n\r\n: a comment\n\ndata: two\nda",
        "ta: lines\n\nid: 7\ndata: 3",
    ];
    let end = container.run(&json!({"do": "stream", "parts": parts})).await;
    assert_eq!(end.result.as_deref(), Some(r#"[{"n": 1.50},"two\nlines",3]"#));
    assert_eq!(result(&container, json!({"do": "stream", "parts": []})).await, json!([]));
    // An error that is not the last event is the agent's matter.
    let parts = ["data: {\"error\": 1, \"error_type\": \"E\"}\n\n", "data: 2\n\n"];
    let events = result(&container, json!({"do": "stream", "parts": parts})).await;
    assert_eq!(events[1], 2);
    let end = container.run(&json!({"do": "large"})).await;
    assert!(end.result_truncated);
    assert_eq!(end.result_bytes, Some(10_000 * 104 * 30));
    assert!(end.result.unwrap().starts_with("[\"xxx"));
    let peak = container.peak_memory();
    println!("peak memory after an answer of 31 MB: {peak} kB");
    assert!(peak < 50_000, "{peak} kB");
}

#[tokio::test]
async fn an_event_or_a_ping_without_end_takes_bounded_memory() {
    let container = start("").await;
    let data = |text: &str, count: usize| format!("data: {}\n", text.repeat(count));
    // An event of 3 MB in one line, and one of 3 MB in 300,000 lines.
    let parts = [data("x", 3_000_000), "\n".into(), data("x", 4).repeat(300_000), "\n".into()];
    let end = container.run(&json!({"do": "stream", "parts": parts})).await;
    let bytes = end.result_bytes.unwrap();
    assert!((4_400_000..5_000_000).contains(&bytes), "{bytes}");
    let error = format!("event: error\ndata: {}\n\n", "x".repeat(3_000_000));
    let end = container.run(&json!({"do": "stream", "parts": [error]})).await;
    assert!(said(&end).1.starts_with("xxx"), "{end:?}");
    let end = container.run(&json!({"do": "endless ping"})).await;
    assert_eq!(end.result.as_deref(), Some("7"));
    let peak = container.peak_memory();
    println!("peak memory: {peak} kB");
    assert!(peak < 60_000, "{peak} kB");
}

#[tokio::test]
async fn a_task_that_is_ended_while_its_server_starts_ends_no_other_tasks_server() {
    let (container, id, other) = (start("slow").await, session_id(), session_id());
    assert_eq!(container.post(&id, &json!({"do": "pid"})).await.0, 200);
    eventually("the server's start", async || {
        container.program.log().contains("starting").then_some(())
    })
    .await;
    assert_eq!(container.post(&other, &json!({"do": "sleep", "seconds": 3})).await.0, 200);
    container.stop_task(&id).await;
    assert_eq!(said(&container.end(&id).await), ("Stopped", "wrong input"));
    assert_eq!(container.end(&other).await.result.as_deref(), Some("\"slept\""));
}

/// Long before the task fails of it.
#[tokio::test]
async fn a_server_that_listens_elsewhere_is_soon_named_in_the_log() {
    let container = start("deaf").await;
    let id = session_id();
    assert_eq!(container.post(&id, &json!({})).await.0, 200);
    let hint = "the server does not listen on PORT yet. PORT is ";
    let said = async || container.program.log().contains(hint).then_some(());
    eventually("the hint", said).await;
    assert_eq!(container.events(&id).await.len(), 2, "the task has not ended");
}

#[tokio::test]
async fn a_server_that_answers_early_and_is_busy_works_on() {
    let container = start("").await;
    pid(&container).await;
    let began = Instant::now();
    assert_eq!(result(&container, json!({"do": "early", "seconds": 3})).await, "early");
    // Busy at 0 and 2 s, not at 4 and 6 s.
    let took = began.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_task_that_is_ended_takes_its_server_along() {
    for how in ["", "stubborn"] {
        let (container, id, other) = (start(how).await, session_id(), session_id());
        let server = pid(&container).await;
        let sleeps = json!({"do": "sleep", "seconds": 600});
        assert_eq!(container.post(&id, &sleeps).await.0, 200);
        assert_eq!(container.post(&other, &sleeps).await.0, 200);
        container.stop_task(&id).await;
        let end = container.end(&id).await;
        assert_eq!(said(&end), ("Stopped", "wrong input"));
        assert!(kill(server, None).is_err(), "the event comes after the server is gone");
        let was_told = container.program.log().contains("told to end");
        assert_eq!(was_told, how.is_empty(), "SIGTERM comes first");
        // The other task's server is gone too.
        let end = container.end(&other).await;
        assert!(said(&end).1.contains("the agent's server ended in the task"), "{end:?}");
        assert_ne!(pid(&container).await, server);
    }
}

#[tokio::test]
async fn a_container_that_stops_ends_its_server_busy_or_idle() {
    for (how, input) in [("", Some("sleep")), ("", None), ("stubborn", None)] {
        let (container, id) = (start(how).await, session_id());
        let server = pid(&container).await;
        if let Some(input) = input {
            container.post(&id, &json!({"do": input, "seconds": 600})).await;
        }
        let began = Instant::now();
        container.program.signal(Signal::SIGTERM);
        assert_eq!(container.program.ended().await, "exit status: 0");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(6), "{how} {input:?}: {took:?}");
        gone(server).await;
        if input.is_some() {
            assert_eq!(container.end(&id).await.error_type.as_deref(), Some("Terminated"));
        }
    }
}

#[tokio::test]
async fn progress_of_a_server_belongs_to_its_only_task() {
    let container = start("").await;
    let id = container.run(&json!({"do": "progress"})).await.session_id().unwrap();
    let events = container.events(&id).await;
    assert_eq!(events[2].status.as_str(), "TASK_PLAN_STARTED", "{events:?}");
    // With two of them nobody knows whose it is.
    let (one, two) = (session_id(), session_id());
    container.post(&one, &json!({"do": "sleep", "seconds": 3})).await;
    eventually("the first task in the server", async || {
        (container.events(&one).await.len() == 2).then_some(())
    })
    .await;
    container.post(&two, &json!({"do": "progress", "seconds": 1})).await;
    for id in [&one, &two] {
        container.end(id).await;
        assert_eq!(container.events(id).await.len(), 3);
    }
    assert!(container.program.log().contains("invalid line of progress"));
}

#[tokio::test]
async fn a_server_of_somebody_else_is_called_by_its_url() {
    let mut server = tokio::process::Command::new("python3");
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    server.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/server.py"));
    let server = server.env("PORT", port.to_string()).env("PROGRESS_FD", "1").kill_on_drop(true);
    let url = format!("http://localhost:{port}/api/agent?x=1");
    let container = Container::start_with("", &[("AGENT_URL", &url)]).await;
    let id = session_id();
    // It is waited for.
    assert_eq!(container.post(&id, &json!({"do": "echo"})).await.0, 200);
    let _server = server.spawn().unwrap();
    let echo: Value = serde_json::from_str(&container.end(&id).await.result.unwrap()).unwrap();
    assert_eq!(echo["path"], "/api/agent?x=1");
    let began = Instant::now();
    assert_eq!(result(&container, json!({"do": "early", "seconds": 3})).await, "early");
    assert!(began.elapsed() > Duration::from_secs(4), "its ping is beside it");
}
