//! The binary as a process: environment, commands, signals.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command};
use std::time::{Duration, Instant};

use agent_runtime::SESSION_HEADER;
use journal::SessionId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::container::{Container, PROGRAM};
use support::{eventually, open_table, session_id};
use testing::{CREDENTIAL, REGION, TABLE_NAME, Table};

/// Whether a process runs: a dead one that nobody has waited for counts as gone.
fn runs(id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", id.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

async fn gone(id: &str) {
    eventually("the process to be gone", async || (!runs(id)).then_some(())).await;
}

async fn result_of(command: &str, input: &Value) -> Value {
    let event = Container::start(command).await.run(input).await;
    let result = event.result.unwrap_or_else(|| unreachable!("{:?}", event.error_message));
    serde_json::from_str(&result).unwrap()
}

async fn error_of(command: &str) -> (String, String) {
    let event = Container::start(command).await.run(&json!({})).await;
    assert_eq!(event.status.as_str(), "AGENT_BACKGROUND_TASK_FAILED");
    (event.error_type.unwrap(), event.error_message.unwrap())
}

#[test]
fn a_wrong_environment_is_one_clear_line_and_exit_code_2() {
    let good = [("JOURNAL_TABLE_NAME", "events"), ("AGENT_COMMAND", "cat"), ("PORT", "0")];
    for (name, value, said) in [
        ("JOURNAL_TABLE_NAME", "", "JOURNAL_TABLE_NAME is not set"),
        ("JOURNAL_TABLE_NAME", "no spaces", "3 to 255"),
        ("AGENT_COMMAND", "", "AGENT_COMMAND is not set"),
        ("AGENT_COMMAND", "sh -c 'open", "matching quotes"),
        ("AGENT_COMMAND", "cat | tr a b", "sh -c 'first | second'"),
        ("AGENT_COMMAND", "cd /app && python3 agent.py", "sh -c 'first | second'"),
        ("AGENT_SERVER_COMMAND", "uvicorn app:app", "exactly one of AGENT_COMMAND"),
        ("AGENT_URL", "http://127.0.0.1:9000/invocations", "exactly one of AGENT_COMMAND"),
        ("AGENT_ENVIRONMENT", "SESSION_ID=mine", "what the runtime sets itself"),
        ("JOURNAL_ENDPOINT_URL", "127.0.0.1:8000", "http:// or https://"),
        ("PORT", "eighty", "0 to 65535"),
        ("PORT", "65536", "0 to 65535"),
        ("HOST", "localhost", "IP address"),
        // As conda sets it.
        ("HOST", "x86_64-conda-linux-gnu", "set HOST=0.0.0.0 in the image"),
        ("MAX_BODY_BYTES", "0", "number of bytes"),
        ("JOURNAL_RETENTION_DAYS", "soon", "1 to 36500"),
    ] {
        let mut command = Command::new(PROGRAM);
        let output = command.env_clear().envs(good).env(name, value).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(name) && stderr.contains(said), "{stderr}");
    }
}

#[test]
fn the_url_of_a_server_is_a_whole_one_without_tls() {
    for url in ["https://127.0.0.1/invocations", "127.0.0.1:9000", "/invocations", "no url"] {
        let mut command = Command::new(PROGRAM);
        let environment = [("JOURNAL_TABLE_NAME", "events"), ("PORT", "0"), ("AGENT_URL", url)];
        let output = command.env_clear().envs(environment).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{url}: {stderr}");
        assert!(stderr.contains("http://127.0.0.1:9000/invocations, without TLS"), "{stderr}");
    }
}

#[tokio::test]
async fn what_looks_like_a_shells_word_may_be_an_argument() {
    let input = json!({"a": "b|c"});
    assert_eq!(result_of("tr '|' '+'", &input).await, json!({"a": "b+c"}));
    assert_eq!(result_of("sh -c 'cat | tr b x && true'", &input).await, json!({"a": "x|c"}));
}

#[tokio::test]
async fn a_result_on_file_descriptor_3_is_the_result_and_stdout_is_log() {
    let command = r#"sh -c 'echo "Tool #1: search"; echo "result 1" >&3; printf "The answer."; echo "result {\"n\": 1.50}" >&3; echo "{\"no\": 1}"'"#;
    let container = Container::start(command).await;
    let end = container.run(&json!({})).await;
    assert_eq!(end.result.as_deref(), Some(r#"{"n": 1.50}"#), "the second one");
    let log = container.program.log();
    assert!(log.contains(r#""message":"Tool #1: search""#), "{log}");
    assert!(!log.contains("printed more than its JSON"), "{log}");
}

#[tokio::test]
async fn a_result_that_is_not_json_fails_the_task_with_the_position() {
    let (error_type, message) = error_of("sh -c 'echo result {n: 1} >&3; echo 7'").await;
    assert_eq!(error_type, "AgentError");
    assert_eq!(
        message,
        "the result on file descriptor 3 is not JSON: key must be a string at line 1 column 2: {n: 1}"
    );
    // A failure of the command itself comes first.
    let (_, message) = error_of("sh -c 'echo result x >&3; echo no luck >&2; exit 1'").await;
    assert_eq!(message, "no luck (exit status: 1)");
}

#[tokio::test]
async fn a_large_result_says_how_large_it_was() {
    for (megabytes, command) in [(0.3, 300_000), (3.0, 3_000_000)].map(|(megabytes, size)| {
        let python = format!("import os; b = b'result [' + b'1,' * {size} + b'1]\\n'\nwhile b: b = b[os.write(3, b):]");
        (megabytes, format!("python3 -c \"{python}\""))
    }) {
        let end = Container::start(&command).await.run(&json!({})).await;
        let size = (megabytes * 2_000_000.0) as u64 + 3;
        assert_eq!((end.result_truncated, end.result_bytes), (true, Some(size)), "{end:?}");
        let head = end.result.unwrap();
        assert_eq!(head.len(), journal::text::MAX_RESULT_BYTES);
        assert!(head.starts_with("[1,1,"), "as the agent wrote it");
    }
}

#[tokio::test]
async fn a_text_that_ends_in_json_is_a_text_and_the_log_names_the_cure_once() {
    let command =
        r#"sh -c 'printf "Let me count.\n"; printf "I [counted]."; echo "{\"words\": 3}"'"#;
    let container = Container::start(command).await;
    let end = container.run(&json!({})).await;
    assert_eq!(end.result.as_deref(), Some(r#""Let me count.\nI [counted].{\"words\": 3}""#));
    let hint = "give the result with agent_journal.result";
    // Nothing waits for the log.
    let said = async || Some(container.program.log()).filter(|log| log.contains(hint));
    let log = eventually("the hint", said).await;
    assert_eq!(log.matches(hint).count(), 1, "{log}");
}

#[tokio::test]
async fn the_log_of_a_task_is_bounded_and_says_what_it_leaves_out() {
    let lines = "sh -c 'yes a line of the log | head -n 100000 >&2; echo the last >&2; exit 1'";
    let container = Container::start(lines).await;
    let end = container.run(&json!({})).await;
    assert!(end.error_message.unwrap().starts_with("the last (exit status: 1)\n"));
    let log = eventually("the count", async || {
        Some(container.program.log()).filter(|log| log.contains("\"left_out\":90001"))
    })
    .await;
    assert_eq!(log.matches("\"a line of the log\"").count(), 10_000);
    assert_eq!(log.matches("the agent logs too much").count(), 2, "the first of them and the sum");
    // Without a line break.
    let container = Container::start("sh -c 'head -c 300000000 /dev/zero | tr \\\\0 x >&2'").await;
    assert_eq!(container.run(&json!({})).await.result.as_deref(), Some("\"\""));
    let (log, peak) = (container.program.log().len(), container.peak_memory());
    println!("300 MB on stderr: peak memory {peak} kB, {log} bytes of log");
    assert!(log < 11_000_000 && peak < 60_000, "{log} bytes of log, {peak} kB");
}

#[tokio::test]
async fn stdout_is_quoted_where_stderr_is_silent() {
    let expected = ("AgentError".to_owned(), "no luck (exit status: 3)\nreading".to_owned());
    assert_eq!(error_of("sh -c 'echo reading; echo no luck; exit 3'").await, expected);
}

#[tokio::test]
async fn a_journal_of_its_own_leaves_the_agent_its_aws_settings() {
    let table = Table::open(None, 0).await.unwrap();
    let endpoint = table.endpoint();
    let environment = [
        ("JOURNAL_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "the user's"),
        ("AWS_PROFILE", "hers"),
        ("AWS_REGION", "eu-north-1"),
    ];
    let shown =
        r#"sh -c 'cat >/dev/null; env | grep -E "^AWS_|^JOURNAL_E" | grep -v CA_BUNDLE | sort'"#;
    let mut container = Container::start_with(shown, &environment).await;
    container.table = table;
    let end = container.run(&json!({})).await;
    let shown: String = serde_json::from_str(end.result.as_deref().unwrap()).unwrap();
    assert_eq!(
        Vec::from_iter(shown.lines()),
        [
            "AWS_ACCESS_KEY_ID=the user's",
            "AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:1",
            "AWS_PROFILE=hers",
            "AWS_REGION=eu-north-1",
            &format!("AWS_SECRET_ACCESS_KEY={CREDENTIAL}"),
        ]
    );
}

#[tokio::test]
async fn a_command_gets_the_input_and_the_environment_and_gives_its_output() {
    let input = json!({"prompt": "hällo"});
    assert_eq!(result_of("cat", &input).await, input);
    assert_eq!(result_of("printf 'two words\\n'", &input).await, "two words");
    assert_eq!(result_of(r"printf '\377'", &input).await, "\u{fffd}");
    let id = result_of("sh -c 'echo $SESSION_ID'", &input).await;
    assert!(id.as_str().unwrap().starts_with("session-"));
    let run = result_of("sh -c 'echo $INVOCATION_ID'", &input).await;
    assert_eq!(run.as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn the_deployment_gives_variables_to_the_agent_and_not_to_the_runtime() {
    let given = [("AGENT_ENVIRONMENT", "PORT=1 GREETING='hello you'"), ("GREETING", "the image's")];
    let shown = "sh -c 'cat >/dev/null; echo $PORT $GREETING$AGENT_ENVIRONMENT'";
    let container = Container::start_with(shown, &given).await;
    let end = container.run(&json!({})).await;
    assert_eq!(end.result.as_deref(), Some("\"1 hello you\""));
}

#[tokio::test]
async fn numbers_repeated_keys_and_their_order_arrive_as_the_caller_wrote_them() {
    let input = r#"[10928588.983213553, 123456789012345678901234567890,  {"b":1E+2,"a":2,"b":3}]"#;
    let (container, id) = (Container::start("cat").await, session_id());
    assert_eq!(container.post_bytes(&id, input.into()).await.0, 200);
    assert_eq!(container.end(&id).await.result.as_deref(), Some(input));
    // JSON that not every parser takes becomes a text, so that no workflow fails of it.
    for odd in ["1e999", r#""\ud800""#, &("[".repeat(500) + &"]".repeat(500))] {
        let command = format!("printf %s {}", shell_words::quote(odd));
        let result = result_of(&command, &json!({})).await;
        assert_eq!(result, odd);
    }
    // As a member of an envelope, and beside a session id.
    let (id, other) = (session_id(), session_id());
    let envelope = format!(r#"{{"input":{input},"invocation_id":"run-1"}}"#);
    assert_eq!(container.post_bytes(&id, envelope).await.0, 200);
    assert_eq!(container.end(&id).await.result.as_deref(), Some(input));
    let body = format!(r#"{{"session_id":"{other}", "z":1.50,"a":{input}}}"#);
    assert_eq!(container.post_bytes(&other, body).await.0, 200);
    let rest = format!(r#"{{"z":1.50,"a":{input}}}"#);
    assert_eq!(container.end(&other).await.result, Some(rest));
}

#[tokio::test]
async fn a_body_of_ten_megabytes_of_small_values_takes_little_more_than_its_size() {
    let (container, id) = (Container::start("sh -c 'cat >/dev/null; echo 7'").await, session_id());
    let body = format!("[{}0]", r#"{"":0},"#.repeat(1_428_000));
    assert!((9_990_000..10_000_000).contains(&body.len()));
    let before = container.peak_memory();
    assert_eq!(container.post_bytes(&id, body).await.0, 200);
    assert_eq!(container.end(&id).await.result.as_deref(), Some("7"));
    let after = container.peak_memory();
    println!("peak memory before the body: {before} kB, after it: {after} kB");
    assert!(after - before < 40_000, "{before} kB, {after} kB");
}

#[tokio::test]
async fn a_name_that_is_almost_right_is_refused_or_noted_with_a_hint() {
    let (container, id) = (Container::start("cat").await, session_id());
    let url = format!("{}/invocations", container.program.url);
    let post = |body: Value| container.client.post(&url).body(body.to_string()).send();
    let answer = post(json!({"sessionId": id, "prompt": "hi"})).await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer = answer.json::<Value>().await.unwrap();
    assert_eq!(
        answer["error"],
        "the body has \"sessionId\" and no session id: its name is \"session_id\""
    );
    // Half an envelope is an input like any other.
    let answer = post(json!({"session_id": id, "input": {"prompt": "hi"}})).await.unwrap();
    assert_eq!(answer.status(), 200);
    let result = container.end(&id).await.result;
    assert_eq!(result.as_deref(), Some(r#"{"input":{"prompt":"hi"}}"#));
    assert!(container.program.log().contains("the agent gets the whole body"));
    // With the header it is an input too, whatever its members are called.
    let other = session_id();
    assert_eq!(container.post(&other, &json!({"sessionId": "mine"})).await.0, 200);
}

#[tokio::test]
async fn a_command_that_fails_says_why_in_its_own_words() {
    for (command, error_type, message) in [
        ("sh -c 'echo a >&2; echo b >&2; exit 7'", "AgentError", "b (exit status: 7)\na"),
        ("false", "AgentError", "the agent failed without a word (exit status: 1)"),
        (
            "sh -c 'echo bye >&2; kill -9 $$'",
            "AgentError",
            "the agent was killed: signal: 9 (SIGKILL); the memory may have run out\nbye",
        ),
        (
            "/does/not/exist",
            "AgentError",
            "cannot start \"/does/not/exist\": No such file or directory (os error 2)\nIs the program in the image and in PATH? If it is a script, does the image have the interpreter that its first line names?",
        ),
        (
            "sh -c 'echo no luck >&2; echo botocore.exceptions.NoCredentialsError: Unable to locate credentials >&2; exit 1'",
            "CredentialsError",
            "botocore.exceptions.NoCredentialsError: Unable to locate credentials (exit status: 1)\nno luck",
        ),
        (
            "sh -c 'echo \"botocore.exceptions.ClientError: An error occurred (Throttling)\" >&2; exit 1'",
            "ClientError",
            "botocore.exceptions.ClientError: An error occurred (Throttling) (exit status: 1)",
        ),
    ] {
        assert_eq!(
            error_of(command).await,
            (error_type.to_owned(), message.to_owned()),
            "{command}"
        );
    }
}

#[tokio::test]
async fn a_command_may_name_the_type_of_its_failure() {
    let command = "sh -c 'echo error QuotaExceeded >&3; echo no tokens left >&2; exit 1'";
    let expected = ("QuotaExceeded".to_owned(), "no tokens left (exit status: 1)".to_owned());
    assert_eq!(error_of(command).await, expected);
    // Without a failure there is none.
    assert_eq!(result_of("sh -c 'echo error QuotaExceeded >&3; echo 7'", &json!({})).await, 7);
}

#[tokio::test]
async fn a_trace_context_reaches_the_command_whole_and_that_of_the_container_does_not() {
    let command = "sh -c 'cat >/dev/null; echo $TRACEPARENT,$TRACESTATE,$BAGGAGE'";
    let own = [
        ("TRACEPARENT", "00-11111111111111111111111111111111-2222222222222222-01"),
        ("TRACESTATE", "own=1"),
        ("BAGGAGE", "own=1"),
    ];
    let container = Container::start_with(command, &own).await;
    let result = container.run(&json!({})).await.result;
    assert_eq!(result.as_deref(), Some("\",,\""));
    let (id, parent) = (session_id(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let request = container.client.post(format!("{}/invocations", container.program.url));
    let request = request.header(SESSION_HEADER, id.as_str()).body("{}");
    let request = request.header("traceparent", parent).header("tracestate", "v=1");
    let answer = request.header("baggage", "user=7").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let result = eventually("the result", async || {
        container.events(&id).await.into_iter().find_map(|event| event.result)
    });
    assert_eq!(result.await, format!("\"{parent},v=1,user=7\""));
}

#[tokio::test]
async fn each_line_of_stderr_is_a_log_line_with_the_session_id() {
    // The ids are there whatever else is logged.
    let level = [("RUST_LOG", "agent=info,agent_runtime=info")];
    let command = "sh -c 'echo thinking hard >&2'";
    let container = Container::start_with(command, &level).await;
    let id = container.run(&json!({})).await.session_id().unwrap();
    let line = eventually("the log line", async || {
        container
            .program
            .log()
            .lines()
            .find(|line| line.contains("thinking hard"))
            .map(str::to_owned)
    })
    .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["fields"]["message"], "thinking hard");
    assert_eq!(line["spans"][0]["session_id"], id.as_str());
}

#[tokio::test]
async fn a_command_says_how_far_it_is_on_file_descriptor_3() {
    let python = "python3 -c 'import os; os.write(3, b\"started plan two files\\n\")'";
    let shell = "sh -c 'echo started plan two files >&3'";
    let named = "sh -c 'echo started plan two files >/dev/fd/$PROGRESS_FD'";
    for command in [python, shell, named] {
        let container = Container::start(command).await;
        let id = container.run(&json!({})).await.session_id().unwrap();
        let events = container.events(&id).await;
        let phase = &events[2];
        let said = (phase.status.as_str(), phase.message.as_deref());
        assert_eq!(said, ("TASK_PLAN_STARTED", Some("two files")), "{command}: {events:?}");
        assert_eq!(phase.source, "agent");
        assert_eq!(events[3].status.as_str(), "AGENT_BACKGROUND_TASK_COMPLETED");
    }
}

#[tokio::test]
async fn a_flood_of_progress_is_cut_and_what_is_no_progress_is_logged_once() {
    let flood =
        "sh -c 'echo hello >&3; echo started >&3; yes started flood | head -5000 >&3; echo 7'";
    let container = Container::start(flood).await;
    let end = container.run(&json!({})).await;
    assert_eq!(end.result.as_deref(), Some("7"), "{end:?}");
    let events = container.events(&end.session_id().unwrap()).await;
    let flooded = events.iter().filter(|event| event.status.as_str() == "TASK_FLOOD_STARTED");
    let flooded = flooded.count();
    assert!((1..=1_000).contains(&flooded), "{flooded}");
    assert_eq!(events.last(), Some(&end), "the end sorts behind the flood");
    let log = eventually("the count of what was dropped", async || {
        Some(container.program.log()).filter(|log| log.contains("dropped"))
    })
    .await;
    let line = log.lines().find(|line| line.contains("a task may write 1000 events")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["fields"]["dropped"], 4_000);
    assert_eq!(log.matches("invalid line of progress").count(), 1, "{log}");
    assert_eq!(log.matches("2 invalid lines of progress").count(), 1, "{log}");
}

#[tokio::test]
async fn a_process_that_stays_with_the_descriptor_does_not_hold_the_end_up() {
    // It leaves the group, so nothing kills it, and has closed all but the progress; then all but stderr.
    let stays = "sh -c 'setsid sleep 5 </dev/null >/dev/null 2>&1 & echo result 7 >&3; echo log'";
    let noisy = "sh -c 'setsid sleep 5 </dev/null >/dev/null 3>&- & echo result 7 >&3; echo log'";
    for command in [stays, noisy] {
        let began = Instant::now();
        assert_eq!(result_of(command, &json!({})).await, 7);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
    // Nor does it hide why the command failed.
    let fails = "sh -c 'setsid sleep 5 </dev/null & echo error Sad >&3; echo no luck >&2; exit 1'";
    assert_eq!(error_of(fails).await, ("Sad".to_owned(), "no luck (exit status: 1)".to_owned()));
}

#[tokio::test]
async fn a_command_that_closes_stdin_at_once_is_not_disturbed() {
    let input = json!({"pad": "x".repeat(5_000_000)});
    assert_eq!(result_of("sh -c 'exec <&-; sleep 0.2; echo 7'", &input).await, 7);
}

#[tokio::test]
async fn a_command_that_writes_without_end_takes_bounded_memory() {
    let write = "head -c 100000000 /dev/zero | tr '\\\\0' x";
    let container = Container::start(&format!("sh -c \"{write}; {write} >&2\"")).await;
    let event = container.run(&json!({})).await;
    assert_eq!(event.status.as_str(), "AGENT_BACKGROUND_TASK_COMPLETED");
    assert!(event.result_truncated);
    assert_eq!(event.result.unwrap().len(), journal::text::MAX_RESULT_BYTES);
    let peak = container.peak_memory();
    println!("peak memory after 100 MB to stdout and 100 MB to stderr: {peak} kB");
    assert!(peak < 100_000, "{peak} kB");
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed() {
    // The background process holds stdout open, so it has to go before the result is whole.
    let container = Container::start("sh -c 'sleep 300 & echo $!'").await;
    let event = container.run(&json!({})).await;
    assert_eq!(event.status.as_str(), "AGENT_BACKGROUND_TASK_COMPLETED");
    gone(&event.result.unwrap()).await;
    // One that has left the process group cannot be killed with it; the task says so and ends.
    let (error_type, message) = error_of("sh -c 'setsid sleep 4 & echo started'").await;
    assert_eq!(error_type, "AgentError");
    assert!(message.contains("outside the command's process group"), "{message}");
}

#[tokio::test]
async fn sigterm_ends_every_task_and_the_process_in_time() {
    // It forks, and ignores every polite request.
    let container = Container::start(
        r#"sh -c 'trap "" TERM INT; sleep 300 & echo $$ $! > $FOLDER/file; wait'"#,
    )
    .await;
    let ids = [session_id(), session_id(), session_id()];
    for id in &ids {
        assert_eq!(container.post(id, &json!({})).await.0, 200);
    }
    let processes = container.file().await;
    container.program.signal(Signal::SIGTERM);
    let start = Instant::now();
    let how = container.program.ended().await;
    println!("ended in {:?}; the rule is 2 s", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(how, "exit status: 0");
    for id in &ids {
        let events = container.events(id).await;
        assert_eq!(events.len(), 3);
        assert_eq!(events[2].status.as_str(), "AGENT_BACKGROUND_TASK_FAILED");
        assert_eq!(events[2].error_type.as_deref(), Some("Terminated"));
    }
    for process in processes.split_whitespace() {
        gone(process).await;
    }
}

#[tokio::test]
async fn sighup_and_sigquit_end_the_process_as_sigterm_does() {
    for signal in [Signal::SIGHUP, Signal::SIGQUIT] {
        let (container, id) = (Container::start("sleep 300").await, session_id());
        assert_eq!(container.post(&id, &json!({})).await.0, 200);
        container.program.signal(signal);
        assert_eq!(container.program.ended().await, "exit status: 0", "{signal}");
        assert_eq!(container.end(&id).await.error_type.as_deref(), Some("Terminated"), "{signal}");
    }
}

#[tokio::test]
async fn sigterm_while_the_journal_is_down_ends_within_ten_seconds_and_logs_the_event_whole() {
    let mut container = Container::start("sh -c 'echo run > $FOLDER/file; sleep 300'").await;
    let id = session_id();
    assert_eq!(container.post(&id, &json!({})).await.0, 200);
    container.file().await;
    let next = Table::open(None, 0).await.unwrap();
    std::mem::replace(&mut container.table, next).close().await;
    container.program.signal(Signal::SIGTERM);
    let start = Instant::now();
    let refused = eventually("the refusal", async || {
        // One that comes before the signal is seen waits for the journal, which is down.
        let (id, body) = (session_id(), json!({}));
        let post = tokio::time::timeout(Duration::from_secs(1), container.post(&id, &body));
        let (status, answer) = post.await.ok()?;
        (status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused["error"], "the container is shutting down");
    let ping: Value = container
        .client
        .get(format!("{}/ping", container.program.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(ping["status"], "HealthyBusy");
    container.program.ended().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let log = container.program.log();
    let line =
        log.lines().find(|line| line.contains("terminal event is not in the journal")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "ERROR");
    let event: Value = serde_json::from_str(line["fields"]["event"].as_str().unwrap()).unwrap();
    assert_eq!(event["PK"], format!("SESSION#{id}"));
    assert_eq!(event["Status"], "AGENT_BACKGROUND_TASK_FAILED");
    assert_eq!(event["ErrorType"], "Terminated");
}

/// Starts the binary with its log in a pipe, and reads the first line, which says where it serves.
fn start_piped(table: &Table, command: &str) -> (Child, BufReader<ChildStderr>, String) {
    let mut child = Command::new(PROGRAM)
        .envs([("JOURNAL_TABLE_NAME", TABLE_NAME), ("HOST", "127.0.0.1"), ("PORT", "0")])
        .envs([("AWS_ACCESS_KEY_ID", CREDENTIAL), ("AWS_SECRET_ACCESS_KEY", CREDENTIAL)])
        .envs([("AWS_REGION", REGION), ("AGENT_COMMAND", command)])
        .env("AWS_ENDPOINT_URL_DYNAMODB", table.endpoint())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let url = format!("http://{}/invocations", listening["fields"]["address"].as_str().unwrap());
    (child, stderr, url)
}

#[tokio::test]
async fn a_log_that_is_open_and_not_read_stops_nothing() {
    let table = Table::open(None, 0).await.unwrap();
    let (client, journal) = (reqwest::Client::new(), open_table(&table));
    // The agent fills the pipe, whoever reads, and works on.
    let fills = "sh -c 'yes a line of the log | head -n 200000 >&2; echo done >&3; sleep 300'";
    let (mut child, mut stderr, url) = start_piped(&table, fills);
    let (id, refused) = (session_id(), session_id());
    let post = async |id: &SessionId, body: &'static str| {
        let post = client.post(&url).header(SESSION_HEADER, id.as_str()).body(body);
        post.timeout(Duration::from_secs(10)).send().await.unwrap().status().as_u16()
    };
    assert_eq!(post(&id, "{}").await, 200);
    for _ in 0..10 {
        assert_eq!(post(&refused, "no JSON").await, 400);
    }
    let other = session_id();
    assert_eq!(post(&other, "{}").await, 200);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let start = Instant::now();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert_eq!(ended.await.unwrap().code(), Some(0));
    println!("ended {:?} after SIGTERM; the rule is 10 s", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for id in [&id, &other] {
        let events = journal.events(id).await.unwrap();
        assert_eq!(events.last().unwrap().error_type.as_deref(), Some("Terminated"));
    }
    // What was in the pipe is whole.
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert!(log.lines().count() > 100);
}

#[tokio::test]
async fn log_lines_that_nobody_read_are_dropped_and_counted() {
    let table = Table::open(None, 0).await.unwrap();
    // Some 10 MB of log.
    let fills = "sh -c 'yes $(printf \"a line of the log%0780d\" 7) | head -n 10000 >&2'";
    let (mut child, stderr, url) = start_piped(&table, fills);
    let (id, client) = (session_id(), reqwest::Client::new());
    let post = client.post(&url).header(SESSION_HEADER, id.as_str()).body("{}");
    assert_eq!(post.send().await.unwrap().status(), 200);
    let journal = open_table(&table);
    eventually("the task's end", async || journal.events(&id).await.unwrap().into_iter().nth(2))
        .await;
    // Now somebody reads.
    let read = tokio::task::spawn_blocking(move || {
        let mut lines = 0_u64;
        for line in stderr.lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("\"message\":\"")
                && let Some(dropped) =
                    rest.strip_suffix(" log lines were dropped, because nobody read the log\"}}")
            {
                return (lines, dropped.parse::<u64>().unwrap());
            }
            lines += u64::from(line.contains("a line of the log"));
        }
        (lines, 0)
    });
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    let (lines, dropped) = read.unwrap().unwrap();
    assert!(dropped > 0 && lines + dropped <= 10_010, "{lines} read, {dropped} dropped");
    assert!(lines < 5_000, "{lines} lines of some 1,000 bytes waited: the log takes 4 MB");
}

#[tokio::test]
async fn an_environment_in_which_nothing_can_be_sent_is_named_at_once() {
    for (name, value, said) in [
        ("AWS_REGION", "", "set AWS_REGION"),
        ("AWS_REGION", "no region", "set AWS_REGION"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "no-url", "see AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://", "see AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "ftp://127.0.0.1", "see AWS_ENDPOINT_URL"),
    ] {
        let alone = [("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_CONFIG_FILE", "/dev/null")];
        let environment = [&alone[..], &[(name, value)]].concat();
        let container = Container::start_with("cat", &environment).await;
        let start = Instant::now();
        let (status, answer) = container.post(&session_id(), &json!({"secret": 7})).await;
        let error = answer["error"].as_str().unwrap();
        assert_eq!(status, 500);
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("EventId") && !error.contains("secret"), "{error}");
        // One attempt of each of two events.
        assert!(start.elapsed() < Duration::from_secs(3), "{name}={value}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_changes_nothing_in_the_journal() {
    let table = Table::open(None, 0).await.unwrap();
    let (mut child, stderr, url) = start_piped(&table, "sh -c 'echo word >&2; echo 7'");
    drop(stderr);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (id, refused) = (session_id(), session_id());
    for (id, body, status) in [(&id, "{}", 200), (&refused, "no JSON", 400)] {
        let answer = client.post(&url).header(SESSION_HEADER, id.as_str()).body(body).send().await;
        assert_eq!(answer.unwrap().status(), status);
    }
    let journal = open_table(&table);
    let last = eventually("a terminal event", async || {
        journal.events(&id).await.unwrap().into_iter().nth(2)
    })
    .await;
    assert_eq!(last.status.as_str(), "AGENT_BACKGROUND_TASK_COMPLETED", "{last:?}");
    assert_eq!(
        journal.events(&refused).await.unwrap()[1].status.as_str(),
        "AGENT_ENTRYPOINT_FAILED"
    );
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn without_credentials_an_invocation_fails_fast_and_says_so() {
    let none = [
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    let container = Container::start_with("cat", &none).await;
    let start = Instant::now();
    let (status, answer) = container.post(&session_id(), &json!({})).await;
    assert_eq!(status, 500);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("no valid AWS credentials to use table agent-journal"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let output = Command::new(PROGRAM)
        .envs([
            ("JOURNAL_TABLE_NAME", "events"),
            ("AGENT_COMMAND", "cat"),
            ("HOST", "127.0.0.1"),
            ("PORT", &*port),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains(&format!("cannot listen on 127.0.0.1:{port}: Address already in use")),
        "{stderr}"
    );
}
