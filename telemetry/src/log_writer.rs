//! Writes lines to stderr without waiting for their reader. A separate thread writes; lines that it
//! cannot write soon are dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that may wait to be written.
const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;

static LINES: OnceLock<Sender<Vec<u8>>> = OnceLock::new();
static PENDING_BYTES: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes a line, which ends with a line break, to stderr, or drops it if nobody reads.
pub(crate) fn write(line: Vec<u8>) {
    let bytes = line.len();
    if PENDING_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_PENDING_BYTES {
        PENDING_BYTES.fetch_sub(bytes, Ordering::Relaxed);
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // Started for the first line. The thread ends with the process.
    let lines = LINES.get_or_init(|| {
        let (lines, received) = channel::<Vec<u8>>();
        std::thread::spawn(move || received.into_iter().for_each(|line| write_now(&line)));
        lines
    });
    let _ = lines.send(line);
}

fn write_now(line: &[u8]) {
    let written = write_whole(line);
    PENDING_BYTES.fetch_sub(line.len(), Ordering::Relaxed);
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    let lost = if written { 0 } else { dropped + 1 };
    DROPPED.fetch_add(lost, Ordering::Relaxed);
    if written && dropped > 0 {
        let message = format!("{dropped} log lines were dropped, because nobody read the log");
        let line = format!("{{\"level\":\"WARN\",\"fields\":{{\"message\":\"{message}\"}}}}\n");
        write_whole(line.as_bytes());
    }
}

/// Whether the line was written; `false` if stderr is closed.
fn write_whole(mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match io::stderr().write(line) {
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A pipe that does not block, and is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return false,
        }
    }
    true
}

/// Waits until what was logged is written, but no longer than this.
pub(crate) fn flush(within: Duration) {
    let start = Instant::now();
    while PENDING_BYTES.load(Ordering::Relaxed) > 0 && start.elapsed() < within {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The writer of the log's formatter, which writes each line whole.
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}
