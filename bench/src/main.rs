//! What the runtime costs, as ratios measured in one run: `cargo run --release -p bench`.
//!
//! Each contender is a container in a process of its own, on a DynamoDB that answers every put after
//! 4 ms and counts it. Contenders take turns, so that the machine's moods hit all of them. A round
//! fails if an answer is not 200 or if an event is missing.

mod stand_ins;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent_runtime::{Agent, AgentError, Invocation};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use local::process::{Process, Spec};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::stand_ins::StandIns;

const HOST: &str = "host";
const CONCURRENCY: usize = 64;
const INVOCATIONS: usize = 2_000;
const ROUNDS: usize = 7;

/// Events of one invocation.
const EVENTS: usize = 3;

/// Spans of one invocation: the request, the task, and three appends.
const SPANS: usize = 5;

/// How long the last events and spans of a round may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that costs nothing.
struct Idle;

impl Agent for Idle {
    async fn run(&self, _: Invocation) -> Result<Value, AgentError> {
        Ok(Value::Null)
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(HOST) {
        local::process::end_with_parent();
        return agent_runtime::run(Idle);
    }
    let measured = tokio::runtime::Runtime::new()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(telemetry()));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What exporting traces and metrics adds to an invocation.
async fn telemetry() -> Result<()> {
    let stand_ins = StandIns::start()?;
    let contenders = [
        ("without export", None),
        ("exporting", Some(stand_ins.endpoint())),
        ("collector gone", Some("http://127.0.0.1:1".to_owned())),
    ];
    let mut rounds = contenders.clone().map(|_| Vec::new());
    let mut exported = 0;
    for round in 0..=ROUNDS {
        for ((_, otlp), costs) in contenders.iter().zip(&mut rounds) {
            stand_ins.spans.store(0, Ordering::Relaxed);
            let cost = invoke(&stand_ins, otlp.as_deref()).await?;
            exported += stand_ins.spans.load(Ordering::Relaxed);
            // The first round warms the machine.
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let cores = std::thread::available_parallelism()?;
    let processor = std::fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    println!("{cores} cores, {}", processor.unwrap_or("unknown processor"));
    println!(
        "{ROUNDS} rounds of {INVOCATIONS} invocations each, {CONCURRENCY} at a time; medians\n"
    );
    println!("| contender | CPU per invocation | ratio |\n|---|---|---|");
    let medians = rounds.map(median);
    let [base, ..] = medians;
    for ((name, _), cost) in contenders.iter().zip(medians) {
        let ratio = cost.as_secs_f64() / base.as_secs_f64();
        println!("| {name} | {:.0} µs | {ratio:.2} |", cost.as_secs_f64() * 1e6);
    }
    let expected = (ROUNDS + 1) * INVOCATIONS * SPANS;
    println!("\n{exported} of {expected} spans arrived; what the queue cannot hold is dropped.");
    Ok(())
}

/// The processor time that one of many invocations costs a container.
async fn invoke(stand_ins: &StandIns, otlp: Option<&str>) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let before = children_processor_time()?;
    let (process, address) = host(stand_ins, otlp, &folder).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let events = stand_ins.events.load(Ordering::Relaxed);
    let calls = stream::iter(0..INVOCATIONS).map(|_| async {
        let body = json!({"session_id": Uuid::new_v4(), "prompt": "hi"}).to_string();
        let answer = client.post(format!("http://{address}/invocations")).body(body).send().await?;
        ensure!(answer.status() == 200, "an invocation was answered with {}", answer.status());
        Ok(())
    });
    let mut calls = calls.buffer_unordered(CONCURRENCY);
    while let Some(call) = calls.next().await {
        call?;
    }
    let deadline = Instant::now() + PATIENCE;
    while stand_ins.events.load(Ordering::Relaxed) < events + EVENTS * INVOCATIONS {
        ensure!(Instant::now() < deadline, "events are missing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // With its end come the last spans, and the system knows what it has cost from its start.
    process.stop().await;
    Ok((children_processor_time()? - before) / u32::try_from(INVOCATIONS)?)
}

/// Starts a container.
async fn host(
    stand_ins: &StandIns,
    otlp: Option<&str>,
    folder: &TempDir,
) -> Result<(Process, String)> {
    let dynamodb = format!("http://{}", stand_ins.address);
    let environment = [
        ("JOURNAL_TABLE_NAME", "journal"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "bench"),
        ("AWS_SECRET_ACCESS_KEY", "bench"),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("RUST_LOG", "error,agent_runtime::run=info"),
        // Empty counts as absent.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.unwrap_or_default()),
    ];
    let spec = Spec {
        program: std::env::current_exe()?,
        subcommand: HOST,
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        log: folder.path().join("log"),
        echo: false,
    };
    let (process, listens) = Process::start(&spec)?;
    let address = process.address(listens).await?;
    Ok((process, address))
}

/// The processor time of all children that have ended.
fn children_processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
    Ok(Duration::from_micros(u64::try_from(micros.iter().sum::<i64>())?))
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}
