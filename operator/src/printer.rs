use std::collections::HashSet;
use std::io::{self, Write};
use std::time::SystemTime;

use clap::Args;

use crate::explain::explain_run;
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
    /// The sort keys of the events that were printed.
    printed: HashSet<String>,
    /// The run of the last line.
    run: Option<String>,
}

impl Printer {
    /// A printer that has printed nothing.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, printed: HashSet::new(), run: None }
    }

    /// Prints the events that are new, of the run called `name` or of all.
    ///
    /// # Errors
    /// If stdout cannot be written, for example because its reader has ended.
    pub fn print(&mut self, runs: &[Run], name: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        let mut entries = Vec::new();
        for (number, run) in (1..).zip(runs) {
            if self.view.all || run.invocation_id == name {
                entries.extend(run.entries.iter().map(|entry| (number, run.invocation_id, entry)));
            }
        }
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
            let another = self.run.as_deref() != Some(run);
            if another && (self.run.is_some() || (self.view.all && runs.len() > 1)) {
                writeln!(out, "run {number}: {}", timeline::escape(run))?;
            }
            self.run = Some(run.to_owned());
            writeln!(out, "{}", timeline::line(entry))?;
        }
        Ok(())
    }

    /// Explains the run called `name`, or all of them. JSON has no explanation.
    ///
    /// # Errors
    /// As [`Printer::print`].
    pub fn explain(&self, runs: &[Run], name: &str) -> io::Result<()> {
        if self.view.json {
            return Ok(());
        }
        let mut out = anstream::stdout().lock();
        let now = SystemTime::now().into();
        for (number, run) in (1..).zip(runs) {
            let of_all = self.view.all && runs.len() > 1;
            if of_all {
                writeln!(out, "\nrun {number}: {}", timeline::escape(run.invocation_id))?;
            } else if run.invocation_id == name {
                writeln!(out)?;
            } else {
                continue;
            }
            writeln!(out, "{}", explain_run(run, runs, now, None))?;
        }
        Ok(())
    }
}
