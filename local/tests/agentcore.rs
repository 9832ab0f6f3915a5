//! The local AgentCore: a container for each session, and when it ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use local::agentcore::Lifecycle;
use local::asl::{Execution, ExecutionEnd};
use local::options::Options;
use nix::sys::signal::{Signal, kill};
use serde_json::json;
use support::{Stack, execution, failure};
use testing::{CREDENTIAL, REGION};

const TASK_STARTED: &str = "AGENT_BACKGROUND_TASK_STARTED";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn with_lifecycle(agent: &str, idle_timeout: Duration, max_lifetime: Duration) -> Stack {
    let lifecycle = Lifecycle { idle_timeout, max_lifetime };
    Stack::start_with(|options| Options { lifecycle, ..options }, agent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_a_container_and_keeps_it() {
    let stack = Stack::start("cat", 600).await;
    let id = format!("session-{}", uuid::Uuid::new_v4());
    let run = || execution(json!({"session_id": id}));
    for _ in 0..2 {
        assert_eq!(stack.system.run(&run()).await, ExecutionEnd::Succeeded(json!({})));
    }
    let first = stack.container(&id);
    let other = execution(json!({}));
    stack.system.run(&other).await;
    assert_ne!(stack.container(&other.name), first);
    assert_eq!(stack.container(&id), first);
    // A dead one is replaced at the next request.
    kill(first, Signal::SIGKILL).unwrap();
    stack.system.container(&id.parse().unwrap()).unwrap().ended().await;
    assert_eq!(stack.system.run(&run()).await, ExecutionEnd::Succeeded(json!({})));
    assert_ne!(stack.container(&id), first);
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_container_is_ended_and_a_busy_one_is_not() {
    let agent = "sh -c 'read -r input; case $input in *long*) sleep 9;; esac; echo 7'";
    let stack = with_lifecycle(agent, seconds(3), seconds(600)).await;
    let (short, long) = (execution(json!({})), execution(json!({"prompt": "long"})));
    let idle = async {
        assert_eq!(stack.system.run(&short).await, ExecutionEnd::Succeeded(json!(7)));
        let ended = Instant::now();
        let container = stack.system.container(&short.name.parse().unwrap()).unwrap();
        assert_eq!(container.ended().await, "exit status: 0");
        assert!(ended.elapsed() < seconds(9), "{:?}", ended.elapsed());
    };
    let (end, ()) = tokio::join!(stack.system.run(&long), idle);
    assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_ended_at_its_maximum_lifetime_whatever_it_does() {
    let stack = with_lifecycle("sleep 60", seconds(600), seconds(4)).await;
    let (error, _) = failure(stack.system.run(&execution(json!({}))).await);
    assert_eq!(error, "Terminated");
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_runtime_session_ends_the_sessions_container_and_no_other() {
    let stack = Stack::start("sleep 60", 600).await;
    let config = aws_sdk_bedrockagentcore::config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(CREDENTIAL, CREDENTIAL, None, None, "test"))
        .endpoint_url(format!("http://{}", stack.system.agentcore))
        .build();
    let client = aws_sdk_bedrockagentcore::Client::from_conf(config);
    let stop = async |id: &str| {
        let arn = "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/x-0123456789";
        client.stop_runtime_session().agent_runtime_arn(arn).runtime_session_id(id).send().await
    };
    let (first, second) = (execution(json!({})), execution(json!({})));
    let operator = async {
        stack.wait_for(&first.name, &[TASK_STARTED]).await;
        stack.wait_for(&second.name, &[TASK_STARTED]).await;
        stop(&first.name).await.unwrap();
    };
    let ended = async { tokio::join!(stack.system.run(&first), operator).0 };
    tokio::select! {
        end = stack.system.run(&second) => unreachable!("{end:?}"),
        end = ended => assert_eq!(failure(end).0, "Terminated"),
    }
    let unknown = stop(&uuid::Uuid::new_v4().to_string()).await.unwrap_err();
    assert!(unknown.into_service_error().is_resource_not_found_exception());
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sessions_at_once_all_end_well() {
    let stack = Stack::start("cat", 600).await;
    let runs = Vec::from_iter((0..100).map(|n| execution(json!({"n": n}))));
    let run = async |run: &Execution| (stack.system.run(run).await, run.input.clone());
    let begun = Instant::now();
    let ends = futures_util::future::join_all(runs.iter().map(run)).await;
    println!("a hundred sessions took {:?}", begun.elapsed());
    for (end, input) in ends {
        assert_eq!(end, ExecutionEnd::Succeeded(input));
    }
    stack.system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_stands_still_holds_up_no_other_session() {
    let stack = Stack::start("sh -c 'sleep 1; echo 7'", 600).await;
    let frozen = execution(json!({}));
    let others = async {
        stack.wait_for(&frozen.name, &[TASK_STARTED]).await;
        kill(stack.container(&frozen.name), Signal::SIGSTOP).unwrap();
        let begun = Instant::now();
        for _ in 0..3 {
            let end = stack.system.run(&execution(json!({}))).await;
            assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
        }
        assert!(begun.elapsed() < seconds(30), "{:?}", begun.elapsed());
        kill(stack.container(&frozen.name), Signal::SIGCONT).unwrap();
    };
    let (end, ()) = tokio::join!(stack.system.run(&frozen), others);
    assert_eq!(end, ExecutionEnd::Succeeded(json!(7)));
    stack.system.stop().await;
}
