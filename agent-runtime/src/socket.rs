//! An answer to a request whose chunks are broken: actix-http takes that for a closed connection and
//! answers nothing (3.20).

use std::any::Any;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;

use actix_web::dev::Extensions;

use crate::refusal::Refusal;

/// A second handle of a connection.
#[derive(Clone)]
pub(crate) struct Socket(Arc<TcpStream>);

impl Socket {
    /// Keeps one for each connection.
    pub fn keep(connection: &dyn Any, data: &mut Extensions) {
        let stream = connection.downcast_ref::<actix_web::rt::net::TcpStream>();
        let socket = stream.and_then(|stream| stream.as_fd().try_clone_to_owned().ok());
        if let Some(socket) = socket {
            data.insert(Self(Arc::new(socket.into())));
        }
    }

    /// Answers in place of actix.
    pub fn answer(&self, refusal: &Refusal) {
        let body = serde_json::json!({ "error": refusal.message }).to_string();
        let (status, length) = (refusal.status, body.len());
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close");
        // The caller may be gone.
        let _ = (&*self.0).write_all(format!("{head}\r\n\r\n{body}").as_bytes());
    }
}
