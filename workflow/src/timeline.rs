//! A session's events as a person reads them.

use journal::{Event, Timestamp};

/// One event: offset from `start` in seconds, source, status, and on a failure its type and message.
#[must_use]
pub fn line(event: &Event, start: Timestamp) -> String {
    let offset = match event.timestamp.parse::<Timestamp>() {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a session fit easily")]
        Ok(time) => format!("{:9.3} s", (time.as_micros() - start.as_micros()) as f64 / 1e6),
        Err(_) => escape(&event.timestamp),
    };
    let mut line =
        format!("{offset}  {:<8}  {}", escape(&event.source), escape(event.status.as_str()));
    if let Some(message) = &event.error_message {
        let error_type = event.error_type.as_deref().unwrap_or("Error");
        line += &format!("  {}: {}", escape(error_type), escape(message));
    }
    line
}

/// Characters that turn the order of the text around them.
const BIDIRECTIONAL: [char; 11] = [
    '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}',
    '\u{2067}', '\u{2068}', '\u{2069}',
];

/// The text with its control characters escaped, so that it cannot drive a terminal.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || BIDIRECTIONAL.contains(&character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("a\x1b[31mred\nb\u{9b}é"), "a\\u{1b}[31mred\\nb\\u{9b}é");
    }
}
