//! The request handler of the metrics listener: metrics, status page and status as JSON, health checks and reload. It
//! knows nothing of sockets and TLS.

use super::exposition::Content;
use super::negotiation::{self, Format};
use super::normalize::FamilyOrder;
use super::page;
use super::response_cache::{CachedResponse, ResponseCache};
use super::status::{Status, status};
use crate::family::{DescriptorCache, DescriptorPool, Family, label};
use crate::http::HttpResponse;
use crate::sense::{COLLECTORS, Sampler, Snapshot};
use crate::telemetry::Telemetry;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A scrape reads fast samples again that are older than this.
const MAX_SAMPLE_AGE: Duration = Duration::from_millis(100);

/// How long a scrape, or the page, waits for fresh samples before it uses the newest.
const PATIENCE: Duration = Duration::from_secs(2);

/// Share of the scraper's deadline that may be spent waiting; the rest is for encoding and transfer.
const DEADLINE_SHARE: f64 = 0.8;

/// The deadline that Prometheus announces with each scrape, in seconds.
const SCRAPE_TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";

/// The page needs its own script, style and icon, and fetches itself again. Everything else is forbidden: inline code,
/// other origins, text that becomes markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Reloads the configuration for a requester such as `POST /-/reload from 10.0.0.7`; may block. The error is the reason
/// of a failure.
pub type ReloadFn = Arc<dyn Fn(String) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

/// A source of further families, called for each scrape; it must be quick.
pub type FamilySource = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

pub struct HandlerOptions {
    /// `--web.telemetry-path`.
    pub telemetry_path: String,
    /// `--web.max-requests`: scrapes at once; 0 for no limit.
    pub max_requests: usize,
    /// Present with `--web.enable-lifecycle`.
    pub reload: Option<ReloadFn>,
    /// Families of modules that this one does not know.
    pub sources: Vec<FamilySource>,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        HandlerOptions {
            telemetry_path: "/metrics".to_owned(),
            max_requests: 40,
            reload: None,
            sources: Vec::new(),
        }
    }
}

/// Descriptors that the families of successive scrapes share.
#[derive(Default)]
struct Descriptors {
    collector_descriptors: DescriptorCache<&'static str>,
    own: DescriptorPool,
}

/// The handler of all requests to the metrics listener.
pub struct MetricsHandler {
    sampler: Arc<Sampler>,
    telemetry: Telemetry,
    options: HandlerOptions,
    scrapes: Option<Semaphore>,
    response_cache: ResponseCache,
    family_order: Arc<FamilyOrder>,
    descriptors: Mutex<Descriptors>,
    ready: AtomicBool,
}

impl MetricsHandler {
    /// A handler is ready from the start, because a running sampler has its first sample.
    pub fn new(sampler: Arc<Sampler>, telemetry: Telemetry, options: HandlerOptions) -> Self {
        let scrapes = (options.max_requests > 0).then(|| Semaphore::new(options.max_requests));
        MetricsHandler {
            sampler,
            telemetry,
            options,
            scrapes,
            response_cache: ResponseCache::default(),
            family_order: Arc::default(),
            descriptors: Mutex::default(),
            ready: AtomicBool::new(true),
        }
    }

    /// Sets what `/-/ready` reports: not ready while shutting down, for instance.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Responds to one request. The body of a request is never read.
    pub async fn answer<B>(&self, request: &Request<B>, peer: SocketAddr) -> HttpResponse {
        let path = request.uri().path();
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        // The telemetry path comes first, because it may be `/`.
        if path == self.options.telemetry_path {
            return if read {
                self.metrics(request.uri(), request.headers()).await
            } else {
                not_allowed("GET, HEAD")
            };
        }
        if path == "/-/reload" {
            let write = matches!(*request.method(), Method::POST | Method::PUT);
            return if write {
                self.reload(request.headers(), peer).await
            } else {
                not_allowed("POST, PUT")
            };
        }
        let answer = match path {
            "/" => self.page().await,
            "/style.css" => plain(StatusCode::OK, "text/css; charset=utf-8", page::STYLE),
            "/script.js" => plain(StatusCode::OK, "text/javascript; charset=utf-8", page::SCRIPT),
            "/icon.svg" => plain(StatusCode::OK, "image/svg+xml", page::ICON),
            "/api/v1/status" => self.status_json().await,
            "/-/healthy" => plain(StatusCode::OK, PLAIN, "evenkeel is healthy.\n"),
            "/-/ready" if self.ready.load(Ordering::Relaxed) => plain(StatusCode::OK, PLAIN, "evenkeel is ready.\n"),
            "/-/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "evenkeel is not ready.\n"),
            _ => {
                return plain(
                    StatusCode::NOT_FOUND,
                    PLAIN,
                    "Not found. The metrics are at the telemetry path.\n",
                );
            }
        };
        if read { answer } else { not_allowed("GET, HEAD") }
    }

    async fn metrics(&self, uri: &Uri, headers: &HeaderMap) -> HttpResponse {
        let _permit = match &self.scrapes {
            None => None,
            Some(scrapes) => match scrapes.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let limit = self.options.max_requests;
                    let text = format!("Limit of concurrent requests reached ({limit}), try again later.\n");
                    return plain(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text);
                }
            },
        };
        let filter = match CollectorFilter::from_query(uri.query().unwrap_or("")) {
            Ok(filter) => filter,
            Err(text) => return plain(StatusCode::BAD_REQUEST, PLAIN, text),
        };
        let snapshot = self.sampler.fresh(MAX_SAMPLE_AGE, patience(headers)).await;
        let response = if let CollectorFilter::All = filter {
            self.response_cache
                .get_or_create(snapshot, |snapshot| self.content(snapshot, &filter))
        } else {
            let missing = filter.missing(&snapshot);
            if !missing.is_empty() {
                return plain(
                    StatusCode::BAD_REQUEST,
                    PLAIN,
                    format!("disabled collector: {}\n", missing.join(", ")),
                );
            }
            let content = self.content(&snapshot, &filter);
            Arc::new(self.response_cache.uncached(snapshot, content))
        };
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let format = negotiation::format(text(header::ACCEPT));
        let gzip = negotiation::gzip(text(header::ACCEPT_ENCODING));
        exposition_answer(&response, format, gzip)
    }

    fn content(&self, snapshot: &Snapshot, filter: &CollectorFilter) -> Content {
        let mut own = self.telemetry.families();
        own.push(NODE_EXPORTER_BUILD_INFO.clone());
        own.extend(self.options.sources.iter().flat_map(|source| source()));
        let readings: Vec<_> = snapshot
            .readings
            .iter()
            .filter(|reading| filter.includes(reading.collector))
            .cloned()
            .collect();
        let chosen = Snapshot {
            readings,
            ..snapshot.clone()
        };
        // Descriptors are compared before they are used, so a panic leaves no wrong ones.
        let mut descriptors = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(chosen.collector_families(Instant::now(), &mut descriptors.collector_descriptors));
        descriptors.own.share(&mut own);
        Content {
            readings: chosen.readings,
            derived: chosen.derived,
            own,
            order: match filter {
                CollectorFilter::All => Arc::clone(&self.family_order),
                CollectorFilter::Only(_) | CollectorFilter::Without(_) => Arc::default(),
            },
        }
    }

    async fn status(&self) -> Status {
        // All viewers within one interval share a sample.
        let snapshot = self.sampler.fresh(self.sampler.interval(), PATIENCE).await;
        status(&self.sampler, &snapshot, &self.telemetry, Instant::now())
    }

    async fn page(&self) -> HttpResponse {
        let status = self.status().await;
        let html = page::page(&status, &self.options.telemetry_path);
        let mut answer = plain(StatusCode::OK, "text/html; charset=utf-8", html);
        answer
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    async fn status_json(&self) -> HttpResponse {
        let status = self.status().await;
        match serde_json::to_vec(&status) {
            Ok(json) => plain(StatusCode::OK, JSON, json),
            Err(error) => failed(format!("{error}\n")),
        }
    }

    async fn reload(&self, headers: &HeaderMap, peer: SocketAddr) -> HttpResponse {
        let Some(reload) = &self.options.reload else {
            let hint = "Lifecycle API is not enabled: start with --web.enable-lifecycle, or send SIGHUP.\n";
            return plain(StatusCode::FORBIDDEN, PLAIN, hint);
        };
        // Only a browser sends this header, for a page of another origin.
        if headers.contains_key(header::ORIGIN) {
            return plain(StatusCode::FORBIDDEN, PLAIN, "Requests from web pages are refused.\n");
        }
        let reload = Arc::clone(reload);
        let by = format!("POST /-/reload from {}", peer.ip().to_canonical());
        // A reload reads files, which may block.
        match tokio::task::spawn_blocking(move || reload(by)).await {
            Ok(Ok(())) => plain(StatusCode::OK, PLAIN, "Configuration reloaded.\n"),
            Ok(Err(why)) => failed(format!("failed to reload config: {why}\n")),
            Err(_) => failed("failed to reload config: it panicked\n"),
        }
    }
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

/// The cluster dashboard of node-mixin divides by the number of these series.
static NODE_EXPORTER_BUILD_INFO: LazyLock<Family> = LazyLock::new(|| {
    let mut info = Family::gauge(
        "node_exporter_build_info",
        "The version of evenkeel, under the name that dashboards for node_exporter ask for; the value is always 1.",
    );
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    info.push(
        [
            label("branch", ""),
            label("goarch", architecture),
            label("goos", "linux"),
            label("goversion", ""),
            label("revision", ""),
            label("version", env!("CARGO_PKG_VERSION")),
        ],
        1.0,
    );
    info
});

/// The collectors that a URL selects with `collect[]` or `exclude[]`.
enum CollectorFilter {
    All,
    Only(BTreeSet<&'static str>),
    Without(BTreeSet<&'static str>),
}

impl CollectorFilter {
    fn from_query(query: &str) -> Result<Self, String> {
        let mut collect = BTreeSet::new();
        let mut exclude = BTreeSet::new();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let set = match decode_percent(key).as_ref() {
                "collect[]" => &mut collect,
                "exclude[]" => &mut exclude,
                _ => continue,
            };
            let name = decode_percent(value);
            let known = COLLECTORS.iter().find(|info| info.name == name);
            set.insert(known.ok_or_else(|| format!("missing collector: {name}\n"))?.name);
        }
        match (collect.is_empty(), exclude.is_empty()) {
            (true, true) => Ok(CollectorFilter::All),
            (false, true) => Ok(CollectorFilter::Only(collect)),
            (true, false) => Ok(CollectorFilter::Without(exclude)),
            (false, false) => Err("Combined collect and exclude queries are not allowed.\n".to_owned()),
        }
    }

    fn includes(&self, collector: &str) -> bool {
        match self {
            CollectorFilter::All => true,
            CollectorFilter::Only(names) => names.contains(collector),
            CollectorFilter::Without(names) => !names.contains(collector),
        }
    }

    /// The selected collectors that are disabled.
    fn missing(&self, snapshot: &Snapshot) -> Vec<&'static str> {
        let CollectorFilter::Only(names) = self else {
            return Vec::new();
        };
        let on: BTreeSet<_> = snapshot.readings.iter().map(|reading| reading.collector).collect();
        names.difference(&on).copied().collect()
    }
}

/// Decodes percent escapes and `+` in a part of a query. Invalid escapes stay as they are.
fn decode_percent(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
        rest = tail;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn exposition_answer(response: &CachedResponse, format: Format, gzip: bool) -> HttpResponse {
    let Some(body) = response.body(format, gzip) else {
        return failed("The metrics could not be encoded.\n");
    };
    let mut answer = plain(StatusCode::OK, format.content_type(), body);
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

fn plain(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
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

fn failed(text: impl Into<Bytes>) -> HttpResponse {
    plain(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, text)
}

fn not_allowed(allow: &'static str) -> HttpResponse {
    let mut answer = plain(
        StatusCode::METHOD_NOT_ALLOWED,
        PLAIN,
        format!("Method not allowed, use {allow}.\n"),
    );
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_scrape_timeout() {
        for (header, expected) in [
            (None, PATIENCE),
            (Some("10"), PATIENCE),
            (Some("0.5"), Duration::from_millis(400)),
            (Some("0"), PATIENCE),
            (Some("-1"), PATIENCE),
            (Some("1e400"), PATIENCE),
            (Some("NaN"), PATIENCE),
            (Some("soon"), PATIENCE),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(SCRAPE_TIMEOUT_HEADER, HeaderValue::from_static(header));
            }
            assert_eq!(patience(&headers), expected, "{header:?}");
        }
    }

    #[test]
    fn escapes_are_decoded_and_invalid_ones_stay() {
        for (text, expected) in [
            ("collect%5B%5d", "collect[]"),
            ("a+b", "a b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode_percent(text), expected, "{text:?}");
        }
    }
}
