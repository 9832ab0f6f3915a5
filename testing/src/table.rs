//! The journal's table on an embedded DynamoDB engine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Credentials, Region};
use dynoxide::Database;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The table's name on this machine.
pub const TABLE_NAME: &str = "agent-journal";
/// The region that everything on this machine is told.
pub const REGION: &str = "us-east-1";
/// The access key and secret that everything on this machine uses; the engine accepts any.
pub const CREDENTIAL: &str = "local";

/// A running engine with the journal's table. Dropping it stops the server.
pub struct Table {
    /// The engine itself, for the state machine's own service calls.
    pub database: Database,
    /// Where the engine speaks DynamoDB's protocol.
    pub address: SocketAddr,
    server: Mutex<Option<Server>>,
}

/// The server's task, which ends when the sender is dropped.
struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), String>>,
}

impl Table {
    /// Opens the table in `file`, or in memory, and serves it on `port` of 127.0.0.1 (0: any).
    ///
    /// # Errors
    /// If the file cannot be opened or the port is taken.
    pub async fn open(file: Option<&Path>, port: u16) -> Result<Self> {
        let database = open_database(file)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("cannot serve DynamoDB on 127.0.0.1:{port}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(dynoxide::server::serve_with_shutdown(
            tokio::net::TcpListener::from_std(listener)?,
            database.clone(),
            async {
                let _ = stopped.await;
            },
        ));
        Ok(Self { database, address, server: Mutex::new(Some(Server { stop, task })) })
    }

    /// A table that somebody else serves at this address.
    #[must_use]
    pub fn served_at(database: Database, address: SocketAddr) -> Self {
        Self { database, address, server: Mutex::new(None) }
    }

    /// The endpoint for `AWS_ENDPOINT_URL_DYNAMODB` and `--endpoint-url`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An SDK configuration that reaches the table.
    #[must_use]
    pub fn client_config(&self) -> Builder {
        Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(CREDENTIAL, CREDENTIAL, None, None, "local"))
            .endpoint_url(self.endpoint())
    }

    /// Stops the server after the requests that are under way, which get a second.
    pub async fn close(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Server { stop, mut task }) = server {
            drop(stop);
            if tokio::time::timeout(Duration::from_secs(1), &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Opens the engine in `file`, or in memory, with the journal's table.
///
/// # Errors
/// If the file cannot be opened.
pub fn open_database(file: Option<&Path>) -> Result<Database> {
    let database = match file {
        None => Database::memory()?,
        Some(file) => {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot create {}", folder.display()))?;
            }
            let path = file.to_str().context("the database's path is not UTF-8")?;
            Database::new(path).with_context(|| format!("cannot open {path}"))?
        }
    };
    create_table(&database, TABLE_NAME)?;
    Ok(database)
}

/// Creates a journal's table as `deploy/` does, unless it is there.
///
/// # Errors
/// If the engine refuses.
pub fn create_table(database: &Database, name: &str) -> Result<()> {
    let request = json!({
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "PK", "AttributeType": "S"},
            {"AttributeName": "SK", "AttributeType": "S"},
        ],
        "KeySchema": [
            {"AttributeName": "PK", "KeyType": "HASH"},
            {"AttributeName": "SK", "KeyType": "RANGE"},
        ],
    });
    if database.get_table_metadata(name)?.is_some() {
        return Ok(());
    }
    database.create_table(serde_json::from_value(request)?)?;
    let time_to_live = json!({
        "TableName": name,
        "TimeToLiveSpecification": {"AttributeName": "ExpiresAt", "Enabled": true},
    });
    database.update_time_to_live(serde_json::from_value(time_to_live)?)?;
    Ok(())
}
