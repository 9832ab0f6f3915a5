//! The HTTP services of this process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpServer};
use agent_runtime::refuse_web_pages;

/// A service, until it is stopped or this process ends.
pub struct Server {
    /// Where it is served.
    pub address: SocketAddr,
    handle: ServerHandle,
}

impl Server {
    /// Serves on `port` of 127.0.0.1 (0: any).
    pub(crate) fn start(
        port: u16,
        routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let server = HttpServer::new(move || {
            App::new().wrap(from_fn(refuse_web_pages)).configure(routes.clone())
        });
        let server = server.workers(1).disable_signals().listen(listener)?.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { address, handle })
    }

    /// Stops it and its handlers, even if nobody waits for the end.
    pub fn stop(&self) -> impl Future<Output = ()> + use<> {
        self.handle.stop(false)
    }
}
