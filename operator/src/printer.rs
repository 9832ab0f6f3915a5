use std::collections::HashSet;
use std::io::{self, Write};
use std::time::SystemTime;

use clap::Args;

use crate::explain::Explanation;
use crate::history::Run;
use crate::timeline;

/// What of a session is printed, and how.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct View {
    /// One JSON object per event, with the table's attribute names
    #[arg(long)]
    pub json: bool,
    /// Only events that report a failure
    #[arg(long)]
    pub failed: bool,
    /// The events of all runs of the session; without it, those of the newest
    #[arg(long)]
    pub all: bool,
}

/// Prints a session's events to stdout, each once. An event that arrives late is printed when it
/// arrives.
pub struct Printer {
    view: View,
    traces_url: Option<String>,
    /// The sort keys of the events that were printed.
    printed: HashSet<String>,
    /// The number of the last line's run.
    run: Option<usize>,
}

impl Printer {
    /// A printer that has printed nothing. A trace's id is appended to `traces_url`.
    #[must_use]
    pub fn new(view: View, traces_url: Option<&str>) -> Self {
        Self { view, traces_url: traces_url.map(str::to_owned), printed: HashSet::new(), run: None }
    }

    /// Prints the events that are new, of the run called `name` or of all.
    ///
    /// # Errors
    /// If stdout cannot be written, for example because its reader has ended.
    pub fn print(&mut self, runs: &[Run], name: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        let all = self.view.all;
        let shown = (1..).zip(runs).filter(|(_, run)| all || run.invocation_id == name);
        let entries = shown.flat_map(|(n, run)| run.entries.iter().map(move |it| (n, run, it)));
        let mut entries = Vec::from_iter(entries);
        entries.sort_by(|(_, _, a), (_, _, b)| a.event.sort_key.cmp(&b.event.sort_key));
        for (number, run, entry) in entries {
            let wanted = !self.view.failed || entry.event.status.is_failure();
            if !wanted || !self.printed.insert(entry.event.sort_key.clone()) {
                continue;
            }
            if self.view.json {
                writeln!(out, "{}", timeline::json_line(entry.event)?)?;
                continue;
            }
            if all && runs.len() > 1 && self.run != Some(number) {
                writeln!(out, "run {number}: {}", timeline::escape(run.invocation_id))?;
            }
            self.run = Some(number);
            writeln!(out, "{}", timeline::line(entry))?;
        }
        Ok(())
    }

    /// Explains the run called `name`, or all of them; JSON has no explanation. Returns the exit code that
    /// says how the run stands.
    ///
    /// # Errors
    /// As [`Printer::print`].
    pub fn explain(&self, runs: &[Run], name: &str) -> io::Result<u8> {
        let (mut out, now) = (anstream::stdout().lock(), SystemTime::now().into());
        let View { all, json, .. } = self.view;
        let shown = |run: &Run| !json && (all || run.invocation_id == name);
        for (number, run) in (1..).zip(runs).filter(|(_, run)| shown(run)) {
            writeln!(out)?;
            if all && runs.len() > 1 {
                writeln!(out, "run {number}: {}", timeline::escape(run.invocation_id))?;
            }
            writeln!(out, "{}", Explanation::of(run, runs, now, self.traces_url.as_deref()))?;
        }
        let run = runs.iter().find(|run| run.invocation_id == name);
        Ok(run.map_or(2, |run| run.exit_code(now)))
    }
}
