/// The model, its system prompt and its limits.
pub struct Settings {
    /// `MODEL_ID`: the model or inference profile.
    pub model_id: String,
    /// `SYSTEM_PROMPT`: the model's system prompt.
    pub system_prompt: Option<String>,
    /// `MAX_TURNS`: answers of the model to one prompt, by default 25.
    pub max_turns: u32,
    /// `MAX_TOKENS`: tokens of one task, in and out, as Bedrock counts them; by default 500,000.
    pub max_tokens: u32,
    /// `MAX_ANSWER_TOKENS`: tokens of one answer, by default 4,096.
    pub max_answer_tokens: u32,
}

impl Settings {
    /// Reads the environment; an error names the variable and the rule.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name| env(name).filter(|value| !value.is_empty());
        let number = |name, default| match set(name).map(|value| value.parse::<i32>()) {
            None => Ok(default),
            Some(Ok(number @ 1..)) => Ok(number.unsigned_abs()),
            Some(_) => Err(format!("{name} must be a number from 1 to 2147483647")),
        };
        Ok(Self {
            model_id: set("MODEL_ID").ok_or("MODEL_ID must name a model of Bedrock")?,
            system_prompt: set("SYSTEM_PROMPT"),
            max_turns: number("MAX_TURNS", 25)?,
            max_tokens: number("MAX_TOKENS", 500_000)?,
            max_answer_tokens: number("MAX_ANSWER_TOKENS", 4_096)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_breaks_a_rule_is_named() {
        for (name, value) in [
            ("MODEL_ID", ""),
            ("MAX_TURNS", "0"),
            ("MAX_TOKENS", "many"),
            ("MAX_ANSWER_TOKENS", "4294967295"),
        ] {
            let read = |asked: &str| match asked {
                asked if asked == name => Some(value.to_owned()),
                "MODEL_ID" => Some("m".to_owned()),
                _ => None,
            };
            let error = Settings::from_env(read).err().unwrap();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
