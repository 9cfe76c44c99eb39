//! The shipped alerting rules on a real Prometheus that scrapes evenkeel every second, and on evenkeel itself, while
//! processor, memory, disk and network are loaded in turn. Both must have the same alerts.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::hog::hog;
use crate::support::prometheus::Prometheus;
use crate::support::shipped::root;
use crate::support::{free_address, http};

const LOAD: Duration = Duration::from_secs(12);
/// The window of the rates, and one more second for late samples.
const REST: Duration = Duration::from_secs(7);
const LOOK: Duration = Duration::from_millis(250);
/// Two intervals, because the two sample at different times.
const APART: Duration = Duration::from_secs(2);
/// Permitted share of differences, because only one of the two may see a value that crosses its threshold for a second.
const MAY_DIFFER: f64 = 0.05;
/// `for` of the rules, and the time that the two may be apart at either end. A condition that holds for less, as other
/// tests that run at the same time may cause, may make only one of the two fire.
const LASTING: Duration = Duration::from_secs(6);
const HOG_BYTES: u64 = 1 << 30;
/// Rules about the load of the test itself, independent of other load.
const OWN: &str = "
      - alert: LoopbackBusy
        expr: rate(node_network_transmit_bytes_total{device=\"lo\"}[5s]) > 5e6
        for: 2s
      - alert: HogResident
        expr: evenkeel_group_resident_bytes{group=\"hog\"} > 500e6
        for: 2s
";

/// The labels of an alert, and whether it fires.
type Active = BTreeMap<String, bool>;

/// The alerts of one of the two at a time since the start.
struct Said {
    at: Duration,
    active: Active,
}

/// The shipped rules, with shorter times and a reachable memory threshold.
fn rules(evenkeel: &Daemon) -> String {
    let total = evenkeel.metric("node_memory_MemTotal_bytes", &[]);
    let available = evenkeel.metric("node_memory_MemAvailable_bytes", &[]);
    let reachable = 1.0 - (available - HOG_BYTES as f64 / 2.0) / total;
    let text = std::fs::read_to_string(root().join("alerting/host.rules.yml")).expect("a shipped file");
    let lines = text.lines().map(|line| match line.trim() {
        wait if wait.starts_with("for: ") => "        for: 2s".to_owned(),
        _ => line.replace("[1m]", "[5s]").replace("> 0.7", &format!("> {reachable}")),
    });
    lines.collect::<Vec<_>>().join("\n") + OWN
}

/// Prometheus's alerts at the last evaluation of each group, which a busy disk may delay.
fn of_prometheus(prometheus: &Prometheus, started: Timestamp) -> Vec<Said> {
    let answer = http::get(prometheus.address, "/api/v1/rules?type=alert").expect("Prometheus answers");
    let said: Value = serde_json::from_str(&answer.body).expect("JSON");
    let groups = said["data"]["groups"].as_array().expect("groups");
    let of_group = |group: &Value| {
        let evaluated: Timestamp = group["lastEvaluation"].as_str()?.parse().ok()?;
        let alerts = group["rules"].as_array().expect("rules").iter();
        let alerts = alerts.flat_map(|rule| rule["alerts"].as_array().expect("alerts"));
        Some(Said {
            // A time before the start means no evaluation yet.
            at: Duration::try_from(evaluated.duration_since(started)).ok()?,
            active: alerts
                .map(|alert| (alert["labels"].to_string(), alert["state"] == "firing"))
                .collect(),
        })
    };
    groups.iter().filter_map(of_group).collect()
}

/// The alerts that the daemon stores for a restart, at every change.
fn of_evenkeel(home: &Home) -> Active {
    let Ok(text) = std::fs::read_to_string(home.path().join("storage/alerts.json")) else {
        return Active::new();
    };
    let kept: Value = serde_json::from_str(&text).expect("it is replaced as a whole");
    let alerts = kept["alerts"].as_array().expect("alerts");
    alerts
        .iter()
        .map(|alert| (alert["labels"].to_string(), alert.get("fired_at_ms").is_some()))
        .collect()
}

/// Sends bytes through loopback until `stop`.
fn stream(stop: &AtomicBool) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buffer = vec![0; 1 << 16];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        let mut stream = TcpStream::connect(address).expect("the listener listens");
        let chunk = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(&chunk).expect("the other side reads");
            // About 200 MB/s are enough, and less on few processors.
            std::thread::sleep(Duration::from_micros(300));
        }
    });
}

/// Writes small blocks, each synced to the disk.
fn write(home: &Home, stop: &AtomicBool) {
    let mut file = std::fs::File::create(home.path().join("load")).expect("a writable folder");
    while !stop.load(Ordering::Relaxed) {
        file.write_all(&[1; 4096])
            .and_then(|()| file.sync_data())
            .expect("a disk");
    }
}

fn load(home: &Home) {
    let for_a_while = |run: &(dyn Fn(&AtomicBool) + Sync)| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| run(&stop));
            std::thread::sleep(LOAD);
            stop.store(true, Ordering::Relaxed);
        });
        std::thread::sleep(REST);
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut burners: Vec<Burner> = (0..processors.div_ceil(4))
        .map(|number| Burner::start(&format!("live-{number}")))
        .collect();
    burners.iter_mut().for_each(Burner::burn);
    std::thread::sleep(LOAD);
    drop(burners);
    std::thread::sleep(REST);
    let held = hog("live-hog", HOG_BYTES);
    std::thread::sleep(LOAD);
    drop(held);
    std::thread::sleep(REST);
    for_a_while(&|stop| write(home, stop));
    for_a_while(&stream);
}

/// Whether the alert is active for `LASTING` around `at`, without a gap that the other would see.
fn lasts(said: &[Said], at: Duration, labels: &str) -> bool {
    let active = |said: &&Said| said.active.contains_key(labels);
    let mut times: Vec<Duration> = said.iter().filter(active).map(|said| said.at).collect();
    times.sort();
    let mut runs = times.chunk_by(|earlier, later| *later - *earlier <= APART);
    runs.any(|run| run.contains(&at) && run[run.len() - 1] - run[0] >= LASTING)
}

/// The lasting alerts of one that the other does not have within two intervals, and all lasting alerts of the first.
fn differing(one: &[Said], other: &[Said]) -> (usize, usize) {
    let (mut differ, mut all) = (0, 0);
    for look in one {
        for (labels, fires) in &look.active {
            if !lasts(one, look.at, labels) {
                continue;
            }
            all += 1;
            let says_so = |said: &Said| said.at.abs_diff(look.at) <= APART && said.active.get(labels) == Some(fires);
            if !other.iter().any(says_so) {
                differ += 1;
                println!("{:?} {labels} {}", look.at, if *fires { "fires" } else { "is pending" });
            }
        }
    }
    (differ, all)
}

#[test]
fn evenkeel_and_prometheus_say_the_same_under_load() {
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 1s, slow_interval: 1s}\nalerting_rule_files: [alerts.yml]\n\
         process_groups: [{name: hog, select: {name: live-hog}}]\nwebhook: {token_file: webhook.token}\n",
    );
    home.write("alerts.yml", "groups: []\n");
    let evenkeel = home.start(&[]);
    let rules = rules(&evenkeel);
    home.write("alerts.yml", &rules);
    evenkeel.reload();
    let prometheus = Prometheus::start(&[("evenkeel", evenkeel.metrics)], &rules, free_address());
    // Waits until both have samples as far back as the rules read, and alerts of a busy machine fire in both.
    std::thread::sleep(2 * REST);
    let (started, started_at) = (Instant::now(), Timestamp::now());
    let (mut by_prometheus, mut by_evenkeel): (Vec<Said>, Vec<Said>) = Default::default();
    std::thread::scope(|threads| {
        let loading = threads.spawn(|| load(&home));
        while !loading.is_finished() {
            for said in of_prometheus(&prometheus, started_at) {
                // Each evaluation counts once.
                if by_prometheus.iter().all(|before| before.at != said.at) {
                    by_prometheus.push(said);
                }
            }
            by_evenkeel.push(Said {
                at: started.elapsed(),
                active: of_evenkeel(&home),
            });
            std::thread::sleep(LOOK);
        }
        loading.join().expect("the loads run");
    });
    for alert in ["HostCpuSaturated", "HogResident", "LoopbackBusy"] {
        let name = format!("\"alertname\":\"{alert}\"");
        let fired = |said: &[Said]| {
            said.iter()
                .flat_map(|said| &said.active)
                .any(|(labels, fires)| *fires && labels.contains(&name))
        };
        assert!(fired(&by_prometheus), "{alert} did not fire in Prometheus");
        assert!(fired(&by_evenkeel), "{alert} did not fire in evenkeel");
    }
    let (missed, said) = differing(&by_prometheus, &by_evenkeel);
    let (extra, told) = differing(&by_evenkeel, &by_prometheus);
    println!("Prometheus alone {missed} of {said}, evenkeel alone {extra} of {told}");
    assert!(
        missed as f64 <= MAY_DIFFER * said as f64,
        "evenkeel misses {missed} of {said}"
    );
    assert!(
        extra as f64 <= MAY_DIFFER * told as f64,
        "evenkeel adds {extra} of {told}"
    );
}
