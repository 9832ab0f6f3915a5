//! Chromium without a window, driven by its chromedriver: <https://www.w3.org/TR/webdriver2/>.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::http::ask;

/// The first picture and the end of the loading, in milliseconds since the navigation; null until
/// they have been.
const TIMES: &str = "
    const [paint] = performance.getEntriesByName('first-contentful-paint');
    const [page] = performance.getEntriesByType('navigation');
    return paint && page.loadEventEnd ? [paint.startTime, page.loadEventEnd] : null";

pub struct Browser {
    driver: Child,
    address: String,
    session: String,
}

impl Browser {
    /// Starts the driver that `CHROMEDRIVER` names, or the one in `PATH`.
    pub async fn start() -> Result<Self> {
        let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let mut command = Command::new(program);
        command.arg("--port=0").process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().context("cannot start chromedriver")?;
        let mut lines = BufReader::new(driver.stdout.take().context("no stdout")?).lines();
        let (address, session) = (String::new(), "/session".to_owned());
        let mut browser = Self { driver, address, session };
        let port = loop {
            let line = lines.next_line().await?.context("chromedriver names no port")?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        browser.address = format!("127.0.0.1:{port}");
        let arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"];
        let options = json!({"goog:chromeOptions": {"args": arguments}});
        let made = browser.post("", json!({"capabilities": {"alwaysMatch": options}})).await?;
        let id = made.get("sessionId").and_then(Value::as_str).context("no session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        let request = format!("POST {}{path}", self.session);
        let mut answer: Value =
            serde_json::from_str(&ask(&self.address, &request, "", body).await?)?;
        Ok(answer["value"].take())
    }

    /// Opens a page: the times until its first picture and until all of it is loaded, in
    /// milliseconds.
    pub async fn open(&self, url: &str) -> Result<(f64, f64)> {
        self.post("/url", json!({"url": url})).await?;
        loop {
            let times = self.post("/execute/sync", json!({"script": TIMES, "args": []})).await?;
            if let Some(times) = serde_json::from_value(times)? {
                return Ok(times);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Browser {
    /// With the browser, which is of the driver's group.
    fn drop(&mut self) {
        if let Some(Ok(id)) = self.driver.id().map(i32::try_from) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}
