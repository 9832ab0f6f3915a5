//! A trace as a tree of its spans.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use journal::text::headline;
use operator::timeline;
use serde::{Deserialize, Serialize};

/// Most levels to indent. Deeper spans are indented like the last level.
const MAX_DEPTH: usize = 40;

/// A finished span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// 16 hex digits.
    pub id: String,
    /// The id of the span that caused it; empty if there is none.
    pub parent: String,
    /// Whether that span is of the same process.
    pub parent_is_local: bool,
    /// `service.name` of its process.
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
    /// Its events: nanoseconds since 1970, name, and text.
    pub events: Vec<(u64, String, String)>,
}

/// A trace for people: the session, and a line for each span with its offset from the first span's
/// start, its duration, process and name, and the message of an error. A span is indented below the
/// span that caused it. The events of a span, such as an agent's progress, follow it. If the cause of a
/// span is missing and is of the same process, a line in its place says so.
#[must_use]
pub fn tree(trace_id: &str, spans: &[Span]) -> String {
    let session = spans.iter().find_map(|span| span.attributes.get("session.id"));
    let session = session.map_or_else(String::new, |id| format!(" of session {id}"));
    let mut lines =
        timeline::escape(&format!("Trace {trace_id}{session}: start, duration, process, span"));
    lines.push('\n');
    let start = spans.iter().map(|span| span.start).min().unwrap_or_default();
    let known: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let mut children: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in spans {
        children.entry(span.parent.as_str()).or_default().push(span);
    }
    let mut shown = BTreeSet::new();
    // Spans without a known cause come first, then those that cause each other in a circle.
    let roots = spans.iter().filter(|span| !known.contains(span.parent.as_str()));
    for root in roots.chain(spans) {
        if shown.contains(root.id.as_str()) {
            continue;
        }
        let mut depth = 0;
        let mut open = vec![(root, depth)];
        if root.parent_is_local && !known.contains(root.parent.as_str()) {
            let nobody = "(not ended: it still runs, or its process was killed)";
            lines += &line(start, root.start, None, &root.service, depth, nobody);
            depth += 1;
            let siblings = children.get(root.parent.as_str()).into_iter().flatten();
            open = siblings.rev().map(|span| (*span, depth)).collect();
        }
        while let Some((span, depth)) = open.pop() {
            if shown.insert(span.id.as_str()) {
                lines += &branch(start, span, depth);
                let next = children.get(span.id.as_str()).into_iter().flatten();
                open.extend(next.rev().map(|span| (*span, depth + 1)));
            }
        }
    }
    lines
}

/// A span and its events.
fn branch(start: u64, span: &Span, depth: usize) -> String {
    let error = span.error.as_deref().map(|message| {
        let error_type = span.attributes.get("error.type").map_or("ERROR", String::as_str);
        format!("  {}", headline(error_type, message))
    });
    let what = format!("{}{}", span.name, error.unwrap_or_default());
    let took = span.end.saturating_sub(span.start);
    let mut lines = line(start, span.start, Some(took), &span.service, depth, &what);
    let mut events = Vec::from_iter(&span.events);
    events.sort_by_key(|(time, ..)| time);
    for (time, event, text) in events {
        let event = format!("  · {event}  {text}");
        lines += &line(start, *time, None, &span.service, depth, event.trim_end());
    }
    lines
}

fn line(
    start: u64,
    time: u64,
    took: Option<u64>,
    service: &str,
    depth: usize,
    what: &str,
) -> String {
    let seconds = |nanos: u64| std::time::Duration::from_nanos(nanos).as_secs_f64();
    let offset = seconds(time.saturating_sub(start));
    let took = took.map(|took| format!("{:.3} s", seconds(took))).unwrap_or_default();
    let (service, what) = (timeline::escape(service), timeline::escape(what));
    let indent = 2 * depth.min(MAX_DEPTH);
    format!("{offset:>9.3} s  {took:>11}  {service:<13}  {:indent$}{what}\n", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u64, parent: u64, parent_is_local: bool) -> Span {
        Span {
            id: format!("{id:016x}"),
            parent: if parent == 0 { String::new() } else { format!("{parent:016x}") },
            parent_is_local: parent_is_local && parent != 0,
            service: "agent-runtime".to_owned(),
            name: format!("span {id}"),
            start: 1_000_000 * id,
            end: 1_000_000 * (id + 1),
            error: None,
            attributes: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// The names of a tree's lines with their indentation.
    fn names(spans: &[Span]) -> Vec<String> {
        let tree = tree("1", spans);
        tree.lines()
            .skip(1)
            .map(|line| line["    0.001 s      0.001 s  agent-runtime  ".len()..].to_owned())
            .collect()
    }

    #[test]
    fn a_span_that_has_not_ended_stands_where_its_parts_are() {
        let spans = [span(1, 9, false), span(2, 1, true), span(3, 8, true), span(4, 8, true)];
        let not_ended = "(not ended: it still runs, or its process was killed)";
        let expected = ["span 1", "  span 2", not_ended, "  span 3", "  span 4"];
        assert_eq!(names(&spans), expected);
    }

    #[test]
    fn whatever_is_sent_is_shown_once() {
        let circle = [span(1, 2, true), span(2, 1, true), span(3, 3, true), span(4, 0, false)];
        assert_eq!(names(&circle), ["span 4", "span 1", "  span 2", "span 3"]);
        let chain = Vec::from_iter((1..=10_000).map(|id| span(id, id - 1, true)));
        assert_eq!(names(&chain).len(), chain.len());
    }
}
