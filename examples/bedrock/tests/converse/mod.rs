//! A service that speaks Converse's wire format, by script.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test support")]

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, Json, Path};
use actix_web::{App, HttpResponse, HttpServer};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

pub const MODEL: &str = "test.model-v1:0";

/// Status, the error's code if it is one, and body.
pub type Answer = (u16, &'static str, Value);

/// Answers by script, and keeps what it was asked.
pub struct Converse {
    script: Data<Script>,
    pub endpoint: String,
    server: ServerHandle,
}

struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Value>>,
}

impl Converse {
    pub fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        let script = Data::new(Script { answers, asked: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let data = script.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/model/{model}/converse", web::post().to(converse))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { script, endpoint, server: handle }
    }

    /// Stops it; the requests that it got.
    pub async fn stop(self) -> Vec<Value> {
        self.server.stop(false).await;
        self.script.asked.lock().unwrap().clone()
    }
}

async fn converse(model: Path<String>, request: Json<Value>, script: Data<Script>) -> HttpResponse {
    assert_eq!(*model, MODEL);
    let request = request.into_inner();
    let messages = request["messages"].as_array().unwrap().iter();
    let blocks = messages.flat_map(|message| message["content"].as_array().unwrap());
    let blank = |block: &Value| block["text"].as_str().is_some_and(|text| text.trim().is_empty());
    let refused = blocks.into_iter().any(blank);
    script.asked.lock().unwrap().push(request);
    let mut answers = script.answers.lock().unwrap();
    // The last one is given again and again, as a service that throttles does.
    let (status, code, body) = match answers.len() {
        _ if refused => {
            let message = "The text field in the ContentBlock object is blank.";
            (400, "ValidationException", json!({ "message": message }))
        }
        1 => answers[0].clone(),
        _ => answers.pop_front().unwrap(),
    };
    if code == CUT {
        let half = stream::once(async { Ok(Bytes::from("{\"output\"")) });
        // Later, so that the head of the answer is on its way.
        let cut = stream::once(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(std::io::Error::other("cut"))
        });
        return HttpResponse::Ok().streaming(half.chain(cut));
    }
    let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    if !code.is_empty() {
        answer.insert_header(("x-amzn-errortype", code));
        answer.insert_header(("x-amzn-requestid", "request-1"));
    }
    answer.json(body)
}

/// Stands for an answer whose head comes and whose body breaks off.
const CUT: &str = "cut";

pub fn cut() -> Answer {
    (200, CUT, Value::Null)
}

pub fn answer(stop_reason: &str, content: Value) -> Answer {
    let body = json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop_reason,
        "usage": {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15},
        "metrics": {"latencyMs": 7},
    });
    (200, "", body)
}

pub fn tool_use(id: &str, name: &str, input: Value) -> Value {
    json!({"toolUse": {"toolUseId": id, "name": name, "input": input}})
}
