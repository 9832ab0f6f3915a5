//! The pages, in a real browser: Debian's chromium, driven by its chromedriver. `CHROMEDRIVER` names the
//! program; `.ci/run` installs both. Screenshots are left in `target/screenshots`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use journal::{Ending, Event, SessionId};
use local::step_functions::{self, STATE_MACHINE_ARN};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use operator::explain;
use operator::sessions::Sources;
use operator::ui::Ui;
use serde_json::{Value, json};
use support::{Stack, open, put, put_history, sfn};
use testing::Table;

/// A browser that keeps what its console says, by the WebDriver protocol:
/// <https://www.w3.org/TR/webdriver2/>.
struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    async fn start() -> Self {
        let driver = std::env::var("CHROMEDRIVER")
            .unwrap_or_else(|_| panic!("CHROMEDRIVER is not set; see .ci/run"));
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let session = format!("http://127.0.0.1:{}/session", port.unwrap());
        // Whoever does not read makes it wait.
        std::thread::spawn(move || lines.for_each(drop));
        let arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut this = Self { driver, client, session };
        let made = this.post("", capabilities).await;
        this.session = format!("{}/{}", this.session, made["sessionId"].as_str().unwrap());
        this
    }

    async fn answer(request: reqwest::RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["value"].take()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        Self::answer(self.client.post(url).body(body.to_string())).await
    }

    async fn get(&self, path: &str) -> Value {
        Self::answer(self.client.get(format!("{}{path}", self.session))).await
    }

    async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// The ids of the elements that the selector finds.
    async fn find(&self, using: &str, value: &str) -> Vec<String> {
        let found = self.post("/elements", json!({"using": using, "value": value})).await;
        let ids = found.as_array().unwrap().iter();
        ids.map(|it| it.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned())
            .collect()
    }

    async fn text(&self, css: &str) -> String {
        let found = self.find("css selector", css).await;
        self.get(&format!("/element/{}/text", found[0])).await.as_str().unwrap().to_owned()
    }

    async fn count(&self, css: &str) -> usize {
        self.find("css selector", css).await.len()
    }

    async fn click(&self, link: &str) {
        let found = self.find("link text", link).await;
        self.post(&format!("/element/{}/click", found[0]), json!({})).await;
    }

    async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.get("/screenshot").await;
        let png = STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    /// What the console said, and which addresses the browser asked, since the last call.
    async fn said_and_asked(&self) -> (Vec<String>, Vec<String>) {
        let said = self.post("/se/log", json!({"type": "browser"})).await;
        let said = said.as_array().unwrap().iter();
        let said = said.map(|entry| entry["message"].as_str().unwrap().to_owned());
        let asked = self.post("/se/log", json!({"type": "performance"})).await;
        let asked = asked.as_array().unwrap().iter().filter_map(|entry| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            (message["method"] == "Network.requestWillBeSent")
                .then(|| message["params"]["request"]["url"].as_str().unwrap().to_owned())
        });
        (said.collect(), asked.collect())
    }
}

impl Drop for Browser {
    /// With the browser, which is of the driver's group.
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.driver.id().try_into().unwrap()), Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}

/// The pages of a table and of what Step Functions lists, at `http://host:port`.
fn serve(sources: Sources) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let state_machine = STATE_MACHINE_ARN.to_owned();
    let ui = Ui { sources, state_machine, traces_url: None };
    tokio::spawn(ui.serve(listener).unwrap());
    url
}

fn id_of(events: &[Event]) -> SessionId {
    events[0].session_id().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromedriver: CHROMEDRIVER=path cargo test -p local --test page -- --ignored"]
async fn every_history_is_a_page_with_its_verdict_and_its_open_bar_first() {
    let table = Table::open(None, 0).await.unwrap();
    let stack = Stack::start("cat", 600).await;
    let step_functions = step_functions::start(0, Arc::new(stack.system), None, None).unwrap();
    let sources = Sources { journal: open(table.client_config()), workflows: sfn(&step_functions) };
    let url = serve(sources.clone());
    let browser = Browser::start().await;
    let folder = support::history_file("x").parent().unwrap().to_owned();
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let events = put_history(&table, &name);
        let id = id_of(&events);
        let runs = sources.runs(&id, &events).await.unwrap();
        browser.open(&format!("{url}/sessions/{id}")).await;
        let explained = explain(&runs, SystemTime::now().into(), None);
        let verdict = browser.text("h1").await;
        // How long ago something was changes between the two.
        let stable = |text: &str| text.split(" ago").next().unwrap()[..40].to_owned();
        assert_eq!(stable(&verdict), stable(explained.lines().next().unwrap()), "{name}");
        let run = runs.last().unwrap();
        // The end is announced only of a run that has none.
        let announced = browser.text(".verdict").await.contains("gives the session up");
        assert!(!announced || run.ending == Ending::Running, "{name}");
        assert_eq!(browser.count(".wide tbody tr").await, run.entries.len(), "{name}");
        let started =
            run.open.iter().any(|event| event.status.as_str() == "AGENT_BACKGROUND_TASK_STARTED");
        let never =
            events.iter().all(|event| event.status.as_str() != "AGENT_BACKGROUND_TASK_STARTED");
        let open = browser.count(".lanes tr:nth-child(5) .bar.open").await;
        if run.is_workflows() {
            assert_eq!(open == 1, started, "{name}: the agent's bar is open");
            assert_eq!(browser.count(".lanes tr.missing:nth-child(5)").await == 1, never, "{name}");
        }
        browser.picture(&name).await;
    }
    let (said, asked) = browser.said_and_asked().await;
    assert_eq!(said, Vec::<String>::new());
    let elsewhere = asked.iter().filter(|asked| !asked.starts_with(&url));
    assert_eq!(elsewhere.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromedriver: CHROMEDRIVER=path cargo test -p local --test page -- --ignored"]
async fn a_hostile_message_is_a_text_and_ten_thousand_events_are_a_page() {
    let table = Table::open(None, 0).await.unwrap();
    let stack = Stack::start("cat", 600).await;
    let step_functions = step_functions::start(0, Arc::new(stack.system), None, None).unwrap();
    let url =
        serve(Sources { journal: open(table.client_config()), workflows: sfn(&step_functions) });
    let browser = Browser::start().await;
    let mut events = put_history(&table, "agent-failed");
    let hostile = "</title></style><script>document.title = 'hostile'</script><img src=x onerror=\"document.title = 'hostile'\">";
    for event in &mut events {
        event.partition_key = "SESSION#hostile-session-0123456789-0123456789".to_owned();
        event.source = hostile.to_owned();
        if event.error_message.is_some() {
            event.error_message = Some(format!("{hostile}\n{hostile}"));
            event.error_type = Some(hostile.to_owned());
        }
        put(&table, event);
    }
    browser.open(&format!("{url}/sessions/{}", id_of(&events))).await;
    assert!(browser.text("pre").await.contains("<script>document.title"), "it is shown as it is");
    assert_eq!(browser.count("script, img").await, 0);
    assert!(
        browser
            .get("/title")
            .await
            .as_str()
            .unwrap()
            .starts_with("failed: session hostile-session")
    );

    let events = put_history(&table, "completed");
    let mut note = events[3].clone();
    note.status = "TASK_STEP_COMPLETED".into();
    for n in 0..10_000 {
        note.timestamp = format!("{}{n:06}Z", &events[3].timestamp[..20]);
        note.sort_key = format!("EVENT#{}", note.timestamp);
        if note.timestamp != events[3].timestamp {
            put(&table, &note);
        }
    }
    browser.open(&format!("{url}/sessions/{}", id_of(&events))).await;
    let whole = async {
        while browser.count(".wide tbody tr").await < 10_000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), whole).await.unwrap();
    // From somewhere else it is not served.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (name, value) in [("host", "evil.example"), ("origin", "http://evil.example")] {
        let answer = client.get(&url).header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{name}");
    }
    assert_eq!(client.post(&url).send().await.unwrap().status(), 404);
    // What is not understood is said, and not asked again.
    let short = client.get(format!("{url}/sessions/short")).send().await.unwrap();
    assert_eq!(short.status(), 400);
    let text = short.text().await.unwrap();
    assert!(text.contains("33") && !text.contains("http-equiv=\"refresh\""), "{text}");
    let filter = client.get(format!("{url}/?show=foo")).send().await.unwrap();
    assert_eq!(filter.status(), 400);
    let (said, asked) = browser.said_and_asked().await;
    assert_eq!(said, Vec::<String>::new());
    assert!(asked.iter().all(|asked| asked.starts_with(&url)), "{asked:?}");
}

/// Fails, never ends, or gives 7, as its input says.
const MIXED: &str = "sh -c 'read -r input; case $input in *fails*) echo no such model >&2; exit 1;; *hangs*) sleep 600;; esac; echo 7'";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs chromium and chromedriver: CHROMEDRIVER=path cargo test -p local --test page -- --ignored"]
async fn of_forty_sessions_the_failed_ones_are_found_with_their_reason_in_three_clicks() {
    let stack = Stack::impatient(MIXED).await;
    let system = Arc::new(stack.system);
    let step_functions = step_functions::start(0, Arc::clone(&system), None, None).unwrap();
    let workflows = sfn(&step_functions);
    let start = async |prompt: &str, id: Option<&str>| {
        let mut input = json!({"prompt": prompt});
        if let Some(id) = id {
            input["session_id"] = json!(id);
        }
        let name = uuid::Uuid::new_v4().to_string();
        let request = workflows.start_execution().state_machine_arn(STATE_MACHINE_ARN);
        request.name(&name).input(input.to_string()).send().await.unwrap();
        name
    };
    for n in 0..40 {
        match n {
            10 | 20 => drop(start("fails", None).await),
            15 => drop(start("fails", Some("a-session-with-an-id-of-its-own-0123456789")).await),
            _ => drop(start("works", None).await),
        }
    }
    let hangs = start("hangs", None).await;
    let hangs: SessionId = hangs.parse().unwrap();
    let killed = async {
        loop {
            if let Some(container) = system.container(&hangs) {
                let events = system.journal().events(&hangs).await.unwrap();
                if events.iter().any(|it| it.status.as_str() == "AGENT_BACKGROUND_TASK_STARTED") {
                    container.kill();
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), killed).await.unwrap();
    let url = serve(Sources { journal: system.journal(), workflows });
    let browser = Browser::start().await;
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        browser.open(&url).await;
        if browser.text("h1").await == "41 sessions: 1 lost, 3 failed, 37 completed" {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{}", browser.text("h1").await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    browser.picture("list").await;
    // It asks for itself again until its reader stops it.
    let refreshes = "meta[http-equiv=refresh]";
    assert_eq!(browser.count(refreshes).await, 1);
    browser.click("Pause").await;
    assert_eq!(browser.count(refreshes).await, 0);
    // What needs attention is first, with the reason.
    let row = browser.text("tbody tr:nth-child(1)").await;
    assert!(row.contains("lost") && row.contains("ContainerLost: "), "{row}");
    let row = browser.text("tbody tr:nth-child(2)").await;
    assert!(row.contains("AgentError: no such model (exit status: 1)"), "{row}");
    // One click: only those. A second: where and why.
    browser.click("failed").await;
    assert_eq!(browser.text("h1").await, "4 sessions: 1 lost, 3 failed");
    browser.click("a-session-with-an-id-of-its-own-0123456789").await;
    let verdict = browser.text(".verdict").await;
    assert!(verdict.contains("Cause: AgentError: no such model (exit status: 1)"), "{verdict}");
    assert!(browser.text(".verdict code").await.starts_with("agent-journal logs a-session"));
    assert_eq!(browser.count(".lanes tr:nth-child(5) .bar.bad").await, 1);
    browser.picture("failed").await;
    step_functions.stop().await;
    system.stop().await;
}
