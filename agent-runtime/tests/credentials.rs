//! Credentials from the metadata service of AgentCore's machine, as the real SDK asks for them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent_runtime::SESSION_HEADER;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use support::{eventually, open_table, session_id};
use testing::{Program, Table};

/// How the service answers the request for its token.
#[derive(Clone, Copy, PartialEq)]
enum Token {
    Given,
    NotAllowed,
    WithoutTtl,
    Hanging,
}

/// A metadata service: where it listens, and how many credentials it has given. They are good for
/// four seconds.
fn metadata(token: Token) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || answer(stream.unwrap(), token, &counter));
        }
    });
    (endpoint, given)
}

fn answer(mut stream: TcpStream, token: Token, given: &AtomicUsize) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else { return };
    while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
    let (status, header, body) =
        match (token, request.starts_with("PUT"), request.contains("/agent ")) {
            (Token::NotAllowed, true, _) => ("405 Method Not Allowed", "", String::new()),
            (Token::WithoutTtl, true, _) => ("200 OK", "", "token".to_owned()),
            (Token::Hanging, true, _) => return std::thread::sleep(Duration::from_secs(60)),
            (_, true, _) => {
                ("200 OK", "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", "token".to_owned())
            }
            (_, false, false) => ("200 OK", "", "agent".to_owned()),
            (_, false, true) => {
                given.fetch_add(1, Ordering::SeqCst);
                let now = Utc::now();
                let utc = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
                let body = json!({
                    "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": utc(now),
                    "AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "token",
                    "Expiration": utc(now + TimeDelta::seconds(4)),
                });
                ("200 OK", "", body.to_string())
            }
        };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{header}");
    let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
}

/// A container whose credentials come from there; and how it answers an invocation.
async fn invoke(endpoint: &str, table: &Table, command: &str) -> (Program, String, Value) {
    let environment = [
        ("AGENT_COMMAND", command),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint),
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    let program = Path::new(env!("CARGO_BIN_EXE_agent-runtime"));
    let program = Program::start(program, table, &environment).await;
    let id = session_id().to_string();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{}/invocations", program.url)).header(SESSION_HEADER, &id);
    let answer = request.body("{}").send().await.unwrap().json().await.unwrap();
    (program, id, answer)
}

#[tokio::test]
async fn a_metadata_service_that_refuses_is_named_with_its_status_in_time() {
    let table = Table::open(None, 0).await.unwrap();
    for (token, said) in [
        (Token::NotAllowed, "(HTTP 405)"),
        (Token::WithoutTtl, "did not contain a TTL header (HTTP 200)"),
        (Token::Hanging, "could not communicate with IMDS"),
    ] {
        let start = Instant::now();
        let (_program, _, answer) = invoke(&metadata(token).0, &table, "cat").await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("no valid AWS credentials") && error.contains(said), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{said}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn credentials_that_expire_in_the_middle_of_a_task_are_asked_for_again() {
    let table = Table::open(None, 0).await.unwrap();
    let (endpoint, given) = metadata(Token::Given);
    let (_program, id, answer) = invoke(&endpoint, &table, "sleep 5").await;
    assert_eq!(answer["status"], "started", "{answer}");
    let before = given.load(Ordering::SeqCst);
    eventually("the end", async || {
        let events = open_table(&table).events(&id.parse().unwrap()).await.unwrap();
        events.into_iter().find(|event| event.status.as_str().ends_with("TASK_COMPLETED"))
    })
    .await;
    assert!(given.load(Ordering::SeqCst) > before, "{before}");
}
