//! The Lambda Runtime API, and the invoker as its function:
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Json, JsonConfig};
use anyhow::Result;
use serde_json::{Value, json};
use testing::{Process, Spec};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::asl::ServiceError;
use crate::server::Server;

/// The function's timeout.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Most invocations that run at the same time. Further ones wait.
const CONCURRENCY: usize = 10;

/// A function. Each of its execution environments runs one invocation at a time.
pub struct Lambda {
    spec: Spec,
    turns: Semaphore,
    idle: Mutex<Vec<Environment>>,
    /// The process that was started last.
    newest: Mutex<Arc<Process>>,
}

/// A process, and the Runtime API that it alone uses, for one invocation at a time.
struct Environment {
    process: Arc<Process>,
    server: Server,
    invocations: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Answer>,
}

/// The other ends of an environment's channels.
struct Api {
    invocations: tokio::sync::Mutex<mpsc::Receiver<Value>>,
    answers: mpsc::Sender<Answer>,
}

type Answer = Result<Value, ServiceError>;

impl Lambda {
    /// Starts the function; `spec` is its process, without the Runtime API's variables.
    ///
    /// # Errors
    /// If no port can be had or the process cannot be started.
    pub fn start(spec: Spec) -> Result<Self> {
        let environment = Environment::start(&spec)?;
        let newest = Mutex::new(Arc::clone(&environment.process));
        let idle = Mutex::new(vec![environment]);
        Ok(Self { spec, turns: Semaphore::new(CONCURRENCY), idle, newest })
    }

    /// Invokes the function and waits for its answer.
    ///
    /// # Errors
    /// With the function's own `errorType`, `Sandbox.Timedout` or `Runtime.ExitError`, as Step
    /// Functions reports them.
    pub async fn invoke(&self, payload: Value) -> Answer {
        let exit = |error: String| function_error("Runtime.ExitError", &error);
        let _turn = self.turns.acquire().await.map_err(|error| exit(error.to_string()))?;
        let mut environment = match self.idle() {
            Some(environment) => environment,
            None => {
                let new =
                    Environment::start(&self.spec).map_err(|error| exit(error.to_string()))?;
                *lock(&self.newest) = Arc::clone(&new.process);
                new
            }
        };
        // The channel has room: the environment is idle.
        let _ = environment.invocations.send(payload).await;
        // If it fails, dropping it kills the process.
        let answer = tokio::select! {
            Some(answer) = environment.answers.recv() => answer,
            how = environment.process.ended() => {
                return Err(exit(format!("the invoker ended: {how}")));
            }
            () = tokio::time::sleep(TIMEOUT) => {
                let message = format!("Task timed out after {} seconds", TIMEOUT.as_secs());
                return Err(function_error("Sandbox.Timedout", &message));
            }
        };
        lock(&self.idle).push(environment);
        answer
    }

    fn idle(&self) -> Option<Environment> {
        let mut idle = lock(&self.idle);
        idle.retain(|environment| !environment.process.has_ended());
        idle.pop()
    }

    /// The process that was started last.
    pub fn newest(&self) -> Arc<Process> {
        Arc::clone(&lock(&self.newest))
    }

    /// Stops the function.
    pub async fn stop(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        futures_util::future::join_all(idle.iter().map(|it| it.process.stop())).await;
    }
}

impl Environment {
    fn start(spec: &Spec) -> Result<Self> {
        let (invocations, taken) = mpsc::channel(1);
        let (answered, answers) = mpsc::channel(1);
        let api = Api { invocations: tokio::sync::Mutex::new(taken), answers: answered };
        let api = Data::new(api);
        let server = Server::start(0, move |routes| {
            routes
                .app_data(api.clone())
                .app_data(JsonConfig::default().content_type_required(false))
                .service(
                    web::scope("/2018-06-01/runtime")
                        .route("/invocation/next", web::get().to(next_invocation))
                        .route("/invocation/{id}/response", web::post().to(response))
                        .route("/invocation/{id}/error", web::post().to(error)),
                );
        })?;
        let address = server.address.to_string();
        let mut spec = spec.clone();
        let variables = [
            ("AWS_LAMBDA_RUNTIME_API", &*address),
            ("AWS_LAMBDA_FUNCTION_NAME", "invoker"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ];
        spec.environment.extend(variables.map(|(name, it)| (name.to_owned(), it.to_owned())));
        let (process, _) = Process::start(&spec)?;
        Ok(Self { process: Arc::new(process), server, invocations, answers })
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        drop(self.server.stop());
        self.process.kill();
    }
}

async fn next_invocation(api: Data<Api>) -> HttpResponse {
    let Some(payload) = api.invocations.lock().await.recv().await else {
        return HttpResponse::Gone().finish();
    };
    let deadline = (SystemTime::now() + TIMEOUT).duration_since(UNIX_EPOCH).unwrap_or_default();
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:invoker";
    HttpResponse::Ok()
        .insert_header(("Lambda-Runtime-Aws-Request-Id", Uuid::new_v4().to_string()))
        .insert_header(("Lambda-Runtime-Deadline-Ms", deadline.as_millis().to_string()))
        .insert_header(("Lambda-Runtime-Invoked-Function-Arn", arn))
        .json(payload)
}

async fn response(body: Json<Value>, api: Data<Api>) -> HttpResponse {
    answer(&api, Ok(body.into_inner())).await
}

async fn error(body: Json<Value>, api: Data<Api>) -> HttpResponse {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    answer(&api, Err(function_error(text("errorType"), text("errorMessage")))).await
}

async fn answer(api: &Api, answer: Answer) -> HttpResponse {
    // An environment that nobody waits for is gone.
    let _ = api.answers.send(answer).await;
    HttpResponse::Accepted().json(json!({"status": "OK"}))
}

fn function_error(error_type: &str, message: &str) -> ServiceError {
    let cause = json!({"errorType": error_type, "errorMessage": message});
    ServiceError { error: error_type.to_owned(), cause: cause.to_string() }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
