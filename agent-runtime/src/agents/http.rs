//! An agent that is an HTTP server, such as a `BedrockAgentCoreApp`.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use journal::SettingError;
use journal::settings::optional;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use super::call::{Endpoint, Fault, call, listening, while_busy};
use super::server::Server;
use super::{CommandLine, GRACE};
use crate::{Agent, AgentError, Invocation};

/// How long a server may take until it listens.
const LISTEN_DEADLINE: Duration = Duration::from_secs(120);

/// How long it takes before the log says what may be wrong.
const SLOW: Duration = Duration::from_secs(10);

/// How long an idle server may take to end when the container stops.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// How long a killed server takes to end.
const KILL_DEADLINE: Duration = Duration::from_millis(500);

/// How long after a broken connection the end of the server is known.
const DEATH_DEADLINE: Duration = Duration::from_secs(1);

/// Calls a server for each invocation, as AgentCore calls a container.
///
/// - Input: the invocation's, byte for byte as the body of a POST, with AgentCore's headers and the
///   task's `traceparent`.
/// - Result: the answer, as JSON if it parses, otherwise as text. For a stream of server-sent events,
///   the array of the events.
/// - If a server has answered and says HealthyBusy at `/ping`, it still works. The task ends when the
///   server has said twice that it is not busy.
/// - Failure: an answer other than 2xx, an error as the last event, or the server's end.
///
/// The first task starts the server of `AGENT_SERVER_COMMAND`, with `SESSION_ID`, and with `PORT` and
/// `UVICORN_PORT` to listen on. If the server has ended, the next task starts it again. Its log and its
/// progress work as for a [`CommandAgent`](crate::CommandAgent). When a task has to end, its server gets
/// SIGTERM, and SIGKILL three seconds later.
#[derive(Debug)]
pub struct HttpAgent {
    target: Target,
    /// The `Accept` header.
    accept: String,
    listen_deadline: Duration,
}

#[derive(Debug)]
enum Target {
    Url(Endpoint),
    /// The server that the runtime has started, if there is one.
    Command(CommandLine, Mutex<Option<Started>>),
}

type Started = (Arc<Server>, Endpoint);

impl HttpAgent {
    /// Reads `AGENT_SERVER_COMMAND` or `AGENT_URL`, and `AGENT_ACCEPT`.
    ///
    /// # Errors
    /// If both are missing, or one is invalid.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        const URL: &str = "it must be the whole URL of the server's invocations, such as \
            http://127.0.0.1:9000/invocations, without TLS";
        let url = optional(&env, "AGENT_URL", URL, |url| {
            let uri = url.parse::<Uri>().ok()?;
            let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"))?;
            let host = authority.host();
            let address = format!("{host}:{}", authority.port_u16().unwrap_or(80));
            let path = uri.path_and_query()?.as_str().to_owned();
            Some(Endpoint { address, path })
        })?;
        let command = CommandLine::from_env(&env, "AGENT_SERVER_COMMAND")?;
        let command = command.map(|command| Target::Command(command, Mutex::default()));
        let expected = "it must be the command that starts the agent's server";
        let missing = SettingError::Missing { name: "AGENT_SERVER_COMMAND", expected };
        let target = url.map(Target::Url).or(command).ok_or(missing)?;
        const ACCEPT: &str = "it must be media types, such as application/json";
        let accept = optional(&env, "AGENT_ACCEPT", ACCEPT, |accept| {
            HeaderValue::from_str(accept).ok().map(|_| accept.to_owned())
        })?;
        let accept = accept.unwrap_or_else(|| "application/json, text/event-stream".to_owned());
        Ok(Self { target, accept, listen_deadline: LISTEN_DEADLINE })
    }

    /// The server, started if there is none, and where it listens. `mine` is the task's server from its
    /// start on.
    async fn started(
        &self,
        invocation: &Invocation,
        mine: &Mutex<Option<Arc<Server>>>,
    ) -> Result<(Option<Arc<Server>>, Endpoint), AgentError> {
        let (command, slot) = match &self.target {
            Target::Url(endpoint) => return Ok((None, endpoint.clone())),
            Target::Command(command, slot) => (command, slot),
        };
        // Tasks that come together wait for one start.
        let mut slot = slot.lock().await;
        if let Some((server, endpoint)) = slot.as_ref().filter(|(server, _)| !server.has_ended()) {
            *mine.lock().await = Some(Arc::clone(server));
            return Ok((Some(Arc::clone(server)), endpoint.clone()));
        }
        let server = Arc::new(Server::start(command, &invocation.environment)?);
        *mine.lock().await = Some(Arc::clone(&server));
        let port = server.port;
        let addresses = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        let addresses = Vec::from_iter(addresses.iter().map(String::as_str));
        let hint = format!(
            "PORT is {port}. Serve a Python app with `uvicorn module:app`, which reads UVICORN_PORT; a TypeScript app needs app.run({{port: Number(process.env.PORT)}})."
        );
        let slow = async {
            tokio::time::sleep(SLOW).await;
            tracing::warn!("the server does not listen on PORT yet. {hint}");
            std::future::pending::<String>().await
        };
        let address = tokio::select! {
            address = slow => address,
            address = listening(&addresses) => address.to_owned(),
            how = server.ended() => {
                let how = format!("the agent's server ended before it listened: {how}");
                return Err(server.last_words(&how));
            }
            () = tokio::time::sleep(self.listen_deadline) => {
                let seconds = self.listen_deadline.as_secs();
                return Err(server.with_last_lines(&format!(
                    "the server does not listen on PORT within {seconds} s\n{hint}"
                )));
            }
        };
        let endpoint = Endpoint { address, path: "/invocations".to_owned() };
        *slot = Some((server.clone(), endpoint.clone()));
        Ok((Some(server), endpoint))
    }

    async fn work(
        &self,
        invocation: Invocation,
        mine: &Mutex<Option<Arc<Server>>>,
    ) -> Result<Box<RawValue>, AgentError> {
        loop {
            let (server, endpoint) = self.started(&invocation, mine).await?;
            let in_hand = server.as_ref().map(|server| server.take(&invocation.context));
            let called = async {
                let result = call(&endpoint, &self.accept, &invocation).await?;
                Ok((result, while_busy(&endpoint).await?))
            };
            let (Some(server), Some(in_hand)) = (&server, &in_hand) else {
                match called.await {
                    Err(Fault::Unreached(_)) => self.wait_for(&endpoint).await?,
                    called => return Ok(called?.0),
                }
                continue;
            };
            let ended = || tokio::time::timeout(DEATH_DEADLINE, server.ended());
            let fault = tokio::select! {
                biased;
                called = called => match called {
                    Ok((result, true)) => return Ok(result),
                    // Its end is known a little later.
                    Ok((result, false)) => {
                        return ended().await.map_or(Ok(result), |how| Err(in_hand.death(&how)));
                    }
                    Err(fault) => fault,
                },
                how = server.ended() => return Err(in_hand.death(&how)),
            };
            return Err(match fault {
                // It ended before this task; so another one is started.
                Fault::Unreached(_) if ended().await.is_ok() => continue,
                // A connection breaks before the end of its process is known.
                Fault::Broken(error) => ended().await.map_or(error, |how| in_hand.death(&how)),
                Fault::Failed { error, how, is_silent } => {
                    let request_id = &invocation.invocation_id;
                    in_hand.exception(request_id, &how, is_silent).await.unwrap_or(error)
                }
                Fault::Unreached(error) | Fault::Refused(error) => error,
            });
        }
    }

    /// Waits until the server of `AGENT_URL` listens.
    async fn wait_for(&self, endpoint: &Endpoint) -> Result<(), AgentError> {
        let (address, seconds) = (&endpoint.address, self.listen_deadline.as_secs());
        let addresses = [address.as_str()];
        let listens = tokio::time::timeout(self.listen_deadline, listening(&addresses));
        let deaf =
            || format!("the server of AGENT_URL does not listen on {address} within {seconds} s");
        listens.await.map(drop).map_err(|_| deaf().into())
    }

    /// Ends a server, even if other tasks still have it.
    async fn end(&self, server: &Arc<Server>, grace: Duration) {
        if let Target::Command(_, slot) = &self.target {
            let mut slot = slot.lock().await;
            if slot.as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, server)) {
                *slot = None;
            }
        }
        let kill = server.terminate();
        if tokio::time::timeout(grace, server.ended()).await.is_err() {
            drop(kill);
            server.ended().await;
        }
    }
}

impl Agent for HttpAgent {
    type Output = Box<RawValue>;

    fn grace(&self) -> Duration {
        GRACE + KILL_DEADLINE
    }

    async fn run(&self, invocation: Invocation) -> Result<Box<RawValue>, AgentError> {
        let (context, mine) = (invocation.context.clone(), Mutex::default());
        tokio::select! {
            result = self.work(invocation, &mine) => return result,
            () = context.ending() => {}
        }
        // Only the end of the process ends what a request has begun.
        if let Some(server) = mine.into_inner() {
            self.end(&server, GRACE).await;
        }
        Err("the task was ended".into())
    }

    async fn stop(&self) {
        let Target::Command(_, slot) = &self.target else { return };
        let server = slot.lock().await.as_ref().map(|(server, _)| Arc::clone(server));
        if let Some(server) = server {
            self.end(&server, STOP_GRACE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actix_web::web::Bytes;

    use super::*;
    use crate::{Input, TaskContext};

    async fn error_of(name: &str, value: String) -> String {
        let agent = HttpAgent::from_env(|asked| (asked == name).then(|| value.clone())).unwrap();
        let agent = HttpAgent { listen_deadline: Duration::from_secs(1), ..agent };
        let invocation = Invocation {
            session_id: "session-2026-11-23-0123456789-abcdef".parse().unwrap(),
            invocation_id: "run-1".to_owned(),
            input: Input(Bytes::from_static(b"{}")),
            environment: BTreeMap::new(),
            headers: BTreeMap::new(),
            context: TaskContext::default(),
        };
        agent.run(invocation).await.unwrap_err().message
    }

    #[tokio::test]
    async fn a_server_that_does_not_listen_is_said_to_in_one_sentence() {
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/server.py");
        let error = error_of("AGENT_SERVER_COMMAND", format!("python3 {server} deaf")).await;
        let lines = Vec::from_iter(error.lines());
        assert_eq!(lines[0], "the server does not listen on PORT within 1 s");
        assert!(lines[1].contains("uvicorn module:app"), "{error}");
        assert!(lines[2].starts_with("I listen elsewhere"), "{error}");
        let error = error_of("AGENT_URL", "http://127.0.0.1:1/invocations".to_owned()).await;
        assert_eq!(error, "the server of AGENT_URL does not listen on 127.0.0.1:1 within 1 s");
    }
}
