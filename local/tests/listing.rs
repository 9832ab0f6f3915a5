//! `agent-journal list`, `logs` and `page`, against the local engines.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use local::step_functions::{self, STATE_MACHINE_ARN};
use serde_json::{Value, json};
use support::{Stack, put, put_history, sfn, sibling};
use testing::{CREDENTIAL, REGION, TABLE_NAME, Table};

const MIXED: &str = "sh -c 'read -r input; case $input in *fails*) echo started plan >&3; echo started step >&3; echo completed step >&3; echo no such model >&2; exit 1;; *hangs*) echo started plan >&3; sleep 600;; esac; echo 7'";

/// The command, as an operator of the local system runs it.
struct Operator {
    environment: Vec<(&'static str, String)>,
}

impl Operator {
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(sibling("agent-journal"));
        command.args(arguments).env_clear().envs(self.environment.iter().cloned());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let Output { status, stdout, stderr } = run.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    async fn list(&self, more: &[&str]) -> Vec<Value> {
        let (code, shown, stderr) = self.run(&[&["list", "--json"], more].concat()).await;
        assert_eq!(code, Some(0), "{stderr}");
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_with_where_and_why_and_their_logs_are_shown() {
    let stack = Stack::impatient(MIXED).await;
    let (logs, endpoint) = (stack.folder(), stack.system.table.endpoint());
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let workflows = sfn(&step_functions);
    let operator = Operator {
        environment: vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", endpoint),
            ("AWS_ENDPOINT_URL_SFN", format!("http://{}", step_functions.address)),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", CREDENTIAL.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIAL.to_owned()),
            ("JOURNAL_TABLE_NAME", TABLE_NAME.to_owned()),
            ("STATE_MACHINE_ARN", STATE_MACHINE_ARN.to_owned()),
            ("LOGS_FOLDER", logs.display().to_string()),
        ],
    };
    assert_eq!(operator.list(&[]).await, Vec::<Value>::new());
    let start = async |name: &str, input: Value| {
        let request = workflows.start_execution().state_machine_arn(STATE_MACHINE_ARN);
        request.name(name).input(input.to_string()).send().await.unwrap().execution_arn
    };
    let (own, other) =
        ("a-session-with-an-id-of-its-own-0123456789", "0123456789-0123456789-0123456789-ab");
    start("first", json!({"prompt": "works", "session_id": own})).await;
    let failed = start(other, json!({"prompt": "fails"})).await;
    start("short", json!({"prompt": "works"})).await;
    let hangs = "the-session-that-hangs-0123456789-0123456789";
    let hangs_arn = start(hangs, json!({"prompt": "hangs"})).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let listed = loop {
        let listed = operator.list(&[]).await;
        let running = listed.iter().filter(|it| it["standing"] == "running").count();
        if running == 1 && listed[0]["where"] == "agent PLAN" {
            break listed;
        }
        assert!(Instant::now() < deadline, "{listed:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let shown = listed.iter().map(|it| ["id", "standing", "where", "error_type"].map(|n| &it[n]));
    let shown = Vec::from_iter(shown.map(|it| it.map(|value| value.as_str().unwrap_or("-"))));
    assert_eq!(
        shown,
        [
            [hangs, "running", "agent PLAN", "-"],
            ["short", "failed", "workflow", "SessionIdInvalid"],
            [other, "failed", "agent PLAN", "AgentError"],
            [own, "completed", "", "-"],
        ]
    );
    assert_eq!(listed[2]["why"], "AgentError: no such model (exit status: 1)");
    let ids = |listed: Vec<Value>| {
        Vec::from_iter(listed.iter().map(|it| it["id"].as_str().unwrap().to_owned()))
    };
    assert_eq!(ids(operator.list(&["--failed"]).await), ["short", other]);
    assert_eq!(ids(operator.list(&["--running"]).await), [hangs]);
    assert_eq!(ids(operator.list(&["--lost"]).await), Vec::<String>::new());
    assert_eq!(ids(operator.list(&["--failed", "--limit", "1"]).await), ["short"]);
    assert_eq!(ids(operator.list(&["--since", "1h"]).await).len(), 4);
    // A second after their end, three of them have not ended since.
    let deadline = Instant::now() + Duration::from_secs(30);
    while ids(operator.list(&["--since", "0s"]).await) != [hangs] {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Whether there are more is known, and not guessed.
    for (limit, newest, said) in [("3", true, "There are more: --limit 6\n"), ("4", false, "")] {
        let (_, shown, stderr) = operator.run(&["list", "--limit", limit]).await;
        assert!(
            shown.starts_with("started (UTC)  ") && shown.contains("  agent PLAN  "),
            "{shown}"
        );
        let last = shown.lines().last().unwrap();
        assert!(last.contains(&format!("{limit} sessions: ")), "{last}");
        assert_eq!((last.starts_with("the newest "), &*stderr), (newest, said));
    }

    // What an execution's ARN names, and a partition key.
    for id in [&*failed, other, &format!("SESSION#{other}")] {
        let (code, shown, stderr) = operator.run(&["explain", id]).await;
        assert_eq!(code, Some(1), "{stderr}");
        assert!(shown.contains(&format!("agent-journal logs {other} --agent")), "{shown}");
    }
    let (code, shown, stderr) = operator.run(&["logs", other, "--agent"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let line = shown.lines().find(|line| line.contains("no such model")).unwrap();
    assert!(line.starts_with("container  ") && line.contains(other), "{line}");
    assert!(!shown.contains("invoker  "), "{shown}");
    let (code, _, stderr) = operator.run(&["logs", "no-session-of-this-name-0123456789"]).await;
    assert_eq!((code, stderr.contains("no line of session")), (Some(2), true), "{stderr}");
    let (code, page, _) = operator.run(&["page", other]).await;
    assert_eq!(code, Some(0));
    assert!(
        page.starts_with("<!DOCTYPE html>") && !page.contains("http-equiv=\"refresh\""),
        "{page}"
    );

    // A container that is killed: silent at first, then lost; an execution that is stopped.
    let container = system.container(&hangs.parse().unwrap()).unwrap();
    container.kill();
    let deadline = Instant::now() + Duration::from_secs(60);
    while operator.list(&["--lost"]).await.iter().all(|it| it["standing"] != "lost") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (_, shown, _) = operator.run(&["list"]).await;
    assert!(shown.contains("ContainerLost: "), "{shown}");
    assert!(shown.ends_with("4 sessions: 1 lost, 2 failed, 1 completed\n"), "{shown}");
    assert_ne!(hangs_arn, failed);
    let stopped = "the-session-that-is-stopped-0123456789";
    let arn = start(stopped, json!({"prompt": "hangs"})).await;
    workflows.stop_execution().execution_arn(arn).send().await.unwrap();
    let listed = operator.list(&["--failed", "--limit", "1"]).await;
    assert_eq!((&listed[0]["id"], &listed[0]["standing"]), (&json!(stopped), &json!("unwatched")));
    let (code, shown, _) = operator.run(&["explain", stopped]).await;
    assert_eq!(code, Some(3));
    assert!(shown.contains("The execution has ended (ABORTED): nobody watches"), "{shown}");
    step_functions.stop().await;
    system.stop().await;
}

/// A Step Functions that lists these executions, starts one, and refuses all else.
fn without_description(executions: Value) -> String {
    let server = HttpServer::new(move || {
        let executions = executions.clone();
        App::new().default_service(web::to(move |http: HttpRequest| {
            let mut answer = HttpResponse::Ok();
            answer.content_type("application/x-amz-json-1.0");
            let answer = match http.headers().get("x-amz-target").unwrap().as_bytes() {
                b"AWSStepFunctions.ListExecutions" => answer.body(executions.to_string()),
                b"AWSStepFunctions.StartExecution" => {
                    answer.body(r#"{"executionArn": "arn:started", "startDate": 1.0}"#)
                }
                _ => answer
                    .status(StatusCode::BAD_REQUEST)
                    .insert_header(("x-amzn-requestid", "1"))
                    .body(r#"{"__type": "AccessDeniedException", "message": "not allowed"}"#),
            };
            async { answer }
        }))
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    tokio::spawn(server.run());
    url
}

/// What ListExecutions and the journal say is enough for a session that has events.
#[tokio::test]
async fn a_list_needs_no_description_of_the_executions_that_have_events() {
    let table = Table::open(None, 0).await.unwrap();
    let mut events = put_history(&table, "running");
    let (id, arn) = (events[0].session_id().unwrap(), events[0].invocation_id.clone());
    let other = "a-session-that-was-aborted-0123456789";
    for event in &mut events {
        event.partition_key = format!("SESSION#{other}");
        event.invocation_id = arn.replace(id.as_str(), other);
        put(&table, event);
    }
    let execution = |name: &str, status: &str, stopped: Value| json!({"executionArn": arn.replace(id.as_str(), name), "stateMachineArn": STATE_MACHINE_ARN, "name": name, "status": status, "startDate": 1.0, "stopDate": stopped});
    let url = without_description(json!({"executions": [
        execution(id.as_str(), "RUNNING", Value::Null),
        execution(other, "ABORTED", json!(2.0)),
    ]}));
    let operator = Operator {
        environment: vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", table.endpoint()),
            ("AWS_ENDPOINT_URL_SFN", url),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", CREDENTIAL.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIAL.to_owned()),
            ("JOURNAL_TABLE_NAME", TABLE_NAME.to_owned()),
            ("STATE_MACHINE_ARN", STATE_MACHINE_ARN.to_owned()),
        ],
    };
    let listed = operator.list(&[]).await;
    let standings = Vec::from_iter(listed.iter().map(|it| it["standing"].as_str().unwrap()));
    assert_eq!(standings, ["silent", "unwatched"]);
    assert_eq!(operator.list(&["--failed"]).await.len(), 2);
    // Who watches an execution is told that its end cannot be asked for.
    let (code, _, stderr) = operator.run(&["start", "--watch", "x"]).await;
    assert_eq!((code, stderr.contains("not allowed")), (Some(2), true), "{stderr}");
    assert!(!stderr.contains("cannot start"), "{stderr}");
    table.close().await;
}

#[tokio::test]
async fn wrong_use_is_answered_with_the_way_out() {
    let nothing = Operator { environment: Vec::new() };
    let region = Operator { environment: vec![("AWS_REGION", REGION.to_owned())] };
    let closed = Operator {
        environment: vec![
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", CREDENTIAL.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIAL.to_owned()),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1".to_owned()),
            ("JOURNAL_TABLE_NAME", TABLE_NAME.to_owned()),
            ("STATE_MACHINE_ARN", STATE_MACHINE_ARN.to_owned()),
        ],
    };
    let id = "a-session-with-an-id-of-its-own-0123456789";
    for (operator, said) in [
        (&nothing, "run `. .local/env`, which its `up` writes"),
        (&region, "run `. .local/env`, which its `up` writes"),
        (&closed, "is its `up` running?"),
    ] {
        for arguments in
            [&["list"][..], &["events", id], &["explain", id], &["page", id], &["start", "x"]]
        {
            let (code, _, stderr) = operator.run(arguments).await;
            assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
            assert!(stderr.contains(said), "{arguments:?}: {stderr}");
        }
    }
    for (arguments, said) in [
        (&["list", "--since", "yesterday"][..], "such as 90m, 24h or 7d"),
        (&["list", "--limit", "0"], "--limit"),
        (&["start", "--input", "{\"sessionId\": \"x\"}"], "its name is \"session_id\""),
        (&["start", "--input", "@/does/not/exist"], "cannot read /does/not/exist"),
    ] {
        let (code, _, stderr) = closed.run(arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
