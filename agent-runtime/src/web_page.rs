//! Refuses requests of web pages to ports of this machine. A page in a browser can send simple requests
//! to 127.0.0.1, or reach it by a host name of its own (DNS rebinding). Neither may start an agent.

use std::net::Ipv4Addr;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderMap;
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};
use serde_json::json;

/// Refuses requests that a web page may have sent, with 403. For servers that listen on a loopback address: a
/// middleware of `actix_web::middleware::from_fn`.
///
/// # Errors
/// Those of the wrapped service.
pub async fn refuse_web_pages<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let Some(header) = foreign_header(request.headers()) else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let error = format!("refused: by its header {header}, a web page may have sent this request");
    let answer = HttpResponse::Forbidden().json(json!({ "error": error }));
    Ok(request.into_response(answer).map_into_right_body())
}

/// The header that shows that a request may not come from a program of this machine.
fn foreign_header(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text("host").unwrap_or("localhost");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_loopback = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    if name != "localhost" && name != "[::1]" && !is_loopback {
        return Some("Host");
    }
    if text("origin").is_some_and(|origin| origin != format!("http://{host}")) {
        return Some("Origin");
    }
    let site = text("sec-fetch-site");
    site.is_some_and(|site| !["none", "same-origin"].contains(&site)).then_some("Sec-Fetch-Site")
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn what_a_browser_sends_for_a_page_is_told_from_a_program_and_from_a_typed_address() {
        for (headers, refused) in [
            // curl, boto3.
            (&[("host", "127.0.0.1:8080")][..], None),
            (&[("host", "localhost:8080")], None),
            (&[("host", "[::1]:8080")], None),
            // An address that a person typed, and a page of the server itself.
            (&[("host", "127.0.0.1:4318"), ("sec-fetch-site", "none")], None),
            (
                &[
                    ("host", "127.0.0.1:4318"),
                    ("origin", "http://127.0.0.1:4318"),
                    ("sec-fetch-site", "same-origin"),
                ],
                None,
            ),
            // `fetch` of a page elsewhere, of one on another port, of a sandboxed one, of a file.
            (
                &[
                    ("host", "127.0.0.1:8080"),
                    ("origin", "https://evil.example"),
                    ("sec-fetch-site", "cross-site"),
                ],
                Some("Origin"),
            ),
            (&[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:3000")], Some("Origin")),
            (&[("host", "127.0.0.1:8080"), ("origin", "null")], Some("Origin")),
            // A picture, a link.
            (
                &[("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")],
                Some("Sec-Fetch-Site"),
            ),
            (
                &[("host", "localhost:8080"), ("sec-fetch-site", "same-site")],
                Some("Sec-Fetch-Site"),
            ),
            // A name that was rebound to this machine.
            (&[("host", "evil.example:8080")], Some("Host")),
            (&[("host", "127.0.0.1.evil.example")], Some("Host")),
        ] {
            let mut request = TestRequest::default();
            for header in headers {
                request = request.insert_header(*header);
            }
            assert_eq!(foreign_header(request.to_http_request().headers()), refused, "{headers:?}");
        }
    }
}
