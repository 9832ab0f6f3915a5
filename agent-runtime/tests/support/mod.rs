//! A host on a real socket, with an agent that does what its input says.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support"
)]

pub mod container;
pub mod metadata;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::System;
use agent_runtime::{Agent, AgentError, Invocation, Limits, SESSION_HEADER};
use journal::{Event, Journal, SessionId, Settings, Status};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
pub use testing::{Dynamo, Fault};
use testing::{TABLE_NAME, Table};
use tokio::sync::oneshot;

pub const MAX_BODY_BYTES: usize = 10_000_000;

/// A session id that no other test has.
pub fn session_id() -> SessionId {
    format!("session-{}", uuid::Uuid::new_v4()).parse().unwrap()
}

/// Does what `input.do` says.
#[derive(Clone)]
pub struct Script {
    /// Its own view of the journal.
    pub journal: Journal,
    /// How many runs have begun.
    pub runs: Arc<AtomicUsize>,
}

impl Agent for Script {
    type Output = Value;

    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let input: Value = invocation.input.read()?;
        let text = |name: &str| input[name].as_str().unwrap_or_default().to_owned();
        match &*text("do") {
            "return" => Ok(input["value"].clone()),
            "environment" => Ok(json!(invocation.environment)),
            "statuses" => {
                let events = self.journal.events(&invocation.session_id).await.unwrap();
                Ok(events.iter().map(|event| event.status.to_string()).collect())
            }
            "fail" => Err(AgentError::new("MyError", "it did not work")),
            "fail with a text" => Err("only words".into()),
            "fail at io" => Ok(std::fs::read_to_string("/does/not/exist").map(Value::from)?),
            "panic with a str" => panic!("a str"),
            "panic with a String" => panic!("a {}", "String"),
            "panic with another payload" => std::panic::panic_any(7),
            "panic in a child" => {
                invocation.context.spawn(async { panic!("in the child") });
                Ok(Value::Null)
            }
            "leave a child running" => {
                let journal = self.journal.clone();
                let id = invocation.session_id.clone();
                invocation.context.spawn(async move {
                    let source = journal::Source::Agent;
                    let draft = journal::Draft::new(Status::Other("CHILD_DONE".to_owned()));
                    let journal = journal.session(id, "child", source);
                    journal.append(draft, None, Duration::from_secs(9)).await.unwrap();
                });
                Ok(Value::Null)
            }
            "sleep" => {
                tokio::time::sleep(Duration::from_millis(input["ms"].as_u64().unwrap())).await;
                Ok(Value::Null)
            }
            "hang" => std::future::pending().await,
            "block the thread" => {
                std::thread::sleep(Duration::from_millis(input["ms"].as_u64().unwrap()));
                Ok(Value::Null)
            }
            other => unimplemented!("{other}"),
        }
    }
}

/// A running host.
pub struct Host {
    pub address: SocketAddr,
    pub dynamo: Dynamo,
    pub runs: Arc<AtomicUsize>,
    pub client: Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub fn start(dynamo: &Dynamo) -> Self {
        let runs = Arc::new(AtomicUsize::new(0));
        let agent = Script { journal: calm(dynamo), runs: Arc::clone(&runs) };
        Self { runs, ..Self::start_with(dynamo, agent) }
    }

    /// With these limits.
    pub fn start_within(dynamo: &Dynamo, limits: Limits) -> Self {
        let agent = Script { journal: calm(dynamo), runs: Arc::default() };
        Self::start_all(dynamo, open(dynamo), agent, limits)
    }

    pub fn start_with(dynamo: &Dynamo, agent: impl Agent) -> Self {
        Self::start_on(dynamo, open(dynamo), agent)
    }

    /// With a journal of its own on `dynamo`.
    pub fn start_on(dynamo: &Dynamo, journal: Journal, agent: impl Agent) -> Self {
        Self::start_all(dynamo, journal, agent, Limits::default())
    }

    fn start_all(dynamo: &Dynamo, journal: Journal, agent: impl Agent, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let own = dynamo.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            System::with_tokio_rt(|| runtime).block_on(async {
                let shutdown = async {
                    let _ = stopped.await;
                };
                agent_runtime::serve(
                    listener,
                    std::future::ready(journal),
                    limits,
                    agent,
                    shutdown,
                )
                .await
                .unwrap();
            });
        });
        let client = Client::builder().no_proxy().build().unwrap();
        let runs = Arc::default();
        Self { address, dynamo: own, runs, client, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Posts a body with the session's header.
    pub async fn post(&self, id: &SessionId, body: impl Into<reqwest::Body>) -> Response {
        let request =
            self.client.post(self.url("/invocations")).header(SESSION_HEADER, id.as_str());
        request.body(body).send().await.unwrap()
    }

    /// Invokes the agent as the invoker does.
    pub async fn invoke(&self, id: &SessionId, run: &str, input: Value) -> (StatusCode, Value) {
        let body = json!({"input": input, "invocation_id": run, "environment": {"SESSION_ID": id}});
        let answer = self.post(id, body.to_string()).await;
        (answer.status(), answer.json().await.unwrap())
    }

    pub async fn ping(&self) -> (String, u64) {
        let answer = self.client.get(self.url("/ping")).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let time = answer["time_of_last_update"].as_u64().unwrap();
        (answer["status"].as_str().unwrap().to_owned(), time)
    }

    /// All events of a session, in order.
    pub async fn events(&self, id: &SessionId) -> Vec<Event> {
        calm(&self.dynamo).events(id).await.unwrap()
    }

    pub async fn statuses(&self, id: &SessionId) -> Vec<String> {
        self.events(id).await.iter().map(|event| event.status.to_string()).collect()
    }

    /// Waits for the session's terminal event.
    pub async fn terminal(&self, id: &SessionId) -> Event {
        eventually("a terminal event", async || {
            self.events(id).await.into_iter().find(|event| {
                let status = event.status.as_str();
                status.ends_with("TASK_COMPLETED") || status.ends_with("TASK_FAILED")
            })
        })
        .await
    }

    /// Tells the host to stop; the answer is how long it took.
    pub async fn stop(mut self) -> Duration {
        let start = Instant::now();
        drop(self.stop.take());
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        start.elapsed()
    }

    /// Begins to stop.
    pub fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }
}

/// The journal in this engine, with its faults.
pub fn open(dynamo: &Dynamo) -> Journal {
    let table_name = TABLE_NAME.to_owned();
    Journal::new(dynamo.config(), Settings { table_name, retention_days: None })
}

/// The journal in this table.
pub fn open_table(table: &Table) -> Journal {
    let table_name = TABLE_NAME.to_owned();
    Journal::new(table.client_config(), Settings { table_name, retention_days: None })
}

/// [`open`] without the faults.
pub fn calm(dynamo: &Dynamo) -> Journal {
    open(&Dynamo::over(dynamo.database.clone(), |_| Fault::None))
}

/// Waits until there is an answer, for 30 s at most.
pub async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
