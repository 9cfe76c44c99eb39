//! The time from the last byte of a webhook to the action: evenkeel, with its record durable before it acts, compared
//! with Debian's `webhook` with `pkill` and `renice`, in turns on the same machine. Then the disk writes of renewals.
//! `make bench` fetches `webhook` and runs this.
//!
//! The target is this program again. It prints when its signal arrived, on CLOCK_MONOTONIC, which all programs share;
//! its nice value is polled until it changes.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Uncounted rounds, which touch pages and open connections.
const WARM_UP: usize = 10;
/// Number of processes on the host, and of webhooks for each row.
const HOSTS: [(usize, usize); 2] = [(100, 300), (5000, 100)];
const LEASES: usize = 1000;
const TOGETHER: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "the-token-of-the-benchmark";
const TARGET: &str = "reaction-target";
/// Interval between reads of a nice value.
const LOOK: Duration = Duration::from_micros(20);
/// Bytes of a commit in the log: three pages.
const RECORD_BYTES: usize = 3 * (4096 + 24);
const SYNCS: usize = 300;
const BETWEEN_SYNCS: Duration = Duration::from_millis(5);
/// The magic number of statfs(2). The ledger must not be in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// An action, and how each program is configured for it.
struct HostAction {
    name: &'static str,
    hook: &'static str,
}

const HOST_ACTIONS: [HostAction; 3] = [
    HostAction {
        name: "SIGUSR1 by name",
        hook: "notice",
    },
    HostAction {
        name: "SIGTERM by name",
        hook: "end",
    },
    HostAction {
        name: "nice of a given pid",
        hook: "calm",
    },
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("target") => target(),
        Some("sleeper") => sleeper(),
        _ => {}
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on disk");
    let system = rustix::fs::statfs(folder.path()).expect("a file system");
    if system.f_type as i64 == TMPFS_MAGIC {
        println!("{} is in memory: the ledger must be on disk", folder.path().display());
        return ExitCode::FAILURE;
    }
    let Some(webhook) = webhook(folder.path()) else {
        println!("webhook is missing: tests/tools.sh webhook fetches it");
        return ExitCode::FAILURE;
    };
    let evenkeel = evenkeel(folder.path());
    println!(
        "{:<22}{:>10}{:>12}{:>12}{:>12}{:>12}{:>9}{:>9}",
        "ms", "processes", "evenkeel p50", "p99", "webhook p50", "p99", "p50 x", "p99 x"
    );
    let mut sleepers = Sleepers(Vec::new());
    for (processes, rounds) in HOSTS {
        sleepers.fill_up(processes);
        for host_action in &HOST_ACTIONS {
            let [own, peer] = race(host_action, rounds, &evenkeel, &webhook);
            println!(
                "{:<22}{processes:>10}{:>12.2}{:>12.2}{:>12.2}{:>12.2}{:>9.2}{:>9.2}",
                host_action.name,
                own.0,
                own.1,
                peer.0,
                peer.1,
                peer.0 / own.0,
                peer.1 / own.1
            );
        }
    }
    drop(sleepers);
    tell_disk(folder.path());
    count_commits(&evenkeel);
    ExitCode::SUCCESS
}

/// Prints the time of the disk alone for a record, which is a lower bound of each p99.
fn tell_disk(folder: &Path) {
    let mut file = std::fs::File::create(folder.join("disk")).expect("a writable folder");
    let times = (0..SYNCS).map(|_| {
        std::thread::sleep(BETWEEN_SYNCS);
        let begun = now();
        file.write_all(&[1; RECORD_BYTES])
            .and_then(|()| file.sync_data())
            .expect("a disk");
        now() - begun
    });
    let (p50, p99) = percentiles(times.collect());
    println!("{:<32}{p50:>12.2}{p99:>12.2}", "write and fdatasync of a record");
}

/// Milliseconds at p50 and p99.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |ratio: f64| times[((times.len() - 1) as f64 * ratio).ceil() as usize].as_secs_f64() * 1e3;
    (at(0.5), at(0.99))
}

/// Milliseconds at p50 and p99 for both programs, in turns, so that other load of the machine affects both.
fn race(host_action: &HostAction, rounds: usize, evenkeel: &Server, webhook: &Server) -> [(f64, f64); 2] {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..WARM_UP + rounds {
        for (server, times) in [evenkeel, webhook].iter().zip(&mut times) {
            let time = server.react(host_action);
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    times.map(percentiles)
}

/// The time on CLOCK_MONOTONIC.
fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

extern "C" fn catch(_: i32) {}

/// Waits for either signal, prints the time of its arrival, and exits.
fn target() -> ! {
    rustix::thread::set_name(&std::ffi::CString::new(TARGET).expect("no NUL")).expect("a name");
    let signals = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGTERM]);
    signals.thread_block().expect("a signal mask");
    for signal in &signals {
        let action = SigAction::new(SigHandler::Handler(catch), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing and never runs, because its signals are blocked and waited for. It exists
        // because evenkeel sends SIGUSR1 only to programs that catch it.
        unsafe { sigaction(signal, &action) }.expect("a handler");
    }
    println!("ready");
    signals.wait().expect("a signal");
    let came = now();
    println!("{}", came.as_nanos());
    std::process::exit(0);
}

/// A process that sleeps until the benchmark closes its pipe.
fn sleeper() -> ! {
    let mut nothing = [0];
    let _ = std::io::stdin().read(&mut nothing);
    std::process::exit(0);
}

struct Sleepers(Vec<Child>);

impl Sleepers {
    /// Starts sleepers until the host has this many processes.
    fn fill_up(&mut self, processes: usize) {
        let is_pid = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().is_ok();
        let there = std::fs::read_dir("/proc")
            .expect("procfs")
            .flatten()
            .filter(is_pid)
            .count();
        for _ in there..processes {
            self.0
                .push(itself("sleeper").stdin(Stdio::piped()).spawn().expect("a process"));
        }
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The child may have exited.
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

fn itself(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.arg(role);
    command
}

struct Target {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Target {
    fn new() -> Target {
        let mut child = itself("target").stdout(Stdio::piped()).spawn().expect("a process");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut target = Target { child, said };
        assert_eq!(target.line(), "ready\n");
        target
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("text");
        line
    }

    /// The time of its signal.
    fn signalled(&mut self) -> Duration {
        Duration::from_nanos(self.line().trim().parse().expect("a time"))
    }

    /// The time at which its changed nice value was seen.
    fn niced(&self) -> Duration {
        let pid = rustix::process::Pid::from_child(&self.child);
        let end = now() + PATIENCE;
        while rustix::process::getpriority_process(Some(pid)) == Ok(0) {
            assert!(now() < end, "the nice value was not set");
            std::thread::sleep(LOOK);
        }
        now()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
    is_evenkeel: bool,
    storage: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The time from the last byte of a webhook to the action on a new target.
    fn react(&self, host_action: &HostAction) -> Duration {
        let mut target = Target::new();
        let pid = target.child.id();
        let path = if self.is_evenkeel {
            "/webhook".into()
        } else {
            format!("/hooks/{}", host_action.hook)
        };
        let alert = |status| payload(&[alert(host_action.hook, pid, status)]);
        let mut connection = Connection::open(self.address);
        let sent = connection.send(&path, &alert("firing"));
        let done = if host_action.hook == "calm" {
            target.niced()
        } else {
            target.signalled()
        };
        connection.answer();
        drop(target);
        if self.is_evenkeel {
            connection.send(&path, &alert("resolved"));
            connection.answer();
        }
        done.saturating_sub(sent)
    }

    fn post(&self, body: &str) -> Duration {
        let mut connection = Connection::open(self.address);
        let sent = connection.send("/webhook", body);
        connection.answer();
        now() - sent
    }

    /// Commits in the write-ahead log, and its salt (sqlite.org/fileformat2.html, section 4).
    fn commits(&self) -> (Vec<u8>, usize) {
        let log = std::fs::read(self.storage.join("ledger.db-wal")).expect("a log");
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        let (page, salt) = (number(&log[8..12]) as usize, log[16..24].to_vec());
        let frames = log[32..].chunks_exact(24 + page);
        let ours = frames.take_while(|frame| frame[8..16] == salt[..]);
        let count = ours.filter(|frame| number(&frame[4..8]) != 0).count();
        (salt, count)
    }

    /// Commits of a webhook, and the time until its response.
    fn cost(&self, body: &str) -> (usize, Duration) {
        // A checkpoint may restart the log, which then counts from zero.
        let (log, before) = self.commits();
        let time = self.post(body);
        let (same, after) = self.commits();
        (if same == log { after - before } else { after }, time)
    }
}

/// Counts the commits of renewals and of simultaneous alerts.
fn count_commits(evenkeel: &Server) {
    let mut targets: Vec<Target> = (0..LEASES).map(|_| Target::new()).collect();
    let all = |status| payload(&[alert("many", 0, status)]);
    let show = |what: String, (commits, time): (usize, Duration)| {
        println!("{what:<60}{commits:>8} commits{:>10.2} ms", time.as_secs_f64() * 1e3);
    };
    println!();
    show(format!("{LEASES} leases are taken"), evenkeel.cost(&all("firing")));
    show("the alert is repeated at once".into(), evenkeel.cost(&all("firing")));
    // A quarter of the rule's `hold` of 8 s.
    std::thread::sleep(Duration::from_millis(2500));
    show(
        "the alert is repeated after a quarter of `hold`".into(),
        evenkeel.cost(&all("firing")),
    );
    show("and once more".into(), evenkeel.cost(&all("firing")));
    show("all are given back".into(), evenkeel.cost(&all("resolved")));
    let alerts = |status| {
        let of = |target: &Target| alert("calm", target.child.id(), status);
        let alerts: Vec<String> = targets.iter().take(TOGETHER).map(of).collect();
        payload(&alerts)
    };
    show(
        format!("{TOGETHER} alerts in one webhook, a lease each"),
        evenkeel.cost(&alerts("firing")),
    );
    show(
        "all of them resolve in one webhook".into(),
        evenkeel.cost(&alerts("resolved")),
    );
    targets.clear();
}

struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket takes options");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes options");
        let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        Connection { stream, reader }
    }

    /// Sends a request and returns the time of the last byte.
    fn send(&mut self, path: &str, body: &str) -> Duration {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (most, last) = request.as_bytes().split_at(request.len() - 1);
        self.stream.write_all(most).expect("the server reads");
        // Time for the reader to read the request.
        std::thread::sleep(Duration::from_millis(1));
        let sent = now();
        self.stream.write_all(last).expect("the server reads");
        sent
    }

    fn answer(&mut self) {
        let (mut length, mut line) = (0, String::new());
        self.reader.read_line(&mut line).expect("the server answers");
        assert!(line.contains(" 200 "), "{line}");
        while line.trim() != "" {
            line.clear();
            self.reader.read_line(&mut line).expect("the server answers");
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().expect("a length");
            }
        }
        std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink()).expect("the server answers");
    }
}

fn alert(name: &str, pid: u32, status: &str) -> String {
    // A pid from a label selects a process that is older than the alert.
    let now = jiff::Timestamp::now().to_string();
    let ends = if status == "firing" {
        "0001-01-01T00:00:00Z"
    } else {
        &now
    };
    format!(
        "{{\"status\":\"{status}\",\"labels\":{{\"alertname\":\"{name}\",\"instance\":\"bench\",\"pid\":\"{pid}\"}},\
         \"annotations\":{{\"summary\":\"a benchmark\"}},\"startsAt\":\"{now}\",\
         \"endsAt\":\"{ends}\",\"generatorURL\":\"http://p\",\"fingerprint\":\"\"}}"
    )
}

fn payload(alerts: &[String]) -> String {
    format!(
        "{{\"version\":\"4\",\"groupKey\":\"g\",\"truncatedAlerts\":0,\"status\":\"firing\",\"receiver\":\"evenkeel\",\
         \"groupLabels\":{{}},\"commonLabels\":{{}},\"commonAnnotations\":{{}},\"externalURL\":\"http://a\",\"alerts\":[{}]}}",
        alerts.join(",")
    )
}

fn evenkeel(folder: &Path) -> Server {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a writable folder");
    write("token", TOKEN);
    write(
        "rules.yml",
        &format!(
            "rules:\n\
             - {{name: notice, matchers: [alertname=notice], select: {{name: {TARGET}}}, actions: [signal: SIGUSR1]}}\n\
             - {{name: end, matchers: [alertname=end], select: {{name: {TARGET}}}, cooldown: 0s, actions: [signal: SIGTERM]}}\n\
             - {{name: calm, matchers: [alertname=calm], select: {{pid: '{{{{ $labels.pid }}}}'}}, actions: [nice: 5]}}\n\
             - {{name: many, matchers: [alertname=many], select: {{name: {TARGET}}}, limit: {LEASES}, max_matches: {LEASES}, hold: 8s, \
             actions: [nice: 5]}}\n"
        ),
    );
    write(
        "evenkeel.yml",
        "mode: enforce\nrule_files: [rules.yml]\nwebhook: {token_file: token}\nidentity: {names: [bench]}\n\
         budget: {final_steps: 10000}\n",
    );
    let storage = folder.join("storage");
    // Another build may be measured: cargo bench --bench reaction -- PATH
    let other = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut child = Command::new(other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_evenkeel")))
        .arg("run")
        .arg(format!("--config.file={}", folder.join("evenkeel.yml").display()))
        .arg(format!("--storage.path={}", storage.display()))
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
        is_evenkeel: true,
        storage,
    }
}

/// Debian's `webhook` with a hook for each action.
fn webhook(folder: &Path) -> Option<Server> {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("tools");
    let program = tools.join("bin/webhook");
    if !program.exists() {
        return None;
    }
    let hook = |id: &str, command: &str, arguments: &str| {
        format!(
            r#"{{"id": "{id}", "execute-command": "{command}", "command-working-directory": "/",
            "pass-arguments-to-command": [{arguments}],
            "trigger-rule": {{"match": {{"type": "value", "value": "Bearer {TOKEN}",
            "parameter": {{"source": "header", "name": "Authorization"}}}}}}}}"#
        )
    };
    let words = |words: &[&str]| {
        let word = |word: &&str| format!(r#"{{"source": "string", "name": "{word}"}}"#);
        words.iter().map(word).collect::<Vec<_>>().join(",")
    };
    let pid = r#"{"source": "payload", "name": "alerts.0.labels.pid"}"#;
    let hooks = [
        hook("notice", "/usr/bin/pkill", &words(&["-USR1", "-x", TARGET])),
        hook("end", "/usr/bin/pkill", &words(&["-TERM", "-x", TARGET])),
        hook(
            "calm",
            "/usr/bin/renice",
            &format!("{},{pid}", words(&["-n", "5", "-p"])),
        ),
    ];
    let file = folder.join("hooks.json");
    std::fs::write(&file, format!("[{}]", hooks.join(","))).expect("a writable folder");
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
        is_evenkeel: false,
        storage: PathBuf::new(),
    })
}
