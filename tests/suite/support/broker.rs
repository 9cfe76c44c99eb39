//! A resource allocator: a real HTTP server, optionally with TLS, with idempotency keys and faults. A request names its
//! fault, which ends after some tries.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};

/// Longer than the timeout of the tests' clients.
const TOO_LONG: Duration = Duration::from_secs(4);
/// A response that is larger than the limit of clients.
const HUGE_BYTES: usize = 1 << 20;
/// Timeout of silent clients, so that they do not block a thread for ever.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Names of the faults, and the number of tries that each affects.
pub const FAULTS: [(&str, u32); 11] = [
    ("none", 0),
    ("slow", 1),
    ("hanging", 1),
    ("cut", 1),
    ("cut-before", 1),
    ("status-500", 3),
    ("status-403", 1),
    ("redirect", 1),
    ("huge", 1),
    ("not-json", 1),
    ("wrong-json", 1),
];

/// A received request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header lines.
    pub headers: String,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

#[derive(Debug, Default)]
pub struct Books {
    pub seen: Vec<Seen>,
    /// Resource by idempotency key.
    pub granted: BTreeMap<String, String>,
    pub live: BTreeSet<String>,
    /// Number of releases of each resource.
    pub given_back: BTreeMap<String, u32>,
    faults_by_resource: BTreeMap<String, String>,
    tries: BTreeMap<String, u32>,
}

pub struct Broker {
    pub address: SocketAddr,
    books: Arc<Mutex<Books>>,
    /// PEM of the certificate for `localhost`, with TLS.
    pub certificate: Option<String>,
}

impl Broker {
    pub fn plain() -> Broker {
        Broker::start(None)
    }

    pub fn with_tls() -> Broker {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("key and certificate belong together");
        Broker {
            certificate: Some(made.cert.pem()),
            ..Broker::start(Some(Arc::new(config)))
        }
    }

    fn start(tls: Option<Arc<ServerConfig>>) -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let books = Arc::new(Mutex::new(Books::default()));
        let kept = Arc::clone(&books);
        // The thread ends with the test process, because nothing can wake a blocked accept(2).
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (books, tls) = (Arc::clone(&kept), tls.clone());
                std::thread::spawn(move || drop(talk(stream, tls, &books)));
            }
        });
        Broker {
            address,
            books,
            certificate: None,
        }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("the broker does not panic")
    }
}

fn talk(stream: TcpStream, tls: Option<Arc<ServerConfig>>, books: &Mutex<Books>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    match tls {
        None => serve(stream, books),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
            serve(StreamOwned::new(connection, stream), books)
        }
    }
}

fn serve(stream: impl Read + Write, books: &Mutex<Books>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or("").to_owned(),
        words.next().unwrap_or("").to_owned(),
    );
    let mut headers = String::new();
    while stream.read_line(&mut headers)? > 2 {}
    let mut seen = Seen {
        method,
        target,
        headers,
        body: String::new(),
    };
    let length = seen.header("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    seen.body = String::from_utf8_lossy(&body).into_owned();
    let reply = books.lock().expect("the broker does not panic").answer(seen);
    let Reply { fault, status, body } = reply;
    let head = |status: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n")
    };
    let whole = format!("{}\r\n{body}", head(&status, body.len()));
    let answer = match fault.as_str() {
        "slow" => {
            std::thread::sleep(Duration::from_millis(300));
            whole
        }
        "hanging" => {
            std::thread::sleep(TOO_LONG);
            return Ok(());
        }
        "cut" | "cut-before" => whole[..whole.len() - body.len() / 2 - 2].to_owned(),
        "status-500" => format!("{}\r\noops", head("500 Internal Server Error", 4)),
        "status-403" => format!("{}\r\nno", head("403 Forbidden", 2)),
        "redirect" => format!("{}Location: /elsewhere\r\n\r\n", head("302 Found", 0)),
        "huge" => format!("{}\r\n{}", head("200 OK", HUGE_BYTES), " ".repeat(HUGE_BYTES)),
        "not-json" => format!("{}\r\n<html>\x1b[2J", head("200 OK", 10)),
        "wrong-json" => format!("{}\r\n{{\"rsrc\":1}}", head("200 OK", 10)),
        _ => whole,
    };
    stream.get_mut().write_all(answer.as_bytes())?;
    stream.get_mut().flush()
}

struct Reply {
    fault: String,
    status: String,
    body: String,
}

/// Faults at which the server carries out the request although its response does not say so.
const FAULTS_AFTER_SUCCESS: [&str; 6] = ["hanging", "cut", "huge", "not-json", "wrong-json", "slow"];

impl Books {
    fn answer(&mut self, seen: Seen) -> Reply {
        let gives_back = seen.target.strip_prefix("/release/").map(str::to_owned);
        let named = serde_json::from_str::<Value>(&seen.body).ok();
        let named = named.and_then(|body| Some(body.get("fault")?.as_str()?.to_owned()));
        let known = gives_back
            .as_ref()
            .and_then(|resource| self.faults_by_resource.get(resource));
        let fault = named.or(known.cloned()).unwrap_or_default();
        let key = seen.header("idempotency-key").unwrap_or_default().to_owned();
        let tries = self.tries.entry(key.clone()).or_default();
        *tries += 1;
        let most = FAULTS
            .iter()
            .find(|(name, _)| *name == fault)
            .map_or(0, |(_, most)| *most);
        let fault = if *tries <= most { fault } else { String::new() };
        self.seen.push(seen);
        if !fault.is_empty() && !FAULTS_AFTER_SUCCESS.contains(&fault.as_str()) {
            return reply(fault, "200 OK", "{}");
        }
        match gives_back {
            Some(resource) if self.live.remove(&resource) => {
                *self.given_back.entry(resource).or_default() += 1;
                reply(fault, "200 OK", "{}")
            }
            Some(_) => reply(fault, "404 Not Found", "{}"),
            None => {
                let next = format!("r-{}", self.granted.len());
                let is_new = !self.granted.contains_key(&key);
                let resource = self.granted.entry(key).or_insert(next).clone();
                if is_new {
                    self.live.insert(resource.clone());
                    let last = self.seen.last().map(|seen| seen.body.clone()).unwrap_or_default();
                    let body: Value = serde_json::from_str(&last).unwrap_or_default();
                    let fault = body["fault"].as_str().unwrap_or_default().to_owned();
                    self.faults_by_resource.insert(resource.clone(), fault);
                }
                reply(fault, "200 OK", &format!("{{\"resource\": \"{resource}\"}}"))
            }
        }
    }
}

fn reply(fault: String, status: &str, body: &str) -> Reply {
    Reply {
        fault,
        status: status.to_owned(),
        body: body.to_owned(),
    }
}
