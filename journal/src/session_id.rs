use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A session id that AgentCore both takes and returns: `[A-Za-z0-9][A-Za-z0-9_-]{32,99}`.
///
/// The rule is the intersection of `runtimeSessionId` in the request of InvokeAgentRuntime (33 to
/// 256 characters) and in its response (1 to 100 characters of that alphabet). Holding a value of
/// this type means that the rule was checked; in particular it contains no `#`, so it cannot
/// reach into another session's partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(String);

/// The id breaks the rule of [`SessionId`]; ask the caller for another one, a retry cannot help.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "invalid session id: it must be 33 to 100 characters, begin with a letter or digit, \
     and contain only letters, digits, '_' and '-'"
)]
pub struct InvalidSessionId;

impl SessionId {
    /// The rule, as the regular expression that the state machine uses too.
    pub const PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_-]{32,99}$";

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition key of the session's events.
    #[must_use]
    pub fn partition_key(&self) -> String {
        format!("SESSION#{self}")
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        let valid = (33..=100).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        valid.then(|| Self(text.to_owned())).ok_or(InvalidSessionId)
    }
}

crate::text::serde_as_text!(SessionId, InvalidSessionId);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_exactly_what_agentcore_takes_and_returns() {
        for good in ["a".repeat(33), "9".repeat(100), format!("a{}", "-_".repeat(20))] {
            assert_eq!(good.parse::<SessionId>().unwrap().as_str(), good);
        }
        for bad in [
            String::new(),
            "a".repeat(32),
            "a".repeat(101),
            format!("-{}", "a".repeat(40)),
            format!("{}#EVENT", "a".repeat(40)),
            format!("{}é", "a".repeat(40)),
            format!("{}\n", "a".repeat(40)),
            format!("{} ", "a".repeat(40)),
        ] {
            assert_eq!(bad.parse::<SessionId>(), Err(InvalidSessionId), "{bad:?}");
        }
    }
}
