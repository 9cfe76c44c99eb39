//! Tests of valid rule files. The golden files of `config::tests::diagnostics` hold what is reported about others.

mod example;

pub use example::example;

use super::ruleset::{DEFAULT_COOLDOWN, DEFAULT_HOLD};
use super::*;
use crate::diagnostic::{Diagnostic, HostReference, Severity, SourceText};
use crate::knob::{IoPriority, Knob, Policy, Value};
use crate::process::Selector;
use crate::process::selector::{Condition, Pattern};
use crate::step::signal::SIGNAL;
use crate::step::wait::Wait;
use crate::step::{AffinityChange, Change, STEP, Send};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The smallest rule, with lines changed or added.
fn rule(changes: &[(&str, &str)]) -> String {
    let mut lines = vec![
        ("name", "r"),
        ("matchers", "['alertname=\"A\"']"),
        ("select", "{name: x}"),
        ("actions", "[{nice: 5}]"),
    ];
    for (key, value) in changes {
        match lines.iter_mut().find(|line| line.0 == *key) {
            Some(line) => line.1 = value,
            None => lines.push((key, value)),
        }
    }
    let lines: Vec<String> = lines.iter().map(|(key, value)| format!("  {key}: {value}\n")).collect();
    format!("rules:\n- {}", lines.concat().trim_start())
}

fn compile_all(texts: &[&str]) -> Compiled {
    let sources: Vec<SourceText> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| SourceText::new(format!("{index}.yml"), *text))
        .collect();
    let batch = Selector {
        conditions: vec![Condition::Cgroup(Pattern::fixed("/batch.*").unwrap())],
    };
    let groups = BTreeMap::from([("batch".to_owned(), Arc::new(batch))]);
    let known_alerts = BTreeSet::from(["A".to_owned(), "HostCpuSaturated".to_owned()]);
    let check_promql = |text: &str| match text.find('!') {
        Some(offset) => Err((offset, "unexpected `!`".to_owned())),
        None => Ok(Vec::new()),
    };
    let context = Context {
        groups: &groups,
        known_alerts: Some(&known_alerts),
        own_alerts: &[],
        repeat_interval: Some(Duration::from_secs(300)),
        allow_exec: true,
        check_promql: &check_promql,
    };
    compile(sources.iter().map(file::read).collect(), &context)
}

fn one_line(found: &Diagnostic) -> String {
    let place = found
        .span
        .map_or(String::new(), |span| format!("{}:{}", span.line, span.column));
    let warning = if found.severity == Severity::Warning {
        " warning:"
    } else {
        ""
    };
    format!("{place}{warning} {}", found.message)
}

#[track_caller]
fn the_rule(changes: &[(&str, &str)]) -> Arc<Rule> {
    let compiled = compile_all(&[&rule(changes)]);
    assert_eq!(compiled.diagnostics, []);
    Arc::clone(&compiled.rules.unwrap().rules[0])
}

#[test]
fn smallest_rule_gets_the_defaults() {
    let rule = the_rule(&[]);
    assert_eq!(rule.name, "r");
    assert_eq!((rule.limit, rule.max_matches), (1, 100));
    assert_eq!((rule.hold, rule.cooldown), (DEFAULT_HOLD, DEFAULT_COOLDOWN));
    assert_eq!(
        rule.order_by,
        OrderBy {
            key: OrderKey::Age,
            reverse: false
        }
    );
    assert!(!rule.any_host && !rule.dry_run && !rule.without_ledger && rule.overrides.is_empty());
    assert_eq!(rule.condition, None);
}

#[test]
fn every_key_is_read() {
    let rule = the_rule(&[
        (
            "matchers",
            r#"['alertname="HostCpuSaturated"', 'severity=~"warning|critical"']"#,
        ),
        (
            "select",
            r#"{group: batch, name: "ffmpeg|x264", cmdline: ".* --batch .*", exe: /opt/render/.*, user: 1000,
                cgroup: '/batch\.slice/.*', pid: "{{ $labels.pid }}", min_age: 30s, min_memory: 200MiB, min_cpu: 0.5,
                not: {name: "x264-{{ $labels.kind }}"}}"#,
        ),
        ("order_by", "-memory"),
        ("limit", "5"),
        ("max_matches", "50"),
        ("while", "evenkeel_memory_used_ratio > 0.7"),
        ("hold", "30m"),
        ("cooldown", "30s"),
        ("any_host", "true"),
        ("mode", "dry-run"),
        ("override_protection", "[sshd, grafana]"),
        ("without_ledger", "allow"),
    ]);
    assert_eq!(rule.matchers.len(), 2);
    let keys: Vec<&str> = rule.selector().unwrap().conditions.iter().map(Condition::key).collect();
    let expected = [
        "group",
        "name",
        "cmdline",
        "exe",
        "user",
        "cgroup",
        "pid",
        "min_age",
        "min_memory",
        "min_cpu",
        "not",
    ];
    assert_eq!(keys, expected);
    assert!(matches!(rule.selector().unwrap().conditions[8], Condition::MinMemory(bytes) if bytes == 200 << 20));
    let Condition::Not(not) = &rule.selector().unwrap().conditions[10] else {
        panic!("not is no Not")
    };
    let Condition::Name(pattern) = &not.conditions[0] else {
        panic!("name is no Name")
    };
    assert_eq!(pattern.to_string(), r#""x264-{{ $labels.kind }}""#);
    assert_eq!(
        rule.order_by,
        OrderBy {
            key: OrderKey::Memory,
            reverse: true
        }
    );
    assert_eq!((rule.limit, rule.max_matches), (5, 50));
    assert_eq!((rule.hold.as_secs(), rule.cooldown.as_secs()), (1800, 30));
    assert!(rule.any_host && rule.dry_run && rule.without_ledger);
    assert_eq!(
        rule.overrides,
        BTreeSet::from(["sshd".to_owned(), "grafana".to_owned()])
    );
    assert_eq!(rule.condition.as_deref(), Some("evenkeel_memory_used_ratio > 0.7"));
}

#[test]
fn every_step_is_read() {
    let steps = "[{nice: 15}, {affinity: 0-1}, {affinity: 3}, {affinity: all}, {affinity: +2}, {affinity: -50%}, \
                 {ionice: idle}, {ionice: best-effort/7}, {sched: batch}, {oom_score_adj: -500}, {freeze: true}, \
                 {signal: SIGUSR1}, {signal: {send: SIGUSR1, undo: SIGUSR2}}, {wait: 10s}, {signal: SIGKILL}]";
    let set = |value| Step::Set(Change::To(value));
    let signal = |signal, undo| Step::Signal(Send { signal, undo });
    assert_eq!(
        the_rule(&[("actions", steps), ("select", "{name: x, user: batch}")]).actions,
        [
            set(Value::Nice(15)),
            set(Value::Affinity("0-1".parse().unwrap())),
            set(Value::Affinity("3".parse().unwrap())),
            Step::Set(Change::Affinity(AffinityChange::All)),
            Step::Set(Change::Affinity(AffinityChange::Cpus(2))),
            Step::Set(Change::Affinity(AffinityChange::Percent(-50))),
            set(Value::Ionice(IoPriority::Idle)),
            set(Value::Ionice(IoPriority::BestEffort(7))),
            set(Value::Sched(Policy::Batch)),
            set(Value::OomScoreAdj(-500)),
            set(Value::Freeze(true)),
            signal(Signal::SIGUSR1, None),
            signal(Signal::SIGUSR1, Some(Signal::SIGUSR2)),
            Step::Wait(Wait(Duration::from_secs(10))),
            signal(Signal::SIGKILL, None),
        ]
    );
}

#[test]
fn strings_are_read_as_written() {
    for text in ["no", "0x10", "1_000", "true", "007", "1e3"] {
        let rule = the_rule(&[("select", &format!("{{name: {text}}}"))]);
        assert_eq!(rule.selector().unwrap().conditions.len(), 1);
        let Condition::Name(pattern) = &rule.selector().unwrap().conditions[0] else {
            panic!("not a name")
        };
        assert_eq!(pattern.to_string(), format!("{text:?}"));
    }
}

#[test]
fn settings_know_their_place() {
    let places = |rule: String| -> Vec<String> {
        let settings = compile_all(&[&rule]).settings.into_iter();
        let place = |setting: HostReference<Knob>| {
            format!(
                "{} {}",
                setting.subject,
                one_line(&setting.warning("x".into(), "y".into()))
            )
        };
        settings.map(place).collect()
    };
    let one_each = rule(&[("actions", "[{wait: 1s}, {nice: 5}, {signal: SIGTERM}, {freeze: true}]")]);
    assert_eq!(places(one_each), ["nice 5:26 warning: x", "freeze 5:56 warning: x"]);
    let two_in_one = rule(&[
        ("actions", "[{cgroup: {cpu.max: 20%, memory.high: 1GiB}}]"),
        ("select", "{cgroup: /a}"),
    ]);
    assert_eq!(places(two_in_one).len(), 2);
}

#[test]
fn reference_tables_are_those_of_the_code() {
    let text = include_str!("../../docs/rules.md");
    use crate::knob::limit::LIMITS;
    use crate::step::allocate::{ALLOCATE, AUTHORIZATION, BASIC_AUTH, RELEASE, TLS};
    use crate::step::exec::EXEC;
    use crate::step::reclaim::RECLAIM;
    let host_wide = [&ALLOCATE, &RELEASE, &AUTHORIZATION, &BASIC_AUTH, &TLS, &EXEC];
    let of_cgroups = [&LIMITS, &RECLAIM];
    for object in [&file::RULE, &file::SELECT, &STEP, &SIGNAL]
        .into_iter()
        .chain(host_wide)
        .chain(of_cgroups)
    {
        let table = crate::schema::tests::markdown(object);
        assert!(
            text.contains(&table),
            "docs/rules.md wants this table of {}:\n{table}",
            object.title
        );
    }
    for protection in crate::process::protection::BUILT_IN {
        assert!(
            text.contains(&format!("`{}`", protection.name)),
            "docs/rules.md lacks {}",
            protection.name
        );
    }
}

#[test]
fn examples_of_the_reference_are_good_rules() {
    let text = include_str!("../../docs/rules.md");
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 3);
    for example in examples {
        let found = compile_all(&[example]).diagnostics;
        let errors: Vec<String> = found
            .iter()
            .filter(|found| found.severity == Severity::Error)
            .map(one_line)
            .collect();
        assert_eq!(errors, [""; 0], "{example}");
    }
}

#[test]
fn schema_for_editors_names_every_key_and_resolves() {
    let schema = crate::schema::json_schema(&file::RULE_FILE);
    assert_eq!(schema["$ref"], "#/$defs/rule-file");
    for object in [&file::RULE_FILE, &file::RULE, &file::SELECT, &STEP, &SIGNAL] {
        let slug = object.title.trim_start_matches("a ").replace(' ', "-");
        let properties = schema["$defs"][&slug]["properties"].as_object().unwrap();
        assert_eq!(
            properties.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            object.names().into_iter().collect()
        );
    }
    assert_eq!(
        schema["$defs"]["selector"]["properties"]["not"]["$ref"],
        "#/$defs/selector"
    );
    assert_eq!(schema["$defs"]["step"]["maxProperties"], 1);
    assert_eq!(schema["$defs"].as_object().unwrap().len(), 13);
}

/// Pieces of which rule files are made, and of which hostile ones are.
fn shreds() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let shred = prop_oneof![
        proptest::sample::select(vec![
            "rules:",
            "\n",
            "\n  ",
            "\n- ",
            "\n  - ",
            "name: ",
            "matchers: ",
            "select: ",
            "actions: ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            ": ",
            "'",
            "\"",
            "&a ",
            "*a",
            "<<: ",
            "|\n",
            ">-\n",
            "{{ $labels.x }}",
            "{{",
            "}}",
            "alertname=\"A\"",
            "=~\"(\"",
            "\\",
            "\t",
            "\r",
            "\u{feff}",
            "é",
            "名",
            "\u{202e}",
            "\0",
            "---\n",
            "...\n",
            "!x ",
            "? ",
            "- ",
            "#",
            "nice: 5",
            "signal: SIGKILL",
            "affinity: +2",
            "wait: 1s",
            "hold: 0s",
            "1e999",
            "(?i)a{9}{9}",
            "-",
            "while: '",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(shred, 0..60).prop_map(|shreds| shreds.concat())
}

/// A good file with one piece of it cut out and shreds put in: comes further than shreds alone.
fn damaged() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    const GOOD: &str = include_str!("../../rules/memory-low.yml");
    (0..GOOD.len(), 0..40_usize, shreds()).prop_map(|(start, width, shreds)| {
        let bytes = GOOD.as_bytes();
        let end = (start + width).min(bytes.len());
        format!(
            "{}{shreds}{}",
            String::from_utf8_lossy(&bytes[..start]),
            String::from_utf8_lossy(&bytes[end..])
        )
    })
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in proptest::strategy::Union::new([
        proptest::strategy::Strategy::boxed(shreds()),
        proptest::strategy::Strategy::boxed(damaged()),
    ])) {
        let compiled = compile_all(&[&text]);
        let errors = compiled.diagnostics.iter().any(|found| found.severity == Severity::Error);
        proptest::prop_assert_eq!(compiled.rules.is_none(), errors);
        for rule in compiled.rules.iter().flat_map(|set| &set.rules) {
            proptest::prop_assert!(!rule.matchers.is_empty() && !rule.selector().unwrap().conditions.is_empty());
            proptest::prop_assert!(!rule.actions.is_empty() && rule.limit > 0);
        }
        for found in &compiled.diagnostics {
            let rendered = found.render(false);
            proptest::prop_assert!(!rendered.chars().any(|c| c.is_control() && c != '\n'), "{rendered:?}");
        }
    }
}

/// Matchers of every kind on few labels and values, so that they meet.
fn some_matchers() -> impl proptest::strategy::Strategy<Value = Vec<&'static str>> {
    let matchers = vec![
        "alertname=\"A\"",
        "alertname=~\"A|B|A\"",
        "alertname=~\"A.*\"",
        "alertname!=\"A\"",
        "alertname!~\"B\"",
        "severity=\"\"",
        "severity=~\"|warning\"",
        "severity=\"warning\"",
        "severity=~\"warning|critical\"",
    ];
    proptest::collection::vec(proptest::sample::select(matchers), 1..4)
}

proptest::proptest! {
    #[test]
    fn index_finds_the_rules_that_match_in_their_order(
        all_matchers in proptest::collection::vec(some_matchers(), 0..12),
        alertname in proptest::sample::select(vec!["", "A", "B", "AB"]),
        severity in proptest::sample::select(vec!["", "warning", "critical"]),
    ) {
        use crate::alert::matcher::Matcher;
        let rules: Vec<Arc<Rule>> = all_matchers
            .iter()
            .map(|texts| {
                let matchers = texts.iter().map(|text| Matcher::parse(text).unwrap()).collect();
                Arc::new(Rule { matchers, ..example("r", "nice 5") })
            })
            .collect();
        let labels: crate::alert::Labels = [("alertname", alertname), ("severity", severity)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let plainly = rules.iter().filter(|rule| rule.matches(&labels)).map(Arc::as_ptr);
        let found = RuleIndex::new(&rules);
        let found = found.matching(&labels).map(Arc::as_ptr);
        proptest::prop_assert!(found.eq(plainly));
    }
}

/// Steps are shown on the page, which may be open to all.
#[test]
fn steps_are_shown_without_query_and_arguments() {
    let text = "rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  actions:\n  \
                - allocate: {url: 'https://b/x?token=secret', resource: /r, ttl: /t}\n  - exec: [/bin/a, secret]\n";
    let rules = compile_all(&[text]).rules.unwrap();
    assert_eq!(rules.rules[0].steps_text(), "allocate POST https://b/x; exec /bin/a");
}

#[test]
fn steps_of_cgroups_are_read_in_every_form() {
    let limits = "{cpu.max: '50000 100000'}, {cpu.max: max}, {cpu.max: 150%}, {cpu.max: +2}, {cpu.max: +100%}, {cpu.max: -50%}, \
                  {cpu.weight: 10}, {memory.high: 1GiB}, {memory.high: 50%}, {memory.max: -50%}, {memory.max: +512MiB}, \
                  {memory.swap.max: 0}, {io.max: '/dev/sda wbps=10MiB riops=max'}, {io.weight: 10000}, {pids.max: max}";
    let steps: Vec<String> = limits
        .split("}, ")
        .map(|limit| format!("{{cgroup: {}}}}}", limit.trim_end_matches('}')))
        .collect();
    let steps = format!(
        "[{}, {{reclaim: 512MiB}}, {{freeze: true}}, {{kill: true}}]",
        steps.join(", ")
    );
    let rule = the_rule(&[("select", r"{unit: 'x\.service'}"), ("actions", &steps)]);
    assert!(matches!(rule.target_selector, TargetSelector::Cgroups(_)));
    let words: Vec<String> = rule.actions.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "cpu.max 50000 100000",
            "cpu.max max 100000",
            "cpu.max 150000 100000",
            "cpu.max +2",
            "cpu.max +100%",
            "cpu.max -50%",
            "cpu.weight 10",
            "memory.high 1073741824",
            "memory.high 50%",
            "memory.max -50%",
            "memory.max +536870912",
            "memory.swap.max 0",
            "io.max /dev/sda wbps=10485760",
            "io.max /dev/sda riops=max",
            "io.weight 10000",
            "pids.max max",
            "reclaim 512MiB",
            "freeze true",
            "kill",
        ]
    );
}

#[test]
fn steps_and_selector_decide_on_cgroup_targets() {
    for (select, actions, is_cgroup) in [
        ("{cgroup: /x}", "[{kill: true}]", true),
        ("{cgroup: /x}", "[{freeze: true}]", false),
        ("{unit: x.service}", "[{freeze: true}]", true),
        ("{unit: x.service}", "[{nice: 5}]", false),
        ("{unit: x.service, name: x}", "[{freeze: true}]", false),
        ("{cgroup: /x}", "[{reclaim: 1GiB}]", true),
        ("{name: x}", "[{reclaim: 1GiB}]", false),
    ] {
        let rule = the_rule(&[("select", select), ("actions", actions)]);
        assert_eq!(
            matches!(rule.target_selector, TargetSelector::Cgroups(_)),
            is_cgroup,
            "{select} {actions}"
        );
    }
    let rule = the_rule(&[
        ("select", "{cgroup: /x}\n  targets: cgroups"),
        ("actions", "[{freeze: true}]"),
    ]);
    assert!(matches!(rule.target_selector, TargetSelector::Cgroups(_)));
}

#[test]
fn rule_without_select_may_name_a_cgroup_to_reclaim_from() {
    let text =
        "rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  actions: [{reclaim: {size: 1GiB, cgroup: PATH}}]\n";
    let compiled = compile_all(&[&text.replace("PATH", "/batch.slice")]);
    let rules = compiled.rules.expect("a good rule");
    let TargetSelector::Cgroups(selector) = &rules.rules[0].target_selector else {
        panic!("it is about a cgroup")
    };
    assert_eq!(selector.conditions.len(), 1);
}

/// The text of a rule is shown on the page as well.
#[test]
fn text_of_a_rule_has_its_keys_and_no_secrets() {
    let text = "rules:\n- name: r\n  matchers: ['alertname=\"A\"', 'severity=~\"a|b\"']\n  \
                select: {name: 'x|y', cmdline: '.*secret.*', min_memory: 64MiB, min_age: 90s, not: {user: root}}\n  \
                order_by: memory\n  limit: 2\n  hold: 5m\n  while: up == 0\n  actions:\n  - nice: 5\n  - exec: [/bin/a, secret]\n";
    let rules = compile_all(&[text]).rules.unwrap();
    let text = rules.rules[0].to_string();
    for line in [
        "name: r",
        "  - severity=~\"a|b\"",
        "select: {name: \"x|y\", cmdline: (not shown), min_memory: 64MiB, min_age: 90s, not: {user: \"root\"}}",
        "order_by: memory",
        "limit: 2",
        "while: up == 0",
        "  - nice 5",
        "  - exec /bin/a",
        "hold: 5m",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
}
