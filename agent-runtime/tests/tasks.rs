//! What happens to a task, over real sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Dynamo, Fault, Host, eventually, session_id};

fn calm_host() -> Host {
    Host::start(&Dynamo::new(|_| Fault::None))
}

#[tokio::test]
async fn a_task_is_journaled_from_its_first_event_to_its_last() {
    let (host, id) = (calm_host(), session_id());
    let after = "2026-11-23T02:45:00.120000Z";
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = json!({
        "input": {"do": "environment"}, "invocation_id": "run-1", "after": after,
        "environment": {"SESSION_ID": id}, "trace": {"traceparent": traceparent},
    });
    let answer = host.post(&id, body.to_string()).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    host.terminal(&id).await;
    let events = host.events(&id).await;
    let statuses: Vec<_> = events.iter().map(|event| event.status.as_str()).collect();
    assert_eq!(
        statuses,
        [
            "AGENT_ENTRYPOINT_STARTED", "AGENT_BACKGROUND_TASK_STARTED",
            "AGENT_BACKGROUND_TASK_COMPLETED"
        ]
    );
    assert!(events.iter().all(|event| event.invocation_id == "run-1" && event.source == "agent"));
    let trace = Some("4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(events.iter().all(|event| event.trace_id.as_deref() == trace));
    assert_eq!(answer["status"], "started");
    assert_eq!(answer["session_id"], json!(id));
    assert_eq!(answer["after"], events[1].timestamp);
    assert_eq!(answer["task_id"].as_str().unwrap().len(), 36);
    let seen: Value = serde_json::from_str(events[2].result.as_deref().unwrap()).unwrap();
    assert_eq!(
        seen,
        json!({"SESSION_ID": id, "INVOCATION_ID": "run-1", "TRACEPARENT": traceparent})
    );
}

#[tokio::test]
async fn a_trace_in_the_header_alone_is_taken_too() {
    let (host, id) = (calm_host(), session_id());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = host.client.post(host.url("/invocations")).header("traceparent", traceparent);
    let body = json!({"session_id": id, "do": "environment"}).to_string();
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let end = host.terminal(&id).await;
    assert_eq!(end.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(end.result.unwrap().contains(traceparent));
}

#[tokio::test]
async fn the_events_sort_after_the_cause_however_far_ahead_its_clock_is() {
    let (host, id) = (calm_host(), session_id());
    let after = (chrono::Utc::now() + chrono::TimeDelta::minutes(7))
        .format("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let body = json!({"input": {"do": "return"}, "invocation_id": "run-1", "after": after});
    assert_eq!(host.post(&id, body.to_string()).await.status(), 200);
    host.terminal(&id).await;
    assert!(host.events(&id).await.iter().all(|event| event.timestamp > after));
}

#[tokio::test]
async fn every_way_to_fail_ends_in_exactly_one_failed_event_that_says_why() {
    let host = calm_host();
    for (action, error_type, message) in [
        ("fail", "MyError", "it did not work"),
        ("fail with a text", "AgentError", "only words"),
        ("fail at io", "AgentError", "No such file or directory"),
        ("panic with a str", "Panic", "the agent panicked: a str"),
        ("panic with a String", "Panic", "the agent panicked: a String"),
        ("panic with another payload", "Panic", "the agent panicked: (the panic carries no text)"),
        ("panic in a child", "Panic", "the agent panicked: in the child"),
    ] {
        let id = session_id();
        assert_eq!(host.invoke(&id, "run-1", json!({"do": action})).await.0, 200);
        let event = host.terminal(&id).await;
        assert_eq!(event.status.as_str(), "AGENT_BACKGROUND_TASK_FAILED", "{action}");
        assert_eq!(event.error_type.as_deref(), Some(error_type), "{action}");
        assert!(event.error_message.as_deref().unwrap().contains(message), "{action}: {event:?}");
        eventually("the host to be idle", async || {
            (host.ping().await.0 == "Healthy").then_some(())
        })
        .await;
        assert_eq!(host.events(&id).await.len(), 3, "{action}");
    }
    let id = session_id();
    host.invoke(&id, "run-1", json!({"do": "return", "value": [1, "zwei"]})).await;
    assert_eq!(
        host.terminal(&id).await.result.as_deref(),
        Some("[1,\"zwei\"]"),
        "the service goes on"
    );
}

#[tokio::test]
async fn a_task_completes_after_its_children() {
    let (host, id) = (calm_host(), session_id());
    host.invoke(&id, "run-1", json!({"do": "leave a child running"})).await;
    host.terminal(&id).await;
    assert_eq!(host.statuses(&id).await[2..], ["CHILD_DONE", "AGENT_BACKGROUND_TASK_COMPLETED"]);
}

#[tokio::test]
async fn started_is_durable_before_the_first_instruction_of_the_agent() {
    // The write of STARTED takes a second attempt, so an agent that does not wait for it would run.
    let failed = AtomicBool::new(false);
    let dynamo = Dynamo::new(move |call| {
        let first = call.status() == "AGENT_BACKGROUND_TASK_STARTED"
            && !failed.swap(true, Ordering::Relaxed);
        if first { Fault::ErrorBefore } else { Fault::None }
    });
    let (host, id) = (Host::start(&dynamo), session_id());
    host.invoke(&id, "run-1", json!({"do": "statuses"})).await;
    let seen = host.terminal(&id).await.result.unwrap();
    assert_eq!(seen, r#"["AGENT_ENTRYPOINT_STARTED","AGENT_BACKGROUND_TASK_STARTED"]"#);
}

#[tokio::test]
async fn an_agent_does_not_run_whose_start_cannot_be_journaled_and_the_next_try_starts_it() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let dynamo = Dynamo::new(move |call| {
        let refused =
            call.status() == "AGENT_BACKGROUND_TASK_STARTED" && is_down.load(Ordering::Relaxed);
        if refused { Fault::Refused("AccessDeniedException") } else { Fault::None }
    });
    let (host, id) = (Host::start(&dynamo), session_id());
    let (status, answer) = host.invoke(&id, "run-1", json!({"do": "return"})).await;
    assert_eq!(status, 500);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("dynamodb:PutItem on table agent-journal is denied"), "{error}");
    assert_eq!(host.statuses(&id).await, ["AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_FAILED"]);
    assert_eq!(host.runs.load(Ordering::SeqCst), 0);
    assert_eq!(host.ping().await.0, "Healthy");
    down.store(false, Ordering::Relaxed);
    assert_eq!(host.invoke(&id, "run-1", json!({"do": "return"})).await.0, 200, "it was forgotten");
    host.terminal(&id).await;
    assert_eq!(host.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_start_of_which_nobody_knows_leaves_no_run_open() {
    // The first put is applied and its answer lost; the second is refused.
    let lost = AtomicBool::new(false);
    let dynamo = Dynamo::new(move |call| match call.status() {
        "AGENT_BACKGROUND_TASK_STARTED" if !lost.swap(true, Ordering::Relaxed) => Fault::DropAfter,
        "AGENT_BACKGROUND_TASK_STARTED" => Fault::Refused("AccessDeniedException"),
        _ => Fault::None,
    });
    let (host, id) = (Host::start(&dynamo), session_id());
    let (status, answer) = host.invoke(&id, "run-1", json!({"do": "return"})).await;
    assert_eq!(status, 500);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("it is unknown whether AGENT_BACKGROUND_TASK_STARTED"), "{error}");
    let end = host.terminal(&id).await;
    assert_eq!(end.status.as_str(), "AGENT_BACKGROUND_TASK_FAILED");
    assert_eq!(end.error_type.as_deref(), Some("NotStarted"));
    // The same invocation again does not start a second task in a run that has ended.
    assert_eq!(host.invoke(&id, "run-1", json!({"do": "return"})).await, (status, answer.clone()));
    assert_eq!(host.runs.load(Ordering::SeqCst), 0);
    eventually("the host to be idle", async || (host.ping().await.0 == "Healthy").then_some(()))
        .await;
    let mut statuses = host.statuses(&id).await;
    statuses.sort();
    let expected = [
        "AGENT_BACKGROUND_TASK_FAILED", "AGENT_BACKGROUND_TASK_STARTED", "AGENT_ENTRYPOINT_FAILED",
        "AGENT_ENTRYPOINT_FAILED", "AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_STARTED",
    ];
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn a_running_task_is_known_after_any_number_of_others() {
    let (host, id) = (calm_host(), session_id());
    let (_, first) = host.invoke(&id, "run-1", json!({"do": "hang"})).await;
    // More than are remembered of those that have ended.
    for _ in 0..11 {
        let others = (0..100).map(|_| async {
            let (status, _) = host.invoke(&session_id(), "run-1", json!({"do": "return"})).await;
            assert_eq!(status, 200);
        });
        futures_util::future::join_all(others).await;
    }
    let (_, again) = host.invoke(&id, "run-1", json!({"do": "hang"})).await;
    assert_eq!(first, again, "one task, one answer");
    // An agent begins after its caller has the answer.
    let runs = async || Some(host.runs.load(Ordering::SeqCst)).filter(|runs| *runs >= 1_101);
    assert_eq!(eventually("the last agent's begin", runs).await, 1_101);
}

#[tokio::test]
async fn a_request_that_cannot_be_journaled_is_answered_500() {
    let dynamo = Dynamo::new(|_| Fault::Refused("ResourceNotFoundException"));
    let (host, id) = (Host::start(&dynamo), session_id());
    let (status, answer) = host.invoke(&id, "run-1", json!({"do": "return"})).await;
    assert_eq!(status, 500);
    assert!(
        answer["error"].as_str().unwrap().contains("table agent-journal does not exist"),
        "{answer}"
    );
    let tried: Vec<_> = dynamo.calls().iter().map(|call| call.status().to_owned()).collect();
    assert_eq!(tried, ["AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_FAILED"]);
}

#[tokio::test]
async fn the_same_invocation_fifty_times_at_once_is_one_task_with_one_answer() {
    let (host, id) = (calm_host(), session_id());
    let body = json!({"input": {"do": "sleep", "ms": 50}, "invocation_id": "run-1"}).to_string();
    let calls = (0..50).map(|_| async {
        let answer = host.post(&id, body.clone()).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap()
    });
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    host.terminal(&id).await;
    assert_eq!(
        host.post(&id, body.clone()).await.bytes().await.unwrap(),
        answers[0],
        "afterwards, too"
    );
    assert_eq!(host.runs.load(Ordering::SeqCst), 1);
    let statuses = host.statuses(&id).await;
    let count = |name: &str| statuses.iter().filter(|status| *status == name).count();
    assert_eq!(count("AGENT_ENTRYPOINT_STARTED"), 51);
    assert_eq!(count("AGENT_BACKGROUND_TASK_STARTED"), 1);
    assert_eq!(count("AGENT_BACKGROUND_TASK_COMPLETED"), 1);
    // Another run of the session is another task.
    host.invoke(&id, "run-2", json!({"do": "return"})).await;
    eventually("the second run", async || (host.runs.load(Ordering::SeqCst) == 2).then_some(()))
        .await;
}

#[tokio::test]
async fn a_completed_event_acknowledged_late_is_not_followed_by_a_failed_one() {
    let dropped = AtomicBool::new(false);
    let dynamo = Dynamo::new(move |call| {
        let first = call.status() == "AGENT_BACKGROUND_TASK_COMPLETED"
            && !dropped.swap(true, Ordering::Relaxed);
        if first { Fault::DropAfter } else { Fault::None }
    });
    let (host, id) = (Host::start(&dynamo), session_id());
    host.invoke(&id, "run-1", json!({"do": "return"})).await;
    host.terminal(&id).await;
    eventually("the host to be idle", async || (host.ping().await.0 == "Healthy").then_some(()))
        .await;
    host.stop().await;
    let statuses: Vec<_> = dynamo.calls().iter().map(|call| call.status().to_owned()).collect();
    assert_eq!(
        statuses[2..],
        ["AGENT_BACKGROUND_TASK_COMPLETED", "AGENT_BACKGROUND_TASK_COMPLETED"]
    );
    assert_eq!(
        dynamo.calls()[2].body["Item"]["EventId"],
        dynamo.calls()[3].body["Item"]["EventId"]
    );
}

#[tokio::test]
async fn errors_of_the_aws_sdk_keep_their_kind() {
    use agent_runtime::AgentError;
    let client = |dynamo: &Dynamo| aws_sdk_dynamodb::Client::from_conf(dynamo.config().build());
    let error = async |dynamo: &Dynamo| {
        AgentError::from(client(dynamo).query().table_name("t").send().await.unwrap_err())
    };
    let denied = error(&Dynamo::new(|_| Fault::Refused("AccessDeniedException"))).await;
    assert_eq!(denied, AgentError::new("ClientError", "AccessDeniedException: injected"));
    let expired = error(&Dynamo::new(|_| Fault::Refused("ExpiredTokenException"))).await;
    assert_eq!(expired, AgentError::new("CredentialsError", "ExpiredTokenException: injected"));
    let unreachable = error(&Dynamo::new(|_| Fault::NoConnection)).await;
    assert_eq!(unreachable.error_type, "AgentError");
    let config = aws_sdk_dynamodb::config::Builder::new()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::new("us-east-1"))
        .build();
    let none = aws_sdk_dynamodb::Client::from_conf(config).list_tables().send().await.unwrap_err();
    assert_eq!(AgentError::from(none).error_type, "CredentialsError");
}

#[tokio::test]
async fn a_stopping_host_terminates_its_tasks_and_refuses_new_ones() {
    let (mut host, id, blocked) = (calm_host(), session_id(), session_id());
    host.invoke(&id, "run-1", json!({"do": "hang"})).await;
    host.invoke(&blocked, "run-1", json!({"do": "block the thread", "ms": 3000})).await;
    eventually("both to run", async || (host.runs.load(Ordering::SeqCst) == 2).then_some(())).await;
    host.begin_to_stop();
    // The blocked agent keeps the host from exiting for a moment, in which it refuses.
    let refused = session_id();
    let (status, answer) = eventually("the refusal", async || {
        let (status, answer) = host.invoke(&refused, "run-1", json!({"do": "return"})).await;
        (status != 200).then_some((status, answer))
    })
    .await;
    assert_eq!(
        (status.as_u16(), &answer["error"]),
        (503, &json!("the container is shutting down"))
    );
    let took = host.dynamo.clone();
    let time = host.stop().await;
    println!("stopped with a blocked agent in {time:?}; the rule is 2 s");
    assert!(time < Duration::from_secs(6), "{time:?}");
    for id in [id, blocked] {
        let events = support::calm(&took).events(&id).await.unwrap();
        let last = events.last().unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(last.status.as_str(), "AGENT_BACKGROUND_TASK_FAILED");
        assert_eq!(last.error_type.as_deref(), Some("Terminated"));
    }
}
