//! Seeded schedules: several writers of one session, clocks that collide, step back and differ by
//! minutes, and four of ten requests faulty. Time is paused, so a schedule of minutes takes
//! milliseconds.
//!
//! `JOURNAL_SCHEDULES=20000` runs that many, `JOURNAL_SEED=7` runs the one with that seed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dynoxide::Database;
use fastrand::Rng;
use journal::{
    AppendErrorKind, Draft, Event, Journal, SessionId, SessionJournal, Source, Status, Timestamp,
};
use support::open;
use testing::{Dynamo, Fault};
use tokio::time::Instant;

/// How one append went, and what it came after.
struct Attempt {
    writer: usize,
    status: String,
    cause: Option<Timestamp>,
    outcome: Result<Timestamp, Loss>,
}

#[derive(Debug, PartialEq)]
enum Loss {
    Failed,
    Unknown,
}

/// A schedule's record of what was tried and of what the engine applied.
#[derive(Clone, Default)]
struct Record {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    /// Every put that the engine applied: its key and event id.
    applied: Arc<Mutex<Vec<(String, String)>>>,
}

fn random_fault(rng: &mut Rng) -> Fault {
    if rng.u8(0..10) >= 4 {
        return Fault::None;
    }
    let late = Duration::from_millis(rng.u64(0..20_000));
    *rng.choice(&[
        Fault::Refused("ThrottlingException"),
        Fault::Refused("ProvisionedThroughputExceededException"),
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::DropAfter,
        Fault::Late(late),
        Fault::Hang,
        Fault::CutBody,
        Fault::NoConnection,
    ])
    .unwrap()
}

/// A clock minutes off, in coarse steps so that timestamps collide, that jumps back now and then.
fn random_clock(rng: &mut Rng, epoch: DateTime<Utc>, start: Instant) -> journal::Clock {
    let skew = TimeDelta::seconds(rng.i64(-300..300));
    let step = *rng.choice(&[1, 1_000, 1_000_000, 60_000_000]).unwrap();
    let rng = Mutex::new(rng.fork());
    Arc::new(move || {
        let jump = match rng.lock().unwrap().u8(0..10) {
            0 => TimeDelta::seconds(-30),
            _ => TimeDelta::zero(),
        };
        let now = epoch + skew + jump + TimeDelta::from_std(start.elapsed()).unwrap();
        DateTime::from_timestamp_micros(now.timestamp_micros() / step * step).unwrap()
    })
}

/// One process that writes: its own journal, its own clock.
struct Writer {
    number: usize,
    journal: Journal,
    record: Record,
    rng: Mutex<Rng>,
}

impl Writer {
    fn new(
        number: usize,
        rng: &mut Rng,
        database: &Database,
        epoch: DateTime<Utc>,
        record: &Record,
    ) -> Self {
        let mut faults = rng.fork();
        let applied = Arc::clone(&record.applied);
        let dynamo = Dynamo::over(database.clone(), move |_| random_fault(&mut faults)).on_applied(
            move |item| {
                let text = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
                applied.lock().unwrap().push((text("SK"), text("EventId")));
            },
        );
        let clock = random_clock(rng, epoch, Instant::now());
        let journal = open(&dynamo).with_clock(clock);
        Self { number, journal, record: record.clone(), rng: Mutex::new(rng.fork()) }
    }

    fn session(&self, id: &SessionId, source: Source) -> SessionJournal {
        self.journal.session(id.clone(), "run-1", source)
    }

    /// Appends an event whose status no other append has.
    async fn append(
        &self,
        journal: &SessionJournal,
        name: &str,
        cause: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let status = format!("{name}_{}", self.record.attempts.lock().unwrap().len());
        let index = {
            let mut attempts = self.record.attempts.lock().unwrap();
            let outcome = Err(Loss::Unknown);
            attempts.push(Attempt { writer: self.number, status: status.clone(), cause, outcome });
            attempts.len() - 1
        };
        let pause = Duration::from_millis(self.rng.lock().unwrap().u64(0..200));
        tokio::time::sleep(pause).await;
        let draft = Draft::new(Status::Other(status));
        let outcome = if name == "TERMINAL" {
            journal.append_terminal(draft, std::future::pending()).await
        } else {
            journal.append(draft, cause, Duration::from_secs(10)).await
        };
        let time = outcome.as_ref().ok().copied();
        self.record.attempts.lock().unwrap()[index].outcome =
            outcome.map_err(|error| match error.kind {
                AppendErrorKind::Unknown => Loss::Unknown,
                AppendErrorKind::Failed | AppendErrorKind::Refused => Loss::Failed,
            });
        time
    }
}

/// One run of the session: workflow, invoker and agent, each a process of its own, and each event
/// caused by the one before, as in the product.
async fn run_of_session(id: &SessionId, writers: &[Writer; 3]) {
    let [workflow, invoker, agent] = writers;
    let journals = (
        workflow.session(id, Source::Workflow),
        invoker.session(id, Source::Invoker),
        agent.session(id, Source::Agent),
    );
    let Some(initiated) = workflow.append(&journals.0, "INITIATED", None).await else { return };
    let Some(invoked) = invoker.append(&journals.1, "INVOKED", Some(initiated)).await else {
        return;
    };
    let Some(entered) = agent.append(&journals.2, "ENTERED", Some(invoked)).await else { return };
    let Some(started) = agent.append(&journals.2, "STARTED", Some(entered)).await else { return };
    let (terminal, _) = tokio::join!(
        agent.append(&journals.2, "TERMINAL", Some(started)),
        invoker.append(&journals.1, "SUCCEEDED", Some(started)),
    );
    assert!(terminal.is_some(), "a terminal event outlasts these faults");
    workflow.append(&journals.0, "CLOSED", terminal).await;
}

async fn schedule(seed: u64, database: &Database) {
    let mut rng = Rng::with_seed(seed);
    let id: SessionId = format!("session-of-the-schedule-with-seed-{seed:020}").parse().unwrap();
    let epoch = DateTime::from_timestamp(1_795_401_900, 0).unwrap();
    let record = Record::default();
    // Two runs of the session at once, so that strangers collide.
    let mut writers = |first: usize| {
        [0, 1, 2].map(|n| Writer::new(first + n, &mut rng, database, epoch, &record))
    };
    let (one, two) = (writers(0), writers(3));
    tokio::join!(run_of_session(&id, &one), run_of_session(&id, &two));
    // Whatever is still on the wire arrives.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let reader = open(&Dynamo::over(database.clone(), |_| Fault::None));
    check(seed, &record, &reader.events(&id).await.unwrap());
}

fn check(seed: u64, record: &Record, events: &[Event]) {
    let attempts = record.attempts.lock().unwrap();
    let mut last_of = HashMap::new();
    for attempt in attempts.iter() {
        let found: Vec<_> =
            events.iter().filter(|event| event.status.as_str() == attempt.status).collect();
        let context = format!("JOURNAL_SEED={seed}: {} {:?}", attempt.status, attempt.outcome);
        match &attempt.outcome {
            Ok(time) => {
                assert_eq!(found.len(), 1, "{context}: acknowledged, so there exactly once");
                assert_eq!(found[0].timestamp, time.to_string(), "{context}");
                if let Some(cause) = attempt.cause {
                    assert!(cause < *time, "{context}: before its cause {cause}");
                }
                // A writer's own events are in order, but for the two that no cause connects.
                let last = last_of.insert(attempt.writer, *time);
                assert!(last.is_none_or(|last| last < *time), "{context}: before {last:?}");
            }
            Err(Loss::Failed) => assert!(found.is_empty(), "{context}: reported as not written"),
            Err(Loss::Unknown) => assert!(found.len() <= 1, "{context}: written twice"),
        }
        if let [event] = found.as_slice() {
            assert_eq!(event.sort_key, format!("EVENT#{}", event.timestamp), "{context}");
        }
    }
    // Nothing was overwritten: every put that was ever applied is there, and nothing else.
    let kept: HashMap<_, _> =
        events.iter().map(|event| (&event.sort_key, &event.event_id)).collect();
    let applied = record.applied.lock().unwrap();
    for (key, id) in applied.iter() {
        assert_eq!(kept.get(key), Some(&id), "JOURNAL_SEED={seed}: {key} was overwritten");
    }
    assert_eq!(applied.len(), events.len(), "JOURNAL_SEED={seed}");
}

#[test]
fn no_schedule_of_faults_and_clocks_loses_or_reorders_an_event() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let seeds = match number("JOURNAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("JOURNAL_SCHEDULES").unwrap_or(500),
    };
    let database = Database::memory().unwrap();
    testing::create_table(&database, testing::TABLE_NAME).unwrap();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let run = std::panic::AssertUnwindSafe(|| runtime.block_on(schedule(seed, &database)));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("failed: replay alone with JOURNAL_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{count} schedules");
}
