//! A list of sessions as a page of HTML.

use journal::Timestamp;
use maud::html;

use crate::listing::{Listed, counted};
use crate::page::{day_and_time, document, made};
use crate::sessions::Filter;
use crate::timeline::{duration, escape};

/// Most sessions on the page with the list.
pub(crate) const LISTED: usize = 100;

/// The page with the list: what needs attention first. One session more than are shown says that there
/// are more.
pub(crate) fn list_page(
    sessions: &[Listed],
    filter: Filter,
    now: Timestamp,
    paused: bool,
) -> String {
    let link = |filter| format!("/?show={filter}");
    let shown = sessions.get(..LISTED).unwrap_or(sessions);
    let mut sorted = Vec::from_iter(shown);
    sorted.sort_by_key(|session| session.standing);
    let content = html! {
        main {
            h1 { (counted(shown)) }
            @if sessions.len() > LISTED {
                p { "These are the newest " (LISTED) ". More: " code.copy { "agent-journal list --limit 1000" } }
            }
            nav aria-label="Filter" {
                @for other in Filter::ALL {
                    @if other == filter { b aria-current="page" { (other) } } @else { a href=(link(other)) { (other) } }
                }
            }
            div.wide {
                table {
                    thead { tr { th scope="col" { "Standing" } th scope="col" { "Session" } th scope="col" { "Where" } th scope="col" { "Why" } th scope="col" { "Started (UTC)" } th scope="col" { "Took" } } }
                    tbody {
                        @for session in sorted {
                            tr class=(session.standing) {
                                td.standing { (session.standing) }
                                th.mono scope="row" { a href={ "/sessions/" (session.id) } { (session.id) } }
                                td { (session.place.unwrap_or_default()) @if let Some(phase) = &session.phase { " " (phase) } }
                                td.long { (session.why.as_deref().map(escape).unwrap_or_default()) }
                                td.when { (day_and_time(&session.started)) }
                                td.num { (duration(session.micros)) }
                            }
                        }
                    }
                }
            }
            (made(now, Some(!paused), &format!("{}&pause=true", link(filter)), &link(filter)))
        }
    };
    document("Sessions", !paused, &content)
}
