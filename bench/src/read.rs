//! Reading a session of 10,000 events, beside the paginated query that does nothing with its items.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use journal::{Draft, Journal, SORT_KEY_PREFIX, SessionId, Settings, Source, Status};
use testing::{TABLE_NAME, Table};
use uuid::Uuid;

use crate::table::{Row, Target, median, milliseconds};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 15;
const WITHIN: Duration = Duration::from_secs(10);

pub async fn measure() -> Result<Vec<Row>> {
    let table = Table::open(None, 0).await?;
    let settings = Settings { table_name: TABLE_NAME.to_owned(), retention_days: None };
    let journal = Journal::new(table.client_config(), settings);
    let client = Client::from_conf(table.client_config().build());
    let session: SessionId = Uuid::new_v4().to_string().parse()?;
    let writer = journal.session(session.clone(), "bench", Source::Agent);
    for _ in 0..EVENTS {
        let draft = Draft::new(Status::AgentEntrypointStarted);
        writer.append(draft, None, WITHIN).await?;
    }
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let began = Instant::now();
        // Neither is always the first: ours, raw, raw, ours.
        let (times, read) = match round % 4 {
            0 | 3 => (&mut ours, journal.events(&session).await?.len()),
            _ => (&mut raw, query(&client, &session).await?),
        };
        times.push(milliseconds(began.elapsed()));
        ensure!(read == EVENTS, "events are missing");
    }
    let (ours, raw) = (median(&ours), median(&raw));
    let (read, query) = ("read of a session of 10,000 events", ("raw paginated query", raw));
    let each = (ours - raw) * 1e3 / EVENTS as f64;
    Ok(vec![
        Row::ratio(read, "ms", ours, query, Target::AtMost(1.2)),
        Row::value("what the journal adds to it, an event", format!("{each:.2} µs")),
    ])
}

/// Reads a session's pages and counts their items.
pub async fn query(client: &Client, session: &SessionId) -> Result<usize> {
    let mut pages = client
        .query()
        .table_name(TABLE_NAME)
        .consistent_read(true)
        .key_condition_expression("PK = :session AND begins_with(SK, :event)")
        .expression_attribute_values(":session", AttributeValue::S(session.partition_key()))
        .expression_attribute_values(":event", AttributeValue::S(SORT_KEY_PREFIX.to_owned()))
        .into_paginator()
        .send();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        count += page?.items().len();
    }
    Ok(count)
}
