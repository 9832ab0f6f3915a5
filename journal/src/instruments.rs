//! What tells of the appends, through OpenTelemetry's global providers.

use std::time::Duration;

use opentelemetry::global::{self, BoxedSpan, BoxedTracer};
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::trace::{SpanKind, Tracer};
use opentelemetry::{Context, KeyValue};

use crate::{Event, SessionId};

/// Upper bounds of the histogram's buckets, in seconds: from a put that is answered at once to a
/// terminal event that outlasts an outage.
const BUCKETS: [f64; 13] =
    [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 60.0, 900.0];

/// The attributes that every span of a session has: `session.id` and `journal.invocation_id`.
#[must_use]
pub fn span_attributes(session_id: &SessionId, invocation_id: &str) -> [KeyValue; 2] {
    [
        KeyValue::new("session.id", session_id.to_string()),
        KeyValue::new("journal.invocation_id", invocation_id.to_owned()),
    ]
}

pub(crate) struct Instruments {
    tracer: BoxedTracer,
    duration: Histogram<f64>,
    retries: Counter<u64>,
}

impl Instruments {
    pub fn new() -> Self {
        let meter = global::meter("journal");
        Self {
            tracer: global::tracer("journal"),
            duration: meter
                .f64_histogram("journal.append.duration")
                .with_unit("s")
                .with_description("Time until an event was durable or given up")
                .with_boundaries(BUCKETS.to_vec())
                .build(),
            retries: meter
                .u64_counter("journal.append.retries")
                .with_unit("{retry}")
                .with_description("Attempts to write an event after its first")
                .build(),
        }
    }

    /// An append as a call of DynamoDB: <https://opentelemetry.io/docs/specs/semconv/db/dynamodb/>.
    pub fn span(
        &self,
        table: &str,
        session_id: &SessionId,
        event: &Event,
        of: &Context,
    ) -> BoxedSpan {
        let ids = span_attributes(session_id, &event.invocation_id);
        let call = [
            KeyValue::new("db.system.name", "aws.dynamodb"),
            KeyValue::new("db.operation.name", "PutItem"),
            KeyValue::new("db.collection.name", table.to_owned()),
        ];
        self.tracer
            .span_builder(format!("PutItem {}", event.status))
            .with_kind(SpanKind::Client)
            .with_attributes(call.into_iter().chain(ids))
            .start_with_context(&self.tracer, of)
    }

    pub fn retried(&self) {
        self.retries.add(1, &[]);
    }

    pub fn appended(&self, event: &Event, durable: bool, took: Duration) {
        // Few values: an agent chooses the names of its phases.
        let status = if event.status.is_progress() { "TASK" } else { event.status.as_str() };
        let attributes = [
            KeyValue::new("journal.status", status.to_owned()),
            KeyValue::new("journal.outcome", if durable { "durable" } else { "lost" }),
        ];
        self.duration.record(took.as_secs_f64(), &attributes);
    }
}
