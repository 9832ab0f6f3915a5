//! What signs of life cost: containers whose tasks wait, half of them with a sign a second, half
//! without.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::contender::{Contender, Load};
use crate::stand_ins::STATUSES;
use crate::table::{Row, median};

/// Time between two signs of a task, by default.
const INTERVAL: Duration = Duration::from_secs(20);

/// How long the tasks live: they are started, have [`SETTLED`], and are measured in [`WINDOW`].
const LIFETIME: Duration = Duration::from_secs(40);
const SETTLED: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(20);

/// Of one task: what a sign costs in seconds of processor time, and memory in bytes.
struct Cost {
    sign: f64,
    memory: f64,
}

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = rows("one task in a container", &cost(bench, 5, 1).await?);
    rows.extend(self::rows("1,000 tasks in a container", &cost(bench, 1, 1_000).await?));
    Ok(rows)
}

fn rows(tasks: &str, cost: &Cost) -> Vec<Row> {
    let percent = cost.sign / INTERVAL.as_secs_f64() * 100.0;
    let share = format!("signs of life, a task: share of a core, {tasks}");
    let memory = format!("signs of life, a task: memory, {tasks}");
    vec![
        Row::value(
            &format!("CPU of a sign of life, {tasks}"),
            format!("{:.0} µs", cost.sign * 1e6),
        ),
        Row::limit(&share, "%", percent, 0.1),
        Row::limit(&memory, "KiB", cost.memory / 1024.0, 100.0),
    ]
}

/// What signs cost with so many containers of each sort, and so many tasks in each.
async fn cost(bench: &Bench, containers: usize, tasks: usize) -> Result<Cost> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let bodies = bench.bodies(None)?;
    for _ in 0..containers {
        for (seconds, side) in [("1", &mut with), ("0", &mut without)] {
            let spec = bench.container("signs of life", &bench.stand_ins.endpoint(), "journal");
            let spec = spec.with("HEARTBEAT_SECONDS", seconds.to_owned());
            let (mut container, _) = spec.serve(bench.folder.path()).await?;
            // What the first tasks leave behind, pools and caches, is not a sign's.
            bench.invoke(&mut container, &bodies, tasks, tasks.min(64)).await?;
            side.push((container.resident()?, container));
        }
    }
    let (until, before) = (SystemTime::now() + LIFETIME, bench.stand_ins.events());
    for (_, container) in with.iter().chain(&without) {
        start(bench, container, until, tasks).await?;
    }
    tokio::time::sleep(SETTLED).await;
    let signs = || bench.stand_ins.counts.signs.load(Ordering::Relaxed);
    let (signs_before, with_before, without_before) =
        (signs(), processor_time(&with)?, processor_time(&without)?);
    tokio::time::sleep(WINDOW).await;
    let (number, expected) =
        (signs() - signs_before, containers * tasks * WINDOW.as_secs() as usize);
    ensure!(number * 10 >= expected * 9, "{number} signs of life, and not {expected}");
    let with_processor = processor_time(&with)? - with_before;
    let without_processor = processor_time(&without)? - without_before;
    let memory = growth(&with)? - growth(&without)?;
    let left = until.duration_since(SystemTime::now()).context("it took too long")?;
    tokio::time::sleep(left).await;
    bench.stand_ins.all_events(before, &STATUSES[2..], 2 * containers * tasks).await?;
    Ok(Cost {
        sign: (with_processor.as_secs_f64() - without_processor.as_secs_f64()) / number as f64,
        memory: memory / tasks as f64,
    })
}

/// Starts tasks that wait `until` then.
async fn start(
    bench: &Bench,
    container: &Contender,
    until: SystemTime,
    tasks: usize,
) -> Result<()> {
    let bodies = bench.bodies(Some(until.duration_since(UNIX_EPOCH)?.as_secs()))?;
    let (oha, before) = (&bench.installed.oha, bench.stand_ins.events());
    let load = Load { oha, bodies: &bodies, number: tasks, concurrency: tasks.min(64) };
    load.on(&container.url("/invocations")).await?;
    bench.stand_ins.all_events(before, &STATUSES[2..4], tasks).await
}

fn processor_time(containers: &[(f64, Contender)]) -> Result<Duration> {
    containers.iter().map(|(_, container)| container.processor_time()).sum()
}

/// By how many bytes containers have grown: the median.
fn growth(containers: &[(f64, Contender)]) -> Result<f64> {
    let growth = containers.iter().map(|(idle, container)| Ok(container.resident()? - idle));
    Ok(median(&growth.collect::<Result<Vec<_>>>()?))
}
