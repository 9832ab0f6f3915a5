//! The example as on AWS: the main process of a container.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use journal::{Journal, Settings};
use testing::{Program, TABLE_NAME, Table};

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_an_invocation_and_journals_its_phases() {
    let table = Table::open(None, 0).await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_word-counter"));
    let program = Program::start(program, &table, &[]).await;
    let settings = Settings { table_name: TABLE_NAME.to_owned(), retention_days: None };
    let journal = Journal::new(table.client_config(), settings);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let id = "session-of-the-word-counter-0123456789";
    let body = format!("{{\"session_id\": \"{id}\", \"prompt\": \"three small words\"}}");
    let answer = client.post(format!("{}/invocations", program.url)).body(body).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    let deadline = Instant::now() + Duration::from_secs(30);
    let events = loop {
        let events = journal.events(&id.parse().unwrap()).await.unwrap();
        if events.last().is_some_and(|event| event.result.is_some()) {
            break events;
        }
        assert!(Instant::now() < deadline, "{events:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let statuses = Vec::from_iter(events.iter().map(|event| event.status.as_str()));
    assert_eq!(
        statuses,
        [
            "AGENT_ENTRYPOINT_STARTED", "AGENT_BACKGROUND_TASK_STARTED", "TASK_COUNT_STARTED",
            "TASK_COUNT_COMPLETED", "AGENT_BACKGROUND_TASK_COMPLETED",
        ]
    );
    assert_eq!(events.last().unwrap().result.as_deref(), Some("{\"words\":3}"));
}
