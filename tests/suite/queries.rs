//! The queries of dashboards, alerts and recording rules: each runs on a real Prometheus that scrapes a busy evenkeel,
//! and returns data, or is listed in `ELSEWHERE` with the condition under which it would.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::payload::about;
use crate::support::prometheus::Prometheus;
use crate::support::selectors::selectors;
use crate::support::shipped::{dashboards, items, panels, rules};
use crate::support::tools::succeed;
use crate::support::{eventually, free_address, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Prefixes of selectors without data on some machines, their condition, and whether this machine meets it.
type Elsewhere = (&'static str, &'static str, fn() -> bool);
const ELSEWHERE: [Elsewhere; 7] = [
    ("node_pressure_", "a kernel with pressure stall information", || {
        Path::new("/proc/pressure/cpu").exists()
    }),
    ("node_nf_conntrack_", "a kernel that tracks connections", || {
        Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists()
    }),
    ("node_md_", "a host with a RAID array", || {
        std::fs::read_to_string("/proc/mdstat").is_ok_and(|text| text.contains(" : "))
    }),
    (
        "node_network_speed_bytes",
        "a network interface that tells its speed",
        || {
            let devices = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
            devices
                .map(|entry| entry.path().join("speed"))
                .any(|path| std::fs::read_to_string(path).is_ok())
        },
    ),
    (
        "node_systemd_unit_state",
        "a node_exporter with --collector.systemd",
        || false,
    ),
    (
        "evenkeel_actions_total{outcome=~\"failed|denied|no_effect\"}",
        "a step that the kernel refuses",
        || false,
    ),
    (
        "evenkeel_decisions_total{decision=~\"privilege|too_many_matches|invalid|ledger\"}",
        "a rule that may not do what it says",
        || false,
    ),
];

/// Whether a selector of this expression has no data on this machine.
fn is_elsewhere(expr: &str) -> bool {
    let asked: Vec<String> = selectors(expr).iter().map(|selected| selected.query()).collect();
    let missing =
        |(beginning, _, holds): &Elsewhere| asked.iter().any(|query| query.starts_with(beginning)) && !holds();
    ELSEWHERE.iter().any(missing)
}

/// A host with all kinds of events: a step in effect, a reverted one, an allocation, a denial, a refused request.
struct Busy {
    prometheus: Prometheus,
    _evenkeel: Daemon,
    _burners: [Burner; 2],
    _broker: Broker,
    _home: Home,
}

impl Busy {
    fn start() -> Self {
        let number = std::process::id() % 100_000;
        let broker = Broker::plain();
        let names = [format!("held-{number}"), format!("undone-{number}")];
        let home = Home::new(&format!(
            "rules:\n\
             \x20 - {{name: hold, matchers: ['alertname=\"Hold\"'], select: {{name: {0}}}, actions: [{{nice: 15}}]}}\n\
             \x20 - {{name: undo, matchers: ['alertname=\"Undo\"'], select: {{name: {1}}}, actions: [{{nice: 15}}]}}\n\
             \x20 - {{name: absent, matchers: ['alertname=\"Undo\"'], select: {{name: no-such-process}}, actions: [{{signal: SIGTERM}}]}}\n\
             \x20 - {{name: ask, matchers: ['alertname=\"Hold\"'], actions: [{{allocate: {{url: 'http://localhost:{2}/allocate', \
             resource: /resource, release: {{url: 'http://localhost:{2}/release/{{{{ $resource }}}}'}}}}}}]}}\n",
            names[0],
            names[1],
            broker.address.port()
        ));
        home.write(
            "evenkeel.yml",
            &format!(
                "rule_files: [rules/*.yml]\nwebhook: {{token_file: webhook.token}}\nsampling: {{slow_interval: 1s}}\n\
                 process_groups: [{{name: burners, select: {{name: '(held|undone)-{number}'}}, metrics: [swap, context_switches, io, open_fds]}}]\n"
            ),
        );
        let burners = [Burner::start(&names[0]), Burner::start(&names[1])];
        let evenkeel = home.start(&["--enforce"]);
        let prometheus = Prometheus::start(&[("evenkeel", evenkeel.metrics)], "groups: []\n", free_address());
        // Panels count events since the sample before.
        eventually("a sample from before the events", TIMEOUT, || {
            (!prometheus.query("evenkeel_build_info offset 3s").is_empty()).then_some(())
        });
        let firing = about("Undo", &node_name());
        // Else the resolve of the other alert would be about this one as well.
        let held = about("Hold", &node_name()).replace("0123456789abcdef", "fedcba9876543210");
        evenkeel.post(held.as_bytes());
        evenkeel.post(firing.as_bytes());
        for burner in &burners {
            eventually("the burners to be niced", TIMEOUT, || burner.is_at(15).then_some(()));
        }
        let refused = http::request(evenkeel.webhook, "POST", "/webhook", &[], firing.as_bytes()).expect("an answer");
        assert_eq!(refused.status, 401);
        evenkeel.post(firing.replace("\"firing\"", "\"resolved\"").as_bytes());
        eventually("one burner to be restored", TIMEOUT, || {
            (evenkeel.metric("evenkeel_actions_total", &[("outcome", "restored")]) > 0.0).then_some(())
        });
        for pause in [&["pause", "--rule=absent"][..], &["pause"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
            command
                .args(pause)
                .arg("--storage.path")
                .arg(home.path().join("storage"));
            succeed(&mut command);
        }
        Busy {
            prometheus,
            _evenkeel: evenkeel,
            _burners: burners,
            _broker: broker,
            _home: home,
        }
    }

    /// Repeats a query until it has data. A query of `ELSEWHERE` must only be valid.
    #[track_caller]
    fn expect_data(&self, about: &str, query: &str) {
        if is_elsewhere(query) {
            self.prometheus.query(query);
            return;
        }
        // Events of an interval may be over.
        let ever = match query.contains("clamp_min(") {
            true => format!("max_over_time(({query})[10m:1s])"),
            false => query.to_owned(),
        };
        eventually(&format!("data for {about}: {query}"), TIMEOUT, || {
            (!self.prometheus.query(&ever).is_empty()).then_some(())
        });
    }
}

/// A query of a dashboard with its variables filled in.
fn filled_in(target: &Value) -> String {
    let expr = target["expr"].as_str().expect("a query has an expression");
    expr.replace("$job", "evenkeel")
        .replace("$instance", ".*")
        .replace("$group", ".*")
        .replace("$top", "10")
        .replace("$__range", "60s")
        .replace("$__interval", "2s")
        .replace("$__rate_interval", "10s")
}

#[test]
fn every_query_that_ships_finds_data() {
    let busy = Busy::start();
    let mut asked = String::new();
    for (file, board) in dashboards() {
        // Annotations come first, because they are about the last minute.
        let marks = items(&board["annotations"], "list").filter(|mark| mark["expr"].is_string());
        let queries = panels(&board).into_iter().flat_map(|panel| items(panel, "targets"));
        for target in marks.chain(queries) {
            let query = filled_in(target);
            assert!(!query.contains('$'), "{file}: a variable without a value: {query}");
            busy.expect_data(&file, &query);
            asked += &query;
        }
    }
    for (file, rule) in rules() {
        let expr = rule["expr"].as_str().expect("a rule has an expression");
        // The expression must be valid, and its selectors must have data. Unit tests check that it fires.
        busy.prometheus.query(expr);
        for selected in selectors(expr) {
            if !selected.name().contains(':') {
                busy.expect_data(&file.display().to_string(), &selected.query());
            }
        }
        asked += expr;
    }
    for (beginning, condition, _) in ELSEWHERE {
        assert!(
            asked.contains(beginning),
            "nothing asks for {beginning} any more ({condition})"
        );
    }
}
