use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix::Actor;
use actix_web::middleware::{Condition, from_fn};
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use futures_util::FutureExt;
use journal::Journal;
use serde_json::json;
use tokio::runtime::{Builder, Handle};

use crate::body_reader::BodyReader;
use crate::entrypoint::{Entrypoint, invocations};
use crate::health::Health;
use crate::host::Host;
use crate::socket::Socket;
use crate::supervisor::Supervisor;
use crate::web_page::refuse_web_pages;
use crate::{Agent, Limits};

/// How long a shutdown waits for the terminal events. With what follows (the last
/// telemetry included) it stays within 10 s.
const DRAIN_DEADLINE: Duration = Duration::from_secs(7);

/// How long an agent may take to end what it keeps between two tasks.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Serves `/invocations` and `/ping` on `listener` until `shutdown` resolves, then refuses new
/// invocations, ends every task with AGENT_BACKGROUND_TASK_FAILED of type `Terminated`, and returns
/// when those events are durable, after 10 s at most.
///
/// `/ping` is answered at once; an invocation waits for `journal`. Runs in an actix system. Bodies
/// larger than [`Limits::max_body_bytes`] are refused with 413.
///
/// # Errors
/// If the listener cannot be served.
pub async fn serve(
    listener: TcpListener,
    journal: impl Future<Output = Journal> + Send + 'static,
    limits: Limits,
    agent: impl Agent,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    let agents = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("agent")
        .enable_all()
        .build()?;
    let host = Host::new(agent, agents.handle().clone(), limits);
    let supervisor = Supervisor::new(host.clone()).start();
    let journal = journal.boxed().shared();
    let entrypoint = Data::new(Entrypoint {
        journal: journal.clone(),
        supervisor,
        host: host.clone(),
        bodies: BodyReader::new(limits.max_body_bytes, host.draining.clone()),
        runtime: Handle::current(),
    });
    let health = Data::new(host.health.clone());
    // Behind AgentCore, the Host is AgentCore's.
    let is_loopback = listener.local_addr()?.ip().is_loopback();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(Condition::new(is_loopback, from_fn(refuse_web_pages)))
            .app_data(entrypoint.clone())
            .app_data(health.clone())
            .route("/invocations", web::post().to(invocations))
            .route("/ping", web::get().to(ping))
            .default_service(web::to(not_found))
    })
    .workers(2)
    .on_connect(Socket::keep)
    // The listener has to stay open through the drain, to answer 503 and /ping.
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    let handle = server.handle();
    let mut server = actix::spawn(server);
    // While the server's own threads answer.
    actix::spawn(journal);
    tokio::select! {
        ended = &mut server => return ended.map_err(io::Error::other)?,
        () = shutdown => {}
    }
    tracing::info!("shutting down");
    host.draining.cancel();
    host.tasks.close();
    if tokio::time::timeout(DRAIN_DEADLINE, host.tasks.wait()).await.is_err() {
        host.give_up.cancel();
        let _ = tokio::time::timeout(Duration::from_millis(500), host.tasks.wait()).await;
    }
    tokio::join!(handle.stop(true), tokio::time::timeout(STOP_DEADLINE, (host.agent.stop)()))
        .1
        .ok();
    agents.shutdown_background();
    Ok(())
}

async fn ping(health: Data<Health>) -> HttpResponse {
    HttpResponse::Ok().json(health.ping())
}

async fn not_found() -> HttpResponse {
    let error = "only POST /invocations and GET /ping are served here";
    HttpResponse::NotFound().json(json!({ "error": error }))
}
