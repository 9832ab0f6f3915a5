//! Ten thousand tasks in one process that all end at the same moment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::Bench;
use crate::contender::{Load, ping_times};
use crate::stand_ins::STATUSES;
use crate::table::{Row, milliseconds};

const TASKS: usize = 10_000;

/// How long starting them may take; then they end.
const LIFETIME: Duration = Duration::from_secs(30);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut spec = bench.container("ten thousand tasks", &bench.stand_ins.endpoint(), "journal");
    // As many files as a process may open by default, and not a connection for each task.
    let shell = ["sh", "-c", "ulimit -Sn 1024 && exec \"$0\""].map(str::to_owned);
    spec.command.splice(0..0, shell);
    let (mut container, _) = spec.serve(bench.folder.path()).await?;
    // What the first tasks leave behind, pools and caches, is not a task's.
    let bodies = bench.bodies(None)?;
    bench.invoke(&mut container, &bodies, TASKS, 64).await?;
    let until = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFETIME;
    let bodies = bench.bodies(Some(until.as_secs()))?;
    let (idle, before) = (container.resident()?, bench.stand_ins.events());
    let load = Load { oha: &bench.installed.oha, bodies: &bodies, number: TASKS, concurrency: 64 };
    let (url, counted) = (container.url("/invocations"), &bench.stand_ins);
    let start = async {
        load.on(&url).await?;
        counted.all_events(before, &STATUSES[2..4], TASKS).await
    };
    // Only while the tasks start and end: in between all is quiet.
    let mut pings = while_pinged(container.port, start).await?;
    let left = until.checked_sub(SystemTime::now().duration_since(UNIX_EPOCH)?);
    let left = left.context("the tasks were started too slowly")?;
    // All of them are in flight now.
    let resident = container.resident()?;
    tokio::time::sleep(left).await;
    let end = counted.all_events(before, &STATUSES[2..], TASKS);
    pings.extend(while_pinged(container.port, end).await?);
    let at_the_end = container.resident()?;
    container.check()?;
    pings.sort_unstable();
    let p99 = pings.get(pings.len() * 99 / 100).context("no ping")?;
    let each = (resident - idle) / TASKS as f64 / 1024.0;
    let after = (at_the_end - idle) / TASKS as f64 / 1024.0;
    Ok(vec![
        Row::limit("memory per task, 10,000 in flight", "KiB", each, 20.0),
        Row::value("the same when all have ended at once", format!("{after:.1} KiB")),
        Row::value("their terminal events", format!("{TASKS}, every one")),
        Row::limit("/ping p99 while they start and end", "ms", milliseconds(*p99), 20.0),
        Row::value("pings meanwhile", pings.len()),
    ])
}

/// The times of `/ping` while something is done.
async fn while_pinged(port: u16, doing: impl Future<Output = Result<()>>) -> Result<Vec<Duration>> {
    let mut done = Ok(());
    let times = ping_times(port, async { done = doing.await }).await;
    done.and(times)
}
