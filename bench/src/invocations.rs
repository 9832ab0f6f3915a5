//! Invocations of containers: processor time, memory, latency, and what telemetry adds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::Select;
use serde_json::Value;
use testing::{TABLE_NAME, Table};

use crate::contender::{Contender, Load, Spec, bodies};
use crate::stand_ins::STATUSES;
use crate::table::{MEBIBYTE, Row, Target, median, microseconds, milliseconds, slope};
use crate::{Bench, each};

const CONCURRENCY: usize = 64;

/// Until an allocator has given back what only the load needed.
const AT_REST: Duration = Duration::from_secs(5);

/// Events of one invocation.
const EVENTS: usize = 3;

/// Spans of one invocation: the request, the task, and three appends.
const SPANS: usize = 5;

impl Bench {
    /// A file of bodies for a load.
    pub fn bodies(&self, until: Option<u64>) -> Result<PathBuf> {
        let path = self.folder.path().join("bodies");
        std::fs::write(&path, bodies(until))?;
        Ok(path)
    }

    /// Invokes a container on the stand-in and waits for every event; the median of the latencies.
    pub async fn invoke(
        &self,
        contender: &mut Contender,
        bodies: &Path,
        number: usize,
        concurrency: usize,
    ) -> Result<Duration> {
        let before = self.stand_ins.events();
        let load = Load { oha: &self.installed.oha, bodies, number, concurrency };
        let median = load.on(&contender.url("/invocations")).await?;
        let events = self.stand_ins.all_events(before, &STATUSES[2..], number).await;
        events.with_context(|| contender.name)?;
        contender.check()?;
        Ok(median)
    }

    /// What one invocation costs the bare SDK on `threads`, `one` or `many`: processor time, and time
    /// until the second put.
    async fn bare(
        &self,
        threads: &str,
        number: usize,
        concurrency: usize,
    ) -> Result<(Duration, Duration)> {
        let arguments = [threads.to_owned(), number.to_string(), concurrency.to_string()];
        let command = [vec![self.installed.binary("bare")], arguments.to_vec()].concat();
        let spec = Spec::new("bare AWS SDK", &command, &self.stand_ins.endpoint(), "journal");
        let before = self.stand_ins.events();
        let output = spec.command()?.stderr(Stdio::inherit()).output().await?;
        ensure!(output.status.success(), "the bare SDK failed: {}", output.status);
        // With those that come first.
        self.stand_ins.all_events(before, &STATUSES[2..], number + number / 10).await?;
        let costs: Value = serde_json::from_slice(&output.stdout)?;
        let cost = |name| {
            let seconds = costs.get(name).and_then(Value::as_f64);
            seconds.map(Duration::from_secs_f64).context("the bare SDK says no cost")
        };
        Ok((cost("processor_seconds")?, cost("two_puts_seconds")?))
    }
}

/// 100,000 invocations of each container, in turns, and as many again of this runtime, for the slope
/// of its memory when caches and pools are full.
pub async fn cost_and_memory(bench: &Bench) -> Result<Vec<Row>> {
    const ROUNDS: usize = 20;
    const INVOCATIONS: usize = 5_000;
    // A leak of the smallest allocation in each invocation has to stand out of the noise.
    const LEAK: f64 = 16.0;
    let bodies = bench.bodies(None)?;
    let mut containers = Vec::new();
    for spec in bench.containers(&bench.stand_ins.endpoint(), "journal") {
        containers.push((spec.serve(bench.folder.path()).await?.0, Vec::new()));
    }
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        for (container, costs) in &mut containers {
            let before = container.processor_time()?;
            bench.invoke(container, &bodies, INVOCATIONS, CONCURRENCY).await?;
            costs.push(each(before, container.processor_time()?, INVOCATIONS) * 1e6);
        }
        for (threads, costs) in [("one", &mut one), ("many", &mut many)] {
            costs.push(microseconds(bench.bare(threads, INVOCATIONS, CONCURRENCY).await?.0));
        }
        eprintln!("round {round} of {ROUNDS}");
    }
    tokio::time::sleep(AT_REST).await;
    let mut resident = Vec::new();
    for (container, _) in &containers {
        resident.push((container.name, container.resident()? / MEBIBYTE));
    }
    let [(_, resident), python_resident, typescript_resident] =
        resident.try_into().ok().context("three containers")?;
    let [(_, cost), python, typescript] = named_medians(&containers)?;
    let (ours, _) = containers.first_mut().context("no container")?;
    let mut sizes = Vec::new();
    for round in 1..=ROUNDS {
        bench.invoke(ours, &bodies, INVOCATIONS, CONCURRENCY).await?;
        sizes.push(((round * INVOCATIONS) as f64, ours.resident()?));
    }
    let (growth, error) = slope(&sizes);
    let processor = "CPU per invocation, 64 at a time";
    let memory = "resident after 100,000 invocations";
    let noise = 2.0 * error;
    let one = ("bare AWS SDK, one thread", median(&one));
    let many = ("bare AWS SDK, #[tokio::main]", median(&many));
    Ok(vec![
        Row::ratio(processor, "µs", cost, typescript, Target::Part(6.0)),
        Row::ratio(processor, "µs", cost, python, Target::Part(15.0)),
        Row::ratio(processor, "µs", cost, one, Target::AtMost(1.25)),
        Row::ratio(processor, "µs", cost, many, Target::AtMost(1.25)),
        Row::ratio(memory, "MiB", resident, python_resident, Target::Part(4.0)),
        Row::ratio(memory, "MiB", resident, typescript_resident, Target::None),
        Row::limit(memory, "MiB", resident, 12.0),
        Row::holds(
            "growth of the memory in 100,000 more",
            &format!("{growth:.2} bytes per invocation"),
            &format!("two standard errors: {noise:.2}"),
            &format!("within noise, and that ≤ {LEAK}"),
            growth <= noise && noise <= LEAK,
        ),
    ])
}

/// The medians of three contenders, with their names.
fn named_medians(contenders: &[(Contender, Vec<f64>)]) -> Result<[(&'static str, f64); 3]> {
    let medians = contenders.iter().map(|(contender, values)| (contender.name, median(values)));
    medians.collect::<Vec<_>>().try_into().ok().context("three contenders")
}

/// The same on the embedded engine, which really stores and checks: every event is counted there.
pub async fn on_the_engine(bench: &Bench) -> Result<Vec<Row>> {
    const ROUNDS: usize = 5;
    const INVOCATIONS: usize = 500;
    let table = Table::open(None, 0).await?;
    let client = Client::from_conf(table.client_config().build());
    let bodies = bench.bodies(None)?;
    let mut containers = Vec::new();
    for spec in bench.containers(&table.endpoint(), TABLE_NAME) {
        containers.push((spec.serve(bench.folder.path()).await?.0, Vec::new()));
    }
    let mut expected = 0;
    for _ in 0..ROUNDS {
        for (container, costs) in &mut containers {
            let before = container.processor_time()?;
            let load = Load {
                oha: &bench.installed.oha,
                bodies: &bodies,
                number: INVOCATIONS,
                concurrency: CONCURRENCY,
            };
            load.on(&container.url("/invocations")).await?;
            expected += EVENTS * INVOCATIONS;
            stored(&client, expected).await.with_context(|| container.name)?;
            costs.push(each(before, container.processor_time()?, INVOCATIONS) * 1e6);
        }
    }
    let [(_, cost), python, typescript] = named_medians(&containers)?;
    let measure = "CPU per invocation, on the embedded engine";
    Ok(vec![
        Row::ratio(measure, "µs", cost, typescript, Target::None),
        Row::ratio(measure, "µs", cost, python, Target::None),
    ])
}

/// Waits until the table holds as many events.
async fn stored(client: &Client, expected: usize) -> Result<()> {
    for _ in 0..100 {
        let mut pages =
            client.scan().table_name(TABLE_NAME).select(Select::Count).into_paginator().send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            count += usize::try_from(page?.count)?;
        }
        if count >= expected {
            ensure!(count == expected, "{count} events, and not {expected}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("events are missing")
}

/// From the request to the answer, which comes behind two puts.
pub async fn latency(bench: &Bench) -> Result<Vec<Row>> {
    const ROUNDS: usize = 5;
    const INVOCATIONS: usize = 300;
    let bodies = bench.bodies(None)?;
    let mut containers = Vec::new();
    for spec in bench.containers(&bench.stand_ins.endpoint(), "journal") {
        containers.push((spec.serve(bench.folder.path()).await?.0, Vec::new()));
    }
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        for (container, times) in &mut containers {
            let median = bench.invoke(container, &bodies, INVOCATIONS, 1).await?;
            times.push(milliseconds(median));
        }
        bare.push(milliseconds(bench.bare("one", INVOCATIONS, 1).await?.1));
    }
    let [(_, time), python, typescript] = named_medians(&containers)?;
    let (measure, puts) = ("latency of an answer, one at a time", median(&bare));
    Ok(vec![
        Row::ratio(measure, "ms", time, ("two puts of the bare AWS SDK", puts), Target::None),
        Row::limit("the same, less the two puts", "ms", time - puts, 1.0),
        Row::ratio(measure, "ms", time, typescript, Target::None),
        Row::ratio(measure, "ms", time, python, Target::None),
    ])
}

/// What exporting spans adds to an invocation, the last export included.
pub async fn telemetry(bench: &Bench) -> Result<Vec<Row>> {
    const ROUNDS: usize = 7;
    const INVOCATIONS: usize = 2_000;
    // OpenTelemetry's batches wait for 5 s.
    const EXPORTED: Duration = Duration::from_secs(6);
    let endpoint = bench.stand_ins.endpoint();
    let export = |name, collector: &str| {
        let spec = bench.container(name, &endpoint, "journal");
        spec.with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.to_owned())
            .with("OTEL_METRIC_EXPORT_INTERVAL", "5000".to_owned())
            // None is dropped, so that all are paid for.
            .with("OTEL_BSP_MAX_QUEUE_SIZE", (SPANS * INVOCATIONS).to_string())
    };
    let specs = [
        bench.container("without export", &endpoint, "journal"),
        export("exporting", &endpoint),
        export("collector gone", "http://127.0.0.1:1"),
    ];
    let bodies = bench.bodies(None)?;
    let spans = || bench.stand_ins.counts.spans.load(Ordering::Relaxed);
    let before = spans();
    let mut containers = Vec::new();
    for spec in &specs {
        containers.push((spec.serve(bench.folder.path()).await?.0, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (container, costs) in &mut containers {
            let before = container.processor_time()?;
            bench.invoke(container, &bodies, INVOCATIONS, CONCURRENCY).await?;
            tokio::time::sleep(EXPORTED).await;
            costs.push(each(before, container.processor_time()?, INVOCATIONS) * 1e6);
        }
    }
    let (all, arrived) = (ROUNDS * INVOCATIONS * SPANS, spans() - before);
    ensure!(arrived == all, "{arrived} spans arrived, and not {all}");
    let [base, (_, exporting), (_, gone)] = named_medians(&containers)?;
    Ok(vec![
        Row::ratio("CPU per invocation, exporting telemetry", "µs", exporting, base, Target::None),
        Row::ratio("CPU per invocation, the collector gone", "µs", gone, base, Target::None),
        Row::value("spans that arrived", format!("{arrived}, all")),
    ])
}
