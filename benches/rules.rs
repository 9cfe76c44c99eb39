//! The cost of many alerts and of many processes: decoding and matching, and selecting compared with plain reads of the
//! same files. `make bench` runs it; the goals are 50 ms for the first and 1.5 times the plain reads for the second.

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::act::guard::Protection;
use evenkeel::alert::decode::decode;
use evenkeel::diagnostic::SourceText;
use evenkeel::engine::select::select;
use evenkeel::host::{Host, LinuxHost};
use evenkeel::process::table::Procfs;
use evenkeel::rule::{self, Context, Rule, RuleIndex};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const ALERTS: usize = 1000;
const RULES: usize = 1000;
const PROCESSES: usize = 5000;
/// The rule selects one of this many processes.
const ONE_IN: usize = 100;

fn rules(texts: impl Iterator<Item = String>) -> Vec<Arc<Rule>> {
    let source = SourceText::new("bench.yml", format!("rules:\n{}", texts.collect::<String>()));
    let context = Context {
        groups: &BTreeMap::new(),
        known_alerts: None,
        own_alerts: &[],
        repeat_interval: None,
        allow_exec: true,
        check_promql: &|_| Ok(Vec::new()),
    };
    let compiled = rule::compile(vec![rule::file::read(&source)], &context);
    compiled.rules.expect("the rules are good").rules
}

fn flood(criterion: &mut Criterion) {
    let rule = |number: usize| {
        format!(
            "- name: r{number}\n  matchers: ['severity=~\"warning|critical\"', 'alertname=\"Alert{number}\"']\n  \
             select: {{name: x{number}}}\n  actions: [{{nice: 5}}]\n"
        )
    };
    let rules = rules((0..RULES).map(rule));
    let alert = |number: usize| {
        format!(
            r#"{{"status":"firing","labels":{{"alertname":"Alert{number}","instance":"host-{number}:9100","job":"node",
            "severity":"warning","team":"storage"}},"annotations":{{"summary":"something is wrong with {number}",
            "description":"a sentence that is as long as such sentences are"}},"startsAt":"2026-01-01T00:00:00.123Z",
            "endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://prometheus.example/graph?g0.expr=up",
            "fingerprint":"{number:016x}"}}"#
        )
    };
    let alerts: Vec<String> = (0..ALERTS).map(alert).collect();
    let payload = format!(
        r#"{{"version":"4","status":"firing","groupKey":"g","receiver":"evenkeel","alerts":[{}]}}"#,
        alerts.join(",")
    );
    let now = "2026-01-01T00:00:01Z".parse().expect("a time");
    let mut group = criterion.benchmark_group("1000 alerts, 1000 rules");
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decode(black_box(payload.as_bytes()), now))
    });
    group.bench_function("decode and match", |bencher| {
        bencher.iter(|| {
            let envelope = decode(black_box(payload.as_bytes()), now).expect("a good payload");
            let index = RuleIndex::new(&rules);
            let matched: usize = envelope
                .alerts
                .iter()
                .flatten()
                .map(|alert| index.matching(&alert.labels).count())
                .sum();
            assert_eq!(matched, ALERTS);
        });
    });
    group.bench_function("match every rule in turn", |bencher| {
        let envelope = decode(payload.as_bytes(), now).expect("a good payload");
        bencher.iter(|| {
            let matches = |labels| rules.iter().filter(|rule| rule.matches(labels)).count();
            let matched: usize = envelope
                .alerts
                .iter()
                .flatten()
                .map(|alert| matches(&alert.labels))
                .sum();
            assert_eq!(matched, ALERTS);
        });
    });
    group.finish();
}

/// Sleeping processes, which are killed on drop.
struct Crowd(Vec<Child>);

impl Crowd {
    fn gather() -> Crowd {
        let start = |number: usize| {
            let seconds = if number.is_multiple_of(ONE_IN) {
                "86401"
            } else {
                "86400"
            };
            let mut command = Command::new("sleep");
            command
                .arg(seconds)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().expect("sleep runs")
        };
        Crowd((0..PROCESSES).map(start).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The child may have exited.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads files of every process without parsing.
fn plain_reads(files: &[&str]) -> usize {
    let mut bytes = 0;
    for entry in std::fs::read_dir("/proc").expect("a procfs").flatten() {
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        for file in files {
            bytes += std::fs::read(entry.path().join(file)).map_or(0, |content| content.len());
        }
    }
    bytes
}

fn crowd(criterion: &mut Criterion) {
    let _crowd = Crowd::gather();
    let select_text = "{cmdline: 'sleep 8640[1-9]', cgroup: '/.*'}";
    let text =
        format!("- name: r\n  matchers: ['alertname=\"A\"']\n  select: {select_text}\n  actions: [{{nice: 5}}]\n");
    let rule = rules(std::iter::once(text)).remove(0);
    let mut host = LinuxHost::new(Procfs::open(Path::new("/proc")).expect("a procfs"), Arc::new(|_| ()));
    let own_ancestors = host.own_ancestors();
    let ward = Protection {
        own_ancestors: &own_ancestors,
        protect: &[],
    };
    let mut group = criterion.benchmark_group("5000 processes");
    group.sample_size(10);
    group.bench_function("plain reads of stat", |bencher| bencher.iter(|| plain_reads(&["stat"])));
    group.bench_function("process table", |bencher| {
        bencher.iter(|| host.processes().map(|table| table.len()))
    });
    group.bench_function("plain reads of stat, cmdline, cgroup", |bencher| {
        bencher.iter(|| plain_reads(&["stat", "cmdline", "cgroup"]));
    });
    group.bench_function("select by cmdline and cgroup", |bencher| {
        bencher.iter(|| {
            let table = host.processes().expect("a process table");
            let found = select(
                &mut host,
                &table,
                &rule,
                rule.selector().expect("a rule about processes"),
                &ward,
            );
            assert_eq!(found.matches.len(), PROCESSES / ONE_IN);
        });
    });
    group.finish();
}

criterion_group!(benches, flood, crowd);
criterion_main!(benches);
