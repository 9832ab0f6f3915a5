//! Logs, traces and metrics of the two processes that AWS runs: the agent-runtime and the invoker.
//!
//! Spans and metrics go to OpenTelemetry's global providers and from there, as OTLP over HTTP, to
//! the collector of the standard variables; without an endpoint nothing is collected, and a
//! caller's trace context is handed on as it came. Telemetry is never in the way: what a collector
//! does not take in time is dropped, and its absence is one line of the log.
//!
//! | variable | |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT`, `…_TRACES_ENDPOINT`, `…_METRICS_ENDPOINT` | where the collector is; `https://xray.REGION.amazonaws.com/v1/traces` is signed for AWS |
//! | `OTEL_EXPORTER_OTLP_HEADERS`, `…_TIMEOUT` | as the [standard][otlp] says |
//! | `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf`; another is warned of, and not used |
//! | `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` | `none` switches one off |
//! | `OTEL_SDK_DISABLED` | `true` switches both off |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_METRIC_EXPORT_INTERVAL` | as the [standard][sdk] says |
//! | `RUST_LOG` | level of the log |
//!
//! `collector` is the way to the collector, `aws` signs for AWS's own.
//!
//! [otlp]: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
//! [sdk]: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

mod aws;
mod collector;

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use opentelemetry::trace::{SpanRef, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, field};
use tracing_subscriber::EnvFilter;

use crate::collector::Collector;

/// How long a process waits for its collector before it ends or is frozen.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// The process's telemetry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    /// Whether the last export of each succeeded.
    reached: Vec<Arc<AtomicBool>>,
}

impl Telemetry {
    /// Starts logging to stderr, readable in a terminal and as JSON elsewhere, and exporting spans
    /// and metrics as the environment says. `service` is the service's name unless the environment
    /// has one. To be called outside of an asynchronous runtime.
    #[must_use]
    pub fn start(service: &'static str) -> Self {
        start_logs();
        let resource = Resource::builder().build();
        let named = resource.iter().any(|(key, name)| {
            key.as_str() == "service.name" && !name.as_str().starts_with("unknown_service")
        });
        let resource = match named {
            true => resource,
            false => Resource::builder().with_service_name(service).build(),
        };
        let mut reached = Vec::new();
        let traces = exporter("TRACES", &mut reached, |collector| {
            SpanExporter::builder().with_http().with_http_client(collector).build()
        });
        let traces = traces.map(|exporter| {
            let builder = SdkTracerProvider::builder().with_resource(resource.clone());
            builder.with_batch_exporter(exporter).build()
        });
        let metrics = exporter("METRICS", &mut reached, |collector| {
            MetricExporter::builder().with_http().with_http_client(collector).build()
        });
        let metrics = metrics.map(|exporter| {
            let builder = SdkMeterProvider::builder().with_resource(resource);
            builder.with_periodic_exporter(exporter).build()
        });
        if let Some(traces) = &traces {
            global::set_tracer_provider(traces.clone());
        }
        if let Some(metrics) = &metrics {
            global::set_meter_provider(metrics.clone());
        }
        Self { traces, metrics, reached }
    }

    /// Sends what was collected. Waits for a second at most, and not at all for a collector that did
    /// not take the last export.
    pub async fn flush(&self) {
        if self.traces.is_none() && self.metrics.is_none() {
            return;
        }
        let telemetry = self.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            let _ = telemetry.traces.map(|traces| traces.force_flush());
            let _ = telemetry.metrics.map(|metrics| metrics.force_flush());
        });
        let reached = self.reached.iter().all(|reached| reached.load(Ordering::Relaxed));
        let limit = if reached { FLUSH_DEADLINE } else { Duration::ZERO };
        let _ = tokio::time::timeout(limit, flushed).await;
    }

    /// The same at the end of the process; nothing is collected afterwards.
    pub fn stop(self) {
        let (stopped, when_stopped) = mpsc::channel();
        // In a thread of its own: neither provider keeps to a deadline in every case.
        std::thread::spawn(move || {
            let _ = self.traces.map(|traces| traces.shutdown_with_timeout(FLUSH_DEADLINE));
            let _ = self.metrics.map(|metrics| metrics.shutdown_with_timeout(FLUSH_DEADLINE));
            let _ = stopped.send(());
        });
        if when_stopped.recv_timeout(FLUSH_DEADLINE).is_err() {
            let limit = FLUSH_DEADLINE.as_secs();
            tracing::warn!("the collector did not take the last telemetry within {limit} s");
        }
    }
}

/// A span for the log: every line within it carries these ids. At every level, because a warning
/// needs them most.
pub fn log_span(session_id: &impl Display, invocation_id: &str, trace: &Context) -> Span {
    let span = tracing::error_span!(
        "invocation",
        %session_id,
        invocation_id,
        trace_id = field::Empty,
        span_id = field::Empty
    );
    let trace = trace.span().span_context().clone();
    if trace.is_valid() {
        span.record("trace_id", field::display(trace.trace_id()));
        span.record("span_id", field::display(trace.span_id()));
    }
    span
}

/// Marks a span as failed, as [the standard records an error][recorded].
///
/// [recorded]: https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
pub fn record_error(span: &SpanRef<'_>, error_type: &str, message: &str) {
    span.set_attribute(KeyValue::new("error.type", error_type.to_owned()));
    span.add_event(
        "exception",
        vec![
            KeyValue::new("exception.type", error_type.to_owned()),
            KeyValue::new("exception.message", message.to_owned()),
        ],
    );
    span.set_status(Status::error(message.to_owned()));
}

fn start_logs() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,actix_server=warn"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would report a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    // A logger that is already set, as in a test, is kept.
    let _ = if std::io::stderr().is_terminal() {
        logs.try_init()
    } else {
        logs.json().with_current_span(false).try_init()
    };
}

/// The exporter of a signal, if the environment asks for it.
fn exporter<E>(
    signal: &str,
    reached: &mut Vec<Arc<AtomicBool>>,
    build: impl FnOnce(Collector) -> Result<E, ExporterBuildError>,
) -> Option<E> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let either = |name: &str| {
        let of_signal = format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
        [of_signal, format!("OTEL_EXPORTER_OTLP_{name}")]
            .into_iter()
            .find_map(|name| Some((variable(&name)?, name)))
    };
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"))
        || variable(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|name| name != "otlp");
    if disabled || either("ENDPOINT").is_none() {
        return None;
    }
    if let Some((protocol, name)) = either("PROTOCOL").filter(|(it, _)| it != "http/protobuf") {
        tracing::warn!("{name} is {protocol}, of which this program knows http/protobuf only");
    }
    let exporter = Collector::new().map_err(|error| error.to_string()).and_then(|collector| {
        reached.push(collector.reached());
        build(collector).map_err(|error| error.to_string())
    });
    exporter.inspect_err(|error| tracing::error!("no {signal} will be exported: {error}")).ok()
}
