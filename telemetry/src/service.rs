//! The common part of both services' `main`.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use journal::SettingError;

use crate::log_writer::flush;
use crate::{Telemetry, log_line};

/// How long a process that ends waits until its log is written.
const LOG_DEADLINE: Duration = Duration::from_millis(500);

/// Exit code of a process whose environment is missing a setting or holds an invalid one.
const BAD_ENVIRONMENT: u8 = 2;

/// Runs a service: with its settings, starts telemetry, serves, and sends the last spans. The exit
/// code is 2 if the settings are not valid, 1 if serving fails; either prints one line on stderr.
pub fn run_service<S, E: Display>(
    name: &'static str,
    settings: Result<S, SettingError>,
    serve: impl FnOnce(S, &Telemetry) -> Result<(), E>,
) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            log_line(&format!("{name}: {error}"));
            flush(LOG_DEADLINE);
            return ExitCode::from(BAD_ENVIRONMENT);
        }
    };
    let telemetry = Telemetry::start(name);
    let served = serve(settings, &telemetry);
    telemetry.stop();
    if let Err(error) = &served {
        log_line(&format!("{name}: {error}"));
    }
    flush(LOG_DEADLINE);
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
