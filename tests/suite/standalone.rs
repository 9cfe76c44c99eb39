//! evenkeel without other programs: it evaluates alerting rules on its own samples, and its rules act.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::burner::Burner;
use crate::support::daemon::Home;
use crate::support::eventually;
use crate::support::hog::hog;
use crate::support::tools::succeed;

const TIMEOUT: Duration = Duration::from_secs(60);
const HOG_BYTES: u64 = 300 << 20;
const FOR_MS: i64 = 3000;
/// Time until the next evaluation: one second, and one more on a busy machine.
const ONE_EVALUATION_MS: i64 = 2000;

/// Rules for the alerts `Burner` and `Hog` of two process groups of these names.
fn home(burner: &str, hog: &str, alerts: &str) -> Home {
    let home = Home::new(&format!(
        "rules:\n\
         \x20 - {{name: calm, matchers: [alertname=Burner], select: {{name: {burner}}}, actions: [{{nice: 15}}]}}\n\
         \x20 - {{name: end, matchers: [alertname=Hog], select: {{name: {hog}}}, actions: [{{signal: SIGTERM}}]}}\n"
    ));
    home.write(
        "evenkeel.yml",
        &format!(
            "mode: dry-run\n\
             sampling: {{interval: 1s, slow_interval: 1s}}\n\
             rule_files: [rules/*.yml]\n\
             alerting_rule_files: [alerts.yml]\n\
             process_groups:\n\
             \x20 - {{name: burner, select: {{name: {burner}}}}}\n\
             \x20 - {{name: hog, select: {{name: {hog}}}}}\n\
             webhook: {{token_file: webhook.token}}\n"
        ),
    );
    home.write(
        "alerts.yml",
        &format!("groups:\n  - name: own\n    interval: 1s\n    rules:\n{alerts}"),
    );
    home
}

/// The history of a rule, oldest first.
fn history(home: &Home, rule: &str) -> Vec<Value> {
    let said = succeed(
        Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["history", "--output=json", &format!("--rule={rule}")])
            .arg(format!("--storage.path={}", home.path().join("storage").display())),
    );
    let lines = said.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// The stored start of an active alert, Unix time in milliseconds.
fn active_since_ms(home: &Home, alert: &str) -> Option<i64> {
    let text = std::fs::read_to_string(home.path().join("storage/alerts.json")).ok()?;
    let kept: Value = serde_json::from_str(&text).ok()?;
    let found = kept["alerts"]
        .as_array()?
        .iter()
        .find(|kept| kept["labels"]["alertname"] == alert)?;
    found["active_at_ms"].as_i64()
}

fn names(letter: char) -> [String; 2] {
    ["b", "h"].map(|kind| format!("own-{letter}{kind}-{}", std::process::id() % 100_000))
}

#[test]
fn a_burner_and_a_hog_lead_to_their_plans_within_one_evaluation() {
    let [burner_name, hog_name] = names('p');
    let home = home(
        &burner_name,
        &hog_name,
        &format!(
            "      - {{alert: Burner, expr: 'sum(rate(evenkeel_group_cpu_seconds_total{{group=\"burner\"}}[5s])) > 0.2', for: {FOR_MS}ms}}\n\
             \x20     - {{alert: Hog, expr: 'evenkeel_group_resident_bytes{{group=\"hog\"}} > {}', for: {FOR_MS}ms}}\n",
            HOG_BYTES / 2
        ),
    );
    let mut burner = Burner::start(&burner_name);
    let _evenkeel = home.start(&[]);
    burner.burn();
    let hog = hog(&hog_name, HOG_BYTES);
    for (rule, alert, pid) in [("calm", "Burner", burner.pid()), ("end", "Hog", hog.pid())] {
        let planned = eventually("a plan in the history", TIMEOUT, || {
            history(&home, rule).into_iter().next()
        });
        assert_eq!(planned["decision"], "dry_run", "{planned}");
        assert_eq!(planned["target"][0]["pid"], pid, "{planned}");
        let at: jiff::Timestamp = planned["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
        let since = active_since_ms(&home, alert).expect("the alert is active");
        let took = at.as_millisecond() - since;
        assert!(
            (FOR_MS..=FOR_MS + ONE_EVALUATION_MS).contains(&took),
            "{alert}: planned {took} ms after it became active"
        );
    }
    assert!(burner.ended().is_none());
}

#[test]
fn pending_alert_waits_the_rest_of_its_for_after_a_restart() {
    const FOR: Duration = Duration::from_secs(16);
    let [burner_name, hog_name] = names('r');
    let home = home(
        &burner_name,
        &hog_name,
        &format!(
            "      - {{alert: Burner, expr: 'vector(1)', for: {}s}}\n",
            FOR.as_secs()
        ),
    );
    let _burner = Burner::start(&burner_name);
    let mut evenkeel = home.start(&[]);
    let since = eventually("the alert to be pending", TIMEOUT, || active_since_ms(&home, "Burner"));
    std::thread::sleep(FOR / 2);
    evenkeel.terminate();
    let restarted = Instant::now();
    let _evenkeel = home.start_again(&evenkeel, &[]);
    assert_eq!(history(&home, "calm"), Vec::<Value>::new(), "it is pending");
    let planned = eventually("a plan in the history", TIMEOUT, || {
        history(&home, "calm").into_iter().next()
    });
    assert!(restarted.elapsed() < FOR, "its time started over with the daemon");
    let at: jiff::Timestamp = planned["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    assert!(at.as_millisecond() - since >= FOR.as_millis() as i64, "{planned}");
}

#[test]
fn a_rule_sees_each_second_what_is_else_read_for_scrapes_only() {
    let [burner_name, hog_name] = names('d');
    let home = home(
        &burner_name,
        &hog_name,
        "      - {alert: Burner, expr: 'count_over_time(node_vmstat_pgfault[4s]) >= 3'}\n",
    );
    let config = std::fs::read_to_string(home.path().join("evenkeel.yml")).unwrap();
    home.write(
        "evenkeel.yml",
        &config.replace("slow_interval: 1s", "slow_interval: 1h"),
    );
    let _burner = Burner::start(&burner_name);
    let _evenkeel = home.start(&[]);
    eventually("a plan in the history", TIMEOUT, || {
        history(&home, "calm").into_iter().next()
    });
}
