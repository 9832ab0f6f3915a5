//! The rules of the state machine, one by one: what it asks, when, and what it makes of the answers.
//! The services are scripted, and time is not real. `.ci/mutate_state_machine.py` shows that each
//! rule has a test.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use local::asl::{Execution, ExecutionEnd, Resource, ServiceError, Services, StateMachine};
use serde_json::{Value, json};
use workflow::Definition;

const SESSION: &str = "00000000-0000-4000-8000-000000000000";

/// When the execution starts, and the timestamps of two tasks.
const BEGIN: &str = "2024-10-04T00:00:00.000000Z";
const TASK: &str = "2024-10-04T00:00:01.000000Z";
const NEXT_TASK: &str = "2024-10-04T00:00:02.000000Z";

/// A call of the execution: when, of what, and with what.
struct Call {
    second: i64,
    /// The status or the kind of what is put; or `invoke`, `events`, `signs`, `newest`.
    what: String,
    arguments: Value,
}

/// What a service answers; `None` is what it answers if nothing has happened.
type Answer = Option<Result<Value, ServiceError>>;

struct Script<F> {
    begin: DateTime<Utc>,
    now: Cell<DateTime<Utc>>,
    calls: RefCell<Vec<Call>>,
    answer: F,
}

impl<F: Fn(&Call) -> Answer> Services for Script<F> {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        let item = &arguments["Item"];
        let what = match resource {
            Resource::Invoke => "invoke",
            Resource::PutItem => {
                item["Kind"]["S"].as_str().or(item["Status"]["S"].as_str()).unwrap()
            }
            Resource::Query if arguments["KeyConditionExpression"] != EVENTS => "signs",
            Resource::Query if arguments.get("Limit").is_some() => "newest",
            Resource::Query => "events",
        };
        let second = (self.now.get() - self.begin).num_seconds();
        let call = Call { second, what: what.to_owned(), arguments };
        let answer = (self.answer)(&call).unwrap_or_else(|| Ok(json!({"Items": []})));
        self.calls.borrow_mut().push(call);
        answer
    }

    fn now(&self) -> DateTime<Utc> {
        self.now.get()
    }

    async fn wait(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }
}

const EVENTS: &str = "PK = :session AND begins_with(SK, :event)";

/// An execution that has ended.
struct Ended {
    calls: Vec<Call>,
    end: ExecutionEnd,
}

impl Ended {
    /// What was called and when, without the polls.
    fn log(&self) -> Vec<String> {
        let calls = self.calls.iter().filter(|call| call.what != "events");
        calls.map(|call| format!("{} {}", call.second, call.what)).collect()
    }

    /// The seconds at which this was called.
    fn seconds(&self, what: &str) -> Vec<i64> {
        self.calls.iter().filter(|call| call.what == what).map(|call| call.second).collect()
    }

    /// The items put of this status or kind.
    fn items(&self, what: &str) -> Vec<&Value> {
        let puts = self.calls.iter().filter(|call| call.what == what);
        puts.map(|call| &call.arguments["Item"]).collect()
    }

    /// The two words of its failure, and when it was written.
    fn failure(&self) -> (&str, &str, i64) {
        let ExecutionEnd::Failed { error, cause } = &self.end else {
            unreachable!("{:?}", self.end)
        };
        (error, cause, *self.seconds("SESSION_FAILED").last().unwrap())
    }
}

/// Polls every ten seconds.
fn definition() -> Definition {
    Definition { poll_min_seconds: 10, poll_max_seconds: 10, ..Definition::default() }
}

async fn run(definition: &Definition, input: Value, answer: impl Fn(&Call) -> Answer) -> Ended {
    run_named(SESSION, definition, input, answer).await
}

async fn run_named(
    name: &str,
    definition: &Definition,
    input: Value,
    answer: impl Fn(&Call) -> Answer,
) -> Ended {
    let machine = StateMachine::load(&definition.render()).unwrap();
    let begin = BEGIN.parse().unwrap();
    let (now, calls) = (Cell::new(begin), RefCell::default());
    let script = Script { begin, now, calls, answer };
    let (end, _) = Execution::new(name, input).run(&machine, &script).await;
    Ended { calls: script.calls.into_inner(), end }
}

fn error(error: &str, cause: &str) -> Answer {
    Some(Err(ServiceError { error: error.to_owned(), cause: cause.to_owned() }))
}

fn taken() -> Answer {
    error("DynamoDB.ConditionalCheckFailedException", "taken")
}

/// A page of events or signs, the newest first.
fn page(items: impl IntoIterator<Item = Value>) -> Answer {
    Some(Ok(json!({"Items": Vec::from_iter(items)})))
}

/// A page after which there are older ones.
fn page_before(key: &str, items: impl IntoIterator<Item = Value>) -> Answer {
    let key = json!({"SK": {"S": format!("EVENT#{key}")}});
    Some(Ok(json!({"Items": Vec::from_iter(items), "LastEvaluatedKey": key})))
}

fn event(status: &str, attributes: &[(&str, &str)]) -> Value {
    let mut event = json!({"Status": {"S": status}});
    for (name, value) in attributes {
        let kind = if name.ends_with("Seconds") || name.ends_with("Bytes") { "N" } else { "S" };
        event[name] = json!({kind: value});
    }
    event
}

/// A task that gives signs of life.
fn started(time: &str) -> Value {
    let own = [("Timestamp", time), ("HeartbeatSeconds", "20")];
    event("AGENT_BACKGROUND_TASK_STARTED", &own)
}

fn completed() -> Value {
    event("AGENT_BACKGROUND_TASK_COMPLETED", &[("Result", "7")])
}

fn sign(task: &str, slot: u32, kind: &str) -> Value {
    json!({"SK": {"S": format!("{task}#{slot:06}")}, "Kind": {"S": kind}})
}

#[tokio::test]
async fn the_input_names_the_session_and_the_agent_gets_the_rest() {
    let other = "session-given-in-the-input-0123456789";
    for (input, id, rest) in [
        (json!({"n": 1}), SESSION, json!({"n": 1})),
        (json!({"session_id": other, "n": 1}), other, json!({"n": 1})),
        (json!({"session_id": other, "sessionId": 7}), other, json!({"sessionId": 7})),
        (json!("text"), SESSION, json!("text")),
    ] {
        let ended = run(&definition(), input, |_| None).await;
        let invoked = ended.calls.iter().find(|call| call.what == "invoke").unwrap();
        let payload = &invoked.arguments["Payload"];
        assert_eq!((&payload["session_id"], &payload["input"]), (&json!(id), &rest));
    }
    let misnamed = "The input has sessionId and no session_id: its name is session_id. A session";
    let unnamed =
        "The input has no session_id, and the name of the execution is no session id: give";
    for (input, said) in [
        (json!({"sessionId": other}), misnamed),
        (json!({"n": 1}), unnamed),
        (json!("text"), unnamed),
        (json!({"session_id": "short"}), "A session id is 33"),
        (json!({"session_id": 7}), "A session id is 33"),
        (json!({"session_id": "short", "sessionId": other}), "A session id is 33"),
    ] {
        let ended = run_named("short", &definition(), input, |_| None).await;
        let ExecutionEnd::Failed { error, cause } = ended.end else { unreachable!() };
        assert_eq!((&*error, cause.starts_with(said)), ("SessionIdInvalid", true), "{cause}");
        assert!(ended.calls.is_empty());
    }
    // Even if the execution has the name of a session.
    let ended = run(&definition(), json!({"sessionId": other}), |_| None).await;
    assert!(ended.calls.is_empty());
}

#[tokio::test]
async fn a_silent_task_is_challenged_and_after_its_patience_lost() {
    let silent = run(&definition(), json!({}), |call| match &*call.what {
        "events" => page([started(TASK)]),
        _ => None,
    })
    .await;
    let log = [
        "0 SESSION_INITIATED", "0 invoke", "40 signs", "40 Challenge", "60 signs", "60 Challenge",
        "80 signs", "80 Challenge", "100 signs", "100 Challenge", "120 signs", "120 Lost",
        "120 newest", "120 SESSION_FAILED",
    ];
    assert_eq!(silent.log(), log);
    let cause = "The workflow has seen no new sign of life of the container since 2024-10-04T00:00:00.000000Z: it was killed, or it cannot reach the table.";
    assert_eq!(silent.failure(), ("ContainerLost", cause, 120));
    let challenge = silent.items("Challenge")[0];
    assert_eq!(challenge["SK"]["S"], format!("{TASK}#000000"));
    assert_eq!(challenge["ExpiresAt"]["N"], (epoch() + 40 + 2 * 86_400).to_string());
}

/// The second in which the execution begins.
fn epoch() -> i64 {
    BEGIN.parse::<DateTime<Utc>>().unwrap().timestamp()
}

#[tokio::test]
async fn three_challenges_are_without_an_answer_before_a_task_is_lost() {
    let late = Definition { silence_seconds: 80, ..definition() };
    let ended = run(&late, json!({}), |call| match &*call.what {
        "events" => page([started(TASK)]),
        _ => None,
    })
    .await;
    assert_eq!(ended.seconds("Challenge"), [80, 100, 120]);
    assert_eq!(ended.seconds("Lost"), [140]);
    // A sign of life begins the count anew: a beat, and a slot that is taken.
    type Sign = (&'static str, i64, fn() -> Answer);
    let signs: [Sign; 3] = [
        ("signs", 80, || page([sign(TASK, 0, "Beat")])),
        ("Challenge", 80, taken),
        ("Lost", 140, taken),
    ];
    for (what, second, answer) in signs {
        let ended = run(&late, json!({}), |call| match &*call.what {
            "events" => page([started(TASK)]),
            other if other == what && call.second == second => answer(),
            _ => None,
        })
        .await;
        let next = Vec::from_iter([80, 100, 120].map(|after| second + after));
        assert!(ended.seconds("Challenge").ends_with(&next), "{what}: {:?}", ended.log());
        assert_eq!(ended.seconds("Lost").last(), Some(&(second + 140)), "{what}");
    }
}

#[tokio::test]
async fn a_poll_comes_after_a_twelfth_of_the_time_that_has_passed() {
    let definition = Definition {
        poll_min_seconds: 2,
        poll_max_seconds: 20,
        patience_seconds: 0,
        max_poll_attempts: 60,
        ..definition()
    };
    let ended = run(&definition, json!({}), |call| match &*call.what {
        "events" => page([started(TASK)]),
        _ => None,
    })
    .await;
    let mut expected = vec![0];
    while expected.len() < 60 {
        let last = expected[expected.len() - 1];
        expected.push(last + (last / 12).clamp(2, 20));
    }
    assert_eq!(ended.seconds("events"), expected);
}

#[tokio::test]
async fn without_patience_no_sign_is_read() {
    let definition = Definition { patience_seconds: 0, max_poll_attempts: 20, ..definition() };
    let ended = run(&definition, json!({}), |call| match &*call.what {
        "events" => page([started(TASK)]),
        _ => None,
    })
    .await;
    assert_eq!(ended.failure().0, "PollAttemptsSpent");
    assert_eq!(ended.seconds("signs"), [] as [i64; 0]);
}

#[tokio::test]
async fn what_is_news_of_a_task_and_what_is_no_evidence() {
    let throttled = || error("DynamoDB.ThrottlingException", "busy");
    // Each has another answer at one time. Then: when `Lost` was put, first and last.
    type Other = fn() -> Answer;
    let cases: [(&str, i64, &str, Other, [i64; 2]); 11] = [
        // Three challenges in a row have to be without an answer.
        ("a challenge that is throttled", 40, "Challenge", throttled, [120, 120]),
        ("a challenge that is throttled", 60, "Challenge", throttled, [140, 140]),
        ("a challenge whose slot is taken", 60, "Challenge", taken, [180, 180]),
        ("a beat", 40, "signs", || page([sign(TASK, 0, "Beat")]), [160, 160]),
        ("a stop", 60, "signs", || page([sign(TASK, 1, "Stop")]), [120, 120]),
        ("a stop", 80, "signs", || page([sign(TASK, 1, "Stop")]), [140, 140]),
        ("a challenge", 60, "signs", || page([sign(TASK, 1, "Challenge")]), [120, 120]),
        ("a challenge", 80, "signs", || page([sign(TASK, 2, "Challenge")]), [120, 120]),
        ("a sign that is no sign", 60, "signs", || page([json!({"SK": {"S": "z#1"}})]), [120, 120]),
        ("a claim whose slot is taken", 120, "Lost", taken, [120, 240]),
        ("a claim that is throttled", 120, "Lost", throttled, [120, 207]),
    ];
    for (kind, second, what, other, lost) in cases {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            name if name == what && call.second == second => other(),
            // What is retried finds the same once more.
            "Lost" if what == "Lost" && (second..second + 8).contains(&call.second) => other(),
            "events" => page([started(TASK)]),
            _ => None,
        })
        .await;
        let claims = ended.seconds("Lost");
        let name = format!("{kind} at {second}: {:?}", ended.log());
        assert_eq!([claims[0], *claims.last().unwrap()], lost, "{name}");
        assert_eq!(ended.failure().0, "ContainerLost", "{name}");
    }
}

#[tokio::test]
async fn a_beat_is_news_once_and_the_next_slot_is_the_one_after_it() {
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" => page([started(TASK)]),
        "signs" => page([sign(TASK, 9, "Beat")]),
        _ => None,
    })
    .await;
    assert_eq!(ended.seconds("signs"), [40, 80, 100, 120, 140, 160]);
    assert_eq!(ended.items("Challenge")[0]["SK"]["S"], format!("{TASK}#000010"));
    assert_eq!(ended.failure().2, 160);
}

#[tokio::test]
async fn a_task_that_is_replaced_is_news_and_its_successor_is_watched() {
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" if call.second < 100 => page([started(TASK)]),
        "events" => page([started(NEXT_TASK), started(TASK)]),
        _ => None,
    })
    .await;
    let keys = ended.items("Challenge");
    let tasks =
        keys.iter().map(|item| item["SK"]["S"].as_str().unwrap().trim_end_matches("#000000"));
    let both = [TASK, TASK, TASK, NEXT_TASK, NEXT_TASK, NEXT_TASK, NEXT_TASK];
    assert_eq!(Vec::from_iter(tasks), both);
    assert_eq!(ended.failure().2, 220);
    // A task that gives no signs is never lost.
    let older = event("AGENT_BACKGROUND_TASK_STARTED", &[("Timestamp", TASK)]);
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" => page([older.clone()]),
        _ => None,
    })
    .await;
    let cause = "The agent has not ended within 600 polls of the journal, which is all that MaxPollAttempts allows.";
    assert_eq!(ended.failure(), ("PollAttemptsSpent", cause, 5_990));
    assert_eq!(ended.seconds("events").len(), 600);
    assert_eq!(ended.seconds("signs"), [] as [i64; 0]);
}

#[tokio::test]
async fn the_newest_start_is_watched_on_whichever_page_it_is() {
    for (first, second, watched) in [
        (Some(started(NEXT_TASK)), Some(started(TASK)), NEXT_TASK),
        (None, Some(started(TASK)), TASK),
    ] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "events" if call.arguments.get("ExclusiveStartKey").is_some() => page(second.clone()),
            "events" => page_before(TASK, first.clone()),
            _ => None,
        })
        .await;
        let keys = ended.items("Challenge");
        assert_eq!(keys[0]["SK"]["S"], format!("{watched}#000000"));
        assert_eq!(ended.failure().2, 120);
    }
}

#[tokio::test]
async fn pages_are_turned_as_far_as_the_runs_first_event() {
    let before = "2024-10-03T23:59:59.999000Z";
    for (key, further) in [(TASK, true), (BEGIN, true), (before, false)] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "events" if call.arguments.get("ExclusiveStartKey").is_some() => page([completed()]),
            "events" => page_before(key, []),
            _ => None,
        })
        .await;
        assert_eq!(ended.end == ExecutionEnd::Succeeded(json!(7)), further, "{key}");
    }
}

#[tokio::test]
async fn a_refusal_is_the_end_only_of_a_run_without_a_start() {
    let refused = || event("AGENT_ENTRYPOINT_FAILED", &[("ErrorType", "InvalidBody")]);
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" => page([refused()]),
        _ => None,
    })
    .await;
    assert_eq!(ended.failure(), ("InvalidBody", "The agent failed without a message.", 0));
    // With a start, beside it or on another page, the agent works.
    for older in [page([refused(), started(TASK)]), page_before(TASK, [refused()])] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "events" if call.second > 20 => page([completed(), refused(), started(TASK)]),
            "events" if call.arguments.get("ExclusiveStartKey").is_some() => {
                page([refused(), started(TASK)])
            }
            "events" => older.clone(),
            _ => None,
        })
        .await;
        assert_eq!(ended.end, ExecutionEnd::Succeeded(json!(7)));
    }
    // Also if the older page holds the refusal.
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" if call.second > 20 => page([completed()]),
        "events" if call.arguments.get("ExclusiveStartKey").is_some() => page([refused()]),
        "events" => page_before(TASK, [started(TASK)]),
        _ => None,
    })
    .await;
    assert_eq!(ended.end, ExecutionEnd::Succeeded(json!(7)));
}

#[tokio::test]
async fn the_newest_end_is_the_end_and_its_result_is_the_output() {
    let failed = event("AGENT_BACKGROUND_TASK_FAILED", &[("ErrorMessage", "no")]);
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" => page([failed.clone(), completed()]),
        _ => None,
    })
    .await;
    assert_eq!(ended.failure(), ("AgentError", "no", 0));
    let head = ("Result", "[7");
    for (attributes, output) in [
        (vec![("Result", "{\"a\":[7]}")], json!({"a": [7]})),
        (vec![], Value::Null),
        (
            vec![head, ("ResultTruncated", ""), ("ResultBytes", "99999")],
            json!({"result_truncated": true, "result_bytes": 99_999, "result_head": "[7"}),
        ),
        (
            vec![head, ("ResultTruncated", "")],
            json!({"result_truncated": true, "result_bytes": null, "result_head": "[7"}),
        ),
    ] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "events" => {
                page([event("AGENT_BACKGROUND_TASK_COMPLETED", &attributes), failed.clone()])
            }
            _ => None,
        })
        .await;
        assert_eq!(ended.end, ExecutionEnd::Succeeded(output));
    }
}

#[tokio::test]
async fn a_run_whose_task_does_not_start_is_given_up() {
    let text =
        "No container has journaled the start of a task within 300 s after the invocation ended.";
    let ended = run(&definition(), json!({}), |_| None).await;
    assert_eq!(ended.failure(), ("AgentNotStarted", text, 300));
    // Without patience, only if the call has failed.
    let blind = Definition { patience_seconds: 0, ..definition() };
    let ended = run(&blind, json!({}), |_| None).await;
    assert_eq!(ended.failure().0, "PollAttemptsSpent");
    let open = || event("AGENT_INVOCATION_STARTED", &[]);
    let ended = run(&blind, json!({}), |call| match &*call.what {
        "invoke" => error("Panic", "no"),
        "events" => page([open()]),
        _ => None,
    })
    .await;
    let cause = format!("{text} The invoker failed: Panic: no");
    assert_eq!(ended.failure(), ("AgentNotStarted", &*cause, 300));
}

#[tokio::test]
async fn a_failed_call_is_the_end_if_each_call_has_failed_for_certain() {
    let open = || event("AGENT_INVOCATION_STARTED", &[]);
    let failed = |kind: &str| event("AGENT_INVOCATION_FAILED", &[("ErrorType", kind)]);
    for (events, certain) in [
        (vec![], true),
        (vec![failed("RuntimeClientError"), open()], true),
        (vec![open()], false),
        (vec![failed("OutcomeUnknown"), open()], false),
        (vec![failed("RuntimeClientError"), open(), open()], false),
        (vec![failed("RuntimeClientError"), open(), started(TASK)], false),
    ] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "invoke" => error("Panic", "no"),
            "events" => page(events.clone()),
            _ => None,
        })
        .await;
        let (error, _, second) = ended.failure();
        assert_eq!((error == "Panic", second == 0), (certain, certain), "{error}: {events:?}");
    }
    // The cause may be the JSON of a function's error.
    for (cause, said) in [
        (r#"{"errorType":"E","errorMessage":"no such runtime"}"#, "no such runtime"),
        (r#"a {"errorMessage":"no"}"#, r#"a {"errorMessage":"no"}"#),
        (r#"{"error":{"errorMessage":"no"}}"#, "Panic"),
    ] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "invoke" => error("Panic", cause),
            _ => None,
        })
        .await;
        assert_eq!(ended.failure(), ("Panic", said, 0));
    }
    // If nobody knows whether the function began, the journal decides.
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "invoke" => error("Sandbox.Timedout", "no"),
        _ => None,
    })
    .await;
    assert_eq!(ended.failure().0, "AgentNotStarted");
}

/// An error that never ends: how often it is tried, and how the execution ends.
#[tokio::test]
async fn each_call_is_retried_so_often_and_its_failure_has_its_consequence() {
    let busy = "DynamoDB.ThrottlingException";
    let reads_busy = "DynamoDb.ThrottlingException";
    let denied = "DynamoDB.AccessDeniedException";
    for (what, name, calls, end) in [
        ("SESSION_INITIATED", busy, 6, busy),
        ("SESSION_INITIATED", denied, 1, denied),
        ("invoke", "Lambda.TooManyRequestsException", 5, "Lambda.TooManyRequestsException"),
        ("invoke", "Lambda.ResourceConflictException", 6, "Lambda.ResourceConflictException"),
        ("invoke", "Panic", 1, "Panic"),
        ("events", reads_busy, 16, reads_busy),
        ("events", "DynamoDb.AccessDeniedException", 1, "DynamoDb.AccessDeniedException"),
        ("newest", reads_busy, 4, "ContainerLost"),
        ("newest", "DynamoDb.AccessDeniedException", 1, "ContainerLost"),
        ("SESSION_FAILED", busy, 16, "ContainerLost"),
        ("SESSION_FAILED", denied, 1, "ContainerLost"),
        // The last resort is to give the session up without the fence.
        ("Lost", denied, 1, "ContainerLost"),
    ] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            kind if kind == what => error(name, "injected"),
            "events" => page((what != "invoke").then(|| started(TASK))),
            _ => None,
        })
        .await;
        // Whatever happens, SESSION_FAILED is tried.
        assert_eq!((ended.seconds(what).len(), ended.failure().0), (calls, end), "{what}: {name}");
    }
    // Signs that cannot be read are no evidence. The next poll reads them again.
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "signs" => error(reads_busy, "injected"),
        "events" if call.second > 200 => page([completed(), started(TASK)]),
        "events" => page([started(TASK)]),
        _ => None,
    })
    .await;
    assert_eq!(ended.end, ExecutionEnd::Succeeded(json!(7)));
    assert_eq!(ended.seconds("signs")[..4], [40, 41, 43, 53]);
}

#[tokio::test]
async fn a_verdict_that_cannot_be_checked_stands() {
    let denied = || error("DynamoDb.AccessDeniedException", "no");
    let lost = Cell::new(false);
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" if lost.get() => denied(),
        "events" => page([started(TASK)]),
        "Lost" => {
            lost.set(true);
            None
        }
        _ => None,
    })
    .await;
    let (error, cause, _) = ended.failure();
    assert_eq!(error, "ContainerLost");
    assert!(cause.starts_with("The workflow has seen no new sign of life"), "{cause}");
    let table = "The events could not be read from table agent-journal: no";
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "events" => denied(),
        _ => None,
    })
    .await;
    assert_eq!(ended.failure(), ("DynamoDb.AccessDeniedException", table, 0));
}

#[tokio::test]
async fn a_taken_key_moves_an_event_by_a_millisecond_five_times() {
    let after = |millis: i64| {
        let time = BEGIN.parse::<DateTime<Utc>>().unwrap() + TimeDelta::milliseconds(millis);
        format!("EVENT#{}", time.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
    };
    let keys = |items: Vec<&Value>| {
        Vec::from_iter(items.iter().map(|item| item["SK"]["S"].as_str().unwrap().to_owned()))
    };
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "SESSION_INITIATED" => taken(),
        _ => None,
    })
    .await;
    let cause = "SESSION_INITIATED could not be written: other runs of the session took every key that was tried.";
    assert_eq!(ended.failure(), ("SessionIdInUse", cause, 0));
    assert_eq!(keys(ended.items("SESSION_INITIATED")), Vec::from_iter((0..6).map(after)));
    // SESSION_FAILED sorts after the newest event, whatever its writer's clock said.
    for (newest, first) in [(Some("2024-10-04T00:05:00.000000Z"), 300_001), (None, 0)] {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "invoke" => error("Panic", "no"),
            "newest" => page(newest.map(|time| event("x", &[("Timestamp", time)]))),
            "SESSION_FAILED" => taken(),
            _ => None,
        })
        .await;
        let keys = keys(ended.items("SESSION_FAILED"));
        assert_eq!(keys, Vec::from_iter((first..first + 6).map(after)), "{newest:?}");
        assert_eq!(ended.failure().0, "Panic");
    }
    // One of the past changes nothing.
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "newest" => page([event("x", &[("Timestamp", BEGIN)])]),
        _ => None,
    })
    .await;
    assert_eq!(keys(ended.items("SESSION_FAILED")), [after(300_000)]);
}

#[tokio::test]
async fn events_and_verdicts_expire_as_the_retention_says() {
    for (days, second) in [(0, None), (1, Some(86_400)), (30, Some(30 * 86_400))] {
        let definition = Definition { journal_retention_days: days, ..definition() };
        let ended = run(&definition, json!({}), |call| match &*call.what {
            "events" => page([started(TASK)]),
            _ => None,
        })
        .await;
        for (what, written) in [("SESSION_INITIATED", 0), ("Lost", 120), ("SESSION_FAILED", 120)] {
            let expected = second.map(|later| (epoch() + written + later).to_string());
            let item = ended.items(what)[0];
            assert_eq!(item["ExpiresAt"]["N"].as_str(), expected.as_deref(), "{what}");
        }
    }
}

#[tokio::test]
async fn a_trace_has_32_digits_and_begins_with_the_time() {
    for (input, kept) in [
        (json!({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}), true),
        (json!({}), false),
        (json!("text"), false),
        (json!({"traceparent": 7}), false),
        (json!({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736"}), false),
        (json!({"traceparent": "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}), false),
        (json!({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}), false),
    ] {
        let ended = run(&definition(), input, |_| None).await;
        let invoked = ended.calls.iter().find(|call| call.what == "invoke").unwrap();
        let parent = invoked.arguments["Payload"]["traceparent"].as_str().unwrap();
        let parts = Vec::from_iter(parent.split('-'));
        assert_eq!(Vec::from_iter(parts.iter().map(|part| part.len())), [2, 32, 16, 2], "{parent}");
        assert!(parts[1].bytes().all(|digit| b"0123456789abcdef".contains(&digit)), "{parent}");
        assert_eq!(parts[1] == "4bf92f3577b34da6a3ce929d0e0e4736", kept);
        // As X-Ray wants it.
        assert_eq!(parts[1].starts_with(&format!("{:08x}", epoch())), !kept, "{parent}");
        for what in ["SESSION_INITIATED", "SESSION_FAILED"] {
            assert_eq!(ended.items(what)[0]["TraceId"]["S"], parts[1], "{what}");
        }
    }
}

#[tokio::test]
async fn the_ids_of_traces_and_spans_are_random_to_their_last_digit() {
    let mut digits = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..40 {
        let ended = run(&definition(), json!({}), |call| match &*call.what {
            "events" => page([completed()]),
            _ => None,
        })
        .await;
        let invoked = ended.calls.iter().find(|call| call.what == "invoke").unwrap();
        let parent = invoked.arguments["Payload"]["traceparent"].as_str().unwrap();
        digits[0].extend(parent["00-".len() + 8..][..24].chars());
        digits[1].extend(parent["00-".len() + 32 + "-".len()..][..16].chars());
    }
    let all = BTreeSet::from_iter("0123456789abcdef".chars());
    assert_eq!(digits, [all.clone(), all]);
}

#[tokio::test]
async fn long_errors_are_cut_to_what_the_journal_and_step_functions_hold() {
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "invoke" => error(&"E".repeat(300), &"c".repeat(9_000)),
        _ => None,
    })
    .await;
    let (error, cause) = ("E".repeat(256), "c".repeat(8_192));
    assert_eq!(ended.failure(), (&*error, &*cause, 0));
    let item = ended.items("SESSION_FAILED")[0];
    assert_eq!(
        (&item["ErrorType"]["S"], &item["ErrorMessage"]["S"]),
        (&json!(error), &json!(cause))
    );
    // And begin where they begin.
    let ended = run(&definition(), json!({}), |call| match &*call.what {
        "invoke" => self::error("Panic", "no"),
        _ => None,
    })
    .await;
    let item = ended.items("SESSION_FAILED")[0];
    assert_eq!(
        (&item["ErrorType"]["S"], &item["ErrorMessage"]["S"]),
        (&json!("Panic"), &json!("no"))
    );
}
