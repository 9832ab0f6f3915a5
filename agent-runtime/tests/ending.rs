//! How a command is ended, and to which run a request belongs that ended before it began.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use agent_runtime::SESSION_HEADER;
use journal::SessionId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::container::Container;
use support::{eventually, session_id};

/// On SIGTERM, takes a second to save its work, and says so on stderr.
const SAVES: &str = r#"sh -c 'trap "echo saving >&2; sleep 1; echo saved > $FOLDER/file; exit 0" TERM; touch $FOLDER/ready; while :; do sleep 0.1; done'"#;

const QUICK: [(&str, &str); 1] = [("HEARTBEAT_SECONDS", "1")];

#[tokio::test]
async fn a_command_that_is_stopped_may_save_its_work_before_the_event() {
    // As `npm start` does it: the shell ends at once, and its child saves; once with its output
    // elsewhere.
    let in_shell = |script: &str| format!("sh -c {}", shell_words::quote(script));
    let children = in_shell(&format!("{SAVES} & wait"));
    let quiet = in_shell(&format!("{SAVES} >$FOLDER/quiet 2>&1 & wait"));
    for command in [SAVES, &children, &quiet] {
        let container = Container::start_with(command, &QUICK).await;
        let id = session_id();
        container.post(&id, &json!({})).await;
        container.stop_task(&id).await;
        let end = container.end(&id).await;
        assert_eq!(end.error_type.as_deref(), Some("Stopped"));
        assert_eq!(end.error_message.as_deref(), Some("wrong input"));
        let saved = std::fs::read_to_string(container.program.folder.path().join("file"));
        assert_eq!(saved.unwrap(), "saved\n", "{command}");
        let said = container.program.log().contains("saving");
        assert_eq!(said, command != quiet, "{}", container.program.log());
    }
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_three_seconds_later() {
    let command = r#"sh -c 'trap "" TERM; echo $$ > $FOLDER/file; while :; do sleep 0.1; done'"#;
    let container = Container::start_with(command, &QUICK).await;
    let id = session_id();
    container.post(&id, &json!({})).await;
    let process = Pid::from_raw(container.file().await.trim().parse().unwrap());
    container.stop_task(&id).await;
    let told = eventually("the order", async || {
        container.program.log().contains("the task is ended").then(Instant::now)
    });
    let told = told.await;
    assert_eq!(container.end(&id).await.error_type.as_deref(), Some("Stopped"));
    let took = told.elapsed();
    assert!((Duration::from_millis(2_500)..Duration::from_secs(6)).contains(&took), "{took:?}");
    // The event comes after the process is gone.
    assert!(kill(process, None).is_err(), "it still runs");
}

#[tokio::test]
async fn a_process_that_has_to_end_writes_its_event_at_once_and_gives_the_agent_its_grace() {
    let container = Container::start(SAVES).await;
    let id = session_id();
    container.post(&id, &json!({})).await;
    let ready = container.program.folder.path().join("ready");
    eventually("the trap", async || ready.exists().then_some(())).await;
    container.program.signal(Signal::SIGTERM);
    let told = Instant::now();
    assert_eq!(container.end(&id).await.error_type.as_deref(), Some("Terminated"));
    assert!(told.elapsed() < Duration::from_millis(900), "{:?}", told.elapsed());
    container.program.ended().await;
    assert_eq!(container.file().await, "saved\n");
}

#[tokio::test]
async fn sigterm_in_the_middle_of_a_grace_does_not_wait_for_its_end() {
    let command = r#"sh -c 'trap "" TERM; echo ready > $FOLDER/file; while :; do sleep 0.1; done'"#;
    let limit = [("TASK_TIMEOUT_SECONDS", "1")];
    let container = Container::start_with(command, &limit).await;
    let id = session_id();
    container.post(&id, &json!({})).await;
    container.file().await;
    eventually("the grace", async || {
        container.program.log().contains("the task is ended").then_some(())
    })
    .await;
    container.program.signal(Signal::SIGTERM);
    let told = Instant::now();
    assert_eq!(container.end(&id).await.error_type.as_deref(), Some("TimedOut"));
    assert!(told.elapsed() < Duration::from_millis(1_500), "{:?}", told.elapsed());
}

#[tokio::test]
async fn when_memory_runs_out_the_kernel_is_to_take_the_agent() {
    let command = "sh -c 'sleep 0.2; cat /proc/self/oom_score_adj'";
    let result = Container::start(command).await.run(&json!({})).await.result;
    assert_eq!(result.as_deref(), Some("1000"));
}

#[tokio::test]
async fn a_body_that_is_refused_unread_belongs_to_the_run_that_baggage_names() {
    let command = "sh -c 'cat >/dev/null; echo $INVOCATION_ID,$BAGGAGE'";
    let container = Container::start(command).await;
    let run = "arn:aws:states:us-east-1:000000000000:execution:session:x";
    let baggage = format!("user=7,{}", telemetry::run_baggage(run));
    let post = async |id: &SessionId, body: String| {
        let request = container.client.post(format!("{}/invocations", container.program.url));
        let request = request.header(SESSION_HEADER, id.as_str()).header("baggage", &baggage);
        request.body(body).send().await.unwrap().status().as_u16()
    };
    let id = session_id();
    assert_eq!(post(&id, "{".to_owned()).await, 400);
    let events = container.events(&id).await;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.invocation_id == run), "{events:?}");
    // The body's own id wins, and the agent does not see ours.
    let id = session_id();
    let body = json!({"input": {}, "invocation_id": "run-1"}).to_string();
    assert_eq!(post(&id, body).await, 200);
    assert_eq!(container.end(&id).await.result.as_deref(), Some("\"run-1,user=7\""));
}
