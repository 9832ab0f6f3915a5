//! The DynamoDB that fails on demand, for processes: its faults come over the network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use futures_util::TryFutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::dynamo::{Call, Dynamo};

impl Dynamo {
    /// Serves it on a free port of 127.0.0.1 until this process ends. Its calls are not kept.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn serve(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let dynamo = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(dynamo.clone(), stream));
            }
        });
        Ok(address)
    }
}

async fn connection(dynamo: Dynamo, stream: TcpStream) -> Result<()> {
    let stream = stream.into_std()?;
    let twin = TcpStream::from_std(stream.try_clone()?)?;
    let service = service_fn(|request| {
        let answer = answer(&dynamo, request);
        // A caller that gets no answer gets a reset, and no orderly end.
        answer.inspect_err(|_| drop(twin.set_zero_linger()))
    });
    let stream = TokioIo::new(TcpStream::from_std(stream)?);
    Ok(http1::Builder::new().serve_connection(stream, service).await?)
}

async fn answer(dynamo: &Dynamo, request: Request<Incoming>) -> Result<Response<SdkBody>> {
    let (head, body) = request.into_parts();
    let body = SdkBody::from(body.collect().await?.to_bytes());
    let request = HttpRequest::try_from(Request::from_parts(head, body))?;
    Ok(dynamo.answer(Call::of(&request)).await?.try_into_http1x()?)
}
