//! The whole loop with real Prometheus and Alertmanager: a process burns CPU, an alert fires, evenkeel acts, the
//! process rests, the alert resolves, and evenkeel reverts its steps.

use std::os::unix::process::ExitStatusExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::alertmanager::Alertmanager;
use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::eventually;
use crate::support::prometheus::Prometheus;

const RULE: &str = "calm-the-burner";
const RULE_NICE: i32 = 15;
const SIGTERM: i32 = 15;

/// Timeout from a change of the burner to its effect, which takes seconds, and longer on a busy machine.
const LOOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Admits one loop at a time, because several would burn the processors that the servers need.
static ALONE: Mutex<()> = Mutex::new(());

/// The condition of the alert. Both include the burner's runnable threads, so that the alert resolves when the burner
/// rests, even on a busy machine. The window covers a late scrape.
#[derive(Clone, Copy)]
enum Condition {
    /// The burner burns, and evenkeel has measured busy processors.
    BusyHost,
    /// The burner burns; independent of evenkeel, which may be down.
    BusyBurner,
}

impl Condition {
    fn expr(self) -> &'static str {
        match self {
            Condition::BusyHost => {
                "max_over_time(burner_runnable_threads[4s]) > 0 \
                 and on (instance) max_over_time(evenkeel_cpu_busy_ratio[4s]) > 0.5"
            }
            Condition::BusyBurner => "max_over_time(burner_runnable_threads[4s]) > 0",
        }
    }
}

/// All participants, dropped from the top down.
struct Loop {
    burner: Burner,
    /// Another burner, under a name that no rule selects.
    bystander: Burner,
    prometheus: Prometheus,
    _alertmanager: Alertmanager,
    evenkeel: Daemon,
    home: Home,
    _alone: MutexGuard<'static, ()>,
}

impl Loop {
    /// `actions` are the steps of the only rule, as YAML.
    fn start(actions: &str, condition: Condition, flags: &[&str]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests lower nice values again, which the kernel allows root only: run them as root"
        );
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // The pid distinguishes the processes of several runs on one machine.
        let number = std::process::id() % 100_000;
        let name = format!("burner-{number}");
        let home = Home::new(&format!(
            "rules:\n\
             \x20 - name: {RULE}\n\
             \x20   matchers: ['alertname=\"BurnerBusy\"', 'severity=~\"warning|critical\"']\n\
             \x20   select: {{name: {name}}}\n\
             \x20   actions: {actions}\n"
        ));
        let burner = Burner::start(&name);
        let bystander = Burner::start(&format!("other-{number}"));
        let evenkeel = home.start(flags);
        let alertmanager = Alertmanager::start(evenkeel.webhook, crate::support::daemon::TOKEN);
        let targets = [("evenkeel", evenkeel.metrics), ("burner", burner.serve_metrics())];
        let prometheus = Prometheus::start(&targets, &alerting_rules(condition), alertmanager.address);
        Loop {
            burner,
            bystander,
            prometheus,
            _alertmanager: alertmanager,
            evenkeel,
            home,
            _alone: alone,
        }
    }

    fn actions(&self, outcome: &str) -> f64 {
        self.evenkeel
            .metric("evenkeel_actions_total", &[("rule", RULE), ("outcome", outcome)])
    }

    fn leases(&self) -> f64 {
        self.evenkeel
            .metric("evenkeel_leases", &[("rule", RULE), ("knob", "nice")])
    }

    fn firing_received(&self) -> f64 {
        self.evenkeel.metric(
            "evenkeel_alerts_received_total",
            &[("source", "alertmanager"), ("status", "firing")],
        )
    }

    fn burn_until_niced(&mut self) {
        self.burner.burn();
        eventually(
            "every thread of the burner to get the rule's nice value",
            LOOP_TIMEOUT,
            || self.burner.is_at(RULE_NICE).then_some(()),
        );
    }

    fn wait_for_nice_values(&self, expected: &[(u32, i32)]) {
        eventually(
            "every thread of the burner to have its former nice value",
            LOOP_TIMEOUT,
            || (self.burner.nice_values() == expected).then_some(()),
        );
    }

    fn wait_for_leases(&self, count: f64) {
        eventually(&format!("{count} leases in the metrics"), LOOP_TIMEOUT, || {
            (self.leases() == count).then_some(())
        });
    }

    fn wait_for_repeats(&self, count: f64) {
        eventually("the alert to be repeated", LOOP_TIMEOUT, || {
            (self.firing_received() >= count).then_some(())
        });
    }

    fn wait_for_resolve(&self) {
        eventually("the alert to resolve in Prometheus", LOOP_TIMEOUT, || {
            self.prometheus
                .query("ALERTS{alertname=\"BurnerBusy\"}")
                .is_empty()
                .then_some(())
        });
    }
}

fn alerting_rules(condition: Condition) -> String {
    format!(
        "groups:\n\
         \x20 - name: test\n\
         \x20   rules:\n\
         \x20     - alert: BurnerBusy\n\
         \x20       expr: '{}'\n\
         \x20       for: 2s\n\
         \x20       labels: {{severity: warning}}\n",
        condition.expr()
    )
}

#[test]
fn nice_reaches_every_thread_and_is_undone_on_resolve() {
    let mut all = Loop::start("[{nice: 15}]", Condition::BusyHost, &["--enforce"]);
    let before = all.burner.nice_values();
    let bystander_before = all.bystander.nice_values();

    all.bystander.burn();
    all.burn_until_niced();
    all.wait_for_leases(1.0);
    all.wait_for_repeats(3.0);
    assert_eq!(
        all.bystander.nice_values(),
        bystander_before,
        "no other process is touched"
    );
    assert_eq!(all.actions("applied"), 1.0, "a repeat applies nothing again");

    all.burner.rest();
    all.wait_for_nice_values(&before);
    all.wait_for_leases(0.0);
    assert_eq!(all.actions("applied"), 1.0);
    assert_eq!(all.actions("restored"), 1.0);
    assert_eq!(all.bystander.nice_values(), bystander_before);
}

#[test]
fn sigterm_ends_the_burner_and_nothing_else() {
    let mut all = Loop::start("[{signal: SIGTERM}]", Condition::BusyHost, &["--enforce"]);

    all.bystander.burn();
    all.burner.burn();
    let status = eventually("the burner to end", LOOP_TIMEOUT, || all.burner.ended());
    assert_eq!(status.signal(), Some(SIGTERM));
    all.wait_for_resolve();
    assert_eq!(all.bystander.ended(), None, "no other process is touched");
    assert_eq!(all.actions("applied"), 1.0);
    assert_eq!(all.leases(), 0.0, "an end is not held");
}

#[test]
fn dry_run_changes_nothing_and_says_what_would_have() {
    let mut all = Loop::start("[{nice: 15}, {signal: SIGTERM}]", Condition::BusyHost, &[]);
    let before = all.burner.nice_values();

    all.burner.burn();
    eventually("a dry run in the metrics", LOOP_TIMEOUT, || {
        (all.actions("dry_run") > 0.0).then_some(())
    });
    all.wait_for_repeats(3.0);
    assert_eq!(all.burner.nice_values(), before);
    assert_eq!(all.burner.ended(), None);
    assert_eq!(all.leases(), 0.0);
    assert_eq!(all.actions("applied"), 0.0);
    assert!(
        all.evenkeel
            .metric("evenkeel_decisions_total", &[("rule", RULE), ("decision", "dry_run")])
            > 0.0
    );
    assert!(
        all.home.ledger_has_row_with(&[RULE, "dry_run"]),
        "the ledger says what would have been done"
    );

    all.burner.rest();
    all.wait_for_resolve();
    assert_eq!(all.burner.nice_values(), before);
}

#[test]
fn killed_daemon_restores_when_started_after_the_resolve() {
    let mut all = Loop::start("[{nice: 15}]", Condition::BusyBurner, &["--enforce"]);
    let before = all.burner.nice_values();

    all.burn_until_niced();
    // A daemon that is killed before it records the outcome reverts the value at its next start.
    all.wait_for_leases(1.0);
    all.evenkeel.kill();
    all.burner.rest();
    all.wait_for_resolve();
    assert!(all.burner.is_at(RULE_NICE), "no daemon is there to restore it");

    all.evenkeel = all.home.start_again(&all.evenkeel, &["--enforce"]);
    all.wait_for_nice_values(&before);
    all.wait_for_leases(0.0);
}

#[test]
fn restarted_while_the_alert_fires_it_does_nothing_twice() {
    let mut all = Loop::start("[{nice: 15}]", Condition::BusyBurner, &["--enforce"]);
    let before = all.burner.nice_values();

    all.burn_until_niced();
    // The outcome must be durable before the kill. Otherwise the step would be applied again.
    all.wait_for_leases(1.0);
    all.evenkeel.kill();
    all.evenkeel = all.home.start_again(&all.evenkeel, &["--enforce"]);
    all.wait_for_repeats(2.0);
    assert!(all.burner.is_at(RULE_NICE));
    assert_eq!(all.leases(), 1.0, "the lease is taken over");
    assert_eq!(all.actions("applied"), 0.0, "the new process had nothing left to apply");

    // The restored values are those from before the first daemon, not those that the second one found.
    all.burner.rest();
    all.wait_for_nice_values(&before);
    all.wait_for_leases(0.0);
}

#[test]
fn stopping_reverts_leases() {
    let mut all = Loop::start("[{nice: 15}]", Condition::BusyBurner, &["--enforce"]);
    let before = all.burner.nice_values();

    all.burn_until_niced();
    let status = all.evenkeel.terminate();
    assert!(status.success(), "{status}");
    assert_eq!(all.burner.nice_values(), before);
}
