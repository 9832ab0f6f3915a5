//! The program for arm64 under user-mode emulation, through one session.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use support::container::Container;

#[tokio::test]
#[ignore = "needs qemu-aarch64 and AGENT_RUNTIME, the path of the program; .ci/slow has both"]
async fn the_program_for_arm64_runs_a_session() {
    let program = std::env::var("AGENT_RUNTIME").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let emulated = folder.path().join("emulated");
    std::fs::write(&emulated, format!("#!/bin/sh\nexec qemu-aarch64 {program}\n")).unwrap();
    std::fs::set_permissions(&emulated, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = "sh -c 'cat; echo started plan two files >&3'";
    let container = Container::of(Path::new(&emulated), command, &[]).await;
    let end = container.run(&json!({"prompt": "hi"})).await;
    assert_eq!(end.result.as_deref(), Some(r#"{"prompt":"hi"}"#));
    let events = container.events(&end.session_id().unwrap()).await;
    assert_eq!(events.len(), 4, "{events:?}");
}
