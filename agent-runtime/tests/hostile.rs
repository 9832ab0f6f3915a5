//! Bad input gets a clear error, and the service goes on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use agent_runtime::{SESSION_HEADER, SessionId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use support::{Dynamo, Fault, Host, MAX_BODY_BYTES, eventually, session_id};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn calm_host() -> Host {
    Host::start(&Dynamo::new(|_| Fault::None))
}

#[tokio::test]
async fn a_bad_body_is_refused_with_its_rule_and_journaled() {
    let host = calm_host();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (body, status, said) in [
        (Vec::new(), 400, "not valid JSON"),
        (b"not json".to_vec(), 400, "not valid JSON"),
        (vec![0xff, 0xfe, 0, 1], 400, "not valid JSON"),
        (b"\"\xff\"".to_vec(), 400, "not valid JSON"),
        (deep.into_bytes(), 400, "deeper than 120 levels"),
        (br#"{"input": 1, "invocation_id": "r", "after": 1e999}"#.to_vec(), 400, "\"after\" must"),
        (vec![b' '; MAX_BODY_BYTES + 1], 413, "larger than 10000000 bytes"),
        (
            br#"{"input": 1, "invocation_id": "r", "environment": {"LD_PRELOAD": "x"}}"#.to_vec(),
            400,
            "SESSION_ID",
        ),
        (json!({"session_id": session_id()}).to_string().into_bytes(), 400, "differs"),
    ] {
        let id = session_id();
        let answer = host.post(&id, body).await;
        assert_eq!(answer.status(), status, "{said}");
        let answer: Value = answer.json().await.unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(said), "{error}");
        let events = host.events(&id).await;
        assert_eq!(
            host.statuses(&id).await,
            ["AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_FAILED"],
            "{said}"
        );
        assert_eq!(events[1].error_message.as_deref(), Some(error));
        assert!(events[1].error_type.is_some());
    }
    assert_eq!(host.invoke(&session_id(), "run-1", json!({"do": "return"})).await.0, 200);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken() {
    let (host, id) = (calm_host(), session_id());
    let frame = json!({"do": "return", "pad": ""}).to_string();
    let body = json!({"do": "return", "pad": "x".repeat(MAX_BODY_BYTES - frame.len())}).to_string();
    assert_eq!(body.len(), MAX_BODY_BYTES);
    assert_eq!(host.post(&id, body).await.status(), 200);
}

#[tokio::test]
async fn an_invalid_or_missing_session_id_is_refused_before_any_write() {
    let host = calm_host();
    let long = "a".repeat(101);
    for id in [
        "", "too-short", &long, "SESSION#0123456789-0123456789-0123456789",
        "-starts-with-a-dash-0123456789-0123456789",
    ] {
        let header = host.client.post(host.url("/invocations")).header(SESSION_HEADER, id);
        let in_body = host
            .client
            .post(host.url("/invocations"))
            .body(json!({"session_id": id, "prompt": "hi"}).to_string());
        for request in [header.body("{}"), in_body] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 400, "{id}");
            let text = answer.text().await.unwrap();
            assert!(text.contains("33 to 100 characters"), "{text}");
        }
    }
    let unicode = host
        .client
        .post(host.url("/invocations"))
        .header(SESSION_HEADER, "é".repeat(40))
        .body("{}");
    assert_eq!(unicode.send().await.unwrap().status(), 400);
    for body in ["{\"prompt\": \"hi\"}", "not json", "[]"] {
        let answer = host.client.post(host.url("/invocations")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400);
    }
    let missing = host
        .client
        .post(host.url("/invocations"))
        .body("{}")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(missing.contains("\\\"session_id\\\": \\\"session-"), "an example: {missing}");
    assert!(host.dynamo.calls().is_empty());
}

#[tokio::test]
async fn two_session_headers_that_differ_are_refused() {
    let host = calm_host();
    let post = || host.client.post(host.url("/invocations")).body("{}");
    let (one, two) = (session_id().to_string(), session_id().to_string());
    let differ = post().header(SESSION_HEADER, &one).header(SESSION_HEADER, &two);
    let answer = differ.send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("two headers that differ"));
    assert!(host.dynamo.calls().is_empty());
    let same = post().header(SESSION_HEADER, &one).header(SESSION_HEADER, &one);
    assert_eq!(same.send().await.unwrap().status(), 200);
}

/// Sends the head of a request and some of its body.
async fn send_head(host: &Host, id: &SessionId, framing: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    let head = format!(
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\n{SESSION_HEADER}: {id}\r\n{framing}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn answer_of(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn broken_chunks_are_answered_400() {
    let (host, id) = (calm_host(), session_id());
    let framing = "Transfer-Encoding: chunked\r\nConnection: close";
    let stream = send_head(&host, &id, framing, "not hex\r\n{}\r\n0\r\n\r\n").await;
    let answer = answer_of(stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_body_whose_rest_comes_after_the_shutdown_began_is_answered() {
    let id = session_id();
    let dynamo = Dynamo::new(|_| Fault::None);
    let mut host = Host::start(&dynamo);
    let framing = "Content-Length: 15\r\nConnection: close\r\nExpect: 100-continue";
    let mut stream = send_head(&host, &id, framing, "{\"do\":").await;
    // The answer to the head alone: it has been taken.
    let mut taken = [0; 25];
    stream.read_exact(&mut taken).await.unwrap();
    assert_eq!(&taken, b"HTTP/1.1 100 Continue\r\n\r\n");
    host.begin_to_stop();
    eventually("the shutdown", async || {
        let post = host.client.post(host.url("/invocations")).body("no JSON").send();
        (post.await.ok()?.status() == 503).then_some(())
    })
    .await;
    stream.write_all(b"\"return\"").await.unwrap();
    stream.write_all(b"}").await.unwrap();
    let answer = answer_of(stream).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let statuses = host.statuses(&id).await;
    assert_eq!(statuses, ["AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_FAILED"]);
}

#[tokio::test]
async fn more_large_bodies_than_there_is_room_for_wait_and_small_ones_do_not() {
    let host = calm_host();
    // Ten that have begun take all the room, whether their length is known or not.
    let mut slow = Vec::new();
    for number in 0..10 {
        let framing = match number % 2 {
            0 => "Content-Length: 9999999\r\n".to_owned(),
            _ => "Transfer-Encoding: chunked\r\n\r\nf4240".to_owned(),
        };
        let part = format!("\"{}", "x".repeat(200_000));
        slow.push(send_head(&host, &session_id(), framing.trim_end(), &part).await);
    }
    let body = json!({"do": "return", "pad": "x".repeat(9_900_000)}).to_string();
    let large = session_id();
    let post = host.post(&large, body);
    tokio::pin!(post);
    // Those that have begun are read beside this one.
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut post).await.is_err(), "no room");
    let small = session_id();
    assert_eq!(host.invoke(&small, "run-1", json!({"do": "return"})).await.0, 200);
    let framing = "Transfer-Encoding: chunked\r\nConnection: close";
    let chunked = "f\r\n{\"do\":\"return\"}\r\n0\r\n\r\n";
    let stream = send_head(&host, &session_id(), framing, chunked).await;
    assert!(answer_of(stream).await.starts_with("HTTP/1.1 200"));
    drop(slow.pop());
    drop(slow.pop());
    assert_eq!(post.await.status(), 200);
}

#[tokio::test]
async fn a_body_that_ends_early_is_answered_once() {
    let (host, id) = (calm_host(), session_id());
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut stream = send_head(&host, &id, framing, "5\r\n").await;
        stream.shutdown().await.unwrap();
        let answer = answer_of(stream).await;
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{answer}");
    }
}

#[tokio::test]
async fn curl_needs_no_header() {
    let (host, id) = (calm_host(), session_id());
    let body = json!({"session_id": id, "do": "return", "value": 7}).to_string();
    let answer = host.client.post(host.url("/invocations")).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(host.terminal(&id).await.result.as_deref(), Some("7"));
}

#[tokio::test]
async fn other_paths_and_methods_get_a_json_error() {
    let host = calm_host();
    let answer = host.client.get(host.url("/other")).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert!(answer.json::<Value>().await.unwrap()["error"].is_string());
}

#[tokio::test]
async fn a_truncated_body_is_journaled_as_a_failure() {
    for head in [
        "Content-Length: 1000\r\n\r\n{\"do\"",
        "Transfer-Encoding: chunked\r\n\r\n6\r\n{\"do\":\r\n5\r\n\"re",
    ] {
        let (host, id) = (calm_host(), session_id());
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        let request = format!(
            "POST /invocations HTTP/1.1\r\nHost: localhost\r\n{SESSION_HEADER}: {id}\r\n{head}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        eventually("the failure", async || {
            (host.statuses(&id).await == ["AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_FAILED"])
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_caller_that_breaks_off_in_the_body_leaves_a_journaled_failure() {
    let host = calm_host();
    // A reset discards what the host has not read yet, so a busy host gets more time to read.
    for pause in [50, 200, 1_000, 5_000] {
        let id = session_id();
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        let head = format!(
            "POST /invocations HTTP/1.1\r\nHost: localhost\r\n{SESSION_HEADER}: {id}\r\nContent-Length: 1000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        stream.set_zero_linger().unwrap();
        drop(stream);
        let until = Instant::now() + Duration::from_millis(pause);
        while Instant::now() < until {
            if host.statuses(&id).await == ["AGENT_ENTRYPOINT_STARTED", "AGENT_ENTRYPOINT_FAILED"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    unreachable!("the failure was not journaled");
}

#[tokio::test]
async fn a_chunked_body_is_taken() {
    let (host, id) = (calm_host(), session_id());
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    let head = format!(
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{SESSION_HEADER}: {id}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream
        .write_all(format!("{head}7\r\n{{\"do\": \r\n9\r\n\"return\"}}\r\n0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn two_hundred_slow_connections_keep_nobody_out() {
    let host = calm_host();
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        let id = session_id();
        // Half of them stop in the head, half in the body.
        let head = format!(
            "POST /invocations HTTP/1.1\r\nHost: localhost\r\n{SESSION_HEADER}: {id}\r\nContent-Length: 100\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"\r\n{").await.unwrap();
        }
        slow.push(stream);
    }
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(host.invoke(&session_id(), "run-1", json!({"do": "return"})).await.0, 200);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn any_body_gets_an_answer_and_no_write_without_a_valid_session() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (host, known) = (calm_host(), session_id());
    let json = prop_oneof![
        any::<Vec<u8>>(),
        "\\PC*".prop_map(String::into_bytes),
        // Near misses of the envelope.
        ("[a-z_]{0,12}", "\\PC{0,40}", "[a-z_]{0,12}", any::<i64>()).prop_map(|(a, b, c, d)| {
            json!({"input": {a: b}, "invocation_id": c, "session_id": d, "after": d})
                .to_string()
                .into_bytes()
        }),
        "\\PC{0,120}".prop_map(|id| json!({"session_id": id, "input": 1}).to_string().into_bytes()),
    ];
    let mut runner =
        TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    runner
        .run(&(json, any::<bool>()), |(body, with_session)| {
            // A task of an earlier body may still write its last event.
            let idle = async || (host.ping().await.0 == "Healthy").then_some(());
            runtime.block_on(eventually("the end of all tasks", idle));
            let before = host.dynamo.calls().len();
            let status = runtime.block_on(async {
                let mut request = host.client.post(host.url("/invocations")).body(body);
                if with_session {
                    request = request.header(SESSION_HEADER, known.as_str());
                }
                request.send().await.unwrap().status().as_u16()
            });
            prop_assert!([200, 400].contains(&status), "{status}");
            if !with_session && status == 400 {
                prop_assert_eq!(host.dynamo.calls().len(), before);
            }
            Ok(())
        })
        .unwrap();
    let (status, _) =
        runtime.block_on(host.invoke(&session_id(), "run-1", json!({"do": "return"})));
    assert_eq!(status, 200, "the service goes on");
}
