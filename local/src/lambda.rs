//! The Lambda Runtime API, and the invoker as its function.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Result;
use lambda_simulator::{InvocationBuilder, InvocationStatus, Simulator};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::asl::ServiceError;
use testing::{Process, Spec};

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often a running invocation is looked at: the simulator's own wait can miss its end.
const LOOK: Duration = Duration::from_millis(5);

/// A function with one execution environment, which is replaced when it times out or dies.
pub struct Lambda {
    spec: Spec,
    environment: Mutex<Option<Environment>>,
    process_id: AtomicI32,
}

/// The Runtime API and the one process that uses it. They go together: the simulator would hand
/// the next invocation to the connection of a process that has died.
struct Environment {
    simulator: Simulator,
    process: Process,
}

impl Environment {
    async fn start(spec: &Spec) -> Result<Self> {
        let simulator = Simulator::builder()
            .function_name("invoker")
            .region(testing::REGION)
            .invocation_timeout(TIMEOUT)
            .build()
            .await?;
        let mut spec = spec.clone();
        // The simulator would replace the search paths.
        let own = ["PATH", "LD_LIBRARY_PATH", "LANG", "TZ"];
        let variables = simulator.lambda_env_vars().into_iter();
        spec.environment.extend(variables.filter(|(name, _)| !own.contains(&name.as_str())));
        let (process, _) = Process::start(&spec)?;
        Ok(Self { simulator, process })
    }
}

impl Lambda {
    /// Starts the function; `spec` is its process, without the Runtime API's variables.
    ///
    /// # Errors
    /// If no port can be had or the process cannot be started.
    pub async fn start(spec: Spec) -> Result<Self> {
        let environment = Environment::start(&spec).await?;
        let process_id = AtomicI32::new(environment.process.id());
        Ok(Self { spec, environment: Mutex::new(Some(environment)), process_id })
    }

    /// Invokes the function and waits for its answer.
    ///
    /// # Errors
    /// With the function's own `errorType`, `Sandbox.Timedout` or `Runtime.ExitError`, as Step
    /// Functions reports them.
    pub async fn invoke(&self, payload: Value) -> Result<Value, ServiceError> {
        // One at a time: there is one execution environment.
        let mut slot = self.environment.lock().await;
        let environment = match slot.take() {
            Some(environment) if !environment.process.has_ended() => environment,
            _ => Environment::start(&self.spec)
                .await
                .map_err(|error| function_error("Runtime.ExitError", &error.to_string()))?,
        };
        let Environment { simulator, process } = slot.insert(environment);
        self.process_id.store(process.id(), Ordering::Relaxed);
        let deadline = Instant::now() + TIMEOUT;
        let invocation = InvocationBuilder::new()
            .payload(payload)
            .timeout_ms(u64::try_from(TIMEOUT.as_millis()).unwrap_or(u64::MAX))
            .build()
            .map_err(|error| function_error("Lambda.Unknown", &error.to_string()))?;
        let id = simulator.enqueue(invocation).await;
        let failure = loop {
            let state = simulator.get_invocation_state(&id).await;
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
        // Dropping the process kills it; the next invocation gets a new environment.
        *slot = None;
        Err(failure)
    }

    /// Resolves when the process that was started last has ended. Invocations wait for it.
    pub async fn ended(&self) {
        if let Some(environment) = self.environment.lock().await.as_ref() {
            environment.process.ended().await;
        }
    }

    /// The id of the process that was started last.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.process_id.load(Ordering::Relaxed)
    }

    /// Stops the function and the Runtime API.
    pub async fn stop(&self) {
        if let Some(Environment { simulator, process }) = self.environment.lock().await.take() {
            process.stop().await;
            simulator.shutdown().await;
        }
    }
}

fn function_error(error_type: &str, message: &str) -> ServiceError {
    let cause = json!({"errorType": error_type, "errorMessage": message});
    ServiceError { error: error_type.to_owned(), cause: cause.to_string() }
}
