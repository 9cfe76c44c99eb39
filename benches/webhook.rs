//! Webhooks per second, processor time per webhook and memory of evenkeel and of Debian's `webhook`, one after the
//! other on the same machine. `make bench` fetches `webhook` and runs this.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Number of connections, as of several Alertmanagers and receivers.
const CONNECTIONS: usize = 8;
const REPEATS: u64 = 50_000;
/// Number of new alerts. With those before, fewer than the share of open episodes of one rule (2,048).
const NEW: u64 = 1_800;
/// Number of alert names, because each of them has half of that share.
const NAMES: u64 = 2;
const TOKEN: &str = "the-token-of-the-benchmark";

/// The figures of one run.
struct Figures {
    per_second: f64,
    /// Processor time of the server and of its commands.
    cpu_microseconds: f64,
    resident_mib: f64,
}

struct Server {
    child: Child,
    address: SocketAddr,
    path: &'static str,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    let body = |number: u64| payload(number);
    let evenkeel = evenkeel();
    let mut rows = vec![
        ("evenkeel, repeats", measure(&evenkeel, REPEATS, |_| body(0))),
        ("evenkeel, new alerts", measure(&evenkeel, NEW, body)),
    ];
    drop(evenkeel);
    match webhook() {
        Some(webhook) => rows.push(("webhook 2.8, /bin/true each", measure(&webhook, NEW, body))),
        None => println!("webhook is missing: tests/tools.sh webhook fetches it"),
    }
    println!(
        "{:<30} {:>12} {:>16} {:>14} {:>14}",
        "", "requests/s", "CPU us/request", "per CPU s", "resident MiB"
    );
    for (name, figures) in &rows {
        println!(
            "{name:<30} {:>12.0} {:>16.1} {:>14.0} {:>14.1}",
            figures.per_second,
            figures.cpu_microseconds,
            1e6 / figures.cpu_microseconds,
            figures.resident_mib
        );
    }
    if let [repeats, new, (_, peer)] = &rows[..] {
        for (name, own) in [repeats, new] {
            println!(
                "{name}: {:.1} times the requests per CPU second, {:.2} of the memory",
                peer.cpu_microseconds / own.cpu_microseconds,
                own.resident_mib / peer.resident_mib
            );
        }
    }
}

fn payload(number: u64) -> String {
    let name = number % NAMES;
    format!(
        "{{\"version\":\"4\",\"groupKey\":\"g\",\"truncatedAlerts\":0,\"status\":\"firing\",\"receiver\":\"evenkeel\",\
         \"groupLabels\":{{}},\"commonLabels\":{{}},\"commonAnnotations\":{{}},\"externalURL\":\"http://a\",\"alerts\":[{{\
         \"status\":\"firing\",\"labels\":{{\"alertname\":\"Test{name}\",\"instance\":\"bench\",\"number\":\"{number}\"}},\
         \"annotations\":{{\"summary\":\"a benchmark\"}},\"startsAt\":\"2026-01-02T03:04:05.678Z\",\
         \"endsAt\":\"0001-01-01T00:00:00Z\",\"generatorURL\":\"http://p\",\"fingerprint\":\"\"}}]}}"
    )
}

/// evenkeel in enforce with a rule that selects no process: each new alert is an episode and a durable line.
fn evenkeel() -> Server {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a writable folder");
    write("token", TOKEN);
    write(
        "rules.yml",
        "rules: [{name: test, matchers: ['alertname=~\"Test.\"'], select: {name: not-there}, actions: [{nice: 5}]}]\n",
    );
    write(
        "evenkeel.yml",
        "mode: enforce\nrule_files: [rules.yml]\nwebhook: {token_file: token}\nidentity: {names: [bench]}\n",
    );
    // Another build may be measured: cargo bench --bench webhook -- PATH
    let other = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut child = Command::new(other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_evenkeel")))
        .arg("run")
        .arg(format!(
            "--config.file={}",
            folder.path().join("evenkeel.yml").display()
        ))
        .arg(format!("--storage.path={}", folder.path().join("storage").display()))
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--webhook.listen-address=127.0.0.1:0",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .expect("evenkeel starts");
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .filter(|line| line.contains("listener=webhook"))
        .find_map(|line| line.split("addr=").nth(1)?.split_whitespace().next()?.parse().ok())
        .expect("evenkeel tells its address");
    std::thread::spawn(move || lines.map_while(Result::ok).count());
    Server {
        child,
        address,
        path: "/webhook",
        _folder: folder,
    }
}

/// Debian's `webhook` with a hook that checks the same token and runs the cheapest command.
fn webhook() -> Option<Server> {
    let program = tools().join("bin/webhook");
    if !program.exists() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let hooks = format!(
        r#"[{{"id": "test", "execute-command": "/bin/true", "command-working-directory": "/",
        "trigger-rule": {{"match": {{"type": "value", "value": "Bearer {TOKEN}",
        "parameter": {{"source": "header", "name": "Authorization"}}}}}}}}]"#
    );
    let file = folder.path().join("hooks.json");
    std::fs::write(&file, hooks).expect("a writable folder");
    // Another program may take the port before webhook does; the benchmark is then started again by hand.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let child = Command::new(program)
        .arg("-hooks")
        .arg(&file)
        .args(["-ip", "127.0.0.1", "-port", &address.port().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("webhook starts");
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "webhook does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Server {
        child,
        address,
        path: "/hooks/test",
        _folder: folder,
    })
}

fn tools() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target.expect("target/tmp lies in target").join("tools")
}

/// Sends this many requests, after a tenth as many that are not measured.
fn measure(server: &Server, requests: u64, body: impl Fn(u64) -> String + Sync) -> Figures {
    let number = AtomicU64::new(1);
    let send = |last: u64| {
        std::thread::scope(|threads| {
            for _ in 0..CONNECTIONS {
                threads.spawn(|| {
                    let mut stream = TcpStream::connect(server.address).expect("the server listens");
                    stream.set_nodelay(true).expect("a socket takes options");
                    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                    loop {
                        let next = number.fetch_add(1, Ordering::Relaxed);
                        if next > last {
                            break;
                        }
                        exchange(&mut stream, &mut reader, server.path, &body(next));
                    }
                });
            }
        });
        number.store(last + 1, Ordering::Relaxed);
    };
    send(requests / 10);
    let (from, cpu_from) = (Instant::now(), cpu_seconds(&server.child));
    send(requests / 10 + requests);
    Figures {
        per_second: requests as f64 / from.elapsed().as_secs_f64(),
        cpu_microseconds: (cpu_seconds(&server.child) - cpu_from) * 1e6 / requests as f64,
        resident_mib: peak_resident_mib(&server.child),
    }
}

fn exchange(stream: &mut TcpStream, reader: &mut BufReader<TcpStream>, path: &str, body: &str) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the server reads");
    let (mut length, mut line) = (0, String::new());
    reader.read_line(&mut line).expect("the server answers");
    assert!(line.contains(" 200 "), "{line}");
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line).expect("the server answers");
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().expect("a length");
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).expect("the server answers");
}

/// The process, and evenkeel's processes below it.
fn processes(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split(' ').filter_map(|child| child.trim().parse().ok());
    let is_own = |child: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        name.starts_with("evenkeel-")
    };
    let below = children.filter(is_own).flat_map(processes);
    std::iter::once(pid).chain(below).collect()
}

/// Processor time of the processes and their reaped children: fields 14 to 17 of `/proc/PID/stat` (proc(5)).
fn cpu_seconds(child: &Child) -> f64 {
    let ticks = |pid: u32| -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
        let (_, fields) = stat.rsplit_once(") ").expect("the name is in brackets");
        let fields = fields.split(' ').skip(11).take(4);
        fields.map(|field| field.parse::<f64>().expect("a number")).sum()
    };
    let ticks: f64 = processes(child.id()).into_iter().map(ticks).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Peak resident memory: `VmHWM` of proc(5). What several processes share counts for each.
fn peak_resident_mib(child: &Child) -> f64 {
    let mib = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line
            .and_then(|text| text.trim().strip_suffix(" kB"))
            .expect("a size in kB");
        kib.parse::<f64>().expect("a number") / 1024.0
    };
    processes(child.id()).into_iter().map(mib).sum()
}
