//! The examples as `--agent-command`, whole sessions each.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;

use chrono::Utc;
use local::asl::Outcome;
use serde_json::json;
use support::{LOCAL, Stack, execution, failure};
use workflow::explain;
use workflow::history::runs;
use workflow::timeline;

/// The command of each example.
fn examples() -> [String; 3] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    // `cargo test --workspace` builds it beside this executable.
    let rust = Path::new(LOCAL).with_file_name("word-counter");
    assert!(rust.exists(), "cargo build --workspace builds {}", rust.display());
    [rust, folder.join("agent.py"), folder.join("agent.sh")].map(|path| path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_counts_words_and_its_phase_is_in_the_timeline() {
    for command in examples() {
        let stack = Stack::start(&command, 600).await;
        let run = execution(json!({"prompt": "three small words"}));
        let outcome = stack.system.run(&run).await;
        assert_eq!(outcome, Outcome::Succeeded(json!({"words": 3})), "{command}");
        let events = stack.events(&run.name).await;
        let runs = runs(&events);
        let lines: Vec<_> = runs[0].entries.iter().map(timeline::line).collect();
        let phases: Vec<_> = lines.iter().filter(|line| line.contains("TASK_COUNT_")).collect();
        assert_eq!(phases.len(), 2, "{command}: {lines:?}");
        assert!(phases[0].contains("TASK_COUNT_STARTED"), "{command}: {lines:?}");
        assert!(phases[1].ends_with("3 words"), "{command}: {lines:?}");
        stack.system.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_without_a_prompt_fails_in_its_own_words() {
    for command in examples() {
        let stack = Stack::start(&command, 600).await;
        let run = execution(json!({}));
        let (error, cause) = failure(stack.system.run(&run).await);
        assert_eq!(error, "AgentError", "{command}");
        assert!(cause.starts_with("the input has no \"prompt\""), "{command}: {cause}");
        let events = stack.events(&run.name).await;
        let phase = events.iter().find(|event| event.status.as_str() == "TASK_COUNT_FAILED");
        assert_eq!(phase.unwrap().error_message.as_deref(), Some("there is no prompt"));
        let explained = explain(&runs(&events), Utc::now().into());
        let last = explained.lines().find(|line| line.contains("last word")).unwrap();
        assert!(last.starts_with("The agent's last word: TASK_COUNT_FAILED at "), "{explained}");
        assert!(last.ends_with(" s there is no prompt"), "{explained}");
        stack.system.stop().await;
    }
}

#[test]
fn the_readme_has_the_rust_example_in_full() {
    let (readme, example) =
        (include_str!("../../README.md"), include_str!("../../examples/rust/src/main.rs"));
    assert!(example.lines().count() < 40);
    assert!(readme.contains(&format!("```rust\n{example}```\n")));
}
