//! Requests of operators through the control socket: log and history say who asked, when and why.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::payload::about;
use crate::support::process::Process;
use crate::support::tools::{fail, succeed};
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
const NICE: i32 = 12;
/// The uid of the unprivileged user that every distribution has.
const OTHER_USER: u32 = 65534;

/// `evenkeel` with a command and the storage of this folder.
fn evenkeel(home: &Home, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments);
    command.arg(format!("--storage.path={}", home.path().join("storage").display()));
    command
}

fn history(home: &Home) -> Vec<serde_json::Value> {
    let text = succeed(&mut evenkeel(home, &["history", "--output=json"]));
    let records = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    records.collect()
}

/// The newest record of this operation.
fn operation(home: &Home, word: &str) -> serde_json::Value {
    eventually(word, TIMEOUT, || {
        let records = history(home);
        records.into_iter().rev().find(|record| record["operation"] == word)
    })
}

/// A daemon with one lease, on the burner.
fn with_a_lease(name: &str) -> (Home, Burner, Daemon) {
    let comm = format!("{name}-{}", std::process::id() % 100_000);
    let home = Home::new(&format!(
        "rules: [{{name: calm, matchers: ['alertname=\"Test\"'], select: {{name: {comm}}}, actions: [{{nice: {NICE}}}]}}]\n"
    ));
    let burner = Burner::start(&comm);
    let daemon = home.start(&["--enforce", "--web.enable-lifecycle"]);
    assert_eq!(daemon.post(about("Test", &node_name()).as_bytes()).status, 200);
    eventually("the nice value", TIMEOUT, || burner.is_at(NICE).then_some(()));
    eventually("the control socket", TIMEOUT, || {
        home.path().join("storage/control.sock").exists().then_some(())
    });
    (home, burner, daemon)
}

#[test]
fn history_and_log_name_user_and_reason() {
    let (home, _burner, daemon) = with_a_lease("operators");
    let reason = "--reason=disk \"a\" is replaced";
    succeed(&mut evenkeel(&home, &["pause", reason]));
    succeed(&mut evenkeel(&home, &["resume"]));
    succeed(&mut evenkeel(&home, &["release", "--all", reason]));
    for (word, given) in [("pause", true), ("resume", false), ("release", true)] {
        let record = operation(&home, word);
        assert_eq!(
            (&record["by"]["uid"], &record["by"]["name"]),
            (&0.into(), &"root".into()),
            "{record}"
        );
        let expected = if given {
            "disk \"a\" is replaced".into()
        } else {
            serde_json::Value::Null
        };
        assert_eq!(record["reason"], expected, "{record}");
    }
    let undo = history(&home).pop().expect("a record");
    let text = undo["reason"].as_str().expect("a reason");
    assert!(text.starts_with("released by root (uid 0"), "{undo}");
    let lines = daemon.log_with("operation=pause");
    let paused = lines
        .iter()
        .find(|line| line.contains("operation=pause"))
        .expect("a line of the pause");
    for field in ["by=root", "uid=0", r#"reason="disk \"a\" is replaced""#] {
        assert!(paused.contains(field), "{field}: {paused}");
    }
    let page = http::get(daemon.metrics, "/").expect("evenkeel answers").body;
    assert!(page.contains("released by root (uid 0"), "{page}");
}

/// A client that sets the login of its own process to `OTHER_USER` and asks for a pause, in either order. Prints `set`
/// where the kernel keeps logins.
const CLIENT: &str = r#"
import socket, sys
path, order, login = sys.argv[1:]
def set_login():
    try:
        open("/proc/self/loginuid", "w").write(login)
        print("set")
    except OSError:
        pass
if order == "before":
    set_login()
control = socket.socket(socket.AF_UNIX)
control.connect(path)
# Until the daemon has accepted the connection.
sys.stdin.readline()
if order == "after":
    set_login()
control.sendall(('{"pause":true,"reason":"%s"}\n' % order).encode())
control.recv(1000)
"#;

/// The sockets that the daemon has open, each with its inode.
fn sockets(daemon: &Daemon) -> BTreeSet<PathBuf> {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("evenkeel runs");
    let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .collect()
}

#[test]
fn login_is_that_of_the_connection() {
    let (home, _burner, daemon) = with_a_lease("logins");
    let socket = home.path().join("storage/control.sock");
    let [(was_set, before), (_, after)] = ["before", "after"].map(|order| {
        // An earlier connection may still close meanwhile, so a count would not do.
        let open = sockets(&daemon);
        let mut client = Command::new("python3");
        client.args(["-S", "-c", CLIENT]).arg(&socket).arg(order);
        let mut client = Process::start("client", client.arg(OTHER_USER.to_string()));
        eventually("the daemon to accept", TIMEOUT, || {
            (!sockets(&daemon).is_subset(&open)).then_some(())
        });
        writeln!(client.stdin()).expect("the client reads");
        let status = eventually("the client to end", TIMEOUT, || client.ended());
        assert!(status.success(), "{status}");
        let said = client.whole_log();
        let record = eventually("the record", TIMEOUT, || {
            Some(operation(&home, "pause")).filter(|record| record["reason"] == order)
        });
        (said.iter().any(|line| line == "set"), record["by"]["login"].clone())
    });
    // The second client connected with the login of these tests, if they have one.
    assert_eq!(before != after, was_set, "{before}, {after}");
}

#[test]
fn reloads_are_on_record_with_the_way_they_came() {
    let (home, _burner, daemon) = with_a_lease("reloads");
    daemon.reload();
    assert_eq!(operation(&home, "reload")["by"]["name"], "SIGHUP");
    home.write("rules/test.yml", "rules: [{nam: x}]\n");
    let answer = http::request(daemon.metrics, "POST", "/-/reload", &[], b"").expect("evenkeel answers");
    assert_eq!(answer.status, 500);
    let refused = eventually("the refused reload", TIMEOUT, || {
        Some(operation(&home, "reload")).filter(|record| record["outcome"] == "failed")
    });
    assert_eq!(refused["by"]["name"], "POST /-/reload from 127.0.0.1");
    assert!(
        refused["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("test.yml:1:")),
        "{refused}"
    );
}

#[test]
fn other_users_cannot_ask() {
    let (home, burner, _daemon) = with_a_lease("strangers");
    // The directories are closed to other users; here only the credentials of the peer count.
    let open = |path: &std::path::Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root");
    };
    open(home.path(), 0o755);
    open(&home.path().join("storage"), 0o755);
    open(&home.path().join("storage/control.sock"), 0o666);
    let tool = home.path().join("evenkeel");
    std::fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &tool).expect("a writable folder");
    let mut release = Command::new(tool);
    release.args(["release", "--all", "--reason=mine"]);
    release.arg(format!("--storage.path={}", home.path().join("storage").display()));
    let output = release
        .uid(OTHER_USER)
        .gid(OTHER_USER)
        .output()
        .expect("root may change the user");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("only root and the daemon's user have access"), "{said}");
    assert!(burner.is_at(NICE));
    assert!(history(&home).iter().all(|record| record["operation"] != "release"));
}

#[test]
fn one_rule_is_paused_and_resumed() {
    let home = Home::new(
        "rules: [{name: calm it, matchers: ['alertname=\"A\"'], select: {name: none}, actions: [{nice: 5}]}]\n",
    );
    let _daemon = home.start(&[]);
    let refused = fail(&mut evenkeel(&home, &["pause", "--rule=calm"]));
    assert!(refused.contains("there is no rule \"calm\""), "{refused}");
    let said = succeed(&mut evenkeel(&home, &["pause", "--rule=calm it", "--reason=a test"]));
    assert_eq!(
        said,
        "rule \"calm it\" paused: no new steps; its leases are still reverted\n"
    );
    eventually("the status to name the paused rule", TIMEOUT, || {
        let text = succeed(&mut evenkeel(&home, &["status"]));
        let is_named = text.contains("calm it is paused: ") && text.contains("by root (uid 0): a test, until");
        is_named.then_some(())
    });
    let status = || -> serde_json::Value {
        let json = succeed(&mut evenkeel(&home, &["status", "--output=json"]));
        serde_json::from_str(&json).expect("JSON")
    };
    assert_eq!(status()["paused_rules"], serde_json::json!(["calm it"]));
    assert_eq!(status()["paused"], false);
    assert_eq!(operation(&home, "pause")["rule"], "calm it");
    let said = succeed(&mut evenkeel(&home, &["resume", "--rule=calm it"]));
    assert_eq!(said, "rule \"calm it\" resumed\n");
    assert_eq!(status()["paused_rules"], serde_json::json!([]));
}

#[test]
fn status_shows_what_fires_and_who_paused() {
    let home = Home::new("rules: []\n");
    let _daemon = home.start(&[]);
    succeed(&mut evenkeel(&home, &["pause", "--reason=a test"]));
    eventually("the status to say who paused", TIMEOUT, || {
        let text = succeed(&mut evenkeel(&home, &["status"]));
        let is_there = text.contains("\npaused: ") && text.contains("by root (uid 0): a test");
        (is_there && text.contains("no alert of a rule is open")).then_some(())
    });
    let json = succeed(&mut evenkeel(&home, &["status", "--output=json"]));
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(status["paused"], true);
}
