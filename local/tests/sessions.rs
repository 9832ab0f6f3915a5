//! Whole sessions: state machine, invoker and agent-runtime as they are, one per way a session goes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_runtime::{Agent, AgentError, Invocation};
use journal::{Draft, SessionId, Source, Status};
use local::asl::{Execution, ExecutionEnd, Resource};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Break, Container, Faulty, Stack, execution, failure, open};
use testing::Table;

const COMPLETED: [&str; 6] = [
    "SESSION_INITIATED",
    "AGENT_INVOCATION_STARTED",
    "AGENT_ENTRYPOINT_STARTED",
    "AGENT_BACKGROUND_TASK_STARTED",
    "AGENT_BACKGROUND_TASK_COMPLETED",
    "AGENT_INVOCATION_SUCCEEDED",
];

/// Statuses without the one pair that no cause orders: SUCCEEDED and the terminal event.
fn in_causal_order(mut statuses: Vec<String>) -> Vec<String> {
    if let Some(at) = statuses.iter().position(|status| status == "AGENT_INVOCATION_SUCCEEDED") {
        let succeeded = statuses.remove(at);
        let terminal = statuses
            .iter()
            .position(|status| status.contains("TASK_COMPLETED") || status.contains("TASK_FAILED"));
        statuses.insert(terminal.map_or(statuses.len(), |at| at + 1), succeeded);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_completes_with_the_agents_result_as_output() {
    // cat gives the input back as the result.
    let stack = Stack::start("cat", 600).await;
    let run = execution(json!({"prompt": "hi", "n": 7}));
    assert_eq!(
        stack.system.run(&run).await,
        ExecutionEnd::Succeeded(json!({"prompt": "hi", "n": 7}))
    );
    assert_eq!(in_causal_order(stack.statuses(&run.name).await), COMPLETED);
    let events = stack.events(&run.name).await;
    assert!(events.iter().all(|event| event.invocation_id == run.id));
    assert!(
        events.iter().all(|event| event.extra.is_empty() && !event.event_id.is_empty()),
        "{events:?}"
    );
    let sources: Vec<_> = events[..4].iter().map(|event| event.source.as_str()).collect();
    assert_eq!(sources, ["workflow", "invoker", "agent", "agent"]);
    assert_eq!(events[0].event_id, format!("{}#initiated", run.id));
    let trace = events[0].trace_id.as_deref().unwrap();
    assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{trace}");
    assert!(events.iter().all(|event| event.trace_id.as_deref() == Some(trace)), "{events:?}");
    assert!(events.iter().all(|event| event.timestamp.len() == 27), "{events:?}");
    stack.system.stop().await;
}

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
async fn a_task_that_fails_ends_in_session_failed_with_its_own_words() {
    let stack = Stack::start("sh -c 'echo working >&2; echo no luck >&2; exit 3'", 600).await;
    let run = execution(json!({"prompt": "hi"}));
    let (error, cause) = failure(stack.system.run(&run).await);
    assert_eq!((&*error, &*cause), ("AgentError", "working\nno luck (exit status: 3)"));
    let events = stack.events(&run.name).await;
    let last = events.last().unwrap();
    assert_eq!(last.status, Status::SessionFailed);
    assert_eq!(
        (last.error_type.as_deref(), last.error_message.as_deref()),
        (Some(&*error), Some(&*cause))
    );
    let statuses = in_causal_order(stack.statuses(&run.name).await);
    assert_eq!(
        statuses[4..],
        ["AGENT_BACKGROUND_TASK_FAILED", "AGENT_INVOCATION_SUCCEEDED", "SESSION_FAILED"]
    );
    stack.system.stop().await;
}

struct Panics;

impl Agent for Panics {
    type Output = Value;

    async fn run(&self, _: Invocation) -> Result<Value, AgentError> {
        panic!("out of luck")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_ends_in_session_failed_with_the_panics_text() {
    let table = Table::open(None, 0).await.unwrap();
    let container = Container::start(open(table.client_config()), Panics);
    let stack = Stack::around(table, &container.address, 600).await;
    let run = execution(json!({}));
    let (error, cause) = failure(stack.system.run(&run).await);
    assert_eq!((&*error, &*cause), ("Panic", "the agent panicked: out of luck"));
    assert_eq!(stack.statuses(&run.name).await.last().unwrap(), "SESSION_FAILED");
    container.stop().await;
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_agentcore_is_the_cause_of_the_failed_session() {
    // Nobody listens on port 1: AgentCore answers 424.
    let stack = Stack::around(Table::open(None, 0).await.unwrap(), "127.0.0.1:1", 600).await;
    let run = execution(json!({}));
    let (error, cause) = failure(stack.system.run(&run).await);
    assert_eq!(error, "RuntimeClientError");
    assert!(
        cause.starts_with(
            "InvokeAgentRuntime failed: RuntimeClientError: the container does not answer"
        ),
        "{cause}"
    );
    assert_eq!(
        stack.statuses(&run.name).await,
        [
            "SESSION_INITIATED",
            "AGENT_INVOCATION_STARTED",
            "AGENT_INVOCATION_FAILED",
            "SESSION_FAILED"
        ]
    );
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_that_crashes_is_monitored_and_replaced() {
    // A container that takes the request and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stack = Stack::around(Table::open(None, 0).await.unwrap(), &address, 2).await;
    let run = execution(json!({}));
    let crash = async {
        let request = listener.accept().await.unwrap();
        let first = stack.system.invoker_process_id();
        kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
        (request, first)
    };
    let (outcome, (_request, first)) = tokio::join!(stack.system.run(&run), crash);
    // The agent might run, so the workflow looked for its events.
    assert_eq!(failure(outcome).0, "PollAttemptsSpent");
    assert_eq!(
        stack.statuses(&run.name).await,
        ["SESSION_INITIATED", "AGENT_INVOCATION_STARTED", "SESSION_FAILED"]
    );
    drop(listener);
    let next = execution(json!({}));
    assert_eq!(failure(stack.system.run(&next).await).0, "RuntimeClientError");
    let second = stack.system.invoker_process_id();
    assert_ne!(second, first);
    // One that dies between two invocations is replaced too, and no session notices.
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    stack.system.invoker_ended().await;
    assert_eq!(failure(stack.system.run(&execution(json!({}))).await).0, "RuntimeClientError");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_container_is_noticed_when_the_polls_are_spent() {
    let stack = Stack::start("sleep 60", 3).await;
    let run = execution(json!({}));
    let murder = async {
        let id: SessionId = run.name.parse().unwrap();
        while stack.system.journal().events(&id).await.unwrap().len() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        kill(Pid::from_raw(stack.system.agent_process_id().unwrap()), Signal::SIGKILL).unwrap();
        assert!(stack.system.agent_ended().await.contains("SIGKILL"));
    };
    let (outcome, ()) = tokio::join!(stack.system.run(&run), murder);
    let (error, cause) = failure(outcome);
    assert_eq!(error, "PollAttemptsSpent");
    assert!(cause.contains("No terminal event of the agent came within 3 polls"), "{cause}");
    let last = stack.events(&run.name).await.pop().unwrap();
    assert_eq!(last.status, Status::SessionFailed);
    assert_eq!(last.error_message, Some(cause));
    stack.system.stop().await;
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
    }
    let items = stack.system.table.database.table_stats().unwrap();
    assert_eq!(items[0].item_count, 0);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_session_twice_is_two_runs_and_neither_ends_on_the_others_event() {
    let stack = Stack::start("sh -c 'read input; sleep 1.5; echo \"$input\"'", 600).await;
    let id = "session-that-runs-twice-0123456789-abcdef";
    let first = execution(json!({"session_id": id, "n": 1}));
    assert_eq!(stack.system.run(&first).await, ExecutionEnd::Succeeded(json!({"n": 1})));
    let second = execution(json!({"session_id": id, "n": 2}));
    assert_eq!(stack.system.run(&second).await, ExecutionEnd::Succeeded(json!({"n": 2})));
    let events = stack.events(id).await;
    assert_eq!(events.len(), 12);
    for run in [&first, &second] {
        assert_eq!(events.iter().filter(|event| event.invocation_id == run.id).count(), 6);
    }
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_event_is_found_behind_a_megabyte_of_newer_events() {
    let stack = Stack::start("sh -c 'sleep 1; echo 7'", 60).await;
    let run = execution(json!({}));
    let flood = async {
        let id: SessionId = run.name.parse().unwrap();
        let notes = stack.system.journal().session(id, "another-run", Source::Agent);
        let mut after = Some((chrono::Utc::now() + chrono::TimeDelta::minutes(5)).into());
        for _ in 0..300 {
            let note = Draft::failure(Status::Other("NOTE".to_owned()), "Note", &"x".repeat(8_000));
            after = Some(notes.append(note, after, Duration::from_secs(9)).await.unwrap());
        }
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
async fn the_failure_path_does_not_need_what_failed() {
    let stack = Stack::start("cat", 600).await;
    let denied =
        Faulty(&stack.system, |_, _: &Value| Break::Before("DynamoDB.AccessDeniedException"));
    let run = execution(json!({}));
    let (error, cause) = failure(stack.system.run_with(&run, &denied).await);
    assert_eq!(error, "DynamoDB.AccessDeniedException");
    assert_eq!(cause, "SESSION_INITIATED could not be written to table agent-journal: injected");
    assert!(stack.events(&run.name).await.is_empty());
    // A journal that cannot be read is a failure too, and SESSION_FAILED is written all the same.
    let unreadable = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Query => Break::Before("DynamoDb.AccessDeniedException"),
        _ => Break::No,
    });
    let run = execution(json!({}));
    assert_eq!(
        failure(stack.system.run_with(&run, &unreadable).await).0,
        "DynamoDb.AccessDeniedException"
    );
    assert!(stack.statuses(&run.name).await.contains(&"SESSION_FAILED".to_owned()));
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
