//! The monitor and the container together, on simulated time: the real state machine, and tasks that
//! give signs of life through the product's own code. Hours take milliseconds. Each kind of trouble
//! is tried with many seeds; clocks are up to five minutes apart in all of them.
//!
//! `SIMULATION_SEEDS=1000` runs that many of each kind, `SIMULATION_SEED=7` the one with that seed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use agent_runtime::{Agent, AgentError, Invocation, Limits, run_task};
use chrono::{DateTime, TimeDelta, Utc};
use dynoxide::Database;
use fastrand::Rng;
use futures_util::future::join;
use journal::{Draft, Journal, Mark, SessionId, Source, Status, Timestamp};
use local::asl::{Execution, ExecutionEnd, Resource, ServiceError, Services, StateMachine};
use local::{dynamodb, services};
use serde_json::{Value, json};
use support::{failure, open};
use testing::{Dynamo, Fault, TABLE_NAME, create_table};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use workflow::Definition;

const SESSION: &str = "session-00000000-0000-4000-8000-000000000000";

static MACHINE: LazyLock<StateMachine> =
    LazyLock::new(|| StateMachine::load(&Definition::default().render()).unwrap());

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the table does to requests, from the start of the simulation on.
#[derive(Clone, Default)]
struct Weather {
    /// Of a thousand writes, so many are throttled in this time.
    writes: Option<(u32, Range<Duration>)>,
    /// Likewise reads of the workflow.
    reads: Option<(u32, Range<Duration>)>,
    /// The container cannot reach the table in this time.
    cut: Option<Range<Duration>>,
}

/// One simulation: a table, and the time.
struct World {
    database: Database,
    epoch: DateTime<Utc>,
    begin: Instant,
    rng: Mutex<Rng>,
    weather: Mutex<Weather>,
    /// What happens right after the workflow has put `Lost`.
    after_lost: Mutex<Option<Draft>>,
    tasks: Mutex<Vec<Task>>,
}

/// A container's task, which can be killed.
struct Task {
    run: String,
    handle: JoinHandle<()>,
    started: Instant,
}

/// Works for so long, in silence.
struct Works(Duration);

impl Agent for Works {
    type Output = Value;

    async fn run(&self, _: Invocation) -> Result<Value, AgentError> {
        sleep(self.0).await;
        Ok(json!("done"))
    }
}

/// What the invoker does: it has a container start a task. `works`: none dies before its task.
struct Workflow {
    world: Arc<World>,
    works: Option<Duration>,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        fastrand::seed(seed);
        let database = Database::memory().unwrap();
        create_table(&database, TABLE_NAME).unwrap();
        Arc::new(Self {
            database,
            epoch: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            begin: Instant::now(),
            weather: Mutex::default(),
            rng: Mutex::new(Rng::with_seed(seed)),
            after_lost: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    fn random(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.lock().unwrap().u64(range.start * 1000..range.end * 1000))
    }

    fn now(&self) -> DateTime<Utc> {
        self.epoch + TimeDelta::from_std(self.begin.elapsed()).unwrap()
    }

    fn hit(&self, throttled: &Option<(u32, Range<Duration>)>) -> bool {
        throttled.as_ref().is_some_and(|(of_thousand, time)| {
            time.contains(&self.begin.elapsed())
                && self.rng.lock().unwrap().u32(0..1_000) < *of_thousand
        })
    }

    /// A state's call of DynamoDB.
    fn dynamodb(&self, resource: Resource, arguments: &Value) -> Result<Value, ServiceError> {
        let operation = if resource == Resource::PutItem { "PutItem" } else { "Query" };
        let arguments = arguments.to_string();
        let (status, body) = dynamodb::serve(&self.database, operation, arguments.as_bytes());
        services::dynamodb(resource, status, body.as_bytes())
    }

    /// The journal as a container sees it, with a clock that is up to five minutes off.
    fn journal(self: &Arc<Self>) -> Journal {
        let (world, clock) = (Arc::clone(self), Arc::clone(self));
        let skew = TimeDelta::seconds(self.rng.lock().unwrap().i64(-300..=300));
        let dynamo = Dynamo::over(self.database.clone(), move |_| {
            let weather = world.weather.lock().unwrap().clone();
            if weather.cut.is_some_and(|cut| cut.contains(&world.begin.elapsed())) {
                let faults = [Fault::Hang, Fault::NoConnection];
                return *world.rng.lock().unwrap().choice(&faults).unwrap();
            }
            match world.hit(&weather.writes) {
                true => Fault::Refused("ThrottlingException"),
                false => Fault::None,
            }
        });
        open(dynamo.config()).with_clock(Arc::new(move || clock.now() + skew))
    }

    /// A container takes a request of a run, and starts a task.
    async fn container(self: &Arc<Self>, run: &str, after: Timestamp, works: Duration) {
        let journal = self.journal().session(SESSION.parse().unwrap(), run, Source::Agent);
        let draft = Draft::new(Status::AgentEntrypointStarted);
        let after = journal.append(draft, Some(after), secs(10)).await.unwrap();
        let task =
            async move { drop(run_task(journal, Works(works), after, Limits::default()).await) };
        let (run, started) = (run.to_owned(), Instant::now());
        self.tasks.lock().unwrap().push(Task { run, handle: tokio::spawn(task), started });
    }

    /// Waits for the run's newest task.
    async fn task_of(&self, run: &str) -> Instant {
        loop {
            let started = |task: &Task| (task.run == run).then_some(task.started);
            if let Some(started) = self.tasks.lock().unwrap().iter().rev().find_map(started) {
                return started;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills the run's tasks.
    fn kill(&self, run: &str) {
        let tasks = self.tasks.lock().unwrap();
        tasks.iter().filter(|task| task.run == run).for_each(|task| task.handle.abort());
    }

    /// Kills the run's task so long after its start; gives the time of death.
    async fn kill_after(&self, run: &str, time: Duration) -> Instant {
        sleep_until(self.task_of(run).await + time).await;
        self.kill(run);
        Instant::now()
    }

    async fn run(self: &Arc<Self>, execution: &Execution, works: Option<Duration>) -> ExecutionEnd {
        let services = Workflow { world: Arc::clone(self), works };
        execution.run(&MACHINE, &services).await.0
    }

    /// Everything in the session's partitions, ids renamed in the order of their appearance.
    async fn history(self: &Arc<Self>) -> Vec<String> {
        let mut names = HashMap::new();
        let mut lines = Vec::new();
        for partition in ["SESSION#", "ALIVE#"] {
            let query = json!({
                "TableName": TABLE_NAME,
                "KeyConditionExpression": "PK = :pk",
                "ExpressionAttributeValues": {":pk": {"S": format!("{partition}{SESSION}")}},
            });
            let answer = self.dynamodb(Resource::Query, &query).unwrap();
            for mut item in answer["Items"].as_array().unwrap().clone() {
                let id = item["EventId"]["S"].as_str().unwrap().to_owned();
                let next = format!("event-{}", names.len());
                item["EventId"] = json!(names.entry(id).or_insert(next));
                let fields: std::collections::BTreeMap<_, _> =
                    item.as_object().unwrap().iter().map(|(k, v)| (k, v.to_string())).collect();
                lines.push(format!("{fields:?}"));
            }
        }
        lines
    }

    /// The run's statuses, with the type of an error.
    async fn statuses(self: &Arc<Self>, run: &str) -> Vec<String> {
        self.weather.lock().unwrap().cut = None;
        self.weather.lock().unwrap().writes = None;
        let id: SessionId = SESSION.parse().unwrap();
        let events = self.journal().events(&id).await.unwrap();
        let own = events.iter().filter(|event| event.invocation_id == run);
        own.map(|event| {
            let error = event.error_type.as_deref().unwrap_or_default();
            format!("{} {error}", event.status).trim_end().to_owned()
        })
        .collect()
    }
}

impl Services for Workflow {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        let world = &self.world;
        let weather = world.weather.lock().unwrap().clone();
        let throttled = |prefix: &str| {
            let error = format!("{prefix}.ThrottlingException");
            Err(ServiceError { error, cause: "injected".to_owned() })
        };
        match resource {
            Resource::PutItem if world.hit(&weather.writes) => throttled("DynamoDB"),
            Resource::Query if world.hit(&weather.reads) => throttled("DynamoDb"),
            Resource::Invoke => {
                if let Some(works) = self.works {
                    let payload = &arguments["Payload"];
                    let after = payload["after"].as_str().unwrap().parse().unwrap();
                    let run = payload["invocation_id"].as_str().unwrap();
                    world.container(run, after, works).await;
                }
                Ok(json!({"StatusCode": 200, "Payload": {}}))
            }
            Resource::PutItem | Resource::Query => {
                let lost = arguments["Item"]["Kind"]["S"] == "Lost";
                let answer = world.dynamodb(resource, &arguments);
                let terminal = world.after_lost.lock().unwrap().take_if(|_| lost && answer.is_ok());
                if let Some(draft) = terminal {
                    let run = world.tasks.lock().unwrap()[0].run.clone();
                    let journal =
                        world.journal().session(SESSION.parse().unwrap(), run, Source::Agent);
                    journal.append(draft, None, secs(10)).await.unwrap();
                }
                answer
            }
        }
    }

    fn now(&self) -> DateTime<Utc> {
        self.world.now()
    }
}

fn execution() -> Execution {
    Execution::new(SESSION, json!({}))
}

/// What one simulation found.
struct Found {
    /// How the execution ended: `completed`, or its error.
    end: String,
    /// From the death of the container to the end of the execution.
    noticed: Option<Duration>,
    history: Vec<String>,
}

fn word(end: ExecutionEnd) -> String {
    match end {
        ExecutionEnd::Succeeded(result) => {
            assert_eq!(result, json!("done"));
            "completed".to_owned()
        }
        end @ ExecutionEnd::Failed { .. } => failure(end).0,
    }
}

/// Runs a scenario with many seeds and prints what came of it. Each end has to be one of `expected`.
fn each_seed(
    kind: &str,
    expected: &[&str],
    scenario: impl AsyncFn(Arc<World>) -> (ExecutionEnd, Option<Instant>),
) {
    let number = |name: &str| std::env::var(name).ok().map(|seeds| seeds.parse::<u64>().unwrap());
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(20),
    };
    let simulate = |seed: u64| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new(seed);
            let (end, died) = scenario(Arc::clone(&world)).await;
            let noticed = died.map(|died| died.elapsed());
            // What still runs comes to its end.
            sleep(secs(1_200)).await;
            Found { end: word(end), noticed, history: world.history().await }
        })
    };
    let mut ends = HashMap::<String, u32>::new();
    let mut noticed = Vec::new();
    for seed in seeds.clone() {
        let found = simulate(seed);
        assert!(
            expected.contains(&&*found.end),
            "seed {seed}: {}\n{:#?}",
            found.end,
            found.history
        );
        *ends.entry(found.end).or_default() += 1;
        noticed.extend(found.noticed);
        if seed == seeds.start {
            assert_eq!(simulate(seed).history, found.history, "the same seed, another history");
        }
    }
    noticed.sort();
    let at = |part: usize| noticed[(noticed.len() - 1) * part / 100].as_secs();
    print!("{kind}: {ends:?}");
    if !noticed.is_empty() {
        print!(", noticed after {} s (median), {} s (95 %), {} s (most)", at(50), at(95), at(100));
        assert!(noticed.last().unwrap() <= &secs(220), "{noticed:?}");
    }
    println!();
}

/// A session whose agent works for some time, in this weather from some time after its start on.
async fn in_weather(
    world: Arc<World>,
    weather: impl FnOnce(Duration) -> Weather,
    works: Duration,
) -> ExecutionEnd {
    let execution = execution();
    let change = async {
        sleep_until(world.task_of(&execution.id).await + world.random(1..600)).await;
        let now = world.begin.elapsed();
        *world.weather.lock().unwrap() = weather(now);
    };
    join(world.run(&execution, Some(works)), change).await.0
}

#[test]
fn a_killed_container_is_noticed() {
    each_seed("killed", &["ContainerLost"], async |world| {
        let execution = execution();
        // Short and long sessions alike.
        let longest = *world.rng.lock().unwrap().choice(&[60, 600, 7_200]).unwrap();
        let time = secs(20) + world.random(0..longest);
        let run = world.run(&execution, Some(secs(50_000)));
        let (end, died) = join(run, world.kill_after(&execution.id, time)).await;
        (end, Some(died))
    });
}

#[test]
fn a_container_that_is_killed_before_its_first_sign_is_noticed() {
    each_seed("killed before the first sign", &["ContainerLost"], async |world| {
        let (execution, time) = (execution(), world.random(0..20));
        let run = world.run(&execution, Some(secs(50_000)));
        // Its start is in the journal.
        let time = time + Duration::from_millis(1);
        let (end, died) = join(run, world.kill_after(&execution.id, time)).await;
        (end, Some(died))
    });
}

#[test]
fn a_container_that_dies_before_its_task_is_noticed() {
    each_seed("killed before the task", &["AgentNotStarted"], async |world| {
        let end = world.run(&execution(), None).await;
        let took = world.begin.elapsed();
        assert!((secs(300)..=secs(330)).contains(&took), "{took:?}");
        (end, None)
    });
}

#[test]
fn a_replaced_container_is_watched_instead() {
    each_seed("replaced", &["completed"], async |world| {
        let (execution, time) = (execution(), world.random(0..3_000));
        let replace = async {
            world.kill_after(&execution.id, time).await;
            sleep(world.random(0..90)).await;
            // The same request, with the same cause.
            let initiated = world.epoch.into();
            world.container(&execution.id, initiated, world.random(0..3_600)).await;
        };
        (join(world.run(&execution, Some(secs(50_000))), replace).await.0, None)
    });
}

#[test]
fn a_replacement_that_is_killed_is_noticed_too() {
    each_seed("replaced, and killed again", &["ContainerLost"], async |world| {
        let (execution, time) = (execution(), world.random(0..1_000));
        let kill_twice = async {
            world.kill_after(&execution.id, time).await;
            sleep(world.random(0..90)).await;
            world.container(&execution.id, world.epoch.into(), secs(50_000)).await;
            sleep(world.random(0..1_000)).await;
            world.kill(&execution.id);
            Instant::now()
        };
        let (end, died) = join(world.run(&execution, Some(secs(50_000))), kill_twice).await;
        (end, Some(died))
    });
}

#[test]
fn throttled_writes_are_no_death() {
    for of_thousand in [900, 980, 995] {
        each_seed(&format!("writes throttled {of_thousand} ‰"), &["completed"], async |world| {
            let weather = |now| Weather {
                writes: Some((of_thousand, now..now + secs(900))),
                ..Weather::default()
            };
            let works = world.random(60..1_500);
            (in_weather(world, weather, works).await, None)
        });
    }
}

#[test]
fn throttled_reads_and_writes_are_no_death() {
    each_seed("writes throttled 980 ‰, reads 300 ‰", &["completed"], async |world| {
        let weather = |now| Weather {
            writes: Some((980, now..now + secs(900))),
            reads: Some((300, now..now + secs(900))),
            ..Weather::default()
        };
        let works = world.random(60..1_500);
        (in_weather(world, weather, works).await, None)
    });
}

#[test]
fn clocks_that_differ_and_a_silent_agent_are_no_death() {
    each_seed("clocks 5 min apart, an agent silent for hours", &["completed"], async |world| {
        let longest = *world.rng.lock().unwrap().choice(&[600, 3_600, 20_000]).unwrap();
        let works = world.random(10..longest);
        (world.run(&execution(), Some(works)).await, None)
    });
}

#[test]
fn a_container_that_is_cut_off_shortly_is_no_death() {
    for seconds in [30, 60, 90] {
        each_seed(&format!("cut off for {seconds} s"), &["completed"], async |world| {
            let weather =
                |now| Weather { cut: Some(now..now + secs(seconds)), ..Weather::default() };
            let works = world.random(60..1_500);
            (in_weather(world, weather, works).await, None)
        });
    }
}

/// The workflow cannot know that it lives. But the container learns it, and ends its agent.
#[test]
fn a_container_that_is_cut_off_for_long_ends_its_agent_when_it_comes_back() {
    for (seconds, expected) in
        [(120, &["completed", "ContainerLost"][..]), (600, &["ContainerLost"])]
    {
        each_seed(&format!("cut off for {seconds} s"), expected, async |world| {
            let weather =
                |now| Weather { cut: Some(now..now + secs(seconds)), ..Weather::default() };
            let end = in_weather(Arc::clone(&world), weather, secs(2_400)).await;
            sleep(secs(seconds)).await;
            let statuses = world.statuses(&execution().id).await;
            if word(end.clone()) == "ContainerLost" {
                let lost =
                    statuses.iter().any(|status| status == "AGENT_BACKGROUND_TASK_FAILED Lost");
                assert!(lost, "{statuses:?}");
            }
            (end, None)
        });
    }
}

#[test]
fn a_frozen_container_is_no_death() {
    // SIGSTOP for a minute: nothing of the container is polled.
    each_seed("stopped by SIGSTOP for 60 s", &["completed"], async |world| {
        let execution = execution();
        let frozen = world.random(0..1_000);
        let services = Workflow { world: Arc::clone(&world), works: None };
        let run = execution.run(&MACHINE, &services);
        let container = async {
            let session =
                world.journal().session(SESSION.parse().unwrap(), &*execution.id, Source::Agent);
            let after = Timestamp::from(world.now());
            let task = run_task(session, Works(world.random(60..2_400)), after, Limits::default());
            tokio::pin!(task);
            tokio::select! {
                biased;
                ended = &mut task => return ended.unwrap(),
                () = sleep(frozen) => {}
            }
            sleep(secs(60)).await;
            task.await.unwrap()
        };
        let ((end, _), _) = join(run, container).await;
        (end, None)
    });
}

#[test]
fn a_stop_ends_the_task_within_thirty_seconds() {
    each_seed("stopped by an operator", &["Stopped"], async |world| {
        let execution = execution();
        let stop = async {
            sleep_until(world.task_of(&execution.id).await + world.random(1..4_000)).await;
            let (id, journal) = (SESSION.parse().unwrap(), world.journal());
            let events = journal.events(&id).await.unwrap();
            let started = events.iter().find(|event| event.heartbeat_seconds.is_some()).unwrap();
            let newest = journal.signs(&id, &started.timestamp).await.unwrap();
            let slot = newest.first().map_or(0, |sign| sign.slot + 1);
            let session = journal.session(id, &*execution.id, Source::Agent);
            let mut signs = session.signs(&started.timestamp, slot);
            while signs.take(Mark::Stop("wrong input")).await.unwrap().is_some() {}
            let stopped = Instant::now();
            while !world
                .statuses(&execution.id)
                .await
                .contains(&"AGENT_BACKGROUND_TASK_FAILED Stopped".to_owned())
            {
                sleep(secs(1)).await;
            }
            assert!(stopped.elapsed() <= secs(30), "{:?}", stopped.elapsed());
        };
        let (end, ()) = join(world.run(&execution, Some(secs(50_000))), stop).await;
        assert_eq!(failure(end.clone()).1, "wrong input");
        (end, None)
    });
}

#[test]
fn of_two_runs_of_one_session_each_has_its_own_end() {
    each_seed("two runs, one killed", &["ContainerLost"], async |world| {
        let first = execution();
        let second = Execution::new(
            "another-execution-0123456789-0123456789",
            json!({"session_id": SESSION}),
        );
        let time = world.random(1..2_000);
        let (works, apart) = (world.random(1..4_000), world.random(0..60));
        let killed = join(world.run(&first, Some(secs(50_000))), world.kill_after(&first.id, time));
        let other = async {
            sleep(apart).await;
            world.run(&second, Some(works)).await
        };
        let ((end, died), other) = join(
            async {
                let (end, died) = killed.await;
                (end, died.elapsed())
            },
            other,
        )
        .await;
        assert_eq!(word(other), "completed");
        assert!(died <= secs(220), "{died:?}");
        (end, None)
    });
}

#[test]
fn an_end_between_the_verdict_and_session_failed_wins() {
    each_seed("completed between Lost and SESSION_FAILED", &["completed"], async |world| {
        let execution = execution();
        *world.after_lost.lock().unwrap() = Some(Draft::completed("\"done\"", 6));
        let time = world.random(0..2_000);
        let run = world.run(&execution, Some(secs(50_000)));
        let (end, _) = join(run, world.kill_after(&execution.id, time)).await;
        assert!(world.after_lost.lock().unwrap().is_none());
        (end, None)
    });
}
