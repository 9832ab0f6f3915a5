//! Cutting text to the sizes that an item of the journal may have.

/// Longest `ErrorMessage` in bytes of UTF-8.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 8 * 1024;

/// Longest `Result` in bytes of UTF-8.
pub const MAX_RESULT_BYTES: usize = 64 * 1024;

/// Longest text of an agent's own progress in bytes of UTF-8.
pub const MAX_PROGRESS_BYTES: usize = 1024;

/// Longest of the short attributes (`InvocationId`, `ErrorType`, `TraceId`) in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 512;

/// Whether a caller's text may become an `InvocationId` and an environment variable: 1 to 512 bytes
/// without control characters.
#[must_use]
pub fn is_invocation_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The longest beginning of `text` that has at most `max_bytes` and ends between two characters.
#[must_use]
pub fn truncate(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes)).unwrap_or(text)
}

/// Lets serde read and write a type as its text.
macro_rules! serde_as_text {
    ($type:ty, $error:ty) => {
        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
pub(crate) use serde_as_text;

/// A failure in one line: its type, and the first line of its message. An exception's line names its
/// class itself.
#[must_use]
pub fn headline(error_type: &str, message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let class = first.split([':', ' ']).next().unwrap_or_default();
    match class.rsplit('.').next() {
        Some(name) if name == error_type => first.to_owned(),
        _ => format!("{error_type}: {first}"),
    }
}

/// The longest end of `text` that has at most `max_bytes` and begins between two characters.
#[must_use]
pub fn tail(text: &str, max_bytes: usize) -> &str {
    let start = text.ceil_char_boundary(text.len().saturating_sub(max_bytes));
    text.get(start..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headline_names_the_type_once() {
        assert_eq!(headline("ValueError", "ValueError: boom\nmore"), "ValueError: boom");
        assert_eq!(headline("NoPlan", "app.NoPlan: boom"), "app.NoPlan: boom");
        assert_eq!(headline("Error", "Error [E1]: boom"), "Error [E1]: boom");
        assert_eq!(headline("Error", "Errors everywhere"), "Error: Errors everywhere");
        assert_eq!(headline("Stopped", ""), "Stopped: ");
    }

    #[test]
    fn cuts_on_character_boundaries() {
        assert_eq!(truncate("aéé", 4), "aé");
        assert_eq!(truncate("aéé", 5), "aéé");
        assert_eq!(tail("ééa", 4), "éa");
        assert_eq!(tail("ééa", 5), "ééa");
        assert_eq!(tail("é", 1), "");
    }
}
