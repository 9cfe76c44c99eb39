//! Output and exit codes of `check` and `explain`.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use crate::support::burner::Burner;
use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::tools::succeed;
use crate::support::{eventually, node_name};

/// Three mistakes, in lines 3, 5 and 9.
const THREE_MISTAKES: &str = r#"rules:
  - name: first
    matcher: ['alertname="A"']
    matchers: ['alertname="A"']
    select: {name: "render[", min_age: 30s}
    actions: [{nice: 10}]
  - name: second
    matchers: ['alertname="B"']
    select: {user: render, min_age: soon}
    actions: [{signal: SIGTERM}]
"#;

#[test]
fn check_reports_every_mistake_with_its_place() {
    let home = Home::new(THREE_MISTAKES);
    let output = home.evenkeel("check").output().expect("evenkeel runs");
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (line, hint) in [(3, "matchers"), (5, "render["), (9, "soon")] {
        let place = format!("test.yml:{line}:");
        let told = said
            .find(&place)
            .unwrap_or_else(|| panic!("nothing about {place}\n{said}"));
        assert!(said[told..].contains(hint), "{place} does not mention {hint}\n{said}");
    }
    let places = said.matches("test.yml:").count();
    assert_eq!(places, 3, "three mistakes, three errors\n{said}");
}

#[test]
fn run_with_a_bad_rule_file_binds_no_port() {
    let home = Home::new(THREE_MISTAKES);
    // The ports are in use, so a daemon that reached the bind would report that.
    let taken = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    let [metrics, webhook] = [&taken[0], &taken[1]].map(|listener| {
        listener
            .local_addr()
            .expect("a bound listener has an address")
            .to_string()
    });
    let (status, said) = home.run_to_its_end(&metrics, &webhook);
    assert!(!status.success(), "{said}");
    assert!(said.contains("test.yml:3:"), "{said}");
    assert!(!said.contains(&metrics) && !said.contains(&webhook), "{said}");
}

#[test]
fn check_accepts_what_ships() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    succeed(check.arg("check").arg(format!("--config.file={root}/evenkeel.yml")));
}

/// Runs `check` in a folder with these files and further arguments; returns exit code and output.
fn check_in(files: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a writable folder");
    }
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let output = check.arg("check").args(arguments).current_dir(folder.path()).output();
    let output = output.expect("evenkeel runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn check_warns_of_a_rate_limit_on_the_webhook_listener() {
    let files = [
        ("evenkeel.yml", ""),
        ("web.yml", "rate_limit: {interval: 1s, burst: 5}\n"),
    ];
    let named = ["--config.file=evenkeel.yml", "--webhook.config.file=web.yml"];
    let (code, said) = check_in(&files, &named);
    assert!(
        code == Some(0) && said.contains("`rate_limit` on the webhook listener"),
        "{said}"
    );
    let (code, said) = check_in(&[("evenkeel.yml", ""), ("web.yml", "rate_limi: {}\n")], &named);
    assert!(code == Some(1) && said.contains("web.yml"), "{said}");
}

#[test]
fn check_says_what_it_looked_at() {
    let named = ["--config.file=evenkeel.yml"];
    let (code, said) = check_in(&[("evenkeel.yml", "")], &named);
    let expected = "evenkeel.yml: 0 rules and 0 files of alerting rules are valid\n";
    assert_eq!((code, said.as_str()), (Some(0), expected));

    let rule = "rules: [{name: r, matchers: ['alertname=\"A\"'], select: {name: x}, actions: [{freeze: true}]}]\n";
    let (_, said) = check_in(&[("evenkeel.yml", "rule_files: [r.yml]\n"), ("r.yml", rule)], &named);
    assert!(said.contains("evenkeel.yml: 1 rule and 0 files of"), "{said}");

    let (code, said) = check_in(&[("r.yml", rule)], &["--config.file=r.yml"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("this is a rule file: list it under `rule_files`"),
        "{said}"
    );

    // Only for machines without an installed configuration.
    if !std::path::Path::new("/etc/evenkeel/evenkeel.yml").exists() {
        let (_, said) = check_in(&[], &[]);
        let expected = "built-in configuration (no file at /etc/evenkeel/evenkeel.yml): ";
        assert!(said.contains(expected) && said.contains(" and 1 file of"), "{said}");
        assert!(!said.contains("not looked at"), "{said}");
        let (_, said) = check_in(&[("evenkeel.yml", "")], &[]);
        assert!(said.contains("check it with --config.file=evenkeel.yml"), "{said}");
    }
}

#[test]
fn check_warns_where_run_would_refuse() {
    let named = ["--config.file=evenkeel.yml"];
    for (text, warned) in [
        ("mode: enforce\n", true),
        ("mode: enforce\nwebhook: {token_file: token}\n", false),
        ("mode: enforce\nwebhook: {allow_unauthenticated: true}\n", false),
        ("mode: dry-run\n", false),
    ] {
        let (code, said) = check_in(&[("evenkeel.yml", text), ("token", "secret\n")], &named);
        assert_eq!(code, Some(0), "{said}");
        let tells = said.contains("`mode: enforce` without authentication") && said.contains("token_file");
        assert_eq!(tells, warned, "{text}\n{said}");
    }
}

#[test]
fn explain_protects_the_running_daemon_as_that_would_itself() {
    let rule =
        "rules: [{name: end-us, matchers: ['alertname=\"Test\"'], select: {name: evenkeel}, actions: [{nice: 15}]}]\n";
    let home = Home::new(rule);
    home.write("payload.json", &about("Test", &node_name()));
    let daemon = home.start(&[]);
    let pid = daemon.pid().to_string();
    let storage = format!("--storage.path={}", home.path().join("storage").display());
    // The control socket opens last.
    eventually("the control socket", Duration::from_secs(20), || {
        home.path().join("storage/control.sock").exists().then_some(())
    });
    let recorded = home.path().join("host.json");
    let mut record = home.evenkeel("explain");
    succeed(record.arg("--record").arg(&recorded).arg(&storage));
    for host in [None, Some(&recorded)] {
        let mut explain = home.evenkeel("explain");
        explain.arg("--alert").arg(home.path().join("payload.json"));
        explain.args(["--pid", &pid]).arg(&storage);
        if let Some(host) = host {
            explain.arg("--host").arg(host);
        }
        let said = succeed(&mut explain);
        let expected = format!("{pid} evenkeel is selected but excluded: evenkeel and its ancestors");
        let words: Vec<&str> = said.split_ascii_whitespace().collect();
        assert!(words.join(" ").contains(&expected), "{said}");
    }
}

#[test]
fn explain_shows_matches_targets_steps_and_denials() {
    let number = std::process::id() % 100_000;
    let name = format!("explain-{number}");
    let burner = Burner::start(&name);
    let home = Home::new(&format!(
        "rules:\n\
         \x20 - {{name: calm-it, matchers: ['alertname=\"Test\"'], select: {{name: {name}}}, actions: [{{nice: 15}}]}}\n\
         \x20 - {{name: not-this, matchers: ['alertname=\"Other\"'], select: {{name: {name}}}, actions: [{{nice: 5}}]}}\n\
         \x20 - {{name: never-init, matchers: ['alertname=\"Test\"'], select: {{pid: 1}}, actions: [{{nice: 5}}]}}\n"
    ));
    let payload = about("Test", &node_name());
    home.write("payload.json", &payload);

    let mut from_file = home.evenkeel("explain");
    let said = succeed(from_file.arg("--alert").arg(home.path().join("payload.json")));
    for expected in [
        "calm-it",
        "not-this",
        "never-init",
        &burner.pid().to_string(),
        &name,
        "nice",
        "15",
        "protected",
    ] {
        assert!(said.contains(expected), "nothing about {expected}\n{said}");
    }
    assert!(!burner.is_at(15), "explain does nothing");

    let mut from_stdin = home.evenkeel("explain");
    let piped = from_stdin
        .args(["--alert", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = piped.spawn().expect("evenkeel runs");
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(payload.as_bytes())
        .expect("evenkeel reads");
    let output = child.wait_with_output().expect("evenkeel ends");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("calm-it"));
}

/// Runs evenkeel on a terminal of 80 columns, through `script`.
fn on_a_terminal(arguments: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("stty cols 80; {} {arguments}", env!("CARGO_BIN_EXE_evenkeel"));
    let mut script = std::process::Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied());
    let output = script.stdin(Stdio::null()).output().expect("script of util-linux runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    let home = Home::new(THREE_MISTAKES);
    let arguments = format!("check --config.file={}", home.path().join("evenkeel.yml").display());
    let painted = on_a_terminal(&arguments, &[]);
    assert!(painted.contains("\u{1b}[1;31merror"), "{painted}");
    for variables in [&[("NO_COLOR", "1")][..], &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]] {
        let plain = on_a_terminal(&arguments, variables);
        assert!(plain.contains("error: ") && !plain.contains('\u{1b}'), "{plain}");
    }
    let piped = home.evenkeel("check").output().expect("evenkeel runs").stdout;
    assert!(!piped.contains(&0x1b), "{}", String::from_utf8_lossy(&piped));
}

#[test]
fn shells_and_man_know_the_command_line() {
    let evenkeel = || std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = folder.path().join("completions");
    std::fs::write(&script, succeed(evenkeel().args(["completions", "bash"]))).expect("a writable folder");
    // The completions of bash after `evenkeel leases --o`.
    let ask = "source \"$1\"; COMP_WORDS=(evenkeel leases --o); COMP_CWORD=2; _evenkeel evenkeel --o leases; echo \"${COMPREPLY[*]}\"";
    let offered = succeed(
        std::process::Command::new("bash")
            .args(["-c", ask, "bash"])
            .arg(&script),
    );
    assert_eq!(offered.trim(), "--output");
    assert!(succeed(evenkeel().args(["man", "history"])).contains(".TH evenkeel-history 1"));
    let unknown = evenkeel().args(["man", "histories"]).output().expect("evenkeel runs");
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn check_takes_files_of_each_kind() {
    let rule = "rules: [{name: r, matchers: ['alertname=\"A\"'], select: {group: batch}, actions: [{freeze: true}]}]\n";
    let alerts = "groups: [{name: g, rules: [{alert: A, expr: 'vector(1)'}]}]\n";
    let plain = rule.replace("group: batch", "name: x");
    let files = [
        ("plain.yml", &*plain),
        ("grouped.yml", rule),
        ("alerts.yml", alerts),
        ("unit.test.yml", "tests: []\n"),
        ("evenkeel.yml", "process_groups: [{name: batch, select: {name: x}}]\n"),
        ("wrong.yml", "rules: [{nam: r}]\n"),
    ];
    let check = |arguments: &[&str]| check_in(&files, arguments);
    let (code, said) = check(&["plain.yml", "alerts.yml"]);
    let expected = "plain.yml, alerts.yml: 1 rule and 1 file of alerting rules are valid\n";
    assert_eq!((code, said.as_str()), (Some(0), expected));
    let (code, said) = check(&["evenkeel.yml"]);
    let expected = "evenkeel.yml: 0 rules and 0 files of alerting rules are valid\n";
    assert_eq!((code, said.as_str()), (Some(0), expected));
    // The rule files of the configuration are not those that are checked, but its process groups count.
    let (code, said) = check(&["grouped.yml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no process group `batch`"), "{said}");
    let (code, said) = check(&["--config.file=evenkeel.yml", "grouped.yml"]);
    assert_eq!(code, Some(0), "{said}");
    for (file, expected) in [
        ("unit.test.yml", "`evenkeel test`"),
        ("missing.yml", "cannot read"),
        ("wrong.yml", "wrong.yml:1:10"),
    ] {
        let (code, said) = check(&["plain.yml", file]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected), "{file}: {said}");
    }
}

#[test]
fn check_warns_of_what_this_host_lacks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    std::fs::write(&data, "").expect("a writable folder");
    let data = data.display();
    let rules = format!(
        "rules:\n\
         - {{name: users, matchers: ['alertname=\"A\"'], select: {{user: 'root|no-such-user|4711'}}, actions: [{{nice: 5}}]}}\n\
         - name: programs\n\
         \x20 matchers: ['alertname=\"A\"']\n\
         \x20 actions:\n\
         \x20 - exec: {{argv: [/no/such/program], undo: [/bin/true], user: no-such-user-either}}\n\
         \x20 - exec: [{data}]\n"
    );
    let (code, said) = check_in(&[("r.yml", &rules)], &["r.yml"]);
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "this host has no user `no-such-user`",
        "this host has no user `no-such-user-either`",
        "this host has no program `/no/such/program`",
        &format!("`{data}` is not executable"),
    ] {
        assert_eq!(said.matches(expected).count(), 1, "{expected}\n{said}");
    }
    assert!(
        !said.contains("`root`") && !said.contains("4711`") && !said.contains("/bin/true`"),
        "{said}"
    );
}

#[test]
fn leases_are_read_from_the_ledger_of_a_daemon_that_is_down() {
    let comm = format!("ledger-{}", std::process::id() % 100_000);
    let home = Home::new(&format!(
        "rules: [{{name: calm, matchers: ['alertname=\"Test\"'], select: {{name: {comm}}}, actions: [{{nice: 13}}]}}]\n"
    ));
    let burner = Burner::start(&comm);
    let mut daemon = home.start(&["--enforce"]);
    assert_eq!(daemon.post(about("Test", &node_name()).as_bytes()).status, 200);
    eventually("the nice value", Duration::from_secs(20), || {
        burner.is_at(13).then_some(())
    });
    daemon.wait_for_leases(1);
    eventually("the control socket", Duration::from_secs(20), || {
        home.path().join("storage/control.sock").exists().then_some(())
    });
    let leases = |output: &str| {
        let mut leases = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        leases.args(["leases", output]);
        leases.arg(format!("--storage.path={}", home.path().join("storage").display()));
        leases.output().expect("evenkeel runs")
    };
    let rows = |output: &std::process::Output| -> serde_json::Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let asked = leases("--output=json");
    assert!(asked.stderr.is_empty(), "{}", String::from_utf8_lossy(&asked.stderr));
    let asked = rows(&asked);
    daemon.kill();
    let read = leases("--output=json");
    assert!(String::from_utf8_lossy(&read.stderr).contains("no daemon answers"));
    let read = rows(&read);
    for found in [&asked, &read] {
        let row = found[0].as_object().expect("a lease");
        assert!(
            row.values().all(|value| !value.is_object() && !value.is_array()),
            "{found}"
        );
        assert_eq!(
            (&row["pid"], &row["after"]),
            (&burner.pid().into(), &"13".into()),
            "{found}"
        );
        let deadline = row["deadline"].as_str().expect("a time");
        assert!(deadline.ends_with('Z') && deadline.contains('T'), "{found}");
    }
    let text = leases("--output=text");
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains(&comm) && text.contains("-> 13"), "{text}");
    let nowhere = home.path().join("nowhere");
    let mut missing = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let missing = missing
        .args(["leases", "--storage.path"])
        .arg(nowhere)
        .output()
        .expect("evenkeel runs");
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(!missing.status.success() && said.contains("control.sock"), "{said}");
}

#[test]
fn explain_names_the_label_that_an_alert_lacks() {
    let home = Home::new(
        "rules: [{name: calm, matchers: ['alertname=\"Test\"'], select: {pid: '{{ $labels.pid }}', name: x}, actions: [{nice: 13}]}]\n",
    );
    home.write("payload.json", &about("Test", &node_name()));
    let mut explain = home.evenkeel("explain");
    let said = succeed(explain.arg("--alert").arg(home.path().join("payload.json")));
    assert!(said.contains("the alert has no label `pid`"), "{said}");
}
