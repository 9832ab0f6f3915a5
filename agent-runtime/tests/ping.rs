//! `/ping` tells the truth: AgentCore stops a container by what it says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Dynamo, Fault, Host, eventually, session_id};

/// Pings for more than a second, so that a time that is stamped anew would be seen.
async fn steady(host: &Host) -> (String, u64) {
    let first = host.ping().await;
    let until = Instant::now() + Duration::from_millis(1_100);
    while Instant::now() < until {
        assert_eq!(host.ping().await, first);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first
}

#[tokio::test]
async fn ping_is_busy_from_the_start_until_the_terminal_event_is_durable() {
    let (started_down, end_down) =
        (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (start, end) = (Arc::clone(&started_down), Arc::clone(&end_down));
    let dynamo = Dynamo::new(move |call| match call.status() {
        "AGENT_BACKGROUND_TASK_STARTED" if start.load(Ordering::Relaxed) => Fault::ErrorBefore,
        "AGENT_BACKGROUND_TASK_COMPLETED" if end.load(Ordering::Relaxed) => {
            Fault::Refused("AccessDeniedException")
        }
        _ => Fault::None,
    });
    let (host, id) = (Host::start(&dynamo), session_id());
    let tried = async |status: &'static str| {
        eventually(status, async || {
            host.dynamo.calls().iter().any(|call| call.status() == status).then_some(())
        })
        .await;
    };

    let before = steady(&host).await;
    assert_eq!(before.0, "Healthy");

    let invoke = host.invoke(&id, "run-1", json!({"do": "sleep", "ms": 1500}));
    let phases = async {
        tried("AGENT_BACKGROUND_TASK_STARTED").await;
        let starting = steady(&host).await;
        assert_eq!(starting.0, "HealthyBusy", "while the start is not durable");
        assert!(starting.1 > before.1);
        started_down.store(false, Ordering::Relaxed);
        starting
    };
    let ((status, _), starting) = tokio::join!(invoke, phases);
    assert_eq!(status, 200);
    assert_eq!(steady(&host).await, starting, "while the agent runs");

    tried("AGENT_BACKGROUND_TASK_COMPLETED").await;
    assert_eq!(steady(&host).await, starting, "while the journal is down");
    end_down.store(false, Ordering::Relaxed);
    host.terminal(&id).await;
    eventually("Healthy", async || (host.ping().await.0 == "Healthy").then_some(())).await;
    let after = steady(&host).await;
    assert_eq!(after.0, "Healthy");
    assert!(after.1 > starting.1);
}

#[tokio::test]
async fn ping_has_the_fields_that_agentcore_reads() {
    let host = Host::start(&Dynamo::new(|_| Fault::None));
    let answer = host.client.get(host.url("/ping")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let fields = answer.as_object().unwrap();
    assert_eq!(fields.len(), 2);
    assert_eq!(fields["status"], "Healthy");
    assert!(fields["time_of_last_update"].is_u64(), "integer seconds: {answer}");
}

#[tokio::test]
async fn ping_answers_while_a_hundred_tasks_run_and_one_blocks() {
    let host = Host::start(&Dynamo::new(|_| Fault::None));
    let blocked = session_id();
    host.invoke(&blocked, "run-1", json!({"do": "block the thread", "ms": 2500})).await;
    for _ in 0..100 {
        host.invoke(&session_id(), "run-1", json!({"do": "hang"})).await;
    }
    let mut times = Vec::new();
    for _ in 0..500 {
        let start = Instant::now();
        assert_eq!(host.ping().await.0, "HealthyBusy");
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "/ping with 101 tasks, one of them blocking: p50 {:?}, p99 {:?}",
        times[250], times[495]
    );
    assert!(times[495] < Duration::from_millis(500), "p99 {:?}", times[495]);
    assert_eq!(host.terminal(&blocked).await.status.as_str(), "AGENT_BACKGROUND_TASK_COMPLETED");
}
