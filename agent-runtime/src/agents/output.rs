//! What a command writes: its result, its log and its progress.

use std::collections::VecDeque;

use journal::Step;
use journal::text::truncate;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::TaskContext;

/// How much of stdout is kept; the journal's limit for a result is smaller.
const MAX_STDOUT_BYTES: usize = 1024 * 1024;

/// How much of one stderr line is logged; a longer one is logged in pieces.
const MAX_LINE_BYTES: u64 = 8 * 1024;

/// How much of the end of stderr a failure carries.
pub(super) const STDERR_TAIL_BYTES: usize = 4 * 1024;

/// How much of an invalid line of progress is logged.
const MAX_QUOTED_BYTES: usize = 200;

/// Reads to the end and keeps the beginning.
pub(super) async fn read_stdout(stdout: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stdout) = stdout else { return Vec::new() };
    let mut kept = Vec::new();
    let _ = (&mut stdout).take(MAX_STDOUT_BYTES as u64).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
    kept
}

/// Logs every line and keeps the last ones.
pub(super) async fn read_stderr(stderr: Option<impl AsyncRead + Unpin>) -> VecDeque<String> {
    let mut lines = VecDeque::new();
    let Some(stderr) = stderr else { return lines };
    let mut stderr = BufReader::new(stderr);
    let (mut line, mut kept) = (Vec::new(), 0);
    while (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        tracing::info!(target: "agent::stderr", "{text}");
        // With its end: a blank line takes room too.
        kept += text.len() + 1;
        lines.push_back(text);
        while kept > STDERR_TAIL_BYTES && lines.len() > 1 {
            kept -= lines.pop_front().map_or(0, |dropped| dropped.len() + 1);
        }
    }
    lines
}

/// Hands the command's progress on, to the end, and returns the type of its failure if it names one.
/// Invalid lines are counted, and the first is logged.
pub(super) async fn read_progress(
    lines: impl AsyncRead + Unpin,
    context: TaskContext,
) -> Option<String> {
    let mut lines = BufReader::new(lines);
    let (mut line, mut begins, mut invalid) = (Vec::new(), true, 0);
    let mut error_type = None;
    while (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0)
    {
        // The rest of a longer line is ignored.
        let text = String::from_utf8_lossy(&line);
        if begins && let Some(said) = text.trim().strip_prefix("error ") {
            error_type = Some(said.trim().to_owned());
        } else if begins && let Err(rule) = progress(text.trim(), &context) {
            if invalid == 0 {
                let said = truncate(text.trim(), MAX_QUOTED_BYTES);
                tracing::warn!("invalid line of progress: {rule}: {said:?}");
            }
            invalid += 1;
        }
        begins = line.ends_with(b"\n");
        line.clear();
    }
    if invalid > 1 {
        tracing::warn!("{invalid} invalid lines of progress");
    }
    error_type
}

/// `started PHASE`, `completed PHASE` or `failed PHASE`, followed by a text if there is one.
fn progress(line: &str, context: &TaskContext) -> Result<(), String> {
    let mut words = line.splitn(3, char::is_whitespace);
    let step = words.next().unwrap_or_default().parse::<Step>();
    let step = step.map_err(|error| error.to_string())?;
    let (phase, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    context.progress.add(phase, step, text).map_err(|error| error.to_string())
}
