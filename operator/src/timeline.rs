//! A session's events for a person. The lines have colours: print them with `anstream`, which
//! removes them where they do not belong.

use anstyle::{AnsiColor, Style};
use journal::text::{headline, truncate};
use journal::{Event, Status, Timestamp};
use serde::Serialize;

use crate::history::Entry;

/// A result that is longer is shortened.
const MAX_SHOWN_BYTES: usize = 2_000;

const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();

/// One event: offset from the start of its run, time of day (UTC), source, status, duration of the
/// step that it ends, and its text; on a failure type and message.
#[must_use]
pub fn line(entry: &Entry) -> String {
    let event = entry.event;
    let offset = entry.offset.map(|it| format!("{:.3} s", seconds(it))).unwrap_or_default();
    let time = time_of_day(event);
    let (source, status) = (escape(&event.source), escape(event.status.as_str()));
    let style = match &event.status {
        status if status.is_failure() => RED,
        Status::AgentBackgroundTaskCompleted => GREEN,
        _ => Style::new(),
    };
    let took = entry.duration.map(|micros| format!("  {DIM}after {}{DIM:#}", duration(micros)));
    let (took, text) = (took.unwrap_or_default(), text(event).map(|text| format!("  {text}")));
    let text = text.unwrap_or_default();
    format!("{offset:>11}  {DIM}{time}{DIM:#}  {source:<8}  {style}{status}{style:#}{took}{text}")
}

/// What the event says: on a failure its type and the first line of its message.
pub(crate) fn text(event: &Event) -> Option<String> {
    failure(event).or_else(|| event.message.as_deref().map(escape))
}

/// The result, if the event has one, as it fits a terminal.
pub(crate) fn result(event: &Event) -> Option<String> {
    let whole = event.result.as_deref()?;
    let shown = truncate(whole, MAX_SHOWN_BYTES);
    let lines = Vec::from_iter(shown.lines().map(escape));
    let rest = whole.len() - shown.len();
    let rest = if rest > 0 { format!("… and {rest} bytes more (--json)") } else { String::new() };
    let cut = if event.result_truncated { " (the journal keeps 64 KB)" } else { "" };
    Some(format!("{}{rest}{cut}", lines.join("\n           ")))
}

/// On a failure: its type and the first line of its message.
#[must_use]
pub fn failure(event: &Event) -> Option<String> {
    let message = event.error_message.as_deref()?;
    Some(escape(&headline(event.error_type.as_deref().unwrap_or("Error"), message)))
}

/// The time of day of an event.
pub(crate) fn time_of_day(event: &Event) -> String {
    escape(event.timestamp.get(11..23).unwrap_or(&event.timestamp))
}

/// Day and time of a timestamp, without fractions of a second.
pub(crate) fn day_and_time(timestamp: &str) -> String {
    timestamp.get(..19).unwrap_or_default().replace('T', " ")
}

/// How long ago an event was.
pub(crate) fn ago(event: &Event, now: Timestamp) -> String {
    event.timestamp.parse().map_or_else(|_| "an unknown time".to_owned(), |time| age(time, now))
}

/// How long a time is ago.
#[must_use]
pub fn age(time: Timestamp, now: Timestamp) -> String {
    duration((now.as_micros() - time.as_micros()).max(0))
}

/// Microseconds as text, in a unit that fits.
pub(crate) fn duration(micros: i64) -> String {
    let whole = micros / 1_000_000;
    match whole {
        ..60 => format!("{:.3} s", seconds(micros)),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600.. => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// Control characters, and those that change the direction of text or break its lines.
fn drives_a_terminal(character: char) -> bool {
    let turns = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2066}'..='\u{2069}');
    turns || character.is_control() || ('\u{2028}'..='\u{202e}').contains(&character)
}

/// The text with each character that could drive a terminal `escaped`.
fn safe(text: &str, escaped: impl Fn(char) -> String) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if drives_a_terminal(character) {
            safe += &escaped(character);
        } else {
            safe.push(character);
        }
    }
    safe
}

/// The text with its control characters escaped, so that it cannot drive a terminal.
#[must_use]
pub fn escape(text: &str) -> String {
    safe(text, |character| character.escape_default().to_string())
}

/// A value as one line of JSON, with every control character escaped as JSON does it.
///
/// # Errors
/// If JSON cannot hold it. It can hold an event.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    // All of these characters are in the first plane, and none is outside a string.
    Ok(safe(&serde_json::to_string(value)?, |character| format!("\\u{:04x}", u32::from(character))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("a\x1b[31mred\nb\u{9b}é"), "a\\u{1b}[31mred\\nb\\u{9b}é");
    }

    #[test]
    fn durations_are_in_the_unit_that_a_person_would_choose() {
        for (micros, text) in [
            (0, "0.000 s"),
            (59_999_000, "59.999 s"),
            (60_000_000, "1 min 0 s"),
            (3_599_999_999, "59 min 59 s"),
            (7_260_000_000, "2 h 1 min"),
        ] {
            assert_eq!(duration(micros), text);
        }
    }
}
