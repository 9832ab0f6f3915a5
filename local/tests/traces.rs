//! Traces of whole sessions: the spans that all processes export, beside the journal they write.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use journal::{Event, Status};
use local::asl::{Execution, ExecutionEnd};
use local::collector::Collector;
use local::trace::{Span, tree};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Stack, execution, failure, open, sibling};
use testing::Program;
use testing::Table;

/// Gives its trace context as the result.
const TELLS_TRACEPARENT: &str = "sh -c 'cat >/dev/null; echo $TRACEPARENT'";

fn spans(collector: &Collector) -> Vec<Span> {
    let traces = collector.traces();
    assert_eq!(traces.len(), 1, "one trace: {traces:?}");
    traces.into_values().next().unwrap()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found = Vec::from_iter(spans.iter().filter(|span| span.name == name));
    assert_eq!(found.len(), 1, "{name}: {spans:?}");
    found[0]
}

/// Each span with the name of the one that caused it, in the order of the names.
fn edges(spans: &[Span]) -> Vec<(&str, &str, &str)> {
    let name = |id: &str| spans.iter().find(|span| span.id == id).map_or("", |span| &span.name);
    let mut edges =
        Vec::from_iter(spans.iter().map(|span| (&*span.service, &*span.name, name(&span.parent))));
    edges.sort_unstable();
    edges
}

/// Checks the trace of a session whose agent is `TELLS_TRACEPARENT` against its journal.
fn check_completed(
    run: &Execution,
    result: &Value,
    events: &[Event],
    traces: &[(String, Vec<Span>)],
) {
    let [(trace_id, spans)] = traces else { panic!("one trace: {traces:?}") };
    assert_eq!(
        edges(spans),
        [
            ("agent-runtime", "POST /invocations", "Bedrock AgentCore.InvokeAgentRuntime"),
            ("agent-runtime", "PutItem AGENT_BACKGROUND_TASK_COMPLETED", "invoke_agent"),
            ("agent-runtime", "PutItem AGENT_BACKGROUND_TASK_STARTED", "invoke_agent"),
            ("agent-runtime", "PutItem AGENT_ENTRYPOINT_STARTED", "POST /invocations"),
            ("agent-runtime", "invoke_agent", "POST /invocations"),
            ("invoker", "Bedrock AgentCore.InvokeAgentRuntime", "invoker"),
            ("invoker", "PutItem AGENT_INVOCATION_STARTED", "invoker"),
            ("invoker", "PutItem AGENT_INVOCATION_SUCCEEDED", "invoker"),
            ("invoker", "invoker", ""),
        ]
    );
    assert!(events.iter().all(|event| event.trace_id.as_ref() == Some(trace_id)), "{events:?}");
    let task = &named(spans, "invoke_agent").id;
    assert_eq!(*result, json!(format!("00-{trace_id}-{task}-01")), "what the command got");
    for span in spans {
        assert_eq!(span.error, None, "{span:?}");
        assert_eq!(span.attributes["session.id"], run.name, "{span:?}");
        assert!(span.start <= span.end, "{span:?}");
    }
    for event in &events[1..] {
        let append = named(spans, &format!("PutItem {}", event.status));
        assert_eq!(append.attributes["journal.sort_key"], event.sort_key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_invoker_to_the_command() {
    let collector = Collector::start(0).unwrap();
    let stack = Stack::exporting(TELLS_TRACEPARENT, &collector.endpoint()).await;
    let run = execution(json!({}));
    let ExecutionEnd::Succeeded(result) = stack.system.run(&run).await else { panic!("it failed") };
    let events = stack.events(&run.name).await;
    // Nothing waits for a batch to be full: the last spans come with the end of the processes.
    stack.system.stop().await;
    check_completed(&run, &result, &events, &Vec::from_iter(collector.traces()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_alike_by_the_trace_and_by_the_journal() {
    let collector = Collector::start(0).unwrap();
    let command = "sh -c 'echo failed read no such file >&3; echo no luck >&2; exit 3'";
    let stack = Stack::exporting(command, &collector.endpoint()).await;
    let run = execution(json!({}));
    let (error, cause) = failure(stack.system.run(&run).await);
    stack.system.stop().await;
    let spans = spans(&collector);
    let failed = Vec::from_iter(spans.iter().filter(|span| span.error.is_some()));
    assert_eq!(failed.len(), 1, "the task and nothing else: {failed:?}");
    assert_eq!(failed[0].name, "invoke_agent");
    assert_eq!(failed[0].error.as_deref(), Some(&*cause));
    assert_eq!(failed[0].attributes["error.type"], error);
    let told: Vec<_> =
        failed[0].events.iter().map(|(_, event, text)| (&**event, &**text)).collect();
    assert_eq!(told, [("TASK_READ_FAILED", "no such file")]);
    let tree = tree("1", &spans);
    assert!(tree.starts_with(&format!("Trace 1 of session {}:", run.name)), "{tree}");
    let line = tree.lines().find(|line| line.contains("invoke_agent")).unwrap();
    assert!(line.ends_with("  AgentError: no luck (exit status: 3)"), "{tree}");
    assert_eq!(
        tree.lines().filter(|line| line.ends_with("  · TASK_READ_FAILED  no such file")).count(),
        1
    );
    // The logs lead to both: to the session, and to the span within which they were written.
    let logs = stack.logs();
    let line = logs.lines().find(|line| line.contains("\"no luck\"")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let ids = &line["spans"][0];
    assert_eq!((&ids["session_id"], &ids["invocation_id"]), (&json!(run.name), &json!(run.id)));
    assert_eq!(ids["span_id"], failed[0].id);
    assert_eq!(ids["trace_id"], *collector.traces().keys().next().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_an_error_of_every_hop_that_saw_it() {
    let collector = Collector::start(0).unwrap();
    let table = Table::open(None, 0).await.unwrap();
    // Nobody is the container.
    let stack = Stack::around_exporting(table, "127.0.0.1:1", &collector.endpoint()).await;
    let (error, _) = failure(stack.system.run(&execution(json!({}))).await);
    stack.system.stop().await;
    let spans = spans(&collector);
    for name in ["Bedrock AgentCore.InvokeAgentRuntime", "invoker"] {
        let span = named(&spans, name);
        assert_eq!(span.attributes["error.type"], error);
        assert!(span.error.as_ref().unwrap().contains("Runtime initialization failed"), "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_stopped_has_a_span_that_says_so() {
    let collector = Collector::start(0).unwrap();
    let stack = Stack::exporting("sleep 600", &collector.endpoint()).await;
    let run = execution(json!({}));
    tokio::select! {
        outcome = stack.system.run(&run) => panic!("{outcome:?}"),
        _ = stack.wait_for(&run.name, &["AGENT_INVOCATION_SUCCEEDED"]) => {}
    }
    stack.system.stop().await;
    let spans = spans(&collector);
    assert_eq!(named(&spans, "invoke_agent").attributes["error.type"], "Terminated");
    assert_eq!(named(&spans, "PutItem AGENT_BACKGROUND_TASK_FAILED").error, None);
}

/// An agent that ends when the file of its input is there.
const WAITS: &str = r#"sh -c 'read -r file; file=${file#\"}; file=${file%\"}; until [ -e "$file" ]; do sleep 0.01; done' "#;

#[tokio::test(flavor = "multi_thread")]
async fn no_collector_changes_the_journal_or_the_end_of_a_process() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = Collector::start(0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go");
    for endpoint in [
        collector.endpoint(),
        // Takes the connection and never answers.
        format!("http://{}", hanging.local_addr().unwrap()),
        "http://127.0.0.1:1".to_owned(),
        "no address".to_owned(),
    ] {
        let stack = Stack::exporting(WAITS, &endpoint).await;
        let run = Execution::new(&uuid::Uuid::new_v4().to_string(), json!(file));
        let ended = async {
            let last = ["AGENT_BACKGROUND_TASK_STARTED", "AGENT_INVOCATION_SUCCEEDED"];
            stack.wait_for(&run.name, &last).await;
            // Killed in the middle of the first session.
            collector.stop().await;
            std::fs::write(&file, "").unwrap();
        };
        let (outcome, ()) = tokio::join!(stack.system.run(&run), ended);
        assert!(matches!(outcome, ExecutionEnd::Succeeded(_)), "{endpoint}: {outcome:?}");
        for _ in 0..3 {
            let run = Execution::new(&uuid::Uuid::new_v4().to_string(), json!(file));
            let outcome = stack.system.run(&run).await;
            assert!(matches!(outcome, ExecutionEnd::Succeeded(_)), "{endpoint}: {outcome:?}");
            assert_eq!(stack.events(&run.name).await.len(), 6, "{endpoint}");
        }
        stack.system.stop().await;
        let status = stack.system.container(&run.name.parse().unwrap()).unwrap().ended().await;
        assert_eq!(status, "exit status: 0", "{endpoint}: not killed for being slow");
        // Once, although each of many exports failed, and at the end.
        for (name, processes) in [(local::system::AGENT, 4), (local::system::INVOKER, 1)] {
            let log = stack.log(name);
            let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
            let told = said("takes no spans") + said("will be exported") + said("last spans");
            assert!((1..=2 * processes).contains(&told), "{endpoint}: {log}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}

/// `ROTEL` names the executable of a collector written by others; `.ci/run` installs it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a collector that is not Rust's; .ci/run has it"]
async fn another_collector_understands_every_span() {
    let program = std::env::var_os("ROTEL").unwrap_or_else(|| {
        panic!("ROTEL must name the executable; .ci/run installs it and sets this")
    });
    let collector = Collector::start(0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (http, grpc) = (free(), free());
    // It takes the spans apart and hands them on to ours.
    let mut rotel = Command::new(program)
        .args(["start", "--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc])
        .args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"])
        .args(["--otlp-exporter-compression", "none"])
        .args(["--otlp-exporter-endpoint", &collector.endpoint()])
        .arg("--pid-file")
        .arg(folder.path().join("pid"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while tokio::net::TcpStream::connect(&http).await.is_err() {
        assert_eq!(rotel.try_wait().unwrap(), None, "it ended at its start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stack = Stack::exporting(TELLS_TRACEPARENT, &format!("http://{http}")).await;
    let run = execution(json!({}));
    let ExecutionEnd::Succeeded(result) = stack.system.run(&run).await else { panic!("it failed") };
    let events = stack.events(&run.name).await;
    stack.system.stop().await;
    let handed_on = async {
        loop {
            let traces = Vec::from_iter(collector.traces());
            if traces.first().is_some_and(|(_, spans)| spans.len() >= 9) {
                return traces;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let traces = tokio::time::timeout(Duration::from_secs(30), handed_on).await;
    rotel.kill().unwrap();
    rotel.wait().unwrap();
    check_completed(&run, &result, &events, &traces.unwrap());
    assert!(!stack.logs().contains("takes no telemetry"), "{}", stack.logs());
}

/// Runs one task in a container of its own, to its end. The result is the command's TRACEPARENT.
async fn one_task(environment: &[(&str, &str)]) -> (Event, String) {
    let table = Table::open(None, 0).await.unwrap();
    let command = ("AGENT_COMMAND", "sh -c 'cat >/dev/null; echo \"$TRACEPARENT\"'");
    let environment = [&[command], environment].concat();
    let program = Program::start(&sibling("agent-runtime"), &table, &environment).await;
    let id = uuid::Uuid::new_v4().to_string();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = json!({"session_id": id}).to_string();
    let answer = client.post(format!("{}/invocations", program.url)).body(body).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    let journal = open(table.client_config());
    let deadline = Instant::now() + Duration::from_secs(30);
    let end = loop {
        let events = journal.events(&id.parse().unwrap()).await.unwrap();
        if let Some(end) = events.into_iter().nth(2) {
            break end;
        }
        assert!(Instant::now() < deadline, "the task does not end: {}", program.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // The last spans come with the end of the process.
    program.signal(Signal::SIGTERM);
    program.ended().await;
    let log = program.log();
    (end, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_variables_of_opentelemetry_are_honoured() {
    let collector = Collector::start(0).unwrap();
    let endpoint = collector.endpoint();
    // The command's result is its TRACEPARENT.
    let traced = async |environment: &[(&str, &str)]| {
        let (end, log) = one_task(environment).await;
        (end.result.unwrap(), end.trace_id, log)
    };
    let service = async |environment: &[(&str, &str)]| {
        let (_, trace_id, log) = traced(environment).await;
        let spans = collector.traces().remove(&trace_id.unwrap()).unwrap_or_default();
        (spans.first().map(|span| span.service.clone()), log)
    };
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint);
    let traces = format!("{endpoint}/v1/traces");

    assert_eq!(service(&[on]).await.0.as_deref(), Some("agent-runtime"));
    let of_signal = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*traces), ("OTEL_SERVICE_NAME", "a")];
    assert_eq!(service(&of_signal).await.0.as_deref(), Some("a"));
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=b");
    assert_eq!(service(&[on, attributes]).await.0.as_deref(), Some("b"));
    let (exported, log) = service(&[on, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).await;
    assert!(exported.is_some() && log.contains("OTEL_EXPORTER_OTLP_PROTOCOL is grpc"), "{log}");

    let count = collector.traces().len();
    let (traceparent, ..) = traced(&[on, ("OTEL_TRACES_SAMPLER", "always_off")]).await;
    assert!(traceparent.ends_with("-00\""), "{traceparent}");
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let (traceparent, trace_id, _) = traced(&[on, off]).await;
        assert_eq!((&*traceparent, trace_id), ("\"\"", None), "{off:?}: no trace is active");
    }
    assert_eq!(collector.traces().len(), count, "none of these was exported");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_endpoint_is_named_and_its_secret_is_not_logged() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@[collector");
    let (end, log) = one_task(&[endpoint]).await;
    assert_eq!(end.status, Status::AgentBackgroundTaskCompleted, "it works without");
    assert!(log.contains("OTEL_EXPORTER_OTLP_ENDPOINT must be an http URL"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}
