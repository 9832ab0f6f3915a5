//! Spans on their way to the collector that OpenTelemetry's standard variables name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use journal::text::{MAX_ERROR_MESSAGE_BYTES, MAX_ID_BYTES, truncate};
use opentelemetry::trace::{SpanRef, Status};
use opentelemetry::{Key, KeyValue, global};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{ResourceDetector, SdkProvidedResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::Mutex;

use crate::otlp_client::OtlpClient;
use crate::{log_writer, logs};

/// How long a process waits for its collector before it ends or is frozen.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// How long a process that may be frozen waits until its log is written.
const LOG_FLUSH_DEADLINE: Duration = Duration::from_millis(100);

/// Events of one span. An agent's progress has up to 1,000; OpenTelemetry would keep 128.
const MAX_EVENTS: u32 = 2_000;

/// The process's telemetry.
pub struct Telemetry {
    /// `None` if nothing is exported.
    export: Option<Export>,
}

/// Spans on their way to a collector.
struct Export {
    provider: SdkTracerProvider,
    /// Whether the collector accepts spans in time.
    reached: Arc<AtomicBool>,
    /// Held by a flush: only one may block a thread.
    flushing: Arc<Mutex<()>>,
}

impl Telemetry {
    /// Starts logging to stderr, and exporting spans as the environment says. `service` is the
    /// service's name unless the environment has one. Call it outside of an asynchronous runtime.
    #[must_use]
    pub fn start(service: &'static str) -> Self {
        logs::start();
        let export = Export::start(service);
        if let Some(export) = &export {
            global::set_tracer_provider(export.provider.clone());
        }
        Self { export }
    }

    /// Writes the log, and sends the spans that have ended. Waits for the collector for one second,
    /// and for a tenth of that after it did not answer in time.
    pub async fn flush(&self) {
        let _ = tokio::task::spawn_blocking(|| log_writer::flush(LOG_FLUSH_DEADLINE)).await;
        if let Some(export) = &self.export {
            export.flush().await;
        }
    }

    /// Sends the spans that have ended, for a second at most. Nothing is exported afterwards.
    pub fn stop(self) {
        let Some(export) = self.export else { return };
        if export.provider.shutdown_with_timeout(FLUSH_DEADLINE).is_err() {
            tracing::warn!("the collector did not take the last spans within a second");
        }
    }
}

impl Export {
    /// Starts it if the environment asks for it.
    fn start(service: &'static str) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |name: &str| {
            ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"]
                .map(|prefix| format!("{prefix}{name}"))
                .into_iter()
                .find_map(|name| Some((variable(&name)?, name)))
        };
        let disabled = variable("OTEL_SDK_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER")
                .is_some_and(|names| names.split(',').all(|name| name.trim() != "otlp"));
        let (_, endpoint) = either("ENDPOINT").filter(|_| !disabled)?;
        for (name, known) in [("PROTOCOL", "http/protobuf"), ("COMPRESSION", "none")] {
            if let Some((value, name)) = either(name).filter(|(value, _)| value != known) {
                tracing::warn!("{name} is {value}: only {known} is supported, and used");
            }
        }
        let timeout = either("TIMEOUT").and_then(|(millis, _)| millis.parse().ok());
        let timeout = timeout.filter(|&millis| millis > 0).map(Duration::from_millis);
        let client = OtlpClient::new(timeout)
            .inspect_err(|error| tracing::error!("no spans will be exported: {error}"))
            .ok()?;
        let reached = Arc::clone(&client.reached);
        let Ok(exporter) = SpanExporter::builder().with_http().with_http_client(client).build()
        else {
            // The exporter's error has the address, which may hold a password.
            tracing::error!("no spans will be exported: {endpoint} must be an http URL");
            return None;
        };
        let mut builder = SdkTracerProvider::builder().with_resource(resource(service));
        if variable("OTEL_SPAN_EVENT_COUNT_LIMIT").is_none() {
            builder = builder.with_max_events_per_span(MAX_EVENTS);
        }
        let provider = builder.with_batch_exporter(exporter).build();
        Some(Self { provider, reached, flushing: Arc::default() })
    }

    async fn flush(&self) {
        let known = self.reached.load(Ordering::Relaxed);
        let limit = if known { FLUSH_DEADLINE } else { FLUSH_DEADLINE / 10 };
        let flush = async {
            let flushing = Arc::clone(&self.flushing).lock_owned().await;
            let provider = self.provider.clone();
            let flush = move || {
                // The collector's client has logged why it failed.
                let _ = provider.force_flush();
                drop(flushing);
            };
            let _ = tokio::task::spawn_blocking(flush).await;
        };
        if tokio::time::timeout(limit, flush).await.is_err() {
            self.reached.store(false, Ordering::Relaxed);
        }
    }
}

/// The description of this process in the environment; the name is `service` if there is none.
fn resource(service: &'static str) -> Resource {
    let detected = SdkProvidedResourceDetector.detect().get(&Key::new("service.name"));
    let named = detected.filter(|name| !name.as_str().starts_with("unknown_service"));
    Resource::builder().with_service_name(named.unwrap_or(service.into())).build()
}

/// Marks a span as failed, as [the standard says][recorded], with the first line of the message. The
/// journal has the whole message.
///
/// [recorded]: https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
pub fn record_error(span: &SpanRef<'_>, error_type: &str, message: &str) {
    let error_type = truncate(error_type, MAX_ID_BYTES).to_owned();
    span.set_attribute(KeyValue::new("error.type", error_type));
    let first = message.lines().next().unwrap_or_default();
    span.set_status(Status::error(truncate(first, MAX_ERROR_MESSAGE_BYTES).to_owned()));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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
        let (reached, flushing) = (Arc::default(), Arc::default());
        let export = Export { provider: provider.clone(), reached, flushing };
        runtime.block_on(async {
            for _ in 0..20 {
                drop(provider.tracer("test").start("span"));
                export.flush().await;
            }
            let other = tokio::task::spawn_blocking(|| 7);
            let other = tokio::time::timeout(Duration::from_secs(4), other).await;
            assert_eq!(other.expect("all threads are blocked").unwrap(), 7);
        });
        drop(end);
    }
}
