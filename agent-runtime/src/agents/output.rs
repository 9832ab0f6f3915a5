//! What an agent's process writes: its result, its log and its progress.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// How much of the end of the log is kept, to find the cause of a failure in it.
const TAIL_BYTES: usize = 32 * 1024;

/// How much of an invalid line of progress is logged.
const MAX_QUOTED_BYTES: usize = 200;

/// Lines that one task may write to the log from each of stdout and stderr.
const MAX_LOG_LINES: usize = 10_000;

/// Bytes that one task may write to the log from each of stdout and stderr.
const MAX_LOG_BYTES: usize = 10_000_000;

/// What a program writes as it dies takes less time than this.
const BURST: Duration = Duration::from_secs(1);

/// How often the log says how much it leaves out.
const LEFT_OUT_INTERVAL: Duration = Duration::from_secs(60);

/// Which of its outputs an agent wrote a line to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// An agent's lines on their way to the log, and the last of them.
#[derive(Debug)]
pub(super) struct AgentLog {
    stream: Stream,
    lines: usize,
    bytes: usize,
    left_out: u64,
    said: Instant,
    tail: VecDeque<(Instant, String)>,
    tail_bytes: usize,
    /// How many lines came before those of the tail.
    dropped: usize,
}

impl AgentLog {
    pub fn new(stream: Stream) -> Self {
        let (tail, said) = (VecDeque::new(), Instant::now());
        Self { stream, lines: 0, bytes: 0, left_out: 0, said, tail, tail_bytes: 0, dropped: 0 }
    }

    /// Logs a line, or counts it if the task has logged too much.
    pub fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        (self.lines, self.bytes) = (self.lines + 1, self.bytes + text.len());
        if self.lines > MAX_LOG_LINES || self.bytes > MAX_LOG_BYTES {
            self.left_out += 1;
            if self.said.elapsed() > LEFT_OUT_INTERVAL || self.left_out == 1 {
                self.say_what_is_left_out();
            }
        } else {
            match self.stream {
                Stream::Stdout => tracing::info!(target: "agent::stdout", "{text}"),
                Stream::Stderr => tracing::info!(target: "agent::stderr", "{text}"),
            }
        }
        // With its end: a blank line takes room too.
        self.tail_bytes += text.len() + 1;
        self.tail.push_back((Instant::now(), text));
        while self.tail_bytes > TAIL_BYTES && self.tail.len() > 1 {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |(_, dropped)| dropped.len() + 1);
            self.dropped += 1;
        }
    }

    /// Another task may log as much as the one before it.
    pub fn another_task(&mut self) {
        if self.left_out > 0 {
            self.say_what_is_left_out();
        }
        (self.lines, self.bytes, self.left_out) = (0, 0, 0);
    }

    /// How many lines have come.
    pub fn count(&self) -> usize {
        self.dropped + self.tail.len()
    }

    /// The last lines, of those that came after the first `from`.
    pub fn last_words(&self, from: usize) -> LastWords {
        let tail = self.tail.iter().skip(from.saturating_sub(self.dropped));
        let end = self.tail.back().map(|(time, _)| *time);
        let is_old = |time: &Instant| end.is_some_and(|end| end - *time > BURST);
        LastWords {
            lines: tail.clone().map(|(_, line)| without_colours(line)).collect(),
            old: tail.take_while(|(time, _)| is_old(time)).count(),
        }
    }

    fn say_what_is_left_out(&mut self) {
        self.said = Instant::now();
        tracing::warn!(
            left_out = self.left_out,
            "the agent logs too much: the lines of {:?} that come after {MAX_LOG_LINES} lines or {} MB are left out",
            self.stream,
            MAX_LOG_BYTES / 1_000_000
        );
    }
}

impl Drop for AgentLog {
    fn drop(&mut self) {
        if self.left_out > 0 {
            self.say_what_is_left_out();
        }
    }
}

/// The last lines of a program.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    pub lines: Vec<String>,
    /// How many of them came some time before the last one: what they tell of, the program survived.
    pub old: usize,
}

/// The last words of stderr, or if that is silent of stdout, after as many lines of each.
pub(super) fn last_words(
    out: &AgentLog,
    err: &AgentLog,
    from_out: usize,
    from_err: usize,
) -> LastWords {
    let words = err.last_words(from_err);
    let silent = words.lines.iter().all(String::is_empty);
    if silent { out.last_words(from_out) } else { words }
}

/// A line without the sequences that colour it.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    // A sequence ends with its first letter.
    let rest = parts.map(|part| part.split_once(|end: char| end.is_ascii_alphabetic()));
    first + &rest.map(|parted| parted.map_or("", |(_, text)| text)).collect::<String>()
}

/// Reads to the end, and hands on each line, a long one in pieces.
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

/// What a command said on the file descriptor for it, besides its progress.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    /// `result JSON`.
    pub result: Option<Head>,
    /// `error TYPE`.
    pub error_type: Option<String>,
}

/// Hands an agent's progress on, to the end, and keeps what else it says in `said`, if that is given.
/// Invalid lines are counted, and the first is logged.
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

/// A line without its end, however long; nothing after the last one.
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
    let step = words.next().unwrap_or_default().parse::<Step>();
    let step = step.map_err(|error| error.to_string())?;
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

/// The text, if it is whole. If not, the task has its beginning as the result.
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

/// Whether a text that is not JSON ends in JSON: something else was printed before the result.
pub(super) fn ends_in_json(text: &str) -> bool {
    /// A longer result, or one after more braces, is not looked for.
    const MAX_TRIES: usize = 100;
    let text = tail(text, 64 * 1024);
    let begins = text.char_indices().filter(|(_, it)| matches!(it, '{' | '['));
    let mut ends = begins.take(MAX_TRIES).filter_map(|(at, _)| text.get(at..));
    ends.any(|end| serde_json::from_str::<&RawValue>(end).is_ok())
}
