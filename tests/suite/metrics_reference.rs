//! The tables of docs/metrics.md have the metrics of a running daemon and the words of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use regex::Regex;

use crate::support::broker::Broker;
use crate::support::burner::Burner;
use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::shipped::root;
use crate::support::tools::succeed;
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Metrics that a daemon has only under a documented condition.
const RARE_METRICS: [&str; 2] = ["evenkeel_breaker_open", "evenkeel_rule_paused"];

/// Names, types and labels of the tables in docs/metrics.md.
fn documented_metrics() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).expect("it ships");
    let row = Regex::new(r"(?m)^\| `(evenkeel_\w+)` \| (\w+) \| ([^|]*)\| [^|]+ \|$").expect("a pattern");
    let word = Regex::new("`([^`]+)`").expect("a pattern");
    let labels = |text: &str| word.captures_iter(text).map(|found| found[1].to_owned()).collect();
    let rows = row.captures_iter(&text);
    rows.map(|found| (found[1].to_owned(), (found[2].to_owned(), labels(&found[3]))))
        .collect()
}

/// The same of an exposition in text format 0.0.4.
fn published_metrics(exposition: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut current = String::new();
    let label = Regex::new(r#"[{,](\w+)=""#).expect("a pattern");
    for line in exposition.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            current = name.to_owned();
            found.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let labels = label.captures_iter(line).map(|found| found[1].to_owned());
            let (_, known) = found.get_mut(&current).expect("a sample belongs to a family");
            known.extend(labels.filter(|label| label != "le"));
        }
    }
    found.retain(|name, _| name.starts_with("evenkeel_"));
    found
}

#[test]
fn the_table_of_metrics_is_that_of_a_running_daemon() {
    let name = format!("metrics-{}", std::process::id() % 100_000);
    let broker = Broker::plain();
    let home = Home::new(&format!(
        "rules:\n\
         \x20 - {{name: test, matchers: ['alertname=\"Test\"'], select: {{name: {name}}}, actions: [{{nice: 15}}]}}\n\
         \x20 - {{name: ask, matchers: ['alertname=\"Test\"'], actions: [{{allocate: {{url: 'http://localhost:{0}/allocate', \
         resource: /resource, release: {{url: 'http://localhost:{0}/release/{{{{ $resource }}}}'}}}}}}]}}\n",
        broker.address.port()
    ));
    let metrics = "metrics: [swap, context_switches, io, open_fds, threads, smaps]";
    home.write(
        "evenkeel.yml",
        &format!(
            "rule_files: [rules/*.yml]\nwebhook: {{token_file: webhook.token}}\nsampling: {{slow_interval: 1s}}\n\
             process_groups: [{{name: '{{{{.Comm}}}}', select: {{name: {name}}}, {metrics}}}]\n"
        ),
    );
    let burner = Burner::start(&name);
    let evenkeel = home.start(&["--enforce"]);
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the burner to be niced", TIMEOUT, || burner.is_at(15).then_some(()));
    let mut documented = documented_metrics();
    assert!(documented.len() > 30, "{documented:?}");
    let source = succeed(
        Command::new("grep")
            .args(["-rhoE", "evenkeel_[a-z_]+"])
            .arg(root().join("src")),
    );
    for name in RARE_METRICS {
        assert!(documented.remove(name).is_some(), "{name} is not documented");
        assert!(source.lines().any(|found| found == name), "there is no {name}");
    }
    let published = eventually("all families", TIMEOUT, || {
        let headers = [("Accept", "text/plain")];
        let answer = http::request(evenkeel.metrics, "GET", "/metrics", &headers, b"").ok()?;
        let mut published = published_metrics(&answer.body);
        RARE_METRICS.iter().for_each(|name| drop(published.remove(*name)));
        (published.len() >= documented.len()).then_some(published)
    });
    assert_eq!(published, documented);
}

#[test]
fn the_words_of_decisions_and_outcomes_are_those_of_the_ledger() {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).expect("it ships");
    let entry = std::fs::read_to_string(root().join("src/ledger/outcome.rs")).expect("the source");
    let told = |heading: &str| -> BTreeSet<String> {
        let table = text.split_once(&format!("\n`{heading}`:\n")).expect("a table").1;
        let rows = table.trim_start().lines().take_while(|line| line.starts_with('|'));
        let word = |line: &str| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(word, _)| word.to_owned())
        };
        rows.filter_map(word).collect()
    };
    // `Name = "word",` in the enumeration of this name.
    let known = |name: &str| -> BTreeSet<String> {
        let body = entry.split_once(name).expect("an enumeration").1;
        let lines = body
            .lines()
            .skip(1)
            .map(str::trim)
            .take_while(|line| !line.starts_with('}'));
        lines
            .filter_map(|line| Some(line.split_once(" = \"")?.1.split_once('"')?.0.to_owned()))
            .collect()
    };
    assert_eq!(told("decision"), known("Decision {"));
    assert_eq!(told("outcome"), known("Outcome {"));
}
