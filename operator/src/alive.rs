//! Whether a task without an end lives, by its signs of life.

use journal::{SignKind, Timestamp};

use crate::history::Run;
use crate::timeline::{age, ago};

/// How long ago, before `until`, the run's open task gave its last sign of life, and how long its
/// agent has said nothing. `None` if the task gives no signs, or they were not read.
pub(crate) fn alive(run: &Run, until: Timestamp) -> Option<String> {
    let (signs, started) = (run.signs.as_ref()?, run.open_task()?);
    let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
    let sign = match beat.and_then(|beat| beat.timestamp) {
        Some(time) => format!("sign of life {} ago", age(time, until)),
        None => format!("no sign of life since its start {} ago", ago(started, until)),
    };
    let progress = run.entries.iter().filter(|entry| entry.event.status.is_progress());
    let progress = progress.filter_map(|entry| entry.event.timestamp.parse().ok());
    let said = match progress.chain(beat.and_then(|beat| beat.last_progress)).max() {
        Some(time) => format!("the agent has said nothing for {}", age(time, until)),
        None => "the agent has said nothing yet".to_owned(),
    };
    Some(format!("{sign}; {said}"))
}
