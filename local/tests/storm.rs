//! A storm from outside: real processes, faults over the network, clocks minutes apart. Sessions are
//! started all the time, by StartExecution and by curl, with agents that are commands and agents that
//! are servers. Containers and invokers are killed and stopped. `testing::checker`, which shares no
//! code with the product, judges by the table.
//!
//! `STORM_SECONDS=3600` is how long it lasts (default 120), `STORM_SEED` what its plans come from.
//! Then the faults end, and what was begun comes to its end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_sfn::types::ExecutionStatus;
use dynoxide::Database;
use fastrand::Rng;
use local::agentcore::Lifecycle;
use local::options::{Agent, Options};
use local::step_functions::{self, STATE_MACHINE_ARN};
use local::system::System;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{options, sfn};
use tempfile::TempDir;
use testing::checker::{End, Found, Hurt, Session, check};
use testing::{Call, Dynamo, Fault, TABLE_NAME, Table, create_table};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use workflow::Definition;

/// How far the containers' clocks are off: those of commands, and those of servers.
const CLOCKS: [&str; 2] = ["+90s", "-90s"];

/// The stop or the cut after which a verdict is expected.
const LONG: Duration = Duration::from_secs(240);

/// How long what was begun may take to come to its end, once the faults have ended.
const DRAIN: Duration = Duration::from_secs(900);

/// How long the longest task may then take to its end, which nobody has waited for.
const LAST_WORDS: Duration = Duration::from_secs(240);

/// What happens to a session.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Nothing,
    /// After so long its container is killed.
    Kill(Duration),
    /// After so long its container is stopped for so long.
    Stop(Duration, Duration),
    /// After so long its container does not reach the table for so long.
    Cut(Duration, Duration),
    /// The invoker that was started last is killed, or stopped for so long.
    Invoker(Option<Duration>),
}

struct Plan {
    id: String,
    kind: usize,
    seconds: u64,
    fails: bool,
    fate: Fate,
}

/// A system with agents of one kind.
struct Stack {
    system: Arc<System>,
    step_functions: aws_sdk_sfn::Client,
    /// When its container for direct calls was killed.
    direct: Mutex<Vec<f64>>,
}

struct Storm {
    began: Instant,
    epoch: f64,
    /// Whether faults happen and sessions are started.
    rages: Arc<AtomicBool>,
    rng: Mutex<Rng>,
    stacks: Vec<Stack>,
    /// Where agents note what they do.
    notes: TempDir,
    cut: Arc<Mutex<HashSet<String>>>,
}

fn random(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from * 1_000..to * 1_000))
}

fn draw_fault(rng: &mut Rng) -> Fault {
    let faults = [
        Fault::Refused("ThrottlingException"),
        Fault::Refused("ProvisionedThroughputExceededException"),
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::DropAfter,
        Fault::Late(random(rng, 0, 8)),
        Fault::Hang,
        Fault::CutBody,
        Fault::NoConnection,
        Fault::Proxy(502, "<html>"),
        Fault::Proxy(200, ""),
        Fault::Unreadable(500),
    ];
    faults[rng.usize(..faults.len())]
}

impl Plan {
    /// Nobody watches a direct call, so its own container is left alone.
    fn call(rng: &mut Rng, kind: usize) -> Self {
        let seconds = match rng.u8(..10) {
            0..6 => rng.u64(1..10),
            6..9 => rng.u64(20..90),
            _ => rng.u64(90..200),
        };
        let id = uuid::Uuid::new_v4().to_string();
        Self { id, kind, seconds, fails: rng.u8(..5) == 0, fate: Fate::Nothing }
    }

    fn execution(rng: &mut Rng, kind: usize) -> Self {
        let plan = Self::call(rng, kind);
        let at = random(rng, 0, plan.seconds + 5);
        let fate = match rng.u8(..100) {
            0..58 => Fate::Nothing,
            58..76 => Fate::Kill(at),
            76..90 => Fate::Stop(at, random(rng, 1, 60)),
            90..93 => Fate::Invoker(None),
            93..96 => Fate::Invoker(Some(random(rng, 1, 60))),
            96..98 => Fate::Stop(random(rng, 20, 30), LONG),
            _ => Fate::Cut(random(rng, 20, 30), LONG),
        };
        let is_long = matches!(fate, Fate::Stop(_, LONG) | Fate::Cut(..));
        // Longer than the silence, so that a verdict is expected.
        Self { fate, seconds: if is_long { 600 } else { plan.seconds }, ..plan }
    }
}

/// A process and all that it started.
fn tree(root: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap();
        parents.push((id, parent.parse::<i32>().unwrap()));
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(of) = all.get(next).copied() {
        all.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(id, _)| *id));
        next += 1;
    }
    all
}

fn signal(processes: &[i32], signal: Signal) {
    for id in processes {
        let _ = kill(Pid::from_raw(*id), signal);
    }
}

/// Stops processes for so long.
async fn stop(processes: &[i32], time: Duration) {
    signal(processes, Signal::SIGSTOP);
    sleep(time).await;
    signal(processes, Signal::SIGCONT);
}

impl Storm {
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// What an agent has noted.
    fn noted(&self, id: &str, word: &str) -> usize {
        let notes = std::fs::read_to_string(self.notes.path().join(id)).unwrap_or_default();
        notes.lines().filter(|line| *line == word).count()
    }

    /// Makes a session's fate come true; what it was, if it came in time.
    async fn strike(&self, plan: &Plan) -> Option<Hurt> {
        let stack = &self.stacks[plan.kind];
        let container = async |after| {
            sleep(after).await;
            let process = stack.system.container(&plan.id.parse().unwrap())?;
            (!process.has_ended()).then(|| tree(process.id()))
        };
        match plan.fate {
            Fate::Nothing => None,
            Fate::Kill(after) => {
                let processes = container(after).await?;
                signal(&processes, Signal::SIGKILL);
                Some(Hurt::Killed(self.now()))
            }
            Fate::Stop(after, time) => {
                let processes = container(after).await?;
                let since = self.now();
                stop(&processes, time).await;
                Some(Hurt::Silenced(since, time))
            }
            Fate::Cut(after, time) => {
                container(after).await?;
                let since = self.now();
                self.cut.lock().unwrap().insert(plan.id.clone());
                sleep(time).await;
                self.cut.lock().unwrap().remove(&plan.id);
                Some(Hurt::Silenced(since, time))
            }
            Fate::Invoker(time) => {
                let invoker = [stack.system.invoker().id()];
                match time {
                    Some(time) => stop(&invoker, time).await,
                    None => signal(&invoker, Signal::SIGKILL),
                }
                None
            }
        }
    }

    /// A session that StartExecution starts.
    async fn execution(self: Arc<Self>, plan: Plan) -> Session {
        let client = &self.stacks[plan.kind].step_functions;
        let input = json!({"seconds": plan.seconds, "fails": plan.fails}).to_string();
        let start = client.start_execution().state_machine_arn(STATE_MACHINE_ARN).name(&plan.id);
        let arn = start.input(input).send().await.unwrap().execution_arn;
        let end = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                let it = client.describe_execution().execution_arn(&arn).send().await.unwrap();
                if it.status != ExecutionStatus::Running {
                    let at = it.stop_date.unwrap().as_secs_f64() - self.epoch;
                    let error = it.error.unwrap_or_default();
                    break End { status: it.status.to_string(), error, at };
                }
            }
        };
        let (hurt, end) = tokio::join!(self.strike(&plan), end);
        // A container that was silent learns what became of its session.
        sleep(Duration::from_secs(if hurt.is_some() { 60 } else { 2 })).await;
        if let Some(container) = self.stacks[plan.kind].system.container(&plan.id.parse().unwrap())
        {
            container.stop().await;
            let how = container.ended().await;
            if how != "exit status: 0" && !matches!(hurt, Some(Hurt::Killed(_))) {
                println!("nobody killed the container of {} ({:?}): {how}", plan.id, plan.fate);
            }
        }
        Session {
            end: Some(end),
            accepted: true,
            begun: self.noted(&plan.id, "begun"),
            done: self.noted(&plan.id, "done"),
            hurts: Vec::from_iter(hurt),
            id: plan.id,
        }
    }

    /// A session that curl starts.
    async fn call(self: Arc<Self>, plan: Plan) -> Session {
        let stack = &self.stacks[plan.kind];
        let body = json!({"session_id": plan.id, "seconds": plan.seconds, "fails": plan.fails});
        let (since, url) =
            (self.now(), format!("http://{}/invocations", stack.system.agent_address));
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "120", "-w", "%{http_code}", &url, "-d", &body.to_string()]);
        let answer = curl.output().await.unwrap();
        let accepted = answer.stdout.ends_with(b"200");
        while self.rages.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(1)).await;
        }
        let deaths = stack.direct.lock().unwrap().clone();
        let later = deaths.into_iter().filter(|at| *at > since);
        Session {
            accepted,
            hurts: later.map(Hurt::Killed).collect(),
            id: plan.id,
            ..Session::default()
        }
    }

    /// Kills and stops the containers for direct calls now and then.
    async fn strike_direct(self: Arc<Self>) {
        while self.rages.load(Ordering::Relaxed) {
            let (wait, kind, time, kills) = {
                let mut rng = self.rng.lock().unwrap();
                (random(&mut rng, 15, 45), rng.usize(..2), random(&mut rng, 1, 60), rng.bool())
            };
            sleep(wait).await;
            if !self.rages.load(Ordering::Relaxed) {
                return;
            }
            let stack = &self.stacks[kind];
            let processes = tree(stack.system.agent().unwrap().id());
            if kills {
                stack.direct.lock().unwrap().push(self.now());
                signal(&processes, Signal::SIGKILL);
                stack.system.agent_ended().await;
                stack.system.replace_agent().await.unwrap();
            } else {
                stop(&processes, time).await;
            }
        }
    }
}

async fn stack(
    kind: usize,
    database: &Database,
    proxy: std::net::SocketAddr,
    notes: &Path,
    logs: &TempDir,
) -> Stack {
    let notes = notes.display();
    let agent = match kind {
        0 => Agent::Command(format!(
            "sh -c 'read -r input; echo begun >> {notes}/$SESSION_ID; \
             seconds=$(echo \"$input\" | tr -dc 0-9); sleep $seconds; echo done >> {notes}/$SESSION_ID; \
             case $input in *true*) exit 3;; esac; echo $seconds'"
        )),
        _ => {
            let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/storm.py");
            Agent::Server(format!("python3 {} {notes}", server.display()))
        }
    };
    let faketime = std::env::var("LIBFAKETIME").unwrap_or_else(|_| {
        unreachable!("LIBFAKETIME must name libfaketime.so.1; .ci/run installs it and sets this")
    });
    let options = Options {
        agent,
        agent_port: Some(0),
        container: vec![
            ("LD_PRELOAD", faketime),
            ("FAKETIME", CLOCKS[kind].to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ],
        // A container that is stopped answers no ping, and is not to be ended for that.
        lifecycle: Lifecycle { idle_timeout: Duration::from_secs(600), ..Lifecycle::default() },
        // A container that never comes is given up sooner than by default, so that a run ends.
        workflow: Definition { start_seconds: 120, ..support::patient(600) },
        ..options(logs, "", 600)
    };
    let table = Table::served_at(database.clone(), proxy);
    let system = Arc::new(System::start_on(&options, table).await.unwrap());
    let server = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    Stack { system, step_functions: sfn(&server), direct: Mutex::default() }
}

/// All items of the table.
fn items(database: &Database) -> Vec<Value> {
    let (mut all, mut start) = (Vec::new(), Value::Null);
    loop {
        let mut scan = json!({"TableName": TABLE_NAME});
        if !start.is_null() {
            scan["ExclusiveStartKey"] = start;
        }
        let page = database.scan(serde_json::from_value(scan).unwrap()).unwrap();
        let page = serde_json::to_value(page).unwrap();
        all.extend(page["Items"].as_array().unwrap().iter().cloned());
        start = page["LastEvaluatedKey"].clone();
        if start.is_null() {
            return all;
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn times(noticed: &[f64]) -> String {
    let at = |part: usize| noticed.get(noticed.len().saturating_sub(1) * part / 100);
    let at = |part| at(part).map_or_else(|| "-".to_owned(), |time| format!("{time:.0} s"));
    format!("{} in {} (median), {} (95 %), {} (most)", noticed.len(), at(50), at(95), at(100))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and needs libfaketime: LIBFAKETIME=path cargo test -p local --test storm -- --ignored --nocapture"]
async fn no_event_is_lost_and_no_verdict_is_false_in_a_storm() {
    let lasts = Duration::from_secs(number("STORM_SECONDS", 120));
    let seed = number("STORM_SEED", fastrand::u64(..));
    println!("storm: {} s, STORM_SEED={seed}", lasts.as_secs());
    let mut rng = Rng::with_seed(seed);
    let database = Database::memory().unwrap();
    create_table(&database, TABLE_NAME).unwrap();
    let (applied, faults) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let cut = Arc::new(Mutex::new(HashSet::<String>::new()));
    let rages = Arc::new(AtomicBool::new(false));
    let dynamo = {
        let (faults, cut, rages) = (Arc::clone(&faults), Arc::clone(&cut), Arc::clone(&rages));
        let (mut rng, began) = (rng.fork(), Instant::now());
        let plan = move |call: &Call| {
            let item = &call.body["Item"];
            let session = item["PK"]["S"].as_str().and_then(|key| key.split_once('#'));
            let is_cut = session.is_some_and(|(_, id)| cut.lock().unwrap().contains(id));
            // A quarter of all requests, then two fifths, by turns.
            let part = if began.elapsed().as_secs() / 20 % 2 == 0 { 25 } else { 40 };
            let fault = match () {
                () if is_cut && item["Source"]["S"] == "agent" => Fault::NoConnection,
                () if !rages.load(Ordering::Relaxed) || rng.u8(..100) >= part => Fault::None,
                () => draw_fault(&mut rng),
            };
            faults.fetch_add(usize::from(fault != Fault::None), Ordering::Relaxed);
            fault
        };
        let applied = Arc::clone(&applied);
        Dynamo::over(database.clone(), plan)
            .on_applied(move |item| applied.lock().unwrap().push(item.clone()))
    };
    let proxy = dynamo.serve().await.unwrap();
    let (notes, logs) =
        (tempfile::tempdir().unwrap(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let mut stacks = Vec::new();
    for (kind, logs) in logs.iter().enumerate() {
        stacks.push(stack(kind, &database, proxy, notes.path(), logs).await);
    }
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let storm = Arc::new(Storm {
        began: Instant::now(),
        epoch,
        rages,
        rng: Mutex::new(rng.fork()),
        stacks,
        notes,
        cut,
    });
    storm.rages.store(true, Ordering::Relaxed);
    let strikes = tokio::spawn(Arc::clone(&storm).strike_direct());
    let (mut executions, mut calls) = (JoinSet::new(), JoinSet::new());
    for number in 0.. {
        if storm.began.elapsed() >= lasts {
            break;
        }
        executions.spawn(Arc::clone(&storm).execution(Plan::execution(&mut rng, number % 2)));
        if number % 2 == 0 {
            calls.spawn(Arc::clone(&storm).call(Plan::call(&mut rng, number / 2 % 2)));
        }
        sleep(Duration::from_secs(1)).await;
    }
    storm.rages.store(false, Ordering::Relaxed);
    let ended = timeout(DRAIN, async {
        strikes.await.unwrap();
        (executions.join_all().await, calls.join_all().await)
    });
    let (mut sessions, direct) = ended.await.expect("sessions without an end");
    // The tasks of direct calls have nobody who waits for them.
    let drained = Instant::now();
    let found = loop {
        let mut all = sessions.clone();
        all.extend(direct.iter().cloned().map(|session| Session {
            begun: storm.noted(&session.id, "begun"),
            done: storm.noted(&session.id, "done"),
            ..session
        }));
        let found = check(&all, &items(&database), &applied.lock().unwrap());
        if found.lost.is_empty() || drained.elapsed() > LAST_WORDS {
            sessions = all;
            break found;
        }
        sleep(Duration::from_secs(1)).await;
    };
    report(&sessions, &found, faults.load(Ordering::Relaxed));
    for stack in &storm.stacks {
        stack.system.stop().await;
    }
    let wrong = found.wrong().map(|(_, wrong)| wrong).concat();
    assert!(wrong.is_empty(), "STORM_SEED={seed}\n{wrong:#?}");
    assert!(found.events > sessions.len(), "a storm without sessions");
}

fn report(sessions: &[Session], found: &Found, faults: usize) {
    let mut ends = HashMap::<String, usize>::new();
    for session in sessions {
        let end = session.end.as_ref().map(|end| format!("{} {}", end.status, end.error));
        *ends.entry(end.unwrap_or_else(|| "direct call".to_owned())).or_default() += 1;
    }
    println!("{} events, {faults} faults, {} sessions: {ends:?}", found.events, sessions.len());
    for (what, wrong) in found.wrong() {
        println!("{what}: {}", wrong.len());
    }
    println!("killed containers noticed: {}", times(&found.noticed));
    println!("silent for {} s, noticed: {}", LONG.as_secs(), times(&found.noticed_silence));
}
