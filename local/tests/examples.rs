//! The examples, whole sessions each.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;

use chrono::Utc;
use local::asl::ExecutionEnd;
use operator::explain;
use operator::history::runs;
use operator::timeline;
use serde_json::json;
use support::{Stack, execution, failure, sibling};

/// The system with each example as its agent.
async fn stacks() -> [(&'static str, Stack); 3] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let command = |name: &str| folder.join(name).display().to_string();
    [
        ("Rust", Stack::of_program(sibling("word-counter")).await),
        ("Python", Stack::start(&command("agent.py"), 600).await),
        ("shell", Stack::start(&command("agent.sh"), 600).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_counts_words_and_its_phase_is_in_the_timeline() {
    for (language, stack) in stacks().await {
        let run = execution(json!({"prompt": "three small words"}));
        let outcome = stack.system.run(&run).await;
        assert_eq!(outcome, ExecutionEnd::Succeeded(json!({"words": 3})), "{language}");
        let events = stack.events(&run.name).await;
        let runs = runs(&events);
        let lines: Vec<_> = runs[0].entries.iter().map(timeline::line).collect();
        let phases: Vec<_> = lines.iter().filter(|line| line.contains("TASK_COUNT_")).collect();
        assert_eq!(phases.len(), 2, "{language}: {lines:?}");
        assert!(phases[0].contains("TASK_COUNT_STARTED"), "{language}: {lines:?}");
        assert!(phases[1].ends_with("3 words"), "{language}: {lines:?}");
        stack.system.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_without_a_prompt_fails_in_its_own_words() {
    for (language, stack) in stacks().await {
        let run = execution(json!({}));
        let (error, cause) = failure(stack.system.run(&run).await);
        assert_eq!(error, "AgentError", "{language}");
        assert!(cause.starts_with("the input has no \"prompt\""), "{language}: {cause}");
        let events = stack.events(&run.name).await;
        let phase = events.iter().find(|event| event.status.as_str() == "TASK_COUNT_FAILED");
        assert_eq!(phase.unwrap().error_message.as_deref(), Some("there is no prompt"));
        let explained = explain(&runs(&events), Utc::now().into(), None);
        let last = explained.lines().find(|line| line.contains("last progress")).unwrap();
        assert!(
            last.starts_with("The agent's last progress: TASK_COUNT_FAILED at "),
            "{explained}"
        );
        assert!(last.ends_with(" s: there is no prompt"), "{explained}");
        stack.system.stop().await;
    }
}

#[test]
fn the_documents_have_the_rust_example_in_full() {
    let (document, example) =
        (include_str!("../../docs/agents.md"), include_str!("../../examples/rust/src/main.rs"));
    assert!(example.lines().count() < 40);
    assert!(document.contains(&format!("```rust\n{example}```\n")));
}
