//! Allocations and commands with the real binary, a server with faults, real processes, and crashes in between.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Group, Uid, User};
use serde_json::{Value, json};

use crate::support::broker::{Broker, FAULTS, Seen};
use crate::support::daemon::{Daemon, Home};
use crate::support::eventually;
use crate::support::payload::{envelope, firing};

const TIMEOUT: Duration = Duration::from_secs(60);
/// The uid of the unprivileged user that every distribution has.
const OTHER_USER: u32 = 65_534;

/// A rule for the alert `More` of any host.
fn rules(steps: &str) -> String {
    format!("rules:\n- name: more\n  matchers: ['alertname=\"More\"']\n  any_host: true\n  actions:\n{steps}\n")
}

fn alert(fault: &str, more: Value) -> Value {
    let mut labels = json!({"alertname": "More", "fault": fault});
    let all = labels.as_object_mut().expect("labels");
    all.extend(more.as_object().cloned().unwrap_or_default());
    let mut alert = firing(labels);
    let number = fault
        .bytes()
        .fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    alert["fingerprint"] = json!(format!("{number:016x}"));
    alert
}

fn send(daemon: &Daemon, alerts: &[Value]) {
    let answer = daemon.post(envelope(alerts).to_string().as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn resolved(mut alert: Value) -> Value {
    alert["status"] = json!("resolved");
    alert["endsAt"] = json!("2024-01-02T04:04:05.678Z");
    alert
}

fn allocate(broker: &Broker, home: &Path) -> String {
    let (scheme, tls) = match &broker.certificate {
        None => ("http", String::new()),
        Some(pem) => {
            let path = home.join("ca.pem");
            std::fs::write(&path, pem).expect("a writable folder");
            ("https", format!("\n      tls_config: {{ca_file: {}}}", path.display()))
        }
    };
    let token = home.join("broker.token");
    std::fs::write(&token, "the-secret\n").expect("a writable folder");
    let (port, token) = (broker.address.port(), token.display());
    format!(
        "  - allocate:\n      url: {scheme}://localhost:{port}/allocate\n      body: {{fault: '{{{{ $labels.fault }}}}', cpus: 2}}\n      \
         resource: /resource\n      timeout: 1s\n      authorization: {{credentials_file: {token}}}{tls}\n      \
         release: {{url: '{scheme}://localhost:{port}/release/{{{{ $resource }}}}'}}"
    )
}

fn every_fault_ends_in_one_grant_and_one_release(broker: &Broker) {
    let home = Home::new("rules: []\n");
    home.write("rules/test.yml", &rules(&allocate(broker, home.path())));
    let daemon = home.start(&["--enforce"]);
    let alerts: Vec<Value> = FAULTS.iter().map(|(fault, _)| alert(fault, json!({}))).collect();
    send(&daemon, &alerts);
    let granted = || daemon.metric("evenkeel_allocations", &[("state", "granted")]) as usize;
    eventually("all to be granted", TIMEOUT, || {
        (granted() == FAULTS.len()).then_some(())
    });
    assert_eq!(broker.books().live.len(), FAULTS.len());
    // A repeat sends no request.
    let before = broker.books().seen.len();
    send(&daemon, &alerts);
    assert_eq!(broker.books().seen.len(), before);
    send(&daemon, &alerts.into_iter().map(resolved).collect::<Vec<_>>());
    let held = || daemon.metric("evenkeel_leases", &[("knob", "allocate")]);
    eventually("all to be given back", TIMEOUT, || (held() == 0.0).then_some(()));
    let books = broker.books();
    assert!(books.live.is_empty(), "leaked: {:?}", books.live);
    assert_eq!(
        (books.granted.len(), books.given_back.len()),
        (FAULTS.len(), FAULTS.len())
    );
    assert!(
        books.given_back.values().all(|count| *count == 1),
        "{:?}",
        books.given_back
    );
    assert!(
        books
            .seen
            .iter()
            .all(|seen| seen.header("authorization") == Some("Bearer the-secret"))
    );
    let asks = |seen: &Seen| seen.method == "POST" && seen.target == "/allocate";
    let gives = |seen: &Seen| seen.method == "DELETE" && seen.target.starts_with("/release/r-");
    assert!(books.seen.iter().all(|seen| asks(seen) || gives(seen)));
    assert!(
        books.seen.iter().all(|seen| seen.target != "/elsewhere"),
        "a redirect was followed"
    );
    drop(books);
    assert_eq!(home.outcomes("granted"), FAULTS.len());
    assert_eq!(home.outcomes("released"), FAULTS.len());
    for words in [
        "status 500",
        "status 403",
        "a redirect",
        "not JSON",
        "the response has no value at",
        "no answer within 1 s",
        "larger than",
    ] {
        assert!(
            home.ledger_has_row_with(&["failed", words]),
            "no row tells of {words:?}"
        );
    }
    assert!(!home.ledger_has_row_with(&["the-secret"]), "a secret is in the ledger");
}

#[test]
fn every_fault_of_an_allocator_ends_in_one_grant_and_release() {
    every_fault_ends_in_one_grant_and_one_release(&Broker::plain());
}

#[test]
fn every_fault_over_tls_ends_in_one_grant_and_release() {
    every_fault_ends_in_one_grant_and_one_release(&Broker::with_tls());
}

#[test]
fn request_of_a_killed_daemon_is_released_by_the_next() {
    let broker = Broker::plain();
    let home = Home::new("rules: []\n");
    home.write("rules/test.yml", &rules(&allocate(&broker, home.path())));
    let mut daemon = home.start(&["--enforce"]);
    let hanging = alert("hanging", json!({}));
    send(&daemon, std::slice::from_ref(&hanging));
    eventually("the request to arrive", TIMEOUT, || {
        (!broker.books().live.is_empty()).then_some(())
    });
    daemon.kill();
    let mut daemon = home.start(&["--enforce"]);
    send(&daemon, &[resolved(hanging)]);
    eventually("it to be given back", TIMEOUT, || {
        broker.books().live.is_empty().then_some(())
    });
    assert_eq!(broker.books().granted.len(), 1, "one key over all");
    // A regular shutdown releases the resource.
    send(&daemon, &[alert("none", json!({}))]);
    let granted = || daemon.metric("evenkeel_allocations", &[("state", "granted")]);
    eventually("it to be granted", TIMEOUT, || (granted() == 1.0).then_some(()));
    // The lease of the first allocation ends once the response to its release has arrived.
    daemon.wait_for_leases(1);
    assert!(daemon.terminate().success());
    let shutting_down = "msg=\"shutting down\" leases=1";
    eventually("the log of the shutdown", TIMEOUT, || {
        let log = daemon.log();
        log.iter().any(|line| line.contains(shutting_down)).then_some(())
    });
    let books = broker.books();
    assert!(books.live.is_empty() && books.granted.len() == 2, "{books:?}");
}

#[test]
fn labels_reach_the_allocator_as_data_only() {
    let broker = Broker::plain();
    let home = Home::new("rules: []\n");
    let port = broker.address.port();
    let step = format!(
        "  - allocate: {{url: 'http://localhost:{port}/v1/{{{{ $labels.evil }}}}/take?by={{{{ $labels.evil }}}}', resource: /resource, ttl: /ttl}}"
    );
    home.write("rules/test.yml", &rules(&step));
    let daemon = home.start(&["--enforce"]);
    let evils = [
        "\"quote'",
        "a\r\nX-Evil: 1",
        "$(id) `id`",
        "../../up",
        "nul\0",
        "http://else/?x#y",
        "%2e%2e%2f",
    ];
    let alerts: Vec<Value> = evils.iter().map(|evil| alert(evil, json!({"evil": evil}))).collect();
    send(&daemon, &alerts);
    send(&daemon, &[alert("dots", json!({"evil": ".."}))]);
    eventually("all to arrive", TIMEOUT, || {
        (broker.books().granted.len() == evils.len()).then_some(())
    });
    eventually("the refusal", TIMEOUT, || (home.outcomes("failed") == 1).then_some(()));
    for seen in &broker.books().seen {
        assert!(
            seen.target.starts_with("/v1/") && seen.target.matches('/').count() == 3,
            "{seen:?}"
        );
        assert_eq!(seen.target.matches('?').count(), 1, "{seen:?}");
        assert!(seen.header("x-evil").is_none(), "{seen:?}");
        let body: Value = serde_json::from_str(&seen.body).expect("the alert as JSON");
        assert!(
            evils.contains(&body["labels"]["evil"].as_str().expect("a text")),
            "{seen:?}"
        );
    }
}

/// Writes a script into the folder, for a command to run.
fn script(home: &Home, name: &str, text: &str) -> String {
    home.write(name, &format!("#!/bin/sh\n{text}\n"));
    let path = home.path().join(name);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    path.display().to_string()
}

fn with_commands(home: &Home, steps: &str) -> Daemon {
    home.write("rules/test.yml", &rules(steps));
    home.write(
        "evenkeel.yml",
        "rule_files: [rules/*.yml]\nallow_exec: true\nwebhook: {token_file: webhook.token}\n",
    );
    home.start(&["--enforce"])
}

#[test]
fn command_gets_the_alert_as_data_and_is_undone() {
    let home = Home::new("rules: []\n");
    let folder = home.path().display().to_string();
    let record = "{ printf '%s\\n' \"$#\" \"$@\"; pwd; env; readlink /proc/self/fd/0; } >";
    let run = script(&home, "run", &format!("{record}{folder}/done; echo it is done"));
    let undo = script(&home, "undo", &format!("{record}{folder}/undone"));
    let steps = format!("  - exec: {{argv: [{run}, 'x={{{{ $labels.evil }}}}', --], undo: [{undo}]}}");
    let daemon = with_commands(&home, &steps);
    let evil = "a b\"'$(touch evil)`id`;\n--flag";
    let fired = alert("none", json!({"evil": evil}));
    send(&daemon, std::slice::from_ref(&fired));
    eventually("the command", TIMEOUT, || (home.outcomes("applied") == 1).then_some(()));
    let told = std::fs::read_to_string(home.path().join("done")).expect("it has written");
    assert!(told.starts_with(&format!("2\nx={evil}\n--\n/\n")), "{told}");
    for line in [
        "AMX_STATUS=firing",
        "AMX_ALERT_LEN=1",
        "AMX_LABEL_alertname=More",
        "AMX_ANNOTATION_summary=a test",
        "/dev/null",
    ] {
        assert!(told.lines().any(|found| found == line), "{line:?} is not in\n{told}");
    }
    assert!(!told.contains("CARGO"), "the environment is not clean:\n{told}");
    assert!(home.ledger_has_row_with(&["applied", "it is done"]));
    send(&daemon, &[resolved(fired)]);
    eventually("the way back", TIMEOUT, || {
        (home.outcomes("restored") == 1).then_some(())
    });
    let told = std::fs::read_to_string(home.path().join("undone")).expect("it has written");
    assert!(told.contains("AMX_STATUS=resolved"), "{told}");
}

#[test]
fn command_is_killed_in_time_and_its_output_bounded() {
    let home = Home::new("rules: []\n");
    let folder = home.path().display().to_string();
    let text = format!("trap '' TERM; sleep 1000 & echo $! >{folder}/child; yes endless");
    let run = script(&home, "run", &text);
    let daemon = with_commands(&home, &format!("  - exec: {{argv: [{run}], timeout: 1s}}"));
    send(&daemon, &[alert("none", json!({}))]);
    eventually("its end", TIMEOUT, || (home.outcomes("failed") == 1).then_some(()));
    assert!(home.ledger_has_row_with(&["killed after its timeout", "endless"]));
    let child = std::fs::read_to_string(home.path().join("child")).expect("it has written");
    let child = format!("/proc/{}/stat", child.trim());
    let is_gone = || std::fs::read_to_string(&child).map_or(true, |stat| stat.contains(") Z "));
    eventually("its child to end", TIMEOUT, || is_gone().then_some(()));
    assert!(daemon.resident_bytes() < 200 << 20);
}

/// The log line `job finished` of the step.
fn logged(daemon: &Daemon, step: &str) -> String {
    eventually("a line of the log", TIMEOUT, || {
        let mut lines = daemon.log().into_iter();
        lines.find(|line| line.contains("\"job finished\"") && line.contains(step))
    })
}

#[test]
fn failed_command_is_a_warning_with_status_and_output() {
    let home = Home::new("rules: []\n");
    let run = script(&home, "run", "yes noise | head -n 5000; echo no space left >&2; exit 3");
    let daemon = with_commands(&home, &format!("  - exec: [{run}]"));
    send(&daemon, &[alert("none", json!({}))]);
    let line = logged(&daemon, "step=\"exec ");
    for part in ["level=warn", "outcome=failed", "status 3", "no space left"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(line.len() < 1500, "{line}");
    // The outcome is logged before it is durable.
    eventually("the record", TIMEOUT, || {
        home.ledger_has_row_with(&["failed", "status 3", "no space left"])
            .then_some(())
    });
}

#[test]
fn output_of_a_command_that_succeeds_stays_out_of_the_log() {
    let home = Home::new("rules: []\n");
    let run = script(&home, "run", "echo all is well");
    let daemon = with_commands(&home, &format!("  - exec: [{run}]"));
    send(&daemon, &[alert("none", json!({}))]);
    let line = logged(&daemon, "step=\"exec ");
    assert!(line.contains("level=info") && !line.contains("all is well"), "{line}");
}

#[test]
fn refused_request_is_a_warning_with_its_answer() {
    let broker = Broker::plain();
    let home = Home::new("rules: []\n");
    home.write("rules/test.yml", &rules(&allocate(&broker, home.path())));
    let daemon = home.start(&["--enforce"]);
    send(&daemon, &[alert("status-403", json!({}))]);
    let line = logged(&daemon, "step=\"allocate ");
    assert!(line.contains("level=warn") && line.contains("outcome=failed"), "{line}");
}

#[test]
fn only_so_many_commands_run_at_once() {
    let home = Home::new("rules: []\n");
    let folder = home.path().display().to_string();
    let text = format!("echo $$ >>{folder}/started; while [ ! -e {folder}/go ]; do sleep 0.05; done");
    let run = script(&home, "run", &text);
    let undo = script(&home, "undo", "exit 0");
    let daemon = with_commands(&home, &format!("  - exec: {{argv: [{run}], undo: [{undo}]}}"));
    let alerts: Vec<Value> = (0..6).map(|number| alert(&format!("n{number}"), json!({}))).collect();
    send(&daemon, &alerts);
    let started = || std::fs::read_to_string(home.path().join("started")).map_or(0, |text| text.lines().count());
    eventually("four to start", TIMEOUT, || (started() == 4).then_some(()));
    // Longer than the engine's interval for starting waiting commands.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(started(), 4);
    home.write("go", "");
    eventually("the others", TIMEOUT, || (home.outcomes("applied") == 6).then_some(()));
}

#[test]
fn explain_says_what_would_be_sent_and_dry_run_sends_nothing() {
    let broker = Broker::plain();
    let home = Home::new("rules: []\n");
    home.write("rules/test.yml", &rules(&allocate(&broker, home.path())));
    let daemon = home.start(&[]);
    let fired = alert("none", json!({}));
    send(&daemon, std::slice::from_ref(&fired));
    eventually("the rehearsal", TIMEOUT, || {
        (home.outcomes("dry_run") == 1).then_some(())
    });
    home.write("alert.json", &envelope(&[fired]).to_string());
    let said = home
        .evenkeel("explain")
        .arg("--alert")
        .arg(home.path().join("alert.json"))
        .output();
    let said = String::from_utf8(said.expect("evenkeel runs").stdout).expect("UTF-8");
    let sent = format!(
        "would send POST http://localhost:{}/allocate {{\"cpus\":2,\"fault\":\"none\"}}",
        broker.address.port()
    );
    assert!(said.contains(&sent), "{said}");
    assert!(!said.contains("the-secret"), "{said}");
    assert_eq!(broker.books().seen.len(), 0);
}

/// The daemon needs root to run commands as another user. Without root the test fails instead of being skipped.
#[test]
fn command_of_another_user_has_none_of_our_groups() {
    assert!(nix::unistd::geteuid().is_root(), "run the tests as root");
    let home = Home::new("rules: []\n");
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("our own folder");
    let found = User::from_uid(Uid::from_raw(OTHER_USER))
        .expect("users")
        .expect("a user");
    let group = Group::from_gid(found.gid).expect("groups").expect("a group").name;
    let user = found.name.as_str();
    let run = script(
        &home,
        "run",
        "id -un; id -Gn; echo $HOME $USER $LOGNAME; head -c 1 /etc/shadow",
    );
    let undo = script(&home, "undo", "echo back as $(id -un)");
    let daemon = with_commands(
        &home,
        &format!("  - exec: {{argv: [{run}], undo: [{undo}], user: {user}}}"),
    );
    let fired = alert("none", json!({}));
    send(&daemon, std::slice::from_ref(&fired));
    // The command fails because only root may read /etc/shadow.
    eventually("the command", TIMEOUT, || (home.outcomes("failed") == 1).then_some(()));
    assert!(home.ledger_has_row_with(&[
        "failed",
        user,
        &group,
        &format!("{} {user} {user}", found.dir.display())
    ]));
    eventually("the way back", TIMEOUT, || {
        home.ledger_has_row_with(&[&format!("back as {user}")]).then_some(())
    });
}
