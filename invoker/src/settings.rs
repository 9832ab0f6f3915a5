use journal::SettingError;
use journal::settings::required;

/// The function's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the journal is.
    pub journal: journal::Settings,
    /// The runtime to invoke (`AGENT_RUNTIME_ARN`).
    pub agent_runtime_arn: String,
    /// Its endpoint (`AGENT_RUNTIME_QUALIFIER`); AgentCore's default endpoint if absent.
    pub qualifier: Option<String>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// If a variable is missing or invalid. The error names the variable and the rule.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let agent_runtime_arn = required(
            &env,
            "AGENT_RUNTIME_ARN",
            "it must be arn:PARTITION:bedrock-agentcore:REGION:ACCOUNT:runtime/ID",
            |arn| {
                let mut parts = arn.splitn(6, ':');
                let named = parts.next() == Some("arn")
                    && parts.nth(1) == Some("bedrock-agentcore")
                    && parts.nth(2).is_some_and(|resource| resource.starts_with("runtime/"));
                named.then(|| arn.to_owned())
            },
        )?;
        let qualifier = env("AGENT_RUNTIME_QUALIFIER").filter(|name| !name.is_empty());
        Ok(Self { journal: journal::Settings::from_env(&env)?, agent_runtime_arn, qualifier })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_of_another_service_is_refused_with_the_rule() {
        let read = |arn: &str| {
            Settings::from_env(|name| match name {
                "AGENT_RUNTIME_ARN" => Some(arn.to_owned()),
                "JOURNAL_TABLE_NAME" => Some("events".to_owned()),
                _ => None,
            })
        };
        assert!(read("arn:aws:bedrock-agentcore:us-east-1:123456789012:runtime/agent-1").is_ok());
        for arn in ["", "agent-1", "arn:aws:lambda:us-east-1:123456789012:function:x"] {
            let error = read(arn).unwrap_err().to_string();
            assert!(error.contains("AGENT_RUNTIME_ARN") && error.contains("runtime/ID"), "{error}");
        }
    }
}
