//! From the start of the process to the first answer of `/ping`, and the memory it has then.

use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::table::{MEBIBYTE, Row, Target, medians, milliseconds};

const ROUNDS: usize = 11;

/// Until what starts behind the first answer is there, too.
const SETTLED: Duration = Duration::from_secs(1);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let containers = bench.containers(&bench.stand_ins.endpoint(), "journal");
    let (mut times, mut memory) = ([(); 3].map(|()| Vec::new()), [(); 3].map(|()| Vec::new()));
    for _ in 0..ROUNDS {
        for ((spec, times), memory) in containers.iter().zip(&mut times).zip(&mut memory) {
            let (container, time) = spec.serve(bench.folder.path()).await?;
            times.push(milliseconds(time));
            tokio::time::sleep(SETTLED).await;
            memory.push(container.resident()? / MEBIBYTE);
            container.stop().await?;
        }
    }
    let ([start, python, typescript], [resident, python_resident, typescript_resident]) =
        (medians(&times), medians(&memory));
    let (python, typescript) = (("Python SDK", python), ("TypeScript SDK", typescript));
    let (python_resident, typescript_resident) =
        (("Python SDK", python_resident), ("TypeScript SDK", typescript_resident));
    let (time, memory) = ("cold start to the first /ping 200", "resident after the start");
    Ok(vec![
        Row::ratio(time, "ms", start, python, Target::Part(50.0)),
        Row::ratio(time, "ms", start, typescript, Target::None),
        Row::ratio(memory, "MiB", resident, python_resident, Target::Part(4.0)),
        Row::ratio(memory, "MiB", resident, typescript_resident, Target::None),
        Row::limit(memory, "MiB", resident, 12.0),
    ])
}
