//! What an agent's process writes: its progress and its result.

use std::sync::{Mutex, PoisonError};

use journal::Step;
use journal::text::{tail, truncate};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::{AgentError, TaskContext};

/// How much of a result is kept; the journal's limit is smaller.
const MAX_RESULT_BYTES: usize = 1024 * 1024;

/// How much of one line is logged; a longer one is logged in pieces.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// How much of an invalid line of progress is logged.
const MAX_QUOTED_BYTES: usize = 200;

/// Reads to the end, and passes on each line, a long one in pieces.
pub(super) async fn read_lines(
    stream: Option<impl AsyncRead + Unpin>,
    mut each: impl FnMut(&[u8]),
) {
    let Some(stream) = stream else { return };
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while (&mut stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0)
    {
        each(&line);
        line.clear();
    }
}

/// The beginning of a text, and how long the whole is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Head {
    pub kept: Vec<u8>,
    pub bytes: usize,
}

impl Head {
    pub fn push(&mut self, bytes: &[u8]) {
        let room = MAX_RESULT_BYTES.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.bytes += bytes.len();
    }
}

/// What a command wrote to file descriptor 3, besides its progress.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    /// `result JSON`.
    pub result: Option<Head>,
    /// `error TYPE`.
    pub error_type: Option<String>,
}

/// Passes an agent's progress on until the end, and keeps its result and error type in `said`, if that is
/// given. Counts invalid lines, and logs the first.
pub(super) async fn read_progress(
    lines: impl AsyncRead + Unpin,
    said: Option<&Mutex<Said>>,
    mut progress: impl FnMut(&str) -> Result<(), String>,
) {
    let mut lines = BufReader::new(lines);
    let mut invalid = 0_u64;
    while let Some(line) = next_line(&mut lines).await {
        let mut said = said.map(|said| said.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8_lossy(&line.kept);
        if let Some(said) = &mut said
            && let Some(result) = line.kept.strip_prefix(b"result ")
        {
            let bytes = line.bytes - (line.kept.len() - result.len());
            said.result = Some(Head { kept: result.to_owned(), bytes });
        } else if let Some(said) = &mut said
            && let Some(error_type) = text.trim().strip_prefix("error ")
        {
            said.error_type = Some(error_type.trim().to_owned());
        } else if let Err(rule) = progress(text.trim()) {
            if invalid == 0 {
                let said = truncate(text.trim(), MAX_QUOTED_BYTES);
                tracing::warn!("invalid line of progress: {rule}: {said:?}");
            }
            invalid += 1;
        }
    }
    if invalid > 1 {
        tracing::warn!("{invalid} invalid lines of progress");
    }
}

/// A line without its line break, however long; `None` after the last one.
async fn next_line(lines: &mut (impl AsyncBufRead + Unpin)) -> Option<Head> {
    let mut line = Head::default();
    let mut any = false;
    loop {
        let read = lines.fill_buf().await.ok().filter(|read| !read.is_empty());
        let Some(read) = read else { return any.then_some(line) };
        any = true;
        let end = read.iter().position(|byte| *byte == b'\n');
        line.push(read.get(..end.unwrap_or(read.len())).unwrap_or_default());
        let consumed = end.map_or(read.len(), |end| end + 1);
        lines.consume(consumed);
        if end.is_some() {
            return Some(line);
        }
    }
}

/// `started PHASE`, `completed PHASE` or `failed PHASE`, followed by a text if there is one.
pub(super) fn progress(line: &str, context: &TaskContext) -> Result<(), String> {
    let mut words = line.splitn(3, char::is_whitespace);
    let step = words.next().and_then(Step::from_word);
    let step = step.ok_or("invalid step: it must be started, completed or failed")?;
    let (phase, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    context.progress.add(phase, step, text).map_err(|error| error.to_string())
}

/// The result that a command gave as such.
///
/// # Errors
/// If it is not JSON.
pub(super) fn given_result(
    result: Head,
    context: &TaskContext,
) -> Result<Box<RawValue>, AgentError> {
    let Some(text) = whole(result, context) else { return Ok(Box::default()) };
    serde_json::from_str(&text).map_err(|error| {
        let said = truncate(&text, MAX_QUOTED_BYTES);
        format!("the result on file descriptor 3 is not JSON: {error}: {said}").into()
    })
}

/// What a command printed or a server answered, as a result: JSON if it parses, else text.
pub(super) fn printed_result(
    printed: Head,
    context: &TaskContext,
) -> Result<Box<RawValue>, AgentError> {
    let Some(text) = whole(printed, context) else { return Ok(Box::default()) };
    let json = serde_json::from_str(&text);
    Ok(json.or_else(|_| to_raw_value(text.trim_end_matches('\n')))?)
}

/// The text, if it is whole. Otherwise the task keeps the beginning as the result.
fn whole(head: Head, context: &TaskContext) -> Option<String> {
    let text = String::from_utf8_lossy(&head.kept).into_owned();
    if head.kept.len() == head.bytes {
        return Some(text);
    }
    let is_json = text.trim_start().starts_with(['{', '[']);
    let text = if is_json { text } else { Value::from(text).to_string() };
    let _ = context.long_result.set((text, head.bytes));
    None
}

/// Whether a text that is not JSON ends in JSON, because something else was printed before the result.
pub(super) fn ends_in_json(text: &str) -> bool {
    /// The search tries at most so many braces, in the last 64 KB.
    const MAX_TRIES: usize = 100;
    let text = tail(text, 64 * 1024);
    let begins = text.char_indices().filter(|(_, it)| matches!(it, '{' | '['));
    let mut ends = begins.take(MAX_TRIES).filter_map(|(at, _)| text.get(at..));
    ends.any(|end| serde_json::from_str::<&RawValue>(end).is_ok())
}
