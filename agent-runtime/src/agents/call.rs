//! Calls of an agent's server.

use std::time::Duration;

use actix_web::web::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use journal::display_chain;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Events, refusal};
use super::output::{Head, printed_result};
use crate::{AgentError, Invocation, REQUEST_HEADER, SESSION_HEADER};

/// How often to try whether a server listens.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// Time between two requests to `/ping`.
const BUSY_INTERVAL: Duration = Duration::from_secs(2);

/// How long an answer of `/ping` may take.
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// How much of an answer of `/ping` is read.
const MAX_PING_BYTES: usize = 64 * 1024;

/// Where a server is.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The path and query of invocations.
    pub path: String,
}

/// Why a call failed, as far as the caller can tell.
pub(super) enum Fault {
    /// Nothing listens there.
    Unreached(AgentError),
    /// The connection broke, perhaps because the server has ended.
    Broken(AgentError),
    /// The agent's function failed, and the log may say more.
    Failed {
        error: AgentError,
        /// What the server answered.
        how: String,
        /// Whether it gave no reason.
        is_silent: bool,
    },
    /// The server refused the request, or its answer cannot be used.
    Refused(AgentError),
}

impl Fault {
    fn broken(error: impl std::error::Error + 'static) -> Self {
        let error = display_chain(&error);
        Self::Broken(format!("the agent's server broke off the connection: {error}").into())
    }
}

impl From<Fault> for AgentError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreached(error)
            | Fault::Broken(error)
            | Fault::Failed { error, .. }
            | Fault::Refused(error) => error,
        }
    }
}

/// Resolves with the first address on which something listens.
pub(super) async fn listening<'a>(addresses: &[&'a str]) -> &'a str {
    loop {
        for address in addresses {
            if TcpStream::connect(address).await.is_ok() {
                return address;
            }
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

/// Sends a request on a connection of its own. The handle keeps the connection.
async fn send(
    endpoint: &Endpoint,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), Fault> {
    let stream = TcpStream::connect(&endpoint.address).await.map_err(|error| {
        let address = &endpoint.address;
        Fault::Unreached(format!("the agent's server does not listen on {address}: {error}").into())
    })?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(Fault::broken)?;
    let connection = tokio::spawn(async move {
        // The request reports the same error.
        let _ = connection.await;
    });
    let connection = AbortOnDropHandle::new(connection);
    Ok((sender.send_request(request).await.map_err(Fault::broken)?, connection))
}

/// Calls the server and reads its answer.
pub(super) async fn call(
    endpoint: &Endpoint,
    accept: &str,
    invocation: &Invocation,
) -> Result<Box<RawValue>, Fault> {
    let mut request = Request::post(&endpoint.path)
        .header("Host", &endpoint.address)
        .header("Content-Type", "application/json")
        .header("Accept", accept)
        .header(SESSION_HEADER, invocation.session_id.as_str())
        .header(REQUEST_HEADER, &invocation.invocation_id);
    for name in ["TRACEPARENT", "TRACESTATE", "BAGGAGE"] {
        if let Some(value) = invocation.environment.get(name) {
            request = request.header(name.to_ascii_lowercase(), value);
        }
    }
    for (name, value) in &invocation.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(invocation.input.0.clone())).map_err(Fault::broken)?;
    let (response, _connection) = send(endpoint, request).await?;
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let of_events = content_type.to_ascii_lowercase().starts_with("text/event-stream");
    let is_stream = status.is_success() && of_events;
    let (mut answer, mut events) = (Head::default(), Events::default());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let came = match is_stream {
                true => format!("{} events", events.count()),
                false => format!("{} bytes", answer.bytes),
            };
            let error = display_chain(&error);
            Fault::Broken(format!("the agent's answer broke off after {came}: {error}").into())
        })?;
        match frame.data_ref() {
            Some(data) if is_stream => events.push(data),
            Some(data) => answer.push(data),
            None => {}
        }
    }
    let how = format!("the agent answered {status}");
    if !status.is_success() {
        let mut error = refusal(&answer, &how);
        if of_events && answer.bytes == 0 {
            // @fastify/sse 0.4 under the TypeScript SDK 0.4.
            error.message += "\nThe TypeScript SDK drops the reason of an error where the answer may be a stream. If the app does not stream, set AGENT_ACCEPT=application/json.";
        }
        return Err(match status.is_server_error() {
            true => {
                let is_silent = !answer.kept.trim_ascii_start().starts_with(b"{");
                Fault::Failed { error, how, is_silent }
            }
            false => Fault::Refused(error),
        });
    }
    if is_stream {
        let how = "in the stream of its answer".to_owned();
        let failed = |error| Fault::Failed { error, how, is_silent: false };
        answer = events.end().map_err(failed)?;
    }
    printed_result(answer, &invocation.context).map_err(Fault::Refused)
}

/// Waits until two answers of `/ping` in a row say that a server is not busy any more. Does not wait if
/// the server was never busy. `false` if it does not answer `/ping`.
///
/// # Errors
/// If it goes away while it is busy.
pub(super) async fn while_busy(endpoint: &Endpoint) -> Result<bool, Fault> {
    let base = endpoint.path.split('?').next().unwrap_or_default();
    let base = base.rsplit_once('/').map_or("", |(base, _)| base);
    let (mut was_busy, mut idle) = (false, 0);
    loop {
        let request = Request::get(format!("{base}/ping")).header("Host", &endpoint.address);
        let request = request.body(Full::default()).map_err(Fault::broken)?;
        let answer = async {
            let (response, _connection) = send(endpoint, request).await?;
            let body = Limited::new(response.into_body(), MAX_PING_BYTES).collect().await;
            // An unreadable answer does not say that the server is busy.
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let answer = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            Ok::<_, Fault>(answer.get("status").is_some_and(|status| status == "HealthyBusy"))
        };
        match tokio::time::timeout(PING_DEADLINE, answer).await {
            // A busy server may answer late.
            Ok(Ok(true)) | Err(_) => (was_busy, idle) = (true, 0),
            Ok(Ok(false)) => idle += 1,
            Ok(Err(_)) if !was_busy => return Ok(false),
            Ok(Err(fault)) => return Err(Fault::Broken(fault.into())),
        }
        if !was_busy || idle >= 2 {
            return Ok(true);
        }
        tokio::time::sleep(BUSY_INTERVAL).await;
    }
}
