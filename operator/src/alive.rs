//! Whether a task without an end lives, by its signs of life.

use journal::{SignKind, Timestamp};

use crate::history::Run;
use crate::timeline::{age, ago};

/// Whether the run's open task gives signs of life, and has been silent for three of them at `now`.
pub(crate) fn is_silent(run: &Run, now: Timestamp) -> bool {
    let (Some(task), Some(signs)) = (run.open_task(), &run.signs) else { return false };
    let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
    let last = beat.and_then(|beat| beat.timestamp).or(task.timestamp.parse().ok());
    let silent = last.map_or(0, |last| now.as_micros() - last.as_micros()) / 1_000_000;
    u64::try_from(silent).unwrap_or_default() > 3 * task.heartbeat_seconds.unwrap_or_default()
}

/// How long ago, before `until`, the run's open task gave its last sign of life, and how long its
/// agent has said nothing. `None` if the task gives no signs, or they were not read.
pub(crate) fn alive(run: &Run, until: Timestamp) -> Option<String> {
    let (signs, started) = (run.signs.as_ref()?, run.open_task()?);
    let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
    let last = beat.and_then(|beat| beat.timestamp);
    let heartbeat = started.heartbeat_seconds.unwrap_or_default();
    let since = last.or(started.timestamp.parse().ok());
    let silent = since.map_or(0, |time| until.as_micros() - time.as_micros()) / 1_000_000;
    let silent = u64::try_from(silent).unwrap_or_default();
    let mut sign = match last {
        Some(time) => format!("sign of life {} ago", age(time, until)),
        None if silent <= heartbeat => {
            format!("started {} ago; its first sign of life is due soon", ago(started, until))
        }
        None => format!("no sign of life since its start {} ago", ago(started, until)),
    };
    if silent > 3 * heartbeat {
        sign += &format!(" (due every {heartbeat} s: its container is probably dead)");
    }
    let progress = run.entries.iter().filter(|entry| entry.event.status.is_progress());
    let progress = progress.filter_map(|entry| entry.event.timestamp.parse().ok());
    let said = match progress.chain(beat.and_then(|beat| beat.last_progress)).max() {
        Some(time) => format!("the agent has said nothing for {}", age(time, until)),
        None => "no progress yet".to_owned(),
    };
    Some(format!("{sign}; {said}"))
}
