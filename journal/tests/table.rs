//! The table in `README.md` names tests that exist, for every fault.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

const TABLE: &str = include_str!("README.md");

/// The text of every Rust file of the workspace's crates.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &std::fs::read_to_string(path).unwrap();
        }
    }
}

#[test]
fn every_fault_has_a_test_that_exists() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut text = String::new();
    for member in ["journal", "telemetry", "agent-runtime", "invoker", "operator", "local"] {
        for folder in ["src", "tests"] {
            let folder = workspace.join(member).join(folder);
            if folder.exists() {
                sources(&folder, &mut text);
            }
        }
    }
    // A name may be cut with an ellipsis.
    let words = TABLE.split('`').skip(1).step_by(2);
    let names: Vec<_> = words
        .filter(|word| {
            word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || "_…".contains(c))
        })
        .collect();
    assert!(names.len() > 50, "{}", names.len());
    for name in names {
        assert!(
            text.contains(&format!("fn {}", name.trim_end_matches('…'))),
            "there is no test {name}"
        );
    }
    let rows: Vec<u32> = TABLE
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|numbers| numbers.split(", ").filter_map(|number| number.parse().ok()))
        .collect();
    let mut sorted = rows.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, Vec::from_iter((1..=54).chain(56..=68)));
}
