//! `agent-journal stop`, against the whole system.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use journal::{Draft, Event, Mark, SessionId, SignKind, Source, Status};
use local::asl::ExecutionEnd;
use nix::sys::signal::{Signal, kill};
use serde_json::json;
use support::{Stack, execution, failure, sibling};
use testing::{CREDENTIAL, REGION, TABLE_NAME};

const TASK_STARTED: &str = "AGENT_BACKGROUND_TASK_STARTED";
const TASK_FAILED: &str = "AGENT_BACKGROUND_TASK_FAILED";

/// Runs the command; its exit code and what it said.
async fn stop(stack: &Stack, arguments: &[&str], agentcore: &str) -> (i32, String) {
    let mut command = Command::new(sibling("agent-journal"));
    command.arg("stop").args(arguments).env_clear().envs([
        ("AWS_ENDPOINT_URL_DYNAMODB", &*stack.system.table.endpoint()),
        ("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", agentcore),
        (
            "AGENT_RUNTIME_ARN",
            "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/x-0123456789",
        ),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", CREDENTIAL),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
        ("JOURNAL_TABLE_NAME", TABLE_NAME),
    ]);
    let run = move || command.output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

/// An AgentCore that is asked to stop a session; gives the session's id and the path.
fn agentcore() -> (String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let server = HttpServer::new(move || {
        let seen = Arc::clone(&seen);
        App::new().default_service(web::to(move |http: HttpRequest| {
            let session = http.headers().get(agent_runtime::SESSION_HEADER).unwrap();
            let session = session.to_str().unwrap().to_owned();
            seen.lock().unwrap().push(format!("{} {session}", http.path()));
            async { HttpResponse::Ok().json(json!({})) }
        }))
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    tokio::spawn(server.run());
    (url, asked)
}

fn task_end(events: &[Event]) -> (Option<&str>, Option<&str>) {
    let end = events.iter().find(|event| event.status.as_str() == TASK_FAILED).unwrap();
    (end.error_type.as_deref(), end.error_message.as_deref())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_agent_is_stopped_with_the_reason_in_the_journal() {
    let stack = Stack::impatient("sh -c 'trap \"\" TERM; sleep 60; sleep 60'").await;
    // A workflow's run, whose agent ignores SIGTERM.
    let run = execution(json!({}));
    let operator = async {
        stack.wait_for(&run.name, &[TASK_STARTED, "AGENT_INVOCATION_SUCCEEDED"]).await;
        let begun = Instant::now();
        let (code, said) = stop(&stack, &[&run.name, "--reason", "wrong input"], "").await;
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains("The task has ended: AGENT_BACKGROUND_TASK_FAILED Stopped: wrong input"),
            "{said}"
        );
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    };
    let (end, ()) = tokio::join!(stack.system.run(&run), operator);
    assert_eq!(failure(end), ("Stopped".to_owned(), "wrong input".to_owned()));
    let (code, said) = stop(&stack, &[&run.name], "").await;
    assert_eq!(code, 0);
    assert!(
        said.starts_with(
            "There is no task to stop. The session failed: an operator stopped the task"
        ),
        "{said}"
    );

    // A direct call's.
    let id = format!("session-{}", uuid::Uuid::new_v4());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/invocations", stack.system.agent_address);
    let body = json!({"session_id": id}).to_string();
    assert_eq!(client.post(url).body(body).send().await.unwrap().status(), 200);
    let (code, said) = stop(&stack, &[&id], "").await;
    assert_eq!(code, 0, "{said}");
    let events = stack.events(&id).await;
    assert_eq!(task_end(&events), (Some("Stopped"), Some("an operator stopped the task")));

    let (code, said) = stop(&stack, &[&uuid::Uuid::new_v4().to_string()], "").await;
    assert_eq!(code, 2);
    assert!(said.contains("the journal has no event of session"), "{said}");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_started_or_ended_by_itself_is_said() {
    let stack = Stack::start("sh -c 'sleep 2; echo 7'", 600).await;
    let absent = support::history_file("running");
    let first = std::fs::read_to_string(absent).unwrap().lines().next().unwrap().to_owned();
    let event: Event = serde_json::from_str(&first).unwrap();
    support::put(&stack.system.table, &event);
    let (code, said) = stop(&stack, &[event.session_id().unwrap().as_str()], "").await;
    assert_eq!(code, 3);
    assert!(said.starts_with("There is no task to stop. The session has not ended."), "{said}");
    assert!(said.ends_with("try again in some seconds.\n"), "{said}");
    // Without signs of life for so long, the task's own end comes first.
    let run = execution(json!({}));
    let operator = async {
        stack.wait_for(&run.name, &[TASK_STARTED]).await;
        stop(&stack, &[&run.name], "").await
    };
    let (end, (code, said)) = tokio::join!(stack.system.run(&run), operator);
    assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
    assert_eq!(code, 0);
    assert!(said.ends_with("The task has ended: AGENT_BACKGROUND_TASK_COMPLETED\n"), "{said}");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_answer_is_stopped_by_agentcore() {
    let (url, asked) = agentcore();
    let stack = Stack::impatient("sleep 300").await;
    let (first, second) = (execution(json!({})), execution(json!({})));
    let operator = async {
        let wanted = [TASK_STARTED, "AGENT_INVOCATION_SUCCEEDED"];
        stack.wait_for(&first.name, &wanted).await;
        stack.wait_for(&second.name, &wanted).await;
        // By the local AgentCore, which ends the container as the real one does.
        let local = format!("http://{}", stack.system.agentcore);
        let (code, said) = stop(&stack, &[&first.name, "--now"], &local).await;
        assert_eq!(code, 0, "{said}");
        assert_eq!(task_end(&stack.events(&first.name).await).0, Some("Terminated"));
        // A dead one, after a minute.
        kill(stack.container(&second.name), Signal::SIGKILL).unwrap();
        let (code, said) = stop(&stack, &[&second.name], &url).await;
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains(
                "The container has given no sign of life for 60 s.\nAgentCore has stopped"
            ),
            "{said}"
        );
        let asked = asked.lock().unwrap();
        assert!(asked[0].ends_with(&format!("/stopruntimesession {}", second.name)), "{asked:?}");
    };
    let (first_end, second_end, ()) =
        tokio::join!(stack.system.run(&first), stack.system.run(&second), operator);
    assert_eq!(failure(first_end).0, "Terminated");
    assert_eq!(failure(second_end).0, "ContainerLost");
    stack.system.stop().await;
}

/// npm ends at SIGTERM at once; its child saves its work for a second.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm: cargo test -p local --test stop -- --ignored"]
async fn an_agent_that_npm_starts_saves_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("package.json", r#"{"name": "agent", "scripts": {"start": "node agent.js"}}"#);
    write(
        "agent.js",
        "const fs = require('fs');
        process.on('SIGTERM', () => setTimeout(() => {
            fs.writeFileSync(__dirname + '/saved', 'all of it');
            process.exit(0);
        }, 1000));
        setInterval(() => {}, 1000);
        fs.writeFileSync(__dirname + '/ready', '');",
    );
    let stack = Stack::impatient(&format!("npm start --prefix {}", folder.path().display())).await;
    let run = execution(json!({}));
    let operator = async {
        while !folder.path().join("ready").exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop(&stack, &[&run.name], "").await
    };
    let (end, (code, said)) = tokio::join!(stack.system.run(&run), operator);
    assert_eq!((failure(end).0.as_str(), code), ("Stopped", 0), "{said}");
    let saved = std::fs::read_to_string(folder.path().join("saved")).unwrap();
    assert_eq!(saved, "all of it");
    stack.system.stop().await;
}

/// The replaced container's task ends later than the other has started, so the order of the events does
/// not say which one works.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_replacement_the_task_that_gives_signs_is_asked_to_end() {
    let stack = Stack::start("cat", 600).await;
    let journal = stack.system.journal();
    let id: SessionId = uuid::Uuid::new_v4().to_string().parse().unwrap();
    let session = journal.session(id.clone(), "run-1", Source::Agent);
    let (heartbeat, soon) = (Some(Duration::from_secs(20)), Duration::from_secs(5));
    let append = |draft| session.append(draft, None, soon);
    append(Draft::task_started(heartbeat)).await.unwrap();
    let works = append(Draft::task_started(heartbeat)).await.unwrap().to_string();
    let ended = |error_type| Draft::failure(Status::AgentBackgroundTaskFailed, error_type, "ended");
    append(ended("Terminated")).await.unwrap();
    session.signs(&works, 0).take(Mark::Beat(None)).await.unwrap();
    let container = async {
        loop {
            let signs = journal.signs(&id, &works).await.unwrap();
            if signs.iter().any(|sign| sign.kind == SignKind::Stop) {
                return append(ended("Stopped")).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let asked = async { stop(&stack, &[id.as_str()], "").await };
    let both = async { tokio::join!(asked, container).0 };
    let (code, said) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("The task has ended: AGENT_BACKGROUND_TASK_FAILED Stopped"), "{said}");
    stack.system.stop().await;
}
