//! A local user attacks the daemon while alerts arrive: the user's process renames itself, forks, has huge command
//! lines, holds slow connections and guesses tokens, and the reader of the log stalls. evenkeel acts on each alert,
//! restores every value, and stays small.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::process::Pid;
use serde_json::json;

use crate::log::full_pipe;
use crate::siege::seconds;
use crate::support::burner::Burner;
use crate::support::daemon::{Home, TOKEN};
use crate::support::payload::{envelope, firing};
use crate::support::process::Process;
use crate::support::{eventually, free_address, http, node_name};

const ADDRESSES: &str = "EVENKEEL_TEST_ATTACKED";
/// The user and group without files (Debian policy, 9.2.2).
const OTHER_USER: u32 = 65534;
const TIMEOUT: Duration = Duration::from_secs(60);
const BURNER_NICE: i32 = 15;
/// The attacker starts with a nice value, because other tests use the same processors.
const ATTACKER_OWN_NICE: i32 = 10;
const ATTACKER_NICE: i32 = 19;
/// Processes with a command line of [`COMMAND_LINE_BYTES`].
const WIDE_PROCESSES: usize = 100;
const COMMAND_LINE_BYTES: usize = 120_000;
const SLOW_CONNECTIONS: usize = 16;
/// Nine of ten answers come sooner; the test prints the slowest one. Other tests use the same processors.
const REACTION: Duration = Duration::from_secs(1);
/// Permitted growth from the quiet daemon, for the attacker's processes and connections.
const MAX_ATTACK_BYTES: u64 = 64 << 20;
/// Permitted growth in the second half of the attack, for free pages that the allocator may keep.
const MAX_GROWTH_BYTES: u64 = 8 << 20;
const SPARE_DESCRIPTORS: usize = 16;

/// The main function of the attacker, which ends with its standard input.
fn attack(metrics: SocketAddr, webhook: SocketAddr) -> ! {
    setgroups(&[]).expect("root may drop its groups");
    setgid(Gid::from_raw(OTHER_USER)).expect("root may become another group");
    setuid(Uid::from_raw(OTHER_USER)).expect("root may become another user");
    for thread in [Some(rustix::process::getpid()), None] {
        rustix::process::setpriority_process(thread, ATTACKER_OWN_NICE).expect("raising nice is free");
    }
    // A process that changed its user has files in /proc that belong to root.
    nix::sys::prctl::set_dumpable(true).expect("a process may be dumpable");
    std::thread::spawn(|| {
        for name in ["one", "other"].into_iter().cycle() {
            std::fs::write("/proc/self/comm", name).expect("a process may name itself");
        }
    });
    std::thread::spawn(|| {
        loop {
            // At the limit of processes the next fork may succeed.
            let _ = Command::new("true").status();
        }
    });
    let wide: Vec<Child> = (0..WIDE_PROCESSES)
        .map(|_| {
            let mut command = Command::new("sh");
            command.args(["-c", "read line", &"x".repeat(COMMAND_LINE_BYTES)]);
            command.stdin(Stdio::piped()).spawn().expect("a process")
        })
        .collect();
    for address in [metrics, webhook] {
        for _ in 0..SLOW_CONNECTIONS {
            std::thread::spawn(move || {
                loop {
                    // The daemon may refuse or cut a connection.
                    let _ = dribble(address);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    }
    std::thread::spawn(move || {
        loop {
            let _ = http::request(webhook, "POST", "/webhook", &[("Authorization", "Bearer guess")], b"{}");
        }
    });
    println!("attacks");
    std::io::stdin().lines().map_while(Result::ok).for_each(drop);
    drop(wide);
    std::process::exit(0);
}

/// Sends a request byte by byte.
fn dribble(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    for byte in b"POST /webhook HTTP/1.1\r\nHost: x\r\nX: "
        .iter()
        .chain([b'x'; 600].iter())
    {
        stream.write_all(&[*byte])?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

struct Daemon {
    child: Child,
    webhook: SocketAddr,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Sends an alert as Alertmanager does, with retries after 503, and returns the time to the answer 200.
    fn insist(&self, alert: &serde_json::Value) -> Duration {
        let authorization = format!("Bearer {TOKEN}");
        let headers = [
            ("Content-Type", "application/json"),
            ("Authorization", authorization.as_str()),
        ];
        let payload = envelope(std::slice::from_ref(alert)).to_string();
        let sent = Instant::now();
        eventually("a valid alert to be accepted", TIMEOUT, || {
            let answer = http::request(self.webhook, "POST", "/webhook", &headers, payload.as_bytes()).ok()?;
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            (answer.status == 200).then_some(())
        });
        sent.elapsed()
    }

    fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("evenkeel runs");
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .expect("pages");
        pages * rustix::param::page_size() as u64
    }

    fn open_descriptors(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        folder.expect("evenkeel runs").count()
    }
}

/// The nice value of the leader of a process.
fn nice_of(pid: u32) -> i32 {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::getpriority_process(Some(pid)).expect("the process lives")
}

fn alert(name: &str) -> serde_json::Value {
    let mut alert = firing(json!({"alertname": name, "instance": node_name()}));
    alert["startsAt"] = json!(jiff::Timestamp::now().to_string());
    alert
}

fn resolved(mut alert: serde_json::Value) -> serde_json::Value {
    alert["status"] = json!("resolved");
    alert["endsAt"] = json!(jiff::Timestamp::now().to_string());
    alert
}

#[test]
fn alerts_are_answered_while_a_local_user_attacks() {
    if let Ok(addresses) = std::env::var(ADDRESSES) {
        let (metrics, webhook) = addresses.split_once(' ').expect("two addresses");
        attack(
            metrics.parse().expect("an address"),
            webhook.parse().expect("an address"),
        );
    }
    let name = format!("calm-{}", std::process::id() % 100_000);
    let home = Home::new(&format!(
        "rules:\n\
         - {{name: burner, matchers: ['alertname=\"Burner\"'], select: {{name: {name}}}, actions: [{{nice: {BURNER_NICE}}}]}}\n\
         - {{name: attacker, matchers: ['alertname=\"Attack\"'], select: {{name: one|other}}, max_matches: 1000, limit: 1000, \
            actions: [{{nice: {ATTACKER_NICE}}}]}}\n"
    ));
    let burner = Burner::start(&name);
    let before = burner.nice_values();
    let (metrics, webhook) = (free_address(), free_address());
    let (reader, writer) = full_pipe();
    let mut command = home.run_command(&metrics.to_string(), &webhook.to_string());
    command.arg("--enforce");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let child = command.spawn().expect("evenkeel starts");
    let daemon = Daemon { child, webhook };
    eventually("evenkeel to serve", TIMEOUT, || http::get(metrics, "/metrics").ok());
    let (quiet_bytes, quiet_descriptors) = (daemon.resident_bytes(), daemon.open_descriptors());

    let mut command = Command::new("/proc/self/exe");
    command
        .args([
            "--exact",
            "local_attacker::alerts_are_answered_while_a_local_user_attacks",
        ])
        .arg("--nocapture")
        .env(ADDRESSES, format!("{metrics} {webhook}"));
    let attacker = Process::start("attacker", &mut command);
    eventually("the attack to begin", TIMEOUT, || {
        attacker.log().iter().any(|line| line == "attacks").then_some(())
    });
    let attack = alert("Attack");
    daemon.insist(&attack);
    assert_eq!(nice_of(attacker.pid()), ATTACKER_NICE, "renaming hides no process");

    let duration = Duration::from_secs(seconds());
    let (begun, mut half_bytes, mut answers) = (Instant::now(), None, Vec::new());
    while begun.elapsed() < duration {
        let alert = alert("Burner");
        answers.push(daemon.insist(&alert));
        assert!(burner.is_at(BURNER_NICE), "the answer came before the action");
        answers.push(daemon.insist(&resolved(alert)));
        assert_eq!(burner.nice_values(), before, "the nice values are restored");
        if begun.elapsed() > duration / 2 {
            half_bytes.get_or_insert_with(|| daemon.resident_bytes());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon.insist(&resolved(attack));
    assert_eq!(
        nice_of(attacker.pid()),
        ATTACKER_OWN_NICE,
        "the attacker's nice value is restored as well"
    );
    let end_bytes = daemon.resident_bytes();
    let half_bytes = half_bytes.unwrap_or(end_bytes);
    answers.sort_unstable();
    let [most, slowest] = [answers.len() * 9 / 10, answers.len() - 1].map(|index| answers[index]);
    eprintln!(
        "attack: {} answers, nine of ten within {most:?}, the slowest after {slowest:?}; \
         {quiet_bytes} bytes before, {half_bytes} after half of it, {end_bytes} at the end",
        answers.len()
    );
    assert!(most < REACTION, "{most:?}");
    assert!(
        end_bytes < quiet_bytes + MAX_ATTACK_BYTES,
        "{quiet_bytes} bytes grew to {end_bytes}"
    );
    assert!(
        end_bytes < half_bytes + MAX_GROWTH_BYTES,
        "{half_bytes} bytes grew to {end_bytes}"
    );
    drop(attacker);
    eventually("all connections to be closed", TIMEOUT, || {
        (daemon.open_descriptors() <= quiet_descriptors + SPARE_DESCRIPTORS).then_some(())
    });
    drop(reader);
}
