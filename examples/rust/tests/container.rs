//! The example as what it is on AWS: the main process of a container.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use local::process::{Process, Spec};
use local::table::{CREDENTIAL, REGION, TABLE_NAME, Table};

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_an_invocation_and_journals_its_phases() {
    let (table, folder) = (Table::open(None, 0).await.unwrap(), tempfile::tempdir().unwrap());
    let variables = [
        ("JOURNAL_TABLE_NAME", TABLE_NAME.to_owned()),
        ("AWS_ENDPOINT_URL_DYNAMODB", table.endpoint()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", CREDENTIAL.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL.to_owned()),
        ("HOST", "127.0.0.1".to_owned()),
        ("PORT", "0".to_owned()),
    ];
    let (process, listens) = Process::start(&Spec {
        program: PathBuf::from(env!("CARGO_BIN_EXE_word-counter")),
        subcommand: "word-counter",
        environment: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        log: folder.path().join("log"),
        echo: false,
    })
    .unwrap();
    let address = process.address(listens).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let id = "session-of-the-word-counter-0123456789";
    let body = format!("{{\"session_id\": \"{id}\", \"prompt\": \"three small words\"}}");
    let answer = client.post(format!("http://{address}/invocations")).body(body).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    let deadline = Instant::now() + Duration::from_secs(30);
    let events = loop {
        let events = table.journal().events(&id.parse().unwrap()).await.unwrap();
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
            "AGENT_ENTRYPOINT_STARTED",
            "AGENT_BACKGROUND_TASK_STARTED",
            "TASK_COUNT_STARTED",
            "TASK_COUNT_COMPLETED",
            "AGENT_BACKGROUND_TASK_COMPLETED",
        ]
    );
    assert_eq!(events.last().unwrap().result.as_deref(), Some("{\"words\":3}"));
    process.stop().await;
}
