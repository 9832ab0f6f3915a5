use std::net::IpAddr;
use std::time::Duration;

use journal::SettingError;
use journal::settings::{ENDPOINT_URL, optional};

/// The container's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the journal is.
    pub journal: journal::Settings,
    /// The URL of the journal's table if that is not on AWS (`JOURNAL_ENDPOINT_URL`), such as DynamoDB
    /// Local. The AWS settings of the environment are then the agent's alone.
    pub journal_endpoint_url: Option<String>,
    /// Address to listen on (`HOST`, by default all).
    pub host: IpAddr,
    /// Port to listen on (`PORT`, by default 8080; 0 takes a free one).
    pub port: u16,
    /// Limits of requests and tasks.
    pub limits: Limits,
}

/// What requests and tasks may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of an invocation in bytes (`MAX_BODY_BYTES`, by default 10 MB).
    pub max_body_bytes: usize,
    /// Time between two signs of life of a task (`HEARTBEAT_SECONDS`, by default 20); `None` (0): it
    /// gives none, and the workflow does not notice that its container was killed.
    pub heartbeat: Option<Duration>,
    /// How long a task may work (`TASK_TIMEOUT_SECONDS`); `None`: as long as it likes.
    pub task_timeout: Option<Duration>,
    /// The age at which AgentCore stops the container whatever it does (`MAX_LIFETIME_SECONDS`;
    /// ignored below 600). Tasks end 180 s before it.
    pub max_lifetime: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 10_000_000,
            heartbeat: Some(Duration::from_secs(20)),
            task_timeout: None,
            max_lifetime: None,
        }
    }
}

/// Of a shorter lifetime, too little would be left for the task.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(600);

fn seconds(text: &str) -> Option<Duration> {
    text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// If a variable is missing or invalid. The error names the variable and the rule.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        const URL: &str = "it must be an http:// or https:// URL";
        let journal_endpoint_url = optional(&env, ENDPOINT_URL, URL, |url| {
            let is_url = url.starts_with("http://") || url.starts_with("https://");
            is_url.then(|| url.to_owned())
        })?;
        // Base images and conda set both for purposes of their own.
        const HOST: &str =
            "it must be an IP address to listen on; on AgentCore set HOST=0.0.0.0 in the image";
        let host = optional(&env, "HOST", HOST, |host| host.parse().ok())?;
        const PORT: &str =
            "it must be a port number from 0 to 65535; on AgentCore set PORT=8080 in the image";
        let port = optional(&env, "PORT", PORT, |port| port.parse().ok())?;
        let max_body_bytes = optional(
            &env,
            "MAX_BODY_BYTES",
            "it must be a number of bytes from 1 to 104857600 (AgentCore's limit)",
            |bytes| bytes.parse().ok().filter(|bytes| (1..=104_857_600).contains(bytes)),
        )?;
        // Longer ones would look silent to the workflow.
        let heartbeat = optional(
            &env,
            "HEARTBEAT_SECONDS",
            "it must be 0 (no signs of life), or a number of seconds from 1 to 20",
            |text| seconds(text).filter(|time| time.as_secs() <= 20),
        )?;
        const SECONDS: &str = "it must be a number of seconds (0: no limit)";
        let task_timeout = optional(&env, "TASK_TIMEOUT_SECONDS", SECONDS, seconds)?;
        let max_lifetime = optional(&env, "MAX_LIFETIME_SECONDS", SECONDS, seconds)?;
        let default = Limits::default();
        Ok(Self {
            journal: journal::Settings::from_env(&env)?,
            journal_endpoint_url,
            host: host.unwrap_or(IpAddr::from([0, 0, 0, 0])),
            port: port.unwrap_or(8080),
            limits: Limits {
                max_body_bytes: max_body_bytes.unwrap_or(default.max_body_bytes),
                heartbeat: match heartbeat {
                    Some(time) => Some(time).filter(|it| !it.is_zero()),
                    None => default.heartbeat,
                },
                task_timeout: task_timeout.filter(|it| !it.is_zero()),
                max_lifetime: max_lifetime.filter(|it| *it >= SHORTEST_LIFETIME),
            },
        })
    }
}
