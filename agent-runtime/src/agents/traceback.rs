//! Finds the exception in the lines that Python or Node.js prints when it fails.

use journal::SdkFault;

use crate::AgentError;

pub(super) const TRACEBACK: &str = "Traceback (most recent call last):";
const GROUP_TRACEBACK: &str = "Exception Group Traceback (most recent call last):";

/// Exceptions of botocore which say that there are no valid credentials.
const CREDENTIAL_CLASSES: [&str; 13] = [
    "CredentialRetrievalError", "LoginError", "LoginRefreshRequired", "LoginTokenLoadError",
    "NoAuthTokenError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound",
    "RefreshWithMFAUnsupportedError", "SSOError", "SSOTokenLoadError", "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
];

/// Lines before a traceback that is not the reason for the program's end.
const ASIDES: [&str; 6] = [
    "--- Logging error ---", "Error in atexit", "Error in sys.excepthook", "Exception ignored",
    "Exception in thread", "Task exception was never retrieved",
];

/// The line of a Python traceback that names the exception: `module.Class: message`. The last traceback
/// counts, except those that the program survived: its first `old` lines, and asides.
pub(super) fn python_exception<'a>(lines: &[&'a str], old: usize) -> Option<&'a str> {
    for at in (old..lines.len()).rev() {
        let (before, region) = (lines.get(..at)?, lines.get(at..)?);
        let header = *region.first()?;
        let is_group = header.ends_with(GROUP_TRACEBACK) && header.trim_start().starts_with("+ ");
        let is_plain = header.ends_with(TRACEBACK) && !header.trim_start().starts_with(['|', '+']);
        let is_said = |line: &&&str| !line.is_empty() && !line.starts_with("future: ");
        let announced = before.iter().rev().find(is_said);
        let is_aside = |line: &&str| ASIDES.iter().any(|aside| line.starts_with(aside));
        if !(is_group || is_plain) || announced.is_some_and(is_aside) {
            continue;
        }
        return if is_group { first_of_group(region) } else { after_frames(region.get(1..)?) };
    }
    None
}

/// The first line that is not a frame of the traceback before it. Loguru marks one with `>`.
fn after_frames<'a>(lines: &[&'a str]) -> Option<&'a str> {
    lines.iter().copied().find(|line| !line.is_empty() && !line.starts_with([' ', '\t', '>']))
}

/// The first exception in a group that is not a group itself. Groups may be nested.
fn first_of_group<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let mut members = lines.split(|line| line.contains("---------------- "));
    let group = members.next()?.iter().map(|line| inner(line));
    let mut fallback = after_frames(Vec::from_iter(group).get(1..)?);
    for member in members {
        let member = Vec::from_iter(member.iter().map(|line| inner(line)));
        let header = member.iter().rposition(|line| line.ends_with(TRACEBACK));
        let exception = after_frames(member.get(header.map_or(0, |at| at + 1)..)?);
        match exception {
            Some(line) if line.ends_with("sub-exception)") || line.ends_with("sub-exceptions)") => {
                fallback = Some(line);
            }
            Some(line) => return Some(line),
            None => {}
        }
    }
    fallback
}

/// A line of a group without the characters that draw the tree.
fn inner(line: &str) -> &str {
    let bare = line.trim_start();
    bare.strip_prefix("| ").or_else(|| bare.strip_prefix('|')).unwrap_or(line)
}

/// The line of an error that ended Node.js: below the line with the caret.
pub(super) fn node_error<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let is_said = |line: &&&str| !line.trim().is_empty();
    lines.iter().rev().find(is_said)?.strip_prefix("Node.js v")?;
    let is_caret = |line: &&str| !line.is_empty() && line.trim().trim_matches('^').is_empty();
    let caret = lines.iter().rposition(|line| line.contains('^') && is_caret(line))?;
    lines.get(caret + 1..)?.iter().find(is_said).copied()
}

/// The class of `module.Class: message`. For an error of an AWS call, our own name of its kind.
pub(super) fn error_type(exception: &str) -> &str {
    let class = exception.split(": ").next().unwrap_or_default().trim_end_matches(':');
    let code = || exception.split_once("An error occurred (")?.1.split(')').next();
    match class.rsplit_once('.') {
        Some(("botocore.exceptions", name)) if CREDENTIAL_CLASSES.contains(&name) => {
            SdkFault::CREDENTIALS_ERROR
        }
        Some(("botocore.errorfactory", _))
        | Some(("botocore.exceptions", "ClientError" | "EventStreamError")) => {
            match code().is_some_and(SdkFault::is_about_credentials) {
                true => SdkFault::CREDENTIALS_ERROR,
                false => SdkFault::CLIENT_ERROR,
            }
        }
        _ => {
            let name = class.rsplit('.').next().unwrap_or_default();
            let name = name.split(" [").next().unwrap_or_default();
            let is_name = |name: &str| name.chars().all(|it| it.is_alphanumeric() || it == '_');
            if !name.is_empty() && is_name(name) { name } else { AgentError::GENERIC }
        }
    }
}
