//! What the monitor costs and how late it is, by running the real state machine in simulated time.
//! The table in `workflow/README.md` is this test's output:
//! `cargo test -p local --test monitor -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::Cell;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use local::asl::{Execution, ExecutionEnd, Resource, ServiceError, Services, StateMachine, Usage};
use serde_json::{Value, json};
use workflow::{Definition, MAX_POLL_ATTEMPTS};

/// USD per state transition of a standard workflow, and per write and read unit of an on-demand table
/// (us-east-1, the published prices).
const USD_PER_TRANSITION: f64 = 0.025 / 1_000.0;
const USD_PER_WRITE: f64 = 0.625 / 1_000_000.0;
const USD_PER_READ: f64 = 0.125 / 1_000_000.0;

/// Seconds between two signs of life.
const HEARTBEAT: i64 = 20;

/// A journal in simulated time, whose terminal event is there from `ends` on.
struct Simulated {
    now: Cell<DateTime<Utc>>,
    starts: DateTime<Utc>,
    ends: DateTime<Utc>,
    polls: Cell<u32>,
    reads_of_signs: Cell<u32>,
    /// Pages of 1 MB that the session's events fill.
    pages: u32,
    /// Whether every challenge meets a sign that came at that moment, which no read has shown.
    evasive: bool,
    /// The last wait: what an agent that ends right after a poll is noticed too late by.
    waited: Cell<Duration>,
}

impl Services for Simulated {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        let sign = |n: i64| format!("2024-10-04T00:00:00.000000Z#{n:06}");
        Ok(match resource {
            Resource::PutItem if self.evasive && arguments["Item"]["Kind"].is_object() => {
                let error = "DynamoDB.ConditionalCheckFailedException".to_owned();
                return Err(ServiceError { error, cause: String::new() });
            }
            Resource::PutItem | Resource::Invoke => json!({}),
            Resource::Query
                if arguments["KeyConditionExpression"].to_string().contains("alive") =>
            {
                self.reads_of_signs.set(self.reads_of_signs.get() + 1);
                let beats = (self.now.get() - self.starts).num_seconds() / HEARTBEAT;
                let newest = if self.evasive { 0 } else { beats - 1 };
                json!({"Items": [{"SK": {"S": sign(newest)}, "Kind": {"S": "Beat"}}]})
            }
            Resource::Query => {
                self.polls.set(self.polls.get() + 1);
                let started = json!({
                    "Status": {"S": "AGENT_BACKGROUND_TASK_STARTED"},
                    "Timestamp": {"S": "2024-10-04T00:00:00.000000Z"},
                    "HeartbeatSeconds": {"N": "20"},
                });
                let completed = json!({"Status": {"S": "AGENT_BACKGROUND_TASK_COMPLETED"}});
                let ended = (self.now.get() >= self.ends).then_some(completed);
                let mut page = json!({"Items": Vec::from_iter(ended.into_iter().chain([started]))});
                if !self.polls.get().is_multiple_of(self.pages) {
                    page["LastEvaluatedKey"] = json!({"SK": {"S": "EVENT#9"}});
                }
                page
            }
        })
    }

    fn now(&self) -> DateTime<Utc> {
        self.now.get()
    }

    async fn wait(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.waited.set(time);
    }
}

#[derive(Clone, Copy)]
struct Cost {
    polls: u32,
    reads_of_signs: u32,
    usage: Usage,
    /// The longest time from the terminal event to its notice, wherever between two polls it fell.
    noticed_within: Duration,
    completed: bool,
}

/// A journal whose terminal event comes so long after its start.
fn simulated(works: TimeDelta, pages: u32, evasive: bool) -> Simulated {
    let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    Simulated {
        now: Cell::new(start),
        starts: start,
        ends: start + works,
        polls: Cell::new(0),
        reads_of_signs: Cell::new(0),
        pages,
        evasive,
        waited: Cell::default(),
    }
}

/// One session whose agent works for this long.
async fn session(machine: &StateMachine, works: TimeDelta) -> Cost {
    let services = simulated(works, 1, false);
    let name = "00000000-0000-4000-8000-000000000000";
    let (outcome, usage) = Execution::new(name, json!({})).run(machine, &services).await;
    let completed = matches!(outcome, ExecutionEnd::Succeeded(_));
    let noticed_within = services.waited.get();
    if completed {
        let late = (services.now.get() - services.ends).to_std().unwrap();
        assert!(late <= noticed_within, "{late:?}, {noticed_within:?}");
    }
    let reads_of_signs = services.reads_of_signs.get();
    Cost { polls: services.polls.get(), reads_of_signs, usage, noticed_within, completed }
}

fn machine(definition: &Definition) -> StateMachine {
    StateMachine::load(&definition.render()).unwrap()
}

/// Polling every 10 s without a budget, as is customary, to see how far it comes.
fn customary() -> StateMachine {
    let definition = Definition {
        poll_min_seconds: 10,
        poll_max_seconds: 10,
        max_poll_attempts: 1_200,
        patience_seconds: 0,
        ..Definition::default()
    };
    let budgeted = definition.render();
    let endless = budgeted.replace("$pollsDone >= 1200", "false");
    assert_ne!(endless, budgeted);
    StateMachine::load(&endless).unwrap()
}

#[tokio::test]
async fn the_monitor_is_as_prompt_and_as_cheap_as_the_table_says() {
    let growing = machine(&Definition::default());
    let blind = machine(&Definition { patience_seconds: 0, ..Definition::default() });
    let fixed = customary();
    let mut table = String::from(
        "| session | wait | polls | state transitions | history events | signs: writes | signs: reads | noticed within | USD |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, length) in [
        ("10 s", TimeDelta::seconds(10)),
        ("3 min", TimeDelta::minutes(3)),
        ("1 h", TimeDelta::hours(1)),
        ("8 h", TimeDelta::hours(8)),
    ] {
        let mut transitions_of = Vec::new();
        for (wait, machine) in
            [("growing", &growing), ("growing, no signs", &blind), ("10 s, no signs", &fixed)]
        {
            let cost = session(machine, length).await;
            let Usage { transitions, history_events } = cost.usage;
            transitions_of.push(transitions);
            let noticed = match cost.completed {
                true => format!("{} s", cost.noticed_within.as_secs()),
                false => "never: out of history events".to_owned(),
            };
            let beats = length.num_seconds() / HEARTBEAT;
            let writes = if wait == "growing" { u32::try_from(beats).unwrap() } else { 0 };
            let usd = f64::from(transitions) * USD_PER_TRANSITION
                + f64::from(writes) * USD_PER_WRITE
                + f64::from(cost.reads_of_signs) * USD_PER_READ;
            table += &format!(
                "| {name} | {wait} | {} | {transitions} | {history_events} | {writes} | {} | {noticed} | {usd:.4} |\n",
                cost.polls, cost.reads_of_signs
            );
            if wait == "growing" {
                assert!(cost.completed && cost.polls <= 600 && history_events <= 9_000, "{table}");
                let allowed = (length.to_std().unwrap() / 10)
                    .clamp(Duration::from_secs(2), Duration::from_secs(60));
                assert!(cost.noticed_within <= allowed, "{table}");
            }
        }
        // Nothing under 20 s, and at most 80 % more in 8 hours.
        let (signs, blind) = (transitions_of[0], transitions_of[1]);
        assert!(
            signs * 10 <= blind * 18 && (length.num_seconds() > 20 || signs == blind),
            "{table}"
        );
    }
    println!("{table}");
    let document = include_str!("../../workflow/README.md");
    assert!(document.contains(&table), "workflow/README.md has another table than this:\n{table}");
}

/// An execution that runs out of history events cannot write SESSION_FAILED.
#[tokio::test]
async fn the_largest_budget_fits_the_history_of_the_most_talkative_session() {
    // Every poll reads two pages and the signs, and challenges the task in vain.
    let services = simulated(TimeDelta::days(100), 2, true);
    let name = "00000000-0000-4000-8000-000000000000";
    let machine = machine(&Definition {
        poll_min_seconds: 60,
        max_poll_attempts: MAX_POLL_ATTEMPTS,
        ..Definition::default()
    });
    let (outcome, usage) = Execution::new(name, json!({})).run(&machine, &services).await;
    assert!(
        matches!(&outcome, ExecutionEnd::Failed { error, .. } if error == "PollAttemptsSpent"),
        "{outcome:?}"
    );
    // And the newest event is read, after which SESSION_FAILED sorts.
    assert_eq!(services.polls.get(), 2 * MAX_POLL_ATTEMPTS + 1);
    assert_eq!(services.reads_of_signs.get(), MAX_POLL_ATTEMPTS - 2);
    assert!(usage.history_events < 22_000, "{usage:?}");
}
