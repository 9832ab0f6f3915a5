//! What an operator waits for, on the local system: the list of 1,000 sessions beside the bare calls
//! that it needs, and the page of a session with 10,000 events in a browser.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::Client;
use journal::{Draft, Journal, SessionId, Settings, Source, Status, Step};
use testing::TABLE_NAME;
use uuid::Uuid;

use crate::Bench;
use crate::browser::Browser;
use crate::http::ask;
use crate::install::{Installed, build_programs};
use crate::local_system::{LocalSystem, command};
use crate::read::query;
use crate::table::{Row, Target, median, milliseconds};

const ROUNDS: usize = 5;

const SESSIONS: usize = 1_000;

/// Sessions that run at the same time: each has a process.
const AT_A_TIME: usize = 50;

/// Queries at the same time, as in `agent-journal list`.
const QUERIES: usize = 16;

const EVENTS: usize = 10_000;

const WITHIN: Duration = Duration::from_secs(60);

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    build_programs(&bench.installed)?;
    let system = LocalSystem::start(&bench.installed, bench.folder.path()).await?;
    // Before the others, so that the page is not measured beside a thousand containers.
    let mut rows = page(&system).await?;
    rows.extend(list(&bench.installed, &system).await?);
    system.stop().await?;
    Ok(rows)
}

async fn list(installed: &Installed, system: &LocalSystem) -> Result<Vec<Row>> {
    for _ in 0..SESSIONS / AT_A_TIME {
        for _ in 0..AT_A_TIME {
            system.start_session().await?;
        }
        let deadline = Instant::now() + WITHIN;
        while !system.executions(Some("RUNNING")).await?.is_empty() {
            ensure!(Instant::now() < deadline, "sessions do not end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let client = Client::from_conf(system.dynamodb()?.build());
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(milliseconds(listed(installed, system).await?));
        bare.push(milliseconds(bare_calls(&client, system).await?));
    }
    let bare = ("its bare calls", median(&bare));
    let measure = "agent-journal list of 1,000 sessions";
    Ok(vec![Row::ratio(measure, "ms", median(&ours), bare, Target::None)])
}

/// How long the command takes, its start included.
async fn listed(installed: &Installed, system: &LocalSystem) -> Result<Duration> {
    let mut command = command(installed, "agent-journal");
    command.args(["list", "--limit", &SESSIONS.to_string()]);
    command.envs(system.environment.iter().map(|(name, value)| (name, value)));
    let began = Instant::now();
    let output = command.output().await?;
    let (took, text) = (began.elapsed(), String::from_utf8_lossy(&output.stdout));
    let last = text.lines().last().unwrap_or_default();
    let error = String::from_utf8_lossy(&output.stderr);
    let all = format!("{SESSIONS} sessions: {SESSIONS} completed");
    ensure!(last == all, "agent-journal list says {last} {error}");
    Ok(took)
}

/// How long the pages of executions take, and then a query for each.
async fn bare_calls(client: &Client, system: &LocalSystem) -> Result<Duration> {
    let began = Instant::now();
    let names = system.executions(None).await?;
    ensure!(names.len() == SESSIONS, "{} executions", names.len());
    let queries = names.chunks(SESSIONS.div_ceil(QUERIES)).map(|names| {
        let (client, names) = (client.clone(), names.to_vec());
        tokio::spawn(async move {
            for name in names {
                ensure!(query(&client, &name.parse()?).await? > 0, "{name} has no event");
            }
            Ok(())
        })
    });
    for queries in Vec::from_iter(queries) {
        queries.await??;
    }
    Ok(began.elapsed())
}

async fn page(system: &LocalSystem) -> Result<Vec<Row>> {
    let request = format!("GET /sessions/{}", long_session(system).await?);
    let browser = Browser::start().await?;
    let path = request.split_once(' ').context("no path")?.1;
    let url = format!("http://{}{path}", system.pages);
    let (mut served, mut pictures, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bytes, mut shown) = (0, 0);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let page = ask(&system.pages, &request, "", "").await?;
        served.push(milliseconds(began.elapsed()));
        (bytes, shown) = (page.len(), page.matches("TASK_STEP_").count());
        let (picture, load) = browser.open(&url).await?;
        pictures.push(picture);
        loads.push(load);
    }
    let value = |measure: &str, values: &[f64]| {
        Row::value(
            &format!("page of 10,000 events: {measure}"),
            format!("{:.0} ms", median(values)),
        )
    };
    Ok(vec![
        value("served", &served),
        value("first picture in chromium", &pictures),
        value("loaded", &loads),
        Row::value("its size", format!("{:.1} MB", bytes as f64 / 1e6)),
        Row::value("steps of the agent that it names", shown),
    ])
}

/// Journals a task with steps, and its end: otherwise the page would refresh itself.
async fn long_session(system: &LocalSystem) -> Result<SessionId> {
    let settings = Settings { table_name: TABLE_NAME.to_owned(), retention_days: None };
    let journal = Journal::new(system.dynamodb()?, settings);
    let session: SessionId = Uuid::new_v4().to_string().parse()?;
    let writer = journal.session(session.clone(), "bench", Source::Agent);
    let start = [Draft::new(Status::AgentEntrypointStarted), Draft::task_started(None)];
    for draft in start {
        writer.append(draft, None, WITHIN).await?;
    }
    for number in 0..EVENTS - 3 {
        let step = if number % 2 == 0 { Step::Started } else { Step::Completed };
        let draft = Draft::progress("step", step, &format!("number {number}"))?;
        writer.append(draft, None, WITHIN).await?;
    }
    writer.append(Draft::completed("null", 4), None, WITHIN).await?;
    Ok(session)
}
