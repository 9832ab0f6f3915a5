//! The append rule, fault by fault. Time is paused, so deadlines of minutes pass at once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::Builder;
use chrono::{DateTime, Utc};
use journal::{
    AppendErrorKind, Draft, Event, Journal, SessionId, SessionJournal, Settings, Source, Status,
    TERMINAL_DEADLINE,
};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use support::{open, open_calm};
use testing::{Dynamo, Fault};
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(60);

fn session_id() -> SessionId {
    "session-of-the-append-rule-0123456789".parse().unwrap()
}

fn writer(journal: &Journal) -> SessionJournal {
    journal.session(session_id(), "run-1", Source::Agent)
}

fn draft() -> Draft {
    Draft::new(Status::AgentEntrypointStarted)
}

async fn events(dynamo: &Dynamo) -> Vec<Event> {
    open_calm(dynamo).events(&session_id()).await.unwrap()
}

/// A clock that shows `2026-11-23T02:45:00Z` and these microseconds.
fn clock(micros: &Arc<AtomicI64>) -> journal::Clock {
    let micros = Arc::clone(micros);
    Arc::new(move || {
        DateTime::<Utc>::from_timestamp_micros(
            1_795_401_900_000_000 + micros.load(Ordering::Relaxed),
        )
        .unwrap()
    })
}

/// Connections are files, of which a process has so many.
#[tokio::test(start_paused = true)]
async fn no_more_than_32_writes_are_under_way_and_one_that_has_no_turn_is_certainly_not_written() {
    let dynamo = Dynamo::new(|_| Fault::Hang);
    let journal = writer(&open(&dynamo));
    let append = |within| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.append(draft(), None, within).await })
    };
    let under_way = Vec::from_iter((0..32).map(|_| append(Duration::from_secs(2))));
    let waiting = Vec::from_iter((0..8).map(|_| append(Duration::from_secs(1))));
    for append in waiting {
        let error = append.await.unwrap().unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Failed, "{error:?}");
    }
    assert_eq!(dynamo.calls().len(), 32);
    for append in under_way {
        let error = append.await.unwrap().unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Unknown, "{error:?}");
    }
    assert_eq!(dynamo.calls().len(), 32);
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_passes_leaves_exactly_one_item() {
    for fault in [
        Fault::Refused("ThrottlingException"),
        Fault::Refused("ProvisionedThroughputExceededException"),
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::DropAfter,
        Fault::Late(Duration::from_secs(6)),
        Fault::Late(Duration::from_secs(7)),
        Fault::Hang,
        Fault::CutBody,
        Fault::NoConnection,
    ] {
        let dynamo = Dynamo::scripted([fault]);
        let time = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
        tokio::time::sleep(DEADLINE).await;
        let events = events(&dynamo).await;
        assert_eq!(events.len(), 1, "{fault:?}");
        assert_eq!(events[0].timestamp, time.to_string(), "{fault:?}");
        assert_eq!(dynamo.calls().len(), 2, "{fault:?}: one retry");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_or_is_a_proxys_is_never_final() {
    for fault in [
        Fault::Unreadable(400),
        Fault::Unreadable(403),
        Fault::Proxy(400, ""),
        Fault::Proxy(403, "<html>denied</html>"),
        Fault::Proxy(407, "<html>sign in</html>"),
        Fault::Proxy(408, ""),
        Fault::Proxy(421, ""),
        Fault::Proxy(425, ""),
        Fault::Proxy(408, r#"{"code":"RequestTimeout"}"#),
        Fault::Proxy(403, r#"{"code":"Blocked"}"#),
        Fault::Proxy(400, r#"{"__type":""}"#),
    ] {
        // After an answer that was lost: the first put was applied.
        let dynamo = Dynamo::scripted([Fault::DropAfter, fault]);
        writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
        assert_eq!((events(&dynamo).await.len(), dynamo.calls().len()), (1, 3), "{fault:?}");
        let dynamo = Dynamo::new(move |_| fault);
        let error = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Unknown, "{fault:?}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_dynamodbs_is_no_success() {
    for fault in [Fault::Proxy(200, ""), Fault::Proxy(200, "{}"), Fault::Proxy(204, "")] {
        let dynamo = Dynamo::scripted([fault]);
        writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
        assert_eq!((events(&dynamo).await.len(), dynamo.calls().len()), (1, 2), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_cut() {
    let dynamo = Dynamo::scripted([Fault::Endless]);
    writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
    assert_eq!((events(&dynamo).await.len(), dynamo.calls().len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_taken_keys_are_passed_in_some_ten_puts() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let journal = open(&dynamo).with_clock(clock(&Arc::default()));
    let other = writer(&journal);
    for _ in 0..1_000 {
        other.append(draft(), None, DEADLINE).await.unwrap();
    }
    let calls = dynamo.calls().len();
    let start = Instant::now();
    writer(&journal).append(draft(), None, DEADLINE).await.unwrap();
    let puts = dynamo.calls().len() - calls;
    assert!(puts <= 12, "{puts} puts");
    assert_eq!(start.elapsed(), Duration::ZERO, "the table answers, so nothing waits");
    assert_eq!(events(&dynamo).await.len(), 1_001);
}

#[tokio::test(start_paused = true)]
async fn the_backoff_begins_anew_after_a_collision() {
    let busy = Fault::Refused("ThrottlingException");
    let collision = Fault::Refused("ConditionalCheckFailedException");
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&times);
    let mut faults = [busy, busy, busy, busy, busy, collision, busy].into_iter();
    let dynamo = Dynamo::new(move |_| {
        seen.lock().unwrap().push(Instant::now());
        faults.next().unwrap_or(Fault::None)
    });
    writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
    let times = times.lock().unwrap();
    let waits = Vec::from_iter(times.windows(2).map(|pair| pair[1] - pair[0]));
    assert!(waits[4] >= Duration::from_millis(400), "{waits:?}");
    assert!(waits[6] <= Duration::from_millis(50), "the table has answered: {waits:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_leaves_turns_to_the_starts_and_ends_of_tasks() {
    // A table that throttles progress for as long as it comes, and has room for the rest.
    let dynamo = Dynamo::new(|call| match call.status().starts_with("TASK_") {
        true => Fault::Refused("ThrottlingException"),
        false => Fault::None,
    });
    let journal = open(&dynamo);
    let progress = Vec::from_iter((0..300).map(|number| {
        let id = format!("session-of-a-talkative-agent-{number:010}").parse().unwrap();
        let writer = journal.session(id, "run-1", Source::Agent);
        let draft = Draft::progress("plan", journal::Step::Started, "").unwrap();
        tokio::spawn(async move { writer.append(draft, None, DEADLINE).await })
    }));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    writer(&journal).append(draft(), None, DEADLINE).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let tried = dynamo.calls().len();
    assert!(tried < 100, "{tried} puts in a second: what is throttled slows down");
    for progress in progress {
        assert_eq!(progress.await.unwrap().unwrap_err().kind, AppendErrorKind::Failed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_write_whose_answer_was_lost_is_recognised_and_not_moved() {
    let dynamo = Dynamo::scripted([Fault::DropAfter]);
    let time = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
    let keys: Vec<_> =
        dynamo.calls().iter().map(|call| call.body["Item"]["SK"]["S"].clone()).collect();
    assert_eq!(keys, [format!("EVENT#{time}"), format!("EVENT#{time}")]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_any_retry_budget_is_outlasted() {
    // The SDK's own budget is 500 tokens at 5 a retry.
    let dynamo = Dynamo::scripted([Fault::ErrorBefore; 700]);
    let journal = writer(&open(&dynamo));
    let within = Duration::from_secs(3_600);
    journal.append(draft(), None, within).await.unwrap();
    assert_eq!(dynamo.calls().len(), 701);
    assert_eq!(events(&dynamo).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_outcome_is_never_the_opposite_of_the_truth() {
    let unapplied = [Fault::NoConnection, Fault::Refused("ThrottlingException")];
    for fault in unapplied {
        let dynamo = Dynamo::new(move |_| fault);
        let error = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Failed, "{fault:?}: {error:?}");
        assert!(events(&dynamo).await.is_empty());
    }
    for fault in [Fault::ErrorBefore, Fault::Hang, Fault::Late(Duration::from_secs(100))] {
        let dynamo = Dynamo::new(move |_| fault);
        let start = Instant::now();
        let error = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Unknown, "{fault:?}: {error:?}");
        assert!(start.elapsed() <= DEADLINE, "{fault:?}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_ambiguous_attempt_is_unknown() {
    let dynamo = Dynamo::scripted([Fault::DropAfter, Fault::Refused("AccessDeniedException")]);
    let error = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap_err();
    assert_eq!(error.kind, AppendErrorKind::Unknown, "{error:?}");
    assert_eq!(events(&dynamo).await[0].event_id, error.event.event_id);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_hides_the_item_is_a_collision_unless_an_attempt_was_ambiguous() {
    let hidden = Fault::Refused("ConditionalCheckFailedException");
    let dynamo = Dynamo::scripted([hidden]);
    writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap();
    assert_eq!(events(&dynamo).await.len(), 1);
    let dynamo = Dynamo::scripted([Fault::DropAfter, hidden]);
    let error = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap_err();
    assert_eq!(error.kind, AppendErrorKind::Unknown, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_can_mend_fails_at_once_and_names_table_and_permission() {
    for (code, said) in [
        ("ResourceNotFoundException", "table agent-journal does not exist"),
        ("AccessDeniedException", "permission dynamodb:PutItem on table agent-journal is denied"),
        ("ValidationException", "table agent-journal refused the request"),
        ("ExpiredTokenException", "no valid AWS credentials to use table agent-journal"),
        ("UnrecognizedClientException", "no valid AWS credentials to use table agent-journal"),
    ] {
        let dynamo = Dynamo::new(move |_| Fault::Refused(code));
        let start = Instant::now();
        let error = writer(&open(&dynamo)).append(draft(), None, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Refused, "{error:?}");
        let text = journal::display_chain(&error);
        assert!(text.contains(said) && text.contains(code), "{text}");
        assert_eq!((dynamo.calls().len(), start.elapsed()), (1, Duration::ZERO));
    }
}

#[tokio::test]
async fn missing_credentials_and_a_missing_table_are_what_the_real_sdk_makes_of_them() {
    let table = testing::Table::open(None, 0).await.unwrap();
    let settings = |name: &str| Settings { table_name: name.to_owned(), retention_days: None };
    let missing = Journal::new(table.client_config(), settings("no-such-table"));
    let error = writer(&missing).append(draft(), None, DEADLINE).await.unwrap_err();
    let text = journal::display_chain(&error);
    assert!(text.contains("table no-such-table does not exist"), "{text}");

    // Credentials that cannot be loaded, and no provider of credentials at all. (The whole chain of
    // aws_config is tried by the agent-runtime's own process in its tests.)
    let not_loaded = provide_credentials_fn(|| async { Err(CredentialsError::not_loaded("none")) });
    let none = Builder::new()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::new("us-east-1"))
        .endpoint_url(table.endpoint());
    for config in [none.clone().credentials_provider(not_loaded), none] {
        let error = writer(&Journal::new(config, settings("t")))
            .append(draft(), None, DEADLINE)
            .await
            .unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Refused, "{error:?}");
        let text = journal::display_chain(&error);
        assert!(text.contains("no valid AWS credentials to use table t"), "{text}");
    }
}

#[tokio::test]
async fn an_environment_in_which_nothing_can_be_sent_says_what_to_set() {
    let none = Builder::new()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::for_tests());
    let region = aws_sdk_dynamodb::config::Region::new(testing::REGION);
    let no_url = none.clone().region(region).endpoint_url("localhost:8000");
    for (config, said) in [
        (none, "table t cannot be reached: there is no valid AWS region: set AWS_REGION"),
        (no_url, "table t cannot be reached: an endpoint is not a URL: see AWS_ENDPOINT_URL"),
    ] {
        let settings = Settings { table_name: "t".to_owned(), retention_days: None };
        let journal = writer(&Journal::new(config, settings));
        let error = journal.append(draft(), None, DEADLINE).await.unwrap_err();
        assert_eq!(error.kind, AppendErrorKind::Refused, "{error:?}");
        let text = journal::display_chain(&error);
        assert!(text.contains(said), "{text}");
    }
}

/// Such as the metadata service of a container, which the SDK asks for credentials.
#[tokio::test(start_paused = true)]
async fn the_status_that_the_sdk_hides_is_said() {
    #[derive(Debug)]
    #[allow(dead_code, reason = "the status is only in what is printed for debugging")]
    struct StatusCode(u16);
    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused {
        #[allow(dead_code, reason = "the same")]
        status: StatusCode,
    }
    let dynamo = Dynamo::new(|_| Fault::None);
    let refuses = provide_credentials_fn(|| async {
        Err(CredentialsError::provider_error(Refused { status: StatusCode(405) }))
    });
    let settings = Settings { table_name: "t".to_owned(), retention_days: None };
    let journal = Journal::new(dynamo.config().credentials_provider(refuses), settings);
    let error = writer(&journal).append(draft(), None, DEADLINE).await.unwrap_err();
    let text = journal::display_chain(&error);
    assert!(text.ends_with(": refused (HTTP 405)"), "{text}");
    assert!(text.contains("no valid AWS credentials to use table t: "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_do_not_come_are_missing_credentials() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let hangs = provide_credentials_fn(std::future::pending);
    let settings = Settings { table_name: "t".to_owned(), retention_days: None };
    let journal = Journal::new(dynamo.config().credentials_provider(hangs), settings);
    let start = Instant::now();
    let error = writer(&journal).append(draft(), None, DEADLINE).await.unwrap_err();
    assert_eq!(error.kind, AppendErrorKind::Refused, "{error:?}");
    assert!(error.to_string().contains("no valid AWS credentials to use table t"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(dynamo.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_terminal_event_outlasts_every_error_for_fifteen_minutes() {
    for fault in [Fault::Refused("AccessDeniedException"), Fault::ErrorBefore, Fault::NoConnection]
    {
        let up_at = Instant::now() + Duration::from_secs(14 * 60);
        let dynamo = Dynamo::new(move |_| if Instant::now() < up_at { fault } else { Fault::None });
        let draft = Draft::failure(Status::AgentBackgroundTaskFailed, "AgentError", "no");
        let time =
            writer(&open(&dynamo)).append_terminal(draft, std::future::pending()).await.unwrap();
        assert!(
            Instant::now() < up_at + Duration::from_secs(31),
            "{fault:?}: the backoff is 30 s at most"
        );
        let events = events(&dynamo).await;
        assert_eq!((events.len(), &events[0].timestamp), (1, &time.to_string()), "{fault:?}");
    }
    let dynamo = Dynamo::new(|_| Fault::Refused("AccessDeniedException"));
    let start = Instant::now();
    let draft = Draft::completed("\"done\"", 6);
    let error =
        writer(&open(&dynamo)).append_terminal(draft, std::future::pending()).await.unwrap_err();
    assert!((870..=900).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // The event can still be logged whole.
    let event = serde_json::to_value(&error.event).unwrap();
    assert_eq!(event["Status"], "AGENT_BACKGROUND_TASK_COMPLETED");
    assert_eq!(event["Result"], "\"done\"");
    assert_eq!(event["PK"], format!("SESSION#{}", session_id()));
}

#[tokio::test(start_paused = true)]
async fn the_attempt_at_the_deadline_of_a_terminal_event_has_three_seconds() {
    let deadline = Instant::now() + TERMINAL_DEADLINE;
    let dynamo = Dynamo::new(move |_| match Instant::now() < deadline {
        true => Fault::Refused("AccessDeniedException"),
        false => Fault::Hang,
    });
    let draft = Draft::completed("\"done\"", 6);
    let error =
        writer(&open(&dynamo)).append_terminal(draft, std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind, AppendErrorKind::Unknown, "{error:?}");
    assert_eq!(deadline.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_taken_until_the_deadline_are_certainly_no_write() {
    let collision = Fault::Refused("ConditionalCheckFailedException");
    let dynamo = Dynamo::scripted([collision]);
    let error = writer(&open(&dynamo)).append(draft(), None, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind, AppendErrorKind::Failed, "{error:?}");
    assert_eq!(dynamo.calls().len(), 1);
}

#[tokio::test]
async fn colliding_timestamps_tick_on_and_nothing_is_overwritten() {
    let micros = Arc::new(AtomicI64::new(0));
    let dynamo = Dynamo::new(|_| Fault::None);
    // Two processes whose clocks stand still at the same microsecond.
    let one = writer(&open(&dynamo).with_clock(clock(&micros)));
    let two = writer(&open(&dynamo).with_clock(clock(&micros)));
    for _ in 0..20 {
        one.append(draft(), None, DEADLINE).await.unwrap();
        two.append(draft(), None, DEADLINE).await.unwrap();
    }
    let events = events(&dynamo).await;
    let times: Vec<_> = events.iter().map(|event| event.timestamp.as_str()).collect();
    let expected: Vec<_> = (0..40).map(|n| format!("2026-11-23T02:45:00.{n:06}Z")).collect();
    assert_eq!(times, expected, "same width, one microsecond apart");
    assert!(events.iter().all(|event| event.sort_key == format!("EVENT#{}", event.timestamp)));
}

#[tokio::test]
async fn a_cause_sorts_before_its_effect_when_clocks_step_back_or_differ() {
    let micros = Arc::new(AtomicI64::new(0));
    let dynamo = Dynamo::new(|_| Fault::None);
    let ahead = writer(&open(&dynamo).with_clock(clock(&Arc::new(AtomicI64::new(180_000_000)))));
    let behind = writer(&open(&dynamo).with_clock(clock(&micros)));
    let cause = ahead.append(draft(), None, DEADLINE).await.unwrap();
    let effect = behind.append(draft(), Some(cause), DEADLINE).await.unwrap();
    assert_eq!(effect, cause.plus_micros(1));
    micros.store(-3_600_000_000, Ordering::Relaxed);
    let next = behind.append(draft(), None, DEADLINE).await.unwrap();
    assert_eq!(next, effect.plus_micros(1), "this process knows what it wrote to the session");
    // More than a day ahead is no skew.
    let day = behind.now().plus_micros(24 * 60 * 60 * 1_000_000);
    let after_absurd = behind.append(draft(), Some(day.plus_micros(1)), DEADLINE).await.unwrap();
    assert_eq!(after_absurd, next.plus_micros(1));
    let after_day = behind.append(draft(), Some(day), DEADLINE).await.unwrap();
    assert_eq!(after_day, day.plus_micros(1));
}

#[tokio::test]
async fn an_item_is_what_the_contract_says() {
    let dynamo = Dynamo::new(|_| Fault::None);
    let table_name = testing::TABLE_NAME.to_owned();
    let journal = Journal::new(dynamo.config(), Settings { table_name, retention_days: Some(30) })
        .with_clock(clock(&Arc::new(AtomicI64::new(120_000))));
    let draft =
        Draft::failure(Status::AgentInvocationFailed, "RuntimeClientError", &"é".repeat(1_000_000));
    let (trace, span) = (TraceId::from(0x4bf9_2f35_77b3_4da6), SpanId::from(7));
    let span = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE);
    let writer = journal.session(session_id(), "run-1", Source::Invoker);
    let writer = writer.in_trace(Context::new().with_remote_span_context(span.clone()));
    assert_eq!(writer.trace().span().span_context(), &span);
    writer.append(draft, None, DEADLINE).await.unwrap();
    let call = &dynamo.calls()[0].body;
    assert_eq!(call["ConditionExpression"], "attribute_not_exists(PK)");
    assert_eq!(call["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
    let item = &call["Item"];
    assert_eq!(item["PK"]["S"], format!("SESSION#{}", session_id()));
    assert_eq!(item["SK"]["S"], "EVENT#2026-11-23T02:45:00.120000Z");
    assert_eq!(item["Timestamp"]["S"], "2026-11-23T02:45:00.120000Z");
    assert_eq!(item["Status"]["S"], "AGENT_INVOCATION_FAILED");
    assert_eq!(item["InvocationId"]["S"], "run-1");
    assert_eq!(item["Source"]["S"], "invoker");
    assert_eq!(item["ErrorType"]["S"], "RuntimeClientError");
    assert_eq!(
        item["ErrorMessage"]["S"].as_str().unwrap().len(),
        journal::text::MAX_ERROR_MESSAGE_BYTES
    );
    assert_eq!(item["ExpiresAt"]["N"], (1_795_401_900 + 30 * 86_400).to_string());
    assert_eq!(item["TraceId"]["S"], trace.to_string());
    assert_eq!(item["EventId"]["S"].as_str().unwrap().len(), 36);
    assert!(item.to_string().len() < 400 * 1024);
}

#[tokio::test(start_paused = true)]
async fn after_any_fault_stops_the_next_appends_succeed() {
    for fault in [
        Fault::Hang,
        Fault::ErrorAfter,
        Fault::NoConnection,
        Fault::CutBody,
        Fault::Refused("ThrottlingException"),
    ] {
        let dynamo = Dynamo::scripted([fault; 40]);
        let journal = writer(&open(&dynamo));
        let _ = journal.append(draft(), None, Duration::from_secs(10)).await;
        while dynamo.calls().len() < 40 {
            let _ = journal.append(draft(), None, Duration::from_secs(10)).await;
        }
        let before = dynamo.calls().len();
        for _ in 0..20 {
            journal.append(draft(), None, Duration::from_secs(10)).await.unwrap();
        }
        assert_eq!(dynamo.calls().len(), before + 20, "{fault:?}: at the first attempt, too");
    }
}
