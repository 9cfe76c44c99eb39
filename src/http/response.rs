//! Responses with status, headers and a complete body. Never a redirect.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// The response type of every listener.
pub type HttpResponse = Response<Full<Bytes>>;

/// A response with this body, which must not be cached.
pub fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, content_type);
    set(&mut response, CACHE_CONTROL, "no-store");
    response
}

/// One line of plain text.
pub fn text(status: StatusCode, line: &str) -> HttpResponse {
    with_body(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// 405 with the methods of the path, as RFC 9110 (15.5.6) requires.
pub fn method_not_allowed(allow: &'static str) -> HttpResponse {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("method not allowed; use {allow}"),
    );
    set(&mut response, ALLOW, allow);
    response
}

/// 503 with the time after which the client should retry.
pub fn unavailable(reason: &str, retry_after_seconds: u32) -> HttpResponse {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, reason);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
    response
}

/// Sets one header to a fixed value.
pub fn set(response: &mut HttpResponse, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
