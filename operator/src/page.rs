//! Pages of HTML: a session, a list of sessions, and why there is none. A page is self-contained: it has no
//! script and no picture, and makes no request. The templates are in `templates/`.

use askama::Template;
use journal::Timestamp;

use crate::explain::Explanation;
use crate::history::Run;
use crate::lanes::{Lane, lanes};
use crate::listing::{self, Listed};
use crate::standing::{Filter, Standing};
use crate::timeline;

/// When a page was made, and whether it refreshes itself.
pub(crate) struct Frame {
    pub now: Timestamp,
    /// `None` if nothing on it changes any more; `Some(false)` if its reader has paused that.
    pub refresh: Option<bool>,
    /// Its address, to which another parameter can be appended.
    pub here: String,
}

/// A page that says why there is none.
#[derive(Template)]
#[template(path = "problem.html")]
pub(crate) struct Problem {
    pub frame: Frame,
    pub problem: String,
}

/// A list of sessions.
#[derive(Template)]
#[template(path = "list.html")]
pub(crate) struct List {
    pub frame: Frame,
    pub filter: Filter,
    pub sessions: Vec<Listed>,
    /// Whether there are more.
    pub more: bool,
}

#[derive(Template)]
#[template(path = "session.html")]
struct Session<'a> {
    frame: Frame,
    id: &'a str,
    run: &'a Run<'a>,
    standing: Standing,
    it: Explanation<'a>,
    lanes: Vec<Lane>,
    end: i64,
    is_served: bool,
}

/// The page of a session: its newest run. A trace's id is appended to `traces_url`, the address of the
/// tracing tool. A page that is served has a list beside it, and refreshes itself unless its reader has
/// `paused` that; `None`: it is not served.
#[must_use]
pub fn session_page(
    id: &str,
    runs: &[Run],
    now: Timestamp,
    traces_url: Option<&str>,
    paused: Option<bool>,
) -> String {
    let refresh = paused.map(|paused| !paused);
    let mut frame = Frame { now, refresh, here: "?".to_owned() };
    let Some(run) = runs.last() else {
        let problem = format!("The journal has no event of session {id}.");
        return Problem { frame, problem }.to_string();
    };
    let standing = run.standing(now);
    let it = Explanation::of(run, runs, now, traces_url);
    let (lanes, end) = lanes(run, now);
    if !matches!(standing, Standing::Running | Standing::Silent) || run.has_expired(now) {
        frame.refresh = None;
    }
    Session { frame, id, run, standing, it, lanes, end, is_served: paused.is_some() }.to_string()
}
