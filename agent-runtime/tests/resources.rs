//! A container that has little: few file descriptors, no room for its log, large bodies.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use support::container::{Container, PROGRAM};
use support::{eventually, session_id};
use tempfile::TempDir;

/// A script that prepares the process and becomes the program.
fn script(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn with_too_few_file_descriptors_it_says_so_and_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    for limit in [24, 127] {
        let program = script(&folder, &format!("ulimit -n {limit}; exec {PROGRAM}"));
        let environment = [
            ("AGENT_COMMAND", "cat"),
            ("JOURNAL_TABLE_NAME", "agent-journal"),
            ("JOURNAL_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("PORT", "0"),
        ];
        let output = Command::new(program).envs(environment).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let rule = format!("may open {limit} files and needs 128: raise its limit (ulimit -n)\n");
        assert!(said.ends_with(&rule) && said.lines().count() == 1, "{said}");
    }
    // With as many as it needs, eight commands run side by side.
    let program = script(&folder, &format!("ulimit -n 128; exec {PROGRAM}"));
    let command = "sh -c 'sleep 0.5; cat'";
    let container = Container::of(&program, command, &[]).await;
    let ends = join_all((0..8).map(async |n| container.run(&json!(n)).await)).await;
    let results = Vec::from_iter(ends.into_iter().map(|end| end.result.unwrap()));
    assert_eq!(results, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn a_log_for_which_the_disk_has_no_room_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let listening =
        json!({"fields": {"message": "listening", "address": format!("127.0.0.1:{port}")}});
    let text = format!("echo '{listening}' >&2; exec {PROGRAM} 2>/dev/full");
    let program = script(&folder, &text);
    let command = "sh -c 'seq 1000; cat >&2; exit 3'";
    let container = Container::of(&program, command, &[("PORT", &port)]).await;
    let ping = format!("{}/ping", container.program.url);
    eventually("/ping", async || container.client.get(&ping).send().await.ok()).await;
    let end = container.run(&json!("no luck")).await;
    assert_eq!(end.error_message.as_deref(), Some("\"no luck\" (exit status: 3)"));
    container.program.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = tokio::time::timeout(Duration::from_secs(10), container.program.ended());
    assert_eq!(ended.await.unwrap(), "exit status: 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_bodies_of_ten_megabytes_at_once_leave_room_and_ping_answers() {
    let container = Container::start("sh -c 'cat >/dev/null; echo 7'").await;
    let body = format!("[{}0]", r#"{"":0},"#.repeat(1_428_000));
    let ids = [(); 4].map(|()| session_id());
    let calls = join_all(ids.iter().map(async |id| {
        assert_eq!(container.post_bytes(id, body.clone()).await.0, 200);
        assert_eq!(container.end(id).await.result.as_deref(), Some("7"));
    }));
    let (ping, mut times) = (format!("{}/ping", container.program.url), Vec::new());
    let pings = async {
        loop {
            let asked = Instant::now();
            assert_eq!(container.client.get(&ping).send().await.unwrap().status(), 200);
            times.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = calls => {}
        () = pings => {}
    }
    times.sort_unstable();
    let (median, most, peak) =
        (times[times.len() / 2], times[times.len() - 1], container.peak_memory());
    println!("{} pings: {median:?} (median), {most:?} (most); peak memory {peak} kB", times.len());
    assert!(peak < 200_000, "{peak} kB");
    assert!(median < Duration::from_millis(50), "{median:?}");
}
