//! DynamoDB's protocol, in front of the embedded engine. The engine's own server would answer a web
//! page too.

use std::path::Path;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use anyhow::{Context, Result};
use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use testing::Table;
use uuid::Uuid;

use crate::server::Server;

/// DynamoDB's limit of a request in bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// Opens the table in `file`, or in memory, and serves it on `port` of 127.0.0.1 (0: any).
///
/// # Errors
/// If the file cannot be opened or the port is taken.
pub fn start(file: Option<&Path>, port: u16) -> Result<(Table, Server)> {
    let database = testing::open_database(file)?;
    let data = Data::new(database.clone());
    let server = Server::start(port, move |routes| {
        routes
            .app_data(data.clone())
            .app_data(web::PayloadConfig::new(MAX_REQUEST_BYTES))
            .route("/", web::post().to(answer));
    })
    .with_context(|| format!("cannot serve DynamoDB on 127.0.0.1:{port}"))?;
    Ok((Table::served_at(database, server.address), server))
}

async fn answer(http: HttpRequest, body: Bytes, database: Data<Database>) -> HttpResponse {
    let target = http.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    let operation = target.and_then(|target| target.strip_prefix("DynamoDB_20120810."));
    let (status, body) = serve(&database, operation.unwrap_or_default(), &body);
    HttpResponse::build(StatusCode::from_u16(status).unwrap_or_default())
        .content_type("application/x-amz-json-1.0")
        .insert_header(("x-amzn-requestid", Uuid::new_v4().to_string()))
        .body(body)
}

/// The status and the body with which the engine answers a request.
#[must_use]
pub fn serve(database: &Database, operation: &str, body: &[u8]) -> (u16, String) {
    match call_operation(database, operation, body) {
        Ok(body) => (200, body),
        Err(error) => (error.status_code(), error.to_json()),
    }
}

fn call_operation(
    database: &Database,
    operation: &str,
    body: &[u8],
) -> Result<String, DynoxideError> {
    match operation {
        "BatchGetItem" => call(body, |request| database.batch_get_item(request)),
        "BatchWriteItem" => call(body, |request| database.batch_write_item(request)),
        "DeleteItem" => call(body, |request| database.delete_item(request)),
        "DescribeTable" => call(body, |request| database.describe_table(request)),
        "DescribeTimeToLive" => call(body, |request| database.describe_time_to_live(request)),
        "ExecuteStatement" => call(body, |request| database.execute_statement(request)),
        "GetItem" => call(body, |request| database.get_item(request)),
        "ListTables" => call(body, |request| database.list_tables(request)),
        "PutItem" => call(body, |request| database.put_item(request)),
        "Query" => call(body, |request| database.query(request)),
        "Scan" => call(body, |request| database.scan(request)),
        "UpdateItem" => call(body, |request| database.update_item(request)),
        _ => {
            let text = format!("on this machine, {operation:?} is not served");
            Err(DynoxideError::ValidationException(text))
        }
    }
}

fn call<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    serve: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let request = serde_json::from_slice(body);
    let request = request.map_err(|error| DynoxideError::ValidationException(error.to_string()))?;
    Ok(serde_json::to_string(&serve(request)?).unwrap_or_default())
}
