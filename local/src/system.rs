//! The whole system, put together.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use journal::{Journal, SessionId, Settings};
use testing::{CREDENTIAL, Process, REGION, Spec, TABLE_NAME, Table};
use workflow::Definition;

use crate::agentcore::Containers;
use crate::asl::{Execution, ExecutionEnd, Services, StateMachine};
use crate::container::DirectContainer;
use crate::dynamodb;
use crate::front_door::{self, Behind};
use crate::lambda::Lambda;
use crate::options::{Agent, Options};
use crate::server::Server;

/// The hidden subcommand under which this executable is the agent-runtime.
pub const AGENT: &str = "agent-runtime-process";
/// The hidden subcommand under which this executable is the invoker.
pub const INVOKER: &str = "invoker-process";
/// The hidden subcommand under which this executable becomes the agent's own program.
pub const AGENT_PROGRAM: &str = "agent-program-process";

/// The ARN of the one runtime.
pub const AGENT_RUNTIME_ARN: &str =
    "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/local_agent-0000000000";

/// The running system.
pub struct System {
    /// The journal's table.
    pub table: Table,
    /// Where `curl` reaches the container for direct calls: `host:port`; empty if there is none.
    pub agent_address: String,
    /// AgentCore's front door.
    pub agentcore: SocketAddr,
    agent: Option<DirectContainer>,
    containers: Option<Arc<Containers>>,
    /// Serves the table, if nobody else does.
    dynamodb: Option<Server>,
    pub(crate) lambda: Lambda,
    /// The client with which the state machine calls DynamoDB.
    pub(crate) client: reqwest::Client,
    machine: StateMachine,
}

impl System {
    /// Starts everything.
    ///
    /// # Errors
    /// If a port is taken, a child does not start, or the state machine cannot be run here.
    pub async fn start(options: &Options) -> Result<Self> {
        let (table, server) = dynamodb::start(options.database.as_deref(), options.dynamodb_port)?;
        Ok(Self { dynamodb: Some(server), ..Self::start_on(options, table).await? })
    }

    /// Starts the rest on a table.
    ///
    /// # Errors
    /// As [`System::start`].
    pub async fn start_on(options: &Options, table: Table) -> Result<Self> {
        let level =
            std::env::var("RUST_LOG").unwrap_or_else(|_| "info,actix_server=warn".to_owned());
        let mut environment = vec![
            // Its log must say where it listens, whatever level the user has set.
            ("RUST_LOG", format!("{level},agent_runtime::run=info")),
            ("HOST", "127.0.0.1".to_owned()),
            // The AWS settings of the user are for the agent.
            ("JOURNAL_ENDPOINT_URL", table.endpoint()),
        ];
        let mut arguments = vec![AGENT.to_owned()];
        match &options.agent {
            Agent::Command(command) => environment.push(("AGENT_COMMAND", command.clone())),
            Agent::Server(command) => environment.push(("AGENT_SERVER_COMMAND", command.clone())),
            Agent::Url(url) => environment.push(("AGENT_URL", url.clone())),
            Agent::Program(program) => {
                arguments = vec![AGENT_PROGRAM.to_owned(), program.display().to_string()];
            }
        }
        let lifetime = options.lifecycle.max_lifetime.as_secs().to_string();
        environment.push(("MAX_LIFETIME_SECONDS", lifetime));
        environment.extend(options.container.iter().cloned());
        let spec = Spec { arguments, ..spec(options, AGENT, environment) };
        let agent = match options.agent_port {
            Some(port) => Some(DirectContainer::start(spec.clone(), &port.to_string()).await?),
            None => None,
        };
        let containers = Arc::new(Containers::new(spec, options.lifecycle)?);
        let behind = Behind::Containers(Arc::clone(&containers));
        let front_door = front_door::start_on(options.agentcore_port, behind)?;
        let system = Self::around(options, table, front_door.address).await?;
        let address = agent.as_ref().map(|agent| agent.address.clone());
        let agent_address = address.unwrap_or_default();
        let containers = Some(containers);
        Ok(Self { agent_address, agent, containers, ..system })
    }

    /// Starts the rest around a table and an AgentCore whose front door is at this address.
    ///
    /// # Errors
    /// As [`System::start`].
    pub async fn around(options: &Options, table: Table, front_door: SocketAddr) -> Result<Self> {
        let definition = Definition {
            journal_table_name: TABLE_NAME.to_owned(),
            invoker_function_arn: "invoker".to_owned(),
            journal_retention_days: options.retention_days.unwrap_or(0),
            ..options.workflow.clone()
        };
        let machine = StateMachine::load(&definition.render())?;
        let environment = vec![
            ("AGENT_RUNTIME_ARN", AGENT_RUNTIME_ARN.to_owned()),
            ("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", format!("http://{front_door}")),
            ("AWS_ENDPOINT_URL_DYNAMODB", table.endpoint()),
            // A user's setting must not lead the invoker to the real AWS.
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", CREDENTIAL.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIAL.to_owned()),
        ];
        let lambda = Lambda::start(spec(options, INVOKER, environment))?;
        let agent_address = String::new();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (agentcore, agent, containers, dynamodb) = (front_door, None, None, None);
        Ok(Self {
            table,
            agent_address,
            agentcore,
            agent,
            containers,
            dynamodb,
            lambda,
            client,
            machine,
        })
    }

    /// The journal, for a reader.
    #[must_use]
    pub fn journal(&self) -> Journal {
        let settings = Settings { table_name: TABLE_NAME.to_owned(), retention_days: None };
        Journal::new(self.table.client_config(), settings)
    }

    /// Runs one execution of the state machine.
    pub async fn run(&self, execution: &Execution) -> ExecutionEnd {
        self.run_with(execution, self).await
    }

    /// The same with services of the caller's, such as this system's with faults.
    pub async fn run_with(&self, execution: &Execution, services: &impl Services) -> ExecutionEnd {
        execution.run(&self.machine, services).await.0
    }

    /// The process of the container for direct calls that was started last, if there is one.
    #[must_use]
    pub fn agent(&self) -> Option<Arc<Process>> {
        self.agent.as_ref().map(DirectContainer::process)
    }

    /// Resolves when the container for direct calls has ended although nobody stopped it; the text says how.
    pub async fn agent_ended(&self) -> String {
        match self.agent() {
            Some(agent) => agent.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Starts an agent-runtime on the port of the one that has ended, as AgentCore starts another
    /// container for the next invocation. The tasks of the old one are gone.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn replace_agent(&self) -> Result<()> {
        match &self.agent {
            Some(agent) => agent.replace().await,
            None => Ok(()),
        }
    }

    /// The process of a session's container, if one was started.
    #[must_use]
    pub fn container(&self, session_id: &SessionId) -> Option<Arc<Process>> {
        self.containers.as_ref()?.process(session_id)
    }

    /// The invoker's process that was started last.
    #[must_use]
    pub fn invoker(&self) -> Arc<Process> {
        self.lambda.newest()
    }

    /// Stops everything: first the processes, so that they can write their last events, last the
    /// database.
    pub async fn stop(&self) {
        let agent = async {
            if let Some(agent) = self.agent() {
                agent.stop().await;
            }
        };
        let containers = async {
            if let Some(containers) = &self.containers {
                containers.stop().await;
            }
        };
        tokio::join!(agent, containers, self.lambda.stop());
        self.table.close().await;
        if let Some(server) = &self.dynamodb {
            server.stop().await;
        }
    }
}

/// A child under a hidden subcommand.
fn spec(options: &Options, subcommand: &'static str, own: Vec<(&str, String)>) -> Spec {
    let shared = [
        ("JOURNAL_TABLE_NAME", TABLE_NAME.to_owned()),
        // Empty counts as absent.
        (
            "JOURNAL_RETENTION_DAYS",
            options.retention_days.map(|days| days.to_string()).unwrap_or_default(),
        ),
    ];
    let otlp = options.otlp.iter().flat_map(|endpoint| {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()),
            // This one would win; empty counts as absent.
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", String::new()),
            // Soon, for a person who looks at the session now.
            ("OTEL_BSP_SCHEDULE_DELAY", "500".to_owned()),
        ]
    });
    let environment =
        shared.into_iter().chain(own).chain(otlp).map(|(name, value)| (name.to_owned(), value));
    Spec {
        program: options.executable.clone(),
        arguments: vec![subcommand.to_owned()],
        name: subcommand,
        environment: environment.collect(),
        log: options.logs.join(format!("{subcommand}.log")),
        echo: options.echo,
    }
}
