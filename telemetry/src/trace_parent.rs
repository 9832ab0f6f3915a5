use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use thiserror::Error;

/// A W3C `traceparent` (`00-{trace id}-{span id}-{flags}`): a trace, and the span in
/// it that caused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(SpanContext);

/// The text is not a `traceparent`. Ignore it, as that standard says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid traceparent: it must be 00-{{32 hex digits}}-{{16 hex digits}}-{{2 hex digits}}")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// Reads the X-Ray header that Lambda gives a function:
    /// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`.
    ///
    /// # Errors
    /// If it has no root or no parent.
    pub fn from_xray(header: &str) -> Result<Self, InvalidTraceParent> {
        let field = |name: &str| {
            header.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let (root, parent) = (field("Root"), field("Parent"));
        let root = root.and_then(|root| root.strip_prefix("1-")).ok_or(InvalidTraceParent)?;
        let parent = parent.ok_or(InvalidTraceParent)?;
        let sampled = u8::from(field("Sampled") == Some("1"));
        format!("00-{}-{parent}-{sampled:02x}", root.replacen('-', "", 1)).parse()
    }

    /// What a callee has to be given for its spans to become children of the context's span; `None`
    /// where no trace is active.
    #[must_use]
    pub fn of(context: &Context) -> Option<Self> {
        let span = context.span().span_context().clone();
        span.is_valid().then_some(Self(span))
    }

    /// Reads the two headers of W3C: a `traceparent`, and a `tracestate` with what vendors added to the
    /// trace. A `tracestate` that is not valid is ignored, as that standard says.
    ///
    /// # Errors
    /// If the first is no `traceparent`.
    pub fn read(traceparent: &str, tracestate: &str) -> Result<Self, InvalidTraceParent> {
        let is_hex = traceparent.bytes().all(|byte| b"0123456789abcdef-".contains(&byte));
        let parts = Vec::from_iter(traceparent.split('-'));
        let [version, trace, span, flags] = parts.as_slice() else {
            return Err(InvalidTraceParent);
        };
        let lengths = [version, trace, span, flags].map(|part| part.len());
        if !is_hex || *version == "ff" || lengths != [2, 32, 16, 2] {
            return Err(InvalidTraceParent);
        }
        let span = SpanContext::new(
            TraceId::from_hex(trace).unwrap_or(TraceId::INVALID),
            SpanId::from_hex(span).unwrap_or(SpanId::INVALID),
            TraceFlags::new(u8::from_str_radix(flags, 16).unwrap_or_default()),
            true,
            TraceState::from_str(tracestate).unwrap_or_default(),
        );
        span.is_valid().then_some(Self(span)).ok_or(InvalidTraceParent)
    }

    /// The context in which what it caused happens.
    #[must_use]
    pub fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.0.clone())
    }

    /// Whether both are of one trace.
    #[must_use]
    pub fn same_trace(&self, other: &Self) -> bool {
        self.0.trace_id() == other.0.trace_id()
    }

    /// The `tracestate` that belongs to it; empty if there is none.
    #[must_use]
    pub fn state(&self) -> String {
        self.0.trace_state().header()
    }
}

/// The text for a header or for `TRACEPARENT`.
impl Display for TraceParent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) = (self.0.trace_id(), self.0.span_id());
        write!(f, "00-{trace_id}-{span_id}-{:02x}", self.0.trace_flags().to_u8())
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        Self::read(text, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_a_traceparent_and_refuses_every_other_text() {
        let read: TraceParent = TRACEPARENT.parse().unwrap();
        assert_eq!(read.to_string(), TRACEPARENT);
        assert_eq!(TraceParent::of(&read.context()), Some(read));
        assert_eq!(TraceParent::of(&Context::new()), None);
        let random = TRACEPARENT.replace("-01", "-03");
        assert_eq!(
            random.parse::<TraceParent>().unwrap().to_string(),
            random,
            "every flag is kept"
        );
        for text in [
            "",
            "00-1-2-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\0",
            "0\0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
            "x-00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text}");
        }
    }

    #[test]
    fn an_x_ray_header_converts() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        let read = TraceParent::from_xray(header).unwrap();
        assert_eq!(read.to_string(), "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01");
        for unsampled in ["Sampled=0", "Sampled=?", "Lineage=1:0:0"] {
            let read = TraceParent::from_xray(&header.replace("Sampled=1", unsampled)).unwrap();
            assert!(read.to_string().ends_with("-00"), "{unsampled}");
        }
        for header in ["", "Root=1-5759e988-bd862e3fe1be46a994272793", "Parent=53995c3f42cd8ad8"] {
            assert!(TraceParent::from_xray(header).is_err(), "{header}");
        }
    }
}
