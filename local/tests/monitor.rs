//! What the monitor costs and how late it is, by running the real state machine in simulated time.
//! The table in `workflow/README.md` is this test's output:
//! `cargo test -p local --test monitor -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::Cell;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use local::asl::{Execution, ExecutionEnd, Resource, ServiceError, Services, StateMachine, Usage};
use serde_json::{Value, json};
use workflow::Definition;

/// USD per state transition of a standard workflow (us-east-1, the published price).
const USD_PER_TRANSITION: f64 = 0.025 / 1_000.0;

/// A journal in simulated time, whose terminal event is there from `ends` on.
struct Simulated {
    now: Cell<DateTime<Utc>>,
    ends: DateTime<Utc>,
    polls: Cell<u32>,
    /// Pages of 1 MB that the session's events fill.
    pages: u32,
    /// The last wait: what an agent that ends right after a poll is noticed too late by.
    waited: Cell<Duration>,
}

impl Services for Simulated {
    async fn call(&self, resource: Resource, _: Value) -> Result<Value, ServiceError> {
        Ok(match resource {
            Resource::PutItem | Resource::Invoke => json!({}),
            Resource::Query => {
                self.polls.set(self.polls.get() + 1);
                let ended = self.now.get() >= self.ends;
                let which = if ended { "COMPLETED" } else { "STARTED" };
                let mut page =
                    json!({"Items": [{"Status": {"S": format!("AGENT_BACKGROUND_TASK_{which}")}}]});
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
    usage: Usage,
    /// The longest time from the terminal event to its notice, wherever between two polls it fell.
    noticed_within: Duration,
    completed: bool,
}

/// A journal whose terminal event comes so long after its start.
fn simulated(works: TimeDelta, pages: u32) -> Simulated {
    let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    Simulated {
        now: Cell::new(start),
        ends: start + works,
        polls: Cell::new(0),
        pages,
        waited: Cell::default(),
    }
}

/// One session whose agent works for this long.
async fn session(machine: &StateMachine, works: TimeDelta) -> Cost {
    let services = simulated(works, 1);
    let name = "00000000-0000-4000-8000-000000000000";
    let (outcome, usage) = Execution::new(name, json!({})).run(machine, &services).await;
    let completed = matches!(outcome, ExecutionEnd::Succeeded(_));
    let noticed_within = services.waited.get();
    if completed {
        let late = (services.now.get() - services.ends).to_std().unwrap();
        assert!(late <= noticed_within, "{late:?}, {noticed_within:?}");
    }
    Cost { polls: services.polls.get(), usage, noticed_within, completed }
}

fn machine(min: u32, max: u32, attempts: u32) -> StateMachine {
    StateMachine::load(&definition(min, max, attempts)).unwrap()
}

fn definition(min: u32, max: u32, attempts: u32) -> String {
    let definition = Definition {
        journal_table_name: "table".to_owned(),
        invoker_function_arn: "function".to_owned(),
        journal_retention_days: 0,
        poll_min_seconds: min,
        poll_max_seconds: max,
        max_poll_attempts: attempts,
    };
    definition.render()
}

/// Polling every 10 s without a budget, as is customary, to see how far it comes.
fn customary() -> StateMachine {
    let budgeted = definition(10, 10, 1_200);
    let endless = budgeted.replace("$pollsDone >= 1200", "false");
    assert_ne!(endless, budgeted);
    StateMachine::load(&endless).unwrap()
}

#[tokio::test]
async fn the_monitor_is_as_prompt_and_as_cheap_as_the_table_says() {
    let (growing, fixed) = (machine(2, 60, 600), customary());
    let mut table = String::from(
        "| session | wait | polls | state transitions | history events | noticed within | USD |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, length) in [
        ("10 s", TimeDelta::seconds(10)),
        ("3 min", TimeDelta::minutes(3)),
        ("1 h", TimeDelta::hours(1)),
        ("8 h", TimeDelta::hours(8)),
    ] {
        for (wait, machine) in [("growing", &growing), ("10 s", &fixed)] {
            let cost = session(machine, length).await;
            let Usage { transitions, history_events } = cost.usage;
            let noticed = match cost.completed {
                true => format!("{} s", cost.noticed_within.as_secs()),
                false => "never: out of history events".to_owned(),
            };
            let usd = f64::from(transitions) * USD_PER_TRANSITION;
            table += &format!(
                "| {name} | {wait} | {} | {transitions} | {history_events} | {noticed} | {usd:.4} |\n",
                cost.polls
            );
            if wait == "growing" {
                assert!(cost.completed && cost.polls <= 600 && history_events <= 6_000, "{table}");
                let allowed = (length.to_std().unwrap() / 10)
                    .clamp(Duration::from_secs(2), Duration::from_secs(60));
                assert!(cost.noticed_within <= allowed, "{table}");
            }
        }
    }
    println!("{table}");
    let document = include_str!("../../workflow/README.md");
    assert!(document.contains(&table), "workflow/README.md has another table than this:\n{table}");
}

/// An execution that runs out of history events cannot write SESSION_FAILED.
#[tokio::test]
async fn the_largest_budget_fits_the_history_of_the_most_talkative_session() {
    let services = simulated(TimeDelta::days(100), 2);
    let name = "00000000-0000-4000-8000-000000000000";
    let machine = machine(2, 60, 1_200);
    let (outcome, usage) = Execution::new(name, json!({})).run(&machine, &services).await;
    assert!(
        matches!(&outcome, ExecutionEnd::Failed { error, .. } if error == "PollAttemptsSpent"),
        "{outcome:?}"
    );
    // And the newest event is read, behind which SESSION_FAILED sorts.
    assert_eq!(services.polls.get(), 2 * 1_200 + 1);
    assert!(usage.history_events < 22_000, "{usage:?}");
}
