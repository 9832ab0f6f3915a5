//! A session as a page of HTML, and the frame of every page. A page is self-contained: it has no script and no
//! picture, and makes no request.

use journal::{Ending, Event, Timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::explain::Explanation;
use crate::history::{Run, newest};
use crate::lanes::{Bar, Lane, State, lanes};
use crate::listing::Standing;
use crate::timeline::{duration, escape, text};

/// Seconds after which a page reloads itself while something on it may still change.
const REFRESH_SECONDS: u32 = 3;

/// The frame of every page.
pub(crate) fn document(title: &str, refresh: bool, content: &Markup) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
                @if refresh { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body { (content) }
        }
    };
    markup.into_string()
}

/// When the page was made, and whether it refreshes itself. `pause` and `resume` are the links that stop and
/// start this.
pub(crate) fn made(now: Timestamp, refresh: Option<bool>, pause: &str, resume: &str) -> Markup {
    html! {
        p.dim {
            "As of " (day_and_time(&now.to_string())) " UTC. "
            @match refresh {
                Some(true) => { "Refreshed every " (REFRESH_SECONDS) " seconds. " a href=(pause) { "Pause" } },
                Some(false) => { "Paused. " a href=(resume) { "Refresh" } },
                None => {},
            }
        }
    }
}

pub(crate) fn day_and_time(timestamp: &str) -> String {
    timestamp.get(..19).unwrap_or_default().replace('T', " ")
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
    let Some(run) = newest(runs) else {
        let content = html! { h1 { "The journal has no event of session " (id) "." } };
        return document(id, paused.is_some(), &content);
    };
    let is_running =
        run.ending == Ending::Running && !run.has_expired(now) && run.unwatched.is_none();
    let error_type = run.failure().and_then(|event| event.error_type.as_deref());
    let standing = Standing::of(Some(run), error_type, "", now);
    let it = Explanation::of(run, runs, now, traces_url);
    let refresh = paused.filter(|_| is_running).map(|paused| !paused);
    let content = html! {
        @if paused.is_some() { nav { a href="/" { "All sessions" } } }
        main {
            div class={ "verdict " (standing) } {
                p.dim { "Session " span.mono { (id) } }
                h1 { (it.verdict) }
                @if let Some(cause) = &it.cause { p { "Cause: " b { (cause) } } }
                @for remark in &it.remarks { p { (remark) } }
                @if let Some(next) = it.next() { p.dim { "Next:" code.copy { (next) } } }
            }
            h2 { "Where the time went" }
            (lanes_table(run, now))
            @if !it.details.is_empty() {
                h2 { "The error" }
                pre { (it.cause.unwrap_or_default()) "\n" (it.details.join("\n")) }
            }
            @if let Ending::Completed(Event { result: Some(result), result_bytes, .. }) = run.ending {
                h2 { "The result" }
                pre { (Vec::from_iter(result.lines().map(escape)).join("\n")) }
                @if let Some(bytes) = result_bytes { p { "Cut: the whole has " (bytes) " bytes." } }
            }
            h2 { "Where to look" }
            ul {
                @for (what, place) in &it.places {
                    li { (what) ": " @if place.starts_with("http") { a rel="noreferrer" href=(place) { (place) } } @else { code.copy { (place) } } }
                }
                li { "The events as JSON: " code.copy { "agent-journal events " (id) " --json" } }
            }
            h2 { "Events" }
            (events_table(run))
            (made(now, refresh, "?pause=true", "?"))
        }
    };
    document(&format!("{standing}: session {id}"), refresh == Some(true), &content)
}

fn lanes_table(run: &Run, now: Timestamp) -> Markup {
    let (lanes, end) = lanes(run, now);
    html! {
        table.lanes {
            caption { "From the first event to " (duration(end)) " after it. Hatched: no end; up to the last sign of life. Dotted: nothing heard." }
            tbody {
                @for lane in &lanes { (lane_row(lane, end)) }
            }
        }
    }
}

fn lane_row(lane: &Lane, end: i64) -> Markup {
    let phase = !["workflow", "invoker", "AgentCore", "entrypoint", "agent"].contains(&&*lane.name);
    let place = |from: i64, to: i64| {
        let percent = |micros: i64| micros.clamp(0, end) * 100_000 / end;
        let (left, right) = (percent(from), percent(to));
        let thousandths = |n: i64| format!("{}.{:03}", n / 1_000, n % 1_000);
        format!("left:{}%;width:{}%", thousandths(left), thousandths((right - left).max(0)))
    };
    html! {
        tr.phase[phase].missing[lane.missing.is_some()] {
            th scope="row" { (lane.name) }
            td {
                div.track {
                    @match &lane.bar {
                        Some(Bar { from, to, state: State::Open(sign) }) => {
                            div.bar.open style=(place(*from, *sign)) {}
                            div.bar.waiting style=(place(*sign, *to)) {}
                        },
                        Some(Bar { from, to, state }) => {
                            div.bar.bad[*state == State::Failed] style=(place(*from, *to)) {}
                        },
                        None => {},
                    }
                }
                @if let Some(missing) = &lane.missing { "Never began: " (missing) "." }
            }
            td.when {
                @if let Some(Bar { from, to, state }) = &lane.bar {
                    @match state {
                        State::Open(_) => { "from " (duration(*from)) ", no end" },
                        State::Failed => { (duration(to - from)) ", failed" },
                        State::Done => { (duration(to - from)) },
                    }
                }
            }
        }
    }
}

fn events_table(run: &Run) -> Markup {
    html! {
        div.wide {
            table {
                @if let Some(entry) = run.entries.first() { caption { "The first event: " (day_and_time(&entry.event.timestamp)) " UTC." } }
                thead { tr { th scope="col" { "After" } th scope="col" { "Time (UTC)" } th scope="col" { "By" } th scope="col" { "Event" } th scope="col" { "Text" } } }
                tbody {
                    @for entry in &run.entries {
                        @let event = entry.event;
                        tr {
                            td.num { (entry.offset.map(duration).unwrap_or_default()) }
                            td.mono { (event.timestamp.get(11..23).unwrap_or(&event.timestamp)) }
                            td { (escape(&event.source)) }
                            td.mono.standing[event.status.is_failure()].failed[event.status.is_failure()] { (escape(event.status.as_str())) }
                            td.long { (text(event).unwrap_or_default()) }
                        }
                    }
                }
            }
        }
    }
}

/// A page that says why there is none.
#[must_use]
pub fn problem_page(problem: &str, tries_again: bool) -> String {
    document(
        "No answer",
        tries_again,
        &html! { main { div.verdict.failed { h1 { "No answer" } p { (escape(problem)) } } } },
    )
}
