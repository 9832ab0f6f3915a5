//! The phases that an agent journals, over real sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_runtime::{Agent, AgentError, Invocation, MAX_PROGRESS_EVENTS, TaskContext};
use chrono::{DateTime, TimeDelta, Utc};
use journal::{Event, Status, Timestamp};
use serde_json::{Value, json};
use support::{Dynamo, Fault, Host, session_id};
use tokio::sync::Notify;

/// Does what it was made with.
struct Does<F>(F);

impl<F: Fn(&TaskContext) + Send + Sync + 'static> Agent for Does<F> {
    type Output = Value;

    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        (self.0)(&invocation.context);
        Ok(Value::Null)
    }
}

#[tokio::test]
async fn phases_are_in_the_journal_within_their_task() {
    let agent = Does(|context: &TaskContext| {
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
            "AGENT_BACKGROUND_TASK_STARTED", "TASK_PLAN_STARTED", "TASK_PLAN_COMPLETED",
            "TASK_STEP-1_STARTED", "TASK_STEP-1_FAILED", "AGENT_BACKGROUND_TASK_COMPLETED"
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

/// Says this much, and stays until it is told to end.
struct Floods {
    events: usize,
    end: Arc<Notify>,
}

impl Agent for Floods {
    type Output = Value;

    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        let context = &invocation.context;
        for number in 0..self.events {
            context.started("flood", &number.to_string())?;
        }
        self.end.notified().await;
        Ok(Value::Null)
    }
}

#[tokio::test]
async fn what_is_too_much_is_dropped_and_the_end_is_not() {
    let end = Arc::new(Notify::new());
    let agent = Floods { events: 3 * MAX_PROGRESS_EVENTS, end: Arc::clone(&end) };
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    let flood = async || {
        let events = host.events(&id).await;
        Vec::from_iter(events.into_iter().filter(|it| it.status.as_str() == "TASK_FLOOD_STARTED"))
    };
    support::eventually("as many events as there may be", async || {
        (flood().await.len() >= MAX_PROGRESS_EVENTS).then_some(())
    })
    .await;
    end.notify_one();
    let end = host.terminal(&id).await;
    let said = Vec::from_iter(flood().await.into_iter().map(|event| event.message.unwrap()));
    // The first of them, in the order in which they were said.
    assert_eq!(said, Vec::from_iter((0..MAX_PROGRESS_EVENTS).map(|number| number.to_string())));
    assert_eq!(host.events(&id).await.last(), Some(&end));
}

/// From the task's start to its end.
fn took(events: &[Event]) -> Duration {
    let time = |event: &Event| event.timestamp.parse::<Timestamp>().unwrap().as_micros();
    let began = events.iter().find(|it| it.status == Status::AgentBackgroundTaskStarted).unwrap();
    Duration::from_micros((time(events.last().unwrap()) - time(began)).unsigned_abs())
}

#[tokio::test]
async fn a_flood_that_the_table_takes_slowly_does_not_hold_the_end_up() {
    let dynamo = Dynamo::new(|call| match call.status().starts_with("TASK_") {
        true => Fault::Late(Duration::from_millis(300)),
        false => Fault::None,
    });
    let agent = Does(|context: &TaskContext| {
        (0..MAX_PROGRESS_EVENTS).for_each(|_| context.started("flood", "").unwrap());
    });
    let (host, id) = (Host::start_with(&dynamo, agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    let end = host.terminal(&id).await;
    let events = host.events(&id).await;
    let took = took(&events);
    println!("the end came {took:?} after the start, for a flood that takes 5 min");
    assert!((1..=3).contains(&took.as_secs()), "a second of grace: {took:?}");
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
    let agent = Does(|context: &TaskContext| {
        (0..100).for_each(|_| context.started("plan", "").unwrap());
    });
    let (host, id) = (Host::start_with(&dynamo, agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    host.terminal(&id).await;
    let took = took(&host.events(&id).await);
    assert!((1..=3).contains(&took.as_secs()), "a second of grace: {took:?}");
    // The first is tried for five seconds, and the end came before the others.
    assert_eq!(tried.lock().unwrap().len(), 1);
    let phases = host.statuses(&id).await.iter().filter(|it| it.starts_with("TASK_")).count();
    assert_eq!(phases, 0);
    assert_eq!(host.statuses(&id).await.len(), 3);
}

#[tokio::test]
async fn the_end_sorts_after_progress_when_the_clock_steps_back() {
    let back = Arc::new(AtomicBool::new(false));
    let stepped = Arc::clone(&back);
    let clock = move || match stepped.load(Ordering::SeqCst) {
        true => Utc::now() - TimeDelta::seconds(10),
        false => Utc::now(),
    };
    let dynamo = Dynamo::new(|_| Fault::None);
    let journal = support::open(&dynamo).with_clock(Arc::new(clock));
    let agent = Does(move |context: &TaskContext| {
        context.started("plan", "").unwrap();
        back.store(true, Ordering::SeqCst);
        context.completed("plan", "").unwrap();
    });
    let (host, id) = (Host::start_on(&dynamo, journal, agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    host.terminal(&id).await;
    assert_eq!(
        host.statuses(&id).await[1..],
        [
            "AGENT_BACKGROUND_TASK_STARTED", "TASK_PLAN_STARTED", "TASK_PLAN_COMPLETED",
            "AGENT_BACKGROUND_TASK_COMPLETED"
        ]
    );
}

#[tokio::test]
async fn progress_keeps_its_order_when_a_thousand_keys_in_a_row_are_taken() {
    const FIRST: i64 = 1_795_401_900_000_000;
    let dynamo = Dynamo::new(|_| Fault::None);
    let id = session_id();
    // The clock stands still, and another writer has the next thousand keys.
    let clock: journal::Clock = Arc::new(|| DateTime::<Utc>::from_timestamp_micros(FIRST).unwrap());
    for micros in 1..=1_000 {
        let time = DateTime::<Utc>::from_timestamp_micros(FIRST + micros).unwrap();
        let item = json!({
            "PK": {"S": id.partition_key()}, "EventId": {"S": "another"},
            "SK": {"S": format!("EVENT#{}", Timestamp::from(time))},
        });
        let put = json!({"TableName": testing::TABLE_NAME, "Item": item});
        dynamo.database.put_item(serde_json::from_value(put).unwrap()).unwrap();
    }
    let end = Arc::new(Notify::new());
    let agent = Floods { events: 100, end: Arc::clone(&end) };
    let journal = support::open(&dynamo).with_clock(clock);
    let host = Host::start_on(&dynamo, journal, agent);
    host.invoke(&id, "run-1", json!({})).await;
    support::eventually("all progress", async || {
        let events = host.events(&id).await;
        (events.iter().filter(|event| event.message.is_some()).count() == 100).then_some(())
    })
    .await;
    end.notify_one();
    host.terminal(&id).await;
    let mut events = host.events(&id).await;
    events.retain(|event| event.event_id != "another");
    let said = Vec::from_iter(events.iter().filter_map(|event| event.message.clone()));
    assert_eq!(said, Vec::from_iter((0..100).map(|number| number.to_string())));
    assert_eq!(events.len(), 103, "nothing is lost");
    let puts = dynamo.calls().len();
    assert!(puts < 103 + 25, "{puts} puts: the way past the taken keys doubles");
}

#[tokio::test]
async fn after_its_end_a_task_says_nothing_more() {
    let kept = Arc::new(Mutex::new(None));
    let keeps = Arc::clone(&kept);
    let agent = Does(move |context: &TaskContext| *keeps.lock().unwrap() = Some(context.clone()));
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({})).await;
    host.terminal(&id).await;
    let context: TaskContext = kept.lock().unwrap().take().unwrap();
    context.started("late", "").unwrap();
    host.invoke(&id, "run-2", json!({})).await;
    support::eventually("the second run's end", async || {
        (host.events(&id).await.len() == 6).then_some(())
    })
    .await;
    assert!(!host.statuses(&id).await.contains(&"TASK_LATE_STARTED".to_owned()));
}
