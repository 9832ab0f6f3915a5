//! A container for direct calls: an agent-runtime process at a fixed address.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use testing::{Process, Spec};

/// The agent-runtime's process. Another one at the same address can replace it.
pub(crate) struct DirectContainer {
    spec: Spec,
    /// Where it listens: `host:port`.
    pub address: String,
    process: Mutex<Arc<Process>>,
}

impl DirectContainer {
    /// Starts it on this port (0: any) and waits until it listens.
    pub async fn start(spec: Spec, port: &str) -> Result<Self> {
        let (address, process) = listen(&spec, port).await?;
        Ok(Self { spec, address, process: Mutex::new(Arc::new(process)) })
    }

    /// Starts another in its place.
    pub async fn replace(&self) -> Result<()> {
        let port = self.address.rsplit(':').next().unwrap_or_default();
        let (_, process) = listen(&self.spec, port).await?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(process);
        Ok(())
    }

    /// The process that was started last.
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts an agent-runtime and waits until it listens.
pub(crate) async fn listen(spec: &Spec, port: &str) -> Result<(String, Process)> {
    let mut spec = spec.clone();
    spec.environment.push(("PORT".to_owned(), port.to_owned()));
    let (process, listens) = Process::start(&spec)?;
    let address = process.address(listens).await.with_context(|| said_in(&spec.log))?;
    Ok((address, process))
}

/// What a child said before it ended, for the error that reports its end.
fn said_in(log: &Path) -> String {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.lines().last().unwrap_or("it said nothing").to_owned()
}
