//! How an append shows in a trace.

use std::borrow::Cow;

use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use crate::fault::{SdkFault, display_chain};
use crate::{AppendError, Event, SessionId, Timestamp};

/// A span of a session, to be started: beside its own attributes it has `session.id` and
/// `journal.invocation_id`.
pub fn session_span(
    name: impl Into<Cow<'static, str>>,
    attributes: impl IntoIterator<Item = KeyValue>,
    session_id: &SessionId,
    invocation_id: &str,
) -> SpanBuilder {
    let ids = [
        KeyValue::new("session.id", session_id.to_string()),
        KeyValue::new("journal.invocation_id", invocation_id.to_owned()),
    ];
    SpanBuilder::from_name(name).with_attributes(attributes.into_iter().chain(ids))
}

/// An append in its trace: a span of its own, as
/// <https://opentelemetry.io/docs/specs/semconv/db/dynamodb/> names it. An agent's own progress, of
/// which there may be much, is an event of the span around it instead.
pub(crate) struct AppendSpan {
    own: Option<BoxedSpan>,
    around: Context,
}

impl AppendSpan {
    pub fn start(table: &str, session_id: &SessionId, event: &Event, around: &Context) -> Self {
        let own = (!event.status.is_progress()).then(|| {
            let call = [
                KeyValue::new("db.system.name", "aws.dynamodb"),
                KeyValue::new("db.operation.name", "PutItem"),
                KeyValue::new("db.collection.name", table.to_owned()),
            ];
            session_span(
                format!("PutItem {}", event.status),
                call,
                session_id,
                &event.invocation_id,
            )
            .with_kind(SpanKind::Client)
            .start_with_context(&global::tracer("journal"), around)
        });
        Self { own, around: around.clone() }
    }

    pub fn collided(&mut self) {
        if let Some(span) = &mut self.own {
            span.add_event("collision", Vec::new());
        }
    }

    pub fn retried(&mut self, fault: &SdkFault) {
        if let Some(span) = &mut self.own {
            let message = KeyValue::new("exception.message", fault.to_string());
            span.add_event("retry", vec![message]);
        }
    }

    /// The event is durable, at `time`.
    pub fn written(self, event: &Event, time: Timestamp) {
        let key = KeyValue::new("journal.sort_key", event.sort_key.clone());
        if let Some(mut span) = self.own {
            span.set_attribute(key);
            return;
        }
        let text = event.message.as_ref().or(event.error_message.as_ref());
        let text = text.map(|text| KeyValue::new("message", text.clone()));
        let attributes = [key].into_iter().chain(text).collect();
        let name = event.status.as_str().to_owned();
        self.around.span().add_event_with_timestamp(name, time.into(), attributes);
    }

    pub fn failed(self, error: &AppendError) {
        if let Some(mut span) = self.own {
            span.set_attribute(KeyValue::new("journal.sort_key", error.event.sort_key.clone()));
            span.set_attribute(KeyValue::new("error.type", format!("{:?}", error.kind)));
            span.set_status(Status::error(display_chain(error)));
        }
    }
}
