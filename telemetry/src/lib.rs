//! Logs and traces of the two processes that AWS runs: the agent-runtime and the invoker.
//!
//! Spans go to OpenTelemetry's global provider and from there, as OTLP over HTTP, to the collector
//! that the standard variables name. Without an endpoint nothing is exported, and a caller's trace
//! context is passed on unchanged. No work waits for a collector: spans that it does not accept in
//! time are dropped, and one log line per hour says so.
//!
//! `docs/tracing.md` lists the variables.
//!
//! - [`run_service`]: the common part of both services' `main`.
//! - `logs`: the log; `log_writer`: writes it to stderr, without making anybody wait.
//! - `export`: sends spans; `otlp_client` and `aws`: its HTTP client, and the signature that AWS's
//!   endpoint requires.
//! - [`TraceParent`]: the trace context in a header, a payload or the environment.
//! - [`run_baggage`]: the run's id, for a body that the container refuses unread.

mod aws;
mod baggage;
mod export;
mod log_writer;
mod logs;
mod otlp_client;
mod service;
mod trace_parent;

pub use baggage::{run_baggage, split_baggage};
pub use export::{Telemetry, record_error};
pub use logs::{log_line, log_span};
pub use service::run_service;
pub use trace_parent::{InvalidTraceParent, TraceParent};
