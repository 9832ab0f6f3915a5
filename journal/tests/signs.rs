//! Slots for signs of life.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use journal::{Draft, FaultKind, Journal, Mark, SessionId, SignKind, Signs, Source, Status};
use serde_json::{Value, json};
use support::open;
use testing::{Dynamo, Fault, TABLE_NAME};
use tokio::time::Instant;

const STARTED: &str = "2026-11-23T02:45:00.120000Z";

fn id() -> SessionId {
    "session-2026-11-23-0123456789-abcdef".parse().unwrap()
}

fn signs(journal: &Journal, slot: u32) -> Signs {
    journal.session(id(), "run-1", Source::Agent).signs(STARTED, slot)
}

/// All items of the partition, in order.
fn items(dynamo: &Dynamo) -> Vec<Value> {
    let query = json!({
        "TableName": TABLE_NAME,
        "KeyConditionExpression": "PK = :pk",
        "ExpressionAttributeValues": {":pk": {"S": format!("ALIVE#{}", id())}},
    });
    let answer = dynamo.database.query(serde_json::from_value(query).unwrap()).unwrap();
    serde_json::to_value(answer).unwrap()["Items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_slot_is_taken_once_and_says_what_the_contract_says() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let journal = open(&dynamo);
    let mut container = signs(&journal, 0);
    let progress = "2026-11-23T02:45:01.000000Z".parse().unwrap();
    assert_eq!(container.take(Mark::Beat(Some(progress))).await, Ok(None));
    assert_eq!(signs(&journal, 1).take(Mark::Stop("wrong input")).await, Ok(None));
    let before = container.take(Mark::Beat(None)).await.unwrap().unwrap();
    assert_eq!((before.kind, before.slot), (SignKind::Stop, 1));
    assert_eq!(before.reason.as_deref(), Some("wrong input"));
    assert_eq!(container.take(Mark::Beat(None)).await, Ok(None));

    let items = items(&dynamo);
    let keys: Vec<_> = items.iter().map(|item| item["SK"]["S"].as_str().unwrap()).collect();
    assert_eq!(keys, [0, 1, 2].map(|n| format!("{STARTED}#{n:06}")));
    assert_eq!(items[0]["Kind"]["S"], "Beat");
    assert_eq!(items[0]["LastProgress"]["S"], progress.to_string());
    assert_eq!(
        (&items[0]["InvocationId"]["S"], &items[0]["Source"]["S"]),
        (&"run-1".into(), &"agent".into())
    );
    let time: chrono::DateTime<chrono::Utc> =
        items[0]["Timestamp"]["S"].as_str().unwrap().parse().unwrap();
    let expires: i64 = items[0]["ExpiresAt"]["N"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires - time.timestamp(), 2 * 86_400);
    // What an operator said is kept as long as an event.
    assert_eq!(items[1]["ExpiresAt"], Value::Null);

    let read = journal.signs(&id(), STARTED).await.unwrap();
    let read: Vec<_> = read.iter().map(|sign| (sign.slot, sign.kind)).collect();
    assert_eq!(read, [(2, SignKind::Beat), (1, SignKind::Stop), (0, SignKind::Beat)]);
    assert_eq!(journal.events(&id()).await.unwrap(), []);
}

#[tokio::test]
async fn a_key_that_no_slot_has_leads_nobody_to_the_end_of_the_numbers() {
    let dynamo = Dynamo::new(|_| Fault::None);
    for number in ["4294967295", "1000000", "zzz"] {
        let key = format!("{STARTED}#{number}");
        let item = json!({"PK": {"S": format!("ALIVE#{}", id())}, "SK": {"S": key}});
        let put = json!({"TableName": TABLE_NAME, "Item": item});
        dynamo.database.put_item(serde_json::from_value(put).unwrap()).unwrap();
    }
    let read = open(&dynamo).signs(&id(), STARTED).await.unwrap();
    assert_eq!(Vec::from_iter(read.iter().map(|sign| sign.slot)), [0, 0, 0]);
}

#[tokio::test]
async fn each_kind_is_read_and_an_unknown_one_is_a_challenge() {
    let dynamo = Dynamo::new(|_| Fault::None);
    for (slot, kind) in ["Beat", "Challenge", "Lost", "Stop", "Other"].iter().enumerate() {
        let key = format!("{STARTED}#{slot:06}");
        let item =
            json!({"PK": {"S": format!("ALIVE#{}", id())}, "SK": {"S": key}, "Kind": {"S": kind}});
        let put = json!({"TableName": TABLE_NAME, "Item": item});
        dynamo.database.put_item(serde_json::from_value(put).unwrap()).unwrap();
    }
    let read = open(&dynamo).signs(&id(), STARTED).await.unwrap();
    let kinds = Vec::from_iter(read.iter().rev().map(|sign| sign.kind));
    use SignKind::{Beat, Challenge, Lost, Stop};
    assert_eq!(kinds, [Beat, Challenge, Lost, Stop, Challenge]);
}

#[tokio::test]
async fn a_slot_that_may_be_free_is_tried_again_and_an_own_one_is_known() {
    for (fault, puts) in [
        (Fault::Refused("ThrottlingException"), 1),
        (Fault::ErrorBefore, 1),
        (Fault::ErrorAfter, 1),
        (Fault::DropAfter, 1),
    ] {
        let dynamo = Dynamo::scripted([fault]);
        let mut container = signs(&open(&dynamo), 0);
        assert!(container.take(Mark::Beat(None)).await.is_err(), "{fault:?}");
        assert_eq!(container.take(Mark::Beat(None)).await, Ok(None), "{fault:?}");
        assert_eq!(items(&dynamo).len(), puts, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_is_given_up_after_five_seconds() {
    let dynamo = Dynamo::new(|_| Fault::Hang);
    let start = Instant::now();
    let fault = signs(&open(&dynamo), 0).take(Mark::Beat(None)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Ambiguous, "{fault}");
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_waits_for_no_event() {
    let dynamo = Dynamo::new(|call| match call.status() {
        "" => Fault::None,
        _ => Fault::Hang,
    });
    let journal = open(&dynamo);
    for run in 0..100 {
        let session = journal.session(id(), format!("run-{run}"), Source::Agent);
        let draft = Draft::new(Status::AgentEntrypointStarted);
        tokio::spawn(async move { session.append(draft, None, Duration::from_secs(60)).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    assert_eq!(signs(&journal, 0).take(Mark::Beat(None)).await, Ok(None));
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
}
