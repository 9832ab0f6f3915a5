//! The Lambda beside the same handler in Python with boto3, on a Lambda Runtime API.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::contender::{Contender, Spec, children_processor_time};
use crate::stand_ins::STATUSES;
use crate::table::{Row, Target, medians, milliseconds};
use crate::{Bench, each, install};

const INITS: usize = 11;
const ROUNDS: usize = 5;
const INVOCATIONS: usize = 500;

/// How long a function may take to ask or to answer.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let functions = functions(bench);
    let (mut times, mut costs) = ([(); 2].map(|()| Vec::new()), [(); 2].map(|()| Vec::new()));
    for _ in 0..INITS {
        for ((spec, times), costs) in functions.iter().zip(&mut times).zip(&mut costs) {
            let before = children_processor_time()?;
            let (function, time) = bench.init(spec).await?;
            function.stop().await?;
            times.push(milliseconds(time));
            costs.push(milliseconds(children_processor_time()? - before));
        }
    }
    let mut warm = [(); 2].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        // One at a time: there is one Runtime API.
        for (spec, costs) in functions.iter().zip(&mut warm) {
            let (mut function, _) = bench.init(spec).await?;
            bench.answer(&mut function, INVOCATIONS / 10).await?;
            let before = function.processor_time()?;
            bench.answer(&mut function, INVOCATIONS).await?;
            costs.push(each(before, function.processor_time()?, INVOCATIONS) * 1e6);
            function.stop().await?;
        }
    }
    let ([time, python_time], [cost, python_cost], [warm, python_warm]) =
        (medians(&times), medians(&costs), medians(&warm));
    let size =
        zipped([("bootstrap".to_owned(), PathBuf::from(bench.installed.binary("bootstrap")))])?;
    let python_size = zipped(python_files(bench)?)?;
    let python = |value| ("Python with boto3", value);
    let bundled = ("Python with the boto3 it was tested with", python_size / 1e6);
    Ok(vec![
        Row::ratio("Lambda: init CPU", "ms", cost, python(python_cost), Target::Part(20.0)),
        Row::ratio("Lambda: init time", "ms", time, python(python_time), Target::Part(20.0)),
        Row::ratio("Lambda: warm invoke CPU", "µs", warm, python(python_warm), Target::None),
        Row::ratio("Lambda: zip", "MB", size / 1e6, bundled, Target::None),
        Row::limit("Lambda: zip", "MB", size / 1e6, 6.0),
    ])
}

fn functions(bench: &Bench) -> [Spec; 2] {
    let endpoint = bench.stand_ins.endpoint();
    let python = bench.installed.python.display().to_string();
    let command = [&python, "-m", "awslambdaric", "handler.handle"].map(str::to_owned);
    let functions = [
        Spec::new("the invoker", &[bench.installed.binary("bootstrap")], &endpoint, "journal"),
        Spec::new("Python with boto3", &command, &endpoint, "journal")
            .with("PYTHONPATH", bench.installed.contender("python")),
    ];
    functions.map(|function| {
        function
            .with("AWS_LAMBDA_RUNTIME_API", bench.stand_ins.address.to_string())
            .with("AWS_LAMBDA_FUNCTION_NAME", "bench".to_owned())
            .with("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned())
            .with("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned())
            .with("AWS_LAMBDA_LOG_GROUP_NAME", "bench".to_owned())
            .with("AWS_LAMBDA_LOG_STREAM_NAME", "bench".to_owned())
    })
}

impl Bench {
    /// Starts a function; the time until it asks for its first invocation.
    async fn init(&self, spec: &Spec) -> Result<(Contender, Duration)> {
        let asked = &self.stand_ins.counts.asked;
        let (before, began) = (asked.load(Ordering::Relaxed), Instant::now());
        let mut function = spec.spawn(self.folder.path(), 0)?;
        while asked.load(Ordering::Relaxed) == before {
            function.check()?;
            ensure!(began.elapsed() < PATIENCE, "{} asks for no invocation", spec.name);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Ok((function, began.elapsed()))
    }

    /// Gives a function invocations, one after the other, and waits for its answers and events.
    async fn answer(&self, function: &mut Contender, number: usize) -> Result<()> {
        let counts = &self.stand_ins.counts;
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let (before, calls) = (now(&counts.answered), now(&counts.calls));
        let events = self.stand_ins.events();
        let began = Instant::now();
        counts.invocations.add_permits(number);
        while now(&counts.answered) < before + number {
            function.check()?;
            ensure!(began.elapsed() < PATIENCE, "{} does not answer", function.name);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let calls = now(&counts.calls) - calls;
        ensure!(calls == number, "{} called AgentCore {calls} times, not {number}", function.name);
        self.stand_ins.all_events(events, &STATUSES[..2], number).await
    }
}

/// The Python function as it is deployed, with the boto3 that it was written for.
fn python_files(bench: &Bench) -> Result<Vec<(String, PathBuf)>> {
    let folder = bench.folder.path().join("package");
    let mut pip = Command::new(&bench.installed.python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    install::run(pip.arg(&folder).arg(install::python_package(&bench.installed.root, "boto3")?))?;
    for file in ["handler.py", "journal.py"] {
        std::fs::copy(bench.installed.contender(&format!("python/{file}")), folder.join(file))?;
    }
    let mut files = Vec::new();
    walk(&folder, &folder, &mut files)?;
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            // Compiled on the first import.
            if !path.ends_with("__pycache__") {
                walk(root, &path, files)?;
            }
        } else {
            files.push((path.strip_prefix(root)?.display().to_string(), path));
        }
    }
    Ok(())
}

/// The bytes of an archive of the files, by name and path.
fn zipped(files: impl IntoIterator<Item = (String, PathBuf)>) -> Result<f64> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, path) in files {
        archive.start_file(name, SimpleFileOptions::default().unix_permissions(0o755))?;
        archive.write_all(&std::fs::read(path)?)?;
    }
    Ok(archive.finish()?.into_inner().len() as f64)
}
