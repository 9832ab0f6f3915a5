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
//! | `OTEL_EXPORTER_OTLP_PROTOCOL`, `…_COMPRESSION` | `http/protobuf`, `none`; another is warned of, and not used |
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
use std::time::{Duration, Instant};

use journal::text::{MAX_ERROR_MESSAGE_BYTES, MAX_ID_BYTES, truncate};
use opentelemetry::trace::{SpanRef, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::{Span, field};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::collector::Collector;

/// How long a process waits for its collector before it ends or is frozen.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Events of one span, of which an agent's progress has 1,000. OpenTelemetry would keep 128.
const MAX_EVENTS: u32 = 2_000;

/// The process's telemetry.
pub struct Telemetry {
    signals: Vec<Signal>,
}

/// Traces or metrics.
struct Signal {
    provider: Provider,
    /// Whether the collector takes what it is sent, and in time.
    reached: Arc<AtomicBool>,
    /// Held by a flush, of which only one may block a thread.
    flushing: Arc<Mutex<()>>,
}

#[derive(Clone)]
enum Provider {
    Traces(SdkTracerProvider),
    Metrics(SdkMeterProvider),
}

impl Provider {
    /// Sends what was collected; blocks until the collector has it or the export is given up.
    fn flush(&self) {
        // Why it failed, the collector's client has logged.
        let _ = match self {
            Self::Traces(provider) => provider.force_flush(),
            Self::Metrics(provider) => provider.force_flush(),
        };
    }

    /// The same for the last time; whether it was in time.
    fn stop(&self) -> bool {
        let stopped = match self {
            Self::Traces(provider) => provider.shutdown_with_timeout(FLUSH_DEADLINE),
            Self::Metrics(provider) => provider.shutdown_with_timeout(FLUSH_DEADLINE),
        };
        !matches!(stopped, Err(OTelSdkError::Timeout(_)))
    }
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
            let name = name.as_str();
            key.as_str() == "service.name"
                && !name.is_empty()
                && !name.starts_with("unknown_service")
        });
        let resource = match named {
            true => resource,
            false => Resource::builder().with_service_name(service).build(),
        };
        let mut signals = Vec::new();
        let traces = exporter("TRACES", |collector| {
            SpanExporter::builder().with_http().with_http_client(collector).build()
        });
        if let Some((exporter, reached)) = traces {
            let mut builder = SdkTracerProvider::builder().with_resource(resource.clone());
            if std::env::var_os("OTEL_SPAN_EVENT_COUNT_LIMIT").is_none() {
                builder = builder.with_max_events_per_span(MAX_EVENTS);
            }
            let provider = builder.with_batch_exporter(exporter).build();
            global::set_tracer_provider(provider.clone());
            signals.push(Signal::new(Provider::Traces(provider), reached));
        }
        let metrics = exporter("METRICS", |collector| {
            MetricExporter::builder().with_http().with_http_client(collector).build()
        });
        if let Some((exporter, reached)) = metrics {
            let builder = SdkMeterProvider::builder().with_resource(resource);
            let provider = builder.with_periodic_exporter(exporter).build();
            global::set_meter_provider(provider.clone());
            signals.push(Signal::new(Provider::Metrics(provider), reached));
        }
        Self { signals }
    }

    /// Sends what was collected. Waits for a collector for a second, and after that for a tenth as
    /// long as it does not take anything.
    pub async fn flush(&self) {
        futures_util::future::join_all(self.signals.iter().map(Signal::flush)).await;
    }

    /// The same at the end of the process, for a second at most; nothing is collected afterwards.
    pub fn stop(self) {
        let deadline = Instant::now() + FLUSH_DEADLINE;
        let mut stops = Vec::new();
        for Signal { provider, .. } in self.signals {
            let (stopped, when_stopped) = mpsc::channel();
            // In a thread of its own: no signal waits for another, nor this process for both.
            std::thread::spawn(move || {
                let _ = stopped.send(provider.stop());
            });
            stops.push(when_stopped);
        }
        let in_time = stops.iter().all(|stop| {
            let left = deadline.saturating_duration_since(Instant::now());
            stop.recv_timeout(left).unwrap_or(false)
        });
        if !in_time {
            tracing::warn!("a collector did not take the last telemetry within a second");
        }
    }
}

impl Signal {
    fn new(provider: Provider, reached: Arc<AtomicBool>) -> Self {
        Self { provider, reached, flushing: Arc::default() }
    }

    async fn flush(&self) {
        let known = self.reached.load(Ordering::Relaxed);
        let limit = if known { FLUSH_DEADLINE } else { FLUSH_DEADLINE / 10 };
        let flush = async {
            let flushing = Arc::clone(&self.flushing).lock_owned().await;
            let provider = self.provider.clone();
            let flush = move || {
                provider.flush();
                drop(flushing);
            };
            let _ = tokio::task::spawn_blocking(flush).await;
        };
        if tokio::time::timeout(limit, flush).await.is_err() {
            self.reached.store(false, Ordering::Relaxed);
        }
    }
}

/// Target of the spans that give lines their ids.
const IDS: &str = "ids";

/// A span for the log: every line within it carries these ids. At every level, because a warning
/// needs them most.
pub fn log_span(session_id: &impl Display, invocation_id: &str, trace: &Context) -> Span {
    let span = tracing::error_span!(
        target: IDS,
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

/// Marks a span as failed, with as much of the message as the journal keeps, as
/// [the standard records an error][recorded].
///
/// [recorded]: https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
pub fn record_error(span: &SpanRef<'_>, error_type: &str, message: &str) {
    let error_type = truncate(error_type, MAX_ID_BYTES).to_owned();
    span.set_attribute(KeyValue::new("error.type", error_type));
    span.set_status(Status::error(truncate(message, MAX_ERROR_MESSAGE_BYTES).to_owned()));
}

/// What is logged unless `RUST_LOG` says something else. The HTTP client would repeat each failed
/// export, and lambda_runtime each failed invocation without its ids.
const DEFAULT_FILTER: &str =
    "info,actix_server=warn,aws_smithy_http_client=error,lambda_runtime::layers::panic=off";

/// The filter of the log, whatever it says about these: without them lines have no ids, and at the
/// level `trace` these libraries log bodies and addresses with passwords.
fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let mut filter = EnvFilter::try_new(directives)?.add_directive(format!("{IDS}=error").parse()?);
    if filter.max_level_hint() == Some(LevelFilter::TRACE) {
        for library in ["aws_smithy_runtime", "h2", "hyper", "hyper_util", "lambda_runtime"] {
            filter = filter.add_directive(format!("{library}=debug").parse()?);
        }
    }
    Ok(filter)
}

fn start_logs() {
    let given = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let read = filter(given.as_deref().unwrap_or(DEFAULT_FILTER));
    let invalid = read.as_ref().err().map(ToString::to_string);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(read.or_else(|_| filter(DEFAULT_FILTER)).unwrap_or_default())
        .with_writer(std::io::stderr)
        // It would report a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    // So that what a panic says is one line, with the ids of where it happened.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    // A logger that is already set, as in a test, is kept.
    let _ = if std::io::stderr().is_terminal() {
        logs.try_init()
    } else {
        logs.json().with_current_span(false).try_init()
    };
    if let Some(invalid) = invalid {
        tracing::warn!("RUST_LOG is not valid, so it is not used: {invalid}");
    }
}

/// The exporter of a signal, if the environment asks for it, and whether it reaches its collector.
fn exporter<E>(
    signal: &str,
    build: impl FnOnce(Collector) -> Result<E, ExporterBuildError>,
) -> Option<(E, Arc<AtomicBool>)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let either = |name: &str| {
        let of_signal = format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
        [of_signal, format!("OTEL_EXPORTER_OTLP_{name}")]
            .into_iter()
            .find_map(|name| Some((variable(&name)?, name)))
    };
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"))
        || variable(&format!("OTEL_{signal}_EXPORTER"))
            .is_some_and(|names| names.split(',').all(|name| name.trim() != "otlp"));
    let (_, endpoint) = either("ENDPOINT").filter(|_| !disabled)?;
    for (name, known) in [("PROTOCOL", "http/protobuf"), ("COMPRESSION", "none")] {
        if let Some((value, name)) = either(name).filter(|(value, _)| value != known) {
            tracing::warn!("{name} is {value}, of which this program knows {known} only");
        }
    }
    let timeout = either("TIMEOUT").and_then(|(millis, _)| millis.parse().ok());
    let timeout = timeout.filter(|&millis| millis > 0).map(Duration::from_millis);
    let exporter = Collector::new(timeout).map_err(|error| error.to_string());
    let exporter = exporter.and_then(|collector| {
        let reached = collector.reached();
        // Its text would have the address, and so what is secret of it.
        let exporter = build(collector).map_err(|_| format!("{endpoint} must be an http URL"))?;
        Ok((exporter, reached))
    });
    exporter.inspect_err(|error| tracing::error!("no {signal} will be exported: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};

    /// Hangs until the other end is dropped.
    #[derive(Debug)]
    struct Hangs(std::sync::Mutex<mpsc::Receiver<()>>);

    impl SpanExporter for Hangs {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let _ = self.0.lock().unwrap().recv();
            Ok(())
        }
    }

    #[test]
    fn a_collector_that_hangs_blocks_one_thread_and_not_all() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (end, hangs) = mpsc::channel();
        let exporter = Hangs(std::sync::Mutex::new(hangs));
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
        let signal = Signal::new(Provider::Traces(provider.clone()), Arc::default());
        runtime.block_on(async {
            for _ in 0..20 {
                drop(provider.tracer("test").start("span"));
                signal.flush().await;
            }
            let other = tokio::task::spawn_blocking(|| 7);
            let other = tokio::time::timeout(Duration::from_secs(4), other).await;
            assert_eq!(other.expect("all threads are blocked").unwrap(), 7);
        });
        drop(end);
    }

    #[test]
    fn the_ids_are_in_the_log_at_every_level_and_bodies_at_none() {
        for (directives, shown) in [
            ("warn", vec!["ids=error", "warn"]),
            ("off,ids=off", vec!["ids=error", "off"]),
            ("trace", vec!["lambda_runtime=debug", "hyper_util=debug", "ids=error", "trace"]),
        ] {
            let filter = filter(directives).unwrap().to_string();
            let found = Vec::from_iter(filter.split(','));
            assert!(shown.iter().all(|directive| found.contains(directive)), "{filter}");
        }
        assert!(filter("a=b=c").is_err());
        assert!(filter(DEFAULT_FILTER).is_ok());
    }
}
