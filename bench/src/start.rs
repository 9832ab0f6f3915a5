//! From the start of the process to the first answer of `/ping`, and the memory it has then, with
//! each kind of agent.

use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::kinds::beside;
use crate::table::{MEBIBYTE, Row, Target, medians, milliseconds};

const ROUNDS: usize = 11;

/// Until what starts behind the first answer is there, too.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let containers = bench.kinds();
    let (mut times, mut memory) = ([(); 5].map(|()| Vec::new()), [(); 5].map(|()| Vec::new()));
    for _ in 0..ROUNDS {
        for ((spec, times), memory) in containers.iter().zip(&mut times).zip(&mut memory) {
            let (container, time) = spec.serve(bench.folder.path()).await?;
            times.push(milliseconds(time));
            tokio::time::sleep(SETTLED).await;
            memory.push(container.resident()? / MEBIBYTE);
            container.stop().await?;
        }
    }
    let (time, memory) = (medians(&times), medians(&memory));
    let mut rows = beside("cold start to the first /ping 200", "ms", time, Target::Part(50.0));
    let measure = "resident after the start";
    rows.extend(beside(measure, "MiB", memory, Target::Part(4.0)));
    let [rust, ..] = memory;
    rows.push(Row::limit(&format!("{measure}, a Rust agent"), "MiB", rust, 12.0));
    Ok(rows)
}
