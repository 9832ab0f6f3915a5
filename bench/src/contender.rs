//! A contender's process, what it costs, and the load on it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
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
        command
            .env_clear()
            .envs(["PATH", "HOME"].map(|name| (name, std::env::var_os(name).unwrap_or_default())));
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
        socket
            .write_all(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = [0; b"HTTP/1.1 200".len()];
        socket.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(&answer == b"HTTP/1.1 200")
    };
    ask.await.unwrap_or(false)
}

/// How long `/ping` takes, asked a hundred times a second until `done`. A time runs from when the
/// question was due, so that one that is not answered makes those behind it late, too.
pub async fn ping_times(port: u16, done: impl Future<Output = ()>) -> Result<Vec<Duration>> {
    tokio::pin!(done);
    let (mut times, mut due) = (Vec::new(), tokio::time::interval(Duration::from_millis(10)));
    loop {
        tokio::select! {
            () = &mut done => return Ok(times),
            due = due.tick() => {
                ensure!(pings(port).await, "/ping was not answered with 200");
                times.push(due.elapsed());
            }
        }
    }
}

pub struct Contender {
    pub name: &'static str,
    process: Child,
    id: i32,
    pub port: u16,
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

    /// The processor time so far of all its threads, and of its children that have ended.
    pub fn processor_time(&self) -> Result<Duration> {
        let own: Duration = clock_gettime(clock_getcpuclockid(Pid::from_raw(self.id))?)?.into();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
        // cutime and cstime, in hundredths of a second.
        let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<u64>);
        Ok(own + Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
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

/// Invocations with bodies of a file, some of them at a time.
pub struct Load<'a> {
    pub oha: &'a Path,
    pub bodies: &'a Path,
    pub number: usize,
    pub concurrency: usize,
}

impl Load<'_> {
    /// Sends them, and gives the median of the latencies; fails unless every one is answered with
    /// 200.
    pub async fn on(&self, url: &str) -> Result<Duration> {
        let mut command = Command::new(self.oha);
        command.args(["--no-tui", "--output-format", "json", "--disable-compression"]);
        command.args(["-n", &self.number.to_string(), "-c", &self.concurrency.to_string()]);
        command.args(["-m", "POST", "-T", "application/json", "-Z"]).arg(self.bodies);
        let output = command.arg(url).kill_on_drop(true).output().await?;
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
        let median = report.pointer("/latencyPercentiles/p50").and_then(Value::as_f64);
        Ok(Duration::from_secs_f64(median.context("oha says no median")?))
    }
}
