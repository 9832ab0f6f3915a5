//! AgentCore's platform V2: a container is snapshotted at its first ping, and goes on when the snapshot is
//! restored, perhaps days later. Here it is stopped, and its wall clock is put forward by a day; the
//! monotonic clock is not, as in a snapshot.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::container::Container;
use support::metadata::{Token, environment, metadata};
use support::session_id;

const DAY: u64 = 86_400;

fn library() -> String {
    std::env::var("LIBFAKETIME").unwrap_or_else(|_| {
        unreachable!("LIBFAKETIME must name libfaketime.so.1; .ci/run installs it and sets this")
    })
}

async fn ping(container: &Container) -> (String, u64) {
    let url = format!("{}/ping", container.program.url);
    let answer: Value = container.client.get(url).send().await.unwrap().json().await.unwrap();
    let time = answer["time_of_last_update"].as_u64().unwrap();
    (answer["status"].as_str().unwrap().to_owned(), time)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A container whose wall clock is that of a file, and the file.
async fn container(endpoint: &str, folder: &tempfile::TempDir) -> (Container, PathBuf) {
    let (clock, library) = (folder.path().join("clock"), library());
    std::fs::write(&clock, "+0").unwrap();
    let faked = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let environment = [&environment(endpoint)[..], &faked].concat();
    (Container::start_with("cat", &environment).await, clock)
}

#[tokio::test]
#[ignore = "needs libfaketime: LIBFAKETIME=path cargo test -p agent-runtime --test snapshot -- --ignored"]
async fn a_container_that_goes_on_a_day_later_works_and_does_not_look_idle() {
    let (endpoint, given) = metadata(Token::Given);
    let folder = tempfile::tempdir().unwrap();
    let (container, clock) = container(&endpoint, &folder).await;
    let (status, changed_at) = ping(&container).await;
    assert_eq!((status.as_str(), now() - changed_at < 30), ("Healthy", true));
    assert_eq!(given.load(Ordering::SeqCst), 0, "no credential is fetched before it is needed");
    let sleep_a_day = |day: u64| {
        container.program.signal(Signal::SIGSTOP);
        std::fs::write(&clock, format!("+{}", day * DAY)).unwrap();
        container.program.signal(Signal::SIGCONT);
    };
    sleep_a_day(1);
    let (status, changed_at) = ping(&container).await;
    assert_eq!(status, "Healthy");
    assert!(now() + DAY - changed_at < 30, "it looks idle for {} s", now() + DAY - changed_at);
    // Pings that come in time change nothing.
    assert_eq!(ping(&container).await.1, changed_at);
    assert!(container.run(&json!({"n": 1})).await.result.is_some());
    // Credentials that were fetched before are long expired.
    let before = given.load(Ordering::SeqCst);
    sleep_a_day(2);
    assert!(container.run(&json!({"n": 2})).await.result.is_some());
    assert!(given.load(Ordering::SeqCst) > before);
}

#[tokio::test]
#[ignore = "needs libfaketime: LIBFAKETIME=path cargo test -p agent-runtime --test snapshot -- --ignored"]
async fn two_containers_that_start_alike_draw_different_ids() {
    let (endpoint, _) = metadata(Token::Given);
    let folder = tempfile::tempdir().unwrap();
    let mut drawn = Vec::new();
    for _ in 0..2 {
        let (container, _) = container(&endpoint, &folder).await;
        let id = session_id();
        let (_, answer) = container.post(&id, &json!({})).await;
        drawn.push(answer["task_id"].as_str().unwrap().to_owned());
        // What it draws for its events.
        container.end(&id).await;
        drawn.extend(container.events(&id).await.into_iter().map(|event| event.event_id));
    }
    let all = drawn.len();
    drawn.sort();
    drawn.dedup();
    assert_eq!((all, drawn.len()), (8, 8), "{drawn:?}");
}
