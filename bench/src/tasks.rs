//! Ten thousand tasks in one process that all end at the same moment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::Bench;
use crate::contender::Load;
use crate::stand_ins::STATUSES;
use crate::table::{Row, milliseconds};

const TASKS: usize = 10_000;

/// How long starting them may take; then they end.
const LIFETIME: Duration = Duration::from_secs(30);

/// `/ping` is asked through start, wait and end.
const PINGED: Duration = Duration::from_secs(40);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let spec = bench.container("ten thousand tasks", &bench.stand_ins.endpoint(), "journal");
    let (mut container, _) = spec.serve(bench.folder.path()).await?;
    // What the first tasks leave behind, pools and caches, is not a task's.
    let bodies = bench.bodies(None)?;
    bench.invoke(&mut container, &bodies, TASKS, 64).await?;
    let until = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFETIME;
    let bodies = bench.bodies(Some(until.as_secs()))?;
    let (idle, before) = (container.resident()?, bench.stand_ins.events());
    let (oha, pinged) = (&bench.installed.oha, format!("{}s", PINGED.as_secs()));
    let pings = ["-z", &pinged, "-q", "100", "-c", "2", "--latency-correction", "-w"];
    let pings = Load { oha, arguments: pings.map(str::to_owned).to_vec() };
    let (url, load) = (container.url("/ping"), Load::invocations(oha, &bodies, TASKS, 64));
    let measured = async {
        load.on(&container.url("/invocations")).await?;
        bench.stand_ins.all_events(before, &STATUSES[2..4], TASKS).await?;
        let left = until.checked_sub(SystemTime::now().duration_since(UNIX_EPOCH)?);
        let left = left.context("the tasks were started too slowly")?;
        // All of them are in flight now.
        let resident = container.resident()?;
        tokio::time::sleep(left).await;
        bench.stand_ins.all_events(before, &STATUSES[2..], TASKS).await?;
        Ok::<_, anyhow::Error>((resident, container.resident()?))
    };
    let (measured, pings) = tokio::join!(measured, pings.on(&url));
    let ((resident, at_the_end), pings) = (measured?, pings?);
    ensure!(pings.answers > 1000, "only {} pings were answered", pings.answers);
    let each = (resident - idle) / TASKS as f64 / 1024.0;
    let after = (at_the_end - idle) / TASKS as f64 / 1024.0;
    Ok(vec![
        Row::limit("memory per task, 10,000 in flight", "KiB", each, 20.0),
        Row::value("the same when all have ended at once", format!("{after:.1} KiB")),
        Row::holds("their terminal events", &TASKS.to_string(), "", "every one", true),
        Row::limit("/ping p99 meanwhile", "ms", milliseconds(pings.p99), 20.0),
    ])
}
