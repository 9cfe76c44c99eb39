//! The sandbox of the shipped unit: its exposure as systemd rates it, the steps that work in it, and its sockets,
//! watchdog and status line.

use super::shipped_unit::{SERVICE, ShippedUnit, get, history, metric, recorded, scrape_text, send, shows, write};
use super::target::Target;
use super::*;
use std::collections::BTreeSet;
use std::process::Command;

const CGROUP_RULES: &str = include_str!("../../packaging/drop-ins/cgroup-rules.conf");

/// Highest exposure, in tenths.
const MAX_EXPOSURE: u32 = 20;

fn firing_now() -> String {
    alert("firing", "0001-01-01T00:00:00Z")
}

fn resolved_now() -> String {
    alert("resolved", "2024-01-02T04:00:00Z")
}

#[test]
fn exposure_of_the_unit_is_at_most_two() {
    let _unit = ShippedUnit::start("rules: []\n", &[]);
    let mut security = Command::new("systemd-analyze");
    security.args([
        "security",
        "--no-pager",
        &format!("--threshold={MAX_EXPOSURE}"),
        "evenkeel.service",
    ]);
    let output = security.output().expect("systemd-analyze runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{}", text.lines().last().unwrap_or_default());
    assert!(output.status.success(), "{text}");
}

/// The points that systemd rates above zero, by their names.
fn exposed_points() -> BTreeSet<String> {
    let points = sh("systemd-analyze security --no-pager --json=short evenkeel.service");
    let points: Vec<Value> = serde_json::from_str(&points).expect("a list of points");
    let is_exposed = |point: &&Value| {
        let exposure = point["exposure"].as_str();
        exposure.is_some_and(|exposure| exposure.parse::<f64>().expect("a number") > 0.0)
    };
    let exposed = points.iter().filter(is_exposed);
    exposed
        .map(|point| point["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// The points that the comment of the unit explains. Its reasons are indented further.
fn explained_points() -> BTreeSet<String> {
    let (_, table) = SERVICE.split_once(" has a reason:\n#\n").expect("the table");
    let rows = table.lines().map_while(|line| line.strip_prefix("#   "));
    rows.filter(|row| !row.starts_with(' ')).map(str::to_owned).collect()
}

#[test]
fn unit_explains_each_point_of_its_exposure_and_no_other() {
    let _unit = ShippedUnit::start("rules: []\n", &[]);
    assert_eq!(explained_points(), exposed_points());
}

/// Starts a process in the root cgroup, where autogroups count.
fn start_in_root_cgroup(program: &str, arguments: &[&str]) -> Target {
    let target = Target::start(program, arguments);
    write("/sys/fs/cgroup/cgroup.procs", &target.pid().to_string());
    target
}

/// All that the rule changes.
fn state(target: &Target) -> String {
    let pid = target.pid();
    sh(&format!(
        "ps -o ni=,stat= -p {pid}; ionice -p {pid}; taskset -pc {pid}; chrt -p {pid}; \
         cat /proc/{pid}/oom_score_adj /proc/{pid}/autogroup | sed 's/^.autogroup-[0-9]* //'"
    ))
}

#[test]
fn steps_on_processes_work_in_the_unit() {
    write("/proc/sys/kernel/sched_autogroup_enabled", "1");
    let target = start_in_root_cgroup("sleep", &["7101"]);
    let favoured = start_in_root_cgroup("sleep", &["7102"]);
    let victim = start_in_root_cgroup("sleep", &["7103"]);
    // evenkeel notifies a process that has a handler.
    let _notified = start_in_root_cgroup("bash", &["-c", "trap : WINCH; sleep 7104; sleep 7105"]);
    let before = (state(&target), state(&favoured));
    let rule = |name: &str, cmdline: &str, actions: &str| {
        format!(
            "  - {{name: {name}, matchers: ['alertname=\"Test\"'], \
             select: {{cmdline: '{cmdline}', user: tenant}}, actions: {actions}}}\n"
        )
    };
    let rules = [
        "rules:\n".to_owned(),
        rule(
            "calm",
            "sleep 7101",
            "[{nice: 5}, {ionice: idle}, {affinity: '0'}, {sched: batch}, {oom_score_adj: 300}, {autogroup: 7}, \
             {reclaim: 64KiB}, {freeze: true}]",
        ),
        // The kernel resets children of a process with a negative nice value, which needs another call.
        rule("favour", "sleep 7102", "[{nice: -5}, {oom_score_adj: -300}]"),
        rule("end", "sleep 7103", "[{signal: SIGKILL}]"),
        rule("notify", "bash -c trap.*", "[{signal: SIGWINCH}]"),
    ];
    let _unit = ShippedUnit::start(&rules.concat(), &[]);
    send(&firing_now());
    recorded("applied", 12);
    let during = state(&target);
    for text in ["5 TN", "idle", "0\n", "SCHED_BATCH", "300", "nice 7"] {
        assert!(during.contains(text), "{text}: {during}");
    }
    let during = state(&favoured);
    for text in ["-5", "RESET_ON_FORK", "-300"] {
        assert!(during.contains(text), "{text}: {during}");
    }
    eventually("the end of the victim", TIMEOUT, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", victim.pid())).expect("a zombie");
        stat.contains(") Z ").then_some(())
    });
    send(&resolved_now());
    recorded("restored", 9);
    assert_eq!((state(&target), state(&favoured)), before);
}

/// The collectors that succeed, by the metrics of a daemon.
fn successful_collectors(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let labels = line.strip_prefix("node_scrape_collector_success{collector=\"")?;
        labels.strip_suffix("\"} 1").map(str::to_owned)
    };
    text.lines().filter_map(name).collect()
}

#[test]
fn collectors_work_in_the_unit() {
    let outside = Home::new("rules: []\n").start(&[]);
    let scraped = |text: &dyn Fn() -> String| {
        eventually("the slow collectors", TIMEOUT, || {
            std::thread::sleep(PAUSE);
            let found = successful_collectors(&text());
            found.iter().any(|name| name == "filesystem").then_some(found)
        })
    };
    let mut expected = scraped(&|| outside.scrape_text());
    drop(outside);
    let unit = ShippedUnit::start(
        "rules: []\n",
        &[include_str!("../../packaging/drop-ins/clock-metrics.conf")],
    );
    assert_eq!(scraped(&scrape_text), expected);
    drop(unit);
    let _unit = ShippedUnit::start("rules: []\n", &[]);
    expected.retain(|name| name != "timex");
    assert_eq!(scraped(&scrape_text), expected);
}

#[test]
fn limits_of_units_work_with_the_drop_in() {
    let service = unit::Service::start("limited", "CPUQuota=20%\nIOReadBandwidthMax=/dev/vda 5M");
    // A cgroup that systemd does not manage.
    sh("mkdir -p /sys/fs/cgroup/own; echo +pids +memory >/sys/fs/cgroup/cgroup.subtree_control");
    let mut own = Command::new("sleep").arg("7200").spawn().expect("it starts");
    write("/sys/fs/cgroup/own/cgroup.procs", &own.id().to_string());
    let rules = "rules:\n\
         \x20 - name: unit\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {unit: 'limited\\.service'}\n\
         \x20   targets: cgroups\n\
         \x20   actions: [{cgroup: {cpu.max: +100%, io.max: /dev/vda wbps=1MiB}}, {reclaim: 64KiB}, {freeze: true}]\n\
         \x20 - name: own\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {cgroup: '/own'}\n\
         \x20   targets: cgroups\n\
         \x20   actions: [{cgroup: {pids.max: 40}}, {freeze: true}]\n";
    let unit = ShippedUnit::start(rules, &[CGROUP_RULES]);
    send(&firing_now());
    recorded("applied", 6);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "400ms");
    assert!(read(&service.cgroup(), "io.max").contains("wbps=1048576"));
    assert_eq!(service.shows("FreezerState"), "frozen");
    assert_eq!(read("/own", "pids.max"), "40");
    assert_eq!(read("/own", "cgroup.freeze"), "1");
    send(&resolved_now());
    recorded("restored", 5);
    assert_eq!(service.shows("CPUQuotaPerSecUSec"), "200ms");
    assert_eq!(service.shows("FreezerState"), "running");
    assert!(!service.has_assignments());
    assert_eq!(read("/own", "pids.max"), "max");
    assert_eq!(read("/own", "cgroup.freeze"), "0");
    drop(unit);
    let _ = own.kill();
    let _ = own.wait();
    sh("rmdir /sys/fs/cgroup/own");
}

/// A rule that re-nices the process of `tenant` that the test starts.
const NICE_RULE: &str = "rules: [{name: test, matchers: ['alertname=\"Test\"'], \
    select: {cmdline: 'sleep 7106', user: tenant}, actions: [{nice: 5}]}]\n";

/// Fires the alert of [`NICE_RULE`], until the lease is held for the `number`th time.
fn hold(target: &Target, number: usize) {
    send(&firing_now());
    recorded("applied", number);
    assert_held(target);
}

fn assert_held(target: &Target) {
    assert_eq!((target.nice(), metric("evenkeel_leases", &[])), (5, 1.0));
}

/// The number of leases that the ledger says are reverted.
fn reverted() -> usize {
    history().iter().filter(|(outcome, _)| outcome == "restored").count()
}

#[test]
fn restart_refuses_no_connection_and_stop_closes_the_port() {
    let target = Target::start("sleep", &["7106"]);
    let _unit = ShippedUnit::start(NICE_RULE, &[]);
    assert_eq!(shows("StatusText"), "enforce: 1 rules, 0 alerts firing, 0 leases");
    hold(&target, 1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let address = "127.0.0.1:19797";
                // Connections that wait while evenkeel restarts may be closed, but none is refused.
                std::net::TcpStream::connect(address).expect("the socket outlasts a restart");
                scrapes += 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            scrapes
        });
        let pid = shows("MainPID");
        sh("systemctl restart evenkeel");
        assert_ne!(shows("MainPID"), pid);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(scraper.join().expect("no refused connection") > 0);
    });
    // The stop reverts, and the next report of the alert applies the step again.
    assert_eq!((target.nice(), reverted(), metric("evenkeel_leases", &[])), (0, 1, 0.0));
    hold(&target, 2);
    sh("systemctl stop evenkeel");
    eventually("the port to close", TIMEOUT, || {
        get("/-/healthy").is_err().then_some(())
    });
    assert_eq!(shows("ActiveState"), "inactive");
    assert_eq!((target.nice(), reverted()), (0, 2));
    sh("systemctl start evenkeel");
    assert_eq!(get("/-/healthy").expect("an answer"), 200);
    hold(&target, 3);
    send(&resolved_now());
    recorded("restored", 3);
    assert_eq!((target.nice(), metric("evenkeel_leases", &[])), (0, 0.0));
}

#[test]
fn watchdog_restarts_a_daemon_that_hangs() {
    let target = Target::start("sleep", &["7106"]);
    let _unit = ShippedUnit::start(NICE_RULE, &["[Service]\nWatchdogSec=5s\n"]);
    hold(&target, 1);
    let pid = shows("MainPID");
    std::thread::sleep(std::time::Duration::from_secs(8));
    assert_eq!(shows("MainPID"), pid, "a daemon that works stays");
    sh(&format!("kill -STOP {pid}"));
    eventually("a new process", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        let state = (shows("MainPID"), shows("ActiveState"));
        (state.0 != pid && state.0 != "0" && state.1 == "active").then_some(())
    });
    assert_eq!(get("/-/healthy").expect("an answer"), 200);
    assert_held(&target);
    assert_eq!(reverted(), 0);
    send(&resolved_now());
    recorded("restored", 1);
    assert_eq!((target.nice(), metric("evenkeel_leases", &[])), (0, 0.0));
}
