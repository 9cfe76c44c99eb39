//! Responses with status, headers and a complete body. Never a redirect.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// The response type of every listener.
pub type Answer = Response<Full<Bytes>>;

/// A response with this body, which must not be cached.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, content_type);
    set(&mut answer, CACHE_CONTROL, "no-store");
    answer
}

/// One line of plain text.
pub fn text(status: StatusCode, line: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// 405 with the methods of the path, as RFC 9110 (15.5.6) requires.
pub fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("method not allowed; use {allow}"),
    );
    set(&mut answer, ALLOW, allow);
    answer
}

/// 503 with the time after which the client should retry.
pub fn unavailable(reason: &str, retry_after_seconds: u32) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, reason);
    answer
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
    answer
}

/// Sets one header to a fixed value.
pub fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}
