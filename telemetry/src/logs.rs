//! The log on stderr: readable in a terminal, JSON elsewhere.

use std::io::IsTerminal;

use journal::SessionId;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::level_filters::LevelFilter;
use tracing::{Span, field};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::log_writer::{self, LogWriter};

/// Target of the spans that give lines their ids.
const IDS: &str = "ids";

/// A span for the log: every line within it carries these ids. At every level, because a warning
/// needs them most.
pub fn log_span(session_id: &SessionId, invocation_id: &str, trace: &Context) -> Span {
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

/// Writes a line of text to stderr unchanged. Does not wait for its reader.
pub fn log_line(text: &str) {
    log_writer::write(format!("{text}\n").into_bytes());
}

/// What is logged unless `RUST_LOG` says something else. The HTTP client would log each failed
/// export again, and lambda_runtime each failed invocation without its ids.
const DEFAULT_FILTER: &str =
    "info,actix_server=warn,aws_smithy_http_client=error,lambda_runtime::layers::panic=off";

/// The filter of the log. Two things hold with any setting: lines have their ids, and at the level
/// `trace` these libraries stay at `debug`, because they would log bodies and addresses with
/// passwords.
fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let mut filter = EnvFilter::try_new(directives)?.add_directive(format!("{IDS}=error").parse()?);
    if filter.max_level_hint() == Some(LevelFilter::TRACE) {
        for library in ["aws_smithy_runtime", "h2", "hyper", "hyper_util", "lambda_runtime"] {
            filter = filter.add_directive(format!("{library}=debug").parse()?);
        }
    }
    Ok(filter)
}

/// Starts logging as `RUST_LOG` says.
pub(crate) fn start() {
    let given = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let read = filter(given.as_deref().unwrap_or(DEFAULT_FILTER));
    let invalid = read.as_ref().err().map(ToString::to_string);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(read.or_else(|_| filter(DEFAULT_FILTER)).unwrap_or_default())
        .with_writer(LogWriter)
        // The library would report a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    // A panic is one log line, with the ids of the task in which it happened.
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

#[cfg(test)]
mod tests {
    use super::*;

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
