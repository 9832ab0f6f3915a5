use std::str::FromStr;

use opentelemetry::trace::{SpanId, TraceId};
use thiserror::Error;

/// A W3C `traceparent` (`00-{trace id}-{span id}-{flags}`): the trace of which something is a part,
/// and the span that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    text: String,
    trace_id: TraceId,
}

/// The text is no `traceparent`. As that standard says, ignore it.
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

    /// As it stands in a header or in `TRACEPARENT`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trace's id: 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace_id.to_string()
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let hex =
            |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let parts = Vec::from_iter(text.split('-'));
        let [version, trace, span, flags] = parts.as_slice() else {
            return Err(InvalidTraceParent);
        };
        let lengths = [version.len(), trace.len(), span.len(), flags.len()];
        if lengths != [2, 32, 16, 2] || *version == "ff" || !parts.iter().all(|part| hex(part)) {
            return Err(InvalidTraceParent);
        }
        let (trace_id, span_id) = (TraceId::from_hex(trace), SpanId::from_hex(span));
        match (trace_id, span_id) {
            (Ok(trace_id), Ok(span_id))
                if trace_id != TraceId::INVALID && span_id != SpanId::INVALID =>
            {
                Ok(Self { text: text.to_owned(), trace_id })
            }
            _ => Err(InvalidTraceParent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_a_traceparent_and_refuses_every_other_text() {
        let read: TraceParent = TRACEPARENT.parse().unwrap();
        assert_eq!(read.as_str(), TRACEPARENT);
        assert_eq!(read.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
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
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text}");
        }
    }

    #[test]
    fn an_x_ray_header_converts() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        let read = TraceParent::from_xray(header).unwrap();
        assert_eq!(read.as_str(), "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01");
        let unsampled = TraceParent::from_xray(&header.replace("Sampled=1", "Sampled=0")).unwrap();
        assert!(unsampled.as_str().ends_with("-00"));
        for header in ["", "Root=1-5759e988-bd862e3fe1be46a994272793", "Parent=53995c3f42cd8ad8"] {
            assert!(TraceParent::from_xray(header).is_err(), "{header}");
        }
    }
}
