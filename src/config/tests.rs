//! Tests of configurations in real directories, and of the shipped one.

use super::*;
use crate::sense::groups::group::DEFAULT_METRICS;
use std::fs;

const RULE: &str =
    "rules:\n- name: NAME\n  matchers: ['alertname=\"A\"']\n  select: {name: x}\n  actions: [{nice: 5}]\n";

/// Loads `evenkeel.yml` from a directory with these files. Returns the findings without the directory.
fn load(files: &[(&str, &str)]) -> (Option<Loaded>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let result = Config::load(&directory.path().join("evenkeel.yml"));
    let (loaded, found) = match result {
        Ok(mut loaded) => {
            let warnings = std::mem::take(&mut loaded.warnings);
            (Some(loaded), warnings)
        }
        Err(found) => (None, found),
    };
    let prefix = format!("{}/", directory.path().display());
    let found = found.into_iter().map(|found| {
        let place = found
            .span
            .map_or(String::new(), |span| format!(":{}:{}", span.line, span.column));
        let warning = if found.severity == Severity::Warning {
            "warning: "
        } else {
            ""
        };
        format!("{}{place} {warning}{}", found.file, found.message).replace(&prefix, "")
    });
    (loaded, found.collect())
}

#[track_caller]
fn check(config: &str, expected: &[&str]) {
    let (loaded, found) = load(&[("evenkeel.yml", config), ("token", "secret\n"), ("empty", "\n")]);
    assert_eq!(found, expected, "{config}");
    assert_eq!(
        loaded.is_some(),
        expected.iter().all(|line| line.contains("warning: ")),
        "{config}"
    );
}

#[test]
fn empty_configuration_is_the_default() {
    let (loaded, found) = load(&[("evenkeel.yml", "")]);
    assert_eq!(found, [""; 0]);
    let Loaded { config, rules, .. } = loaded.unwrap();
    assert!(!config.enforce && config.restore_on_exit && rules.rules.is_empty());
    assert_eq!(
        config.sampling,
        Sampling {
            interval: Duration::from_secs(1),
            slow_interval: Duration::from_secs(15)
        }
    );
    assert_eq!(config.host_names.labels, ["instance"]);
    assert_eq!(
        (config.budget.final_steps, config.budget.per),
        (3, Duration::from_secs(300))
    );
    assert_eq!(config.local["job"], "evenkeel");
}

fn addresses(alertmanagers: &Alertmanagers) -> Vec<String> {
    let (addresses, problems) = alertmanagers.addresses(&mut LastGood::default());
    assert_eq!(problems, [""; 0]);
    addresses.iter().map(ToString::to_string).collect()
}

fn bearer(secret: &str) -> client::Credentials {
    client::Credentials::Authorization {
        kind: "Bearer".into(),
        credentials: client::Secret::Text(secret.into()),
    }
}

#[test]
fn every_key_is_read() {
    let config = "
mode: enforce
sampling: {interval: 2s, slow_interval: 30s}
rule_files: [rules/*.yml]
alerting_rule_files: [alerts.yml]
evaluation_interval: 5s
webhook: {token_file: token, allow_unauthenticated: true}
identity: {labels: [host, node], names: [db1, 127.0.0.1]}
protect: [{exe: '/usr/lib/postgresql/.*'}, {group: batch}]
budget: {final_steps: 1, per: 1h}
on_exit: keep
storage: {retention: {time: 30d, size: 20MiB}}
process_groups:
  - {name: batch, select: {cgroup: '/batch\\.slice/.*'}}
  - {name: big-batch, select: {group: batch, min_memory: 1GiB}, metrics: [io, open_fds]}
local: {instance: db1, team: storage}
alertmanagers:
  - scheme: https
    path_prefix: /am/
    receiver: pager
    timeout: 3s
    api_version: v2
    static_configs: [{targets: ['am1:9093', '[::1]:9093'], labels: {zone: a}}]
    file_sd_configs: [{files: [targets/*.json], refresh_interval: 1m}]
    basic_auth: {username: ann, password_file: token}
    tls_config: {server_name: am, insecure_skip_verify: true}
  - static_configs: [{targets: [am2]}]
    authorization: {credentials: secret}
reconcile: {interval: 10s, patience: 1m}
";
    let (loaded, found) = load(&[
        ("evenkeel.yml", config),
        ("token", "secret\n"),
        (
            "targets/a.json",
            r#"[{"targets": ["am3:80", "am1:9093"], "labels": {}}]"#,
        ),
        ("rules/b.yml", &RULE.replace("NAME", "b")),
        (
            "rules/a.yml",
            &RULE.replace("NAME", "a").replace("{name: x}", "{group: big-batch}"),
        ),
        ("rules/a.test.yml", "not: a rule file\n"),
        (
            "alerts.yml",
            "groups: [{name: g, rules: [{alert: A, expr: node_load1 > 9}]}]\n",
        ),
    ]);
    assert_eq!(found, [""; 0]);
    let Loaded { config, rules, .. } = loaded.unwrap();
    assert!(config.enforce && !config.restore_on_exit && config.webhook.allow_unauthenticated);
    let retention = Retention {
        time: Duration::from_secs(30 * 24 * 3600),
        size_bytes: 20 << 20,
        ..Retention::default()
    };
    assert_eq!(config.retention, retention);
    assert_eq!(
        config.sampling,
        Sampling {
            interval: Duration::from_secs(2),
            slow_interval: Duration::from_secs(30)
        }
    );
    assert_eq!(config.evaluation_interval, Duration::from_secs(5));
    assert_eq!(
        config.reconcile,
        Reconcile {
            interval: Duration::from_secs(10),
            patience: Duration::from_secs(60)
        }
    );
    let [first, second] = &config.alertmanagers[..] else {
        panic!("{:?}", config.alertmanagers)
    };
    assert_eq!((&*first.receiver, &*first.path_prefix), ("pager", "/am"));
    assert_eq!(first.client.timeout, Duration::from_secs(3));
    assert_eq!(first.client.trust.server_name.as_deref(), Some("am"));
    assert!(first.client.trust.insecure_skip_verify);
    // The files are gone with their directory.
    assert_eq!(addresses(first), ["https://am1:9093/am/", "https://[::1]:9093/am/"]);
    assert_eq!(second.receiver, "evenkeel");
    assert_eq!(second.client.credentials, Some(bearer("secret")));
    assert_eq!(addresses(second), ["http://am2/"]);
    assert!(config.webhook.token_file.unwrap().ends_with("token"));
    assert_eq!(config.host_names.labels, ["host", "node"]);
    assert_eq!(config.host_names.names, ["db1", "127.0.0.1"]);
    assert_eq!(config.protect.len(), 2);
    assert_eq!(
        (config.budget.final_steps, config.budget.per),
        (1, Duration::from_secs(3600))
    );
    let groups: Vec<&str> = config.process_groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(groups, ["batch", "big-batch"]);
    assert_eq!(config.process_groups[0].metrics, DEFAULT_METRICS);
    assert_eq!(
        config.process_groups[1].metrics,
        ProcessFields::IO | ProcessFields::OPEN_FDS
    );
    let local: Vec<(&str, &str)> = config
        .local
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    assert_eq!(local, [("instance", "db1"), ("job", "evenkeel"), ("team", "storage")]);
    let rules: Vec<&str> = rules.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(rules, ["a", "b"]);
    assert_eq!(config.alerting_rules.len(), 1);
}

#[test]
fn mistakes_in_the_configuration_are_found() {
    check(
        "mode: enforced\n",
        &["evenkeel.yml:1:7 `mode` must be one of dry-run, enforce, found `enforced`"],
    );
    check(
        "mod: dry-run\n",
        &["evenkeel.yml:1:1 unknown key `mod` in the configuration"],
    );
    check(
        "sampling: 1s\n",
        &["evenkeel.yml:1:11 sampling must be a mapping, found `1s`"],
    );
    check(
        "sampling: {interval: 10ms}\n",
        &["evenkeel.yml:1:22 `interval` is too short"],
    );
    check(
        "sampling: {interval: 30s}\n",
        &["evenkeel.yml:1:22 `slow_interval` is shorter than `interval`"],
    );
    check(
        "evaluation_interval: 0s\n",
        &["evenkeel.yml:1:22 `evaluation_interval` is too short"],
    );
    check(
        "identity: {labels: [a-b]}\n",
        &["evenkeel.yml:1:21 `a-b` is no label name"],
    );
    check(
        "local: {alertname: x}\n",
        &["evenkeel.yml:1:20 `alertname` is no label to add"],
    );
    check(
        "local: [x]\n",
        &["evenkeel.yml:1:8 `local` must be a mapping of names to strings, found a list"],
    );
    check(
        "budget: {final_steps: -1}\n",
        &["evenkeel.yml:1:23 `final_steps` must be a whole number from 0 to 10000, found `-1`"],
    );
    check(
        "on_exit: leave\n",
        &["evenkeel.yml:1:10 `on_exit` must be one of restore, keep, found `leave`"],
    );
    check(
        "storage: {retention: {time: 1m, size: 0}}\n",
        &[
            "evenkeel.yml:1:29 `time` is too short",
            "evenkeel.yml:1:39 `size` is too small",
        ],
    );
    check("protect: [{}]\n", &["evenkeel.yml:1:11 a selector without keys"]);
    check(
        "protect: [{name: 'a('}]\n",
        &["evenkeel.yml:1:20 not a regular expression: unclosed group"],
    );
    check(
        "protect: [{pid: '{{ $labels.pid }}'}]\n",
        &["evenkeel.yml:1:18 a process group cannot use labels of an alert"],
    );
    check(
        "process_groups: [{name: g}]\n",
        &["evenkeel.yml:1:18 a process group lacks `select`"],
    );
    check(
        "process_groups: [{name: g, select: {name: x}, metrics: [fds]}]\n",
        &["evenkeel.yml:1:57 `metrics` must be one of swap, context_switches, io, open_fds, found `fds`"],
    );
    check(
        "process_groups: [{name: g, select: {name: x}}, {name: g, select: {group: h}}]\n",
        &[
            "evenkeel.yml:1:55 a second group `g`",
            "evenkeel.yml:1:74 no process group `h`",
        ],
    );
    check("webhook: {token_file: token}\n", &[]);
    check(
        "webhook: {allow_unauthenticated: on}\n",
        &["evenkeel.yml:1:34 `allow_unauthenticated` must be true or false, found `on`"],
    );
}

#[test]
fn token_file_must_hold_a_token() {
    for (name, problem) in [("nowhere", "cannot read the token file"), ("empty", "is empty")] {
        let config = format!("webhook: {{token_file: {name}}}\n");
        let (loaded, found) = load(&[("evenkeel.yml", &config), ("empty", "\n")]);
        assert!(loaded.is_none());
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("evenkeel.yml:1:23 ") && found[0].contains(problem),
            "{found:?}"
        );
    }
}

#[test]
fn named_files_are_looked_for_beside_the_configuration() {
    check(
        "rule_files: [rules/*.yml]\n",
        &["evenkeel.yml:1:14 warning: `rules/*.yml` matches no file"],
    );
    check(
        "rule_files: [rules/x.yml]\n",
        &["evenkeel.yml:1:14 no file `rules/x.yml`"],
    );
    check(
        "rule_files: ['rules/***']\n",
        &["evenkeel.yml:1:14 not a pattern for files: wildcards are either regular `*` or recursive `**`"],
    );
    let missing = Config::load(Path::new("/nonexistent/evenkeel.yml")).unwrap_err();
    assert_eq!(
        missing[0].message,
        "cannot read the configuration: No such file or directory (os error 2)"
    );

    let rule = RULE.replace("NAME", "a");
    let (loaded, found) = load(&[
        ("evenkeel.yml", "rule_files: [a.yml, '*.yml', ./*.test.yml]\n"),
        ("a.yml", &rule),
    ]);
    // The glob matches the configuration itself, which is an error.
    assert!(loaded.is_none());
    assert!(
        found
            .iter()
            .any(|line| line == "evenkeel.yml:1:1 unknown key `rule_files` in a rule file"),
        "{found:?}"
    );
    let (loaded, found) = load(&[("evenkeel.yml", "rule_files: [a.yml, a.*]\n"), ("a.yml", &rule)]);
    assert_eq!((loaded.unwrap().rules.rules.len(), found.len()), (1, 0));
}

#[test]
fn mistakes_of_all_files_are_reported_together() {
    let (loaded, found) = load(&[
        (
            "evenkeel.yml",
            "mode: no\nrule_files: [a.yml, b.yml]\nalerting_rule_files: [c.yml]\n",
        ),
        ("a.yml", "rules: 7\n"),
        ("b.yml", &RULE.replace("nice: 5", "nice: 99")),
        ("c.yml", "groups: 1\n"),
    ]);
    assert!(loaded.is_none());
    let places: Vec<&str> = found.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["evenkeel.yml:1:7", "c.yml:1:1", "a.yml:1:8", "b.yml:5:20"]);
}

#[test]
fn rules_are_judged_against_what_stands_beside() {
    let rule = RULE.replace("NAME", "a") + "  hold: 1m\n";
    let alerts = "groups: [{name: g, rules: [{alert: B, expr: node_load1 == 0}, {record: r, expr: node_load1}]}]\n";
    let alertmanager =
        "route: {receiver: w, repeat_interval: 5m}\nreceivers: [{name: w, webhook_configs: [{url: x}]}]\n";
    let config = "rule_files: [a.yml]\nalerting_rule_files: [alerts.yml]\n";
    let (loaded, found) = load(&[
        ("evenkeel.yml", config),
        ("a.yml", &rule),
        ("alerts.yml", alerts),
        ("alerting/alertmanager.yml", alertmanager),
    ]);
    assert!(loaded.is_some());
    assert_eq!(
        found,
        [
            "a.yml:3:14 warning: no alerting rule file defines an alert `A`",
            "a.yml:6:9 warning: `hold` of 60s is not longer than Alertmanager's repeat_interval of 300s",
        ]
    );
    let rule = RULE.replace("NAME", "a") + "  while: 'sum('\n";
    let (loaded, found) = load(&[("evenkeel.yml", "rule_files: [a.yml]\n"), ("a.yml", &rule)]);
    assert!(loaded.is_none());
    assert!(found[0].starts_with("a.yml:6:11 `while` is not PromQL: "), "{found:?}");
}

#[test]
fn a_hold_that_own_evaluation_does_not_outpace_is_told() {
    let rule = |matchers: &str, hold: &str| {
        let matchers = format!("matchers: [{matchers}]");
        RULE.replace("NAME", "a")
            .replace("matchers: ['alertname=\"A\"']", &matchers)
            + &format!("  hold: {hold}\n")
    };
    let alerts = "groups:\n- {name: slow, interval: 2m, rules: [{alert: A, expr: node_load1 > 1, labels: {tier: t, x: '{{ $value }}'}}]}\n\
                  - {name: fast, rules: [{alert: B, expr: node_load1 > 1}]}\n";
    let config = "rule_files: [a.yml]\nalerting_rule_files: [alerts.yml]\n";
    let short = "a.yml:6:9 warning: `hold` of 15s is not longer than 15s, the shortest interval at which alerts are certain to repeat";
    let slow =
        "a.yml:6:9 warning: `hold` of 60s is shorter than the 120s after which group `slow` evaluates alert `A` again";
    for (matchers, hold, expected) in [
        ("alertname=A", "1m", Some(slow)),
        ("alertname=A", "2m", None),
        ("'alertname=~\"A|B\"', x=1", "1m", Some(slow)),
        ("alertname=A, tier=other", "1m", None),
        ("alertname=B", "1m", None),
        ("alertname=B", "15s", Some(short)),
        ("alertname=B", "16s", None),
    ] {
        let (loaded, found) = load(&[
            ("evenkeel.yml", config),
            ("a.yml", &rule(matchers, hold)),
            ("alerts.yml", alerts),
        ]);
        assert!(loaded.is_some());
        assert_eq!(found, Vec::from_iter(expected), "{matchers} {hold}");
    }
    // Without alerting rules, unless an Alertmanager is known to repeat sooner.
    let files = [
        ("evenkeel.yml", "rule_files: [a.yml]\n"),
        ("a.yml", &*rule("alertname=A", "15s")),
        (
            "alertmanager.yml",
            "route: {receiver: w, repeat_interval: 10s}\nreceivers: [{name: w, webhook_configs: [{url: x}]}]\n",
        ),
    ];
    assert_eq!(load(&files[..2]).1, [short]);
    assert_eq!(load(&files).1, [""; 0]);
}

#[test]
fn built_in_files_are_the_shipped_ones() {
    let embedded = Config::embedded().unwrap();
    assert_eq!(embedded.warnings, []);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = Config::load(&root.join("evenkeel.yml")).unwrap();
    assert_eq!(shipped.warnings, []);
    // Compiled patterns print themselves, so equal prints are equal configurations; only names of files differ.
    assert_eq!(format!("{:?}", embedded.rules), format!("{:?}", shipped.rules));
    assert!(embedded.rules.rules.len() >= 8);
    let bare = |config: &Config| {
        format!(
            "{:?}",
            Config {
                alerting_rules: Vec::new(),
                ..config.clone()
            }
        )
    };
    assert_eq!(bare(&embedded.config), bare(&shipped.config));
    let alerts = alert_names(&embedded.config.alerting_rules);
    assert_eq!(alerts, alert_names(&shipped.config.alerting_rules));
    assert!(alerts.contains("HostCpuSaturated"), "{alerts:?}");
}

#[test]
fn target_files_are_reread_and_an_invalid_one_keeps_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "evenkeel.yml",
        "alertmanagers: [{static_configs: [{targets: [am1]}], file_sd_configs: [{files: ['*.targets.yml']}]}]\n",
    );
    let loaded = Config::load(&directory.path().join("evenkeel.yml")).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "no file yet");
    let alertmanagers = &loaded.config.alertmanagers[0];
    let mut last_good = LastGood::default();
    let mut check = |expected: &[&str], problems: usize| {
        let (addresses, found) = alertmanagers.addresses(&mut last_good);
        let addresses: Vec<&str> = addresses.iter().filter_map(|address| address.host()).collect();
        assert_eq!((&addresses[..], found.len()), (expected, problems), "{found:?}");
    };
    check(&["am1"], 0);
    write("a.targets.yml", "- targets: [am2, am1]\n  labels: {zone: a}\n");
    check(&["am1", "am2"], 0);
    write("a.targets.yml", "- targets: [http://am3/]\n");
    check(&["am1", "am2"], 1);
    write("a.targets.yml", "- targets: [am3]\n");
    check(&["am1", "am3"], 0);
    fs::remove_file(directory.path().join("a.targets.yml")).unwrap();
    check(&["am1"], 0);
}

#[test]
fn mistakes_about_alertmanagers_are_found_before_the_start() {
    let check_one = |entry: &str, expected: &str| check(&format!("alertmanagers:\n- {entry}\n"), &[expected]);
    check_one("receiver: x", "evenkeel.yml:2:3 no address of an Alertmanager");
    check_one(
        "static_configs: [{targets: ['http://am:9093']}]",
        "evenkeel.yml:2:31 `http://am:9093` is no address of an Alertmanager: HOST:PORT, without scheme and path",
    );
    let with = |keys: &str| format!("static_configs: [{{targets: [am]}}]\n  {keys}");
    check_one(
        &with("basic_auth: {username: u}"),
        "evenkeel.yml:3:15 basic authentication has neither of `password` and `password_file`",
    );
    check_one(
        &with("authorization: {credentials: a, credentials_file: token}"),
        "evenkeel.yml:3:18 the authorization has both of `credentials` and `credentials_file`",
    );
    check_one(
        &with("authorization: {credentials: a}\n  basic_auth: {username: u, password: p}"),
        "evenkeel.yml:3:18 `basic_auth` and `authorization` set the same header",
    );
    check_one(
        &with("tls_config: {cert_file: token}"),
        "evenkeel.yml:3:15 a certificate and its key go together",
    );
    check(
        "reconcile: {interval: 30s, patience: 45s}",
        &["evenkeel.yml:1:38 `patience` is too short: one answer would decide"],
    );
    let (_, found) = load(&[(
        "evenkeel.yml",
        "alertmanagers: [{static_configs: [{targets: [am]}], authorization: {credentials_file: none}}]\n",
    )]);
    assert!(found[0].contains("cannot read none"), "{found:?}");
}

#[test]
fn files_of_another_kind_say_where_they_belong() {
    for (text, expected, help) in [
        (
            RULE,
            "unknown key `rules` in the configuration",
            "this is a rule file: list it under `rule_files`",
        ),
        (
            "groups: []\n",
            "unknown key `groups` in the configuration",
            "this is a file of alerting rules: list it under `alerting_rule_files`",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.yml");
        fs::write(&path, text).unwrap();
        let found = Config::load(&path).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].message.as_str(), found[0].help.as_deref()),
            (expected, Some(help))
        );
    }
}

/// The documented default of a key: the text between "Default" and the end of the sentence.
fn told_default(object: &crate::schema::Object, key: &str) -> String {
    let about = object.key(key).unwrap().about;
    let default = about.split_once("Default ").map_or("", |(_, rest)| rest);
    default.trim_end_matches('.').to_owned()
}

#[test]
fn reference_of_the_configuration_is_that_of_the_code() {
    use file::{BUDGET, CONFIG, GROUP, IDENTITY, RETENTION, SAMPLING, STORAGE, WEBHOOK};
    let text = include_str!("../../docs/configuration.md");
    for object in [
        &CONFIG, &SAMPLING, &WEBHOOK, &IDENTITY, &BUDGET, &STORAGE, &RETENTION, &GROUP,
    ] {
        let table = crate::schema::markdown(object);
        assert!(
            text.contains(&table),
            "docs/configuration.md wants this table of {}:\n{table}",
            object.title
        );
        let untold: Vec<&str> = object
            .keys
            .iter()
            .filter(|key| !key.required && !matches!(key.kind, crate::schema::Kind::Object(_)))
            .filter(|key| !key.about.contains("Default "))
            .map(|key| key.name)
            .collect();
        assert_eq!(untold, [""; 0], "defaults of {}", object.title);
    }
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 2);
    for example in examples {
        let (_, found) = load(&[
            ("evenkeel.yml", example),
            ("webhook.token", "secret\n"),
            ("rules/mine.yml", RULE),
            (
                "alerting/mine.rules.yml",
                "groups: [{name: g, rules: [{alert: A, expr: node_load1}]}]\n",
            ),
        ]);
        assert_eq!(found, [""; 0], "{example}");
    }
}

#[test]
fn defaults_that_the_reference_tells_are_the_defaults() {
    use file::{BUDGET, CONFIG, IDENTITY, RETENTION, SAMPLING, WEBHOOK};
    // With every default written out, the configuration is the one of an empty file.
    let keys = |object: &'static crate::schema::Object, names: &[&str]| -> String {
        let told = names
            .iter()
            .map(|name| format!("{name}: {}", told_default(object, name)));
        told.collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "{{{}, sampling: {{{}}}, webhook: {{{}}}, identity: {{{}}}, budget: {{{}}}, storage: {{retention: {{{}}}}}}}\n",
        keys(&CONFIG, &["mode", "evaluation_interval", "on_exit"]),
        keys(&SAMPLING, &["interval", "slow_interval"]),
        keys(&WEBHOOK, &["allow_unauthenticated"]),
        keys(&IDENTITY, &["labels"]),
        keys(&BUDGET, &["final_steps", "per"]),
        keys(&RETENTION, &["time", "size"]),
    );
    let (written, found) = load(&[("evenkeel.yml", &text)]);
    assert_eq!(found, [""; 0], "{text}");
    let (empty, _) = load(&[("evenkeel.yml", "")]);
    let shown = |loaded: Option<Loaded>| format!("{:?}", loaded.unwrap().config);
    assert_eq!(shown(written), shown(empty), "{text}");
}

#[test]
fn reference_of_alertmanagers_is_that_of_the_code() {
    use alertmanagers::{ALERTMANAGERS, AUTHORIZATION, BASIC_AUTH, FILE_SD, RECONCILE, STATIC, TLS};
    let text = include_str!("../../docs/alertmanager.md");
    for object in [
        &ALERTMANAGERS,
        &STATIC,
        &FILE_SD,
        &BASIC_AUTH,
        &AUTHORIZATION,
        &TLS,
        &RECONCILE,
    ] {
        let table = crate::schema::markdown(object);
        assert!(
            text.contains(&table),
            "docs/alertmanager.md wants this table of {}:\n{table}",
            object.title
        );
    }
    let examples = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    for example in examples {
        let (_, found) = load(&[
            ("evenkeel.yml", example),
            ("alertmanager.token", "secret\n"),
            ("alertmanagers/all.yml", "- targets: [am:9093]\n"),
        ]);
        assert_eq!(found, [""; 0], "{example}");
    }
}

#[test]
fn metrics_that_nothing_publishes_are_warned_of() {
    let rule = "rules:\n- name: end\n  matchers: ['alertname=\"A\"']\n  select: {name: x}\n  actions: [{signal: SIGTERM}]\n  \
                while: 'WHILE'\n";
    let found = |condition: &str| {
        let files = [
            ("evenkeel.yml", "rule_files: [r.yml]\nalerting_rule_files: [a.yml]\n"),
            ("r.yml", &rule.replace("WHILE", condition)),
            (
                "a.yml",
                "groups:\n- name: g\n  rules:\n  - record: my:load\n    expr: node_load1 / 2\n  # node_load2\n  \
                 - alert: A\n    expr: node_load1 > node_load2\n",
            ),
        ];
        let (loaded, mut found) = load(&files);
        assert!(loaded.is_some(), "{found:?}");
        assert_eq!(
            found.remove(0),
            "a.yml:8:24 warning: no collector of evenkeel publishes `node_load2`"
        );
        found
    };
    for fine in [
        "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1",
        "my:load > 2 and on () ALERTS{alertname=\"A\"}",
        // The metric of a driver that this host may lack.
        "node_hwmon_fan_min_rpm > 1 or node_memory_SomethingNew_bytes > 1",
        "{__name__=~\"node_.*\"} > 1",
        "evenkeel_memory_used_ratio > 0.7 or evenkeel_cpu_busy_ratio_distribution_count > 3",
    ] {
        assert_eq!(found(fine), [""; 0], "{fine}");
    }
    for (condition, column, name) in [
        ("node_memory_MemAvailble_bytes < 1", 11, "node_memory_MemAvailble_bytes"),
        ("1 < up", 15, "up"),
        ("rate(evenkeel_actions_total[1m]) > 0", 16, "evenkeel_actions_total"),
        ("my:laod > 0", 11, "my:laod"),
    ] {
        let expected = format!("r.yml:6:{column} warning: no collector of evenkeel publishes `{name}`");
        assert_eq!(found(condition), [expected], "{condition}");
    }
}

#[test]
fn the_shipped_files_have_no_warnings() {
    let warnings = Config::embedded().unwrap().warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}
