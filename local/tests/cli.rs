//! What `cargo run` shows, and what is left when it ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{LOCAL, sibling};

fn local(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(LOCAL).args(arguments).current_dir(folder).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn one_session_completes_and_shows_its_six_events_and_its_result() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(".git")).unwrap();
    for (file, text) in [
        ("a.rs", "1\n2\n"),
        ("b.rs", "1\n"),
        ("read me.md", "1\n"),
        (".git/x", "1\n"),
        ("LICENSE", ""),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let output = local(folder.path(), &[]);
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let statuses = journal::Status::ALL.iter().filter(|status| shown.contains(status.as_str()));
    assert_eq!(statuses.count(), 6, "{shown}");
    let (_, result) = shown.split_once("Result:\n").unwrap();
    let (result, trace) = result.split_once("\n\nTrace ").unwrap();
    for (process, span) in [("invoker", "invoker"), ("agent-runtime", "invoke_agent")] {
        let shown = |line: &str| line.contains(process) && line.ends_with(span);
        assert!(trace.lines().any(shown), "{span}: {trace}");
    }
    let result: Value = serde_json::from_str(result).unwrap();
    assert_eq!(
        result,
        json!({"files": 4, "lines": 4, "extensions": {
            "rs": {"files": 2, "lines": 3},
            "md": {"files": 1, "lines": 1},
            "(none)": {"files": 1, "lines": 0},
        }})
    );
    assert!(folder.path().join(".local/journal.db").exists());
}

#[test]
fn a_failed_session_shows_the_agents_own_words_and_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = "/does/not/exist \"quoted\" \\ ";
    let output = local(folder.path(), &[path]);
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    let words =
        format!("The session failed. AgentError: cannot read {path}: no such file or directory");
    assert!(shown.contains(&words), "{shown}");
    assert!(shown.contains("SESSION_FAILED"));
}

#[test]
fn an_agent_of_ones_own_runs() {
    let folder = tempfile::tempdir().unwrap();
    let output = local(folder.path(), &["--agent-command", "tr a-z A-Z", "hello"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("\"PROMPT\": \"HELLO\""), "{}", stdout(&output));
}

#[test]
fn a_result_that_was_cut_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let agent = "sh -c 'head -c 70000 /dev/zero | tr \\\\0 x'";
    let output = local(folder.path(), &["--agent-command", agent]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("(cut: the journal keeps the first 64 KB)"));
}

#[test]
fn a_retention_is_on_every_event_of_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(LOCAL);
    command.current_dir(folder.path()).env("JOURNAL_RETENTION_DAYS", "30");
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    let database = folder.path().join(".local/journal.db");
    let database = dynoxide::Database::new(database.to_str().unwrap()).unwrap();
    let scan = json!({"TableName": testing::TABLE_NAME});
    let found = database.scan(serde_json::from_value(scan).unwrap()).unwrap();
    let found = serde_json::to_value(found).unwrap();
    let items = found["Items"].as_array().unwrap();
    assert_eq!(items.len(), 6);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for item in items {
        let expires: u64 = item["ExpiresAt"]["N"].as_str().unwrap().parse().unwrap();
        assert!((29 * 86_400..=30 * 86_400).contains(&(expires - now)), "{item}");
    }
    let output = command.env("JOURNAL_RETENTION_DAYS", "soon").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("JOURNAL_RETENTION_DAYS") && stderr.contains("1 to 36500"), "{stderr}");
}

#[test]
fn a_log_level_of_the_users_does_not_hide_where_the_agent_listens() {
    let folder = tempfile::tempdir().unwrap();
    for level in ["off", "not a level=="] {
        let mut command = Command::new(LOCAL);
        let output = command.current_dir(folder.path()).env("RUST_LOG", level).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{level}: {output:?}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(LOCAL);
    command.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap()),
        (Some(1), String::new())
    );
}

/// `local up` on free ports.
struct Up {
    child: Child,
    agent: String,
    traces: String,
    folder: tempfile::TempDir,
}

impl Up {
    fn start() -> Self {
        Self::of(&["--agent-command", "sh -c 'cat; sleep 300'"])
    }

    fn of(agent: &[&str]) -> Self {
        Self::showing(agent, Stdio::null())
    }

    fn showing(agent: &[&str], stderr: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(LOCAL)
            .args([
                "up", "--port", "0", "--dynamodb-port", "0", "--step-functions-port", "0",
                "--otlp-port", "0", "--agentcore-port", "0", "--ui-port", "0",
            ])
            .args(agent)
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || lines.next().unwrap().unwrap();
        let (first, second) = (next(), next());
        let (_, rest) = first.split_once("http://").unwrap();
        let agent = rest.split(',').next().unwrap().to_owned();
        let (_, rest) = second.split_once("Traces are listed at ").unwrap();
        let traces = format!("{}traces/", rest.strip_suffix('.').unwrap());
        std::thread::spawn(move || lines.count());
        Self { child, agent, traces, folder }
    }

    /// The processes that it started, and theirs.
    fn tree(&self) -> Vec<u32> {
        let mut found = vec![self.child.id()];
        let mut at = 0;
        while at < found.len() {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", found[at])).unwrap();
            for task in tasks {
                let children = std::fs::read_to_string(task.unwrap().path().join("children"));
                found.extend(
                    children.unwrap().split_whitespace().map(|id| id.parse::<u32>().unwrap()),
                );
            }
            at += 1;
        }
        found.split_off(1)
    }
}

fn write_script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn gone(processes: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(15);
    for process in processes {
        while std::fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z"))
        {
            assert!(Instant::now() < deadline, "process {process} outlived its parent");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn up_serves_curl_and_leaves_nothing_behind_however_it_ends() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut up = Up::start();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let body = json!({"session_id": uuid::Uuid::new_v4().to_string(), "prompt": "hi"});
        let request = client
            .post(format!("http://{}/invocations", up.agent))
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .body(body.to_string());
        let answer: Value =
            serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(answer["status"], "started");
        // agent-runtime, invoker, and the command with its own child.
        let deadline = Instant::now() + Duration::from_secs(10);
        while up.tree().len() < 4 {
            assert!(Instant::now() < deadline, "{:?}", up.tree());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let trace = format!("{}4bf92f3577b34da6a3ce929d0e0e4736", up.traces);
        let shown = loop {
            assert!(Instant::now() < deadline, "no trace at {trace}");
            let answer = client.get(&trace).send().await.unwrap();
            if answer.status() == 200 {
                break answer.text().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(shown.contains("POST /invocations"), "{shown}");
        let processes = up.tree();
        kill(Pid::from_raw(up.child.id().try_into().unwrap()), signal).unwrap();
        let status = up.child.wait().unwrap();
        assert_eq!(status.success(), signal != Signal::SIGKILL, "{signal}: {status}");
        gone(&processes);
    }
}

#[tokio::test]
async fn up_outlives_its_container_as_a_session_does() {
    let up = Up::start();
    // Its folder is its own.
    let taken = up.traces.rsplit([':', '/']).nth(2).unwrap();
    let second = local(up.folder.path(), &["up", "--otlp-port", taken]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another `up` runs in this folder"), "{said}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/ping", up.agent);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    let runtime = up.tree().into_iter().find(|process| {
        let arguments = std::fs::read_to_string(format!("/proc/{process}/cmdline"));
        arguments.unwrap().contains("agent-runtime-process")
    });
    let runtime = runtime.unwrap();
    kill(Pid::from_raw(runtime.try_into().unwrap()), Signal::SIGKILL).unwrap();
    gone(&[runtime]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
        assert!(Instant::now() < deadline, "no other container at {url}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut child = up.child;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn up_goes_on_when_nobody_reads_what_it_shows() {
    // More than the pipe of its stderr takes.
    let floods = ["--agent-command", "sh -c 'yes a line of the log | head -n 50000 >&2; cat'"];
    let mut up = Up::showing(&floods, Stdio::piped());
    let unread = up.child.stderr.take();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    for _ in 0..2 {
        let body = json!({"session_id": uuid::Uuid::new_v4().to_string()}).to_string();
        let post = client.post(format!("http://{}/invocations", up.agent)).body(body);
        let answer = post.timeout(Duration::from_secs(10)).send().await.unwrap();
        // Its start is in the database of `up`.
        assert_eq!(answer.status(), 200);
        let busy = async || {
            let ping = client.get(format!("http://{}/ping", up.agent));
            ping.send().await.unwrap().text().await.unwrap().contains("HealthyBusy")
        };
        while busy().await {
            assert!(Instant::now() < deadline, "the task does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    kill(Pid::from_raw(up.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ended = tokio::task::spawn_blocking(move || up.child.wait().unwrap());
    assert!(tokio::time::timeout(Duration::from_secs(15), ended).await.unwrap().unwrap().success());
    drop(unread);
}

#[test]
fn what_a_container_writes_cannot_drive_the_terminal_of_up() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("agent");
    let program = sibling("word-counter");
    let text = format!("#!/bin/sh\nprintf '\\033[2J seen\\n' >&2\nexec {}\n", program.display());
    write_script(&script, &text);
    let mut up = Up::showing(&["--agent-program", script.to_str().unwrap()], Stdio::piped());
    let mut shown = BufReader::new(up.child.stderr.take().unwrap()).lines();
    let line = shown.find(|line| line.as_ref().unwrap().contains("seen")).unwrap().unwrap();
    assert_eq!(line, r"\u{1b}[2J seen");
    kill(Pid::from_raw(up.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(up.child.wait().unwrap().success());
}

#[tokio::test]
async fn up_replaces_its_container_even_if_the_port_is_taken_or_the_first_replacement_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (script, fails) = (folder.path().join("agent"), folder.path().join("fails"));
    let (program, fails_at) = (sibling("word-counter"), fails.display());
    let text = format!(
        "#!/bin/sh\n[ -e {fails_at} ] && rm {fails_at} && exit 1\nexec {}\n",
        program.display()
    );
    write_script(&script, &text);
    let up = Up::of(&["--agent-program", script.to_str().unwrap()]);
    let runtime = up.tree().into_iter().find(|process| {
        let name = std::fs::read_to_string(format!("/proc/{process}/comm"));
        name.is_ok_and(|name| name.trim() == "word-counter")
    });
    std::fs::write(&fails, "").unwrap();
    kill(Pid::from_raw(runtime.unwrap().try_into().unwrap()), Signal::SIGKILL).unwrap();
    // Taken until the replacement that may listen has been tried.
    let deadline = Instant::now() + Duration::from_secs(30);
    let taken = loop {
        assert!(Instant::now() < deadline, "the port is not free");
        if let Ok(listener) = std::net::TcpListener::bind(&up.agent) {
            break listener;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    while fails.exists() {
        assert!(Instant::now() < deadline, "no replacement was tried");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(taken);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/ping", up.agent);
    let ping = || client.get(&url).timeout(Duration::from_secs(1)).send();
    while !ping().await.is_ok_and(|answer| answer.status() == 200) {
        assert!(Instant::now() < deadline, "no other container at {url}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut child = up.child;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (taken, said) in [
        ("--dynamodb-port", "cannot serve DynamoDB on 127.0.0.1"),
        ("--otlp-port", "cannot take traces on 127.0.0.1"),
        ("--port", "cannot listen on 127.0.0.1"),
    ] {
        let mut arguments = vec!["up", taken, &port];
        let others = ["--dynamodb-port", "--otlp-port", "--port"].into_iter();
        arguments.extend(others.filter(|port| *port != taken).flat_map(|port| [port, "0"]));
        let output = local(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        let error: Vec<_> = stderr.lines().filter(|line| line.starts_with("error:")).collect();
        assert_eq!(error.len(), 1, "{stderr}");
        assert!(error[0].contains(said) && error[0].contains("in use"), "{stderr}");
    }
}
