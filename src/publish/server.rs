//! The server of the metrics listener: access and limits, and the way from an HTTP request to a typed one and from its
//! reply to a response.

#[cfg(test)]
mod tests;

use super::metrics_handler::PATIENCE;
use super::negotiation;
use super::page::{self, Range};
use super::request::{CollectorFilter, ContentType, MetricsReply, MetricsRequest, MetricsService, Scrape};
use crate::http::log_limit::{LogLimit, Permit};
use crate::http::{self, Access, HttpResponse, ServerLimits};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Each scraper keeps a connection.
pub const MAX_CONNECTIONS: usize = 512;

/// The idle time allowed between two requests on one connection: Prometheus scrapes every 15 s or 60 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Share of the scraper's deadline that may be spent waiting; the rest is for encoding and transfer.
const DEADLINE_SHARE: f64 = 0.8;

/// The deadline that Prometheus announces with each scrape, in seconds.
const SCRAPE_TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";

/// The page needs its own script, style and icon, and fetches itself again. Everything else is forbidden: inline code,
/// other origins, text that becomes markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// The pages of episodes begin with this path.
const EPISODES: &str = "/episodes/";

const PLAIN: &str = "text/plain; charset=utf-8";

/// The settings of the server.
pub struct MetricsServer<S> {
    pub service: Arc<S>,
    pub access: Access,
    /// `--web.telemetry-path`.
    pub telemetry_path: Arc<str>,
    pub max_connections: usize,
}

impl<S> Clone for MetricsServer<S> {
    fn clone(&self) -> MetricsServer<S> {
        MetricsServer {
            service: Arc::clone(&self.service),
            access: self.access.clone(),
            telemetry_path: Arc::clone(&self.telemetry_path),
            max_connections: self.max_connections,
        }
    }
}

impl<S: MetricsService> MetricsServer<S> {
    /// Serves until `shutdown`, then finishes responses in progress.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let limits = ServerLimits {
            max_connections: self.max_connections,
            header_timeout: IDLE_TIMEOUT,
            ..ServerLimits::default()
        };
        let access = self.access.clone();
        let server = Arc::new(self);
        // Any peer can cause these lines.
        let log_limit = Arc::new(LogLimit::default());
        let service = move |request: Request<hyper::body::Incoming>, peer: http::Peer| {
            let (server, log_limit) = (Arc::clone(&server), Arc::clone(&log_limit));
            async move {
                match server.access.admit(request.headers()).await {
                    Ok(()) => server.answer(&request, peer.address).await,
                    Err(denied) => {
                        if let Some(Permit { left_out }) = log_limit.permit(()) {
                            let peer = peer.address;
                            tracing::warn!(%peer, reason = %denied, left_out, "request to metrics listener denied");
                        }
                        denied.to_response()
                    }
                }
            }
        };
        http::serve(listener, limits, access, service, shutdown).await;
    }

    /// Responds to one request. The body of a request is never read.
    pub async fn answer<B>(&self, request: &Request<B>, peer: SocketAddr) -> HttpResponse {
        match self.route(request, peer) {
            Route::Service(request) => response_of(self.service.answer(request).await),
            Route::Response(response) => response,
        }
    }

    fn route<B>(&self, request: &Request<B>, peer: SocketAddr) -> Route {
        let path = request.uri().path();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        // The telemetry path comes first, because it may be `/`.
        if path == &*self.telemetry_path {
            return match is_read {
                true => scrape(request.uri(), request.headers()),
                false => not_allowed("GET, HEAD"),
            };
        }
        if path == "/-/reload" {
            return match *request.method() {
                // Only a browser sends this header, for a page of another origin.
                Method::POST | Method::PUT if request.headers().contains_key(header::ORIGIN) => {
                    text(StatusCode::FORBIDDEN, "Requests from web pages are refused.\n")
                }
                Method::POST | Method::PUT => Route::Service(MetricsRequest::Reload(peer.ip())),
                _ => not_allowed("POST, PUT"),
            };
        }
        let file = |content_type, body: &'static str| Route::Response(response(StatusCode::OK, content_type, body));
        let route = match path {
            "/" => Route::Service(MetricsRequest::Page(Range::of_query(
                request.uri().query().unwrap_or_default(),
            ))),
            _ if path.starts_with(EPISODES) => {
                Route::Service(MetricsRequest::Episode(path[EPISODES.len()..].to_owned()))
            }
            "/api/v1/status" => Route::Service(MetricsRequest::StatusJson),
            "/-/ready" => Route::Service(MetricsRequest::Readiness),
            "/-/healthy" => file(PLAIN, "evenkeel is healthy.\n"),
            "/style.css" => file("text/css; charset=utf-8", page::STYLE),
            "/script.js" => file("text/javascript; charset=utf-8", page::SCRIPT),
            "/icon.svg" => file("image/svg+xml", page::ICON),
            _ => {
                let reason = "Not found. The metrics are at the telemetry path.\n";
                return text(StatusCode::NOT_FOUND, reason);
            }
        };
        if is_read { route } else { not_allowed("GET, HEAD") }
    }
}

/// Where the response to a request comes from.
enum Route {
    Service(MetricsRequest),
    Response(HttpResponse),
}

fn scrape(uri: &Uri, headers: &HeaderMap) -> Route {
    let collectors = match CollectorFilter::from_query(uri.query().unwrap_or("")) {
        Ok(collectors) => collectors,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let value = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    Route::Service(MetricsRequest::Scrape(Scrape {
        collectors,
        format: negotiation::format(value(header::ACCEPT)),
        gzip: negotiation::gzip(value(header::ACCEPT_ENCODING)),
        patience: patience(headers),
    }))
}

/// How long a scrape may wait for fresh samples.
fn patience(headers: &HeaderMap) -> Duration {
    headers
        .get(SCRAPE_TIMEOUT_HEADER)
        .and_then(|value| value.to_str().ok()?.parse::<f64>().ok())
        .filter(|seconds| *seconds > 0.0)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * DEADLINE_SHARE).ok())
        .map_or(PATIENCE, |patience| patience.min(PATIENCE))
}

fn response_of(reply: MetricsReply) -> HttpResponse {
    let head = reply.head;
    let content_type = match head.content {
        ContentType::Plain => PLAIN,
        ContentType::Html => "text/html; charset=utf-8",
        ContentType::Json => "application/json",
        ContentType::Exposition { format, .. } => format.content_type(),
    };
    let mut response = response(head.status.code(), content_type, reply.body);
    let headers = response.headers_mut();
    match head.content {
        ContentType::Html | ContentType::Json => {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        ContentType::Exposition { gzip, .. } => {
            headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
            if gzip {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        ContentType::Plain => {}
    }
    response
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let body = body.into();
    let length = body.len();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Set here, so that HEAD has it, too.
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    answer
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Route {
    Route::Response(response(status, PLAIN, text))
}

fn not_allowed(allow: &'static str) -> Route {
    let text = format!("Method not allowed, use {allow}.\n");
    let mut answer = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    Route::Response(answer)
}
