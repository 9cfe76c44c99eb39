//! Tests of the server of the metrics listener over real connections.

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
