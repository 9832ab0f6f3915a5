//! Settings from the environment, which a binary reads once. An error names the variable and the rule.

use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region};
use thiserror::Error;

/// The variable with the URL of a table that is not on AWS.
pub const ENDPOINT_URL: &str = "JOURNAL_ENDPOINT_URL";

/// Where the journal is and how long it keeps events. Every writer has this configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the DynamoDB table.
    pub table_name: String,
    /// Days after which an event may expire (the table's TTL attribute `ExpiresAt`). `None` keeps
    /// events.
    pub retention_days: Option<u32>,
}

/// The configuration for a table at this URL that needs no real credentials or region, such as that of
/// DynamoDB Local.
#[must_use]
pub fn config_at(url: &str) -> Builder {
    Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
}

/// A setting is missing or invalid: correct the environment and start again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingError {
    /// The variable is required and is not set, or is empty.
    #[error("{name} is not set: {expected}")]
    Missing {
        /// The environment variable.
        name: &'static str,
        /// What it must hold.
        expected: &'static str,
    },
    /// The variable holds an invalid value.
    #[error("{name}={value:?} is not valid: {expected}")]
    Malformed {
        /// The environment variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it must hold.
        expected: &'static str,
    },
}

impl Settings {
    /// Reads `JOURNAL_TABLE_NAME` (required) and `JOURNAL_RETENTION_DAYS` (optional).
    ///
    /// # Errors
    /// If the table name is missing or breaks DynamoDB's rule, or the days are not 1 to 36500.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        const TABLE: &str =
            "it must name the journal's DynamoDB table (3 to 255 of A-Z a-z 0-9 _ . -)";
        let table_name = required(&env, "JOURNAL_TABLE_NAME", TABLE, |name| {
            let named = (3..=255).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            named.then(|| name.to_owned())
        })?;
        let retention_days = optional(
            &env,
            "JOURNAL_RETENTION_DAYS",
            "it must be a number of days from 1 to 36500",
            |days| days.parse().ok().filter(|days| (1..=36_500).contains(days)),
        )?;
        Ok(Self { table_name, retention_days })
    }
}

/// Reads a setting that must be there. An empty variable counts as missing.
///
/// # Errors
/// If it is missing, or `parse` refuses it.
pub fn required<T>(
    env: impl Fn(&str) -> Option<String>,
    name: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, SettingError> {
    optional(env, name, expected, parse)?.ok_or(SettingError::Missing { name, expected })
}

/// Reads a setting that may be absent. An empty variable counts as absent.
///
/// # Errors
/// If `parse` refuses it.
pub fn optional<T>(
    env: impl Fn(&str) -> Option<String>,
    name: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, SettingError> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match parse(&value) {
        Some(parsed) => Ok(Some(parsed)),
        None => Err(SettingError::Malformed { name, value, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: &str, days: &str) -> Result<Settings, SettingError> {
        Settings::from_env(|name| match name {
            "JOURNAL_TABLE_NAME" => Some(table.to_owned()),
            "JOURNAL_RETENTION_DAYS" => Some(days.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn reads_table_and_retention() {
        assert_eq!(
            read("events", "30"),
            Ok(Settings { table_name: "events".into(), retention_days: Some(30) })
        );
        assert_eq!(read("events", "").map(|s| s.retention_days), Ok(None));
    }

    #[test]
    fn an_error_names_the_variable_and_the_rule() {
        let missing = read("", "").unwrap_err().to_string();
        assert!(missing.starts_with("JOURNAL_TABLE_NAME is not set: it must name"), "{missing}");
        for days in ["0", "-1", "x", "1.5", "40000"] {
            let error = read("events", days).unwrap_err().to_string();
            assert!(
                error.contains("JOURNAL_RETENTION_DAYS") && error.contains("1 to 36500"),
                "{error}"
            );
        }
        assert!(read("no spaces", "").is_err());
    }
}
