//! Whole sessions: state machine, invoker and agent-runtime as they are. What each way a session goes
//! leaves in the journal is in `histories.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_runtime::CommandAgent;
use journal::{Draft, SessionId, Source, Status};
use local::asl::{Execution, ExecutionEnd, Resource};
use local::front_door;
use serde_json::{Value, json};
use support::{Break, Container, Faulty, Stack, execution, failure, open};
use testing::Table;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_id_in_the_input_is_the_session_and_not_the_agents_input() {
    let stack = Stack::start("sh -c 'cat; echo \"$SESSION_ID\" >&2'", 600).await;
    let id = "session-given-in-the-input-0123456789";
    let run = execution(json!({"session_id": id}));
    assert_eq!(stack.system.run(&run).await, ExecutionEnd::Succeeded(json!({})));
    assert_eq!(stack.events(id).await.len(), 6);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_the_callers_is_the_sessions_and_reaches_the_agent() {
    let stack = Stack::start("sh -c 'cat >/dev/null; echo $TRACEPARENT'", 600).await;
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (input, kept) in [
        (json!({"traceparent": given}), true),
        (json!({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736"}), false),
        (json!({"traceparent": "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}), false),
        (json!({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}), false),
        (json!({"traceparent": 7}), false),
    ] {
        let run = execution(input.clone());
        let ExecutionEnd::Succeeded(output) = stack.system.run(&run).await else {
            panic!("{input} failed")
        };
        assert_eq!(output == json!(given), kept, "{input}: {output}");
        let trace = output.as_str().unwrap().split('-').nth(1).unwrap().to_owned();
        let events = stack.events(&run.name).await;
        assert!(events.iter().all(|event| event.trace_id.as_deref() == Some(&trace)), "{events:?}");
    }
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoker_that_dies_between_two_sessions_is_replaced_and_no_session_notices() {
    let stack = Stack::start("cat", 600).await;
    let first = stack.system.invoker();
    first.kill();
    first.ended().await;
    let run = execution(json!({"n": 1}));
    assert_eq!(stack.system.run(&run).await, ExecutionEnd::Succeeded(json!({"n": 1})));
    assert_ne!(stack.system.invoker().id(), first.id());
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_hangs_holds_up_no_other_session() {
    let table = Table::open(None, 0).await.unwrap();
    let command = |name: &str| (name == "AGENT_COMMAND").then(|| "echo 7".to_owned());
    let agent = CommandAgent::from_env(command).unwrap();
    let container = Container::start(open(table.client_config()), agent);
    let behind = front_door::start(&container.address).unwrap();
    // On the way to AgentCore: the first call gets no answer, all others are handed on.
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front_door = proxy.local_addr().unwrap();
    let (hangs, first) = tokio::sync::oneshot::channel();
    let hands_on = tokio::spawn(async move {
        hangs.send(proxy.accept().await.unwrap()).unwrap();
        loop {
            let (mut invoker, _) = proxy.accept().await.unwrap();
            let mut agentcore = tokio::net::TcpStream::connect(behind).await.unwrap();
            tokio::spawn(async move {
                tokio::io::copy_bidirectional(&mut invoker, &mut agentcore).await
            });
        }
    });
    let stack = Stack::behind(table, front_door, 600).await;
    let (hanging, other) = (execution(json!({})), execution(json!({})));
    let others = async {
        let held = first.await.unwrap();
        let run = stack.system.run(&other);
        let ended = tokio::time::timeout(Duration::from_secs(30), run).await;
        drop(held);
        ended.expect("it waits for the one that hangs")
    };
    tokio::select! {
        ended = stack.system.run(&hanging) => panic!("{ended:?}"),
        ended = others => assert_eq!(ended, ExecutionEnd::Succeeded(json!(7))),
    }
    hands_on.abort();
    stack.system.stop().await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_session_id_fails_before_anything_is_written() {
    let stack = Stack::start("cat", 600).await;
    for (input, by_name) in [
        (json!({"session_id": "too-short"}), false),
        (json!({"session_id": format!("{}#", "a".repeat(40))}), false),
        (json!({"session_id": "é".repeat(40)}), false),
        (json!({"session_id": 7}), false),
        (json!({"session_id": null}), false),
        (json!({"sessionId": "a".repeat(40)}), false),
        (json!({"session_id": ["a".repeat(40)]}), false),
        (json!({}), true),
        (json!([1]), true),
        (json!("text"), true),
    ] {
        let (error, cause) =
            failure(stack.system.run(&Execution::new("short-name", input.clone())).await);
        assert_eq!(error, "SessionIdInvalid", "{input}");
        assert!(cause.contains("33 to 100 characters"), "{cause}");
        assert_eq!(cause.contains("give session_id in the input"), by_name, "{input}: {cause}");
        let misnamed = input.get("sessionId").is_some();
        assert_eq!(cause.contains("its name is session_id"), misnamed, "{input}: {cause}");
    }
    let items = stack.system.table.database.table_stats().unwrap();
    assert_eq!(items[0].item_count, 0);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_is_an_object_that_says_so() {
    let stack = Stack::start("sh -c 'echo result [$(yes 7, | head -n 99999)7] >&3'", 600).await;
    let run = execution(json!({}));
    let ExecutionEnd::Succeeded(output) = stack.system.run(&run).await else { panic!("failed") };
    assert_eq!(output["result_truncated"], true);
    assert_eq!(output["result_bytes"], 300_000 - 1);
    let head = output["result_head"].as_str().unwrap();
    assert!(head.starts_with("[7, 7, ") && head.len() == 65_536, "{}", head.len());
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_event_is_found_behind_a_megabyte_of_newer_events() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    let waits = format!("sh -c 'until [ -e {} ]; do sleep 0.1; done; echo 7'", written.display());
    let stack = Stack::start(&waits, 60).await;
    let run = execution(json!({}));
    let flood = async {
        let id: SessionId = run.name.parse().unwrap();
        let notes = stack.system.journal().session(id, "another-run", Source::Agent);
        let mut after = Some((chrono::Utc::now() + chrono::TimeDelta::minutes(5)).into());
        for _ in 0..300 {
            let note = Draft::failure(Status::Other("NOTE".to_owned()), "Note", &"x".repeat(8_000));
            after = Some(notes.append(note, after, Duration::from_secs(9)).await.unwrap());
        }
        // The agent ends after this.
        std::fs::write(&written, "").unwrap();
    };
    let pages = AtomicU32::new(0);
    let counting = Faulty(&stack.system, |_, arguments: &Value| {
        let further = arguments.get("ExclusiveStartKey").is_some();
        pages.fetch_add(u32::from(further), Ordering::Relaxed);
        Break::No
    });
    let (outcome, ()) = tokio::join!(stack.system.run_with(&run, &counting), flood);
    assert_eq!(outcome, ExecutionEnd::Succeeded(json!(7)));
    assert!(pages.load(Ordering::Relaxed) > 0, "no page was turned");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_fails_the_session_with_the_reason() {
    let stack = Stack::start("cat", 600).await;
    let denied =
        Faulty(&stack.system, |_, _: &Value| Break::Before("DynamoDB.AccessDeniedException"));
    let run = execution(json!({}));
    let (error, cause) = failure(stack.system.run_with(&run, &denied).await);
    assert_eq!(error, "DynamoDB.AccessDeniedException");
    assert_eq!(cause, "SESSION_INITIATED could not be written to table agent-journal: injected");
    assert!(stack.events(&run.name).await.is_empty());
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_the_workflow_whose_answer_was_lost_is_repeated_identically() {
    let stack = Stack::start("false", 600).await;
    let puts = AtomicU32::new(0);
    let lossy = Faulty(&stack.system, |resource, _: &Value| {
        let put =
            resource == Resource::PutItem && puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        if put { Break::After("DynamoDB.SdkClientException") } else { Break::No }
    });
    let run = execution(json!({}));
    assert_eq!(failure(stack.system.run_with(&run, &lossy).await).0, "AgentError");
    assert_eq!(puts.load(Ordering::Relaxed), 4, "two events, each put twice");
    let statuses = stack.statuses(&run.name).await;
    for once in ["SESSION_INITIATED", "SESSION_FAILED"] {
        assert_eq!(statuses.iter().filter(|status| *status == once).count(), 1, "{statuses:?}");
    }
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collision_of_the_workflow_moves_on_by_a_millisecond() {
    let stack = Stack::start("cat", 600).await;
    let keys = std::sync::Mutex::new(Vec::new());
    let crowded = Faulty(&stack.system, |resource, arguments: &Value| {
        if resource != Resource::PutItem {
            return Break::No;
        }
        let mut keys = keys.lock().unwrap();
        keys.push(arguments["Item"]["SK"]["S"].as_str().unwrap().to_owned());
        if keys.len() <= 3 {
            Break::Before("DynamoDB.ConditionalCheckFailedException")
        } else {
            Break::No
        }
    });
    let run = execution(json!({}));
    assert_eq!(stack.system.run_with(&run, &crowded).await, ExecutionEnd::Succeeded(json!({})));
    let keys = keys.into_inner().unwrap();
    assert_eq!(keys.len(), 4);
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    // Without end it gives up and says so.
    let full = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::PutItem => Break::Before("DynamoDB.ConditionalCheckFailedException"),
        _ => Break::No,
    });
    assert_eq!(
        failure(stack.system.run_with(&execution(json!({})), &full).await).0,
        "SessionIdInUse"
    );
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_that_timed_out_or_crashed_is_monitored_and_the_agents_own_events_decide() {
    let stack = Stack::start("sh -c 'sleep 1; echo 7'", 600).await;
    for error in ["Sandbox.Timedout", "States.Timeout", "Runtime.ExitError", "Lambda.Unknown"] {
        let late = Faulty(&stack.system, move |resource, _: &Value| match resource {
            Resource::Invoke => Break::After(error),
            _ => Break::No,
        });
        let run = execution(json!({}));
        assert_eq!(
            stack.system.run_with(&run, &late).await,
            ExecutionEnd::Succeeded(json!(7)),
            "{error}"
        );
    }
    stack.system.stop().await;
}
