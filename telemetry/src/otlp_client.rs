//! Sends to the collector with the HTTP client of the AWS SDK.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use journal::display_chain;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::{Builder, Runtime};

use crate::aws::Signer;

/// How long one export may take, by OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two warnings that a collector accepts no spans.
const SILENCE: Duration = Duration::from_secs(60 * 60);

/// A client for one exporter, whose thread it may block. It has its own runtime, so that an export does
/// not depend on the process's runtime, which may be busy, frozen or gone.
#[derive(Debug)]
pub(crate) struct OtlpClient {
    runtime: Runtime,
    connector: Connector,
    signer: Signer,
    timeout: Duration,
    /// Whether the last export succeeded.
    pub reached: Arc<AtomicBool>,
    /// When the last warning was logged.
    told: Mutex<Option<Instant>>,
}

impl OtlpClient {
    /// # Errors
    /// If the process may have no more files or threads.
    pub fn new(timeout: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            // A connection is not kept: between two exports nobody would notice that it was closed.
            connector: Connector::builder()
                .pool_max_idle_per_host(0)
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .build(),
            signer: Signer::default(),
            timeout: timeout.unwrap_or(TIMEOUT),
            reached: Arc::new(AtomicBool::new(true)),
            told: Mutex::default(),
        })
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.signer.sign(&mut request).await?;
        let request = request.map(|body| SdkBody::from(body.to_vec()));
        let response = self.connector.call(HttpRequest::try_from(request)?).await?;
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = response.status().as_u16().try_into()?;
        Ok(answer)
    }

    /// Logs a warning that the collector accepts no spans, but not at every export.
    fn log(&self, to: &str, result: &Result<Response<Bytes>, HttpError>) {
        let failure = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(display_chain(&**error)),
        };
        self.reached.store(failure.is_none(), Ordering::Relaxed);
        let Some(failure) = failure else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() > SILENCE) {
            *told = Some(Instant::now());
            tracing::warn!("the collector {to} takes no spans: {failure}");
        }
    }
}

#[async_trait]
impl HttpClient for OtlpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Without what may be secret: a user's name and password, and the query.
        let uri = request.uri();
        let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
        let to = format!("{}{port}{}", uri.host().unwrap_or_default(), uri.path());
        let result = self.runtime.block_on(async {
            tokio::time::timeout(self.timeout, self.send(request)).await.unwrap_or_else(|_| {
                Err(format!("no answer within {} ms", self.timeout.as_millis()).into())
            })
        });
        self.log(&to, &result);
        result
    }
}
