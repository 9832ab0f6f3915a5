//! The `session` command, against the local engines over their own protocols.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sfn::operation::start_execution::StartExecutionError;
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Draft, Event, SessionId, Source, Status};
use local::step_functions::{self, STATE_MACHINE_ARN};
use operator::history::runs;
use support::{Stack, open, put, put_history, sfn, sibling};
use testing::{CREDENTIAL, REGION, TABLE_NAME, Table};

const DEADLINE: Duration = Duration::from_secs(10);

/// The command, as an operator with these endpoints runs it.
fn session(table: &Table, arguments: &[&str]) -> Command {
    let mut command = Command::new(sibling("agent-journal"));
    command.args(arguments).env_clear().envs([
        ("AWS_ENDPOINT_URL_DYNAMODB", &*table.endpoint()),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", CREDENTIAL),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
        ("JOURNAL_TABLE_NAME", TABLE_NAME),
    ]);
    command
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn run(table: &Table, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = session(table, arguments);
    tokio::task::spawn_blocking(move || texts(&command.output().unwrap())).await.unwrap()
}

fn id_of(events: &[Event]) -> SessionId {
    events[0].session_id().unwrap()
}

#[tokio::test]
async fn every_history_is_shown_whole_and_exits_as_it_ended() {
    let table = Table::open(None, 0).await.unwrap();
    let folder = support::history_file("x").parent().unwrap().to_owned();
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let events = put_history(&table, &name);
        let id = id_of(&events);
        let runs = runs(&events);
        let run_ = runs.last().unwrap();
        let code = Some(i32::from(run_.exit_code(std::time::SystemTime::now().into())));
        let (exit, shown, stderr) = run(&table, &["events", id.as_str()]).await;
        assert_eq!((exit, &*stderr), (code, ""), "{name}: {shown}");
        assert!(!shown.contains('\u{1b}'), "{name}: colours are for terminals");
        let (lines, _) = shown.split_once("\n\n").unwrap();
        assert_eq!(lines.lines().count(), run_.entries.len(), "{name}: {shown}");
        let (exit, json, _) = run(&table, &["events", id.as_str(), "--all", "--json"]).await;
        assert_eq!(exit, code);
        let read: Vec<Event> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(read, events, "{name}");
        let (exit, failed, _) =
            run(&table, &["events", id.as_str(), "--all", "--json", "--failed"]).await;
        assert_eq!(exit, code);
        let mut failures = events.clone();
        failures.retain(|event| event.error_type.is_some());
        let failed: Vec<Event> = failed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(failed, failures, "{name}");
        let (exit, told, _) = run(&table, &["explain", id.as_str()]).await;
        assert_eq!(exit, code);
        assert!(told.starts_with("The session "), "{name}: {told}");
    }
    table.close().await;
}

#[tokio::test]
async fn a_broken_history_is_exit_code_4() {
    let table = Table::open(None, 0).await.unwrap();
    let events = put_history(&table, "completed");
    let mut second = events.last().unwrap().clone();
    second.timestamp = "2099-01-01T00:00:00.000000Z".to_owned();
    second.sort_key = format!("EVENT#{}", second.timestamp);
    put(&table, &second);
    let id = id_of(&events);
    for command in ["events", "explain"] {
        let (exit, shown, _) = run(&table, &[command, id.as_str()]).await;
        assert_eq!(exit, Some(4), "{shown}");
        assert!(
            shown.contains("AGENT_BACKGROUND_TASK_COMPLETED is the second end of one task"),
            "{shown}"
        );
    }
    table.close().await;
}

/// A session that completed, with 10,000 further events of the run `invocation_id`.
fn put_long_session(table: &Table, invocation_id: Option<&str>) -> SessionId {
    let events = put_history(table, "completed");
    let mut note = events[3].clone();
    note.status = "TASK_STEP_COMPLETED".into();
    if let Some(id) = invocation_id {
        note.invocation_id = id.to_owned();
    }
    for n in 0..10_000 {
        note.timestamp = format!("2099-01-01T00:00:00.{n:06}Z");
        note.sort_key = format!("EVENT#{}", note.timestamp);
        put(table, &note);
    }
    id_of(&events)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_long_session_only_the_newest_run_is_shown() {
    let table = Table::open(None, 0).await.unwrap();
    let id = put_long_session(&table, Some("run-2"));
    let (exit, shown, _) = run(&table, &["events", id.as_str()]).await;
    assert_eq!(exit, Some(3));
    assert_eq!(shown.matches("  TASK_STEP_COMPLETED").count(), 10_000);
    assert!(
        !shown.contains("SESSION_INITIATED") && shown.contains("newest of 2 runs"),
        "{}",
        &shown[..500]
    );
    table.close().await;
}

/// The line that `events --follow --json` prints next, as the event's status.
fn next_status(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    let line = lines.next().unwrap().unwrap();
    serde_json::from_str::<Event>(&line).unwrap().status.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_shows_events_as_they_come_and_ends_with_the_session() {
    let table = Table::open(None, 0).await.unwrap();
    let id: SessionId = format!("session-{}", uuid::Uuid::new_v4()).parse().unwrap();
    let agent = open(table.client_config()).session(id.clone(), "run-1", Source::Agent);
    let workflow = open(table.client_config()).session(id.clone(), "run-1", Source::Workflow);
    // It may begin before the session does.
    let mut child = session(&table, &["events", id.as_str(), "--follow", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("has no event yet"));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for (journal, status, failure) in [
        (&workflow, Status::SessionInitiated, false),
        (&agent, Status::AgentBackgroundTaskStarted, false),
        (&agent, Status::Other("TASK_PLAN_STARTED".to_owned()), false),
        (&agent, Status::AgentBackgroundTaskFailed, true),
        // The agent's own failure is not yet the session's end.
        (&workflow, Status::SessionFailed, true),
    ] {
        let draft = match failure {
            true => Draft::failure(status.clone(), "AgentError", "no luck"),
            false => Draft::new(status.clone()),
        };
        journal.append(draft, None, DEADLINE).await.unwrap();
        assert_eq!(next_status(&mut lines), status.as_str());
    }
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    table.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_call_is_followed_to_the_agents_own_end() {
    let table = Table::open(None, 0).await.unwrap();
    let events = put_history(&table, "direct-call");
    let (exit, shown, _) = run(&table, &["events", id_of(&events).as_str(), "--follow"]).await;
    assert_eq!(exit, Some(0));
    assert!(shown.contains("\nThe session completed. "), "{shown}");
    table.close().await;
}

#[tokio::test]
async fn colours_are_for_terminals_and_never_with_no_color() {
    let table = Table::open(None, 0).await.unwrap();
    let id = id_of(&put_history(&table, "agent-failed"));
    for (no_color, coloured) in [("", true), ("1", false)] {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut command = session(&table, &["events", id.as_str()]);
        command.env("NO_COLOR", no_color).env("TERM", "xterm").stdout(terminal.slave);
        let shown = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            drop(command);
            let mut shown = Vec::new();
            // A terminal whose other side is closed ends in an error.
            let _ = std::fs::File::from(terminal.master).read_to_end(&mut shown);
            child.wait().unwrap();
            String::from_utf8(shown).unwrap()
        });
        let shown = shown.await.unwrap();
        assert!(shown.contains("SESSION_FAILED"), "{shown}");
        assert_eq!(shown.contains('\u{1b}'), coloured, "NO_COLOR={no_color:?}: {shown:?}");
    }
    table.close().await;
}

#[tokio::test]
async fn all_runs_are_shown_in_order_each_with_its_end() {
    let table = Table::open(None, 0).await.unwrap();
    let id = id_of(&put_history(&table, "two-runs"));
    let (exit, shown, _) = run(&table, &["events", id.as_str(), "--all"]).await;
    assert_eq!(exit, Some(0), "the newest run decides");
    let at = |words: &str| shown.find(words).unwrap_or_else(|| panic!("no {words:?}: {shown}"));
    let places = [
        "run 1: arn:", "SESSION_FAILED", "run 2: arn:", "The session failed",
        "The session completed",
    ];
    assert!(places.map(at).is_sorted(), "{shown}");
    assert_eq!(shown.matches("\nrun 2: arn:").count(), 2, "{shown}");
    assert!(shown.contains("This is run 1 of 2 runs") && shown.contains("the newest of 2 runs"));
    let (_, shown, _) = run(&table, &["events", id.as_str(), "--failed"]).await;
    assert!(shown.starts_with("\nThe session completed. "), "{shown:?}");
    table.close().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_ends_it_as_sigpipe_would() {
    let table = Table::open(None, 0).await.unwrap();
    let id = id_of(&put_history(&table, "completed"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = session(&table, &["events", id.as_str()]);
    command.stdout(writer).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(141), &b""[..]));
    table.close().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_exit_code_2_and_one_line_that_says_why() {
    let table = Table::open(None, 0).await.unwrap();
    let id = "a-session-that-nobody-has-started-0123";
    let arn = format!("--state-machine={STATE_MACHINE_ARN}");
    for (arguments, said) in [
        (&["events", id][..], "the journal has no event of session a-session"),
        (&["explain", id], "the journal has no event of session a-session"),
        (&["events", "too-short"], "33 to 100 characters"),
        (&["events", id, "--table", "no"], "3 to 255 of A-Z a-z 0-9"),
        (&["events", id, "--table", "another"], "table another does not exist"),
        (&["start", "hi"], "--state-machine"),
        (&["start", &arn, "hi", "--input", "{}"], "cannot be used with"),
        (&["start", &arn, "--input", "[1]"], "must be a JSON object"),
        (&["start", &arn, "--input", "{"], "--input is not JSON"),
        (&["start", &arn, "--input", r#"{"session_id": 7}"#], "expected a string"),
        (&["start", &arn, "--input", r#"{"session_id": "x"}"#], "33 to 100 characters"),
        (
            &[
                "start",
                &arn,
                "--id",
                id,
                "--input",
                r#"{"session_id": "another-session-0123456789-0123456789"}"#,
            ],
            "differ",
        ),
    ] {
        let (exit, stdout, stderr) = run(&table, arguments).await;
        assert_eq!((exit, &*stdout), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    for (variable, said) in [
        ("AWS_REGION", "no AWS region: set AWS_REGION"),
        ("JOURNAL_TABLE_NAME", "JOURNAL_TABLE_NAME is not set"),
        ("AWS_ACCESS_KEY_ID", "no valid AWS credentials to use table agent-journal"),
    ] {
        let mut command = session(&table, &["events", id]);
        command.env_remove(variable).env("AWS_EC2_METADATA_DISABLED", "true");
        let output = tokio::task::spawn_blocking(move || texts(&command.output().unwrap()));
        let (exit, _, stderr) = output.await.unwrap();
        assert_eq!(exit, Some(2), "{stderr}");
        assert!(stderr.contains(said), "{variable}: {stderr}");
    }
    table.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_runs_a_session_and_watch_shows_it_to_its_end() {
    let stack =
        Stack::start("sh -c 'read -r i; case $i in *wrong*) exit 3;; esac; echo \"$i\"'", 600)
            .await;
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let endpoint = format!("http://{}", step_functions.address);
    let session = async |arguments: &[&str]| {
        let mut command = session(&system.table, arguments);
        command.env("AWS_ENDPOINT_URL_SFN", &endpoint).env("STATE_MACHINE_ARN", STATE_MACHINE_ARN);
        tokio::task::spawn_blocking(move || texts(&command.output().unwrap())).await.unwrap()
    };
    let (exit, shown, _) = session(&["start", "--watch", "two", "words"]).await;
    assert_eq!(exit, Some(0), "{shown}");
    assert!(shown.contains(r#"Its result: {"prompt":"two words"}"#), "{shown}");
    let id = "session-of-ones-own-0123456789-0123456789";
    let (exit, shown, _) =
        session(&["start", "--watch", "--id", id, "--input", r#"{"n": 7}"#]).await;
    assert_eq!((exit, shown.lines().next()), (Some(0), Some(id)), "{shown}");
    // The same session again is another run, and that is the one that is watched.
    let (exit, shown, _) = session(&["start", "--watch", "--id", id, "wrong"]).await;
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("newest of 2 runs") && shown.contains("SESSION_FAILED"), "{shown}");
    let (exit, shown, stderr) = session(&["start"]).await;
    assert_eq!((exit, &*stderr), (Some(0), ""));
    let (exit, ..) = session(&["events", shown.trim(), "--follow"]).await;
    assert_eq!(exit, Some(0));
    // Watching ends with the execution, also when the journal that is read tells nothing.
    testing::create_table(&system.table.database, "another-table").unwrap();
    let (exit, shown, _) =
        session(&["start", "--watch", "--table", "another-table", "wrong"]).await;
    assert_eq!(exit, Some(1));
    assert!(shown.contains("The session has no end in the journal. "), "{shown}");
    assert!(shown.contains("The execution has ended (FAILED: AgentError: "), "{shown}");
    step_functions.stop().await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_nested_too_deep_for_this_machine_is_refused_with_the_limit() {
    let stack = Stack::start("cat", 600).await;
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let client = sfn(&step_functions);
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let start = |levels: usize| {
        let id = format!("session-{}", uuid::Uuid::new_v4());
        let input = format!(r#"{{"session_id":"{id}","a":{}}}"#, nested(levels - 1));
        let start = client.start_execution().state_machine_arn(STATE_MACHINE_ARN).input(input);
        async move { (id, start.send().await) }
    };
    let (id, started) = start(119).await;
    started.unwrap();
    let journal = open(system.table.client_config());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let result = loop {
        let events = journal.events(&id.parse().unwrap()).await.unwrap();
        if let Some(result) = events.into_iter().find_map(|event| event.result) {
            break result;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(result, format!(r#"{{"a":{}}}"#, nested(118)));
    for levels in [120, 1_000] {
        let error = start(levels).await.1.unwrap_err();
        assert!(format!("{error:?}").contains("nested 120 levels or more"), "{error:?}");
    }
    step_functions.stop().await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_started_once_and_answered_as_step_functions_does() {
    let stack = Stack::start("sh -c 'sleep 1; cat'", 600).await;
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let client = sfn(&step_functions);
    let start = |name: &str, input: &str| {
        client.start_execution().state_machine_arn(STATE_MACHINE_ARN).name(name).input(input).send()
    };
    let name = uuid::Uuid::new_v4().to_string();
    let first = start(&name, "{}").await.unwrap();
    assert_eq!(start(&name, "{}").await.unwrap(), first, "the same request is answered the same");
    let exists = |error: StartExecutionError| error.is_execution_already_exists();
    assert!(exists(start(&name, "[]").await.unwrap_err().into_service_error()));
    let execution = loop {
        let describe = client.describe_execution().execution_arn(&first.execution_arn);
        let execution = describe.send().await.unwrap();
        if execution.status != ExecutionStatus::Running {
            break execution;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (execution.status, execution.output.as_deref()),
        (ExecutionStatus::Succeeded, Some("{}"))
    );
    assert!(execution.stop_date > Some(execution.start_date));
    assert!(exists(start(&name, "{}").await.unwrap_err().into_service_error()));
    assert!(start("a name", "{}").await.unwrap_err().into_service_error().is_invalid_name());
    assert!(
        start("name", "{").await.unwrap_err().into_service_error().is_invalid_execution_input()
    );
    let elsewhere = client.start_execution().state_machine_arn("arn:aws:states:x:y:stateMachine:z");
    assert!(
        elsewhere.send().await.unwrap_err().into_service_error().is_state_machine_does_not_exist()
    );
    let unknown = client.describe_execution().execution_arn("arn:of:nothing").send().await;
    assert!(unknown.unwrap_err().into_service_error().is_execution_does_not_exist());
    let other = client.list_state_machines().send().await.unwrap_err();
    assert!(format!("{other:?}").contains("on this machine, only StartExecution"), "{other:?}");
    step_functions.stop().await;
    system.stop().await;
}
