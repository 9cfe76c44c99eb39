//! A reload of the running daemon: everything that can fail comes first, then one swap. Leases survive a change of
//! their rule, but not its removal.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::payload::about;
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
const FIRST_NICE: i32 = 11;
const SECOND_NICE: i32 = 17;

fn rules(comm: &str, rule: &str, nice: i32) -> String {
    format!(
        "rules:\n\
         \x20 - name: {rule}\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {{name: {comm}}}\n\
         \x20   actions: [{{nice: {nice}}}]\n"
    )
}

fn wait_until_loaded(evenkeel: &Daemon, successful: f64, rule_count: f64) {
    eventually("the reload in the metrics", TIMEOUT, || {
        let is_so = evenkeel.metric("evenkeel_config_last_reload_successful", &[]) == successful
            && evenkeel.metric("evenkeel_rules", &[]) == rule_count;
        is_so.then_some(())
    });
}

fn ask_to_reload(evenkeel: &Daemon) -> http::Response {
    http::request(evenkeel.metrics, "POST", "/-/reload", &[], b"").expect("evenkeel answers")
}

#[test]
fn a_bad_file_changes_nothing_and_a_removed_rule_lets_go() {
    let comm = format!("reload-{}", std::process::id() % 100_000);
    let home = Home::new(&rules(&comm, "calm", FIRST_NICE));
    let burner = Burner::start(&comm);
    let before = burner.nice_values();
    let evenkeel = home.start(&["--enforce", "--web.enable-lifecycle"]);
    let fire = || assert_eq!(evenkeel.post(about("Test", &node_name()).as_bytes()).status, 200);
    let holds = |nice| eventually("the rule's nice value", TIMEOUT, || burner.is_at(nice).then_some(()));
    fire();
    holds(FIRST_NICE);
    let loaded_at = evenkeel.metric("evenkeel_config_last_reload_success_timestamp_seconds", &[]);

    // A reload of an invalid file by signal: the last valid one stays active, and the metrics show that.
    home.write(
        "rules/test.yml",
        &rules(&comm, "calm", FIRST_NICE).replace("select", "selct"),
    );
    evenkeel.reload();
    wait_until_loaded(&evenkeel, 0.0, 1.0);
    holds(FIRST_NICE);
    evenkeel.log_with("selct");
    // A reload by request: the response shows the error as well.
    let answer = ask_to_reload(&evenkeel);
    assert!(
        answer.status == 500 && answer.body.contains("test.yml:4:"),
        "{answer:?}"
    );
    assert_eq!(
        evenkeel.metric("evenkeel_config_last_reload_success_timestamp_seconds", &[]),
        loaded_at
    );

    // Changing the rule leaves its lease as it is.
    home.write("rules/test.yml", &rules(&comm, "calm", SECOND_NICE));
    assert_eq!(ask_to_reload(&evenkeel).status, 200);
    wait_until_loaded(&evenkeel, 1.0, 1.0);
    assert!(evenkeel.metric("evenkeel_config_last_reload_success_timestamp_seconds", &[]) > loaded_at);
    fire();
    assert!(
        burner.is_at(FIRST_NICE),
        "a target that had a step keeps its value where the steps changed"
    );
    eventually("the lease in the metrics", TIMEOUT, || {
        (evenkeel.metric("evenkeel_leases", &[("rule", "calm")]) == 1.0).then_some(())
    });

    // Removing the rule reverts its steps.
    home.write("rules/test.yml", &rules("no-such-process", "other", SECOND_NICE));
    evenkeel.reload();
    eventually("the former nice values", TIMEOUT, || {
        (burner.nice_values() == before).then_some(())
    });
    // Metrics follow the action, and concurrent scrapes share a response.
    eventually("no lease in the metrics", TIMEOUT, || {
        (evenkeel.metric("evenkeel_leases", &[("rule", "calm")]) == 0.0).then_some(())
    });
    fire();
    assert_eq!(burner.nice_values(), before);
}

#[test]
fn reload_by_request_needs_permission() {
    let home = Home::new(&rules("no-such", "calm", FIRST_NICE));
    let evenkeel = home.start(&[]);
    assert_eq!(ask_to_reload(&evenkeel).status, 403);
}

#[test]
fn settings_that_need_a_restart_are_named() {
    let home = Home::new(&rules("no-such-process", "calm", FIRST_NICE));
    let evenkeel = home.start(&[]);
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 2s}\nrule_files: [rules/*.yml]\nwebhook: {token_file: webhook.token}\n",
    );
    evenkeel.reload();
    let warnings = eventually("the warning", TIMEOUT, || {
        let of_keys = |line: &String| line.contains("takes effect at the next start");
        let warnings: Vec<String> = evenkeel.log().into_iter().filter(of_keys).collect();
        (!warnings.is_empty()).then_some(warnings)
    });
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("key=sampling"), "{warnings:?}");
}

/// `evenkeel reload` as `systemctl reload` runs it: whether it succeeded, and what it printed.
fn reload_by_command(home: &Home) -> (bool, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command
        .arg("reload")
        .arg(format!("--storage.path={}", home.path().join("storage").display()));
    // The socket may follow the listeners.
    let socket = home.path().join("storage/control.sock");
    eventually("the control socket", TIMEOUT, || socket.exists().then_some(()));
    let output = command.output().expect("evenkeel runs");
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

#[test]
fn command_fails_where_the_configuration_is_refused() {
    let good = rules("no-such-process", "calm", FIRST_NICE);
    let home = Home::new(&good);
    let evenkeel = home.start(&[]);
    assert_eq!(reload_by_command(&home), (true, "reloaded\n".to_owned()));
    home.write("rules/test.yml", &good.replace("select", "selct"));
    let (is_ok, printed) = reload_by_command(&home);
    assert!(!is_ok && printed.contains("selct"), "{printed}");
    assert!(
        printed.contains("the last good configuration stays in force"),
        "{printed}"
    );
    wait_until_loaded(&evenkeel, 0.0, 1.0);
}

#[test]
fn reload_to_enforce_with_a_new_token_asks_for_a_restart() {
    let home = Home::new(&rules("no-such-process", "calm", FIRST_NICE));
    home.write("evenkeel.yml", "rule_files: [rules/*.yml]\n");
    let _evenkeel = home.start(&[]);
    let enforce = "mode: enforce\nrule_files: [rules/*.yml]\n";
    home.write("evenkeel.yml", enforce);
    let (is_ok, printed) = reload_by_command(&home);
    assert!(!is_ok && printed.contains("set webhook.token_file"), "{printed}");
    home.write(
        "evenkeel.yml",
        &format!("{enforce}webhook: {{token_file: webhook.token}}\n"),
    );
    let (is_ok, printed) = reload_by_command(&home);
    assert!(
        !is_ok && printed.contains("takes effect at the next start"),
        "{printed}"
    );
    assert!(!printed.contains("set webhook.token_file"), "{printed}");
    let checked = home.evenkeel("check").output().expect("evenkeel runs");
    let printed = String::from_utf8_lossy(&checked.stderr);
    assert!(printed.contains("takes effect at the next start"), "{printed}");
}

/// As where a reload comes while an editor or a copy writes the file.
#[test]
fn truncated_rule_file_is_refused_or_has_fewer_rules() {
    let comm = format!("trunc-{}", std::process::id() % 100_000);
    let whole = format!(
        "{}\x20 - name: more\n\
         \x20   matchers: ['alertname=\"More\"']\n\
         \x20   select: {{name: {comm}}}\n\
         \x20   actions:\n\
         \x20     - nice: {FIRST_NICE}\n\
         \x20     - wait: 30s\n\
         \x20     - signal: SIGTERM\n",
        rules(&comm, "calm", FIRST_NICE)
    );
    let home = Home::new(&whole);
    let burner = Burner::start(&comm);
    let evenkeel = home.start(&["--enforce", "--web.enable-lifecycle"]);
    assert_eq!(evenkeel.post(about("Test", &node_name()).as_bytes()).status, 200);
    evenkeel.wait_for_leases(1);
    let mut accepted = BTreeSet::new();
    for length in (0..whole.len()).rev() {
        let rest = &whole[..length];
        home.write("rules/test.yml", rest);
        let answer = ask_to_reload(&evenkeel);
        match answer.status {
            200 => drop(accepted.insert(rest.trim().lines().last().expect("a rule").trim())),
            500 => assert!(answer.body.contains("rules/test.yml:"), "{rest:?}: {answer:?}"),
            _ => panic!("{rest:?}: {answer:?}"),
        }
        assert!(burner.is_at(FIRST_NICE), "{rest:?}");
    }
    // Where the rest is valid, it counts: with the rule `more` less, with fewer steps, or with another number.
    let valid = [
        "- signal: SIGTERM",
        "- wait: 30s",
        "- nice: 11",
        "- nice: 1",
        "actions: [{nice: 11}]",
    ];
    assert_eq!(accepted, BTreeSet::from(valid));
    // The last valid rest, which is the first rule, is in force.
    wait_until_loaded(&evenkeel, 0.0, 1.0);
    home.write("rules/test.yml", &whole);
    assert_eq!(ask_to_reload(&evenkeel).status, 200);
    wait_until_loaded(&evenkeel, 1.0, 2.0);
    assert!(burner.is_at(FIRST_NICE) && evenkeel.leases() == 1);
}
