//! Variables that the deployment gives to the agent, apart from the container's own.

use std::collections::BTreeMap;

use journal::SettingError;
use journal::settings::optional;

const NAME: &str = "AGENT_ENVIRONMENT";

/// Variables that the runtime sets for each task.
const SET_BY_THE_RUNTIME: [&str; 6] =
    ["BAGGAGE", "INVOCATION_ID", "PROGRESS_FD", "SESSION_ID", "TRACEPARENT", "TRACESTATE"];

/// Reads `AGENT_ENVIRONMENT`: words `NAME=VALUE`, split as a shell splits them.
///
/// # Errors
/// If it holds anything else, or a variable that the runtime sets itself.
pub(crate) fn agent_environment(
    env: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, SettingError> {
    const RULE: &str = "it must be words NAME=VALUE, split as a shell splits them, without what the \
        runtime sets itself, such as SESSION_ID";
    let variable = |word: String| {
        let (name, value) = word.split_once('=')?;
        let is_name = |at: usize, byte: u8| {
            byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit())
        };
        let valid = !name.is_empty()
            && name.bytes().enumerate().all(|(at, byte)| is_name(at, byte))
            && !SET_BY_THE_RUNTIME.contains(&name);
        valid.then(|| (name.to_owned(), value.to_owned()))
    };
    let variables = optional(env, NAME, RULE, |words| {
        shell_words::split(words).ok()?.into_iter().map(variable).collect()
    })?;
    Ok(variables.unwrap_or_default())
}

/// A variable for an agent in Rust, from `AGENT_ENVIRONMENT` or otherwise from the process. A command
/// or a server gets these variables in its environment.
#[must_use]
pub fn agent_variable(name: &str) -> Option<String> {
    let of_process = |name: &str| std::env::var(name).ok();
    let given = agent_environment(of_process).unwrap_or_default().remove(name);
    given.or_else(|| of_process(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Option<Vec<(String, String)>> {
        let variables = agent_environment(|_| Some(words.to_owned())).ok()?;
        Some(variables.into_iter().collect())
    }

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let pairs = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
        };
        assert_eq!(read(""), pairs(&[]));
        let words = "MODEL_ID=us.amazon.nova-lite-v1:0 PROMPT='be brief' EMPTY= URL=http://x/?a=b";
        let expected = [
            ("EMPTY", ""),
            ("MODEL_ID", "us.amazon.nova-lite-v1:0"),
            ("PROMPT", "be brief"),
            ("URL", "http://x/?a=b"),
        ];
        assert_eq!(read(words), pairs(&expected));
        for invalid in ["MODEL", "=x", "1A=x", "A-B=x", "A='open", "SESSION_ID=x", "A=1 B"] {
            assert_eq!(read(invalid), None, "{invalid}");
        }
    }
}
