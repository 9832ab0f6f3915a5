//! What the commands ask, and where it is.

use anyhow::{Context, Result, ensure};
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sfn::Client;
use clap::Args;
use journal::{Journal, Settings};
use operator::sessions::Sources;

/// The end of an error about a missing setting.
pub const LOCAL: &str = "for the local system, run `. .local/env`, which its `up` writes";

/// Which table, state machine and tracing tool.
#[derive(Args)]
pub struct Targets {
    /// The journal's DynamoDB table
    #[arg(long, global = true, env = "JOURNAL_TABLE_NAME", hide_env_values = true)]
    table: Option<String>,
    /// The state machine's ARN
    #[arg(long, global = true, env = "STATE_MACHINE_ARN", hide_env_values = true)]
    state_machine: Option<String>,
    /// Address of the tracing tool, to which a trace's id is appended, such as http://127.0.0.1:4318/traces
    #[arg(long, global = true, value_name = "URL", env = "TRACES_URL")]
    traces_url: Option<String>,
}

/// What the commands ask.
pub struct Access {
    /// Region, credentials and endpoints.
    pub config: SdkConfig,
    targets: Targets,
}

impl Access {
    /// # Errors
    /// If no region is set.
    pub async fn new(targets: Targets) -> Result<Self> {
        let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
        ensure!(
            config.region().is_some(),
            "no AWS region: set AWS_REGION, or a profile that has one; {LOCAL}"
        );
        Ok(Self { config, targets })
    }

    /// # Errors
    /// If the table is not known.
    pub fn sources(&self) -> Result<Sources> {
        Ok(Sources { journal: self.journal()?, workflows: Client::new(&self.config) })
    }

    /// # Errors
    /// If the table is not known.
    pub fn journal(&self) -> Result<Journal> {
        let table =
            |name: &str| self.targets.table.clone().filter(|_| name == "JOURNAL_TABLE_NAME");
        let unknown = "the journal's table is unknown: set JOURNAL_TABLE_NAME or give --table";
        let settings = Settings::from_env(table).with_context(|| format!("{unknown}; {LOCAL}"))?;
        Ok(Journal::new(aws_sdk_dynamodb::config::Builder::from(&self.config), settings))
    }

    /// The state machine's ARN.
    ///
    /// # Errors
    /// If it is not known.
    pub fn state_machine(&self) -> Result<&str> {
        let unknown = "the state machine is unknown: set STATE_MACHINE_ARN or give --state-machine";
        self.targets.state_machine.as_deref().with_context(|| format!("{unknown}; {LOCAL}"))
    }

    /// The address of the tracing tool.
    pub fn traces_url(&self) -> Option<&str> {
        self.targets.traces_url.as_deref()
    }
}
