//! What became of the call: the journal decides, and not the name of the Lambda's error.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use local::asl::{ExecutionEnd, Resource};
use local::options::Options;
use serde_json::{Value, json};
use support::{Break, Faulty, IMPATIENT, Stack, execution, failure};
use testing::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a panic of the function is called; no list of names has it.
const PANIC: &str = "alloc::boxed::Box<dyn core::any::Any + core::marker::Send>";

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_that_fails_after_the_agent_has_started_is_monitored_whatever_it_says() {
    let stack = Stack::start("sh -c 'sleep 2; echo 7'", 600).await;
    let panics = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Invoke => Break::After(PANIC),
        _ => Break::No,
    });
    let end = stack.system.run_with(&execution(json!({})), &panics).await;
    assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
    // One that fails before it has called anybody fails the session at once, in its own words.
    let dead = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Invoke => Break::Before(PANIC),
        _ => Break::No,
    });
    let run = execution(json!({}));
    let end = stack.system.run_with(&run, &dead).await;
    assert_eq!(failure(end), (PANIC.to_owned(), "injected".to_owned()));
    assert_eq!(stack.statuses(&run.name).await, ["SESSION_INITIATED", "SESSION_FAILED"]);
    stack.system.stop().await;
}

/// The invoker has begun its call, and nobody knows whether AgentCore has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_outcome_nobody_knows_is_waited_for() {
    // Takes the request, and the invoker dies with it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let table = Table::open(None, 0).await.unwrap();
    let stack = Stack::behind_impatient(table, address).await;
    let unknown = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Invoke => Break::After(PANIC),
        _ => Break::No,
    });
    let run = execution(json!({}));
    let taken = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 16];
        stream.read_exact(&mut head).await.unwrap();
        // Cut: the invoker journals OutcomeUnknown.
    };
    let (end, ()) = tokio::join!(stack.system.run_with(&run, &unknown), taken);
    let (error, cause) = failure(end);
    assert_eq!(error, "AgentNotStarted");
    assert!(cause.ends_with(&format!("The invoker failed: {PANIC}: injected")), "{cause}");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_not_ready_yet_is_tried_again() {
    let stack = Stack::start("sh -c 'echo 7'", 600).await;
    for error in ["Lambda.ResourceConflictException", "Lambda.ResourceNotReadyException"] {
        let calls = AtomicU32::new(0);
        let pending = Faulty(&stack.system, |resource, _: &Value| match resource {
            Resource::Invoke if calls.fetch_add(1, Ordering::Relaxed) < 2 => Break::Before(error),
            _ => Break::No,
        });
        let end = stack.system.run_with(&execution(json!({})), &pending).await;
        assert_eq!(end, ExecutionEnd::Succeeded(json!(7)), "{error}");
    }
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_container_refuses_unread_fails_the_run_it_belongs_to() {
    let small =
        |options| Options { container: vec![("MAX_BODY_BYTES", "10".to_owned())], ..options };
    let stack = Stack::start_with(small, "cat").await;
    let run = execution(json!({"prompt": "longer than ten bytes"}));
    let (error, cause) = failure(stack.system.run(&run).await);
    assert_eq!(error, "PayloadTooLarge");
    assert_eq!(cause, "the body is larger than 10 bytes (MAX_BODY_BYTES)");
    let events = stack.events(&run.name).await;
    assert!(events.iter().all(|event| event.invocation_id == run.id), "{events:?}");
    let explained =
        operator::explain(&operator::history::runs(&events), chrono::Utc::now().into(), None);
    assert!(explained.contains("Cause: PayloadTooLarge: the body is larger"), "{explained}");
    stack.system.stop().await;
}

/// The SDK's protection against stalled streams would cut it after some seconds, and ask again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_body_comes_long_after_its_head_is_awaited_and_asked_for_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = Stack::behind_impatient(Table::open(None, 0).await.unwrap(), address).await;
    let requests = AtomicU32::new(0);
    let agentcore = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            requests.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(40)).await;
            stream.write_all(b"{\"status\":\"started\"}").await.unwrap();
        }
    };
    let run = execution(json!({}));
    let end = tokio::select! {
        end = stack.system.run(&run) => end,
        () = agentcore => unreachable!(),
    };
    // Nobody started a task there.
    assert_eq!(failure(end).0, "AgentNotStarted");
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    let statuses = stack.statuses(&run.name).await;
    assert!(statuses.contains(&"AGENT_INVOCATION_SUCCEEDED".to_owned()), "{statuses:?}");
    assert_eq!(IMPATIENT.start_seconds, 3);
    stack.system.stop().await;
}

/// Without signs of life, an open call is not waited for until the last poll either.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_outcome_nobody_knows_is_given_up_even_without_patience() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let table = Table::open(None, 0).await.unwrap();
    let workflow = workflow::Definition { patience_seconds: 0, ..IMPATIENT };
    let stack = Stack::behind_with(table, address, workflow, None).await;
    let unknown = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Invoke => Break::After(PANIC),
        _ => Break::No,
    });
    let taken = async { drop(listener.accept().await.unwrap()) };
    let run = execution(json!({}));
    let (end, ()) = tokio::join!(stack.system.run_with(&run, &unknown), taken);
    let (error, cause) = failure(end);
    assert_eq!(error, "AgentNotStarted");
    assert!(cause.contains(PANIC), "{cause}");
    stack.system.stop().await;
}

/// A request that was refused beside a task that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_definite_failure_of_one_call_does_not_fail_a_run_whose_agent_works() {
    let stack = Stack::start("sh -c 'sleep 2; echo 7'", 600).await;
    let run = execution(json!({}));
    let panics = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Invoke => Break::After(PANIC),
        _ => Break::No,
    });
    // As a retried function journals it whose first call has started the agent.
    let journal = stack.system.journal();
    let journal = journal.session(run.name.parse().unwrap(), &*run.id, journal::Source::Invoker);
    let refused = async {
        stack.wait_for(&run.name, &["AGENT_BACKGROUND_TASK_STARTED"]).await;
        let status = journal::Status::AgentInvocationFailed;
        let draft = journal::Draft::failure(status, "RuntimeClientError", "refused");
        journal.append(draft, None, Duration::from_secs(9)).await.unwrap();
    };
    let (end, ()) = tokio::join!(stack.system.run_with(&run, &panics), refused);
    assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
    stack.system.stop().await;
}
