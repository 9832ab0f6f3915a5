//! An OpenTelemetry collector: takes spans as OTLP over HTTP, keeps them, and shows traces.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::{self, Bytes, Data, Path};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use anyhow::{Context, Result};
use lru::LruCache;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use crate::server::Server;
use crate::trace::{Span, tree};

/// Traces that are kept; the one that was added to or looked at longest ago is forgotten first.
const MAX_TRACES: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// Spans that are kept of a trace.
const MAX_SPANS: usize = 10_000;

/// The largest export that is taken, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Spans by their ids, of each trace: a repeated export adds nothing.
type Traces = Mutex<LruCache<String, BTreeMap<String, Span>>>;

/// The collector, served until it is stopped or this process ends.
pub struct Collector {
    traces: Arc<Traces>,
    server: Server,
}

impl Collector {
    /// Serves a collector on `port` of 127.0.0.1 (0: any).
    ///
    /// # Errors
    /// If the port is taken.
    pub fn start(port: u16) -> Result<Self> {
        let traces: Arc<Traces> = Arc::new(Mutex::new(LruCache::new(MAX_TRACES)));
        let data = Data::from(Arc::clone(&traces));
        let server = Server::start(port, move |routes| {
            routes
                .app_data(data.clone())
                .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
                .route("/v1/traces", web::post().to(take))
                .route("/traces/{id}", web::get().to(show));
        })
        .with_context(|| {
            format!(
                "cannot take traces on 127.0.0.1:{port}; take another port with --otlp-port, or if \
                 your collector is there, use it with --otlp http://127.0.0.1:{port}"
            )
        })?;
        Ok(Self { traces, server })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be for this collector.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The spans of every trace that has come so far, by the trace's id, oldest first.
    #[must_use]
    pub fn traces(&self) -> BTreeMap<String, Vec<Span>> {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().map(|(id, spans)| (id.clone(), in_order(spans))).collect()
    }

    /// Stops it; who exports to it finds nobody.
    pub async fn stop(&self) {
        self.server.stop().await;
    }
}

async fn take(http: HttpRequest, body: Bytes, traces: Data<Traces>) -> HttpResponse {
    if http.content_type() != "application/x-protobuf" {
        return HttpResponse::UnsupportedMediaType().body("spans are taken as http/protobuf");
    }
    let request = match ExportTraceServiceRequest::decode(body) {
        Ok(request) => request,
        Err(error) => return HttpResponse::BadRequest().body(error.to_string()),
    };
    let mut traces = traces.lock().unwrap_or_else(PoisonError::into_inner);
    for group in request.resource_spans {
        let resource = group.resource.map(|it| texts(it.attributes)).unwrap_or_default();
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let sent = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
        // The standard calls a span without an id invalid.
        for span in sent.filter(|span| !span.span_id.is_empty() && !span.trace_id.is_empty()) {
            let spans = traces.get_or_insert_mut(hex(&span.trace_id), BTreeMap::new);
            if spans.len() < MAX_SPANS {
                let local = span.kind() != SpanKind::Server;
                let failure = span.status.filter(|status| status.code() == StatusCode::Error);
                let span = Span {
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    parent_is_local: local && !span.parent_span_id.is_empty(),
                    service: service.clone(),
                    name: span.name,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    error: failure.map(|status| status.message),
                    attributes: texts(span.attributes),
                    events: span
                        .events
                        .into_iter()
                        .map(|event| {
                            let text = texts(event.attributes).remove("message");
                            (event.time_unix_nano, event.name, text.unwrap_or_default())
                        })
                        .collect(),
                };
                spans.insert(span.id.clone(), span);
            }
        }
    }
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

async fn show(id: Path<String>, traces: Data<Traces>) -> HttpResponse {
    let mut traces = traces.lock().unwrap_or_else(PoisonError::into_inner);
    match traces.get(id.as_str()) {
        Some(spans) => HttpResponse::Ok().body(tree(&id, &in_order(spans))),
        None => HttpResponse::NotFound().body("no span of this trace has come\n"),
    }
}

/// By time, a cause before what it caused at the same time.
fn in_order(spans: &BTreeMap<String, Span>) -> Vec<Span> {
    let mut spans = Vec::from_iter(spans.values().cloned());
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    spans
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|it| (it.key, it.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
