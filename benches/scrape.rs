//! What a scrape costs, evenkeel and node_exporter side by side in one run on the same collectors. Absolute figures do not
//! travel between machines; the ratios do.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use evenkeel::sense::COLLECTORS;

/// Longer than a sample counts as fresh, so that each of these scrapes reads the host.
const APART: Duration = Duration::from_millis(120);
const FRESH_SCRAPES: usize = 150;
const BURST_SCRAPES: usize = 1000;
/// What is spent without any scrape is taken off.
const IDLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A server under measurement, with one connection that stays open, as Prometheus keeps it.
struct Peer {
    name: &'static str,
    program: PathBuf,
    child: Child,
    connection: BufReader<TcpStream>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Ended already is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Figures {
    fresh_cpu_ms: f64,
    burst_cpu_ms: f64,
    idle_cpu_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
    resident_mb: f64,
    binary_mb: f64,
}

fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Peer {
    fn start(name: &'static str, program: &Path, address: SocketAddr, args: &[String]) -> Outcome<Peer> {
        let child = Command::new(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}; run tests/tools.sh first", program.display()))?;
        let started = Instant::now();
        let connection = loop {
            match TcpStream::connect(address) {
                Ok(connection) => break connection,
                Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        connection.set_nodelay(true)?;
        Ok(Peer {
            name,
            program: program.to_owned(),
            child,
            connection: BufReader::new(connection),
        })
    }

    /// One scrape as Prometheus asks for it; returns its size.
    fn scrape(&mut self) -> Outcome<usize> {
        const REQUEST: &[u8] =
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,\
            text/plain;version=0.0.4;q=0.5\r\nAccept-Encoding: gzip\r\n\r\n";
        self.connection.get_mut().write_all(REQUEST)?;
        let mut length = None;
        let mut line = String::new();
        loop {
            line.clear();
            self.connection.read_line(&mut line)?;
            let head = line.trim_end().to_ascii_lowercase();
            if head.is_empty() {
                break;
            }
            if let Some(value) = head.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
        }
        let Some(length) = length else {
            return self.read_chunks();
        };
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body)?;
        Ok(length)
    }

    fn read_chunks(&mut self) -> Outcome<usize> {
        let mut total = 0;
        let mut line = String::new();
        loop {
            line.clear();
            self.connection.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16)?;
            let mut chunk = vec![0; length + 2];
            self.connection.read_exact(&mut chunk)?;
            total += length;
            if length == 0 {
                return Ok(total);
            }
        }
    }

    /// Processor time of all its threads, from the scheduler's nanoseconds (`/proc/PID/task/*/schedstat`).
    fn cpu_ms(&self) -> Outcome<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            sum += text
                .split(' ')
                .next()
                .and_then(|field| field.parse().ok())
                .unwrap_or(0.0);
        }
        Ok(sum / 1e6)
    }

    fn resident_mb(&self) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

fn measure(peers: &mut [Peer; 2]) -> Outcome<[Figures; 2]> {
    let mut figures = [Figures::default(), Figures::default()];
    for peer in peers.iter_mut() {
        for _ in 0..3 {
            peer.scrape()?;
        }
    }
    // Both at once: what else the machine does then falls on both.
    let before = [peers[0].cpu_ms()?, peers[1].cpu_ms()?];
    std::thread::sleep(IDLE);
    for (index, peer) in peers.iter().enumerate() {
        figures[index].idle_cpu_ms = (peer.cpu_ms()? - before[index]) / IDLE.as_secs_f64();
    }

    let before = [peers[0].cpu_ms()?, peers[1].cpu_ms()?];
    let started = Instant::now();
    let mut latencies = [Vec::new(), Vec::new()];
    for _ in 0..FRESH_SCRAPES {
        for (peer, latencies) in peers.iter_mut().zip(&mut latencies) {
            let asked = Instant::now();
            peer.scrape()?;
            latencies.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(APART);
    }
    let seconds = started.elapsed().as_secs_f64();
    for (index, peer) in peers.iter().enumerate() {
        let figures = &mut figures[index];
        let spent = peer.cpu_ms()? - before[index] - figures.idle_cpu_ms * seconds;
        figures.fresh_cpu_ms = spent / FRESH_SCRAPES as f64;
        latencies[index].sort_by(f64::total_cmp);
        figures.p50_ms = latencies[index][FRESH_SCRAPES / 2];
        figures.p99_ms = latencies[index][FRESH_SCRAPES * 99 / 100];
    }

    for (index, peer) in peers.iter_mut().enumerate() {
        let before = peer.cpu_ms()?;
        let started = Instant::now();
        for _ in 0..BURST_SCRAPES {
            peer.scrape()?;
        }
        let figures = &mut figures[index];
        figures.burst_cpu_ms = (peer.cpu_ms()? - before) / BURST_SCRAPES as f64;
        figures.per_second = BURST_SCRAPES as f64 / started.elapsed().as_secs_f64();
        figures.resident_mb = peer.resident_mb()?;
        figures.binary_mb = fs::metadata(fs::canonicalize(&peer.program)?)?.len() as f64 / 1e6;
    }
    Ok(figures)
}

fn main() -> Outcome<()> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .ok_or("target/tmp lies in target")?;
    let home = tempfile::tempdir()?;
    fs::write(home.path().join("evenkeel.yml"), "rule_files: []\n")?;
    let mut collectors = vec!["--collector.disable-defaults".to_owned()];
    // What node_exporter lacks is evenkeel's alone to pay for, and small: `process`, and `groups` without groups.
    let shared = COLLECTORS
        .iter()
        .filter(|info| info.default_on && !["process", "groups"].contains(&info.name));
    collectors.extend(shared.map(|info| format!("--collector.{}", info.name)));

    let (evenkeel_at, node_exporter_at) = (free_address()?, free_address()?);
    let mut evenkeel_args = vec![
        "run".to_owned(),
        format!("--config.file={}", home.path().join("evenkeel.yml").display()),
        format!("--storage.path={}", home.path().join("storage").display()),
        format!("--web.listen-address={evenkeel_at}"),
        "--webhook.listen-address=127.0.0.1:0".to_owned(),
    ];
    evenkeel_args.extend(collectors.clone());
    let mut node_exporter_args = vec![format!("--web.listen-address={node_exporter_at}")];
    node_exporter_args.extend(collectors);

    let node_exporter = target.join("tools/bin/node_exporter");
    let mut peers = [
        Peer::start(
            "evenkeel",
            Path::new(env!("CARGO_BIN_EXE_evenkeel")),
            evenkeel_at,
            &evenkeel_args,
        )?,
        Peer::start("node_exporter", &node_exporter, node_exporter_at, &node_exporter_args)?,
    ];
    let [ours, theirs] = measure(&mut peers)?;
    println!("{:<44}{:>14}{:>16}{:>10}", "", peers[0].name, peers[1].name, "ratio");
    let row = |what: &str, value: fn(&Figures) -> f64| {
        let (ours, theirs) = (value(&ours), value(&theirs));
        println!("{what:<44}{ours:>14.3}{theirs:>16.3}{:>10.3}", ours / theirs);
    };
    row("CPU per fresh scrape, ms", |figures| figures.fresh_cpu_ms);
    row("CPU per scrape back to back, ms", |figures| figures.burst_cpu_ms);
    row("CPU per second without scrapes, ms", |figures| figures.idle_cpu_ms);
    row("latency of a fresh scrape, p50, ms", |figures| figures.p50_ms);
    row("latency of a fresh scrape, p99, ms", |figures| figures.p99_ms);
    row("scrapes per second on one connection", |figures| figures.per_second);
    row("resident memory, MB", |figures| figures.resident_mb);
    row("binary, MB", |figures| figures.binary_mb);
    Ok(())
}
