//! What a container talks to: a DynamoDB that takes every put, and a collector that takes every span.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

/// How long a put takes.
const LATENCY: Duration = Duration::from_millis(4);

pub struct StandIns {
    pub address: SocketAddr,
    /// Events that were put so far.
    pub events: Arc<AtomicUsize>,
    /// Spans that have arrived.
    pub spans: Arc<AtomicUsize>,
}

impl StandIns {
    /// Serves both on a free port until this process ends.
    pub fn start() -> Result<Self> {
        let (events, spans) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (put, taken) = (Arc::clone(&events), Arc::clone(&spans));
        let server = HttpServer::new(move || {
            let (put, taken) = (Arc::clone(&put), Arc::clone(&taken));
            App::new()
                .app_data(Data::from(put))
                .app_data(web::PayloadConfig::new(64 * 1024 * 1024))
                .route("/", web::post().to(put_item))
                .route(
                    "/v1/traces",
                    web::post().to(move |body: Bytes| take(body, Arc::clone(&taken))),
                )
                .route("/v1/metrics", web::post().to(HttpResponse::Ok))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)?
        .run();
        tokio::spawn(server);
        Ok(Self { address, events, spans })
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn put_item(events: Data<AtomicUsize>) -> HttpResponse {
    tokio::time::sleep(LATENCY).await;
    events.fetch_add(1, Ordering::Relaxed);
    HttpResponse::Ok().content_type("application/x-amz-json-1.0").body("{}")
}

async fn take(body: Bytes, spans: Arc<AtomicUsize>) -> HttpResponse {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return HttpResponse::BadRequest().finish();
    };
    let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    spans.fetch_add(scopes.map(|scope| scope.spans.len()).sum(), Ordering::Relaxed);
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}
