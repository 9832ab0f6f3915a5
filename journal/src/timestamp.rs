use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A UTC time in whole microseconds, always written with six fraction digits and `Z`
/// (`2026-11-23T02:45:00.120000Z`), so that the order of the texts is the order of the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

/// The text is not of the one form that [`Timestamp`] has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid timestamp: it must be UTC in the form 2026-11-23T02:45:00.120000Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    const FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";
    const LEN: usize = "2026-11-23T02:45:00.120000Z".len();

    /// This many microseconds later; one is the smallest step between two events of a session.
    #[must_use]
    pub fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Whole microseconds since the Unix epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_micros())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        DateTime::<Utc>::from(time).into()
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        DateTime::<Utc>::from(time).into()
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(time: Timestamp) -> Self {
        Self::from_timestamp_micros(time.0).unwrap_or(Self::MAX_UTC)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        // chrono reads other widths and signed years too; a year with a sign is wider.
        if text.len() != Self::LEN {
            return Err(InvalidTimestamp);
        }
        NaiveDateTime::parse_from_str(text, Self::FORMAT)
            .map(|time| time.and_utc().into())
            .ok()
            .filter(|time: &Self| time.to_string() == text)
            .ok_or(InvalidTimestamp)
    }
}

crate::text::serde_as_text!(Timestamp, InvalidTimestamp);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = DateTime::<Utc>::from(*self);
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timestamp_has_the_same_width() {
        for micros in [0, 7, 120_000, 999_999, 1_000_000, 1_795_574_700_000_000] {
            let text = Timestamp(micros).to_string();
            assert_eq!(text.len(), Timestamp::LEN, "{text}");
            assert_eq!(text.parse(), Ok(Timestamp(micros)));
            assert_eq!(serde_json::to_value(Timestamp(micros)).unwrap(), text, "in JSON, too");
        }
        assert_eq!(Timestamp(1_795_574_700_000_000).to_string(), "2026-11-25T02:45:00.000000Z");
    }

    #[test]
    fn text_order_is_time_order() {
        let times = [0, 7, 70, 999_999, 1_000_000, 1_000_001];
        assert!(times.is_sorted_by_key(|&t| Timestamp(t).to_string()));
        assert_eq!(Timestamp(999_999).plus_micros(1), Timestamp(1_000_000));
    }

    #[test]
    fn refuses_every_other_form() {
        for text in [
            "", "2026-11-23T02:45:00Z", "2026-11-23T02:45:00.120Z", "2026-11-23T02:45:00.12000Z0",
            "2026-11-23T02:45:00.120000z", "2026-11-23 02:45:00.120000Z",
            "2026-13-23T02:45:00.120000Z", "+026-11-23T02:45:00.120000Z",
            "+12026-11-23T02:45:00.120000Z", "-0026-11-23T02:45:00.120000Z",
            "2026-11-23T02:45:60.120000Z", "2026-11-23T02:45:00.120000é",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
        }
    }
}
