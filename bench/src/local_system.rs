//! `agent-local up`, a process of its own with a folder of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testing::{CREDENTIAL, REGION};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::http::ask;
use crate::install::Installed;

const PORTS: [&str; 6] = [
    "--port",
    "--agentcore-port",
    "--dynamodb-port",
    "--step-functions-port",
    "--ui-port",
    "--otlp-port",
];

pub struct LocalSystem {
    process: Child,
    /// The variables by which commands and SDKs reach it.
    pub environment: Vec<(String, String)>,
    /// Where its pages are: `host:port`.
    pub pages: String,
}

impl LocalSystem {
    /// Starts it on free ports with `cat` as its agent, and with its log in `folder`.
    pub async fn start(installed: &Installed, folder: &Path) -> Result<Self> {
        let log = std::fs::File::create(folder.join("agent-local"))?;
        let mut process = command(installed, "agent-local")
            .args(["up", "--agent-command", "cat", "--agent-idle-timeout", "10"])
            .args(PORTS.iter().flat_map(|port| [port, "0"]))
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("no stdout")?).lines();
        let pages = loop {
            let line = lines.next_line().await?.context("agent-local ended at its start")?;
            let pages = line.strip_prefix("The sessions are listed at http://");
            if let Some((pages, _)) = pages.and_then(|pages| pages.split_once(". ")) {
                break pages.to_owned();
            }
        };
        let file = std::fs::read_to_string(folder.join(".local/env"))?;
        let variables =
            file.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Self { process, environment: environment.collect(), pages })
    }

    fn variable(&self, name: &str) -> Result<&str> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("{name} is not set"))
    }

    /// The configuration of a client of its DynamoDB.
    pub fn dynamodb(&self) -> Result<Builder> {
        let credentials = Credentials::new(CREDENTIAL, CREDENTIAL, None, None, "local");
        Ok(Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(credentials)
            .endpoint_url(self.variable("AWS_ENDPOINT_URL_DYNAMODB")?))
    }

    /// Calls Step Functions.
    async fn call(&self, operation: &str, mut input: Value) -> Result<Value> {
        let url = self.variable("AWS_ENDPOINT_URL_SFN")?;
        let target = format!("X-Amz-Target: AWSStepFunctions.{operation}\r\n");
        input["stateMachineArn"] = self.variable("STATE_MACHINE_ARN")?.into();
        let answer = ask(url.trim_start_matches("http://"), "POST /", &target, input).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Starts a session.
    pub async fn start_session(&self) -> Result<()> {
        let input = json!({"name": Uuid::new_v4(), "input": r#"{"prompt": "hi"}"#});
        self.call("StartExecution", input).await.map(drop)
    }

    /// The names of its executions, page by page, as `agent-journal list` asks for them.
    pub async fn executions(&self, status: Option<&str>) -> Result<Vec<String>> {
        let (mut names, mut token) = (Vec::new(), Value::Null);
        loop {
            let input = json!({"maxResults": 100, "nextToken": token, "statusFilter": status});
            let mut page = self.call("ListExecutions", input).await?;
            let items = page["executions"].as_array().context("no executions")?;
            names.extend(items.iter().filter_map(|item| Some(item["name"].as_str()?.to_owned())));
            token = page["nextToken"].take();
            if token.is_null() {
                return Ok(names);
            }
        }
    }

    /// Stops it and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        let id = self.process.id().and_then(|id| i32::try_from(id).ok()).context("it has ended")?;
        kill(Pid::from_raw(id), Signal::SIGTERM)?;
        tokio::time::timeout(Duration::from_secs(60), self.process.wait()).await??;
        Ok(())
    }
}

/// One of the project's programs, in an environment with nothing of the user's.
pub fn command(installed: &Installed, name: &str) -> Command {
    let mut command = Command::new(installed.binary(name));
    let kept = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name).unwrap_or_default()));
    command.env_clear().envs(kept).stdin(Stdio::null()).kill_on_drop(true);
    command
}
