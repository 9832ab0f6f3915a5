//! Whether a task without an end lives, by its signs of life.

use journal::{Ending, SignKind, Timestamp};

use crate::history::Run;
use crate::timeline::{age, ago};

/// Seconds without a sign of life after which the workflow gives a session up, by default.
const PATIENCE_SECONDS: u64 = 120;

/// Whether the run's open task gives signs of life, and three of them are missing at `now`.
pub(crate) fn is_silent(run: &Run, now: Timestamp) -> bool {
    silence(run, now).is_some_and(is_long)
}

/// Whether three signs of life are missing.
fn is_long((silent, heartbeat): (u64, u64)) -> bool {
    silent > 3 * heartbeat
}

/// How much longer the workflow waits for a task that is silent, in words.
pub(crate) fn patience_left(run: &Run, now: Timestamp) -> Option<String> {
    let waits = run.ending == Ending::Running && run.is_workflows() && run.execution.is_none();
    let (silent, _) = silence(run, now).filter(|it| waits && is_long(*it))?;
    Some(match PATIENCE_SECONDS.checked_sub(silent) {
        Some(left) => format!("By default, the workflow gives the session up in about {left} s."),
        None => "By default, the workflow gives the session up within the next minute.".to_owned(),
    })
}

/// For how many seconds the run's open task has given no sign of life, and how often it is to give one.
fn silence(run: &Run, now: Timestamp) -> Option<(u64, u64)> {
    let (signs, task) = (run.signs.as_ref()?, run.open_task()?);
    let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
    let last = beat.and_then(|beat| beat.timestamp).or(task.timestamp.parse().ok())?;
    let silent = (now.as_micros() - last.as_micros()) / 1_000_000;
    Some((u64::try_from(silent).unwrap_or_default(), task.heartbeat_seconds.unwrap_or_default()))
}

/// How long ago, before `until`, the run's open task gave its last sign of life, and how long its
/// agent has said nothing. `None` if the task gives no signs, or they were not read.
pub(crate) fn alive(run: &Run, until: Timestamp) -> Option<String> {
    let (signs, started) = (run.signs.as_ref()?, run.open_task()?);
    let beat = signs.iter().find(|sign| sign.kind == SignKind::Beat);
    let last = beat.and_then(|beat| beat.timestamp);
    let (silent, heartbeat) = silence(run, until)?;
    let mut sign = match last {
        Some(time) => format!("sign of life {} ago", age(time, until)),
        None if silent <= heartbeat => {
            format!("started {} ago; its first sign of life is due soon", ago(started, until))
        }
        None => format!("no sign of life since its start {} ago", ago(started, until)),
    };
    if is_long((silent, heartbeat)) {
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
