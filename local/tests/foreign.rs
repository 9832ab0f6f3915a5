//! The same sessions on an engine written by others: `ministack`, with the stack that
//! `deploy/template.yaml` describes, deployed through its CloudFormation: table, roles, the real
//! invoker as a `provided.al2023` function, and the state machine. AgentCore it has none that runs
//! containers, so its front door is ours, with the real agent-runtime behind it.
//!
//! `MINISTACK` names the executable; `.ci/run` installs it. Where the engines differ is written in
//! `README.md` beside this file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Event, Journal, Settings, SignKind, Status};
use local::front_door;
use local::system::AGENT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{IMPATIENT, LOCAL, check_history, sibling};
use tempfile::TempDir;
use testing::{CREDENTIAL, REGION};
use testing::{Process, Spec};
use workflow::{Definition, MAX_POLL_ATTEMPTS};
use zip::write::SimpleFileOptions;

const AGENT_RUNTIME_ARN: &str =
    "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/agent-0123456789";

/// Fails, never ends, or gives 7 at once or slowly, as its input says.
const AGENT_COMMAND: &str = "sh -c 'read -r input; case $input in *wrong*) echo wrong input >&2; exit 1;; *forever*) sleep 60;; *large*) echo result [$(yes 7, | head -n 99999)7] >&3;; *slow*) sleep 15;; esac; echo 7'";

/// The engine, in a process group of its own.
struct Ministack {
    process: std::process::Child,
    endpoint: String,
    client: reqwest::Client,
    folder: TempDir,
}

impl Ministack {
    async fn start() -> Self {
        let program = std::env::var_os("MINISTACK").unwrap_or_else(|| {
            panic!("MINISTACK must name the executable; .ci/run installs it and sets this")
        });
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let log = std::fs::File::create(folder.path().join("ministack.log")).unwrap();
        let process = Command::new(program)
            .envs([("BIND_HOST", "127.0.0.1"), ("GATEWAY_PORT", &port.to_string())])
            .current_dir(folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let this = Self { process, endpoint: format!("http://127.0.0.1:{port}"), client, folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        while this.client.get(format!("{}/_ministack/health", this.endpoint)).send().await.is_err()
        {
            assert!(Instant::now() < deadline, "{}", this.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        this
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ministack.log")).unwrap()
    }

    /// Puts an object into the bucket from which the template is deployed.
    async fn upload(&self, name: &str, body: Vec<u8>) {
        for (url, body) in [
            (format!("{}/artifacts", self.endpoint), Vec::new()),
            (format!("{}/artifacts/{name}", self.endpoint), body),
        ] {
            let answer = self.client.put(url).body(body).send().await.unwrap();
            assert!(answer.status().is_success(), "{answer:?}");
        }
    }

    /// A call of CloudFormation's query API; gives its answer's XML.
    async fn cloudformation(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        let mut form = vec![("Action", action), ("Version", "2010-05-15")];
        form.extend(parameters);
        let scope =
            format!("Credential={CREDENTIAL}/20260101/{REGION}/cloudformation/aws4_request");
        let request = self
            .client
            .post(&self.endpoint)
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"),
            )
            .form(&form);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{action}: {text}");
        text
    }
}

impl Drop for Ministack {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// `deploy/template.yaml` with what `sam package` puts in, without AgentCore.
fn template(front_door: &str, dynamodb: &str) -> String {
    let text = include_str!("../../deploy/template.yaml");
    let mut kept = String::new();
    let mut skipping = false;
    for line in text.lines() {
        // Resources and outputs begin at the second column.
        if line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':') {
            let own = ["AgentRuntime", "AgentLogGroup", "AgentRuntimeArn"];
            skipping = own.contains(&line.trim().trim_end_matches(':'));
        } else if !line.starts_with(' ') {
            skipping = false;
        }
        if !skipping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    let replaced = [
        ("!GetAtt AgentRuntime.AgentRuntimeArn", AGENT_RUNTIME_ARN.to_owned()),
        ("${AgentRuntime.AgentRuntimeArn}", AGENT_RUNTIME_ARN.to_owned()),
        ("CodeUri: ../invoker", "CodeUri: s3://artifacts/invoker.zip".to_owned()),
        (
            "DefinitionUri: ../workflow/session.asl.json",
            "DefinitionUri: s3://artifacts/session.asl.json".to_owned(),
        ),
        (
            "PatienceSeconds: !Ref PatienceSeconds",
            format!("PatienceSeconds: {}", IMPATIENT.patience_seconds),
        ),
        ("SilenceSeconds: 40", format!("SilenceSeconds: {}", IMPATIENT.silence_seconds)),
        ("AnswerSeconds: 20", format!("AnswerSeconds: {}", IMPATIENT.answer_seconds)),
        (
            "        Variables:\n",
            format!(
                "        Variables:\n          AWS_ENDPOINT_URL_BEDROCK_AGENTCORE: http://{front_door}\n          AWS_ENDPOINT_URL_DYNAMODB: {dynamodb}\n"
            ),
        ),
    ];
    for (from, to) in replaced {
        assert!(kept.contains(from), "the template has no {from:?} any more");
        kept = kept.replace(from, &to);
    }
    assert!(!kept.contains("AgentRuntime."), "{kept}");
    kept
}

/// A stack on the engine, with the real agent-runtime.
struct Deployed<'a> {
    engine: &'a Ministack,
    agent: Process,
    journal: Journal,
    workflow: aws_sdk_sfn::Client,
    table: String,
    state_machine: String,
}

/// Starts an agent-runtime that writes to a table of the engine; and where it listens.
async fn container(engine: &Ministack, table: &str) -> (Process, String) {
    let environment = [
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("AGENT_COMMAND", AGENT_COMMAND),
        ("HEARTBEAT_SECONDS", "1"),
        ("MAX_BODY_BYTES", "2000"),
        ("JOURNAL_TABLE_NAME", table),
        ("AWS_ENDPOINT_URL_DYNAMODB", &engine.endpoint),
        ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false"),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", CREDENTIAL),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
    ];
    let spec = Spec {
        program: LOCAL.into(),
        arguments: vec![AGENT.to_owned()],
        name: AGENT,
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        log: engine.folder.path().join(format!("{table}.log")),
        echo: None,
    };
    let (process, listens) = Process::start(&spec).unwrap();
    let address = process.address(listens).await.unwrap();
    (process, address)
}

impl<'a> Deployed<'a> {
    async fn new(engine: &'a Ministack, name: &str, max_poll_attempts: u32) -> Self {
        Self::with(engine, name, max_poll_attempts, &[]).await
    }

    /// The same with further parameters of the template.
    async fn with(
        engine: &'a Ministack,
        name: &str,
        max_poll_attempts: u32,
        more: &[(&str, &str)],
    ) -> Self {
        let table = format!("{name}-journal");
        let (agent, address) = container(engine, &table).await;
        let front_door = front_door::start(&address).unwrap();
        let template = template(&front_door.to_string(), &engine.endpoint);
        let attempts = max_poll_attempts.to_string();
        let image = "000000000000.dkr.ecr.us-east-1.amazonaws.com/agent:1";
        let own =
            [("AgentImageUri", image), ("MaxPollAttempts", &*attempts), ("PollMinSeconds", "1")];
        let parameters = (1..).zip(own.iter().chain(more));
        let parameters = Vec::from_iter(parameters.flat_map(|(number, (name, value))| {
            let member = format!("Parameters.member.{number}.Parameter");
            [(format!("{member}Key"), *name), (format!("{member}Value"), *value)]
        }));
        let mut form = vec![
            ("StackName", name),
            ("TemplateBody", &*template),
            ("Capabilities.member.1", "CAPABILITY_IAM"),
            ("Capabilities.member.2", "CAPABILITY_AUTO_EXPAND"),
        ];
        form.extend(parameters.iter().map(|(name, value)| (&**name, *value)));
        engine.cloudformation("CreateStack", &form).await;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let stack = engine.cloudformation("DescribeStacks", &[("StackName", name)]).await;
            if stack.contains("<StackStatus>CREATE_COMPLETE<") {
                break;
            }
            assert!(stack.contains("IN_PROGRESS<") && Instant::now() < deadline, "{stack}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let credentials = Credentials::new(CREDENTIAL, CREDENTIAL, None, None, "test");
        let config = aws_sdk_dynamodb::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials.clone())
            .endpoint_url(&engine.endpoint);
        let settings = Settings { table_name: table.clone(), retention_days: None };
        let workflow = aws_sdk_sfn::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .endpoint_url(&engine.endpoint)
            .build();
        Self {
            engine,
            agent,
            journal: Journal::new(config, settings),
            workflow: aws_sdk_sfn::Client::from_conf(workflow),
            table,
            state_machine: format!(
                "arn:aws:states:{REGION}:000000000000:stateMachine:{name}-session"
            ),
        }
    }

    /// Runs an execution to its end: its output, or its error and cause.
    async fn run(&self, name: &str, input: Value) -> Result<Value, (String, String)> {
        let start = self.workflow.start_execution().state_machine_arn(&self.state_machine);
        let started = start.name(name).input(input.to_string()).send().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let describe = self.workflow.describe_execution();
            let execution = describe.execution_arn(&started.execution_arn).send().await.unwrap();
            match execution.status {
                ExecutionStatus::Running => {}
                ExecutionStatus::Succeeded => {
                    return Ok(serde_json::from_str(&execution.output.unwrap()).unwrap());
                }
                _ => return Err((execution.error.unwrap(), execution.cause.unwrap_or_default())),
            }
            assert!(Instant::now() < deadline, "{}", self.engine.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn events(&self, session_id: &str) -> Vec<Event> {
        self.journal.events(&session_id.parse().unwrap()).await.unwrap()
    }

    /// The `session` command, as an operator of this stack would run it.
    fn session(&self, arguments: &[&str]) -> (Output, String) {
        let output = Command::new(sibling("agent-journal"))
            .args(arguments)
            .envs([
                ("AWS_ENDPOINT_URL", &*self.engine.endpoint),
                ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false"),
                ("AWS_REGION", REGION),
                ("AWS_ACCESS_KEY_ID", CREDENTIAL),
                ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
                ("JOURNAL_TABLE_NAME", &self.table),
                ("STATE_MACHINE_ARN", &self.state_machine),
            ])
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout.clone()).unwrap();
        (output, shown)
    }
}

/// The invoker as it is deployed.
fn invoker_zip() -> Vec<u8> {
    let program = Path::new(LOCAL).with_file_name("bootstrap");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options).unwrap();
    zip.write_all(&std::fs::read(program).unwrap()).unwrap();
    zip.finish().unwrap().into_inner()
}

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ministack: MINISTACK=path cargo test -p local --test foreign -- --ignored"]
async fn the_same_sessions_leave_the_same_journals() {
    let engine = Ministack::start().await;
    engine.upload("invoker.zip", invoker_zip()).await;
    engine.upload("session.asl.json", workflow::SOURCE.into()).await;
    let stack = Deployed::new(&engine, "many", 600).await;

    let name = id();
    assert_eq!(stack.run(&name, json!({"prompt": "right"})).await, Ok(json!(7)));
    check_history("completed", &stack.events(&name).await);

    let name = id();
    let (error, cause) = stack.run(&name, json!({"prompt": "wrong"})).await.unwrap_err();
    assert_eq!((&*error, &*cause), ("AgentError", "wrong input (exit status: 1)"));
    check_history("agent-failed", &stack.events(&name).await);

    for (input, by_name) in [
        (json!({"session_id": "too-short"}), false),
        (json!({"session_id": 7}), false),
        (json!({"session_id": null}), false),
        (json!({"sessionId": id()}), false),
        (json!({}), true),
        (json!([1]), true),
    ] {
        let name = format!("short-{}", &id()[..8]);
        let (error, cause) = stack.run(&name, input.clone()).await.unwrap_err();
        assert_eq!(error, "SessionIdInvalid", "{input}");
        assert!(cause.contains("33 to 100 characters"), "{cause}");
        assert_eq!(cause.contains("give session_id in the input"), by_name, "{input}: {cause}");
    }

    let large = stack.run(&id(), json!({"prompt": "large"})).await.unwrap();
    assert_eq!(
        (&large["result_truncated"], &large["result_bytes"]),
        (&json!(true), &json!(299_999))
    );

    let twice = id();
    let wrong = stack.run(&id(), json!({"session_id": twice, "prompt": "wrong"})).await;
    assert_eq!(wrong.unwrap_err().0, "AgentError");
    let right = stack.run(&id(), json!({"session_id": twice, "prompt": "right"})).await;
    assert_eq!(right, Ok(json!(7)));
    check_history("two-runs", &stack.events(&twice).await);

    // The operator's command, as against the local engine.
    let (output, shown) = stack.session(&["start", "--watch", "wrong"]);
    assert_eq!(output.status.code(), Some(1), "{shown}{output:?}");
    let started = shown.lines().next().unwrap();
    let (output, shown) = stack.session(&["explain", started]);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown.contains("Cause: AgentError: wrong input (exit status: 1)"), "{shown}");
    let (output, shown) = stack.session(&["events", &twice, "--all", "--json"]);
    assert_eq!((output.status.code(), shown.lines().count()), (Some(0), 13), "{shown}");

    listed_and_logged(&engine, &stack, &twice).await;

    let few = Deployed::new(&engine, "few", 3).await;
    let (error, cause) = few.run(&id(), json!({"prompt": "forever"})).await.unwrap_err();
    assert_eq!(error, "PollAttemptsSpent");
    assert!(cause.contains("within 3 polls"), "{cause}");

    signs_of_life(&stack).await;
    aborted_and_stopped(&few).await;

    // Refused unread: the container's own reason, in the same run.
    let name = id();
    let (error, cause) = few.run(&name, json!({"prompt": "x".repeat(3_000)})).await.unwrap_err();
    assert_eq!(error, "PayloadTooLarge");
    assert_eq!(cause, "the body is larger than 2000 bytes (MAX_BODY_BYTES)");
    let events = few.events(&name).await;
    assert!(events.iter().all(|event| event.invocation_id == events[0].invocation_id));

    // Nobody behind the front door: the Lambda fails with AgentCore's error.
    few.agent.stop().await;
    let name = id();
    let (error, cause) = few.run(&name, json!({})).await.unwrap_err();
    assert_eq!(error, "RuntimeClientError");
    assert!(cause.contains("Runtime initialization failed"), "{cause}");
    check_history("invocation-failed", &few.events(&name).await);
}

/// The operator's list, the logs in CloudWatch Logs, and a page.
async fn listed_and_logged(engine: &Ministack, stack: &Deployed<'_>, twice: &str) {
    let (output, shown) = stack.session(&["list", "--json", "--failed", "--since", "1h"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let listed = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed = Vec::from_iter(listed.filter(|it| it["id"] == twice));
    assert_eq!(failed.len(), 1, "{shown}");
    assert_eq!(failed[0]["why"], "AgentError: wrong input (exit status: 1)");
    assert!(shown.contains("\"SessionIdInvalid\""), "{shown}");

    let (group, stream) = ("/agents", "container");
    let logs = async |operation: &str, body: Value| {
        call(engine, "logs", &format!("Logs_20140328.{operation}"), body).await
    };
    logs("CreateLogGroup", json!({"logGroupName": group})).await;
    logs("CreateLogStream", json!({"logGroupName": group, "logStreamName": stream})).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let message = |text: &str, id: &str| {
        json!({"fields": {"message": text}, "target": "agent::stderr", "spans": [{"session_id": id}]}).to_string()
    };
    let events = [
        json!({"timestamp": now, "message": message("wrong input", twice)}),
        json!({"timestamp": now + 1, "message": message("of another session", "other")}),
    ];
    let put = json!({"logGroupName": group, "logStreamName": stream, "logEvents": events});
    logs("PutLogEvents", put).await;
    let (output, shown) = stack.session(&["logs", twice, "--agent", "--agent-log-group", group]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.contains("agent: wrong input"), "{shown}");
    let (output, _) = stack.session(&["logs", twice, "--agent"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("set AGENT_LOG_GROUP (deploy.sh prints it)"), "{stderr}");
    let (_, page) = stack.session(&["page", twice]);
    assert!(page.contains("<h1>The session completed."), "{page}");
}

/// A call of one of the engine's services that take JSON.
async fn call(engine: &Ministack, service: &str, target: &str, body: Value) -> Value {
    let scope = format!("Credential={CREDENTIAL}/20260101/{REGION}/{service}/aws4_request");
    let authorization = format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0");
    let request = engine
        .client
        .post(&engine.endpoint)
        .header("authorization", authorization)
        .header("x-amz-target", target)
        .header("content-type", "application/x-amz-json-1.1");
    let answer = request.body(body.to_string()).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{target}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ministack: MINISTACK=path cargo test -p local --test foreign -- --ignored"]
async fn a_stack_with_every_parameter_runs_a_session_and_is_called_by_another_state_machine() {
    let engine = Ministack::start().await;
    engine.upload("invoker.zip", invoker_zip()).await;
    engine.upload("session.asl.json", workflow::SOURCE.into()).await;
    let more = [
        ("AgentName", "whole"),
        ("AgentCommand", "cat"),
        ("AgentEnvironment", "MODEL_ID=x GREETING='hello you'"),
        (
            "AgentPolicyArns",
            "arn:aws:iam::aws:policy/ReadOnlyAccess,arn:aws:iam::aws:policy/AWSLambdaExecute",
        ),
        ("AgentIdleTimeoutSeconds", "60"),
        ("AgentMaxLifetimeSeconds", "3600"),
        ("AlarmTopicArn", "arn:aws:sns:us-east-1:000000000000:alarms"),
        ("AllowBedrockModels", "yes"),
        ("ExportTraces", "yes"),
        ("JournalRetentionDays", "30"),
        ("LiftJournalProtection", "yes"),
        ("LogRetentionDays", "7"),
        ("PatienceSeconds", "240"),
        ("PollMaxSeconds", "30"),
        ("SecurityGroupIds", "sg-1"),
        ("SubnetIds", "subnet-1,subnet-2"),
        ("TaskTimeoutSeconds", "60"),
    ];
    let stack = Deployed::with(&engine, "whole", 600, &more).await;
    let name = id();
    assert_eq!(stack.run(&name, json!({"prompt": "right"})).await, Ok(json!(7)));
    let kept = stack.events(&name).await;
    assert!(kept.iter().all(|event| event.expires_at.is_some() || event.source == "agent"));

    let definition = include_str!("../../workflow/examples/run-agent.asl.json");
    let caller = stack
        .workflow
        .create_state_machine()
        .name("caller")
        .definition(definition.replace("${StateMachineArn}", &stack.state_machine))
        .role_arn("arn:aws:iam::000000000000:role/caller")
        .send()
        .await
        .unwrap();
    let called = Deployed { state_machine: caller.state_machine_arn, ..stack };
    assert_eq!(called.run(&id(), json!({"prompt": "right"})).await, Ok(json!(7)));
    let (error, cause) = called.run(&id(), json!({"prompt": "wrong"})).await.unwrap_err();
    assert_eq!((&*error, &*cause), ("AgentError", "wrong input (exit status: 1)"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ministack: MINISTACK=path cargo test -p local --test foreign -- --ignored"]
async fn the_alarm_for_tampering_hears_of_what_no_writer_does_and_of_nothing_else() {
    let engine = Ministack::start().await;
    let patterns = include_str!("../../deploy/template.yaml").lines();
    let patterns = patterns.filter_map(|line| line.trim().strip_prefix("- Pattern: '"));
    let patterns = Vec::from_iter(patterns.map(|pattern| pattern.trim_end_matches('\'')));
    assert_eq!(patterns.len(), 3);
    let expiry = json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"});
    let other = json!({"type": "Service", "principalId": "somebody.amazonaws.com"});
    for (name, identity, expected) in [
        ("INSERT", Value::Null, false),
        ("MODIFY", Value::Null, true),
        ("REMOVE", Value::Null, true),
        ("REMOVE", other, true),
        ("REMOVE", expiry, false),
    ] {
        let mut record = json!({
            "id": "1", "account": "000000000000", "source": "aws:dynamodb", "region": REGION, "resources": [],
            "time": "2026-11-26T00:00:00Z", "detail-type": "record", "detail": {},
            "eventName": name, "dynamodb": {"Keys": {"PK": {"S": "SESSION#x"}}},
        });
        if !identity.is_null() {
            record["userIdentity"] = identity;
        }
        let mut heard = false;
        for pattern in &patterns {
            let body = json!({"EventPattern": pattern, "Event": record.to_string()});
            let answer = call(&engine, "events", "AWSEvents.TestEventPattern", body).await;
            heard |= answer["Result"] == true;
        }
        assert_eq!(heard, expected, "{record}");
    }
}

/// An execution that somebody stops leaves the agent at work.
async fn aborted_and_stopped(stack: &Deployed<'_>) {
    let name = id();
    let start = stack.workflow.start_execution().state_machine_arn(&stack.state_machine);
    let input = json!({"prompt": "forever"}).to_string();
    let started = start.name(&name).input(input).send().await.unwrap();
    while stack.events(&name).await.len() < 4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stop = stack.workflow.stop_execution().execution_arn(&started.execution_arn);
    stop.send().await.unwrap();
    for command in ["explain", "events"] {
        let (output, shown) = stack.session(&[command, &name]);
        assert_eq!(output.status.code(), Some(3), "{shown}");
        assert!(shown.contains("The execution has ended (ABORTED): nobody watches"), "{shown}");
        let how = format!("Stop it: agent-journal stop {name}");
        assert!(shown.contains(&how), "{shown}");
    }
    let (output, shown) = stack.session(&["stop", &name]);
    assert_eq!(output.status.code(), Some(0), "{shown}{output:?}");
    assert!(shown.contains("AGENT_BACKGROUND_TASK_FAILED Stopped"), "{shown}");
}

/// Alive and slow; replaced; killed.
async fn signs_of_life(stack: &Deployed<'_>) {
    let slow = id();
    assert_eq!(stack.run(&slow, json!({"prompt": "slow"})).await, Ok(json!(7)));
    let events = stack.events(&slow).await;
    let task = events.iter().find(|event| event.heartbeat_seconds == Some(1)).unwrap();
    let signs = stack.journal.signs(&slow.parse().unwrap(), &task.timestamp).await.unwrap();
    assert!(signs.len() >= 10 && signs.iter().all(|sign| sign.kind == SignKind::Beat), "{signs:?}");

    let (name, other) = (id(), id());
    let kill = async {
        for session in [&name, &other] {
            let started = async || {
                let events = stack.events(session).await;
                let mut events = events.into_iter();
                events.find(|event| event.status == Status::AgentBackgroundTaskStarted)
            };
            while started().await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        kill(Pid::from_raw(stack.agent.id()), Signal::SIGKILL).unwrap();
        // Another container gets the second session's invocation again.
        let (process, address) = container(stack.engine, &stack.table).await;
        let run = &stack.events(&other).await[0].invocation_id;
        let body = json!({"input": {"prompt": "slow"}, "invocation_id": run});
        let request = stack.engine.client.post(format!("http://{address}/invocations"));
        let request = request.header(agent_runtime::SESSION_HEADER, &other);
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        process
    };
    let (killed, replaced, _process) = tokio::join!(
        stack.run(&name, json!({"prompt": "forever"})),
        stack.run(&other, json!({"prompt": "forever"})),
        kill
    );
    assert_eq!(killed.unwrap_err().0, "ContainerLost");
    check_history("container-killed", &stack.events(&name).await);
    assert_eq!(replaced, Ok(json!(7)));
    let (output, shown) = stack.session(&["explain", &name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown.contains("no new sign of life of the container since 20"), "{shown}");
}

#[test]
#[ignore = "needs asl-validator: ASL_VALIDATOR=path cargo test -p local --test foreign -- --ignored"]
fn asl_validator_accepts_the_definition_with_every_substitution() {
    let program = std::env::var_os("ASL_VALIDATOR").unwrap_or_else(|| {
        panic!("ASL_VALIDATOR must name the executable; .ci/run installs it and sets this")
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rendered.asl.json");
    let accepts = |definition: &str| {
        std::fs::write(&file, definition).unwrap();
        Command::new(&program).arg("--json-path").arg(&file).output().unwrap()
    };
    let example = include_str!("../../workflow/examples/run-agent.asl.json");
    let arn = "arn:aws:states:us-east-1:000000000000:stateMachine:a-session";
    let output = accepts(&example.replace("${StateMachineArn}", arn));
    assert!(output.status.success(), "{output:?}");
    let smallest = Definition {
        poll_min_seconds: 1,
        poll_max_seconds: 1,
        max_poll_attempts: 1,
        patience_seconds: 0,
        ..Definition::default()
    };
    let largest = Definition {
        journal_table_name: "t".repeat(255),
        invoker_function_arn: "arn:aws:lambda:us-east-1:000000000000:function:invoker:live"
            .to_owned(),
        journal_retention_days: 36_500,
        poll_min_seconds: 60,
        max_poll_attempts: MAX_POLL_ATTEMPTS,
        patience_seconds: 3_600,
        ..Definition::default()
    };
    for definition in [smallest, largest] {
        let rendered = definition.render();
        for (name, value) in definition.substitutions() {
            assert!(rendered.contains(&value), "{name}");
        }
        let output = accepts(&rendered);
        assert!(output.status.success(), "{output:?}");
        let broken = rendered.replace("\"Next\": \"HasEnded\"", "\"Next\": \"Nowhere\"");
        assert_ne!(broken, rendered);
        assert!(!accepts(&broken).status.success(), "it accepts anything");
    }
}
