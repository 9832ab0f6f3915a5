//! A whole task, from the request to the end of its last put, with each kind of agent.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::Bench;
use crate::contender::{Contender, Spec};
use crate::table::{Row, Target, median, milliseconds};

const ROUNDS: usize = 5;
const TASKS: usize = 100;

pub async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let endpoint = bench.stand_ins.endpoint();
    let binary = [bench.installed.binary("any_agent")];
    let any = |name| Spec::new(name, &binary, &endpoint, "journal");
    let specs = [
        bench.container("a Rust agent", &endpoint, "journal"),
        any("an HTTP agent").with("AGENT_URL", format!("{endpoint}/agent/invocations")),
        any("a command").with("AGENT_COMMAND", "cat".to_owned()),
    ];
    let mut containers = Vec::new();
    for spec in &specs {
        containers.push((spec.serve(bench.folder.path()).await?.0, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (container, times) in &mut containers {
            for _ in 0..TASKS {
                times.push(milliseconds(task(bench, container).await?));
            }
        }
    }
    let medians = Vec::from_iter(containers.iter().map(|(_, times)| median(times)));
    let [rust, http, command] = medians.try_into().ok().context("three kinds")?;
    let measure = "a whole task, one at a time";
    Ok(vec![
        Row::ratio(measure, "ms", http, ("a Rust agent", rust), Target::None),
        Row::limit(
            "what an HTTP agent adds to it, its answer and a /ping included",
            "ms",
            http - rust,
            1.0,
        ),
        Row::ratio(
            "the same, with a command (cat)",
            "ms",
            command,
            ("a Rust agent", rust),
            Target::None,
        ),
    ])
}

/// From a request until the terminal event has arrived.
async fn task(bench: &Bench, container: &mut Contender) -> Result<Duration> {
    let [.., before] = bench.stand_ins.events();
    let began = Instant::now();
    let body = format!("{{\"session_id\": \"{}\"}}", Uuid::new_v4());
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, container.port)).await?;
    let head =
        "POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: ";
    socket.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    let mut answer = [0; b"HTTP/1.1 200".len()];
    socket.read_exact(&mut answer).await?;
    ensure!(&answer == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&answer));
    loop {
        let [.., completed] = bench.stand_ins.events();
        if completed > before {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "{}: no end", container.name);
        container.check()?;
        tokio::time::sleep(Duration::from_micros(50)).await;
    }
}
