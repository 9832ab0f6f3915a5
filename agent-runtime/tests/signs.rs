//! Signs of life of a running task, and the orders that come back by them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_runtime::Limits;
use journal::{Mark, SessionId, Sign, SignKind, Source, Status};
use serde_json::json;
use support::{Dynamo, Fault, Host, calm, eventually, session_id};

const HEARTBEAT: Duration = Duration::from_millis(50);

fn quick(dynamo: &Dynamo) -> Host {
    Host::start_within(dynamo, Limits { heartbeat: Some(HEARTBEAT), ..Limits::default() })
}

/// The timestamp of the session's AGENT_BACKGROUND_TASK_STARTED.
async fn started(host: &Host, id: &SessionId) -> String {
    let events = host.events(id).await;
    let start = events.iter().find(|event| event.status == Status::AgentBackgroundTaskStarted);
    start.unwrap().timestamp.clone()
}

async fn signs(host: &Host, id: &SessionId) -> Vec<Sign> {
    let started = started(host, id).await;
    calm(&host.dynamo).signs(id, &started).await.unwrap()
}

/// Takes the next free slot of the task, as an operator does.
async fn stop(host: &Host, id: &SessionId, reason: &str) {
    let started = started(host, id).await;
    let journal = calm(&host.dynamo).session(id.clone(), "run-1", Source::Agent);
    let mut slots = journal.signs(&started, 0);
    while slots.take(Mark::Stop(reason)).await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_task_gives_signs_of_life_from_its_start_to_its_end() {
    let host = quick(&Dynamo::new(|_| Fault::None));
    let id = session_id();
    host.invoke(&id, "run-1", json!({"do": "sleep", "ms": 400})).await;
    let events = host.events(&id).await;
    let start = events.iter().find(|event| event.status == Status::AgentBackgroundTaskStarted);
    assert_eq!(start.unwrap().heartbeat_seconds, Some(1), "whole seconds, at least one");
    host.terminal(&id).await;
    let before = signs(&host, &id).await.len();
    tokio::time::sleep(6 * HEARTBEAT).await;
    let signs = signs(&host, &id).await;
    // One may have been under way.
    assert!(signs.len() <= before + 1, "{before}, {signs:?}");
    let slots: Vec<_> = signs.iter().rev().map(|sign| sign.slot).collect();
    assert_eq!(slots, Vec::from_iter(0..u32::try_from(signs.len()).unwrap()));
    assert!((2..=8).contains(&slots.len()), "{slots:?}");
    assert!(signs.iter().all(|sign| sign.kind == SignKind::Beat), "{signs:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_task_without_a_heartbeat_gives_none_and_says_so() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let host = Host::start_within(&dynamo, Limits { heartbeat: None, ..Limits::default() });
    let id = session_id();
    host.invoke(&id, "run-1", json!({"do": "sleep", "ms": 100})).await;
    host.terminal(&id).await;
    assert!(host.events(&id).await.iter().all(|event| event.heartbeat_seconds.is_none()));
    assert_eq!(signs(&host, &id).await, []);
    host.stop().await;
}

#[tokio::test]
async fn agents_that_block_every_thread_hold_up_no_sign() {
    let host = quick(&Dynamo::new(|_| Fault::None));
    let ids = Vec::from_iter(std::iter::repeat_with(session_id).take(12));
    for id in &ids {
        host.invoke(id, "run-1", json!({"do": "block the thread", "ms": 1_500})).await;
    }
    let last = ids.last().unwrap();
    eventually("three signs of every task", async || {
        let mut all = true;
        for id in &ids {
            all &= signs(&host, id).await.len() >= 3;
        }
        all.then_some(())
    })
    .await;
    assert!(!host.statuses(last).await.iter().any(|status| status.ends_with("COMPLETED")));
    for id in &ids {
        host.terminal(id).await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_sign_that_is_throttled_is_not_tried_again_within_a_second() {
    let dynamo = Dynamo::new(|call| match call.body["Item"]["Kind"]["S"] == "Beat" {
        true => Fault::Refused("ThrottlingException"),
        false => Fault::None,
    });
    let host = quick(&dynamo);
    let tried = || dynamo.calls().iter().filter(|call| call.status().is_empty()).count();
    host.invoke(&session_id(), "run-1", json!({"do": "hang"})).await;
    eventually("the first attempt", async || (tried() > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(tried(), 1);
    eventually("the second one", async || (tried() > 1).then_some(())).await;
    host.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_task_with_its_reason() {
    let host = quick(&Dynamo::new(|_| Fault::None));
    let id = session_id();
    host.invoke(&id, "run-1", json!({"do": "hang"})).await;
    stop(&host, &id, "wrong input").await;
    let end = host.terminal(&id).await;
    assert_eq!(end.error_type.as_deref(), Some("Stopped"));
    assert_eq!(end.error_message.as_deref(), Some("wrong input"));
    host.stop().await;
}

#[tokio::test]
async fn an_order_after_the_outcome_changes_nothing() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let dynamo = Dynamo::new(move |call| match call.status() {
        "AGENT_BACKGROUND_TASK_COMPLETED" if !is_open.load(Ordering::SeqCst) => Fault::ErrorBefore,
        _ => Fault::None,
    });
    let host = quick(&dynamo);
    let id = session_id();
    host.invoke(&id, "run-1", json!({"do": "return", "value": 7})).await;
    let tried = async || {
        let completed = |call: &testing::Call| call.status() == "AGENT_BACKGROUND_TASK_COMPLETED";
        dynamo.calls().iter().any(completed).then_some(())
    };
    eventually("an attempt at the end", tried).await;
    stop(&host, &id, "too late").await;
    // The container has seen the order when it has answered it with a slot of its own.
    let answered = async || {
        let newest = signs(&host, &id).await;
        (newest.first()?.kind == SignKind::Beat).then_some(())
    };
    eventually("an answer to the order", answered).await;
    open.store(true, Ordering::SeqCst);
    assert_eq!(host.terminal(&id).await.status, Status::AgentBackgroundTaskCompleted);
    host.stop().await;
}

#[tokio::test]
async fn a_task_that_works_too_long_or_into_the_end_of_its_container_is_ended() {
    let soon = Duration::from_millis(300);
    let three_minutes = Duration::from_secs(180);
    for (limits, error_type, said) in [
        (
            Limits { task_timeout: Some(soon), ..Limits::default() },
            "TimedOut",
            "TASK_TIMEOUT_SECONDS",
        ),
        (
            Limits { max_lifetime: Some(three_minutes + soon), ..Limits::default() },
            "LifetimeSpent",
            "lifetime of 180 s",
        ),
    ] {
        let host = Host::start_within(&Dynamo::new(|_| Fault::None), limits);
        let id = session_id();
        host.invoke(&id, "run-1", json!({"do": "hang"})).await;
        let end = host.terminal(&id).await;
        assert_eq!(end.error_type.as_deref(), Some(error_type));
        assert!(end.error_message.as_ref().unwrap().contains(said), "{end:?}");
        host.stop().await;
    }
    // One that starts in a container's last minutes is left to work, and so is one that has time.
    let late = Limits { max_lifetime: Some(three_minutes), ..Limits::default() };
    let (task_timeout, max_lifetime) = (Some(three_minutes), Some(2 * three_minutes));
    for limits in [late, Limits { task_timeout, max_lifetime, ..Limits::default() }] {
        let host = Host::start_within(&Dynamo::new(|_| Fault::None), limits);
        let id = session_id();
        host.invoke(&id, "run-1", json!({"do": "sleep", "ms": 300})).await;
        assert_eq!(host.terminal(&id).await.status, Status::AgentBackgroundTaskCompleted);
        host.stop().await;
    }
}
