//! Serves the pages on a port of this machine. All of them only read.

use std::io;
use std::net::TcpListener;
use std::time::SystemTime;

use actix_web::dev::Server;
use actix_web::guard::{GuardContext, fn_guard};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HOST, ORIGIN};
use actix_web::web::{self, Data, Path, Query};
use actix_web::{App, HttpResponse, HttpServer};
use journal::{ReadError, SessionId, display_chain};
use serde::Deserialize;

use crate::page::{Frame, List, Problem, session_page};
use crate::sessions::Sources;
use crate::standing::Filter;

/// Most sessions on the page with the list.
const LISTED: usize = 100;

/// The sources of the pages.
#[derive(Clone)]
pub struct Ui {
    /// Where sessions are read.
    pub sources: Sources,
    /// The ARN of the state machine whose sessions are listed.
    pub state_machine: String,
    /// Address of the tracing tool, to which a trace's id is appended.
    pub traces_url: Option<String>,
}

/// The query of a page's URL.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Show {
    show: Filter,
    pause: bool,
}

impl Ui {
    /// Serves the pages until the server is stopped. The list is `/`, a session `/sessions/ID`.
    ///
    /// # Errors
    /// If the listener cannot be served.
    pub fn serve(self, listener: TcpListener) -> io::Result<Server> {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Data::new(self.clone()))
                .service(
                    web::scope("")
                        .guard(fn_guard(is_own))
                        .route("/", web::get().to(list))
                        .route("/sessions/{id}", web::get().to(session))
                        .default_service(web::to(HttpResponse::NotFound)),
                )
                .default_service(web::to(foreign))
        });
        Ok(server.workers(1).disable_signals().listen(listener)?.run())
    }
}

async fn list(ui: Data<Ui>, show: Query<Show>) -> HttpResponse {
    let (filter, pause) = (show.show, show.pause);
    let listed = ui.sources.list(&ui.state_machine, filter, None, LISTED).await;
    let (now, here) = (SystemTime::now().into(), format!("/?show={filter}&"));
    let frame = Frame { now, refresh: Some(!pause), here };
    match listed {
        Ok((mut sessions, more)) => {
            // What needs attention first.
            sessions.sort_by_key(|session| session.standing);
            page(StatusCode::OK, List { frame, filter, sessions, more }.to_string())
        }
        // The next attempt may succeed.
        Err(error) => failed(StatusCode::BAD_GATEWAY, frame, display_chain(error.as_ref())),
    }
}

async fn session(ui: Data<Ui>, id: Path<String>, show: Query<Show>) -> HttpResponse {
    let refresh = Some(!show.pause);
    let frame = |refresh| Frame { now: SystemTime::now().into(), refresh, here: "?".to_owned() };
    let id = match id.parse::<SessionId>() {
        Ok(id) => id,
        Err(error) => return failed(StatusCode::BAD_REQUEST, frame(None), error.to_string()),
    };
    let read = async {
        let events = ui.sources.journal.events(&id).await?;
        let runs = ui.sources.runs(&id, &events).await?;
        let (now, traces_url) = (SystemTime::now().into(), ui.traces_url.as_deref());
        Ok::<_, ReadError>(session_page(id.as_str(), &runs, now, traces_url, Some(show.pause)))
    };
    match read.await {
        Ok(text) => page(StatusCode::OK, text),
        Err(error) => failed(StatusCode::BAD_GATEWAY, frame(refresh), display_chain(&error)),
    }
}

fn failed(status: StatusCode, frame: Frame, problem: String) -> HttpResponse {
    page(status, Problem { frame, problem }.to_string())
}

fn page(status: StatusCode, text: String) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("x-frame-options", "DENY"))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .body(text)
}

async fn foreign() -> HttpResponse {
    HttpResponse::Forbidden().body("this port is for this machine alone")
}

/// Whether a request is not that of a foreign web page: with a foreign `Host` that leads here, or a
/// foreign `Origin`.
fn is_own(request: &GuardContext) -> bool {
    let text = |name| request.head().headers().get(name).map(|it| it.to_str().unwrap_or_default());
    let host = text(HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_here = ["127.0.0.1", "localhost", "[::1]"].contains(&name);
    is_here && text(ORIGIN).is_none_or(|origin| origin == format!("http://{host}"))
}
