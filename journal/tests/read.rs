//! Reading a session whole, or not at all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use journal::{Draft, Ending, SessionId, Source, Status, ending};
use serde_json::json;
use support::open;
use testing::{Dynamo, Fault, TABLE_NAME};

const DEADLINE: Duration = Duration::from_secs(60);

fn session_id() -> SessionId {
    "session-that-is-read-0123456789-abcdef".parse().unwrap()
}

/// A session of 400 events of 8 KB: more than three pages of 1 MB.
async fn write_long_session(dynamo: &Dynamo) {
    let writer = open(dynamo).session(session_id(), "run-1", Source::Agent);
    for n in 0..400 {
        let message = format!("{n} {}", "x".repeat(8_000));
        let draft = Draft::failure(Status::Other("NOTE".to_owned()), "Note", &message);
        writer.append(draft, None, DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn every_page_is_read_in_order_and_consistently() {
    let dynamo = Dynamo::new(|_| Fault::None);
    write_long_session(&dynamo).await;
    let events = open(&dynamo).events(&session_id()).await.unwrap();
    let numbers: Vec<usize> = events
        .iter()
        .map(|event| {
            event.error_message.as_deref().unwrap().split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(numbers, Vec::from_iter(0..400));
    let queries: Vec<_> =
        dynamo.calls().into_iter().filter(|call| call.operation == "Query").collect();
    assert!(queries.len() > 3, "{} pages", queries.len());
    assert!(queries.iter().all(|query| query.body["ConsistentRead"] == true));
}

#[tokio::test(start_paused = true)]
async fn a_failing_page_is_an_error_and_never_a_shorter_list() {
    let (pages, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (seen, fails) = (Arc::clone(&pages), Arc::clone(&broken));
    let dynamo = Dynamo::new(move |call| {
        let third = call.operation == "Query" && seen.fetch_add(1, Ordering::Relaxed) >= 2;
        if third && fails.load(Ordering::Relaxed) { Fault::ErrorBefore } else { Fault::None }
    });
    write_long_session(&dynamo).await;
    let error = open(&dynamo).events(&session_id()).await.unwrap_err();
    let text = journal::display_chain(&error);
    assert!(text.contains(session_id().as_str()) && text.contains("agent-journal"), "{text}");
    broken.store(false, Ordering::Relaxed);
    assert_eq!(open(&dynamo).events(&session_id()).await.unwrap().len(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_once_is_read_again() {
    for fault in [Fault::ErrorBefore, Fault::Hang, Fault::Refused("ThrottlingException")] {
        let mut first = true;
        let dynamo = Dynamo::new(move |call| {
            let fails = call.operation == "Query" && std::mem::take(&mut first);
            if fails { fault } else { Fault::None }
        });
        let writer = open(&dynamo).session(session_id(), "run-1", Source::Agent);
        writer.append(Draft::new(Status::SessionInitiated), None, DEADLINE).await.unwrap();
        assert_eq!(open(&dynamo).events(&session_id()).await.unwrap().len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_cut_is_an_error() {
    let dynamo = Dynamo::new(|_| Fault::CutBody);
    let error = open(&dynamo).events(&session_id()).await.unwrap_err();
    assert_eq!(error.fault.kind, journal::FaultKind::Ambiguous);
}

#[tokio::test(start_paused = true)]
async fn a_denied_query_names_the_permission() {
    let dynamo = Dynamo::new(|_| Fault::Refused("AccessDeniedException"));
    let error = open(&dynamo).events(&session_id()).await.unwrap_err();
    assert!(error.to_string().contains("dynamodb:Query on table agent-journal"), "{error}");
}

#[tokio::test]
async fn unknown_statuses_and_attributes_are_kept() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let text = |text: &str| AttributeValue::S(text.to_owned());
    aws_sdk_dynamodb::Client::from_conf(dynamo.config().build())
        .put_item()
        .table_name(TABLE_NAME)
        .item("PK", text(&session_id().partition_key()))
        .item("SK", text("EVENT#2026-11-23T02:45:00.120000Z"))
        .item("Status", text("FROM_THE_FUTURE"))
        .item(
            "Colour",
            AttributeValue::M([("r".to_owned(), AttributeValue::N("7".to_owned()))].into()),
        )
        .send()
        .await
        .unwrap();
    let events = open(&dynamo).events(&session_id()).await.unwrap();
    assert_eq!(events[0].status.as_str(), "FROM_THE_FUTURE");
    assert_eq!(events[0].extra["Colour"], serde_json::json!({"r": 7}));
}

#[tokio::test]
async fn a_session_of_ten_thousand_events_is_read_whole() {
    let dynamo = Dynamo::new(|_| Fault::None);
    // Newest first into the engine, so that the order is the journal's and not that of the writes.
    for number in (0..10_000).rev() {
        let time = format!("2026-11-23T02:45:00.{number:06}Z");
        let text = |text: &str| json!({ "S": text });
        let item = json!({
            "PK": text(&session_id().partition_key()), "SK": text(&format!("EVENT#{time}")),
            "Timestamp": text(&time), "Status": text("NOTE"), "EventId": text(&number.to_string()),
        });
        let put = json!({"TableName": TABLE_NAME, "Item": item});
        dynamo.database.put_item(serde_json::from_value(put).unwrap()).unwrap();
    }
    let events = open(&dynamo).events(&session_id()).await.unwrap();
    let numbers = events.iter().map(|event| event.event_id.parse::<u32>().unwrap());
    assert!(numbers.eq(0..10_000));
}

#[tokio::test]
async fn how_a_run_ended_is_one_function_of_its_events() {
    use Status::{
        AgentBackgroundTaskCompleted as Completed, AgentBackgroundTaskFailed as Failed,
        AgentBackgroundTaskStarted as Started, AgentEntrypointFailed as Refused, SessionFailed,
    };
    async fn end(statuses: &[Status]) -> (bool, Option<Status>) {
        let dynamo = Dynamo::new(|_| Fault::None);
        let journal = open(&dynamo);
        let other_run = journal.session(session_id(), "run-0", Source::Agent);
        other_run.append(Draft::new(Status::SessionFailed), None, DEADLINE).await.unwrap();
        let run = journal.session(session_id(), "run-1", Source::Agent);
        for status in statuses {
            run.append(Draft::new(status.clone()), None, DEADLINE).await.unwrap();
        }
        let events = journal.events(&session_id()).await.unwrap();
        match ending(&events, "run-1") {
            Ending::Running => (false, None),
            Ending::Completed(event) => (true, Some(event.status.clone())),
            Ending::Failed(event) => (false, Some(event.status.clone())),
        }
    }
    assert_eq!(end(&[]).await, (false, None));
    assert_eq!(end(&[Started]).await, (false, None));
    assert_eq!(end(&[Started, Completed]).await, (true, Some(Completed)));
    assert_eq!(end(&[Started, Failed]).await, (false, Some(Failed)));
    assert_eq!(end(&[Started, Completed, SessionFailed]).await, (false, Some(SessionFailed)));
    assert_eq!(end(&[Refused]).await, (false, Some(Refused)));
    assert_eq!(end(&[Refused, Started]).await, (false, None), "a retry has started the task");
}
