//! An OpenTelemetry collector: takes spans as OTLP over HTTP and shows a trace as a tree.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Bytes, Data, Path};
use actix_web::{App, HttpMessage, HttpRequest, HttpResponse, HttpServer};
use anyhow::{Context, Result};
use lru::LruCache;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use workflow::timeline;

/// Traces that are kept; the one that was added to longest ago is forgotten first.
const MAX_TRACES: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// Spans that are kept of a trace.
const MAX_SPANS: usize = 10_000;

/// The largest export that is taken, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// 16 hex digits.
    pub id: String,
    /// The same of the span that caused it; empty if none did.
    pub parent: String,
    /// `service.name` of the process that it is from.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Its status' message, if it is an error.
    pub error: Option<String>,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Its events in their order: nanoseconds since 1970, and name.
    pub events: Vec<(u64, String)>,
}

/// Spans by their ids, of each trace: a repeated export adds nothing.
type Traces = Mutex<LruCache<String, BTreeMap<String, Span>>>;

/// The collector, served until it is stopped or this process ends.
pub struct Collector {
    /// Where it takes OTLP over HTTP: at `/v1/traces`.
    pub address: SocketAddr,
    traces: Arc<Traces>,
    server: ServerHandle,
}

impl Collector {
    /// Serves a collector on `port` of 127.0.0.1 (0: any).
    ///
    /// # Errors
    /// If the port is taken.
    pub fn start(port: u16) -> Result<Self> {
        let traces: Arc<Traces> = Arc::new(Mutex::new(LruCache::new(MAX_TRACES)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!(
                "cannot take traces on 127.0.0.1:{port}; take another port with --otlp-port, or if \
                 your collector is there, use it with --otlp http://127.0.0.1:{port}"
            )
        })?;
        let address = listener.local_addr()?;
        let data = Data::from(Arc::clone(&traces));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
                .route("/v1/traces", web::post().to(take))
                // Nothing here shows metrics; who sends them shall not be told that they failed.
                .route("/v1/metrics", web::post().to(HttpResponse::Ok))
                .route("/traces/{id}", web::get().to(show))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { address, traces, server: handle })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be for this collector.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of every trace that has come so far, by the trace's id, oldest first.
    #[must_use]
    pub fn traces(&self) -> BTreeMap<String, Vec<Span>> {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        traces.iter().map(|(id, spans)| (id.clone(), in_order(spans))).collect()
    }

    /// Stops it; who exports to it finds nobody.
    pub async fn stop(&self) {
        self.server.stop(false).await;
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
        // As the standard says, a span without an id is none.
        for span in sent.filter(|span| !span.span_id.is_empty() && !span.trace_id.is_empty()) {
            let spans = traces.get_or_insert_mut(hex(&span.trace_id), BTreeMap::new);
            if spans.len() < MAX_SPANS {
                let failure = span.status.filter(|status| status.code() == StatusCode::Error);
                let span = Span {
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    service: service.clone(),
                    name: span.name,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    error: failure.map(|status| status.message),
                    attributes: texts(span.attributes),
                    events: span
                        .events
                        .into_iter()
                        .map(|event| (event.time_unix_nano, event.name))
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

/// A trace as a person reads it: the session whose journal has the rest of the story, and a line for
/// each span with offset from the first one's start, duration, process, name indented below the span
/// that caused it, and the message of an error; below it its events, such as an agent's progress.
#[must_use]
pub fn tree(trace_id: &str, spans: &[Span]) -> String {
    let session = spans.iter().find_map(|span| span.attributes.get("session.id"));
    let session = session.map_or_else(String::new, |id| format!(" of session {id}"));
    let mut lines =
        timeline::escape(&format!("Trace {trace_id}{session}: start, duration, process, span"));
    lines.push('\n');
    let start = spans.iter().map(|span| span.start).min().unwrap_or_default();
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    for root in spans.iter().filter(|span| !known(&span.parent)) {
        branch(root, spans, start, 0, &mut lines);
    }
    lines
}

fn branch(span: &Span, spans: &[Span], start: u64, depth: usize, lines: &mut String) {
    let seconds = |nanos: u64| std::time::Duration::from_nanos(nanos).as_secs_f64();
    let (offset, duration) =
        (seconds(span.start - start), seconds(span.end.saturating_sub(span.start)));
    let (service, name) = (timeline::escape(&span.service), timeline::escape(&span.name));
    let error = span.error.as_deref().map(|message| {
        let error_type = span.attributes.get("error.type").map_or("ERROR", String::as_str);
        format!("  {}: {}", timeline::escape(error_type), timeline::escape(message))
    });
    let (error, indent) = (error.unwrap_or_default(), 2 * depth);
    *lines += &format!(
        "{offset:>9.3} s  {duration:>9.3} s  {service:<13}  {:indent$}{name}{error}\n",
        ""
    );
    // An exception is what the span's error says.
    for (time, event) in span.events.iter().filter(|(_, event)| event != "exception") {
        let (offset, event) = (seconds(time.saturating_sub(start)), timeline::escape(event));
        *lines +=
            &format!("{offset:>9.3} s  {:>11}  {service:<13}  {:indent$}  · {event}\n", "", "");
    }
    for child in spans.iter().filter(|child| child.parent == span.id && child.id != span.id) {
        branch(child, spans, start, depth + 1, lines);
    }
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
