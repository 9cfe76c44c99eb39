//! The process that serves HTTP under the shipped unit, without and with a user of its own: its measures, and what foreign
//! code in it is refused.

use super::shipped_unit::{STORAGE, ShippedUnit, get, main_pid, metric, scrape};
use super::*;
use support::frontend::{assert_sockets_are_safe, deadly_attempts, forge_receipt, frontend};

const OWN_USER: &str = include_str!("../../packaging/drop-ins/frontend-user.conf");

/// Adds the user that the packages create.
fn add_user() {
    sh(
        "id evenkeel || { groupadd --system --force evenkeel; useradd --system --gid evenkeel --no-create-home --shell /usr/sbin/nologin evenkeel; }",
    );
}

/// Its user ids.
fn uids() -> String {
    let uids = sh(&format!("sed -n 's/^Uid:\\t//p' /proc/{}/status", frontend(main_pid())));
    uids.trim().to_owned()
}

fn measures() -> Vec<&'static str> {
    let scrape = scrape();
    let is_in_force = |measure: &&str| {
        let labels = [("part", "frontend"), ("measure", *measure)];
        scrape.sum("evenkeel_sandbox", &labels) == Some(1.0)
    };
    let all = ["capabilities", "landlock", "no_new_privs", "seccomp", "user"];
    all.into_iter().filter(is_in_force).collect()
}

#[test]
fn frontend_of_the_unit_has_its_sandbox_and_with_the_drop_in_its_user() {
    add_user();
    let unit = ShippedUnit::start("rules: []\n", &[]);
    // The unit denies capset(2), so the frontend keeps the unit's capabilities. Its system calls leave no use for them.
    assert_eq!(measures(), ["landlock", "no_new_privs", "seccomp"]);
    assert_eq!(uids(), "0\t0\t0\t0");
    drop(unit);
    let _unit = ShippedUnit::start("rules: []\n", &[OWN_USER]);
    let uid = sh("id -u evenkeel");
    assert_eq!(uids(), [uid.trim(); 4].join("\t"));
    assert_eq!(
        measures(),
        ["capabilities", "landlock", "no_new_privs", "seccomp", "user"]
    );
}

/// Waits until so many frontends ended for a reason, and checks that none ended for another.
fn ended(reason: &str, count: usize) {
    let ends = |labels: &[(&str, &str)]| metric("evenkeel_frontend_restarts_total", labels);
    eventually("the count", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        (ends(&[("reason", reason)]) == count as f64).then_some(())
    });
    assert_eq!(ends(&[]), count as f64, "all ends");
}

/// Lets foreign code in the frontend of the started unit try everything.
fn assert_foreign_code_is_refused() {
    let daemon = main_pid();
    let serve = || assert_eq!(get("/-/healthy").expect("an answer"), 200);
    assert_sockets_are_safe(frontend(daemon), serve);
    ended("protocol", 0);
    forge_receipt(frontend(daemon));
    ended("protocol", 1);
    assert_eq!(main_pid(), daemon);

    let ledger = format!("{STORAGE}/ledger.db");
    // evenkeel waits longer before each new frontend, so another start counts from zero.
    for of_start in [0..6, 6..12] {
        sh("systemctl restart evenkeel");
        let daemon = main_pid();
        for (count, attempt) in deadly_attempts(daemon, &ledger)[of_start].iter().enumerate() {
            attempt.assert_deadly(frontend(daemon));
            ended("sandbox", count + 1);
        }
        assert_eq!(main_pid(), daemon);
        serve();
    }
}

#[test]
fn foreign_code_in_the_frontend_of_the_unit_is_refused_and_counted() {
    let _unit = ShippedUnit::start("rules: []\n", &[]);
    assert_eq!(uids(), "0\t0\t0\t0");
    assert_foreign_code_is_refused();
}

#[test]
fn foreign_code_in_a_frontend_with_its_user_is_refused_and_counted() {
    add_user();
    let _unit = ShippedUnit::start("rules: []\n", &[OWN_USER]);
    assert_ne!(uids(), "0\t0\t0\t0");
    assert_foreign_code_is_refused();
}
