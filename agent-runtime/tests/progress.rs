//! The phases that an agent journals, over real sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use agent_runtime::{Agent, AgentError, Context, Invocation, MAX_PROGRESS_EVENTS};
use serde_json::{Value, json};
use support::{Dynamo, Fault, Host, session_id};

/// Does what it was made with.
struct Does<F>(F);

impl<F: Fn(&Context) + Send + Sync + 'static> Agent for Does<F> {
    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        (self.0)(&invocation.context);
        Ok(Value::Null)
    }
}

#[tokio::test]
async fn phases_are_in_the_journal_within_their_task() {
    let agent = Does(|context: &Context| {
        context.started("plan", "").unwrap();
        context.completed("Plan", "7 steps").unwrap();
        context.started("step-1", &"é".repeat(1_000)).unwrap();
        context.failed("step-1", "no such file").unwrap();
        assert!(context.started("a b", "").unwrap_err().to_string().contains("1 to 50"));
    });
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    host.terminal(&id).await;
    let events = host.events(&id).await;
    let statuses: Vec<_> = events.iter().map(|event| event.status.as_str()).collect();
    assert_eq!(
        statuses[1..],
        [
            "AGENT_BACKGROUND_TASK_STARTED",
            "TASK_PLAN_STARTED",
            "TASK_PLAN_COMPLETED",
            "TASK_STEP-1_STARTED",
            "TASK_STEP-1_FAILED",
            "AGENT_BACKGROUND_TASK_COMPLETED"
        ]
    );
    assert_eq!(events[2].message, None);
    assert_eq!(events[3].message.as_deref(), Some("7 steps"));
    assert_eq!(events[4].message.as_ref().unwrap().len(), 1_024, "cut at 1 KB");
    assert_eq!(events[5].error_message.as_deref(), Some("no such file"));
    assert_eq!(
        (&events[5].error_type, &events[5].message),
        (&Some("AgentError".to_owned()), &None)
    );
    assert!(events.iter().all(|event| event.invocation_id == "run-1"));
}

#[tokio::test]
async fn what_is_too_much_is_dropped_and_the_end_is_not() {
    let agent = Does(|context: &Context| {
        (0..3 * MAX_PROGRESS_EVENTS).for_each(|_| context.started("flood", "x").unwrap());
    });
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    let end = host.terminal(&id).await;
    let events = host.events(&id).await;
    let flooded = events.iter().filter(|event| event.status.as_str() == "TASK_FLOOD_STARTED");
    assert!((1..=MAX_PROGRESS_EVENTS).contains(&flooded.count()));
    assert_eq!(events.last(), Some(&end));
}

#[tokio::test]
async fn a_table_that_takes_no_progress_does_not_hold_the_end_up() {
    let tried = Arc::new(Mutex::new(BTreeSet::new()));
    let counted = Arc::clone(&tried);
    let dynamo = Dynamo::new(move |call| {
        if call.status().starts_with("TASK_") {
            counted.lock().unwrap().insert(call.body["Item"]["EventId"].to_string());
            return Fault::ErrorBefore;
        }
        Fault::None
    });
    let agent = Does(|context: &Context| {
        (0..100).for_each(|_| context.started("plan", "").unwrap());
    });
    let (host, id) = (Host::start_with(&dynamo, agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    host.terminal(&id).await;
    // The first of the hundred would be tried for five seconds, and the end came before the second.
    assert_eq!(tried.lock().unwrap().len(), 1);
    let phases = host.statuses(&id).await.iter().filter(|it| it.starts_with("TASK_")).count();
    assert_eq!(phases, 0);
    assert_eq!(host.statuses(&id).await.len(), 3);
}

#[tokio::test]
async fn after_its_end_a_task_says_nothing_more() {
    let kept = Arc::new(Mutex::new(None));
    let keeps = Arc::clone(&kept);
    let agent = Does(move |context: &Context| *keeps.lock().unwrap() = Some(context.clone()));
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    host.terminal(&id).await;
    let context: Context = kept.lock().unwrap().take().unwrap();
    context.started("late", "").unwrap();
    host.invoke(&id, "run-2", json!({})).await;
    support::eventually("the second run's end", async || {
        (host.events(&id).await.len() == 6).then_some(())
    })
    .await;
    assert!(!host.statuses(&id).await.contains(&"TASK_LATE_STARTED".to_owned()));
}
