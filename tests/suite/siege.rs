//! The webhook under attack: with any input, evenkeel keeps running, stays small, serves scrapes, and acts on valid
//! alerts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home, TOKEN};
use crate::support::payload::{about, envelope, firing};
use crate::support::{eventually, http, node_name};

/// A longer siege: `EVENKEEL_SIEGE_SECONDS=300 cargo test --test suite siege`.
const SECONDS_VARIABLE: &str = "EVENKEEL_SIEGE_SECONDS";
const DEFAULT_SECONDS: u64 = 10;
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECTIONS_AT_ONCE: u64 = 1000;
const RULE_NICE: i32 = 15;
/// Permitted growth: 32 MiB of bodies, their decoded form, and the buffers of 256 connections.
const MAX_GROWTH_BYTES: u64 = 128 * 1024 * 1024;
/// Permitted change of the number of descriptors without load.
const SPARE_DESCRIPTORS: usize = 16;

/// An attack on the listener, which is repeated.
type Attack = fn(SocketAddr) -> std::io::Result<()>;

const ATTACKS: [(&str, Attack); 13] = [
    ("valid, about another host", |at| {
        post(at, about("Test", "another-host:9100").as_bytes())
    }),
    ("huge", |at| post(at, &vec![b' '; 5 << 20])),
    ("large and full of entries", |at| {
        post(
            at,
            format!("{{\"version\":\"4\",\"alerts\":[{}0]}}", "0,".repeat(1 << 20)).as_bytes(),
        )
    }),
    ("truncated", |at| {
        converse(at, &[head("Content-Length: 1000"), "{\"version\":\"4\",".to_owned()])
    }),
    ("slow", |at| {
        let mut stream = connect(at)?;
        for byte in head("Content-Length: 10").bytes().take(40) {
            stream.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }),
    ("nested deeply", |at| post(at, "[".repeat(1 << 20).as_bytes())),
    ("names given twice", |at| {
        let twice = about("Test", &node_name()).replace("\"alertname\":", "\"alertname\":\"x\",\"alertname\":");
        post(at, twice.as_bytes())
    }),
    ("wrong charset", |at| {
        let head = head("Content-Length: 4").replace("application/json", "application/json; charset=utf-16");
        converse(at, &[head, "\0{\0}".to_owned()])
    }),
    ("chunks without end", |at| {
        let mut stream = connect(at)?;
        stream.write_all(head("Transfer-Encoding: chunked").as_bytes())?;
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        for _ in 0..200 {
            stream.write_all(chunk.as_bytes())?;
        }
        Ok(())
    }),
    ("pipelined", |at| {
        converse(at, &[format!("{}{{}}", head("Content-Length: 2")).repeat(50)])
    }),
    ("HTTP/2", |at| {
        converse(
            at,
            &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0".to_owned()],
        )
    }),
    ("TLS", |at| {
        converse(at, &["\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".repeat(20)])
    }),
    ("many connections", |at| {
        let open: Vec<TcpStream> = (0..CONNECTIONS_AT_ONCE).filter_map(|_| connect(at).ok()).collect();
        std::thread::sleep(Duration::from_millis(500));
        drop(open);
        Ok(())
    }),
];

fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

fn head(length: &str) -> String {
    format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    )
}

/// Writes the parts, shuts down the sending side, and reads the response.
fn converse(at: SocketAddr, parts: &[String]) -> std::io::Result<()> {
    let mut stream = connect(at)?;
    for part in parts {
        stream.write_all(part.as_bytes())?;
    }
    stream.shutdown(Shutdown::Write)?;
    std::io::copy(&mut stream.take(1 << 20), &mut std::io::sink())?;
    Ok(())
}

fn post(at: SocketAddr, body: &[u8]) -> std::io::Result<()> {
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", authorization.as_str()),
    ];
    http::request(at, "POST", "/webhook", &headers, body).map(drop)
}

/// Sends a payload as Alertmanager does, with retries after errors and 503.
fn insist(evenkeel: &Daemon, payload: &str) {
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", authorization.as_str()),
    ];
    eventually("a valid alert to be taken", TIMEOUT, || {
        let answer = http::request(evenkeel.webhook, "POST", "/webhook", &headers, payload.as_bytes()).ok()?;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 200).then_some(())
    });
}

pub fn seconds() -> u64 {
    std::env::var(SECONDS_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_SECONDS)
}

#[test]
fn a_besieged_webhook_lives_and_acts() {
    let limit = getrlimit(Resource::Nofile);
    // The test needs a thousand connections as well. With a lower hard limit it opens fewer.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let name = format!("siege-{}", std::process::id() % 100_000);
    let home = Home::new(&format!(
        "rules: [{{name: test, matchers: ['alertname=\"Test\"'], select: {{name: {name}}}, actions: [{{nice: {RULE_NICE}}}]}}]\n"
    ));
    let burner = Burner::start(&name);
    let before = burner.nice_values();
    let evenkeel = home.start(&["--enforce"]);
    post(evenkeel.webhook, about("Test", "another-host").as_bytes()).expect("an answer");
    let (quiet_bytes, quiet_descriptors) = (evenkeel.resident_bytes(), evenkeel.open_descriptors());

    let end = Instant::now() + Duration::from_secs(seconds());
    let done: Vec<AtomicU64> = ATTACKS.iter().map(|_| AtomicU64::new(0)).collect();
    let (mut acted, mut scrapes, mut slowest, mut peak_bytes) = (0, 0, Duration::ZERO, quiet_bytes);
    std::thread::scope(|threads| {
        for ((_, attack), count) in ATTACKS.iter().zip(&done) {
            threads.spawn(|| {
                while Instant::now() < end {
                    // The connection may be reset.
                    let _ = attack(evenkeel.webhook);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let watch = threads.spawn(|| {
            while Instant::now() < end {
                let asked = Instant::now();
                let answer = http::get(evenkeel.metrics, "/metrics").expect("evenkeel is scraped throughout");
                assert_eq!(answer.status, 200);
                slowest = slowest.max(asked.elapsed());
                peak_bytes = peak_bytes.max(evenkeel.resident_bytes());
                scrapes += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // The alert fires and resolves repeatedly, each time as a new one.
        while Instant::now() < end && !watch.is_finished() {
            let mut alert = firing(json!({"alertname": "Test", "instance": node_name()}));
            alert["startsAt"] = json!(jiff::Timestamp::now().to_string());
            insist(&evenkeel, &envelope(&[alert.clone()]).to_string());
            assert!(burner.is_at(RULE_NICE), "an alert that was taken was acted on");
            alert["status"] = json!("resolved");
            alert["endsAt"] = json!(jiff::Timestamp::now().to_string());
            insist(&evenkeel, &envelope(&[alert]).to_string());
            assert_eq!(burner.nice_values(), before, "and undone");
            acted += 1;
        }
    });
    for ((name, _), count) in ATTACKS.iter().zip(&done) {
        eprintln!("siege: {name}: {}", count.load(Ordering::Relaxed));
    }
    eprintln!(
        "siege: {acted} alerts acted on, {scrapes} scrapes, the slowest in {slowest:?}, {quiet_bytes} bytes before, {peak_bytes} at most"
    );
    assert!(acted > 0 && scrapes > 0);
    assert!(done.iter().all(|count| count.load(Ordering::Relaxed) > 0));
    assert_eq!(home.outcomes("applied"), acted);
    assert_eq!(home.outcomes("restored"), acted);
    assert!(
        peak_bytes < quiet_bytes + MAX_GROWTH_BYTES,
        "{quiet_bytes} bytes grew to {peak_bytes}"
    );
    eventually("all connections to be closed", TIMEOUT, || {
        (evenkeel.open_descriptors() <= quiet_descriptors + SPARE_DESCRIPTORS).then_some(())
    });
    let log = evenkeel.log();
    let fault = log
        .iter()
        .find(|line| line.contains("panicked") || line.contains("a fault in"));
    assert_eq!(fault, None);
}
