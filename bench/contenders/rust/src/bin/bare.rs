//! The AWS SDK with no runtime around it: puts the events of INVOCATIONS invocations, CONCURRENCY
//! at a time, on the one thread (`one`) that the runtime gives the SDK, too, or on those that
//! `#[tokio::main]` starts (`many`), and prints what one of them cost. A tenth as many come first
//! and are not counted. The allocator is the runtime's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use agent_runtime as _;
use anyhow::{Context, Result, bail};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use chrono::{SecondsFormat, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::json;
use tokio::runtime::Builder;
use uuid::Uuid;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, invocations, concurrency] = arguments.as_slice() else {
        bail!("usage: bare one|many INVOCATIONS CONCURRENCY");
    };
    let mut runtime = match threads.as_str() {
        "one" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(measure(invocations.parse()?, concurrency.parse()?))
}

async fn measure(invocations: usize, concurrency: usize) -> Result<()> {
    let table = std::env::var("JOURNAL_TABLE_NAME").context("JOURNAL_TABLE_NAME is not set")?;
    let client = Client::new(&aws_config::load_from_env().await);
    let run = async |invocations| -> Result<Vec<Duration>> {
        stream::iter(0..invocations)
            .map(|_| invocation(&client, &table))
            .buffer_unordered(concurrency)
            .try_collect()
            .await
    };
    run(invocations / 10).await?;
    let before = processor_time()?;
    let mut times = run(invocations).await?;
    let cost = (processor_time()? - before) / u32::try_from(invocations)?;
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("no invocation")?;
    println!(
        "{}",
        json!({
            "processor_seconds": cost.as_secs_f64(), "two_puts_seconds": median.as_secs_f64(),
        })
    );
    Ok(())
}

/// Puts the three events one after the other; the time until the answer could be given, after two.
async fn invocation(client: &Client, table: &str) -> Result<Duration> {
    let (session, invocation) = (Uuid::new_v4(), Uuid::new_v4());
    let put = |status: &str, result: Option<&str>| {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let text = |name: &str, value: String| (name.to_owned(), AttributeValue::S(value));
        let mut item = HashMap::from([
            text("PK", format!("SESSION#{session}")),
            text("SK", format!("EVENT#{time}")),
            text("Timestamp", time),
            text("Status", status.to_owned()),
            text("EventId", Uuid::new_v4().to_string()),
            text("InvocationId", invocation.to_string()),
            text("Source", "agent".to_owned()),
        ]);
        item.extend(result.map(|result| text("Result", result.to_owned())));
        client
            .put_item()
            .table_name(table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(PK)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
    };
    let began = Instant::now();
    put("AGENT_ENTRYPOINT_STARTED", None).await?;
    put("AGENT_BACKGROUND_TASK_STARTED", None).await?;
    let answered = began.elapsed();
    put("AGENT_BACKGROUND_TASK_COMPLETED", Some("null")).await?;
    Ok(answered)
}

fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}
