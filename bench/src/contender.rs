//! A contender's process, what it costs, and the load on it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use uuid::Uuid;

/// How long a contender may take to start.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Bodies among which the load chooses, each of a session of its own.
const BODIES: usize = 20_000;

/// What a contender is started with.
#[derive(Clone)]
pub struct Spec {
    pub name: &'static str,
    pub command: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

impl Spec {
    /// A process that reaches AWS at `endpoint`, with the journal in `table`.
    pub fn new(name: &'static str, command: &[String], endpoint: &str, table: &str) -> Self {
        let environment = [
            ("JOURNAL_TABLE_NAME", table),
            ("AGENT_RUNTIME_ARN", crate::stand_ins::RUNTIME_ARN),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "bench"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("HOST", "127.0.0.1"),
        ];
        let environment = environment.map(|(name, value)| (name, value.to_owned())).to_vec();
        Self { name, command: command.to_vec(), environment }
    }

    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value));
        self
    }

    pub fn command(&self) -> Result<Command> {
        let (program, arguments) = self.command.split_first().context("no program")?;
        let mut command = Command::new(program);
        // What the user has set must not count, and must not be reached.
        command.env_remove("RUST_LOG").env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Starts it with its output in `logs`, on `port` if it is a server.
    pub fn spawn(&self, logs: &Path, port: u16) -> Result<Contender> {
        let path = logs.join(self.name.replace(' ', "-"));
        let log = std::fs::File::options().create(true).append(true).open(path)?;
        let process = self
            .command()?
            .env("PORT", port.to_string())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let id = process.id().and_then(|id| i32::try_from(id).ok()).context("no process id")?;
        Ok(Contender { name: self.name, process, id, port })
    }

    /// Starts it and waits for the first answer to `/ping`; the time is that from the start.
    pub async fn serve(&self, logs: &Path) -> Result<(Contender, Duration)> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let began = Instant::now();
        let mut contender = self.spawn(logs, port)?;
        while !pings(port).await {
            contender.check()?;
            ensure!(began.elapsed() < START_DEADLINE, "{} does not answer /ping", self.name);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok((contender, began.elapsed()))
    }
}

/// Whether `/ping` is answered with 200.
async fn pings(port: u16) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        socket.write_all(b"GET /ping HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
        let mut answer = [0; b"HTTP/1.1 200".len()];
        socket.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(&answer == b"HTTP/1.1 200")
    };
    ask.await.unwrap_or(false)
}

pub struct Contender {
    pub name: &'static str,
    process: Child,
    id: i32,
    port: u16,
}

impl Contender {
    /// Fails if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}", self.name),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The processor time of all its threads so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        // The second field, its name, may hold spaces; the 14th and 15th are ticks.
        let fields = stat.rsplit_once(") ").context("not a stat")?.1;
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: f64 = line.context("no VmRSS")?.trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes * 1024.0)
    }

    /// Stops it and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.id), Signal::SIGTERM)?;
        tokio::time::timeout(START_DEADLINE, self.process.wait()).await??;
        Ok(())
    }
}

/// The processor time of all children that have ended.
pub fn children_processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// Bodies of invocations, a line each, for [`Load`].
pub fn bodies(until: Option<u64>) -> String {
    let body = |_| {
        let id = Uuid::new_v4();
        // The TypeScript SDK's name of it as well.
        let body = json!({"session_id": id, "sessionId": id, "prompt": "hi", "until": until});
        format!("{body}\n")
    };
    (0..BODIES).map(body).collect()
}

/// Requests to one URL.
pub struct Load<'a> {
    pub oha: &'a Path,
    /// Arguments besides the URL and the output.
    pub arguments: Vec<String>,
}

impl<'a> Load<'a> {
    /// `number` invocations with bodies of the file, `concurrency` at a time.
    pub fn invocations(oha: &'a Path, bodies: &Path, number: usize, concurrency: usize) -> Self {
        let bodies = bodies.display().to_string();
        let (number, concurrency) = (number.to_string(), concurrency.to_string());
        let arguments = [
            "-n",
            &number,
            "-c",
            &concurrency,
            "-m",
            "POST",
            "-T",
            "application/json",
            "-Z",
            &bodies,
        ];
        Self { oha, arguments: arguments.map(str::to_owned).to_vec() }
    }

    /// Sends them; fails unless every one is answered with 200.
    pub async fn on(&self, url: &str) -> Result<Report> {
        let mut command = Command::new(self.oha);
        command.args(["--no-tui", "--output-format", "json", "--disable-compression"]);
        let output = command.args(&self.arguments).arg(url).kill_on_drop(true).output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "oha failed: {error}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let answers = report.get("statusCodeDistribution").and_then(Value::as_object);
        let errors = report.get("errorDistribution").and_then(Value::as_object);
        let answers = answers.context("oha says no status")?;
        ensure!(
            answers.keys().eq(["200"]) && errors.is_none_or(serde_json::Map::is_empty),
            "{url} answered {answers:?} {errors:?}"
        );
        let percentile = |name: &str| {
            let percentiles = report.get("latencyPercentiles")?;
            Some(Duration::from_secs_f64(percentiles.get(name)?.as_f64()?))
        };
        Ok(Report {
            answers: answers.values().filter_map(Value::as_u64).sum(),
            median: percentile("p50").context("oha says no median")?,
            p99: percentile("p99").context("oha says no p99")?,
        })
    }
}

/// What a load saw.
pub struct Report {
    pub answers: u64,
    pub median: Duration,
    pub p99: Duration,
}
