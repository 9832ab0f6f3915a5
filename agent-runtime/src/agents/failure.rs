//! Turns the last lines of a program that failed into an error.

use journal::text::{MAX_ERROR_MESSAGE_BYTES, truncate};

use super::log::LastWords;
use super::traceback::{error_type, node_error, python_exception};
use crate::AgentError;

/// Longest first line of a message in bytes. The whole line follows it.
const MAX_FIRST_LINE_BYTES: usize = 1024;

/// Why a program failed. The first line of the message is the cause: the last exception of a Python
/// traceback (the first one in an exception group), or otherwise the program's last line. `how` it
/// ended and the lines themselves follow, as many as fit.
pub(super) fn failure(words: &LastWords, how: &str) -> AgentError {
    if let Some(error) = exception(words, how) {
        return error;
    }
    let lines = Vec::from_iter(words.lines.iter().map(String::as_str));
    let last = lines.iter().rposition(|line| !is_noise(line));
    let Some((last, words)) = last.and_then(|last| Some((last, lines.get(last)?))) else {
        return format!("the agent failed without a word ({how})").into();
    };
    let (words, before) = (first_line(words), lines.get(..last).unwrap_or_default());
    // Python prints no traceback for a program that does not compile.
    let is_indented = |line: &&str| line.starts_with(' ');
    let is_pythons = before.last().is_some_and(is_indented) && words.contains("Error");
    let named = is_pythons || words.starts_with("botocore.");
    let error_type = if named { error_type(words) } else { AgentError::GENERIC };
    let words = format!("{words} ({how})");
    let before = last_that_fit(before, &words);
    let before = if before.is_empty() { before } else { format!("\n{before}") };
    AgentError::new(error_type, format!("{words}{before}"))
}

/// The same, if an exception can be found in the lines.
pub(super) fn exception(words: &LastWords, how: &str) -> Option<AgentError> {
    let lines = Vec::from_iter(words.lines.iter().map(String::as_str));
    let exception = python_exception(&lines, words.old).or_else(|| node_error(&lines))?;
    // A framework may catch an exception and raise its own with the same message.
    let said = |line: &str| line.split_once(": ").map(|(_, said)| said.to_owned());
    let is_origin = |line: &&&str| line.starts_with("botocore.") && said(line) == said(exception);
    let error_type = error_type(lines.iter().find(is_origin).copied().unwrap_or(exception));
    let (words, how) = (first_line(exception), format!("\n({how})"));
    let lines = last_that_fit(&lines, &format!("{words}{how}"));
    Some(AgentError::new(error_type, format!("{words}\n{lines}{how}")))
}

/// Lines that Node.js prints besides the error.
fn is_noise(line: &str) -> bool {
    let noise = ["Node.js v", "    at ", "(Use `node ", "}"];
    line.trim().is_empty() || noise.iter().any(|begin| line.starts_with(begin))
}

/// A failure in our own words, followed by the lines.
pub(super) fn quoted(words: &str, said: &LastWords) -> AgentError {
    let lines = Vec::from_iter(said.lines.iter().map(String::as_str));
    let lines = last_that_fit(&lines, words);
    format!("{words}\n{lines}").trim_end().into()
}

fn first_line(line: &str) -> &str {
    truncate(line.trim(), MAX_FIRST_LINE_BYTES)
}

/// The last whole lines that fit into a message with this text.
fn last_that_fit(lines: &[&str], beside: &str) -> String {
    let mut room = MAX_ERROR_MESSAGE_BYTES.saturating_sub(beside.len() + 1);
    let fits = |line: &&&str| {
        let left = room.checked_sub(line.len() + 1);
        room = left.unwrap_or_default();
        left.is_some()
    };
    let count = lines.iter().rev().take_while(fits).count();
    lines.get(lines.len() - count..).unwrap_or_default().join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::traceback::TRACEBACK;
    use super::*;

    /// What real programs wrote to stderr.
    macro_rules! words {
        ($name:literal) => {
            include_str!(concat!("words/", $name, ".txt"))
        };
    }

    fn words(text: &str) -> LastWords {
        LastWords { lines: text.lines().map(str::to_owned).collect(), old: 0 }
    }

    fn of(text: &str) -> AgentError {
        failure(&words(text), "exit status: 1")
    }

    #[test]
    fn the_cause_is_found_in_what_real_programs_write() {
        for (words, error_type, first) in [
            (
                words!("strands"),
                "ClientError",
                "botocore.errorfactory.AccessDeniedException: An error occurred (AccessDeniedException) when calling the ConverseStream operation: User is not authorized to perform: bedrock:InvokeModelWithResponseStream",
            ),
            (
                words!("strands_rethrown"),
                "ClientError",
                "strands.types.exceptions.EventLoopException: An error occurred (AccessDeniedException) when calling the ConverseStream operation: no access to model",
            ),
            (words!("chained"), "NotReady", "NotReady: the table"),
            (words!("group"), "ValueError", "ValueError: one"),
            (words!("nested"), "TypeError", "TypeError: first leaf"),
            (words!("thread"), "AgentError", "there is no prompt (exit status: 1)"),
            (words!("asides"), "ValueError", "ValueError: the cause"),
            (words!("loguru"), "ValueError", "ValueError: no luck"),
            (words!("syntax"), "SyntaxError", "SyntaxError: invalid syntax (exit status: 1)"),
            (
                words!("node_import"),
                "Error",
                "Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'not-there' imported from /bad.mjs",
            ),
            (words!("node_throw"), "QuotaError", "QuotaError: no tokens left"),
            (
                words!("node_sdk"),
                "AccessDeniedException",
                "AccessDeniedException: not authorized to perform: bedrock:InvokeModel",
            ),
            (words!("node_text"), "AgentError", "no luck"),
        ] {
            let error = of(words);
            assert_eq!(error.error_type, error_type, "{words}");
            assert_eq!(error.message.lines().next(), Some(first), "{words}");
            let written = Vec::from_iter(words.lines());
            for line in error.message.lines().skip(1) {
                assert!(written.contains(&line) || line == "(exit status: 1)", "whole: {line}");
            }
        }
        let strands = of(words!("strands")).message;
        assert!(strands.contains("\n└ Bedrock region: us-east-1\n"), "{strands}");
        assert!(strands.ends_with("\n(exit status: 1)"), "{strands}");
        assert!(of(words!("group")).message.contains("    | KeyError: 'two'\n    | a note\n"));
    }

    #[test]
    fn what_a_program_survived_is_not_why_it_ended() {
        let text = words!("survived");
        let mut said = words(text);
        said.old = said.lines.len() - 1;
        let error = failure(&said, "exit status: 1");
        assert_eq!(error.message.lines().next(), Some("there is no prompt (exit status: 1)"));
        assert_eq!(error.error_type, "AgentError");
        // All at once: the exception is why.
        assert_eq!(of(text).error_type, "ZeroDivisionError");
    }

    #[test]
    fn errors_of_aws_calls_have_our_own_types() {
        for (class, expected) in [
            (
                "botocore.exceptions.NoCredentialsError: Unable to locate credentials",
                "CredentialsError",
            ),
            ("botocore.exceptions.SSOTokenLoadError: Error loading SSO Token", "CredentialsError"),
            (
                "botocore.exceptions.ClientError: An error occurred (ExpiredTokenException) when calling",
                "CredentialsError",
            ),
            ("botocore.exceptions.ClientError: An error occurred (Throttling)", "ClientError"),
            (
                "botocore.exceptions.EndpointConnectionError: Could not connect",
                "EndpointConnectionError",
            ),
            ("pydantic_core._pydantic_core.ValidationError: 1 validation error", "ValidationError"),
            ("app.f.<locals>.MyError", "MyError"),
            ("KeyboardInterrupt", "KeyboardInterrupt"),
        ] {
            let text = format!("{TRACEBACK}\n  File \"a.py\", line 1\n{class}");
            assert_eq!(of(&text).error_type, expected, "{class}");
        }
    }

    #[test]
    fn a_long_message_is_cut_at_whole_lines_and_begins_with_the_cause() {
        let frames = "  File \"deep.py\", line 7, in f\n".repeat(2_000);
        let error = of(&format!("{TRACEBACK}\n{frames}RecursionError: {}", "x".repeat(3_000)));
        assert!(error.message.starts_with("RecursionError: xxx"));
        assert!(error.message.len() <= MAX_ERROR_MESSAGE_BYTES);
        assert!(error.message.len() > MAX_ERROR_MESSAGE_BYTES - 100);
        let lines = Vec::from_iter(error.message.lines());
        assert_eq!(lines[0].len(), MAX_FIRST_LINE_BYTES);
        assert_eq!(lines[1], "  File \"deep.py\", line 7, in f");
        assert_eq!(lines[lines.len() - 2].len(), 3_016, "the whole line once more");
        // A line alone that does not fit.
        let error = of(&"x".repeat(20_000));
        assert_eq!(error.message.len(), MAX_FIRST_LINE_BYTES + " (exit status: 1)".len());
    }

    #[test]
    fn other_programs_are_quoted_by_their_last_words() {
        assert_eq!(of("").message, "the agent failed without a word (exit status: 1)");
        assert_eq!(of("\n \n").message, "the agent failed without a word (exit status: 1)");
        let error = of("reading\ncannot read it\n\n");
        assert_eq!(error.message, "cannot read it (exit status: 1)\nreading");
        assert_eq!(error.error_type, "AgentError");
        // A traceback that broke off.
        assert_eq!(of(&format!("{TRACEBACK}\n  File")).message.lines().count(), 2);
    }
}
