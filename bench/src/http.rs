//! One HTTP request on a connection of its own.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends a request with JSON, and `header` lines if there are any; the body of the answer, which
/// must be 200.
pub async fn ask(
    address: &str,
    request: &str,
    header: &str,
    body: impl ToString,
) -> Result<String> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\n{header}Content-Length: {length}\r\n\r\n"
    );
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all((head + &body).as_bytes()).await?;
    let (mut socket, mut head) = (BufReader::new(socket), String::new());
    while !head.ends_with("\r\n\r\n") {
        ensure!(socket.read_line(&mut head).await? > 0, "{request}: half an answer");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
    });
    // Chromedriver does not close the connection.
    let mut body = vec![0; length.context("an answer without its length")??];
    socket.read_exact(&mut body).await?;
    let body = String::from_utf8(body)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{request} was answered {head}{body}");
    Ok(body)
}
