//! The metadata service of AgentCore's machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;

/// How the service answers the request for its token.
#[derive(Clone, Copy, PartialEq)]
pub enum Token {
    Given,
    NotAllowed,
    WithoutTtl,
    Hanging,
}

/// A metadata service: where it listens, and how many credentials it has given. They are good for
/// four seconds.
pub fn metadata(token: Token) -> (String, Arc<AtomicUsize>) {
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

/// What leads a process to this service, and to no other credentials.
pub fn environment(endpoint: &str) -> [(&str, &str); 6] {
    [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint),
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ]
}
