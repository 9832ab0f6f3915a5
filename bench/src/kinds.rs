//! Each kind of agent in our container, beside both SDKs: processor time, memory, the latency of an
//! answer, and a whole task, from the request to the end of its last put.
//!
//! A command's processor time counts. An HTTP agent's does not: it is the stand-in.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use uuid::Uuid;

use crate::contender::{Contender, Spec};
use crate::http::ask;
use crate::table::{MEBIBYTE, Row, Target, medians, milliseconds};
use crate::{Bench, each};

const ROUNDS: usize = 5;

/// Tasks of a round, one at a time.
const TASKS: usize = 100;

/// Invocations of a round, [`CONCURRENCY`] at a time.
const INVOCATIONS: usize = 500;
const CONCURRENCY: usize = 64;

/// Until an allocator has given back what only the load needed.
const AT_REST: Duration = Duration::from_secs(5);

impl Bench {
    /// Our container with a Rust agent, an HTTP agent and a command; the Python and the TypeScript
    /// SDK.
    pub fn kinds(&self) -> [Spec; 5] {
        let endpoint = self.stand_ins.endpoint();
        let binary = [self.installed.binary("any_agent")];
        let any = |name| Spec::new(name, &binary, &endpoint, "journal");
        let [_, python, typescript] = self.containers(&endpoint, "journal");
        [
            self.container("a Rust agent", &endpoint, "journal"),
            any("an HTTP agent").with("AGENT_URL", format!("{endpoint}/agent/invocations")),
            any("a command").with("AGENT_COMMAND", "cat".to_owned()),
            python,
            typescript,
        ]
    }
}

/// The values of [`Bench::kinds`] as rows: each kind beside both SDKs. The target is that of a Rust
/// agent beside the Python SDK.
pub fn beside(measure: &str, unit: &str, values: [f64; 5], target: Target) -> Vec<Row> {
    let [rust, http, command, python, typescript] = values;
    let kinds = [
        ("a Rust agent", rust, target),
        ("an HTTP agent", http, Target::None),
        ("a command (cat)", command, Target::None),
    ];
    let rows = kinds.into_iter().flat_map(|(kind, ours, target)| {
        let measure = format!("{measure}, {kind}");
        [
            Row::ratio(&measure, unit, ours, ("Python SDK", python), target),
            Row::ratio(&measure, unit, ours, ("TypeScript SDK", typescript), Target::None),
        ]
    });
    rows.collect()
}

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut containers = Vec::new();
    for spec in bench.kinds() {
        containers.push(spec.serve(bench.folder.path()).await?.0);
    }
    let bodies = bench.bodies(None)?;
    let [mut costs, mut answers, mut ends, mut memory] =
        [(); 4].map(|()| [(); 5].map(|()| Vec::new()));
    for _ in 0..ROUNDS {
        let values = costs.iter_mut().zip(&mut answers).zip(&mut ends);
        for (container, ((costs, answers), ends)) in containers.iter_mut().zip(values) {
            let before = container.processor_time()?;
            bench.invoke(container, &bodies, INVOCATIONS, CONCURRENCY).await?;
            costs.push(each(before, container.processor_time()?, INVOCATIONS) * 1e6);
            for _ in 0..TASKS {
                let (answered, ended) = task(bench, container).await?;
                answers.push(milliseconds(answered));
                ends.push(milliseconds(ended));
            }
        }
    }
    tokio::time::sleep(AT_REST).await;
    for (container, memory) in containers.iter().zip(&mut memory) {
        memory.push(container.resident()? / MEBIBYTE);
    }
    let number = ROUNDS * (INVOCATIONS + TASKS);
    let resident = format!("resident after {number} invocations");
    let cost = "CPU per invocation, 64 at a time";
    let mut rows = beside(cost, "µs", medians(&costs), Target::None);
    rows.extend(beside(&resident, "MiB", medians(&memory), Target::None));
    let answer = "latency of an answer, one at a time";
    rows.extend(beside(answer, "ms", medians(&answers), Target::None));
    rows.extend(whole(medians(&ends)));
    Ok(rows)
}

/// The rows of a whole task.
fn whole([rust, http, command, ..]: [f64; 5]) -> [Row; 3] {
    let beside = ("a Rust agent", rust);
    let measure = "a whole task, one at a time";
    let adds = "what an HTTP agent adds to it, its answer and a /ping included";
    [
        Row::ratio(&format!("{measure}, an HTTP agent"), "ms", http, beside, Target::None),
        Row::limit(adds, "ms", http - rust, 1.0),
        Row::ratio(&format!("{measure}, a command (cat)"), "ms", command, beside, Target::None),
    ]
}

/// From a request until its answer, and until the terminal event has arrived.
async fn task(bench: &Bench, container: &mut Contender) -> Result<(Duration, Duration)> {
    let [.., before] = bench.stand_ins.events();
    let began = Instant::now();
    let id = Uuid::new_v4();
    let body = json!({"session_id": id, "sessionId": id});
    ask(&format!("127.0.0.1:{}", container.port), "POST /invocations", "", body).await?;
    let answered = began.elapsed();
    loop {
        let [.., completed] = bench.stand_ins.events();
        if completed > before {
            return Ok((answered, began.elapsed()));
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "{}: no end", container.name);
        container.check()?;
        tokio::time::sleep(Duration::from_micros(50)).await;
    }
}
