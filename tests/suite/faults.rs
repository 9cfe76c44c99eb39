//! Faults of the host around a lease: no memory, no processes, no reader of the log, a port that is taken, an expired
//! certificate. docs/faults.md lists all faults with their tests.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::frontend::restarts;
use crate::support::alertmanager::Alertmanager;
use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home, TOKEN};
use crate::support::frontend::frontend;
use crate::support::payload::{envelope, firing};
use crate::support::process::Process;
use crate::support::tools::succeed;
use crate::support::{eventually, free_address, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(60);
pub const NICE: i32 = 12;

/// A configuration folder whose rule gives one burner a nice value.
pub struct Scene {
    pub home: Home,
    pub burner: Burner,
    pub before: Vec<(u32, i32)>,
}

impl Scene {
    pub fn new(name: &str) -> Scene {
        let name = format!("{name}-{}", std::process::id() % 100_000);
        let home = Home::new(&format!(
            "rules: [{{name: calm, matchers: ['alertname=\"Test\"'], select: {{name: {name}}}, actions: [{{nice: {NICE}}}]}}]\n"
        ));
        let burner = Burner::start(&name);
        let before = burner.nice_values();
        Scene { home, burner, before }
    }

    /// A daemon that holds the burner's lease.
    pub fn hold(&self) -> Daemon {
        let daemon = self.home.start(&["--enforce"]);
        assert_eq!(post(&daemon, &[alert()]), 200);
        self.wait_for_nice();
        daemon.wait_for_leases(1);
        daemon
    }

    pub fn wait_for_nice(&self) {
        eventually("the rule's nice value", TIMEOUT, || {
            self.burner.is_at(NICE).then_some(())
        });
    }

    pub fn wait_for_restore(&self) {
        eventually("the former nice values", TIMEOUT, || {
            (self.burner.nice_values() == self.before).then_some(())
        });
    }
}

pub fn alert() -> Value {
    firing(json!({"alertname": "Test", "instance": node_name()}))
}

pub fn resolved(mut alert: Value) -> Value {
    alert["status"] = json!("resolved");
    alert["endsAt"] = json!(jiff::Timestamp::now().to_string());
    alert
}

/// The status of evenkeel's answer to these alerts.
pub fn post(daemon: &Daemon, alerts: &[Value]) -> u16 {
    daemon.post(envelope(alerts).to_string().as_bytes()).status
}

/// Sets a soft limit of a running process, as in `--nproc=10:`, as its user. Root might lack CAP_SYS_RESOURCE.
pub fn limit(pid: u32, limit: &str) {
    let user = status_of(pid, "Uid").to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "prlimit"]);
    succeed(command.arg(format!("--pid={pid}")).arg(limit));
}

/// A number in /proc/PID/status.
fn status_of(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{field} in {status}"))
}

#[test]
fn killed_frontend_is_replaced_and_the_lease_stays() {
    let scene = Scene::new("flt-front");
    let daemon = scene.hold();
    let first = frontend(daemon.pid());
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).expect("our own process");
    let killed = Instant::now();
    eventually("metrics after the kill", TIMEOUT, || {
        let answer = http::get(daemon.metrics, "/metrics").ok()?;
        (answer.status == 200).then_some(())
    });
    // A test of the starter bounds what evenkeel waits; the rest is up to the machine.
    eprintln!(
        "metrics {} ms after the kill of the frontend",
        killed.elapsed().as_millis()
    );
    assert_ne!(frontend(daemon.pid()), first);
    assert!(scene.burner.is_at(NICE));
    assert_eq!((daemon.leases(), restarts(&daemon, "ended")), (1, 1.0));
    assert_eq!(post(&daemon, &[resolved(alert())]), 200);
    scene.wait_for_restore();
}

#[test]
fn stopped_frontend_is_replaced_and_an_idle_one_is_not() {
    let scene = Scene::new("flt-mute");
    let daemon = scene.hold();
    let first = frontend(daemon.pid());
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGSTOP).expect("our own process");
    eventually("metrics of another frontend", TIMEOUT, || {
        let answer = http::get(daemon.metrics, "/metrics").ok()?;
        (answer.status == 200).then_some(())
    });
    let second = frontend(daemon.pid());
    assert_ne!(second, first);
    assert_eq!(restarts(&daemon, "stalled"), 1.0);
    // No request comes for longer than a frontend may be silent.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(frontend(daemon.pid()), second);
    assert_eq!((daemon.leases(), restarts(&daemon, "stalled")), (1, 1.0));
    assert_eq!(post(&daemon, &[resolved(alert())]), 200);
    scene.wait_for_restore();
}

#[test]
fn lease_outlasts_a_daemon_that_got_no_memory() {
    let scene = Scene::new("memory");
    let mut daemon = scene.hold();
    let address_space = status_of(daemon.pid(), "VmSize") * 1024;
    limit(daemon.pid(), &format!("--as={address_space}:"));
    let many: Vec<Value> = (0..4000)
        .map(|number| firing(json!({"alertname": "Other", "number": number.to_string()})))
        .collect();
    let body = envelope(&many).to_string();
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", &format!("Bearer {TOKEN}")),
    ];
    // The daemon ends without an answer, so Alertmanager would send the alerts again.
    let answer = http::request(daemon.webhook, "POST", "/webhook", &headers, body.as_bytes());
    assert!(answer.is_err(), "{answer:?}");
    let status = eventually("evenkeel to end", TIMEOUT, || daemon.ended());
    assert!(!status.success(), "{status}");
    assert!(scene.burner.is_at(NICE), "a crash reverts nothing");

    let daemon = scene.home.start_again(&daemon, &["--enforce"]);
    daemon.wait_for_leases(1);
    assert_eq!(post(&daemon, &many), 200);
    assert_eq!(post(&daemon, &[resolved(alert())]), 200);
    scene.wait_for_restore();
}

/// The uid of a user without processes, because the limit counts all processes of the user.
const LONELY_USER: u32 = 61_832;

/// Longer than tokio keeps a thread for blocking calls by default (10 s).
const IDLE_THREADS_END: Duration = Duration::from_secs(12);

/// A command that becomes a user who may have this number of threads, for the command behind it.
fn with_threads(threads: usize) -> Command {
    let mut command = Command::new("setpriv");
    let user = LONELY_USER.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "prlimit"]);
    command.arg(format!("--nproc={threads}"));
    command
}

/// The pids of the user's processes: evenkeel and its runner.
fn processes_of(user: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("a readable procfs").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may end meanwhile.
    let is_of_user = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("\nUid:\t{user}\t"))
    };
    pids.filter(is_of_user).collect()
}

fn commands(daemon: &Daemon, outcome: &str) -> f64 {
    daemon.metric("evenkeel_actions_total", &[("outcome", outcome)])
}

#[test]
fn start_without_threads_fails_and_command_without_a_process_is_recorded() {
    let home = Home::new(
        "rules: [{name: run, matchers: ['alertname=\"Test\"'], any_host: true, cooldown: 0s, actions: [{exec: [/bin/true]}]}]\n",
    );
    home.write(
        "evenkeel.yml",
        "allow_exec: true\nrule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n",
    );
    std::fs::create_dir(home.path().join("storage")).expect("a writable folder");
    let user = format!("{LONELY_USER}:{LONELY_USER}");
    succeed(Command::new("chown").arg("-R").arg(user).arg(home.path()));
    for threads in 1..8 {
        let run = home.run_command("127.0.0.1:0", "127.0.0.1:0");
        let mut command = with_threads(threads);
        command.arg(run.get_program()).args(run.get_args()).arg("--enforce");
        let mut daemon = Process::start("evenkeel", &mut command);
        let status = eventually("evenkeel to end", TIMEOUT, || daemon.ended());
        let log = daemon.whole_log().join("\n");
        assert!(!status.success(), "with {threads} threads: {status}\n{log}");
        assert!(log.contains("Resource temporarily unavailable"), "{log}");
    }

    let daemon = home.start_by(with_threads(1000), &["--enforce"]);
    // Threads that the start needs once have ended, and so has what a thread pool ends when it is idle: the request below
    // has to do with the threads that stay.
    std::thread::sleep(IDLE_THREADS_END);
    let mut threads = 0;
    let processes = eventually("the number of threads to be stable", TIMEOUT, || {
        let processes = processes_of(LONELY_USER);
        // Those of an earlier start may end meanwhile.
        let threads_of = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let before = std::mem::replace(&mut threads, processes.iter().map(threads_of).sum());
        std::thread::sleep(Duration::from_secs(1));
        (before == threads).then_some(processes)
    });
    let limit_all = |number: usize| {
        for pid in &processes {
            limit(*pid, &format!("--nproc={number}:"));
        }
    };
    limit_all(threads);
    assert_eq!(post(&daemon, &[alert()]), 200);
    eventually("the failed command", TIMEOUT, || {
        (commands(&daemon, "failed") == 1.0).then_some(())
    });
    limit_all(1000);
    assert_eq!(post(&daemon, &[resolved(alert())]), 200);
    let mut next = alert();
    next["startsAt"] = json!(jiff::Timestamp::now().to_string());
    assert_eq!(post(&daemon, &[next]), 200);
    eventually("the next command", TIMEOUT, || {
        (commands(&daemon, "applied") == 1.0).then_some(())
    });
}

#[test]
fn without_a_reader_of_the_log_evenkeel_acts_and_reverts() {
    let scene = Scene::new("reader");
    let (metrics, webhook) = (free_address(), free_address());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = scene.home.run_command(&metrics.to_string(), &webhook.to_string());
    command
        .arg("--enforce")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let mut daemon = command.spawn().expect("evenkeel starts");
    drop(command);
    drop(reader);
    eventually("evenkeel to serve", TIMEOUT, || http::get(metrics, "/metrics").ok());
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", &format!("Bearer {TOKEN}")),
    ];
    let body = envelope(&[alert()]).to_string();
    let answer = http::request(webhook, "POST", "/webhook", &headers, body.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200);
    scene.wait_for_nice();
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).expect("evenkeel runs");
    assert!(daemon.wait().expect("our own child").success());
    scene.wait_for_restore();
}

#[test]
fn taken_port_is_named_and_leases_stay() {
    let scene = Scene::new("port");
    let mut daemon = scene.hold();
    daemon.kill();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound listener").to_string();
    for (metrics, webhook) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", address.as_str())] {
        let (status, log) = scene.home.run_to_its_end(metrics, webhook);
        assert!(!status.success(), "{status}");
        assert!(log.contains(&address) && log.contains("in use"), "{log}");
        assert!(scene.burner.is_at(NICE), "{log}");
    }
    let daemon = scene.home.start(&["--enforce"]);
    assert_eq!(post(&daemon, &[resolved(alert())]), 200);
    scene.wait_for_restore();
}

/// A certificate for loopback that expires this number of days from now, with its key.
fn certificate(days: i64) -> (String, String) {
    let mut wanted = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    let now = std::time::SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    wanted.not_before = (now - day * 30).into();
    wanted.not_after = if days < 0 {
        (now - day * days.unsigned_abs() as u32).into()
    } else {
        (now + day * days as u32).into()
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = wanted.self_signed(&key).expect("a certificate");
    (made.pem(), key.serialize_pem())
}

#[test]
fn alert_arrives_once_an_expired_certificate_is_replaced() {
    let scene = Scene::new("expired");
    let web = "tls_server_config: {cert_file: web.crt, key_file: web.key}\n";
    scene.home.write("web.yml", web);
    let write = |(certificate, key): (String, String)| {
        scene.home.write("web.key", &key);
        scene.home.write("web.crt", &certificate);
        certificate
    };
    let expired = write(certificate(-1));
    let flag = format!("--webhook.config.file={}", scene.home.path().join("web.yml").display());
    let daemon = scene.home.start(&["--enforce", &flag]);
    let alertmanager = Alertmanager::start_with_tls(daemon.webhook, TOKEN, &expired);
    alertmanager.post("/api/v2/alerts", &json!([{"labels": alert()["labels"]}]));
    eventually("the failed notifications", TIMEOUT, || {
        alertmanager
            .log()
            .iter()
            .any(|line| line.contains("expired"))
            .then_some(())
    });
    assert_eq!(scene.burner.nice_values(), scene.before);
    let current = write(certificate(30));
    alertmanager.trust(&current);
    scene.wait_for_nice();
}
