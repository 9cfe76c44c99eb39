//! Tests of configurations in real directories, and of the shipped one. The golden files of `diagnostics` hold what is
//! reported about mistakes.

mod diagnostics;

use super::*;
use crate::process::ProcessFields;
use crate::sense::groups::group::{DEFAULT_METRICS, ExtraMetrics};
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
        (config.budget.final_steps, config.budget.commands, config.budget.per),
        (3, 10, Duration::from_secs(300))
    );
    assert_eq!(config.local["job"], "evenkeel");
}

#[test]
fn budget_that_forbids_kills_forbids_commands_by_default() {
    for (budget, expected) in [("{final_steps: 0}", 0), ("{final_steps: 0, commands: 2}", 2)] {
        let (loaded, found) = load(&[("evenkeel.yml", &format!("budget: {budget}\n"))]);
        assert_eq!(found, [""; 0]);
        assert_eq!(loaded.unwrap().config.budget.commands, expected);
    }
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
budget: {final_steps: 1, commands: 2, per: 1h}
on_exit: keep
storage: {retention: {time: 30d, size: 20MiB}}
process_groups:
  - {name: batch, select: {cgroup: '/batch\\.slice/.*'}}
  - {name: big-batch, select: {group: batch, min_memory: 1GiB}, metrics: [io, open_fds]}
  - {name: '{{.Comm}} {{.Matches.app}}', select: {unit: 'app-(?P<app>.*)'}, metrics: [threads, smaps]}
grouping: {match: first, metric_names: [evenkeel, process-exporter], max_groups: 50, max_thread_names: 60, remove_empty: true}
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
        ("token", "a-secret-of-24-characters\n"),
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
    assert!(config.webhook.token_file.as_ref().unwrap().ends_with("token"));
    assert_eq!(config.host_names.labels, ["host", "node"]);
    assert_eq!(config.host_names.names, ["db1", "127.0.0.1"]);
    assert_eq!(config.protect.len(), 2);
    assert_eq!(
        (config.budget.final_steps, config.budget.per),
        (1, Duration::from_secs(3600))
    );
    let groups: Vec<&str> = config.process_groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(groups, ["batch", "big-batch", "{{.Comm}} {{.Matches.app}}"]);
    assert_eq!(config.groups().keys().collect::<Vec<_>>(), ["batch", "big-batch"]);
    assert_eq!(config.process_groups[2].metrics, ProcessFields::empty());
    assert_eq!(
        config.process_groups[2].extra,
        ExtraMetrics::THREADS | ExtraMetrics::SMAPS
    );
    assert_eq!(
        config.grouping,
        Grouping {
            first_match: true,
            own_names: true,
            exporter_names: true,
            max_groups: 50,
            max_thread_names: 60,
            remove_empty: true,
        }
    );
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
fn missing_configuration_is_an_error() {
    let missing = Config::load(Path::new("/nonexistent/evenkeel.yml")).unwrap_err();
    assert_eq!(
        missing[0].message,
        "cannot read the configuration: No such file or directory (os error 2)"
    );
}

#[test]
fn file_that_two_patterns_name_is_read_once() {
    let rule = RULE.replace("NAME", "a");
    let (loaded, found) = load(&[("evenkeel.yml", "rule_files: [a.yml, a.*]\n"), ("a.yml", &rule)]);
    assert_eq!((loaded.unwrap().rules.rules.len(), found.len()), (1, 0));
}

#[test]
fn built_in_files_are_those_that_ship() {
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
fn address_files_are_reread_and_broken_ones_keep_the_last() {
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

/// The documented default of a key: the text between "Default" and the end of the sentence.
fn told_default(object: &crate::schema::Object, key: &str) -> String {
    let about = object.key(key).unwrap().about;
    let default = about.split_once("Default ").map_or("", |(_, rest)| rest);
    default.trim_end_matches('.').to_owned()
}

#[test]
fn reference_of_the_configuration_is_that_of_the_code() {
    use file::{BUDGET, CONFIG, IDENTITY, RETENTION, SAMPLING, STORAGE, WEBHOOK};
    use groups::{GROUP, GROUPING};
    let text = include_str!("../../docs/configuration.md");
    for object in [
        &CONFIG, &SAMPLING, &WEBHOOK, &IDENTITY, &BUDGET, &STORAGE, &RETENTION, &GROUP, &GROUPING,
    ] {
        let table = crate::schema::tests::markdown(object);
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
            ("webhook.token", "a-secret-of-24-characters\n"),
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
fn documented_defaults_are_the_defaults() {
    use file::{BUDGET, CONFIG, IDENTITY, RETENTION, SAMPLING, WEBHOOK};
    use groups::GROUPING;
    // With every default written out, the configuration is the one of an empty file.
    let keys = |object: &'static crate::schema::Object, names: &[&str]| -> String {
        let told = names
            .iter()
            .map(|name| format!("{name}: {}", told_default(object, name)));
        told.collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "{{{}, sampling: {{{}}}, webhook: {{{}}}, identity: {{{}}}, budget: {{{}}}, storage: {{retention: {{{}}}}}, grouping: {{{}}}}}\n",
        keys(&CONFIG, &["mode", "evaluation_interval", "on_exit"]),
        keys(&SAMPLING, &["interval", "slow_interval"]),
        keys(&WEBHOOK, &["allow_unauthenticated"]),
        keys(&IDENTITY, &["labels"]),
        keys(&BUDGET, &["final_steps", "per"]),
        keys(&RETENTION, &["time", "size"]),
        keys(
            &GROUPING,
            &[
                "match",
                "metric_names",
                "max_groups",
                "max_thread_names",
                "remove_empty"
            ]
        ),
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
        let table = crate::schema::tests::markdown(object);
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
fn the_shipped_files_have_no_warnings() {
    let warnings = Config::embedded().unwrap().warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}
