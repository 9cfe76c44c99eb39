//! SIGTERM at any moment: while steps are applied and reverted, while commands and requests are under way, and while the
//! configuration is reloaded. evenkeel exits with 0, and every value is back.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::faults::{Scene, alert, resolved};
use crate::support::broker::Broker;
use crate::support::daemon::{Daemon, TOKEN};
use crate::support::payload::{envelope, firing};
use crate::support::{http, node_name};

const STOPS: u32 = 20;
/// Each stop comes this much later after the start than the one before.
const STEP: Duration = Duration::from_millis(17);
const RELOAD_PAUSE: Duration = Duration::from_millis(5);

/// Sends alerts that fire and resolve to the daemon that runs, until it `is_over`.
fn alternate(webhook: &Mutex<Option<SocketAddr>>, alerts: &[Value], is_over: &AtomicBool) {
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", authorization.as_str()),
    ];
    while !is_over.load(Ordering::Relaxed) {
        let now = json!(jiff::Timestamp::now().to_string());
        let mut firing = alerts.to_vec();
        firing.iter_mut().for_each(|alert| alert["startsAt"] = now.clone());
        let ended = firing.iter().cloned().map(resolved).collect();
        for alerts in [firing, ended] {
            let address = *webhook.lock().expect("no thread panics with it locked");
            let body = envelope(&alerts).to_string();
            // The daemon may end meanwhile.
            let _ = address.map(|address| http::request(address, "POST", "/webhook", &headers, body.as_bytes()));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Ends the sender of alerts with its test, also where that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts the daemon and stops it by SIGTERM, ever later. `meanwhile` is called in between until it is time.
fn stop_at_any_moment(scene: &Scene, alerts: &[Value], meanwhile: impl Fn(&Daemon)) {
    let (webhook, is_over) = (Mutex::new(None), AtomicBool::new(false));
    std::thread::scope(|threads| {
        threads.spawn(|| alternate(&webhook, alerts, &is_over));
        let _over = Over(&is_over);
        for stop in 0..STOPS {
            let mut daemon = scene.home.start(&["--enforce"]);
            *webhook.lock().expect("no thread panics with it locked") = Some(daemon.webhook);
            let listening = Instant::now();
            while listening.elapsed() < STEP * stop {
                meanwhile(&daemon);
            }
            let status = daemon.terminate();
            // Another daemon may get the address.
            *webhook.lock().expect("no thread panics with it locked") = None;
            let log = daemon.whole_log().join("\n");
            assert!(status.success(), "{status}\n{log}");
            assert_eq!(scene.burner.nice_values(), scene.before, "{log}");
            assert!(!log.contains("level=error"), "{log}");
        }
    });
    assert!(scene.home.outcomes("restored") > 0, "no lease was held at a stop");
}

#[test]
fn sigterm_at_any_moment_leaves_nothing() {
    let scene = Scene::new("sigterm");
    stop_at_any_moment(&scene, &[alert()], |_| std::thread::sleep(Duration::from_millis(1)));
}

/// A script beside the configuration.
fn script(scene: &Scene, name: &str, text: &str) -> String {
    scene.home.write(name, &format!("#!/bin/sh\n{text}\n"));
    let path = scene.home.path().join(name);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    path.display().to_string()
}

#[test]
fn sigterm_amid_jobs_and_reloads_leaves_nothing() {
    let scene = Scene::new("sigjobs");
    let broker = Broker::plain();
    let state = scene.home.path().join("state");
    let run = script(&scene, "run", &format!("echo on >{}; sleep 0.1", state.display()));
    let undo = script(&scene, "undo", &format!("sleep 0.1; echo off >{}", state.display()));
    let server = format!("http://localhost:{}", broker.address.port());
    let common = "any_host: true, cooldown: 0s";
    scene.home.write(
        "rules/jobs.yml",
        &format!(
            "rules:\n\
             - {{name: run, matchers: ['alertname=\"Run\"'], {common}, actions: [{{exec: {{argv: [{run}], undo: [{undo}]}}}}]}}\n\
             - name: more\n\
             \x20 matchers: ['alertname=\"More\"']\n\
             \x20 any_host: true\n\
             \x20 actions:\n\
             \x20 - allocate:\n\
             \x20     url: {server}/allocate\n\
             \x20     body: {{fault: slow}}\n\
             \x20     resource: /resource\n\
             \x20     release: {{url: '{server}/release/{{{{ $resource }}}}'}}\n"
        ),
    );
    scene.home.write(
        "evenkeel.yml",
        "rule_files: [rules/*.yml]\nallow_exec: true\nwebhook: {token_file: webhook.token}\n",
    );
    let about = |name: &str, fingerprint: &str| {
        let mut alert = firing(json!({"alertname": name, "instance": node_name()}));
        alert["fingerprint"] = json!(fingerprint);
        alert
    };
    let alerts = [
        alert(),
        about("Run", "0123456789abcde0"),
        about("More", "0123456789abcde1"),
    ];
    stop_at_any_moment(&scene, &alerts, |daemon| {
        daemon.reload();
        std::thread::sleep(RELOAD_PAUSE);
    });
    // What a stop could not wait for is in the ledger, and the next start reverts it once the alerts are over.
    let daemon = scene.home.start(&["--enforce"]);
    let ended: Vec<Value> = alerts.into_iter().map(resolved).collect();
    assert_eq!(daemon.post(envelope(&ended).to_string().as_bytes()).status, 200);
    daemon.wait_for_leases(0);
    let books = broker.books();
    assert!(books.live.is_empty(), "{books:?}");
    assert!(!books.granted.is_empty(), "no request was under way");
    drop(books);
    assert_eq!(std::fs::read_to_string(state).expect("the command ran"), "off\n");
    assert!(scene.home.outcomes("released") > 0 && scene.home.outcomes("applied") > 0);
    assert!(scene.home.ledger_has_row_with(&["reload"]), "no reload was under way");
}
