//! The operations of Step Functions and AgentCore on this machine, by the real SDKs and the AWS CLI;
//! and that no web page reaches any of them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_sfn::types::{ExecutionStatus, HistoryEventType};
use local::Server;
use local::collector::Collector;
use local::options::Options;
use local::step_functions::{self, STATE_MACHINE_ARN};
use local::system::{AGENT_RUNTIME_ARN, System};
use serde_json::{Value, json};
use support::{Stack, sfn};
use testing::{CREDENTIAL, REGION, TABLE_NAME};

/// Fails, works for long, or gives its input back, as its input says.
const AGENT: &str = "sh -c 'read -r input; case $input in *wrong*) exit 3;; *long*) sleep 60;; esac; echo \"$input\"'";

async fn start(client: &aws_sdk_sfn::Client, prompt: &str) -> String {
    let input = json!({"prompt": prompt}).to_string();
    let name = uuid::Uuid::new_v4().to_string();
    let start = client.start_execution().state_machine_arn(STATE_MACHINE_ARN).name(name);
    start.input(input).send().await.unwrap().execution_arn
}

async fn status(client: &aws_sdk_sfn::Client, arn: &str) -> ExecutionStatus {
    client.describe_execution().execution_arn(arn).send().await.unwrap().status
}

async fn ended(client: &aws_sdk_sfn::Client, arn: &str) -> ExecutionStatus {
    for _ in 0..3_000 {
        let status = status(client, arn).await;
        if status != ExecutionStatus::Running {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("{arn} still runs")
}

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_listed_stopped_remembered_and_have_a_history() {
    let stack = Stack::start(AGENT, 600).await;
    let system = Arc::new(stack.system);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("executions.jsonl");
    let serve = |file: &Path| {
        let say = |line: &str| SAID.lock().unwrap().push(line.to_owned());
        step_functions::start(0, Arc::clone(&system), Some(file), Some(say)).unwrap()
    };
    let step_functions = serve(&file);
    let client = sfn(&step_functions);
    let good = start(&client, "good").await;
    assert_eq!(ended(&client, &good).await, ExecutionStatus::Succeeded);
    let wrong = start(&client, "wrong").await;
    assert_eq!(ended(&client, &wrong).await, ExecutionStatus::Failed);
    let (stopped, left) = (start(&client, "long").await, start(&client, "long").await);
    let stop = client.stop_execution().execution_arn(&stopped).error("Tired").cause("of it");
    stop.send().await.unwrap();
    let described = client.describe_execution().execution_arn(&stopped).send().await.unwrap();
    assert_eq!(described.status, ExecutionStatus::Aborted);
    assert_eq!(
        (described.error.as_deref(), described.cause.as_deref()),
        (Some("Tired"), Some("of it"))
    );

    let list = client.list_executions().state_machine_arn(STATE_MACHINE_ARN);
    let pages = list.clone().max_results(3).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.unwrap();
    let arns = Vec::from_iter(all.iter().map(|it| it.execution_arn.as_str()));
    assert_eq!(arns, [&left, &stopped, &wrong, &good]);
    let failed = list.clone().status_filter(ExecutionStatus::Failed).send().await.unwrap();
    assert_eq!((failed.executions.len(), &failed.executions[0].execution_arn), (1, &wrong));

    let history = client.get_execution_history().execution_arn(&wrong).send().await.unwrap();
    let kinds = Vec::from_iter(history.events.iter().map(|event| event.r#type.clone()));
    assert_eq!(kinds.first(), Some(&HistoryEventType::ExecutionStarted));
    assert_eq!(kinds.last(), Some(&HistoryEventType::ExecutionFailed));
    let states = history.events.iter().filter_map(|event| event.state_entered_event_details());
    let states = Vec::from_iter(states.map(|details| details.name.clone()));
    assert_eq!(states.first().unwrap(), "ReadInput");
    assert_eq!(states.last().unwrap(), "SessionFailed");

    let said = SAID.lock().unwrap().join("\n");
    let id = |arn: &str| arn.rsplit(':').next().unwrap().to_owned();
    for line in [
        format!("session {} started", id(&good)),
        format!("session {} succeeded after ", id(&good)),
        format!("session {} failed after ", id(&wrong)),
        format!("session {} aborted after ", id(&stopped)),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }

    // The next process does not run what this one has left.
    step_functions.stop().await;
    let next = serve(&file);
    let client = sfn(&next);
    for (arn, expected) in [
        (&good, ExecutionStatus::Succeeded),
        (&wrong, ExecutionStatus::Failed),
        (&stopped, ExecutionStatus::Aborted),
        (&left, ExecutionStatus::Aborted),
    ] {
        assert_eq!(status(&client, arn).await, expected, "{arn}");
    }
    // And the one after that says the same of it.
    let stopped_at = async |client: &aws_sdk_sfn::Client| {
        let describe = client.describe_execution().execution_arn(&left);
        describe.send().await.unwrap().stop_date
    };
    let first = stopped_at(&client).await;
    next.stop().await;
    let third = serve(&file);
    assert_eq!(stopped_at(&sfn(&third)).await, first);
    third.stop().await;
    system.stop().await;
}

/// What a browser adds to a request that a page of another site sends, with and without a preflight,
/// and to one of a name that was rebound to this machine.
const OF_PAGES: [&[(&str, &str)]; 4] = [
    &[
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example/"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "no-cors"),
        ("content-type", "text/plain;charset=UTF-8"),
    ],
    &[("origin", "https://evil.example"), ("content-type", "application/json")],
    &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
    &[("host", "evil.example:8080"), ("sec-fetch-site", "same-origin")],
];

#[tokio::test(flavor = "multi_thread")]
async fn no_web_page_reaches_a_server_of_this_machine() {
    let direct = |options| Options { agent_port: Some(0), ..options };
    let stack = Stack::start_with(direct, AGENT).await;
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let collector = Collector::start(0).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let id = uuid::Uuid::new_v4().to_string();
    let body = json!({"session_id": id}).to_string();
    let agentcore = format!("http://{}/runtimes/x/invocations", system.agentcore);
    for url in [
        format!("http://{}/invocations", system.agent_address),
        agentcore,
        system.table.endpoint(),
        format!("http://{}", step_functions.address),
        format!("{}/v1/traces", collector.endpoint()),
    ] {
        for headers in OF_PAGES {
            let mut request = client.post(&url).body(body.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.header("x-amz-target", "AWSStepFunctions.StartExecution");
            let answer = request.header(agent_runtime::SESSION_HEADER, &id).send().await.unwrap();
            assert_eq!(answer.status(), 403, "{url} {headers:?}");
            assert!(answer.headers().get("access-control-allow-origin").is_none(), "{url}");
        }
        // The browser asks before it sends what is not simple.
        let asks = client.request(reqwest::Method::OPTIONS, &url);
        let asks = asks.header("origin", "https://evil.example");
        let asks = asks.header("access-control-request-method", "POST").send().await.unwrap();
        assert_eq!(asks.status(), 403, "{url}");
    }
    let events = system.journal().events(&id.parse().unwrap()).await.unwrap();
    assert_eq!(events, [], "no agent has started");
    // curl, and a person who types the address of the list of traces.
    let url = format!("http://{}/invocations", system.agent_address);
    assert_eq!(client.post(url).body(body).send().await.unwrap().status(), 200);
    let typed = client.get(collector.endpoint()).header("sec-fetch-site", "none");
    let typed = typed.send().await.unwrap();
    assert_eq!(typed.status(), 200);
    assert_eq!(typed.headers()["content-type"], "text/plain; charset=utf-8");
    step_functions.stop().await;
    system.stop().await;
}

/// Runs a program against the system, as `.local/env` has it.
async fn tool(
    system: &System,
    step_functions: &Server,
    program: &Path,
    arguments: &[&str],
) -> Value {
    let mut command = Command::new(program);
    command.args(arguments).envs([
        ("AWS_ENDPOINT_URL_DYNAMODB", &*system.table.endpoint()),
        ("AWS_ENDPOINT_URL_SFN", &format!("http://{}", step_functions.address)),
        ("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", &format!("http://{}", system.agentcore)),
        ("AGENT_RUNTIME_ARN", AGENT_RUNTIME_ARN),
        ("STATE_MACHINE_ARN", STATE_MACHINE_ARN),
        ("JOURNAL_TABLE_NAME", TABLE_NAME),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", CREDENTIAL),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
        ("NO_PROXY", "127.0.0.1"),
    ]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the AWS CLI and boto3: AWS_CLI=path cargo test -p local --test operations -- --ignored"]
async fn the_aws_cli_and_boto3_reach_this_machine_unchanged() {
    let aws = std::env::var_os("AWS_CLI").expect("AWS_CLI must name the executable");
    let aws = Path::new(&aws);
    let python = aws.with_file_name("python");
    let stack = Stack::start(AGENT, 600).await;
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let cli = async |arguments: &[&str]| {
        let arguments = [&["stepfunctions"], arguments].concat();
        tool(&system, &step_functions, aws, &arguments).await
    };
    let machine = ["--state-machine-arn", STATE_MACHINE_ARN];
    let start = ["start-execution", machine[0], machine[1], "--input", r#"{"prompt":"long"}"#];
    let arn = cli(&start).await["executionArn"].as_str().unwrap().to_owned();
    let list = ["list-executions", machine[0], machine[1], "--status-filter", "RUNNING"];
    assert_eq!(cli(&list).await["executions"][0]["executionArn"], *arn);
    let of_it = ["--execution-arn", &arn];
    cli(&["stop-execution", of_it[0], of_it[1]]).await;
    assert_eq!(cli(&["describe-execution", of_it[0], of_it[1]]).await["status"], "ABORTED");
    let history = cli(&["get-execution-history", of_it[0], of_it[1]]).await;
    assert_eq!(history["events"][0]["type"], "ExecutionStarted");

    // boto3: invokes an agent, and stops its session.
    let script = r#"
import boto3, json, os, sys, time, uuid
arn, session = os.environ["AGENT_RUNTIME_ARN"], str(uuid.uuid4())
client = boto3.client("bedrock-agentcore")
answer = client.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=json.dumps({"prompt": "long"}))
started = json.loads(answer["response"].read())
stopped = client.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=session)
table = boto3.resource("dynamodb").Table(os.environ["JOURNAL_TABLE_NAME"])
key = boto3.dynamodb.conditions.Key("PK").eq("SESSION#" + session)
events = table.query(KeyConditionExpression=key, ConsistentRead=True)["Items"]
print(json.dumps({"started": started["status"], "stopped": stopped["ResponseMetadata"]["HTTPStatusCode"], "last": events[-1].get("ErrorType")}))
"#;
    let said = tool(&system, &step_functions, &python, &["-c", script]).await;
    assert_eq!(said, json!({"started": "started", "stopped": 200, "last": "Terminated"}));
    step_functions.stop().await;
    system.stop().await;
}
