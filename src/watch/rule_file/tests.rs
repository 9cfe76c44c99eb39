//! Tests of what is read from rule files, and of the errors in them.

use super::*;

#[test]
fn file_is_read_as_prometheus_reads_it() {
    let text = "groups:\n- name: g\n  interval: 1m\n  limit: 5\n  labels: {team: x}\n  rules:\n  - record: a:b\n    \
                expr: sum(a)\n    labels: {l: 1}\n  - alert: A\n    expr: 1\n    for: 5m\n    keep_firing_for: 90s\n    \
                labels: {severity: page}\n    annotations: {summary: 'at {{ $value }}'}\n";
    let file = parse("x.yml", text).unwrap();
    let group = &file.groups[0];
    assert_eq!(
        (group.interval_ms, group.limit, group.rules.len()),
        (Some(60_000), 5, 2)
    );
    let Rule::Recording(record) = &group.rules[0] else {
        panic!()
    };
    assert_eq!(record.labels, [("l".into(), "1".into()), ("team".into(), "x".into())]);
    let Rule::Alerting(alert) = &group.rules[1] else {
        panic!()
    };
    assert_eq!(
        (alert.for_ms, alert.keep_firing_for_ms, alert.labels.len()),
        (300_000, 90_000, 2)
    );
}

#[test]
fn groups_have_the_keys_of_prometheus() {
    let text = "groups:\n- name: g\n  query_offset: 90s\n  limit: -1\n  interval:\n  labels: {team: x, tier: '{{ $value }}'}\n  rules:\n  \
                - {alert: A, expr: a, labels: {team: y}}\n  - {record: b, expr: a}\n- {name: h, rules: }\n";
    let file = parse("x.yml", text).unwrap();
    let group = &file.groups[0];
    assert_eq!(
        (group.query_offset_ms, group.limit, group.interval_ms),
        (90_000, 0, None)
    );
    let Rule::Alerting(alert) = &group.rules[0] else {
        panic!()
    };
    let labels = alert.labels.iter();
    let labels: Vec<(&str, &str)> = labels.map(|(name, text)| (&**name, text.source())).collect();
    assert_eq!(labels, [("team", "y"), ("tier", "{{ $value }}")]);
    assert_eq!((file.groups[1].query_offset_ms, file.groups[1].rules.len()), (0, 0));
}

fn errors(text: &str) -> Vec<String> {
    let errors = parse("x.yml", text).err().unwrap_or_default();
    errors.iter().map(RuleError::to_string).collect()
}

#[test]
fn errors_in_a_group_are_at_its_keys() {
    let text = "groups:\n- name: g\n  query_offset: 3d\n  labels:\n    __name__: x\n    c: '{{ $value'\n  rules:\n  - {alert: A, expr:                     'rate(a[5d])'}\n  - {alert: B, expr: b}\n- name: h\n  query_offset: 5\n";
    assert_eq!(
        errors(text),
        [
            "x.yml:5: group \"g\": \"__name__\" is not a label name",
            "x.yml:6: group \"g\": a template's {{ is not closed",
            "x.yml:3: group \"g\", rule \"A\": with the query_offset the expression looks back more than 7 days; the \
             history in memory goes back 7 days",
            "x.yml:11: \"5\" is not a duration, expected for example 30s, 5m or 1h30m",
        ]
    );
}

#[test]
fn strings_are_the_text_of_the_file() {
    let text = "groups:\n- name: 1.0\n  labels: {group: 1.10}\n  rules:\n  - record: 1e3\n    expr: 0x1f\n    for: ~\n    \
                labels: {version: 1.10, on: yes, day: 2026-01-02, none: ~, 017: 1_000}\n  - alert: 0x1f\n    record:\n    \
                expr: 1.50\n    for: 0\n    annotations: {version: 1.10, none: null, empty: }\n";
    let file = parse("x.yml", text).unwrap();
    let group = &file.groups[0];
    let Rule::Recording(record) = &group.rules[0] else {
        panic!()
    };
    assert_eq!(
        (&*group.name, &*record.record, &*record.query.text),
        ("1.0", "1e3", "0x1f")
    );
    let labels = record.labels.iter().map(|(name, value)| format!("{name}={value}"));
    assert_eq!(
        labels.collect::<Vec<_>>(),
        [
            "017=1_000",
            "day=2026-01-02",
            "group=1.10",
            "none=",
            "on=yes",
            "version=1.10"
        ]
    );
    let Rule::Alerting(alert) = &group.rules[1] else {
        panic!()
    };
    assert_eq!((&*alert.alert, &*alert.query.text), ("0x1f", "1.50"));
    assert_eq!(alert.fixed_labels().get("group"), Some("1.10"));
    let annotations = alert.fixed_annotations();
    let annotations = annotations.iter().map(|(name, value)| format!("{name}={value}"));
    assert_eq!(annotations.collect::<Vec<_>>(), ["empty=", "none=", "version=1.10"]);
}

#[test]
fn names_may_be_any_strings() {
    let rule = |rule: &str| format!("groups: [{{name: g, rules: [{{expr: a, {rule}}}]}}]");
    for good in [
        "record: metric.name, labels: {label.name: x, 'é b': y, a-b: z}",
        "alert: 'Any name', labels: {label.name: x}, annotations: {a.b: x}",
    ] {
        assert_eq!(errors(&rule(good)), Vec::<String>::new());
    }
    for (bad, expected) in [
        (
            "record: 'a{b=\"c\"}'",
            "the name of a recording rule has no braces; labels are under `labels`",
        ),
        ("alert: A, labels: {'': x}", "\"\" is not a label name"),
        ("alert: A, annotations: {'': x}", "an annotation needs a name"),
    ] {
        let errors = errors(&rule(bad));
        assert!(errors.len() == 1 && errors[0].ends_with(expected), "{errors:?}");
    }
}

#[test]
fn errors_of_labels_have_their_lines_in_a_mapping_of_any_size() {
    let labels: String = (0..100_000).map(|label| format!("      l{label}: x\n")).collect();
    let text = format!(
        "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: a\n    labels:\n{labels}      __name__: x\n      z: '{{{{'\n"
    );
    let errors = errors(&text);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("x.yml:100007: "), "{errors:?}");
    assert!(errors[1].starts_with("x.yml:100008: "), "{errors:?}");
}

#[test]
fn anchors_aliases_and_merge_keys_are_resolved() {
    let text = "groups:\n- &first\n  name: g\n  interval: 30s\n  rules:\n  - &rule\n    alert: A\n    expr: &expr a > 1\n    labels: &labels {severity: page, \
                team: x}\n  - <<: *rule\n    alert: B\n    expr: *expr\n    labels: {<<: *labels, team: y}\n- {<<: *first, name: h}\n";
    let file = parse("x.yml", text).unwrap();
    let names = |group: &Group| {
        group
            .rules
            .iter()
            .map(|rule| rule.name().to_owned())
            .collect::<Vec<_>>()
    };
    let groups: Vec<_> = file
        .groups
        .iter()
        .map(|g| (g.name.as_str(), g.interval_ms, names(g)))
        .collect();
    let rules = || vec!["A".to_owned(), "B".to_owned()];
    assert_eq!(groups, [("g", Some(30_000), rules()), ("h", Some(30_000), rules())]);
    let Rule::Alerting(b) = &file.groups[1].rules[1] else {
        panic!()
    };
    assert_eq!((b.query.text.as_str(), b.labels.len()), ("a > 1", 2));
    assert_eq!(b.fixed_labels().get("team"), Some("y"));
    // An error in what an alias repeats has the line of the original.
    let text = "groups:\n- name: g\n  rules:\n  - &rule {alert: A, expr: a, labels: {__name__: x}}\n  - *rule\n";
    let expected = "x.yml:4: group \"g\", rule \"A\": \"__name__\" is not a label name";
    assert_eq!(errors(text), [expected, expected]);
}

const OBJECT: &str = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: n\nspec:\n  groups:\n  - \
                      name: NAME\n    partial_response_strategy: warn\n    rules:\n    - {alert: A, expr: 1}\n";

#[test]
fn objects_of_the_operator_are_read() {
    let one = |name: &str| OBJECT.replace("NAME", name);
    let names = |text: &str| {
        let file = parse("x.yml", text).unwrap_or_else(|errors| panic!("{errors:?}"));
        file.groups.iter().map(|group| group.name.clone()).collect::<String>()
    };
    assert_eq!(names(&one("a")), "a");
    assert_eq!(
        names(&format!(
            "# Source: chart\n---\n{}---\n---\n{}---\n",
            one("a"),
            one("b")
        )),
        "ab"
    );
    let items = |text: &str| {
        let lines = text.lines().map(|line| format!("  {line}\n"));
        lines.collect::<String>().replacen("  ", "- ", 1)
    };
    for head in [
        "apiVersion: v1\nkind: List",
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRuleList",
    ] {
        assert_eq!(
            names(&format!("{head}\nitems:\n{}{}", items(&one("a")), items(&one("b")))),
            "ab"
        );
    }
    for empty in ["", "# nothing\n", "---\n", "groups:\n", "{}"] {
        assert_eq!(names(empty), "");
    }
}

#[test]
fn errors_in_objects_say_what_would_be_right() {
    let object = |text: &str| format!("{}---\n{text}", OBJECT.replace("NAME", "a"));
    let with = |from: &str, to: &str| object(&OBJECT.replace("NAME", "b").replace(from, to));
    for (text, expected) in [
        (
            with("monitoring.coreos.com/v1", "v1"),
            "x.yml:12: the apiVersion of a PrometheusRule is monitoring.coreos.com/v1, found \"v1\"",
        ),
        (
            with("PrometheusRule", "ConfigMap"),
            "x.yml:13: expected an object of the kind PrometheusRule, found ConfigMap; move other objects to another file",
        ),
        (
            with("spec", "specs"),
            "x.yml:16: unknown key `specs` in a PrometheusRule; did you mean `spec`?",
        ),
        (
            with("groups", "group"),
            "x.yml:17: unknown key `group` in the spec; did you mean `groups`?",
        ),
        (with("expr: 1", "expr: 1 +"), "x.yml:21: group \"b\", rule \"A\": "),
        (
            with("name: b", "name: a"),
            "x.yml:18: this file has the group \"a\" twice",
        ),
        (
            object("groups: []\n"),
            "x.yml:12: an object of Kubernetes has a kind; add `apiVersion: monitoring.coreos.com/v1` and `kind: PrometheusRule`",
        ),
        (
            "groups: []\n---\ngroups: []\n".into(),
            "x.yml:3: a second document, which Prometheus does not read; put all groups under one `groups`",
        ),
        (
            "rules: []\n".into(),
            "x.yml:1: unknown key `rules` in a rule file; known keys: groups",
        ),
        ("groups: {name: g}\n".into(), "x.yml:1: `groups` is a list"),
        (
            "- name: g\n".into(),
            "x.yml:1: a rule file is a mapping with the key `groups`",
        ),
    ] {
        let errors = errors(&text);
        assert!(
            errors.first().is_some_and(|first| first.starts_with(expected)),
            "{expected}\n{errors:?}"
        );
    }
}

#[test]
fn yaml_error_has_a_line() {
    let errors = parse("x.yml", "groups:\n- name: [\n").unwrap_err();
    assert!(errors[0].line.is_some_and(|line| line > 1), "{errors:?}");
}
