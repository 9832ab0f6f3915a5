//! Serves the pages on a port of this machine. All of them only read.

use std::io;
use std::net::TcpListener;
use std::time::SystemTime;

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HOST, HeaderMap, ORIGIN};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, Path, Query};
use actix_web::{App, Error, HttpResponse, HttpServer};
use anyhow::Result;
use aws_sdk_sfn::Client;
use journal::{Journal, SessionId, display_chain};
use serde::Deserialize;

use crate::list_page::{LISTED, list_page};
use crate::page::{Links, problem_page, session_page};
use crate::sessions::{Filter, read_runs, sessions};

/// The sources of the pages.
#[derive(Clone)]
pub struct Ui {
    /// The journal.
    pub journal: Journal,
    /// Step Functions.
    pub workflows: Client,
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
                .wrap(from_fn(refuse_foreign))
                .route("/", web::get().to(list))
                .route("/sessions/{id}", web::get().to(session))
        });
        Ok(server.workers(1).disable_signals().listen(listener)?.run())
    }

    async fn list(&self, show: &Show) -> Result<String> {
        let state_machine = &self.state_machine;
        let listed =
            sessions(&self.workflows, &self.journal, state_machine, show.show, None, LISTED + 1)
                .await?;
        Ok(list_page(&listed, show.show, SystemTime::now().into(), show.pause))
    }

    async fn session(&self, id: &SessionId, paused: bool) -> Result<String> {
        let events = self.journal.events(id).await?;
        let (runs, unwatched) = read_runs(&self.workflows, &self.journal, id, &events).await?;
        let links = Links { traces_url: self.traces_url.clone(), served: true, paused };
        let now = SystemTime::now().into();
        Ok(session_page(id.as_str(), &runs, now, unwatched.as_deref(), &links))
    }
}

async fn list(ui: Data<Ui>, show: Query<Show>) -> HttpResponse {
    answer(ui.list(&show).await)
}

async fn session(ui: Data<Ui>, id: Path<String>, show: Query<Show>) -> HttpResponse {
    match id.parse::<SessionId>() {
        Ok(id) => answer(ui.session(&id, show.pause).await),
        Err(error) => page(StatusCode::BAD_REQUEST, problem_page(&error.to_string(), false)),
    }
}

fn answer(text: Result<String>) -> HttpResponse {
    match text {
        Ok(text) => page(StatusCode::OK, text),
        // The next attempt may succeed.
        Err(error) => {
            page(StatusCode::BAD_GATEWAY, problem_page(&display_chain(error.as_ref()), true))
        }
    }
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

/// Refuses requests of a foreign web page: with a foreign `Host` that leads here, or a foreign `Origin`.
async fn refuse_foreign(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if is_own(request.headers()) {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    }
    let refusal = HttpResponse::Forbidden().body("this port is for this machine alone");
    Ok(request.into_response(refusal))
}

fn is_own(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_here = ["127.0.0.1", "localhost", "[::1]"].contains(&name);
    is_here && text(ORIGIN).is_none_or(|origin| origin == format!("http://{host}"))
}
