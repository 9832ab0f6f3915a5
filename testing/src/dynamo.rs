//! A DynamoDB that fails on demand: an HTTP connector under the real AWS SDK. It passes requests to the
//! embedded engine, which really evaluates conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a request that the SDK did not send must fail the test"
)]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use dynoxide::{Database, DynoxideError};
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use crate::table::{REGION, TABLE_NAME, create_table};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is served.
    None,
    /// It is refused with this exception (HTTP 400), not applied.
    Refused(&'static str),
    /// It is answered 500 and not applied.
    ErrorBefore,
    /// It is applied and answered 500.
    ErrorAfter,
    /// It is applied, and the connection breaks before the answer.
    DropAfter,
    /// It is applied only after this time, and never answered.
    Late(Duration),
    /// Nothing happens, and no answer comes.
    Hang,
    /// It is applied, and the answer's body is cut.
    CutBody,
    /// No connection can be made.
    NoConnection,
    /// It is not applied, and a proxy answers in its place: this status and body.
    Proxy(u16, &'static str),
    /// It is not applied, and the answer with this status breaks off in the middle of its body.
    Unreadable(u16),
    /// It is applied, and the answer does not end.
    Endless,
}

/// Decides what happens to a request.
type Plan = dyn FnMut(&Call) -> Fault + Send;

/// The embedded engine behind a plan of faults.
#[derive(Clone)]
pub struct Dynamo {
    /// The engine, without the faults.
    pub database: Database,
    plan: Arc<Mutex<Plan>>,
    calls: Arc<Mutex<Vec<Call>>>,
    applied: Arc<dyn Fn(&Value) + Send + Sync>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// `PutItem` or `Query`.
    pub operation: String,
    /// As DynamoDB's JSON protocol has it.
    pub body: Value,
}

impl Call {
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let target = request.headers().get("x-amz-target").unwrap();
        Self {
            operation: target.rsplit('.').next().unwrap().to_owned(),
            body: serde_json::from_slice(request.body().bytes().unwrap()).unwrap(),
        }
    }

    /// The `Status` of the item that is put.
    #[must_use]
    pub fn status(&self) -> &str {
        self.body["Item"]["Status"]["S"].as_str().unwrap_or_default()
    }
}

impl fmt::Debug for Dynamo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dynamo")
    }
}

impl Dynamo {
    /// An engine with the journal's table, in memory. `plan` is asked once for every request.
    ///
    /// # Panics
    /// If the engine cannot be made.
    pub fn new(plan: impl FnMut(&Call) -> Fault + Send + 'static) -> Self {
        let database = Database::memory().unwrap();
        create_table(&database, TABLE_NAME).unwrap();
        Self::over(database, plan)
    }

    /// The same over an engine that is there already.
    pub fn over(database: Database, plan: impl FnMut(&Call) -> Fault + Send + 'static) -> Self {
        Self {
            database,
            plan: Arc::new(Mutex::new(plan)),
            calls: Arc::default(),
            applied: Arc::new(|_| {}),
        }
    }

    /// An engine with these faults, one per request, and then none.
    pub fn scripted(faults: impl IntoIterator<Item = Fault>) -> Self {
        let mut faults = Vec::from_iter(faults).into_iter();
        Self::new(move |_| faults.next().unwrap_or(Fault::None))
    }

    /// Reports every item that a put has written, even if the caller does not learn it.
    #[must_use]
    pub fn on_applied(self, applied: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        Self { applied: Arc::new(applied), ..self }
    }

    /// All requests so far.
    ///
    /// # Panics
    /// If another thread has panicked in the plan.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// An SDK configuration that reaches it.
    #[must_use]
    pub fn config(&self) -> Builder {
        let connector = SharedHttpConnector::new(self.clone());
        let client: SharedHttpClient =
            http_client_fn(move |_: &HttpConnectorSettings, _| connector.clone());
        Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::for_tests())
            .http_client(client)
    }

    /// Answers a request as the plan has it.
    pub(crate) fn answer(&self, call: Call) -> HttpConnectorFuture {
        let fault = (self.plan.lock().unwrap())(&call);
        let dynamo = self.clone();
        HttpConnectorFuture::new(async move {
            let broken = |kind: io::ErrorKind| ConnectorError::io(io::Error::from(kind).into());
            match fault {
                Fault::None => Ok(dynamo.apply(&call)),
                Fault::Refused(name) => Ok(exception(400, name)),
                Fault::ErrorBefore => Ok(exception(500, "InternalServerError")),
                Fault::ErrorAfter => {
                    dynamo.apply(&call);
                    Ok(exception(500, "InternalServerError"))
                }
                Fault::DropAfter => {
                    dynamo.apply(&call);
                    Err(broken(io::ErrorKind::ConnectionReset))
                }
                Fault::Late(delay) => {
                    // Goes on when the caller has given up, as a request on the wire does.
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        dynamo.apply(&call);
                    });
                    std::future::pending().await
                }
                Fault::Hang => std::future::pending().await,
                Fault::CutBody => {
                    dynamo.apply(&call);
                    Ok(response(200, "{\"Attrib".to_owned()))
                }
                Fault::Proxy(status, body) => Ok(foreign(status, body)),
                Fault::Unreadable(status) => Ok(foreign(status, broken_off())),
                Fault::Endless => {
                    dynamo.apply(&call);
                    Ok(foreign(200, endless()))
                }
                Fault::NoConnection => Err(broken(io::ErrorKind::ConnectionRefused)),
            }
        })
    }

    fn apply(&self, call: &Call) -> HttpResponse {
        fn answer<Q: serde::de::DeserializeOwned, A: serde::Serialize>(
            body: &Value,
            serve: impl FnOnce(Q) -> Result<A, DynoxideError>,
        ) -> (u16, String) {
            match serve(serde_json::from_value(body.clone()).unwrap()) {
                Ok(answer) => (200, serde_json::to_string(&answer).unwrap()),
                Err(error) => (error.status_code(), error.to_json()),
            }
        }
        let (status, body) = match call.operation.as_str() {
            "PutItem" => answer(&call.body, |request| self.database.put_item(request)),
            "Query" => answer(&call.body, |request| self.database.query(request)),
            other => unimplemented!("{other}"),
        };
        if call.operation == "PutItem" && status == 200 {
            (self.applied)(&call.body["Item"]);
        }
        response(status, body)
    }
}

fn response(status: u16, body: String) -> HttpResponse {
    let mut response = foreign(status, body);
    response.headers_mut().insert("x-amzn-requestid", "request-1");
    response
}

/// An answer of something that is not DynamoDB.
fn foreign(status: u16, body: impl Into<SdkBody>) -> HttpResponse {
    HttpResponse::new(status.try_into().unwrap(), body.into())
}

/// A body of which only half comes.
fn broken_off() -> SdkBody {
    let half = Ok(Frame::data(Bytes::from("{\"__type\": \"x#Val")));
    let cut = Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    SdkBody::from_body_1_x(StreamBody::new(stream::iter([half, cut])))
}

/// A body without an end.
fn endless() -> SdkBody {
    let block = Bytes::from(vec![b' '; 1024 * 1024]);
    let blocks = stream::repeat_with(move || Ok::<_, io::Error>(Frame::data(block.clone())));
    SdkBody::from_body_1_x(StreamBody::new(blocks))
}

fn exception(status: u16, name: &str) -> HttpResponse {
    response(status, json!({"__type": format!("x#{name}"), "message": "injected"}).to_string())
}

impl HttpConnector for Dynamo {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let call = Call::of(&request);
        self.calls.lock().unwrap().push(call.clone());
        self.answer(call)
    }
}
