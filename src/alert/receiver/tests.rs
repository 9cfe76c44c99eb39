//! The real listener on a free port, with clients on plain sockets.

use super::*;
use crate::family::SampleValue;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;

const GOOD: &str = r#"{"version":"4","status":"firing","alerts":[
    {"status":"firing","labels":{"alertname":"A"},"startsAt":"2026-11-22T03:00:00Z"},
    {"status":"resolved","labels":{"alertname":"B"},"startsAt":"2026-11-22T03:00:00Z","endsAt":"2026-11-22T03:01:00Z"}
]}"#;

/// Lines that the listener logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap()
    }

    fn take_lines(&self) -> Vec<String> {
        String::from_utf8(std::mem::take(&mut *self.bytes()))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.bytes().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A running listener.
struct Site {
    addr: SocketAddr,
    telemetry: Telemetry,
    log: Log,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    fn start(access: Access, inbox: impl Inbox) -> Site {
        Site::start_within(ServerLimits::default(), access, inbox)
    }

    fn start_within(limits: ServerLimits, access: Access, inbox: impl Inbox) -> Site {
        let (telemetry, log) = (Telemetry::default(), Log::default());
        let (shutdown, stop) = oneshot::channel::<()>();
        let (bound, addr) = mpsc::channel();
        let inbox = CountingInbox::new(inbox, telemetry.clone());
        let counts = telemetry.clone();
        let receiver = WebhookReceiver::new(inbox, access, Box::new(move |code| counts.webhook_request(code)));
        let writer = log.clone();
        // One thread holds the whole runtime, so that its log lines are its own.
        let thread = std::thread::spawn(move || {
            let subscriber = tracing_subscriber::fmt()
                .with_writer(move || writer.clone())
                .with_ansi(false)
                .finish();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tracing::subscriber::with_default(subscriber, || {
                runtime.block_on(async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    bound.send(listener.local_addr().unwrap()).unwrap();
                    receiver.run(listener, limits, async { drop(stop.await) }).await;
                });
            });
        });
        Site {
            addr: addr.recv().unwrap(),
            telemetry,
            log,
            shutdown: Some(shutdown),
            thread: Some(thread),
        }
    }

    fn exchange(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        Reply::read(stream)
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> Reply {
        self.exchange(&post(path, headers, body.as_bytes()))
    }

    fn counted(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.telemetry.families();
        let family = families.iter().find(|known| known.name == family);
        let mut points = family.expect("the family exists").points();
        let fits = |point: &crate::family::Point| {
            let of_point = point.labels.iter().map(|label| (&*label.0, &*label.1));
            of_point.eq(labels.iter().copied())
        };
        match points.find(fits).map(|point| point.value) {
            Some(SampleValue::Number(number)) => *number,
            _ => 0.0,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Reply {
    code: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(mut stream: TcpStream) -> Reply {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {text:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply {
            code,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n")
            .into_bytes();
    request.extend_from_slice(body);
    request
}

const JSON: &str = "Content-Type: application/json\r\n";

/// An engine that makes everything durable, and its deliveries.
fn durable() -> (impl Inbox, mpsc::Receiver<Delivery>) {
    let (sender, deliveries) = mpsc::sync_channel(100);
    let inbox = move |mut delivery: Delivery| {
        let (unused, _) = oneshot::channel();
        std::mem::replace(&mut delivery.reply, unused)
            .send(Receipt::Durable)
            .unwrap();
        sender.try_send(delivery).map_err(|_| NotAccepted::Full)
    };
    (inbox, deliveries)
}

fn with_token(dir: &tempfile::TempDir) -> Access {
    let path = dir.path().join("token");
    std::fs::write(&path, "s3cret\n").unwrap();
    Access::open().with_token_file(&path).unwrap()
}

#[test]
fn good_requests_reach_the_engine_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, deliveries) = durable();
    let site = Site::start(with_token(&dir), inbox);
    let chunked = |body: &str| {
        let mut request = String::from("POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        request +=
            "Authorization: Bearer s3cret\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        for piece in body.as_bytes().chunks(7) {
            request += &format!("{:x}\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap());
        }
        (request + "0\r\n\r\n").into_bytes()
    };
    let bearer = "Authorization: Bearer s3cret\r\n";
    let kinds = [
        "Content-Type: application/json\r\n",
        "Content-Type: Application/JSON; charset=UTF-8\r\n",
        "Content-Type: application/json;charset=\"utf-8\"; version=4\r\n",
    ];
    let mut requests = vec![chunked(GOOD), post("/", &format!("{bearer}{JSON}"), GOOD.as_bytes())];
    requests.extend(kinds.map(|kind| {
        post(
            "/webhook",
            &format!("{kind}authorization: bearer s3cret\r\n"),
            GOOD.as_bytes(),
        )
    }));
    let padded = GOOD.to_owned() + &" ".repeat(MAX_BODY_BYTES - GOOD.len());
    requests.push(post("/webhook?x=1", &format!("{bearer}{JSON}"), padded.as_bytes()));
    for request in &requests {
        let reply = site.exchange(request);
        assert_eq!((reply.code, &*reply.body), (200, "ok: 2 alerts, 0 invalid\n"));
        let delivery = deliveries.try_recv().unwrap();
        assert_eq!(delivery.alerts.iter().map(Alert::name).collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(delivery.invalid, 0);
    }
    let count = requests.len() as f64;
    assert_eq!(
        site.counted("evenkeel_webhook_requests_total", &[("code", "200")]),
        count
    );
    for status in ["firing", "resolved"] {
        let labels = [("source", "alertmanager"), ("status", status)];
        assert_eq!(site.counted("evenkeel_alerts_received_total", &labels), count);
    }
    assert_eq!(site.log.take_lines(), Vec::<String>::new());
}

#[test]
fn bad_input_gets_its_code_one_log_line_and_no_action() {
    let dir = tempfile::tempdir().unwrap();
    let bearer = "Authorization: Bearer s3cret\r\n";
    let good_head = format!("{bearer}{JSON}");
    let check = |what: &str, request: &[u8], code: u16, says: &str| {
        // A listener of its own, because one logs a line a second for each code.
        let (inbox, deliveries) = durable();
        let site = Site::start(with_token(&dir), inbox);
        let before = site.counted("evenkeel_webhook_requests_total", &[("code", &code.to_string())]);
        let reply = site.exchange(request);
        assert_eq!(reply.code, code, "{what}: {}", reply.body);
        let lines = site.log.take_lines();
        assert_eq!(lines.len(), 1, "{what}: {lines:?}");
        let line = &lines[0];
        assert!(
            line.contains("WARN") && line.contains(&format!("code={code}")) && line.contains(says),
            "{what}: {line}"
        );
        assert!(!line.contains("s3cret"), "{line}");
        let after = site.counted("evenkeel_webhook_requests_total", &[("code", &code.to_string())]);
        assert_eq!(after, before + 1.0, "{what}");
        assert_eq!(deliveries.try_recv().err(), Some(TryRecvError::Empty), "{what}");
        reply
    };
    let body = |what: &str, body: &str, code: u16, says: &str| {
        check(what, &post("/webhook", &good_head, body.as_bytes()), code, says);
    };
    body("an empty body", "", 400, "the body is empty");
    body("not JSON", "alert!", 400, "begins with 'a'");
    body("broken JSON", r#"{"version":"4","alerts":["#, 400, "EOF");
    body(
        "a wrong version",
        r#"{"version":"3","alerts":[]}"#,
        400,
        "webhook version",
    );
    body("no version", r#"{"alerts":[]}"#, 400, "missing");
    body("a list", &format!("[{GOOD}]"), 400, "begins with '['");
    body(
        "nested ten thousand deep",
        &(r#"{"version":"4","alerts":"#.to_owned() + &"[".repeat(10_000)),
        400,
        "nested",
    );
    check(
        "not UTF-8",
        &post("/", &good_head, b"{\"version\":\"4\",\"alerts\":\"\xff\"}"),
        400,
        "UTF-8",
    );
    body(
        "5 MiB",
        &(GOOD.to_owned() + &" ".repeat(5 * 1024 * 1024)),
        413,
        "larger than 4194304 bytes",
    );
    body(
        "one byte too many",
        &(GOOD.to_owned() + &" ".repeat(MAX_BODY_BYTES + 1 - GOOD.len())),
        413,
        "larger",
    );
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
    let chunked = format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{good_head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(80)
    );
    check("5 MiB chunked", chunked.as_bytes(), 413, "larger");
    let expecting = format!("{good_head}Expect: 100-continue\r\nContent-Length: 5242880\r\n");
    let head = format!("POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{expecting}\r\n");
    check("5 MiB announced", head.as_bytes(), 413, "larger");

    let head = |what: &str, headers: &str, code: u16, says: &str| {
        check(what, &post("/webhook", headers, GOOD.as_bytes()), code, says)
    };
    head(
        "an Origin header",
        &format!("{good_head}Origin: http://example.com\r\n"),
        403,
        "Origin",
    );
    head("a null Origin", &format!("{good_head}Origin: null\r\n"), 403, "Origin");
    for (what, authorization) in [
        ("no token", ""),
        ("a wrong token", "Authorization: Bearer s3crets\r\n"),
        ("an empty token", "Authorization: Bearer \r\n"),
        ("another scheme", "Authorization: Basic czNjcmV0\r\n"),
        ("the bare token", "Authorization: nothing\r\n"),
        (
            "two tokens",
            "Authorization: Bearer s3cret\r\nAuthorization: Bearer other\r\n",
        ),
    ] {
        let says = if authorization.contains("s3crets") {
            "wrong"
        } else {
            "no credentials"
        };
        let reply = head(what, &format!("{authorization}{JSON}"), 401, says);
        assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
    }
    for (what, kind) in [
        ("no content type", ""),
        ("a form", "Content-Type: application/x-www-form-urlencoded\r\n"),
        ("plain text", "Content-Type: text/plain\r\n"),
        (
            "another charset",
            "Content-Type: application/json; charset=iso-8859-1\r\n",
        ),
        (
            "two content types",
            "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
        ),
        (
            "compression",
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
        ),
    ] {
        head(what, &format!("{bearer}{kind}"), 415, "send application/json in UTF-8");
    }
    for path in ["/metrics", "/webhook/", "//webhook", "/api/v1/alerts"] {
        check(path, &post(path, &good_head, GOOD.as_bytes()), 404, "no such path");
    }
    for (method, path, allow) in [
        ("GET", "/webhook", "post"),
        ("PUT", "/", "post"),
        ("OPTIONS", "/webhook", "post"),
        ("POST", "/-/healthy", "get, head"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{bearer}\r\n");
        let reply = check(path, request.as_bytes(), 405, "method is not allowed");
        assert!(reply.head.contains(&format!("allow: {allow}\r\n")), "{}", reply.head);
    }
}

#[test]
fn a_bad_entry_is_delivered_as_invalid_beside_the_good_ones() {
    let (inbox, deliveries) = durable();
    let site = Site::start(Access::open(), inbox);
    let body = r#"{"version":"4","truncatedAlerts":7,"groupKey":"g","alerts":[
        {"status":"firing","labels":{"a":"1"}}, {"status":"firing","labels":{"a":2}}, {"status":"firing","labels":{"a":"3"}}]}"#;
    let reply = site.post("/webhook", JSON, body);
    assert_eq!(reply.code, 200);
    let said = reply.body.strip_prefix("ok: 2 alerts, 1 invalid: alerts[1]: ");
    assert!(said.is_some_and(|reason| reason.contains('2')), "{}", reply.body);
    let delivery = deliveries.try_recv().unwrap();
    assert_eq!(delivery.alerts.len(), 2);
    assert_eq!(delivery.invalid, 1);
    assert_eq!(site.counted("evenkeel_alerts_truncated_total", &[]), 7.0);
    let lines = site.log.take_lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("truncated=7") && lines[1].contains("alerts[1]"),
        "{lines:?}"
    );
}

#[test]
fn a_request_without_alerts_is_answered_without_the_engine() {
    let site = Site::start(Access::open(), |_: Delivery| -> Result<(), NotAccepted> {
        panic!("nothing to deliver")
    });
    assert_eq!(site.post("/webhook", JSON, r#"{"version":"4","alerts":[]}"#).code, 200);
    assert_eq!(
        site.post("/webhook", JSON, r#"{"version":"4","alerts":null}"#).code,
        200
    );
}

#[test]
fn failed_delivery_is_not_acknowledged() {
    let check = |inbox: Box<dyn Fn(Delivery) -> Result<(), NotAccepted> + Send + Sync>, says: &str, received: f64| {
        let site = Site::start(Access::open(), inbox);
        let reply = site.post("/webhook", JSON, GOOD);
        assert_eq!(reply.code, 503, "{}", reply.body);
        assert!(reply.head.contains("\r\nretry-after: "), "{}", reply.head);
        assert!(reply.body.contains(says), "{}", reply.body);
        let labels = [("source", "alertmanager"), ("status", "firing")];
        assert_eq!(
            site.counted("evenkeel_alerts_received_total", &labels),
            received,
            "{says}"
        );
        assert_eq!(site.log.take_lines().len(), 1);
    };
    check(Box::new(|_| Err(NotAccepted::Full)), "inbox is full", 0.0);
    let unwritable = |delivery: Delivery| {
        delivery
            .reply
            .send(Receipt::Unavailable("the ledger cannot be written".to_owned()))
            .unwrap();
        Ok(())
    };
    check(Box::new(unwritable), "ledger cannot be written", 1.0);
    // Drops the delivery with its reply, as an engine does that panics while handling it.
    check(Box::new(|_| Ok(())), "no answer", 1.0);
}

#[test]
fn emptied_token_file_refuses_requests_and_asks_to_retry() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, deliveries) = durable();
    let site = Site::start(with_token(&dir), inbox);
    std::fs::write(dir.path().join("token"), "\n").unwrap();
    let reply = site.post("/webhook", &format!("{JSON}Authorization: Bearer s3cret\r\n"), GOOD);
    assert_eq!(reply.code, 503);
    assert!(
        !reply.body.contains("token"),
        "a stranger learns no path: {}",
        reply.body
    );
    assert!(site.log.take_lines()[0].contains("is empty"));
    assert!(deliveries.try_recv().is_err());
}

#[test]
fn new_token_counts_at_once_and_then_replaces_the_former() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, _deliveries) = durable();
    let site = Site::start(with_token(&dir), inbox);
    let code = |token: &str| {
        let reply = site.post("/webhook", &format!("{JSON}Authorization: Bearer {token}\r\n"), GOOD);
        reply.code
    };
    assert_eq!([code("s3cret"), code("s3cret"), code("wrong")], [200, 200, 401]);
    std::fs::write(dir.path().join("token"), "another").unwrap();
    assert_eq!([code("another"), code("s3cret"), code("another")], [200, 401, 200]);
}

#[test]
fn healthy_needs_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, _deliveries) = durable();
    let site = Site::start(with_token(&dir), inbox);
    for (method, body) in [("GET", "evenkeel is healthy.\n"), ("HEAD", "")] {
        let reply =
            site.exchange(format!("{method} /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!((reply.code, &*reply.body), (200, body));
    }
}

#[test]
fn requests_in_a_row_on_one_connection_are_answered_in_order() {
    let (inbox, deliveries) = durable();
    let site = Site::start(Access::open(), inbox);
    let kept = String::from_utf8(post("/webhook", JSON, GOOD.as_bytes()))
        .unwrap()
        .replace("Connection: close\r\n", "");
    let bad = kept.replace("/webhook", "/nowhere");
    let last = String::from_utf8(post("/webhook", JSON, GOOD.as_bytes())).unwrap();
    let mut stream = TcpStream::connect(site.addr).unwrap();
    stream.write_all(format!("{kept}{bad}{last}").as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let codes: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(codes, ["200", "404", "200"]);
    assert_eq!(deliveries.try_iter().count(), 2);
}

#[test]
fn connection_without_http_is_closed_with_one_log_line() {
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
    ] {
        let (inbox, _deliveries) = durable();
        let site = Site::start(Access::open(), inbox);
        let mut stream = TcpStream::connect(site.addr).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // The connection may end with a reset.
        let _ = stream.read_to_end(&mut Vec::new());
        // The log line may follow the end of the connection, but not that of the listener.
        let log = site.log.clone();
        drop(site);
        let lines = log.take_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("invalid HTTP/1 request"), "{lines:?}");
    }
}

#[test]
fn incomplete_head_closes_the_connection() {
    let limits = ServerLimits {
        max_connections: 1,
        header_timeout: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let (inbox, _deliveries) = durable();
    let site = Site::start_within(limits, Access::open(), inbox);
    let mut slow = TcpStream::connect(site.addr).unwrap();
    slow.write_all(b"POST /webhook HTTP/1.1\r\nHost:").unwrap();
    // There is only one slot, so this succeeds only because the slow connection lost it.
    assert_eq!(site.post("/webhook", JSON, GOOD).code, 200);
    // The kernel resets a connection with unread data.
    match slow.read_to_end(&mut Vec::new()) {
        Ok(bytes) => assert_eq!(bytes, 0),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn shutdown_waits_for_a_pending_response() {
    let (sender, deliveries) = mpsc::sync_channel(1);
    let mut site = Site::start(Access::open(), move |delivery| {
        sender.try_send(delivery).map_err(|_| NotAccepted::Full)
    });
    let mut stream = TcpStream::connect(site.addr).unwrap();
    stream.write_all(&post("/webhook", JSON, GOOD.as_bytes())).unwrap();
    let delivery = deliveries.recv().unwrap();
    drop(site.shutdown.take());
    // Connections are refused once the listener is closed. Only then the engine replies.
    while TcpStream::connect(site.addr).is_ok() {
        std::thread::yield_now();
    }
    delivery.reply.send(Receipt::Durable).unwrap();
    assert_eq!(Reply::read(stream).code, 200);
}

/// Nine bodies of the maximum size that never end, which would use up the memory for bodies.
#[test]
fn slow_bodies_give_way_to_a_real_sender() {
    let (inbox, deliveries) = durable();
    let site = Site::start(Access::open(), inbox);
    let slow = || {
        let mut stream = TcpStream::connect(site.addr).unwrap();
        let head = format!(
            "POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {MAX_BODY_BYTES}\r\n{JSON}\r\n{{"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut slow: Vec<TcpStream> = (0..9).map(|_| slow()).collect();
    for _ in 0..3 {
        let started = Instant::now();
        assert_eq!(site.post("/webhook", JSON, GOOD).code, 200);
        assert!(started.elapsed() < BODY_TIMEOUT / 2, "{:?}", started.elapsed());
    }
    assert_eq!(deliveries.try_iter().count(), 3);
    // The oldest one gave way, and was told so.
    let oldest = slow.remove(0);
    oldest.shutdown(Shutdown::Write).unwrap();
    let refused = Reply::read(oldest);
    assert_eq!(refused.code, 503, "{}", refused.body);
}

/// Alertmanager drops a notification at 429, and sends it again at 503.
#[test]
fn rate_limit_asks_the_sender_to_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("web.yml");
    std::fs::write(&config, "rate_limit: {interval: 1h, burst: 1}\n").unwrap();
    let access = Access::open().with_web_config(&config).unwrap();
    assert!(access.limits_rate());
    let (inbox, _deliveries) = durable();
    let site = Site::start(access, inbox);
    assert_eq!(site.post("/webhook", JSON, GOOD).code, 200);
    let refused = site.post("/webhook", JSON, GOOD);
    assert!(
        refused.code == 503 && refused.head.contains("retry-after: 1"),
        "{}",
        refused.head
    );
}

#[test]
fn wrong_token_waits_and_the_right_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, _deliveries) = durable();
    let site = Site::start(with_token(&dir), inbox);
    let post = |token: &str| {
        let started = Instant::now();
        let reply = site.post("/webhook", &format!("Authorization: Bearer {token}\r\n{JSON}"), GOOD);
        (reply.code, started.elapsed())
    };
    std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..8).map(|_| scope.spawn(|| post("guess"))).collect();
        assert_eq!(post("s3cret").0, 200);
        for guess in guesses {
            let (code, took) = guess.join().unwrap();
            assert!(
                code == 401 && took >= Duration::from_millis(100),
                "{code} after {took:?}"
            );
        }
    });
}
