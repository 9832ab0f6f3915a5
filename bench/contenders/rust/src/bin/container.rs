//! A user's container: an agent that does nothing, or waits for the point in time in its input.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_runtime::{Agent, AgentError, Invocation};
use serde_json::Value;

struct Idle;

impl Agent for Idle {
    type Output = Value;

    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        if let Some(until) = invocation.input.read::<Value>()?.get("until").and_then(Value::as_u64)
        {
            let until = UNIX_EPOCH + Duration::from_secs(until);
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left).await;
        }
        Ok(Value::Null)
    }
}

fn main() -> ExitCode {
    agent_runtime::run(Idle)
}
