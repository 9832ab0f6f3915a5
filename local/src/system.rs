//! The whole system, put together.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use dynoxide::DynoxideError;
use journal::Journal;
use serde_json::{Value, json};
use workflow::Definition;

use crate::asl::{Execution, Outcome, Resource, ServiceError, Services, StateMachine};
use crate::container::Container;
use crate::front_door;
use crate::lambda::Lambda;
use crate::process::Spec;
use crate::table::{CREDENTIAL, REGION, TABLE_NAME, Table};

/// The hidden subcommand under which this executable is the agent-runtime.
pub const AGENT: &str = "agent-runtime-process";
/// The hidden subcommand under which this executable is the invoker.
pub const INVOKER: &str = "invoker-process";

const AGENT_RUNTIME_ARN: &str =
    "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/local_agent-0000000000";

/// What the system is started with.
pub struct Options {
    /// The executable that becomes the agent-runtime and the invoker.
    pub program: PathBuf,
    /// Folder of the database and the logs; `None` keeps the database in memory.
    pub database: Option<PathBuf>,
    /// Where the children's logs go.
    pub logs: PathBuf,
    /// Port of the agent's entrypoint; 0 takes a free one.
    pub agent_port: u16,
    /// Port of DynamoDB; 0 takes a free one.
    pub dynamodb_port: u16,
    /// The agent's command.
    pub agent_command: String,
    /// Polls after which the workflow gives a session up.
    pub max_poll_attempts: u32,
    /// Days until an event may expire; `None` keeps events for ever.
    pub retention_days: Option<u32>,
    /// The collector to which the children send spans and metrics (`OTEL_EXPORTER_OTLP_ENDPOINT`);
    /// `None` leaves it to the environment.
    pub otlp: Option<String>,
    /// Whether the children's logs are shown on stderr.
    pub echo: bool,
}

/// The running system.
pub struct System {
    /// The journal's table.
    pub table: Table,
    /// Where `curl` reaches the entrypoint: `host:port`; empty if the agent-runtime is not ours.
    pub agent_address: String,
    agent: Option<Container>,
    lambda: Lambda,
    machine: StateMachine,
}

impl System {
    /// Starts everything.
    ///
    /// # Errors
    /// If a port is taken, a child does not start, or the state machine cannot be run here.
    pub async fn start(options: &Options) -> Result<Self> {
        let table = Table::open(options.database.as_deref(), options.dynamodb_port).await?;
        let level =
            std::env::var("RUST_LOG").unwrap_or_else(|_| "info,actix_server=warn".to_owned());
        let environment = [
            // Its log tells where it listens, whatever the user wants to see of the rest.
            ("RUST_LOG", format!("{level},agent_runtime::run=info")),
            ("HOST", "127.0.0.1".to_owned()),
            ("AGENT_COMMAND", options.agent_command.clone()),
        ];
        let spec = spec(options, &table, AGENT, environment);
        let agent = Container::start(spec, &options.agent_port.to_string()).await?;
        let front_door = front_door::start(&agent.address)?;
        let system = Self::around(options, table, front_door).await?;
        Ok(Self { agent_address: agent.address.clone(), agent: Some(agent), ..system })
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
            poll_min_seconds: 1,
            poll_max_seconds: 60,
            max_poll_attempts: options.max_poll_attempts,
        };
        let machine = StateMachine::load(&definition.render()?)?;
        let environment = [
            ("AGENT_RUNTIME_ARN", AGENT_RUNTIME_ARN.to_owned()),
            ("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", format!("http://{front_door}")),
        ];
        let lambda = Lambda::start(spec(options, &table, INVOKER, environment)).await?;
        Ok(Self { table, agent_address: String::new(), agent: None, lambda, machine })
    }

    /// The journal, for a reader.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.table.journal()
    }

    /// Runs one execution of the state machine.
    pub async fn run(&self, execution: &Execution) -> Outcome {
        self.run_with(execution, self).await
    }

    /// The same with services of the caller's, such as this system's with faults.
    pub async fn run_with(&self, execution: &Execution, services: &impl Services) -> Outcome {
        execution.run(&self.machine, services).await.0
    }

    /// Resolves when the agent-runtime has ended although nobody stopped it, with how.
    pub async fn agent_ended(&self) -> String {
        match &self.agent {
            Some(agent) => agent.process().ended().await,
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

    /// The agent-runtime's process id, if it is a child of this process.
    #[must_use]
    pub fn agent_process_id(&self) -> Option<i32> {
        self.agent.as_ref().map(|agent| agent.process().id())
    }

    /// Resolves when the invoker that was started last has ended.
    pub async fn invoker_ended(&self) {
        self.lambda.ended().await;
    }

    /// The process id of the invoker that was started last.
    #[must_use]
    pub fn invoker_process_id(&self) -> i32 {
        self.lambda.process_id()
    }

    /// Stops everything: first the processes, so that they can write their last events, last the
    /// database.
    pub async fn stop(&self) {
        let agent = async {
            if let Some(agent) = &self.agent {
                agent.process().stop().await;
            }
        };
        tokio::join!(agent, self.lambda.stop());
        self.table.close().await;
    }
}

impl Services for System {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        let database = &self.table.database;
        match resource {
            Resource::PutItem => {
                answer(arguments, "DynamoDB", "AmazonDynamoDBException", |request| {
                    database.put_item(request)
                })
            }
            Resource::Query => answer(arguments, "DynamoDb", "DynamoDbException", |request| {
                database.query(request)
            }),
            Resource::Invoke => {
                let payload = arguments.get("Payload").cloned().unwrap_or_default();
                let answer = self.lambda.invoke(payload).await?;
                Ok(json!({"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": answer}))
            }
        }
    }
}

/// Calls the engine with a state's arguments. Errors are named as Step Functions names them:
/// `prefix`, and the exception's name or for a validation error the `fallback`.
fn answer<Q: serde::de::DeserializeOwned, A: serde::Serialize>(
    arguments: Value,
    prefix: &str,
    fallback: &str,
    call: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<Value, ServiceError> {
    let failure =
        |name: &str, cause: String| ServiceError { error: format!("{prefix}.{name}"), cause };
    let request =
        serde_json::from_value(arguments).map_err(|error| failure(fallback, error.to_string()))?;
    let answer = call(request).map_err(|error| {
        let name = error.error_type().rsplit('#').next().unwrap_or_default();
        let name = if name == "ValidationException" { fallback } else { name };
        failure(name, error.to_string())
    })?;
    serde_json::to_value(answer).map_err(|error| failure(fallback, error.to_string()))
}

fn spec<const N: usize>(
    options: &Options,
    table: &Table,
    subcommand: &'static str,
    own: [(&str, String); N],
) -> Spec {
    let shared = [
        ("JOURNAL_TABLE_NAME", TABLE_NAME.to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", table.endpoint()),
        // A user's setting must not lead the children to the real AWS.
        ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", CREDENTIAL.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL.to_owned()),
        // Empty counts as absent.
        (
            "JOURNAL_RETENTION_DAYS",
            options.retention_days.map(|days| days.to_string()).unwrap_or_default(),
        ),
    ];
    let otlp = options.otlp.iter().flat_map(|endpoint| {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.clone()),
            // Those of the signals would go before it; empty counts as absent.
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", String::new()),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", String::new()),
            // Who looks at a session now wants to see its spans soon.
            ("OTEL_BSP_SCHEDULE_DELAY", "500".to_owned()),
        ]
    });
    let environment =
        shared.into_iter().chain(own).chain(otlp).map(|(name, value)| (name.to_owned(), value));
    Spec {
        program: options.program.clone(),
        subcommand,
        environment: environment.collect(),
        log: options.logs.join(format!("{subcommand}.log")),
        echo: options.echo,
    }
}
