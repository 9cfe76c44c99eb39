//! Steps of the wall clock while alerts fire and leases are held.

use super::target::Target;
use super::*;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Of one of the rules. The slow guest needs seconds for the steps of three rules and the step of the clock.
const HOLD: Duration = Duration::from_secs(40);

/// A wall clock that was set wrong, and is set right when the test ends.
struct WrongClock {
    before: SystemTime,
    since: Instant,
}

impl WrongClock {
    /// `by` is what date(1) reads.
    fn step(by: &str) -> WrongClock {
        let clock = WrongClock {
            before: SystemTime::now(),
            since: Instant::now(),
        };
        sh(&format!("date --set='{by}'"));
        clock
    }
}

impl Drop for WrongClock {
    fn drop(&mut self) {
        let right = (self.before + self.since.elapsed()).duration_since(UNIX_EPOCH);
        sh(&format!("date --set=@{}", right.expect("a time after 1970").as_secs()));
    }
}

/// The alert as an Alertmanager on this host sends it, by its wall clock.
fn alert_of_today(status: &str, starts_at: jiff::Timestamp) -> String {
    let mut alert: Value = firing(json!({"alertname": "Test", "instance": node_name()}));
    (alert["status"], alert["startsAt"]) = (json!(status), json!(starts_at.to_string()));
    if status == "resolved" {
        alert["endsAt"] = json!(jiff::Timestamp::now().to_string());
    }
    envelope(&[alert]).to_string()
}

/// Three leases: of an own alert, of an alert of Alertmanager, and of one that is not repeated within its `hold`.
fn leases_outlast_a_step(by: &str) {
    let [own, reported, brief] = ["7401", "7402", "7403"].map(|seconds| Target::start("sleep", &[seconds]));
    let rule = |name: &str, alert: &str, seconds: u32, more: &str| {
        format!(
            "  - {{name: {name}, matchers: [alertname={alert}], select: {{cmdline: 'sleep {seconds}', user: tenant}}, \
             actions: [{{nice: 5}}]{more}}}\n"
        )
    };
    let home = Home::new(&format!(
        "rules:\n{}{}{}",
        rule("own", "Driven", 7401, ""),
        rule("reported", "Test", 7402, ""),
        rule("brief", "Test", 7403, &format!(", hold: {}s", HOLD.as_secs())),
    ));
    home.write(
        "own.rules.yml",
        "groups: [{name: own, rules: [{alert: Driven, expr: driven > 0}]}]\n",
    );
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 1s, slow_interval: 1s}\nrule_files: [rules/*.yml]\n\
         alerting_rule_files: [own.rules.yml]\nwebhook: {token_file: webhook.token}\n",
    );
    home.write("driven.prom", "driven 1\n");
    let folder = format!("--collector.textfile.directory={}", home.path().display());
    let evenkeel = home.start(&[FLAGS[0], FLAGS[1], "--collector.textfile", &folder]);
    outcomes(&evenkeel, "applied", 1.0);
    let starts_at = jiff::Timestamp::now();
    let fired = Instant::now();
    deliver(&evenkeel, &alert_of_today("firing", starts_at));
    outcomes(&evenkeel, "applied", 3.0);

    let clock = WrongClock::step(by);
    let reports = || {
        evenkeel.metric(
            "evenkeel_alerts_received_total",
            &[("source", "local"), ("status", "firing")],
        )
    };
    let before = reports();
    eventually("the deadline of the brief lease", HOLD + TIMEOUT, || {
        std::thread::sleep(PAUSE);
        (brief.nice() == 0).then_some(())
    });
    let held = fired.elapsed();
    assert!(held >= HOLD, "held for {held:?} under a step of {by}");
    // Each evaluation since the step found the alert, and evenkeel reported it again.
    eventually("another report of the own alert", TIMEOUT, || {
        (reports() > before).then_some(())
    });
    outcomes(&evenkeel, "expired", 1.0);
    assert_eq!((own.nice(), reported.nice(), evenkeel.leases()), (5, 5, 2), "{by}");

    home.write("driven.prom", "driven 0\n");
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!((own.nice(), reported.nice()), (0, 5), "{by}");
    deliver(&evenkeel, &alert_of_today("resolved", starts_at));
    outcomes(&evenkeel, "restored", 2.0);
    assert_eq!((reported.nice(), evenkeel.leases()), (0, 0), "{by}");
    drop(clock);
}

#[test]
fn step_of_the_clock_forwards_ends_and_prolongs_no_lease() {
    leases_outlast_a_step("+1 hour");
}

#[test]
fn step_of_the_clock_backwards_ends_and_prolongs_no_lease() {
    leases_outlast_a_step("-1 hour");
}
