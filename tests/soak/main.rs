//! Half an hour of ordinary life, or as long as `make soak MINUTES=…` says: alerts that fire and resolve, load that
//! comes and goes, reloads, a thousand new processes a second, and a Prometheus that scrapes. Memory, threads,
//! descriptors and the ledger stay flat, every value is restored, and each line of the log is expected.

// Other tests use more of this module.
#[allow(dead_code)]
#[path = "../suite/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::alertmanager::Alertmanager;
use support::burner::Burner;
use support::daemon::{Daemon, Home, TOKEN};
use support::payload::{envelope, firing};
use support::prometheus::Prometheus;
use support::{eventually, node_name};

const MINUTES: &str = "EVENKEEL_SOAK_MINUTES";
const DEFAULT_MINUTES: u64 = 2;
const TIMEOUT: Duration = Duration::from_secs(60);
const NICE: i32 = 12;
const OTHER_NICE: i32 = 13;
const CHURNED_NICE: i32 = 19;
/// Wanted number of new processes per second. A busy machine starts fewer.
const FORKS_PER_SECOND: u32 = 1000;
/// With fewer, this life is too quiet for its result to mean anything. Two cores that do nothing else reach the aim, and
/// a third leaves room for other work beside the test.
const LEAST_FORKS_PER_SECOND: u64 = FORKS_PER_SECOND as u64 / 3;
const RELOAD_INTERVAL: Duration = Duration::from_secs(7);
const LOAD_INTERVAL: Duration = Duration::from_secs(11);
const ALERT_INTERVAL: Duration = Duration::from_millis(200);
/// Permitted growth in the second half, for free pages that the allocator may keep.
const MAX_GROWTH_BYTES: u64 = 8 << 20;
const SPARE_THREADS: u64 = 2;
const SPARE_DESCRIPTORS: u64 = 16;
/// The ledger's bound of the configuration below, and what SQLite needs to stay within it.
const MAX_LEDGER_BYTES: u64 = 8 << 20;

/// Texts of the warnings and errors that this life explains.
const EXPECTED: [&str; 4] = [
    "webhook token file readable by every user",
    "no alerting rule file defines an alert `Burner`",
    // Where the tests have few capabilities.
    "could not lower oom_score_adj",
    "could not lock memory",
];

/// What must stay flat.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    resident_bytes: u64,
    threads: u64,
    descriptors: u64,
    ledger_bytes: u64,
}

impl Size {
    fn of(daemon: &Daemon, home: &Home) -> Size {
        Size {
            resident_bytes: daemon.resident_bytes(),
            threads: daemon.threads() as u64,
            descriptors: daemon.open_descriptors() as u64,
            ledger_bytes: folder_bytes(&home.path().join("storage")),
        }
    }

    fn max(self, other: Size) -> Size {
        Size {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
            ledger_bytes: self.ledger_bytes.max(other.ledger_bytes),
        }
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a readable folder").flatten();
    // SQLite may delete a file meanwhile.
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// Rules for the burner and for the processes of the churn.
fn rules(burner: &str, nice: i32) -> String {
    format!(
        "rules:\n\
         - {{name: burner, matchers: ['alertname=\"Burner\"'], select: {{name: {burner}}}, actions: [{{nice: {nice}}}]}}\n\
         - {{name: churn, matchers: ['alertname=\"Churn\"'], select: {{name: 'true'}}, max_matches: 1000, limit: 100, \
         actions: [{{nice: {CHURNED_NICE}}}]}}\n"
    )
}

/// An own alert that follows the load.
const OWN_ALERTS: &str = "groups:\n\
    - name: load\n\
    \x20 interval: 1s\n\
    \x20 rules:\n\
    \x20 - {alert: Churn, expr: 'rate(node_forks_total[10s]) > 100'}\n";

fn alert() -> Value {
    let mut alert = firing(json!({"alertname": "Burner", "instance": node_name()}));
    alert["startsAt"] = json!(jiff::Timestamp::now().to_string());
    alert
}

fn resolved(mut alert: Value) -> Value {
    alert["status"] = json!("resolved");
    alert["endsAt"] = json!(jiff::Timestamp::now().to_string());
    alert
}

/// Starts processes that end at once, until it `is_over`.
fn churn(is_over: &AtomicBool, started: &AtomicU64) {
    let (begun, mut count) = (Instant::now(), 0_u32);
    while !is_over.load(Ordering::Relaxed) {
        let due = Duration::from_secs(1) / FORKS_PER_SECOND * count;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        // At a limit of processes the next one may start.
        if let Ok(mut child) = Command::new("true").spawn() {
            child.wait().expect("our own child");
            started.fetch_add(1, Ordering::Relaxed);
        }
        count += 1;
    }
}

#[test]
fn evenkeel_stays_as_it_is_over_time() {
    let minutes = std::env::var(MINUTES).ok().and_then(|text| text.parse().ok());
    let duration = Duration::from_secs(60 * minutes.unwrap_or(DEFAULT_MINUTES));
    let name = format!("soak-{}", std::process::id() % 100_000);
    let home = Home::new(&rules(&name, NICE));
    home.write("alerts.yml", OWN_ALERTS);
    home.write(
        "evenkeel.yml",
        "rule_files: [rules/*.yml]\nalerting_rule_files: [alerts.yml]\nwebhook: {token_file: webhook.token}\n\
         storage: {retention: {size: 2MiB}}\n",
    );
    let mut burner = Burner::start(&name);
    let before = burner.nice_values();
    let mut daemon = home.start(&["--enforce"]);
    let alertmanager = Alertmanager::start(daemon.webhook, TOKEN);
    let prometheus = Prometheus::start(&[("evenkeel", daemon.metrics)], "", alertmanager.address);

    let (is_over, started) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut early, mut late) = (Size::default(), Size::default());
    let begun = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| churn(&is_over, &started));
        }
        let (mut reloaded_at, mut load_changed_at) = (begun, begun);
        let (mut nice, mut is_burning) = (NICE, false);
        while begun.elapsed() < duration {
            let alert = alert();
            for alert in [alert.clone(), resolved(alert)] {
                let answer = daemon.post(envelope(&[alert]).to_string().as_bytes());
                assert_eq!(answer.status, 200, "{answer:?}");
                std::thread::sleep(ALERT_INTERVAL);
            }
            if load_changed_at.elapsed() > LOAD_INTERVAL {
                (load_changed_at, is_burning) = (Instant::now(), !is_burning);
                if is_burning { burner.burn() } else { burner.rest() }
            }
            if reloaded_at.elapsed() > RELOAD_INTERVAL {
                (reloaded_at, nice) = (Instant::now(), if nice == NICE { OTHER_NICE } else { NICE });
                home.write("rules/test.yml", &rules(&name, nice));
                daemon.reload();
            }
            let size = Size::of(&daemon, &home);
            // The first tenth fills caches.
            if begun.elapsed() > duration / 2 {
                late = late.max(size);
            } else if begun.elapsed() > duration / 10 {
                early = early.max(size);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    burner.rest();
    eventually("all leases to be settled", TIMEOUT, || {
        (daemon.leases() == 0).then_some(())
    });
    assert_eq!(burner.nice_values(), before, "the nice values are restored");

    let rate = started.into_inner() / duration.as_secs();
    eprintln!("soak: {rate} new processes a second; first half {early:?}, second half {late:?}");
    assert!(rate >= LEAST_FORKS_PER_SECOND, "{rate} new processes a second");
    assert!(late.resident_bytes < early.resident_bytes + MAX_GROWTH_BYTES);
    assert!(late.threads <= early.threads + SPARE_THREADS);
    assert!(late.descriptors <= early.descriptors + SPARE_DESCRIPTORS);
    assert!(late.ledger_bytes < MAX_LEDGER_BYTES);
    let scraped = format!("sum_over_time(up{{job=\"evenkeel\"}}[{}s])", duration.as_secs());
    let scrapes = prometheus.query(&scraped);
    let scrapes: f64 = scrapes[0]["value"][1]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a sum of scrapes");
    assert!(scrapes > 0.8 * duration.as_secs_f64(), "{scrapes} scrapes succeeded");
    assert!(daemon.metric("evenkeel_actions_total", &[("outcome", "restored")]) > duration.as_secs_f64());
    assert!(daemon.terminate().success());
    let is_a_fault = |line: &&String| line.contains("level=warn") || line.contains("level=error");
    let is_expected = |line: &&String| EXPECTED.iter().any(|text| line.contains(text));
    let log = daemon.log();
    let unexplained: Vec<&String> = log
        .iter()
        .filter(is_a_fault)
        .filter(|line| !is_expected(line))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
}
