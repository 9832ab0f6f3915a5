//! What the contenders talk to: a DynamoDB that takes every put after 4 ms, an AgentCore that
//! accepts every call, a Lambda Runtime API, and a collector that takes every span. All of them count.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

/// How long a put takes, and a call of AgentCore.
const LATENCY: Duration = Duration::from_millis(4);

/// How long what was counted last may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// The runtime that the Lambda is told to invoke.
pub const RUNTIME_ARN: &str = "arn:aws:bedrock-agentcore:us-east-1:123456789012:runtime/bench";

/// Statuses that are counted, in the order in which they are written.
pub const STATUSES: [&str; 5] = [
    "AGENT_INVOCATION_STARTED",
    "AGENT_INVOCATION_SUCCEEDED",
    "AGENT_ENTRYPOINT_STARTED",
    "AGENT_BACKGROUND_TASK_STARTED",
    "AGENT_BACKGROUND_TASK_COMPLETED",
];

/// What has arrived so far.
pub struct Counts {
    /// Events put, by [`STATUSES`].
    events: [AtomicUsize; STATUSES.len()],
    /// Signs of life put.
    pub signs: AtomicUsize,
    /// Calls of AgentCore.
    pub calls: AtomicUsize,
    /// Spans exported.
    pub spans: AtomicUsize,
    /// Times that a function asked for its next invocation.
    pub asked: AtomicUsize,
    /// Invocations that a function has answered.
    pub answered: AtomicUsize,
    /// Invocations that a function may still have.
    pub invocations: Semaphore,
    /// Ends what a function that was stopped still waits for.
    another: Notify,
}

pub struct StandIns {
    pub address: SocketAddr,
    pub counts: Data<Counts>,
}

impl StandIns {
    /// Serves all of them on a free port until this process ends.
    pub fn start() -> Result<Self> {
        let counts = Data::new(Counts {
            events: Default::default(),
            signs: AtomicUsize::default(),
            calls: AtomicUsize::default(),
            spans: AtomicUsize::default(),
            asked: AtomicUsize::default(),
            answered: AtomicUsize::default(),
            invocations: Semaphore::new(0),
            another: Notify::new(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let counted = counts.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(counted.clone())
                .app_data(web::PayloadConfig::new(64 * 1024 * 1024))
                .route("/", web::post().to(put_item))
                .route("/runtimes/{runtime}/invocations", web::post().to(invoke_agent_runtime))
                .route("/2018-06-01/runtime/invocation/next", web::get().to(next))
                .route("/2018-06-01/runtime/invocation/{id}/response", web::post().to(response))
                .route("/2018-06-01/runtime/invocation/{id}/error", web::post().to(failed))
                .route("/v1/traces", web::post().to(take))
                .route("/agent/invocations", web::post().to(agent))
                .route("/agent/ping", web::get().to(agent))
        })
        .workers(1)
        .backlog(16_384)
        .max_connections(32_768)
        .disable_signals()
        .listen(listener)?
        .run();
        tokio::spawn(server);
        Ok(Self { address, counts })
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The events put so far, by [`STATUSES`].
    pub fn events(&self) -> [usize; STATUSES.len()] {
        self.counts.events.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Waits until each of `statuses` has come `number` times since `before`, and no other number.
    pub async fn all_events(
        &self,
        before: [usize; STATUSES.len()],
        statuses: &[&str],
        number: usize,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events();
            let mut missing = Vec::new();
            for ((status, now), before) in STATUSES.iter().zip(events).zip(before) {
                let expected = if statuses.contains(status) { number } else { 0 };
                ensure!(now - before <= expected, "more {status} than invocations");
                if now - before < expected {
                    missing.push(format!("{} {status}", expected + before - now));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "missing: {}", missing.join(", "));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn put_item(body: String, counts: Data<Counts>) -> HttpResponse {
    tokio::time::sleep(LATENCY).await;
    let status = STATUSES.iter().zip(&counts.events).find(|(status, _)| body.contains(**status));
    let sign = body.contains("\"ALIVE#").then_some(&counts.signs);
    let Some(count) = status.map(|(_, count)| count).or(sign) else {
        return HttpResponse::BadRequest().finish();
    };
    count.fetch_add(1, Ordering::Relaxed);
    HttpResponse::Ok()
        .content_type("application/x-amz-json-1.0")
        // Without it, the journal takes the answer for somebody else's.
        .insert_header(("x-amzn-requestid", "bench"))
        .body("{}")
}

async fn invoke_agent_runtime(counts: Data<Counts>) -> HttpResponse {
    tokio::time::sleep(LATENCY).await;
    counts.calls.fetch_add(1, Ordering::Relaxed);
    let answer = json!({ "status": "started" });
    HttpResponse::Ok().insert_header(("x-amzn-requestid", "bench")).json(answer)
}

async fn next(counts: Data<Counts>) -> HttpResponse {
    counts.asked.fetch_add(1, Ordering::Relaxed);
    counts.another.notify_waiters();
    tokio::select! {
        Ok(permit) = counts.invocations.acquire() => permit.forget(),
        () = counts.another.notified() => return HttpResponse::Gone().finish(),
    }
    let id = Uuid::new_v4().to_string();
    HttpResponse::Ok()
        .insert_header(("Lambda-Runtime-Aws-Request-Id", id.as_str()))
        .insert_header(("Lambda-Runtime-Deadline-Ms", "4102444800000"))
        .insert_header((
            "Lambda-Runtime-Invoked-Function-Arn",
            "arn:aws:lambda:us-east-1:123456789012:function:bench",
        ))
        .json(json!({
            "session_id": Uuid::new_v4(), "invocation_id": id, "after": null, "traceparent": null,
            "input": {"prompt": "hi"},
        }))
}

async fn response(counts: Data<Counts>) -> HttpResponse {
    counts.answered.fetch_add(1, Ordering::Relaxed);
    HttpResponse::Accepted().json(json!({ "status": "OK" }))
}

/// A function says that it failed; its invocation has no answer then.
async fn failed(body: String) -> HttpResponse {
    eprintln!("a function failed: {body}");
    HttpResponse::Accepted().json(json!({ "status": "OK" }))
}

/// An agent that has nothing to do.
async fn agent() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "Healthy", "time_of_last_update": 0 }))
}

async fn take(body: Bytes, counts: Data<Counts>) -> HttpResponse {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return HttpResponse::BadRequest().finish();
    };
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    counts.spans.fetch_add(scopes.map(|scope| scope.spans.len()).sum(), Ordering::Relaxed);
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}
