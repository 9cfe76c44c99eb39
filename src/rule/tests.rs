//! Tests of rule files: valid ones, and the messages about invalid ones.

use super::ruleset::{DEFAULT_COOLDOWN, DEFAULT_HOLD};
use super::step::{AffinityChange, Change, Send};
use super::*;
use crate::diagnostic::{Diagnostic, Severity, SourceText, render_all};
use crate::host::knob::{IoPriority, Policy, Value};
use crate::process::selector::{Condition, Pattern};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The smallest rule, with lines changed or added: line 2 name, 3 matchers, 4 select, 5 actions, 6 and on the rest.
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
    let everything = Selector {
        conditions: vec![Condition::Exe(Pattern::fixed("/.+").unwrap())],
    };
    let groups = BTreeMap::from([
        ("batch".to_owned(), Arc::new(batch)),
        ("everything".to_owned(), Arc::new(everything)),
    ]);
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

use crate::process::Selector;

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
fn check(text: &str, expected: &[&str]) -> Vec<Diagnostic> {
    let compiled = compile_all(&[text]);
    let found: Vec<String> = compiled.diagnostics.iter().map(one_line).collect();
    assert_eq!(found, expected, "{text}");
    let errors = compiled
        .diagnostics
        .iter()
        .any(|found| found.severity == Severity::Error);
    assert_eq!(compiled.rules.is_none(), errors, "{text}");
    compiled.diagnostics
}

/// One finding, and what is said to be right.
#[track_caller]
fn check_help(changes: &[(&str, &str)], expected: &str, help: &str) {
    let found = check(&rule(changes), &[expected]);
    assert_eq!(found[0].help.as_deref().unwrap_or(""), help);
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
        the_rule(&[("actions", steps)]).actions,
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
            Step::Wait(Duration::from_secs(10)),
            signal(Signal::SIGKILL, None),
        ]
    );
}

#[test]
fn shape_of_the_file_is_checked() {
    for text in ["", "# nothing\n", "---\n", "~\n"] {
        check(text, &["1:1 no rules in this file"]);
    }
    // An empty list of rules is explicit.
    check("rules: []\n", &[]);
    check("rules:\n", &["1:1 `rules` must be a list, found nothing"]);
    check("rules: x\n", &["1:8 `rules` must be a list, found `x`"]);
    check("- name: x\n", &["1:1 a rule file must be a mapping, found a list"]);
    check(
        "rule: []\n",
        &["1:1 unknown key `rule` in a rule file", "1:1 a rule file lacks `rules`"],
    );
    check("rules: [x]\n", &["1:9 a rule must be a mapping, found `x`"]);
    check(
        "rules:\n  - name: r\n   select: 1\n",
        &["3:4 this is not YAML: while parsing a block collection, did not find expected '-' indicator"],
    );
    check("rules: []\n---\nrules: []\n", &["2:1 a second document in one file"]);
    check(
        "rules:\n- name: r\n",
        &["2:3 a rule lacks `matchers`", "2:3 a rule lacks `actions`"],
    );
    check(
        "rules:\n- matchers: ['a=\"b\"']\n  select: {name: x}\n  actions: [{nice: 1}]\n",
        &["2:3 a rule lacks `name`"],
    );
    check(
        "rules:\n- name: r\n  matchers: ['a=\"b\"']\n  actions: [{wait: 1s}, {nice: 1}]\n",
        &["2:3 a rule without `select`, but `nice` needs processes"],
    );
}

#[test]
fn unknown_and_duplicate_keys_name_what_is_known() {
    check_help(
        &[("cooldwon", "5m")],
        "6:3 unknown key `cooldwon` in a rule",
        "did you mean `cooldown`?",
    );
    check_help(
        &[("orderBy", "cpu")],
        "6:3 unknown key `orderBy` in a rule",
        "did you mean `order_by`?",
    );
    check_help(
        &[("select", "{name: x, teapot: 1}")],
        "4:21 unknown key `teapot` in a selector",
        "known keys: group, name, cmdline, exe, user, cgroup, unit, pid, min_age, min_memory, min_cpu, not",
    );
    check_help(
        &[("select", "{name: x, not: {namee: y}}")],
        "4:27 unknown key `namee` in a selector",
        "did you mean `name`?",
    );
    check_help(
        &[("select", "{name: x, min_mem: 1}")],
        "4:21 unknown key `min_mem` in a selector",
        "did you mean `min_memory`?",
    );
    check_help(
        &[("actions", "[{kill: x264}]")],
        "5:20 `kill` must be true or false, found `x264`",
        "it kills whole cgroups; for processes write `signal: SIGTERM`, or `signal: SIGKILL` to kill them at once",
    );
    check_help(
        &[("actions", "[{nise: 5}]")],
        "5:14 unknown key `nise` in a step",
        "did you mean `nice`?",
    );
    check_help(
        &[("limit", "1\n  limit: 2")],
        "7:3 duplicate key `limit`",
        "it is already in line 6; keep one of them",
    );
    check_help(
        &[("<<", "{limit: 2}")],
        "6:3 unknown key `<<` in a rule",
        "merge keys are not in YAML 1.2; repeat the values, or use an alias for each",
    );
}

#[test]
fn values_of_a_wrong_type_say_what_would_be_right() {
    for (changes, expected, help) in [
        (
            ("limit", "0"),
            "6:10 `limit` must be a whole number from 1 to 100000, found `0`",
            "the nearest allowed value is 1",
        ),
        (
            ("limit", "0x10"),
            "6:10 `limit` must be a whole number from 1 to 100000, found `0x10`",
            "write plain decimal digits",
        ),
        (
            ("limit", "1.5"),
            "6:10 `limit` must be a whole number from 1 to 100000, found `1.5`",
            "write plain decimal digits",
        ),
        (
            ("limit", "[1]"),
            "6:10 `limit` must be a whole number from 1 to 100000, found a list",
            "",
        ),
        (
            ("limit", ""),
            "6:3 `limit` must be a whole number from 1 to 100000, found nothing",
            "give it a value, or remove the key",
        ),
        (
            ("hold", "30"),
            "6:9 `hold` must be a duration such as 30s or 1m30s, found `30`",
            "the unit is missing: did you mean 30s?",
        ),
        (
            ("hold", "soon"),
            "6:9 `hold` must be a duration such as 30s or 1m30s, found `soon`",
            "write a duration such as 500ms, 30s, 1m30s or 2h",
        ),
        (
            ("hold", "0s"),
            "6:9 `hold` must be longer than 0s",
            "otherwise leases expire at once; the default is 5h",
        ),
        (
            ("any_host", "yes"),
            "6:13 `any_host` must be true or false, found `yes`",
            "YAML 1.2 has only true and false: write true",
        ),
        (
            ("any_host", "1"),
            "6:13 `any_host` must be true or false, found `1`",
            "",
        ),
        (
            ("order_by", "mem"),
            "6:13 `order_by` must be one of cpu, memory, age, oom_score, -cpu, -memory, -age, -oom_score, found `mem`",
            "did you mean `memory`?",
        ),
        (
            ("order_by", "size"),
            "6:13 `order_by` must be one of cpu, memory, age, oom_score, -cpu, -memory, -age, -oom_score, found `size`",
            "known: cpu, memory, age, oom_score, -cpu, -memory, -age, -oom_score",
        ),
        (
            ("mode", "enforce"),
            "6:9 `mode` must be dry-run, found `enforce`",
            "remove it: the daemon's mode applies",
        ),
        (
            ("mode", "off"),
            "6:9 `mode` must be dry-run, found `off`",
            "known: dry-run",
        ),
        (
            ("without_ledger", "true"),
            "6:19 `without_ledger` must be allow, found `true`",
            "known: allow",
        ),
        (
            ("override_protection", "sshd"),
            "6:24 `override_protection` must be a list of strings, found `sshd`",
            "write it as a list: ['sshd']",
        ),
        (
            ("override_protection", "[ssh]"),
            "6:25 no built-in protection `ssh`",
            "did you mean `sshd`?",
        ),
        (("name", "[x]"), "2:9 `name` must be a string, found a list", ""),
        (
            ("name", "\"a\\nb\""),
            "2:9 a rule's name must be a printable string",
            "it is shown in metrics and in the history",
        ),
        (
            ("matchers", "'alertname=\"A\"'"),
            "3:13 `matchers` must be a list of strings, found `alertname=\"A\"`",
            "write it as a list: ['alertname=\"A\"']",
        ),
        (
            ("select", "x264"),
            "4:11 a selector must be a mapping, found `x264`",
            "write {name: x264}, or another key of a selector",
        ),
        (
            ("select", "{name: x, not: 'a, b'}"),
            "4:26 a selector must be a mapping, found `a, b`",
            "write {name: 'a, b'}, or another key of a selector",
        ),
        (
            ("select", "[{name: x}]"),
            "4:11 a selector must be a mapping, found a list",
            "its keys: group, name, cmdline, exe, user, cgroup, unit, pid, min_age, min_memory, min_cpu, not",
        ),
        (
            ("select", "{name: [ffmpeg, x264]}"),
            "4:18 `name` must be a string, found a list",
            "write the alternatives as one pattern: 'ffmpeg|x264'",
        ),
        (
            ("select", "{name: [[a]]}"),
            "4:18 `name` must be a string, found a list",
            "",
        ),
        (
            ("select", "{min_memory: 200MB}"),
            "4:24 `min_memory` must be a size such as 200MiB, or a number of bytes, found `200MB`",
            "did you mean 200MiB?",
        ),
        (
            ("select", "{min_cpu: half}"),
            "4:21 `min_cpu` must be a number from 0.001 to 10000, found `half`",
            "",
        ),
        (
            ("select", "{min_cpu: .nan}"),
            "4:21 `min_cpu` must be a number from 0.001 to 10000, found `.nan`",
            "",
        ),
        (
            ("select", "{min_age: 1}"),
            "4:21 `min_age` must be a duration such as 30s or 1m30s, found `1`",
            "the unit is missing: did you mean 1s?",
        ),
        (
            ("actions", "{nice: 5}"),
            "5:12 `actions` must be a list, found a mapping",
            "write each entry on a line of its own that begins with `-`",
        ),
        (
            ("actions", "[{nice: 5, wait: 1s}]"),
            "5:13 a step has exactly one key, found 2",
            "write each as an entry of its own, with its own `-`",
        ),
        (
            ("actions", "[{}]"),
            "5:13 a step has exactly one key, found 0",
            "write each as an entry of its own, with its own `-`",
        ),
        (
            ("actions", "[nice]"),
            "5:13 a step must be a mapping, found `nice`",
            "its keys: nice, ionice, affinity, sched, oom_score_adj, freeze, cgroup, reclaim, kill, signal, allocate, exec, wait",
        ),
    ] {
        check_help(&[changes], expected, help);
    }
}

#[test]
fn texts_are_taken_as_written() {
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
fn steps_are_checked_one_by_one() {
    for (step, expected, help) in [
        (
            "nice: 20",
            "5:20 `nice` must be a whole number from -20 to 19, found `20`",
            "the nearest allowed value is 19",
        ),
        (
            "ionice: best-effort",
            "5:22 `best-effort` is no I/O priority",
            "give the level: best-effort/0 (first) to best-effort/7 (last)",
        ),
        (
            "ionice: best-effort/8",
            "5:22 `best-effort/8` is no I/O priority",
            "write idle, or best-effort/0 (first) to best-effort/7 (last)",
        ),
        (
            "ionice: realtime/0",
            "5:22 `realtime/0` is no I/O priority",
            "real-time I/O can starve the host and is never set; use best-effort/0",
        ),
        (
            "affinity: 1-0",
            "5:24 `1-0` is no set of processors",
            "write a list such as \"0-1,4\", or all, or what to add or take away: +2, -1, -50%",
        ),
        (
            "affinity: -100%",
            "5:24 `-100%` is no set of processors",
            "write a list such as \"0-1,4\", or all, or what to add or take away: +2, -1, -50%",
        ),
        (
            "affinity: +0",
            "5:24 `+0` is no set of processors",
            "write a list such as \"0-1,4\", or all, or what to add or take away: +2, -1, -50%",
        ),
        (
            "sched: fifo",
            "5:21 `sched` must be one of batch, idle, other, found `fifo`",
            "known: batch, idle, other",
        ),
        (
            "oom_score_adj: 1001",
            "5:29 `oom_score_adj` must be a whole number from -1000 to 1000, found `1001`",
            "the nearest allowed value is 1000",
        ),
        (
            "freeze: false",
            "5:22 `freeze: false` does nothing",
            "leave the step out; what was frozen continues when the alert resolves",
        ),
        (
            "signal: SIGSTOP",
            "5:22 SIGSTOP would stop the process and leave it so",
            "write `freeze: true`: it is undone when the alert resolves",
        ),
        (
            "signal: SIGTTIN",
            "5:22 SIGTTIN would stop the process and leave it so",
            "write `freeze: true`: it is undone when the alert resolves",
        ),
        ("signal: SIGTREM", "5:22 no signal `SIGTREM`", "did you mean SIGTERM?"),
        ("signal: term", "5:22 no signal `term`", "did you mean SIGTERM?"),
        (
            "signal: 9",
            "5:22 no signal `9`",
            "numbers differ between machines: write SIGKILL",
        ),
        ("signal: 99", "5:22 no signal `99`", "write a name such as SIGTERM"),
        (
            "signal: PLEASE",
            "5:22 no signal `PLEASE`",
            "names are those of signal(7), such as SIGTERM; real-time signals have none",
        ),
        (
            "signal: [SIGTERM]",
            "5:22 `signal` must be a string, or a mapping with the keys of a signal that is undone, found a list",
            "",
        ),
        (
            "signal: {send: SIGUSR1}",
            "5:22 a signal that is undone lacks `undo`",
            "`undo`: The signal that reverts it when the alert resolves.",
        ),
        (
            "signal: {send: SIGTERM, undo: SIGUSR1}",
            "5:29 SIGTERM ends a process, which cannot be undone",
            "only notices can be undone; write a final signal as `signal: NAME`",
        ),
        (
            "signal: {send: SIGUSR1, undo: SIGKILL}",
            "5:44 SIGKILL ends a process, which cannot be undone",
            "only notices can be undone; write a final signal as `signal: NAME`",
        ),
        (
            "wait: 0s",
            "5:14 a wait of no time",
            "leave it out, or give it a time such as 10s",
        ),
        (
            "reclaim: 0",
            "5:14 `reclaim` of nothing",
            "give it a size such as 512MiB",
        ),
    ] {
        let step = format!("[{{{step}}}, {{nice: 1}}]");
        check_help(&[("actions", &step)], expected, help);
    }
    check_help(
        &[("actions", "[{wait: 1s}]")],
        "5:12 a rule that only waits",
        "add a step to `actions`, such as `nice: 10`",
    );
    check_help(
        &[("actions", "[]")],
        "5:12 `actions` is empty",
        "The steps, in order. Each target runs through them independently.",
    );
    the_rule(&[("actions", "[{wait: 1s}, {nice: 1}]")]);
}

#[test]
fn matchers_are_checked_in_their_place() {
    let found = check(
        &rule(&[("matchers", "['alertname=\"A\"', 'b==\"x\"']")]),
        &["3:35 not a matcher: a double quote in the midst of the value"],
    );
    assert_eq!(found[0].help.as_deref(), Some("one `=` is enough: b=\"x\""));
    let found = check(
        &rule(&[("matchers", "['alertname=\"A\"', 'b=\"a==\"\"']")]),
        &["3:38 not a matcher: a double quote in the midst of the value"],
    );
    assert!(!found[0].help.as_deref().unwrap().contains("one `=`"));
    check_help(
        &[("matchers", "['alertname=~\".*\"']")],
        "3:14 these matchers match every alert",
        "add one that requires a value, such as 'alertname=\"HostCpuSaturated\"'",
    );
    check_help(
        &[("matchers", "[]")],
        "3:13 `matchers` is empty",
        "Alerts that trigger the rule, as Alertmanager matchers such as 'alertname=\"HostCpuSaturated\"'. All must match.",
    );
}

#[test]
fn matchers_that_compare_with_more_than_was_meant_are_warned_of() {
    let warned = |matcher: &str, value: &str, help: &str| {
        let expected = format!("3:14 warning: this compares with the literal string `{value}`");
        check_help(
            &[("matchers", &format!("[{matcher}, 'alertname=\"A\"']"))],
            &expected,
            help,
        );
    };
    warned("severity==page", "=page", "one `=` is enough: severity=\"page\"");
    warned(
        "severity = ~page|ticket",
        "~page|ticket",
        "for a regular expression write severity=~\"page|ticket\"",
    );
    warned(
        r#""severity='page'""#,
        "'page'",
        "only double quotes delimit the value: severity=\"page\"",
    );
    warned(
        "'severity!=\"page|ticket\"'",
        "page|ticket",
        "for a regular expression write severity!~\"page|ticket\"",
    );
    warned(
        "'severity=\"p.*\"'",
        "p.*",
        "for a regular expression write severity=~\"p.*\"",
    );
    for fine in [
        "severity=a.b*c",
        "'severity=\"a|b c\"'",
        "'severity!=\"\"'",
        "severity=don't",
    ] {
        check(&rule(&[("matchers", &format!("[{fine}, 'alertname=\"A\"']"))]), &[]);
    }
}

#[test]
fn what_a_rule_sets_knows_its_place() {
    let text = rule(&[("actions", "[{wait: 1s}, {nice: 5}, {signal: SIGTERM}, {freeze: true}]")]);
    let compiled = compile_all(&[&text]);
    let places: Vec<String> = compiled
        .settings
        .iter()
        .map(|setting| {
            format!(
                "{} {}",
                setting.knob,
                one_line(&setting.warning("x".into(), "y".into()))
            )
        })
        .collect();
    assert_eq!(places, ["nice 5:26 warning: x", "freeze 5:56 warning: x"]);
}

#[test]
fn patterns_and_templates_are_checked_in_their_place() {
    for (select, expected, help) in [
        (
            "{name: 'a(b'}",
            "4:20 not a regular expression: unclosed group",
            "the syntax is that of https://docs.rs/regex; `\\` takes the meaning from a special character",
        ),
        (
            "{name: 'a)|(b'}",
            "4:20 not a regular expression: unopened group",
            "the syntax is that of https://docs.rs/regex; `\\` takes the meaning from a special character",
        ),
        (
            "{name: '(?=a)b'}",
            "4:19 not a regular expression: look-around, including look-ahead and look-behind, is not supported",
            "the syntax is that of https://docs.rs/regex; `\\` takes the meaning from a special character",
        ),
        (
            "{name: '(?!a)b'}",
            "4:19 not a regular expression: look-around, including look-ahead and look-behind, is not supported",
            "use `not:`: processes for which all of its keys hold are left out",
        ),
        (
            "{name: '*ffmpeg*'}",
            "4:19 not a regular expression: repetition operator missing expression",
            "this is not a shell pattern: write `.*ffmpeg.*`",
        ),
        (
            "{name: ''}",
            "4:18 `name` is empty",
            "an empty pattern matches nothing; remove the key",
        ),
        (
            "{pid: '{{ $labels.pid'}",
            "4:18 `{{` without `}}`",
            "write {{ $labels.NAME }}; a regular expression that holds two braces writes them \\{\\{",
        ),
        (
            "{pid: 'é{{ .pid }}'}",
            "4:19 only labels of the alert can be used",
            "write {{ $labels.NAME }}; a regular expression that holds two braces writes them \\{\\{",
        ),
        (
            "{pid: {{ $labels.pid }}}",
            "4:18 a key must be a string",
            "quote a string that begins with `{` or `[`, as templates do: '{{ $labels.pid }}'",
        ),
        (
            "{name: '(a|{{ $labels.x }})'}",
            "4:19 not a regular expression: unclosed group",
            "each part before, between and after labels must be a regular expression by itself",
        ),
        ("{group: bach}", "4:19 no process group `bach`", "did you mean `batch`?"),
        (
            "{}",
            "4:11 a selector without keys",
            "give at least one key: group, name, cmdline, exe, user, cgroup, unit, pid, min_age, min_memory, min_cpu, not",
        ),
        (
            "{name: x, not: {}}",
            "4:26 a selector without keys",
            "give at least one key: group, name, cmdline, exe, user, cgroup, unit, pid, min_age, min_memory, min_cpu, not",
        ),
    ] {
        let compiled = compile_all(&[&rule(&[("select", select)])]);
        let found: Vec<String> = compiled.diagnostics.iter().map(one_line).collect();
        assert!(compiled.rules.is_none(), "{select}");
        // The second part of a split group is wrong too; the first is enough here.
        assert_eq!(found[0], expected, "{select}");
        assert_eq!(compiled.diagnostics[0].help.as_deref(), Some(help), "{select}");
    }
    check_help(
        &[("while", "'a ! b'")],
        "6:13 `while` is not PromQL: unexpected `!`",
        "",
    );
}

#[test]
fn misunderstood_patterns_are_warned_of() {
    for (select, expected) in [
        (
            "{name: '^foo'}",
            Some("4:18 warning: patterns are anchored at both ends already"),
        ),
        (
            "{name: 'foo$'}",
            Some("4:18 warning: patterns are anchored at both ends already"),
        ),
        (r"{name: 'foo\$'}", None),
        (
            "{name: a-very-long-name-of-a-process}",
            Some("4:18 warning: can never match: the kernel keeps 15 bytes of a name, this is 29"),
        ),
        (
            "{name: 'ffmpeg|a-very-long-name-of-a-process'}",
            Some("4:26 warning: can never match: the kernel keeps 15 bytes of a name, this is 29"),
        ),
        ("{name: 'exactly-15-byte'}", None),
        ("{name: 'a-very-long-(name)?.*'}", None),
        (
            "{cgroup: 'batch.slice/.*'}",
            Some("4:21 warning: can never match: `cgroup` is a path from `/`, and patterns are anchored at both ends"),
        ),
        (
            "{exe: ffmpeg}",
            Some("4:17 warning: can never match: `exe` is a path from `/`, and patterns are anchored at both ends"),
        ),
        ("{exe: '.*/ffmpeg'}", None),
        ("{exe: '/usr/bin/(a|b)'}", None),
        (
            "{cmdline: '--batch'}",
            Some("4:22 warning: matches only a command line that begins so: patterns are anchored at both ends"),
        ),
        ("{cmdline: '.*--batch.*|x'}", None),
        (
            r"{cgroup: '/batch\.slice'}",
            Some(r"4:21 warning: `/batch\.slice` is the slice itself, and processes sit in cgroups below it"),
        ),
        (
            "{cgroup: '/a/.*|/.*.slice'}",
            Some("4:27 warning: `/.*.slice` is the slice itself, and processes sit in cgroups below it"),
        ),
        (r"{cgroup: '/batch\.slice(/.*)?'}", None),
        (
            "{name: 'x264|ffmpeg*'}",
            Some("4:24 warning: matches ffmpe, ffmpeg, ffmpegg…: `*` repeats the character before it"),
        ),
        ("{name: 'ffmpeg.*'}", None),
        ("{name: '[ab]*'}", None),
        (r"{name: 'a\*'}", None),
    ] {
        check(&rule(&[("select", select)]), expected.as_slice());
    }
    check_help(
        &[("select", r"{cgroup: '/batch\.slice'}")],
        r"4:21 warning: `/batch\.slice` is the slice itself, and processes sit in cgroups below it",
        r"write '/batch\.slice(/.*)?'",
    );
    check_help(
        &[("select", "{name: 'ffmpeg*'}")],
        "4:19 warning: matches ffmpe, ffmpeg, ffmpegg…: `*` repeats the character before it",
        "did you mean `ffmpeg.*`?",
    );
    check_help(
        &[("matchers", "['alertname=~\"A.*$\"']")],
        "3:14 warning: patterns are anchored at both ends already",
        "write `A.*`; for a text that may stand anywhere write `.*A.*.*`",
    );
    check_help(
        &[("matchers", "['alertname=~\".*\"', 'x=\"y\"']")],
        "3:14 warning: matches alerts of any name, and alerts without a name",
        "remove it to match every alert, or name the alerts: a|b",
    );
}

#[test]
fn rules_that_make_no_sense_are_warned_of() {
    check_help(
        &[("actions", "[{nice: 5}, {wait: 10s}]")],
        "5:25 warning: nothing comes after this wait",
        "leave it out, or add the step it waits for",
    );
    check_help(
        &[("actions", "[{signal: SIGTERM}, {nice: 5}, {signal: SIGKILL}]")],
        "5:44 warning: signal SIGKILL comes directly after signal SIGTERM, which has no time to work",
        "put a wait before it, such as `wait: 10s`",
    );
    check(
        &rule(&[("actions", "[{signal: SIGTERM}, {wait: 1s}, {signal: SIGKILL}]")]),
        &[],
    );
    let ends = ("actions", "[{signal: SIGTERM}]");
    check_help(
        &[("limit", "5"), ends],
        "6:10 warning: `limit: 5` has no effect for alerts from Alertmanager: without `while` one process is killed per \
         episode",
        "add what must still be true before each next one, such as \
         while: node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1",
    );
    check(&rule(&[("limit", "5"), ends, ("while", "up > 0")]), &[]);
    check(&rule(&[("limit", "1"), ends]), &[]);
    check(
        &rule(&[
            ("limit", "5"),
            ("actions", "[{nice: 5}, {wait: 1m}, {signal: SIGTERM}]"),
        ]),
        &[],
    );
    check_help(
        &[("hold", "10m"), ("actions", "[{wait: 11m}, {nice: 5}]")],
        "6:9 warning: `hold` is shorter than the waits of the rule: 660s in total",
        "make `hold` longer than all waits together",
    );
    check_help(
        &[("hold", "5m")],
        "6:9 warning: `hold` of 300s is not longer than Alertmanager's repeat_interval of 300s",
        "leases would expire while the alert still fires; make it longer",
    );
    check(&rule(&[("hold", "5m"), ("actions", "[{signal: SIGTERM}]")]), &[]);
    check_help(
        &[("matchers", "['alertname=\"HostCpuSaturate\"']")],
        "3:14 warning: no alerting rule file defines an alert `HostCpuSaturate`",
        "did you mean `HostCpuSaturated`?",
    );
    check(
        &rule(&[("matchers", "['alertname=~\"A|B\"']")]),
        &["3:14 warning: no alerting rule file defines an alert `B`"],
    );
    check(&rule(&[("matchers", "['alertname=~\"Host.+\"']")]), &[]);
    check(
        &rule(&[("matchers", "['alertname=~\"Disk.+\"']")]),
        &["3:14 warning: no alerting rule file defines an alert `Disk.+`"],
    );
    for never in [
        "'s=\"a\"', 's=\"b\"'",
        "'s=\"a\"', 's!=\"a\"'",
        "'s=~\"a|b\"', 's!~\"[ab]\"'",
        "'s=\"\"', 's=\"a\"'",
    ] {
        let text = rule(&[("matchers", &format!("['alertname=\"A\"', {never}]"))]);
        let found = compile_all(&[&text]).diagnostics;
        assert_eq!(found.len(), 1, "{never}");
        assert_eq!(
            found[0].message,
            "can never match: no value of `s` satisfies all matchers"
        );
    }
    check(
        &rule(&[("matchers", "['alertname=\"A\"', 's=~\"a|b\"', 's!=\"a\"']")]),
        &[],
    );
}

#[test]
fn rules_that_end_processes_say_themselves_which() {
    let final_steps = ("actions", "[{signal: SIGTERM}]");
    for (select, refused) in [
        ("{pid: '{{ $labels.pid }}'}", true),
        ("{pid: '{{ $labels.pid }}', min_memory: 1GiB, min_age: 1h}", true),
        ("{name: '{{ $labels.comm }}', not: {name: sshd}}", true),
        ("{name: '.*{{ $labels.comm }}.*'}", true),
        ("{name: '{{ $labels.comm }}.?'}", true),
        ("{pid: '{{ $labels.pid }}', name: '.*'}", true),
        ("{pid: '{{ $labels.pid }}', cmdline: '(?s).+'}", true),
        ("{pid: '{{ $labels.pid }}', name: 'ffmpeg.*'}", false),
        ("{pid: '{{ $labels.pid }}', user: render}", false),
        ("{pid: '{{ $labels.pid }}', group: batch}", false),
        ("{exe: '/srv/{{ $labels.app }}/bin/.*'}", false),
        ("{exe: '/{{ $labels.path }}'}", true),
        ("{name: '.*'}", true),
        ("{name: '.*', user: '.+'}", true),
        ("{name: '[a-z]+'}", true),
        ("{user: 'root|[1-9][0-9]*'}", true),
        ("{not: {name: foo}}", true),
        ("{not: {name: '{{ $labels.x }}'}}", true),
        ("{min_memory: 1GiB, not: {not: {pid: '{{ $labels.x }}'}}}", true),
        ("{pid: '{{ $labels.x }}', exe: '/.*'}", true),
        ("{pid: '{{ $labels.x }}', cgroup: '/.*'}", true),
        ("{cmdline: '.* {{ $labels.x }} .*'}", true),
        ("{cmdline: '.* --batch {{ $labels.x }} .*'}", false),
        ("{min_age: 1h}", true),
        ("{min_memory: 1}", true),
        ("{group: everything}", true),
        ("{min_memory: 1GiB}", false),
        ("{min_memory: 1GiB, not: {name: '{{ $labels.x }}'}}", false),
        ("{name: '.*', user: render}", false),
        ("{user: '[0-9]{4}'}", false),
        (r"{cgroup: '/batch\.slice/.*'}", false),
        ("{name: '.*server'}", false),
    ] {
        let expected: &[&str] = if refused {
            &["4:11 a rule that kills processes must select them by fixed text"]
        } else {
            &[]
        };
        check(&rule(&[("select", select), final_steps]), expected);
        check(&rule(&[("select", select)]), &[]);
    }
    let remedy = "; add a key with fixed text, such as name, user or group";
    for (select, reasons) in [
        (
            "{name: '.*', not: {user: root}, min_age: 1s}",
            "`name` \".*\" matches everything, `not` only excludes processes, `min_age` matches every process that runs long enough",
        ),
        (
            "{pid: '{{ $labels.pid }}', min_cpu: 1}",
            "`pid` \"{{ $labels.pid }}\" depends on a label of the alert, `min_cpu` depends on a label of the alert",
        ),
        (
            "{group: everything, min_memory: 5}",
            "group `everything` matches any process, `min_memory` of less than 1MiB matches everything",
        ),
    ] {
        check_help(
            &[("select", select), final_steps],
            "4:11 a rule that kills processes must select them by fixed text",
            &format!("{reasons}{remedy}"),
        );
    }
    // What is wrong with the telling key is said once.
    check(
        &rule(&[("select", "{min_age: 1s, group: bach}"), final_steps]),
        &["4:32 no process group `bach`"],
    );
}

#[test]
fn rules_are_judged_together() {
    let base = rule(&[]);
    let found = compile_all(&[&base, &base]).diagnostics;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].file.as_str(), found[0].message.as_str()),
        ("1.yml", "a second rule named `r`")
    );
    assert_eq!(
        found[0].help.as_deref(),
        Some("the first one is in 0.yml:2; give each a unique name")
    );

    for (select, matchers, actions, fights) in [
        ("{name: x}", "['alertname=\"A\"']", "[{nice: 6}]", true),
        ("{name: 'x|y', min_age: 1s}", "['alertname=\"A\"']", "[{nice: 6}]", true),
        ("{user: root}", "['alertname=\"A\"']", "[{nice: 6}]", true),
        (
            "{name: x}",
            "['alertname=~\"A|HostCpuSaturated\"']",
            "[{nice: 6}]",
            true,
        ),
        ("{name: x}", "['alertname=~\"A.*\"']", "[{nice: 6}]", true),
        ("{name: x}", "['alertname=\"A\"']", "[{nice: 5}]", false),
        ("{name: x}", "['alertname=\"A\"']", "[{sched: idle}]", false),
        ("{name: x}", "['alertname=\"HostCpuSaturated\"']", "[{nice: 6}]", false),
        ("{name: y}", "['alertname=\"A\"']", "[{nice: 6}]", false),
        ("{name: 'y.*'}", "['alertname=\"A\"']", "[{nice: 6}]", false),
    ] {
        let other = rule(&[
            ("name", "s"),
            ("select", select),
            ("matchers", matchers),
            ("actions", actions),
        ]);
        let compiled = compile_all(&[&base, &other]);
        let found: Vec<&str> = compiled
            .diagnostics
            .iter()
            .map(|found| found.message.as_str())
            .collect();
        let expected: &[&str] = if fights {
            &["two rules set `nice` of the same processes: 6 here, 5 in `r`"]
        } else {
            &[]
        };
        assert_eq!(found, expected, "{other}");
        assert_eq!(compiled.rules.unwrap().rules.len(), 2);
    }
}

#[test]
fn three_mistakes_are_shown_at_once_as_rustc_would() {
    let text = "\
rules:
  - name: calm-batch-jobs
    matchers: ['alertname=\"HostCpuSaturated\"']
    select:
      name: \"ffmpeg|x264\"
      min_memory: 200MB
    oder_by: cpu
    actions:
      - nice: 10
      - signal: SIGSTOP
";
    let source = SourceText::new("rules/batch.yml", text);
    let context = Context {
        groups: &BTreeMap::new(),
        known_alerts: None,
        own_alerts: &[],
        repeat_interval: None,
        allow_exec: true,
        check_promql: &|_| Ok(Vec::new()),
    };
    let compiled = compile(vec![file::read(&source)], &context);
    assert!(compiled.rules.is_none());
    let expected = "\
error: `min_memory` must be a size such as 200MiB, or a number of bytes, found
       `200MB`
 --> rules/batch.yml:6:19 (rule `calm-batch-jobs`)
  |
6 |       min_memory: 200MB
  |                   ^^^^^
  = help: did you mean 200MiB?

error: unknown key `oder_by` in a rule
 --> rules/batch.yml:7:5 (rule `calm-batch-jobs`)
  |
7 |     oder_by: cpu
  |     ^^^^^^^
  = help: did you mean `order_by`?

error: SIGSTOP would stop the process and leave it so
  --> rules/batch.yml:10:17 (rule `calm-batch-jobs`)
   |
10 |       - signal: SIGSTOP
   |                 ^^^^^^^
   = help: write `freeze: true`: it is undone when the alert resolves

3 errors
";
    assert_eq!(render_all(&compiled.diagnostics, false), expected);
}

#[test]
fn reference_tables_are_those_of_the_code() {
    let text = include_str!("../../docs/rules.md");
    use super::job::{ALLOCATE, AUTHORIZATION, BASIC_AUTH, EXEC, RELEASE, TLS};
    let host_wide = [&ALLOCATE, &RELEASE, &AUTHORIZATION, &BASIC_AUTH, &TLS, &EXEC];
    let of_cgroups = [&file::LIMITS, &file::RECLAIM];
    for object in [&file::RULE, &file::SELECT, &file::STEP, &file::SIGNAL]
        .into_iter()
        .chain(host_wide)
        .chain(of_cgroups)
    {
        let table = crate::schema::markdown(object);
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
    for object in [&file::RULE_FILE, &file::RULE, &file::SELECT, &file::STEP, &file::SIGNAL] {
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
    fn no_text_brings_the_reader_down(text in proptest::strategy::Union::new([
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

fn host_step(step: &str) -> String {
    format!("rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  actions:\n  - {step}\n")
}

fn allocation(more: &str) -> String {
    host_step(&format!("allocate: {{url: 'http://b/x', resource: /r, ttl: /t{more}}}"))
}

#[test]
fn what_is_asked_of_others_is_checked_beforehand() {
    check(&allocation(""), &[]);
    check(&allocation(", body: {a: [1, 2.5, true, ~, '{{ $labels.x }}']}"), &[]);
    check(
        &allocation(", method: GET, body: {a: 1}"),
        &["5:77 a GET request has no body"],
    );
    let urls = [
        ("ftp://b/x", "a URL must begin with http:// or https://"),
        ("{{ $labels.url }}", "a URL must begin with http:// or https://"),
        ("https://{{ $labels.host }}/x", "a template in the host of a URL"),
        ("https://b.{{ $labels.host }}", "a template in the host of a URL"),
        ("https://b:{{ $labels.port }}/x", "a template in the host of a URL"),
        ("https://me:secret@b/x", "a user in a URL"),
        ("https:///x", "`https:///x` is no URL"),
        ("https://b/x y", "`https://b/x y` is no URL"),
        ("https://b/a/../x", "`https://b/a/../x` is no URL"),
        ("https://b/a/%2E%2e/x", "`https://b/a/%2E%2e/x` is no URL"),
        ("https://b/x#y", "`https://b/x#y` is no URL"),
        ("https://b/{{ .x }}", "only labels of the alert can be used"),
    ];
    for (url, message) in urls {
        let text = host_step(&format!("allocate: {{url: '{url}', resource: /r, ttl: /t}}"));
        let found = compile_all(&[&text]).diagnostics;
        assert_eq!(
            found.iter().map(|found| found.message.as_str()).collect::<Vec<_>>(),
            [message]
        );
    }
    for (pointer, help) in [
        ("resource", "it begins with `/`: /resource"),
        ("$.data.id", "it begins with `/`: /data/id"),
        ("/a~2", "it begins with `/`: /a~2"),
    ] {
        let text = host_step(&format!(
            "allocate: {{url: 'http://b', resource: '{pointer}', ttl: /t}}"
        ));
        let found = check(&text, &[&format!("5:43 `{pointer}` is no JSON pointer")]);
        assert_eq!(found[0].help.as_deref(), Some(help));
    }
    check(
        &host_step("allocate: {url: 'http://b/x', resource: /r}"),
        &["5:15 warning: the granted resource is never released"],
    );
    check(
        &allocation(", release: {url: 'http://b/y'}"),
        &["5:73 warning: the release does not name the granted resource"],
    );
    check(
        &allocation(", authorization: {credentials_file: token}"),
        &["5:92 `credentials_file` must be an absolute path"],
    );
    let found = compile_all(&[&allocation(", authorization: {credentials: secret}")]).diagnostics;
    assert!(
        found.iter().any(|found| found.message == "a secret in a rule file"),
        "{found:?}"
    );
    check(
        &allocation(", tls_config: {ca_file: /ca.pem}"),
        &["5:70 warning: `tls_config` applies to https only"],
    );
    check(
        &allocation("").replace("  actions:", "  limit: 3\n  actions:"),
        &["4:10 warning: `limit` has no effect without `select`"],
    );
    check(
        &allocation("").replace("  actions:", "  select: {name: x}\n  actions:"),
        &["4:11 warning: `select`, but no step applies to processes"],
    );
    check(&allocation(", timeout: 2h"), &["5:67 `timeout` is out of range"]);
}

/// Steps are shown on the page, which may be open to all.
#[test]
fn steps_are_shown_without_query_and_arguments() {
    let text = "rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  actions:\n  \
                - allocate: {url: 'https://b/x?token=secret', resource: /r, ttl: /t}\n  - exec: [/bin/a, secret]\n";
    let rules = compile_all(&[text]).rules.unwrap();
    assert_eq!(rules.rules[0].ladder(), "allocate POST https://b/x; exec /bin/a");
}

#[test]
fn commands_are_paths_and_arguments() {
    check(&host_step("exec: [/bin/true]"), &[]);
    check(
        &host_step("exec: {argv: [/bin/a, '{{ $labels.x }}'], undo: [/bin/b], user: x, env: {A: '{{ $labels.x }}'}}"),
        &[],
    );
    check(
        &host_step("exec: /bin/true --now"),
        &["5:11 `exec` must be a list of arguments, or a mapping"],
    );
    check(&host_step("exec: []"), &["5:11 a command without a program"]);
    check(
        &host_step("exec: [true]"),
        &["5:12 `true` is not an absolute path of a program"],
    );
    check(
        &host_step("exec: ['/bin/{{ $labels.x }}']"),
        &["5:12 `/bin/{{ $labels.x }}` is not an absolute path of a program"],
    );
    check(
        &host_step("exec: [/bin/a, '{{ $resource }}']"),
        &["5:5 `$resource` before anything is granted"],
    );
    check(
        &rule(&[("select", "{name: '{{ $resource }}'}")]),
        &["4:18 `$resource` cannot select processes"],
    );
}

#[test]
fn commands_want_the_permission_of_the_configuration() {
    let source = SourceText::new("r.yml", host_step("exec: [/bin/true]"));
    let context = Context {
        groups: &BTreeMap::new(),
        known_alerts: None,
        own_alerts: &[],
        repeat_interval: None,
        allow_exec: false,
        check_promql: &|_| Ok(Vec::new()),
    };
    let found = compile(vec![file::read(&source)], &context).diagnostics;
    assert_eq!(one_line(&found[0]), "5:5 `exec` is not allowed on this host");
    assert!(
        found[0]
            .help
            .as_ref()
            .is_some_and(|help| help.contains("allow_exec: true"))
    );
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
fn limits_that_no_kernel_takes_are_told() {
    for limit in [
        "cpu.max: '5 100000'",
        "cpu.max: -100%",
        "cpu.max: half",
        "cpu.weight: 0",
        "memory.high: -0MiB",
        "memory.max: 120%",
        "io.max: wbps=1",
        "io.max: /dev/sda speed=1",
        "pids.max: some",
    ] {
        let actions = format!("[{{cgroup: {{{limit}}}}}]");
        let compiled = compile_all(&[&rule(&[("select", "{cgroup: /x}"), ("actions", &actions)])]);
        let file = limit.split(':').next().unwrap();
        let found: Vec<String> = compiled.diagnostics.iter().map(one_line).collect();
        assert!(
            matches!(found.as_slice(), [one] if one.contains(&format!("`{file}` cannot be"))),
            "{limit}: {found:?}"
        );
    }
}

#[test]
fn a_slip_in_the_unit_of_a_limit_is_answered_with_the_right_one() {
    for (limit, meant) in [
        ("memory.high: 1G", "1GiB"),
        ("memory.max: +512M", "512MiB"),
        ("memory.swap.max: 2gb", "2GiB"),
    ] {
        let actions = format!("[{{cgroup: {{{limit}}}}}]");
        let compiled = compile_all(&[&rule(&[("select", "{cgroup: /x}"), ("actions", &actions)])]);
        let help = compiled.diagnostics[0].help.clone().unwrap_or_default();
        assert_eq!(help, format!("did you mean {meant}?"), "{limit}");
    }
}

#[test]
fn steps_and_selector_tell_whether_cgroups_are_meant() {
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
    check_help(
        &[("select", "{cgroup: /x, name: y}"), ("actions", "[{kill: true}]")],
        "4:30 cgroups have no `name`",
        "select them by cgroup, unit, min_memory or min_cpu; steps for single processes need a rule of their own",
    );
    check_help(
        &[("select", "{cgroup: /x}"), ("actions", "[{nice: 1}, {kill: true}]")],
        "5:25 some steps of this ladder are done to cgroups, others to processes",
        "make two rules: one that selects cgroups, one that selects processes",
    );
    check_help(
        &[("select", "{unit: '.*'}"), ("actions", "[{kill: true}]")],
        "4:11 a rule that kills processes must select them by fixed text",
        "`unit` \".*\" matches everything; add a key with fixed text, such as name, user or group",
    );
}

#[test]
fn a_rule_without_select_may_name_the_cgroup_that_it_reclaims_from() {
    let text =
        "rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  actions: [{reclaim: {size: 1GiB, cgroup: PATH}}]\n";
    let compiled = compile_all(&[&text.replace("PATH", "/batch.slice")]);
    let rules = compiled.rules.expect("a good rule");
    let TargetSelector::Cgroups(selector) = &rules.rules[0].target_selector else {
        panic!("it is about a cgroup")
    };
    assert_eq!(selector.conditions.len(), 1);
    check(
        &text.replace("PATH", "batch.slice"),
        &["4:44 the path of a cgroup begins with `/`"],
    );
}
