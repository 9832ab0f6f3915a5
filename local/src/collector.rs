//! An OpenTelemetry collector: accepts spans as OTLP over HTTP, keeps them, and shows traces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::{self, Bytes, Data, Path};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use anyhow::{Context, Result};
use chrono::DateTime;
use lru::LruCache;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use operator::timeline::escape;
use prost::Message;
use serde_json::json;

use crate::server::Server;
use crate::trace::{Span, tree};

/// Most traces to keep. The trace that was changed or shown longest ago is dropped first.
const MAX_TRACES: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// Most spans to keep of one trace.
const MAX_SPANS: usize = 10_000;

/// The largest export that is accepted, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// If the file of traces is larger, a new one is begun.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The spans so far.
struct Kept {
    /// Spans by their ids, of each trace: a repeated export adds nothing.
    traces: LruCache<String, BTreeMap<String, Span>>,
    /// The file with a line for each span, for the next process.
    file: Option<File>,
}

type Traces = Mutex<Kept>;

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
        Self::start_keeping(port, None)
    }

    /// The same with the traces that are in this file, to which new ones are added.
    ///
    /// # Errors
    /// If the port is taken, or the file cannot be opened.
    pub fn start_keeping(port: u16, file: Option<&std::path::Path>) -> Result<Self> {
        let mut kept = Kept { traces: LruCache::new(MAX_TRACES), file: None };
        if let Some(path) = file {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            if std::fs::metadata(path).is_ok_and(|file| file.len() > MAX_FILE_BYTES) {
                std::fs::remove_file(path)?;
            }
            let lines = std::fs::read_to_string(path).unwrap_or_default();
            // A line may be cut, if the machine stopped.
            for (trace, span) in lines.lines().filter_map(|line| serde_json::from_str(line).ok()) {
                kept.add(trace, span);
            }
            kept.file = Some(File::options().create(true).append(true).open(path)?);
        }
        let traces: Arc<Traces> = Arc::new(Mutex::new(kept));
        let data = Data::from(Arc::clone(&traces));
        let server = Server::start(port, move |routes| {
            routes
                .app_data(data.clone())
                .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
                .route("/v1/traces", web::post().to(take))
                .route("/", web::get().to(index))
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

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT` for this collector.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The spans of every trace that has come so far, by the trace's id, oldest first.
    #[must_use]
    pub fn traces(&self) -> BTreeMap<String, Vec<Span>> {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.traces.iter().map(|(id, spans)| (id.clone(), in_order(spans))).collect()
    }

    /// Stops it. Exporters cannot connect any more.
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
            let trace = hex(&span.trace_id);
            {
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
                if let Some(file) = &mut traces.file {
                    // Only the next process will miss it.
                    let _ = writeln!(file, "{}", json!([trace, span]));
                }
                traces.add(trace, span);
            }
        }
    }
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

impl Kept {
    fn add(&mut self, trace: String, span: Span) {
        let spans = self.traces.get_or_insert_mut(trace, BTreeMap::new);
        if spans.len() < MAX_SPANS {
            spans.insert(span.id.clone(), span);
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The sessions and where their traces are, newest first.
async fn index(traces: Data<Traces>) -> HttpResponse {
    let traces = traces.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lines = Vec::new();
    for (trace, spans) in &traces.traces {
        let session = spans.values().find_map(|span| span.attributes.get("session.id"));
        let start = spans.values().map(|span| span.start).min().unwrap_or_default();
        let time = DateTime::from_timestamp_nanos(start.try_into().unwrap_or_default());
        let time = time.format("%Y-%m-%d %H:%M:%S");
        let failed = if spans.values().any(|span| span.error.is_some()) { "failed" } else { "" };
        let session = escape(session.map_or("", String::as_str));
        let line = format!("{time}  {session:<36}  {failed:<6}  /traces/{trace}\n");
        lines.push(line);
    }
    lines.sort_by(|a, b| b.cmp(a));
    let head = "Sessions that have a trace, newest first: start (UTC), session, trace\n";
    HttpResponse::Ok().content_type(TEXT).body(head.to_owned() + &lines.concat())
}

async fn show(id: Path<String>, traces: Data<Traces>) -> HttpResponse {
    let mut traces = traces.lock().unwrap_or_else(PoisonError::into_inner);
    match traces.traces.get(id.as_str()) {
        Some(spans) => HttpResponse::Ok().content_type(TEXT).body(tree(&id, &in_order(spans))),
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
