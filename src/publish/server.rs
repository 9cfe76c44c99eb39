//! The server of the metrics listener: access and limits, and the way from an HTTP request to a typed one and from its
//! reply to a response.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::MetricsHandler;
    use crate::publish::metrics_handler::{HandlerOptions, ReloadFn};
    use crate::sense::{Sampler, SamplerConfig};
    use crate::telemetry::Telemetry;
    use flate2::read::GzDecoder;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use tokio::sync::oneshot;

    /// A real listener on a free port, sampling this host.
    struct Running {
        address: SocketAddr,
        handler: Arc<MetricsHandler>,
        server: MetricsServer<MetricsHandler>,
        stop: Option<oneshot::Sender<()>>,
        served: tokio::task::JoinHandle<()>,
        runtime: tokio::runtime::Runtime,
    }

    struct Reply {
        status: u16,
        head: String,
        body: Vec<u8>,
    }

    impl Reply {
        fn text(&self) -> &str {
            str::from_utf8(&self.body).unwrap()
        }

        fn has(&self, header: &str) -> bool {
            self.head
                .to_ascii_lowercase()
                .lines()
                .any(|line| line == header.to_ascii_lowercase())
        }
    }

    impl Running {
        fn start(options: HandlerOptions) -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let sampler = Arc::new(Sampler::start(SamplerConfig::default(), Box::new(())).unwrap());
            let telemetry_path = options.telemetry_path.as_str().into();
            let handler = Arc::new(MetricsHandler::new(sampler, Telemetry::default(), options));
            let server = MetricsServer {
                service: Arc::clone(&handler),
                access: Access::open(),
                telemetry_path,
                max_connections: MAX_CONNECTIONS,
            };
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel();
            let shutdown = async {
                let _ = stopped.await;
            };
            let served = runtime.spawn(server.clone().run(listener, shutdown));
            Running {
                address,
                handler,
                server,
                stop: Some(stop),
                served,
                runtime,
            }
        }

        fn ask(&self, method_and_path: &str, headers: &[&str]) -> Reply {
            let mut stream = TcpStream::connect(self.address).unwrap();
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            write!(
                stream,
                "{method_and_path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
            )
            .unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Reply {
                status,
                head,
                body: bytes[end + 4..].to_vec(),
            }
        }
    }

    #[test]
    fn metrics_come_in_the_format_and_coding_asked_for() {
        let running = Running::start(HandlerOptions::default());
        let openmetrics = running.ask("GET /metrics", &[]);
        assert_eq!(openmetrics.status, 200);
        assert!(openmetrics.has("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
        assert!(openmetrics.text().ends_with("\n# EOF\n"));
        for line in [
            "\n# TYPE node_cpu_seconds counter\n",
            "\nnode_scrape_collector_success{collector=\"cpu\"} 1\n",
        ] {
            assert!(openmetrics.text().contains(line), "{line:?}");
        }

        let text = running.ask("GET /metrics", &["Accept: text/plain"]);
        assert!(text.has("content-type: text/plain; version=0.0.4; charset=utf-8"));
        assert!(text.text().contains("\n# TYPE node_cpu_seconds_total counter\n"));

        let zipped = running.ask("GET /metrics", &["Accept: text/plain", "Accept-Encoding: gzip"]);
        assert!(zipped.has("content-encoding: gzip") && zipped.has("vary: Accept, Accept-Encoding"));
        let mut plain = String::new();
        GzDecoder::new(&zipped.body[..]).read_to_string(&mut plain).unwrap();
        assert!(plain.starts_with("# HELP "));

        let head = running.ask("HEAD /metrics", &["Accept: text/plain"]);
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(head.head.to_ascii_lowercase().contains("content-length: "));
    }

    #[test]
    fn url_selects_collectors_and_unknown_ones_fail() {
        let running = Running::start(HandlerOptions::default());
        let only = running.ask("GET /metrics?collect[]=loadavg&collect%5B%5D=uname", &[]);
        assert!(only.text().contains("\nnode_load1 ") && only.text().contains("\nnode_uname_info{"));
        assert!(!only.text().contains("node_cpu_seconds"));
        let without = running.ask("GET /metrics?exclude[]=cpu", &[]);
        assert!(without.text().contains("\nnode_load1 ") && !without.text().contains("node_cpu_seconds"));
        for (query, text) in [
            ("collect[]=zfs%0a", "missing collector: zfs\n\n"),
            (
                "collect[]=cpu&exclude[]=cpu",
                "Combined collect and exclude queries are not allowed.\n",
            ),
        ] {
            let reply = running.ask(&format!("GET /metrics?{query}"), &[]);
            assert_eq!((reply.status, reply.text()), (400, text));
        }
    }

    #[test]
    fn every_path_accepts_only_its_methods() {
        let running = Running::start(HandlerOptions::default());
        for (request, status, header) in [
            ("GET /", 200, "content-type: text/html; charset=utf-8"),
            ("HEAD /", 200, "content-type: text/html; charset=utf-8"),
            ("GET /style.css", 200, "content-type: text/css; charset=utf-8"),
            ("GET /script.js", 200, "content-type: text/javascript; charset=utf-8"),
            ("GET /icon.svg", 200, "content-type: image/svg+xml"),
            ("GET /api/v1/status", 200, "content-type: application/json"),
            ("GET /api/v1/status", 200, "cache-control: no-store"),
            ("GET /-/healthy", 200, "x-content-type-options: nosniff"),
            ("GET /-/ready", 200, "x-content-type-options: nosniff"),
            ("POST /metrics", 405, "allow: GET, HEAD"),
            ("DELETE /", 405, "allow: GET, HEAD"),
            ("GET /-/reload", 405, "allow: POST, PUT"),
            ("POST /-/reload", 403, "x-content-type-options: nosniff"),
            ("GET /nothing", 404, "x-content-type-options: nosniff"),
            ("POST /nothing", 404, "x-content-type-options: nosniff"),
        ] {
            let reply = running.ask(request, &[]);
            assert!(reply.status == status && reply.has(header), "{request}: {}", reply.head);
        }
        running.handler.set_ready(false);
        assert_eq!(running.ask("GET /-/ready", &[]).status, 503);
    }

    #[test]
    fn page_is_inert_and_equals_status_json() {
        let running = Running::start(HandlerOptions {
            telemetry_path: "/m?\"<".to_owned(),
            ..HandlerOptions::default()
        });
        let page = running.ask("GET /", &[]);
        let head = page.head.to_ascii_lowercase();
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"));
        assert!(head.contains("; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"));
        assert!(!head.contains("unsafe"), "{head}");
        let scripts: Vec<&str> = page.text().split("<script").skip(1).collect();
        assert!(matches!(scripts[..], [only] if only.starts_with(" src=\"script.js\" defer></script>")));
        assert!(page.text().contains("href=\"./m?&quot;&lt;\"") && !page.text().contains("style="));
        let status: serde_json::Value = serde_json::from_slice(&running.ask("GET /api/v1/status", &[]).body).unwrap();
        assert_eq!((&status["mode"], &status["paused"]), (&"dry-run".into(), &false.into()));
        assert!(
            status["figures"]["memory_used_ratio"]
                .as_f64()
                .is_some_and(|ratio| (0.0..=1.0).contains(&ratio))
        );
        let drawn = status["trail"]["memory_used_ratio"].as_array().unwrap();
        assert!(drawn.last().unwrap().as_f64().is_some_and(|ratio| ratio > 0.0));
        assert_eq!(
            status["host"]["name"],
            rustix::system::uname().nodename().to_str().unwrap()
        );
    }

    #[test]
    fn reload_reports_its_result_and_refuses_web_pages() {
        let outcome = Arc::new(std::sync::Mutex::new(Ok::<(), String>(())));
        let shared = Arc::clone(&outcome);
        let reload: ReloadFn = Arc::new(move |by: String| {
            assert_eq!(by, "POST /-/reload from 127.0.0.1");
            Ok(shared.lock().unwrap().clone()?)
        });
        let running = Running::start(HandlerOptions {
            reload: Some(reload),
            ..HandlerOptions::default()
        });
        assert_eq!(running.ask("POST /-/reload", &[]).status, 200);
        assert_eq!(
            running.ask("POST /-/reload", &["Origin: http://evil.example"]).status,
            403
        );
        *outcome.lock().unwrap() = Err("rules.yml:3:1: no".to_owned());
        let failed = running.ask("POST /-/reload", &[]);
        assert_eq!(
            (failed.status, failed.text()),
            (500, "failed to reload config: rules.yml:3:1: no\n")
        );
    }

    #[test]
    fn scrapes_beyond_the_limit_are_refused() {
        let (entered, enters) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new((entered, released));
        // A family source is called in the middle of a scrape: here it blocks the first one.
        let source: crate::publish::FamilySource = Box::new(move || {
            let gate = gate.lock().unwrap();
            gate.0.send(()).unwrap();
            let _ = gate.1.recv();
            Vec::new()
        });
        let options = HandlerOptions {
            max_requests: 1,
            sources: vec![source],
            ..HandlerOptions::default()
        };
        let running = Running::start(options);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| running.site_answer_status("/metrics"));
            enters.recv().unwrap();
            let second = running.ask("GET /metrics", &[]);
            assert_eq!(second.status, 503);
            assert!(second.text().contains("(1)"), "{}", second.text());
            assert_eq!(running.ask("GET /-/healthy", &[]).status, 200);
            drop(release);
            assert_eq!(first.join().unwrap(), 200);
        });
        assert_eq!(running.ask("GET /metrics", &[]).status, 200);
    }

    impl Running {
        /// Calls the handler on this thread, without the network.
        fn site_answer_status(&self, path: &str) -> u16 {
            let request = Request::builder().uri(path).body(()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(self.server.answer(&request, self.address))
                .status()
                .as_u16()
        }
    }

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
    fn shutdown_closes_idle_connections() {
        let mut running = Running::start(HandlerOptions::default());
        let mut idle = TcpStream::connect(running.address).unwrap();
        idle.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
        running.stop.take().unwrap().send(()).unwrap();
        running.runtime.block_on(running.served).unwrap();
        assert_eq!(idle.read(&mut [0; 1024]).unwrap(), 0, "closed by the server");
        TcpStream::connect(running.address).unwrap_err();
    }
}
