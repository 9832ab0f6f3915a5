//! The agents that people have, on the real packages of PyPI and npm. `.ci/run` installs them and names
//! the folders of their programs in `AGENTS_PYTHON` and `AGENTS_NODE`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::Utc;
use local::asl::ExecutionEnd;
use local::collector::Collector;
use local::options::{Agent, Options};
use operator::explain;
use operator::history::runs;
use serde_json::{Value, json};
use support::{Stack, execution, failure};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn programs(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; see .ci/run"))
}

/// A command whose program is of the agents' Python, with this project's package.
fn python(program: &str, arguments: &str) -> String {
    let package = repository().join("python").display().to_string();
    format!("env PYTHONPATH={package} {}/{program} {arguments}", programs("AGENTS_PYTHON"))
}

fn python_app(module: &str, folder: &Path) -> Agent {
    Agent::Server(python("uvicorn", &format!("--app-dir {} {module}", folder.display())))
}

/// The program in TypeScript, which finds its packages beside it.
fn typescript_app(program: &Path) -> Agent {
    let folder = PathBuf::from(programs("AGENTS_NODE"));
    let copy = folder.join(program.with_extension("mts").file_name().unwrap());
    std::fs::copy(program, &copy).unwrap();
    Agent::Server(format!("{}/node_modules/.bin/tsx {}", folder.display(), copy.display()))
}

async fn stack(agent: Agent, otlp: Option<String>) -> Stack {
    Stack::start_with(|options| Options { agent, otlp, ..options }, "").await
}

async fn succeeded(stack: &Stack, input: Value) -> (String, Value) {
    let run = execution(input);
    match stack.system.run(&run).await {
        ExecutionEnd::Succeeded(output) => (run.name, output),
        other => panic!("{other:?}\n{}", stack.logs()),
    }
}

/// The first lines that `explain` gives of a session that failed.
async fn explained(stack: &Stack, input: Value) -> (String, String) {
    let run = execution(input);
    let (error, _) = failure(stack.system.run(&run).await);
    let events = stack.events(&run.name).await;
    (error, explain(&runs(&events), Utc::now().into(), None))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the packages that .ci/run installs"]
async fn a_strands_agent_in_its_default_settings_gives_its_result_its_phases_and_its_spans() {
    let collector = Collector::start(0).unwrap();
    let agent = repository().join("examples/strands/agent.py");
    let command = Agent::Command(python("python", &agent.display().to_string()));
    let stack = stack(command, Some(collector.endpoint())).await;
    let (id, output) = succeeded(&stack, json!({"prompt": "three small words"})).await;
    assert_eq!(output, json!({"answer": "The prompt has 3 words.", "tokens": 30}));
    let statuses = stack.statuses(&id).await;
    assert!(statuses.contains(&"TASK_COUNT_COMPLETED".to_owned()), "{statuses:?}");
    // What Strands prints is log.
    assert!(stack.logs().contains("Tool #1: count_words"), "{}", stack.logs());
    stack.system.stop().await;
    let traces = collector.traces();
    assert_eq!(traces.len(), 1, "{traces:?}");
    let tool =
        traces.values().flatten().find(|span| span.name == "execute_tool count_words").unwrap();
    assert_eq!(tool.service, "strands-agents");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the packages that .ci/run installs"]
async fn the_real_error_of_bedrock_is_the_cause_of_a_strands_agents_failure() {
    let agent = repository().join("examples/strands/agent.py").display().to_string();
    let denied = denying_bedrock();
    let environment = format!(
        "env MODEL_ID=model AWS_ENDPOINT_URL_BEDROCK_RUNTIME={denied} AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true"
    );
    let with_key = format!("{environment} AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b");
    let without = environment.replacen("env ", "env -u AWS_ACCESS_KEY_ID -u AWS_PROFILE ", 1)
        + " AWS_SHARED_CREDENTIALS_FILE=/dev/null";
    for (environment, error_type, cause) in [
        (
            with_key,
            "ClientError",
            "Cause: ClientError: botocore.errorfactory.AccessDeniedException: An error occurred (AccessDeniedException) when calling the ConverseStream operation: not authorized",
        ),
        (
            without,
            "CredentialsError",
            "Cause: CredentialsError: botocore.exceptions.NoCredentialsError: Unable to locate credentials",
        ),
    ] {
        let command = format!("{environment} {}", python("python", &agent));
        let stack = stack(Agent::Command(command), None).await;
        let (error, explained) = explained(&stack, json!({"prompt": "hi"})).await;
        assert_eq!(error, error_type);
        assert_eq!(explained.lines().nth(1), Some(cause), "{explained}");
        // The traceback is shown once. Its first lines are cut if the paths of the packages are long.
        assert_eq!(explained.matches(", in _make_api_call").count(), 1, "{explained}");
        stack.system.stop().await;
    }
}

/// A Bedrock that refuses every call. The address is `http://host:port`.
fn denying_bedrock() -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 65_536]);
            let body = r#"{"message": "not authorized"}"#;
            let head = "HTTP/1.1 403 Forbidden\r\nx-amzn-errortype: AccessDeniedException\r\nx-amzn-requestid: r-1\r\nconnection: close";
            let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the packages that .ci/run installs"]
async fn a_langgraph_graph_has_a_phase_for_each_node() {
    let agent = repository().join("examples/langgraph/agent.py").display().to_string();
    let stack = stack(Agent::Command(python("python", &agent)), None).await;
    let (id, output) = succeeded(&stack, json!({"prompt": "three small words"})).await;
    assert_eq!(output, json!({"words": 3, "longest": "three"}));
    let statuses = stack.statuses(&id).await;
    let phases = statuses.iter().filter(|status| status.starts_with("TASK_"));
    assert_eq!(
        Vec::from_iter(phases),
        [
            "TASK_SPLIT_STARTED", "TASK_SPLIT_COMPLETED", "TASK_CHOOSE_STARTED",
            "TASK_CHOOSE_COMPLETED"
        ]
    );
    // An empty prompt has no longest word.
    let (error, explained) = explained(&stack, json!({"prompt": ""})).await;
    assert_eq!(error, "ValueError");
    assert!(explained.contains("The agent's last progress: TASK_CHOOSE_FAILED at "), "{explained}");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the packages that .ci/run installs"]
async fn an_untouched_app_is_an_agent_in_python_and_in_typescript() {
    let folder = repository().join("examples/bedrock_agentcore_app");
    for agent in [python_app("app:app", &folder), typescript_app(&folder.join("app.ts"))] {
        let collector = Collector::start(0).unwrap();
        let stack = stack(agent, Some(collector.endpoint())).await;
        let (id, output) = succeeded(&stack, json!({"prompt": "three small words"})).await;
        assert_eq!(output, json!({"words": 3, "session": id}));
        stack.system.stop().await;
        assert_eq!(collector.traces().len(), 1);
    }
}

/// What an app does, and what comes of it: its result, or the error's type and the line of its cause.
type Way = (Value, Result<Value, (&'static str, &'static str)>);

async fn try_ways(agent: Agent, accept: &str, ways: &[Way]) {
    let container = vec![("AGENT_ACCEPT", accept.to_owned())];
    let change = |options| Options { agent, container, ..options };
    let stack = Stack::start_with(change, "").await;
    for (input, expected) in ways {
        let began = Instant::now();
        match expected {
            Ok(result) => {
                let (id, output) = succeeded(&stack, input.clone()).await;
                let result = if *result == json!("session") {
                    json!({"session": id})
                } else {
                    result.clone()
                };
                assert_eq!(output, result, "{input}");
            }
            Err((error_type, cause)) => {
                let (error, explained) = explained(&stack, input.clone()).await;
                assert_eq!(error, *error_type, "{input}");
                assert_eq!(explained.lines().nth(1), Some(*cause), "{input}: {explained}");
            }
        }
        println!("{input}: {expected:?} after {:?}", began.elapsed());
        if let Some(seconds) = input.get("seconds").and_then(Value::as_u64) {
            assert!(began.elapsed() > Duration::from_secs(seconds), "{input}");
        }
    }
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the packages that .ci/run installs"]
async fn every_way_an_app_in_python_ends() {
    let no_plan = Err(("NoPlan", "Cause: app.NoPlan: the plan"));
    let events = || Ok(json!([{"step": 1}, "two"]));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps");
    try_ways(
        python_app("app:app", &folder),
        "",
        &[
            (json!({"do": "answer"}), Ok(json!("session"))),
            (json!({"do": "sleep"}), Ok(json!(["slept"]))),
            (json!({"do": "block"}), Ok(Value::Null)),
            (json!({"do": "early", "seconds": 5}), Ok(json!({"accepted": true}))),
            (json!({"do": "stream"}), events()),
            (json!({"do": "stream async"}), events()),
            (json!({"do": "raise"}), no_plan.clone()),
            (json!({"do": "raise in stream"}), no_plan.clone()),
            (json!({"do": "raise in stream async"}), no_plan),
            (json!({}), Err(("KeyError", "Cause: KeyError: 'do'"))),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the packages that .ci/run installs"]
async fn every_way_an_app_in_typescript_ends() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/app.ts");
    let events = || Ok(json!([{"step": 1}, "two"]));
    let failed = |cause: &'static str| Err(("AgentError", cause));
    try_ways(
        typescript_app(&program),
        "",
        &[
            (json!({"do": "answer"}), Ok(json!("session"))),
            (json!({"do": "sleep"}), Ok(json!(["slept"]))),
            (json!({"do": "early", "seconds": 5}), Ok(json!({"accepted": true}))),
            (json!({"do": "stream"}), events()),
            (json!({"do": "raise"}), failed("Cause: AgentError: the agent gave no reason (the agent answered 500 Internal Server Error)")),
            (json!({"do": "raise in stream"}), failed("Cause: AgentError: the plan has no steps (in the stream)")),
        ],
    )
    .await;
    // Of an app that does not stream, the SDK hands the reason on.
    try_ways(
        typescript_app(&program),
        "application/json",
        &[
            (json!({"do": "answer"}), Ok(json!("session"))),
            (json!({"do": "raise"}), failed("Cause: AgentError: the plan has no steps (the agent answered 500 Internal Server Error)")),
            (json!({"do": "stream"}), failed("Cause: AgentError: Streaming response requires Accept: text/event-stream header. Please include this header in your request to receive streaming data. (the agent answered 406 Not Acceptable)")),
        ],
    )
    .await;
}
