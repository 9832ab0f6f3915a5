//! The shell around the `main` of both services.

use std::fmt::Display;
use std::process::ExitCode;

use journal::SettingError;

use crate::Telemetry;

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
            eprintln!("{name}: {error}");
            return ExitCode::from(BAD_ENVIRONMENT);
        }
    };
    let telemetry = Telemetry::start(name);
    let served = serve(settings, &telemetry);
    telemetry.stop();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
