//! Every way a session goes, on the real stack with that fault. What its journal then holds is kept
//! in `workflow/histories/`, where the command line's tests and the documents read it; the tests here
//! hold that the stack still writes the same. To keep new ones: `UPDATE_HISTORIES=1 cargo test -p
//! local --test histories`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agent_runtime::{Agent, AgentError, Invocation};
use chrono::{TimeDelta, Utc};
use journal::{Status, Timestamp};
use local::asl::{Execution, ExecutionEnd, Resource};
use local::front_door;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Break, Container, Faulty, Stack, check_history, execution, failure, open};
use testing::Table;
use testing::{Dynamo, Fault};
use tokio::io::AsyncReadExt;

const TASK_STARTED: &str = "AGENT_BACKGROUND_TASK_STARTED";
const TASK_COMPLETED: &str = "AGENT_BACKGROUND_TASK_COMPLETED";
const INVOCATION_SUCCEEDED: &str = "AGENT_INVOCATION_SUCCEEDED";

/// Runs one session to its end, and checks its history.
async fn check(name: &str, stack: Stack, run: &Execution) -> ExecutionEnd {
    let outcome = stack.system.run(run).await;
    check_history(name, &stack.events(&run.name).await);
    stack.system.stop().await;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn completed() {
    let stack = Stack::start("sh -c 'sleep 0.2; cat'", 600).await;
    let run = execution(json!({"prompt": "hi", "n": 7}));
    let end = stack.system.run(&run).await;
    assert_eq!(end, ExecutionEnd::Succeeded(json!({"prompt": "hi", "n": 7})));
    let events = stack.events(&run.name).await;
    check_history("completed", &events);
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
async fn running() {
    let stack = Stack::start("sleep 60", 600).await;
    let run = execution(json!({}));
    let watch = stack.wait_for(&run.name, &[TASK_STARTED, INVOCATION_SUCCEEDED]);
    let events = tokio::select! {
        outcome = stack.system.run(&run) => panic!("ended: {outcome:?}"),
        events = watch => events,
    };
    check_history("running", &events);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_failed() {
    let stack =
        Stack::start("sh -c 'echo reading 3 files >&2; echo no such model >&2; exit 3'", 600).await;
    let (run, words) =
        (execution(json!({"prompt": "hi"})), "no such model (exit status: 3)\nreading 3 files");
    assert_eq!(failure(stack.system.run(&run).await), ("AgentError".into(), words.into()));
    let events = stack.events(&run.name).await;
    check_history("agent-failed", &events);
    // The workflow's own event repeats type and message.
    let last = events.last().unwrap();
    assert_eq!(last.status, Status::SessionFailed);
    assert_eq!(last.error_type.as_deref(), Some("AgentError"));
    assert_eq!(last.error_message.as_deref(), Some(words));
    stack.system.stop().await;
}

struct Panics;

impl Agent for Panics {
    type Output = Value;

    async fn run(&self, _: Invocation) -> Result<Value, AgentError> {
        panic!("index out of bounds: the len is 3 but the index is 7")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_panicked() {
    let table = Table::open(None, 0).await.unwrap();
    let container = Container::start(open(table.client_config()), Panics);
    let stack = Stack::around(table, &container.address, 600).await;
    let outcome = check("agent-panicked", stack, &execution(json!({}))).await;
    let words = "the agent panicked: index out of bounds: the len is 3 but the index is 7";
    assert_eq!(failure(outcome), ("Panic".to_owned(), words.to_owned()));
    container.stop().await;
}

/// Runs a session whose container gets a signal while the agent works.
async fn signalled(name: &str, signal: Signal) -> (String, String) {
    let stack = Stack::impatient("sleep 60").await;
    let run = execution(json!({}));
    let send = async {
        stack.wait_for(&run.name, &[TASK_STARTED, INVOCATION_SUCCEEDED]).await;
        kill(stack.container(&run.name), signal).unwrap();
    };
    let (outcome, ()) = tokio::join!(stack.system.run(&run), send);
    check_history(name, &stack.events(&run.name).await);
    stack.system.stop().await;
    failure(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn container_stopped() {
    assert_eq!(signalled("container-stopped", Signal::SIGTERM).await.0, "Terminated");
}

#[tokio::test(flavor = "multi_thread")]
async fn container_killed() {
    let (error, cause) = signalled("container-killed", Signal::SIGKILL).await;
    assert_eq!(error, "ContainerLost");
    assert!(
        cause.starts_with("The workflow has seen no new sign of life of the container since 20"),
        "{cause}"
    );
}

/// Runs a session whose container is stopped until the workflow has given it up, and then goes on.
async fn frozen(name: &str, agent_command: &str, last: &str) {
    let stack = Stack::impatient(agent_command).await;
    let run = execution(json!({}));
    let freeze = async {
        stack.wait_for(&run.name, &[TASK_STARTED, INVOCATION_SUCCEEDED]).await;
        kill(stack.container(&run.name), Signal::SIGSTOP).unwrap();
    };
    let (outcome, ()) = tokio::join!(stack.system.run(&run), freeze);
    assert_eq!(failure(outcome).0, "ContainerLost");
    kill(stack.container(&run.name), Signal::SIGCONT).unwrap();
    check_history(name, &stack.wait_for(&run.name, &[last]).await);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_came_back() {
    frozen("container-came-back", "sleep 60", "AGENT_BACKGROUND_TASK_FAILED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn completed_after_lost() {
    frozen("completed-after-lost", "sh -c 'sleep 2; echo 7'", TASK_COMPLETED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_is_slow_and_silent_is_not_given_up() {
    let stack = Stack::impatient("sh -c 'sleep 15; echo 7'").await;
    let end = stack.system.run(&execution(json!({}))).await;
    assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_not_started() {
    // Another program listens where the container should.
    let server = actix_web::HttpServer::new(|| {
        actix_web::App::new().default_service(actix_web::web::to(|| async { "{}" }))
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
    let address = server.addrs()[0].to_string();
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    let stack = Stack::around_impatient(Table::open(None, 0).await.unwrap(), &address).await;
    let outcome = check("agent-not-started", stack, &execution(json!({}))).await;
    assert_eq!(failure(outcome).0, "AgentNotStarted");
    handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entrypoint_failed() {
    let table = Table::open(None, 0).await.unwrap();
    let dynamo = Dynamo::over(table.database.clone(), |call| match call.status() {
        TASK_STARTED => Fault::Refused("AccessDeniedException"),
        _ => Fault::None,
    });
    let container = Container::start(open(dynamo.config()), Panics);
    let stack = Stack::around(table, &container.address, 600).await;
    let outcome = check("entrypoint-failed", stack, &execution(json!({}))).await;
    // AgentCore says nothing of it: it is the container's own event that tells.
    let (error, cause) = failure(outcome);
    assert_eq!(error, "JournalError");
    assert!(
        cause.starts_with("the task was not started: AGENT_BACKGROUND_TASK_STARTED"),
        "{cause}"
    );
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invocation_failed() {
    // Nobody listens on port 1: AgentCore answers 424.
    let stack = Stack::around(Table::open(None, 0).await.unwrap(), "127.0.0.1:1", 600).await;
    let outcome = check("invocation-failed", stack, &execution(json!({}))).await;
    let (error, cause) = failure(outcome);
    assert_eq!(error, "RuntimeClientError");
    let words = "InvokeAgentRuntime failed: RuntimeClientError: Runtime initialization failed.";
    assert!(cause.starts_with(words), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invoker_failed() {
    let stack = Stack::start("cat", 600).await;
    let absent = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Invoke => Break::Before("Lambda.ResourceNotFoundException"),
        _ => Break::No,
    });
    let run = execution(json!({}));
    let outcome = stack.system.run_with(&run, &absent).await;
    assert_eq!(failure(outcome).0, "Lambda.ResourceNotFoundException");
    check_history("invoker-failed", &stack.events(&run.name).await);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invoker_crashed() {
    // A container that takes the request and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stack = Stack::around(Table::open(None, 0).await.unwrap(), &address, 2).await;
    let run = execution(json!({}));
    let crash = async {
        let request = listener.accept().await.unwrap();
        kill(Pid::from_raw(stack.system.invoker().id()), Signal::SIGKILL).unwrap();
        request
    };
    let (outcome, _request) = tokio::join!(stack.system.run(&run), crash);
    assert_eq!(failure(outcome).0, "PollAttemptsSpent");
    check_history("invoker-crashed", &stack.events(&run.name).await);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invoker_retried_after_it_had_started_the_agent_starts_one_task() {
    let stack = Stack::start("sh -c 'sleep 4; echo 7'", 600).await;
    let invocations = AtomicU32::new(0);
    let lossy = Faulty(&stack.system, |resource, _: &Value| {
        let first =
            resource == Resource::Invoke && invocations.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Break::After("Lambda.ServiceException") } else { Break::No }
    });
    let run = execution(json!({}));
    assert_eq!(stack.system.run_with(&run, &lossy).await, ExecutionEnd::Succeeded(json!(7)));
    let statuses = stack.statuses(&run.name).await;
    let count = |name: &str| statuses.iter().filter(|status| *status == name).count();
    assert_eq!(count("AGENT_INVOCATION_STARTED"), 2);
    assert_eq!(count("AGENT_ENTRYPOINT_STARTED"), 2);
    assert_eq!(count(TASK_STARTED), 1);
    assert_eq!(count(TASK_COMPLETED), 1);
    check_history("invoker-retried", &stack.events(&run.name).await);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcome_unknown() {
    let table = Table::open(None, 0).await.unwrap();
    let container = Container::start(open(table.client_config()), Slow);
    let behind = front_door::start(&container.address).unwrap();
    // On the way to AgentCore: hands the request on, and breaks off instead of the answer.
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front_door = proxy.local_addr().unwrap();
    let breaks_off = tokio::spawn(async move {
        let (mut invoker, _) = proxy.accept().await.unwrap();
        let mut agentcore = tokio::net::TcpStream::connect(behind).await.unwrap();
        let mut answer = [0; 1];
        let (mut request, _) = invoker.split();
        let (mut from, mut to) = agentcore.split();
        tokio::select! {
            copied = tokio::io::copy(&mut request, &mut to) => panic!("{copied:?}"),
            read = from.read(&mut answer) => assert_eq!(read.unwrap(), 1),
        }
    });
    let stack = Stack::behind(table, front_door, 600).await;
    let outcome = check("outcome-unknown", stack, &execution(json!({}))).await;
    assert_eq!(outcome, ExecutionEnd::Succeeded(json!("done")));
    breaks_off.await.unwrap();
    container.stop().await;
}

/// Takes long enough that the invoker has ended before.
struct Slow;

impl Agent for Slow {
    type Output = Value;

    async fn run(&self, _: Invocation) -> Result<Value, AgentError> {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Ok(json!("done"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_failed() {
    let stack = Stack::start("sh -c 'sleep 2; echo 7'", 600).await;
    let unreadable = Faulty(&stack.system, |resource, _: &Value| match resource {
        Resource::Query => Break::Before("DynamoDb.AccessDeniedException"),
        _ => Break::No,
    });
    let run = execution(json!({}));
    let (error, _) = failure(stack.system.run_with(&run, &unreadable).await);
    assert_eq!(error, "DynamoDb.AccessDeniedException");
    // The agent knows nothing of it and completes.
    let events = stack.wait_for(&run.name, &[TASK_COMPLETED]).await;
    check_history("monitor-failed", &events);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs() {
    let command = "sh -c 'read -r input; case $input in *wrong*) echo wrong input >&2; exit 1;; esac; echo 7'";
    let stack = Stack::start(command, 600).await;
    let id = format!("session-{}", uuid::Uuid::new_v4());
    let first = execution(json!({"session_id": id, "prompt": "wrong"}));
    assert_eq!(failure(stack.system.run(&first).await).1, "wrong input (exit status: 1)");
    let second = execution(json!({"session_id": id, "prompt": "right"}));
    assert_eq!(stack.system.run(&second).await, ExecutionEnd::Succeeded(json!(7)));
    let events = stack.events(&id).await;
    check_history("two-runs", &events);
    let of = |run: &Execution| events.iter().filter(|event| event.invocation_id == run.id).count();
    assert_eq!((of(&first), of(&second), events.len()), (7, 6, 13));
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skewed_clocks() {
    let table = Table::open(None, 0).await.unwrap();
    let slow = Arc::new(|| Utc::now() - TimeDelta::minutes(5));
    let container = Container::start(open(table.client_config()).with_clock(slow), Slow);
    let stack = Stack::around(table, &container.address, 600).await;
    let run = execution(json!({}));
    assert_eq!(stack.system.run(&run).await, ExecutionEnd::Succeeded(json!("done")));
    let events = stack.events(&run.name).await;
    check_history("skewed-clocks", &events);
    // The container is five minutes behind: each of its events stands a microsecond after its cause.
    let time = |status: &str| -> Timestamp {
        let event = events.iter().find(|event| event.status.as_str() == status);
        event.unwrap().timestamp.parse().unwrap()
    };
    let chain =
        ["AGENT_INVOCATION_STARTED", "AGENT_ENTRYPOINT_STARTED", TASK_STARTED, TASK_COMPLETED];
    for pair in chain.windows(2) {
        assert_eq!(time(pair[0]).plus_micros(1), time(pair[1]), "{pair:?}");
    }
    stack.system.stop().await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_call() {
    let stack = Stack::impatient("cat").await;
    let id = format!("session-{}", uuid::Uuid::new_v4());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/invocations", stack.system.agent_address);
    let body = json!({"session_id": id, "prompt": "hi"}).to_string();
    assert_eq!(client.post(url).body(body).send().await.unwrap().status(), 200);
    check_history("direct-call", &stack.wait_for(&id, &[TASK_COMPLETED]).await);
    stack.system.stop().await;
}
