//! The invoker behind the Lambda Runtime API.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Result;
use lambda_simulator::{InvocationBuilder, InvocationStatus, Simulator};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::asl::ServiceError;
use crate::process::{Process, Spec};

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often a running invocation is looked at: the simulator's own wait can miss its end.
const LOOK: Duration = Duration::from_millis(5);

/// A function with one execution environment, which is replaced when it times out or dies.
pub struct Lambda {
    simulator: Simulator,
    spec: Spec,
    process: Mutex<Option<Process>>,
    process_id: AtomicI32,
}

impl Lambda {
    /// Starts the Runtime API; `spec` is the function's process, without the API's variables.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(mut spec: Spec) -> Result<Self> {
        let simulator = Simulator::builder()
            .function_name("invoker")
            .region(crate::table::REGION)
            .invocation_timeout(TIMEOUT)
            .build()
            .await?;
        // The simulator would replace the search paths, too.
        let own = ["PATH", "LD_LIBRARY_PATH", "LANG", "TZ"];
        let variables = simulator.lambda_env_vars().into_iter();
        spec.environment.extend(variables.filter(|(name, _)| !own.contains(&name.as_str())));
        let (process, _) = Process::start(&spec)?;
        let process_id = AtomicI32::new(process.id());
        Ok(Self { simulator, spec, process: Mutex::new(Some(process)), process_id })
    }

    /// Invokes the function and waits for its answer.
    ///
    /// # Errors
    /// With the function's own `errorType`, `Sandbox.Timedout` or `Runtime.ExitError`, as Step
    /// Functions reports them.
    pub async fn invoke(&self, payload: Value) -> Result<Value, ServiceError> {
        // One at a time: there is one execution environment.
        let mut slot = self.process.lock().await;
        let process = match slot.take() {
            Some(process) => process,
            None => {
                Process::start(&self.spec)
                    .map_err(|error| function_error("Runtime.ExitError", &error.to_string()))?
                    .0
            }
        };
        self.process_id.store(process.id(), Ordering::Relaxed);
        let process = slot.insert(process);
        let deadline = Instant::now() + TIMEOUT;
        let invocation = InvocationBuilder::new()
            .payload(payload)
            .timeout_ms(u64::try_from(TIMEOUT.as_millis()).unwrap_or(u64::MAX))
            .build()
            .map_err(|error| function_error("Lambda.Unknown", &error.to_string()))?;
        let id = self.simulator.enqueue(invocation).await;
        let failure = loop {
            let state = self.simulator.get_invocation_state(&id).await;
            match state.map(|state| (state.status, state.response, state.error)) {
                Some((InvocationStatus::Success, Some(response), _)) => return Ok(response.payload),
                Some((InvocationStatus::Error, _, Some(error))) => {
                    return Err(function_error(&error.error_type, &error.error_message));
                }
                _ => {}
            }
            tokio::select! {
                status = process.ended() => {
                    break function_error("Runtime.ExitError", &format!("the invoker ended: {status}"));
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            if Instant::now() >= deadline {
                let message = format!("Task timed out after {} seconds", TIMEOUT.as_secs());
                break function_error("Sandbox.Timedout", &message);
            }
        };
        // Dropping the process kills it; the next invocation starts another one.
        *slot = None;
        Err(failure)
    }

    /// The id of the process that was started last.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.process_id.load(Ordering::Relaxed)
    }

    /// Stops the function and the Runtime API.
    pub async fn stop(self) {
        if let Some(process) = self.process.into_inner() {
            process.stop().await;
        }
        self.simulator.shutdown().await;
    }
}

fn function_error(error_type: &str, message: &str) -> ServiceError {
    let cause = json!({"errorType": error_type, "errorMessage": message});
    ServiceError { error: error_type.to_owned(), cause: cause.to_string() }
}
