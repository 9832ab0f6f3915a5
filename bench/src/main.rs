//! What the runtime costs beside what users would pick instead, as ratios measured in one run:
//! `cargo run --release --manifest-path bench/Cargo.toml`, or followed by `--` and the names of some
//! measures.
//!
//! Needs Linux, Python 3 and Node.js, and for `operator` chromium and its chromedriver; installs the
//! contenders itself. Contenders take turns, so that the machine's moods hit all of them, and the
//! medians count. It fails if an answer is not 200 or if an event is missing.

mod browser;
mod contender;
mod http;
mod install;
mod invocations;
mod kinds;
mod lambda;
mod local_system;
mod operator;
mod read;
mod signs;
mod stand_ins;
mod start;
mod table;
mod tasks;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::contender::Spec;
use crate::install::{Installed, install};
use crate::stand_ins::StandIns;
use crate::table::{MEBIBYTE, Row};

const MEASURES: [&str; 12] = [
    "start",
    "invocations",
    "engine",
    "latency",
    "kinds",
    "telemetry",
    "tasks",
    "signs",
    "lambda",
    "read",
    "operator",
    "build",
];

/// What is measured, beside the others.
const OURS: &str = "this runtime";

/// What every measure needs.
pub struct Bench {
    installed: Installed,
    stand_ins: StandIns,
    /// Logs of the contenders, and what the load sends.
    folder: TempDir,
}

impl Bench {
    /// The three containers that are compared, on DynamoDB at `endpoint`.
    fn containers(&self, endpoint: &str, table: &str) -> [Spec; 3] {
        let python = self.installed.python.display().to_string();
        let agent = self.installed.contender("python/agent.py");
        let typescript = self.installed.contender("typescript/agent.mjs");
        [
            self.container(OURS, endpoint, table),
            Spec::new("Python SDK", &[python, agent], endpoint, table),
            Spec::new("TypeScript SDK", &["node".to_owned(), typescript], endpoint, table),
        ]
    }

    fn container(&self, name: &'static str, endpoint: &str, table: &str) -> Spec {
        Spec::new(name, &[self.installed.binary("container")], endpoint, table)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut measures: Vec<String> = std::env::args().skip(1).collect();
    for measure in &measures {
        ensure!(MEASURES.contains(&measure.as_str()), "no measure {measure}: {MEASURES:?}");
    }
    if measures.is_empty() {
        measures = MEASURES.map(str::to_owned).to_vec();
    }
    let bench = Bench {
        installed: install()?,
        stand_ins: StandIns::start()?,
        folder: tempfile::tempdir()?,
    };
    println!("{}\n", particulars(&bench.installed.root)?);
    println!("| measure | this runtime | beside | ratio | target | |\n|---|---|---|---|---|---|");
    for measure in measures {
        let began = Instant::now();
        let rows = match measure.as_str() {
            "build" => build(&bench),
            "start" => start::measure(&bench).await,
            "invocations" => invocations::cost_and_memory(&bench).await,
            "engine" => invocations::on_the_engine(&bench).await,
            "latency" => invocations::latency(&bench).await,
            "kinds" => kinds::measure(&bench).await,
            "telemetry" => invocations::telemetry(&bench).await,
            "tasks" => tasks::measure(&bench).await,
            "signs" => signs::measure(&bench).await,
            "lambda" => lambda::measure(&bench).await,
            "operator" => operator::measure(&bench).await,
            _ => read::measure().await,
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                let logs = bench.folder.keep();
                return Err(error.context(format!("{measure}, with logs in {}", logs.display())));
            }
        };
        for row in rows {
            println!("{row}");
        }
        eprintln!("{measure}: {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The machine, and the versions of what is compared.
fn particulars(root: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let processor = std::fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let version = |program: &str| -> Result<String> {
        let output = Command::new(program).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok(format!(
        "{cores} cores, {}, Linux {}, {}, {}, Node.js {}; Python SDK {}, {}, TypeScript SDK {}",
        processor.unwrap_or("unknown processor"),
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        version("rustc")?,
        version("python3")?,
        version("node")?,
        install::python_package(root, "bedrock-agentcore")?,
        install::python_package(root, "boto3")?,
        install::typescript_sdk(root)?,
    ))
}

/// A release build of the Rust contenders from nothing, and their sizes.
fn build(bench: &Bench) -> Result<Vec<Row>> {
    let target = bench.folder.path().join("build");
    let began = Instant::now();
    install::build(&bench.installed.root, &target, &["container"])?;
    let took = began.elapsed();
    let size = |name| -> Result<f64> {
        Ok(std::fs::metadata(bench.installed.binary(name))?.len() as f64 / MEBIBYTE)
    };
    let minutes = took.as_secs_f64() / 60.0;
    Ok(vec![
        Row::value(
            "release build of container and Lambda from nothing",
            format!("{minutes:.1} min"),
        ),
        Row::value("binary of the container", format!("{:.1} MiB", size("container")?)),
        Row::value("binary of the Lambda", format!("{:.1} MiB", size("bootstrap")?)),
    ])
}

/// Processor time between two readings, per each of `number`.
fn each(before: Duration, after: Duration, number: usize) -> f64 {
    (after - before).as_secs_f64() / number as f64
}
