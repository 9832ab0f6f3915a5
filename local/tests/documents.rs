//! What the documents show is what the system does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use journal::{Event, SORT_KEY_PREFIX, Status};
use serde_json::{Map, Value};
use testing::{CREDENTIAL, REGION, TABLE_NAME, Table};

const LOCAL_DEVELOPMENT: &str = include_str!("../../LOCAL_DEVELOPMENT.md");
const JOURNAL: &str = include_str!("../../docs/journal.md");
const AGENTS: &str = include_str!("../../docs/agents.md");
const DEPLOY: &str = include_str!("../../deploy/README.md");

/// Every line of the kept histories.
fn kept_lines() -> BTreeSet<String> {
    let folder = support::history_file("x").parent().unwrap().to_owned();
    let files = std::fs::read_dir(folder).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The lines of a document's first block of JSON.
fn examples(document: &str) -> impl Iterator<Item = &str> {
    let (_, block) = document.split_once("```json\n").unwrap();
    let (block, _) = block.split_once("\n```").unwrap();
    block.lines()
}

#[test]
fn every_status_has_an_example_from_a_real_run() {
    let kept = kept_lines();
    let mut shown = BTreeSet::new();
    for line in examples(JOURNAL) {
        assert!(kept.contains(line), "no run has left this: {line}");
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(event.sort_key, format!("{SORT_KEY_PREFIX}{}", event.timestamp));
        assert!(event.session_id().is_some());
        assert_eq!(
            event.status.is_failure(),
            event.error_type.is_some() && event.error_message.is_some()
        );
        shown.insert(event.status.to_string());
    }
    assert_eq!(shown, Status::ALL.iter().map(ToString::to_string).collect());
}

#[test]
fn a_short_example_is_a_part_of_a_whole_one() {
    let read = |line: &str| serde_json::from_str::<Map<String, Value>>(line).unwrap();
    let whole = Vec::from_iter(examples(JOURNAL).map(read));
    let short = Vec::from_iter(examples(LOCAL_DEVELOPMENT).map(read));
    assert_eq!(short.len(), Status::ALL.len());
    for record in short {
        let is_part = |whole: &Map<String, Value>| {
            record.iter().all(|(name, value)| whole.get(name) == Some(value))
        };
        assert!(whole.iter().any(is_part), "{record:?}");
    }
}

/// The document's `aws dynamodb query` commands, as a shell would split them.
fn queries(session_id: &str) -> Vec<Vec<String>> {
    let commands =
        LOCAL_DEVELOPMENT.lines().filter_map(|line| line.strip_prefix("$ aws dynamodb query "));
    let commands = commands.map(|command| {
        let command =
            command.replace("$JOURNAL_TABLE_NAME", TABLE_NAME).replace("$SESSION", session_id);
        shell_words::split(&command).unwrap()
    });
    commands.collect()
}

/// A table with the history whose examples the document shows, and the sort keys that its queries
/// must give, in their order.
async fn journal() -> (Table, String, Vec<Vec<String>>) {
    let table = Table::open(None, 0).await.unwrap();
    let events = support::put_history(&table, "agent-failed");
    let keys = |events: Vec<&Event>| events.iter().map(|e| e.sort_key.clone()).collect::<Vec<_>>();
    let (_, since) = LOCAL_DEVELOPMENT.split_once("SK >= :since").unwrap();
    let (_, since) = since.split_once("EVENT#").unwrap();
    let since = format!("EVENT#{}", since.split('\\').next().unwrap());
    let since = since.as_str();
    let expected = vec![
        keys(events.iter().collect()),
        keys(events.iter().rev().collect()),
        keys(events.iter().filter(|event| event.status.is_failure()).collect()),
        keys(events.iter().filter(|event| event.sort_key.as_str() >= since).collect()),
    ];
    assert!(expected[2].len() < expected[0].len() && expected[3].len() < expected[0].len());
    (table, events[0].session_id().unwrap().to_string(), expected)
}

fn sort_keys(answer: &Value) -> Vec<String> {
    let items = answer["Items"].as_array().unwrap();
    items.iter().map(|item| item["SK"]["S"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the AWS CLI: AWS_CLI=path cargo test -p local --test documents -- --ignored"]
async fn the_queries_run_as_written() {
    let program = std::env::var_os("AWS_CLI").unwrap_or_else(|| {
        panic!("AWS_CLI must name the executable; .ci/run installs it and sets this")
    });
    let (table, session_id, expected) = journal().await;
    let found: Vec<_> = queries(&session_id)
        .iter()
        .map(|options| {
            let output = Command::new(&program)
                .args(["dynamodb", "query"])
                .args(options)
                .envs([
                    ("AWS_ENDPOINT_URL_DYNAMODB", &*table.endpoint()),
                    ("AWS_DEFAULT_REGION", REGION),
                    ("AWS_ACCESS_KEY_ID", CREDENTIAL),
                    ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
                ])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            sort_keys(&serde_json::from_slice(&output.stdout).unwrap())
        })
        .collect();
    assert_eq!(found, expected);
    table.close().await;
}

/// The variables of a document's table below `heading`, with their defaults.
fn documented(document: &str, heading: &str) -> BTreeMap<String, String> {
    let (_, section) = document.split_once(heading).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].trim_matches('`').to_owned())
        })
        .collect()
}

/// The variables that `read` asks for, of which it gets those that are required.
fn asked(read: impl FnOnce(&dyn Fn(&str) -> Option<String>)) -> BTreeSet<String> {
    let names = RefCell::new(BTreeSet::new());
    read(&|name| {
        names.borrow_mut().insert(name.to_owned());
        match name {
            "JOURNAL_TABLE_NAME" => Some("journal".to_owned()),
            "AGENT_COMMAND" | "AGENT_SERVER_COMMAND" => Some("cat".to_owned()),
            "AGENT_RUNTIME_ARN" => Some(
                "arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/a-0123456789".to_owned(),
            ),
            _ => None,
        }
    });
    names.into_inner()
}

#[test]
fn the_environment_variables_are_those_that_the_code_reads() {
    let container = documented(AGENTS, "## Environment of the container");
    let mut read = asked(|env| {
        let settings = agent_runtime::Settings::from_env(env).unwrap();
        assert_eq!(container["PORT"], settings.port.to_string());
        assert_eq!(container["HOST"], settings.host.to_string());
        assert_eq!(container["MAX_BODY_BYTES"], settings.limits.max_body_bytes.to_string());
        let heartbeat = settings.limits.heartbeat.unwrap().as_secs();
        assert_eq!(container["HEARTBEAT_SECONDS"], heartbeat.to_string());
        assert_eq!(settings.journal.retention_days, None);
        agent_runtime::CommandAgent::from_env(env).unwrap();
        agent_runtime::HttpAgent::from_env(env).unwrap();
    });
    // Read by tracing-subscriber.
    read.insert("RUST_LOG".to_owned());
    assert_eq!(container.keys().cloned().collect::<BTreeSet<_>>(), read);
    let invoker = documented(DEPLOY, "## Environment of the invoker");
    let mut read = asked(|env| {
        let settings = invoker::Settings::from_env(env).unwrap();
        assert_eq!((settings.qualifier, settings.journal.retention_days), (None, None));
    });
    read.insert("RUST_LOG".to_owned());
    assert_eq!(invoker.keys().cloned().collect::<BTreeSet<_>>(), read);
}
