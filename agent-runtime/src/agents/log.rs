//! Writes an agent's lines to the log, and keeps the last ones.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much of the end of the log is kept, to find the cause of a failure.
const TAIL_BYTES: usize = 32 * 1024;

/// Lines that one task may write to the log from each of stdout and stderr.
const MAX_LOG_LINES: usize = 10_000;

/// Bytes that one task may write to the log from each of stdout and stderr.
const MAX_LOG_BYTES: usize = 10_000_000;

/// A program writes its last lines within this time.
const BURST: Duration = Duration::from_secs(1);

/// How often the log says how many lines it leaves out.
const LEFT_OUT_INTERVAL: Duration = Duration::from_secs(60);

/// The output to which an agent wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Writes an agent's lines to the log, and keeps the last ones.
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
        // Counts the line break: a blank line takes space too.
        self.tail_bytes += text.len() + 1;
        self.tail.push_back((Instant::now(), text));
        while self.tail_bytes > TAIL_BYTES && self.tail.len() > 1 {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |(_, dropped)| dropped.len() + 1);
            self.dropped += 1;
        }
    }

    /// Resets the limit for the next task.
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
    /// How many of them came some time before the last one. The program survived what they report.
    pub old: usize,
}

/// The last lines of stderr, or of stdout if stderr is empty, after so many lines of each.
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

/// A line without its colour sequences.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    // A sequence ends with its first letter.
    let rest = parts.map(|part| part.split_once(|end: char| end.is_ascii_alphabetic()));
    first + &rest.map(|parted| parted.map_or("", |(_, text)| text)).collect::<String>()
}
