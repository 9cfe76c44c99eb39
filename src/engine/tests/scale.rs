//! Thousands of leases and alerts: work grows with them, not with their square. Counted, never timed.

use super::*;
use crate::process::selector::{Condition, Part, Pattern};

/// Calls of the host per lease, however many leases there are: a few per thread, and readings of the table for all.
const CALLS_PER_LEASE: usize = 40;

/// A rule whose alerts name the processes that they mean.
fn by_label(limit: usize) -> Rule {
    let mut rule = example("calm", "nice 15");
    (rule.limit, rule.max_matches) = (limit, limit);
    rule.target_selector = crate::rule::TargetSelector::Processes(crate::process::Selector {
        conditions: vec![Condition::Name(Pattern::Template(vec![Part::Label("comm".into())]))],
    });
    rule
}

fn about(comm: &str, status: Status) -> Alert {
    let mut alert = alert("calm", status);
    alert.labels.insert("comm", comm);
    alert.fingerprint = fingerprint(&alert.labels);
    alert
}

impl World {
    fn add_named(&mut self, pid: i32, name: &str) {
        let mut process = Process::example(pid, name);
        process.details.exe = Some("/usr/bin/burner".into());
        self.engine.host().add(process);
    }

    fn calls(&mut self, host_action: impl FnOnce(&mut World)) -> usize {
        self.engine.host().hooks.calls.set(0);
        host_action(self);
        self.engine.host().hooks.calls.get()
    }

    /// A reader of the ledger. While it lives, SQLite only appends to the write-ahead log.
    fn keep_log(&self) -> rusqlite::Connection {
        let reader = rusqlite::Connection::open(self.directory.path().join("ledger.db")).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
        reader
    }

    /// The commits in the write-ahead log: its frames that end a transaction (SQLite's file format, section 4).
    fn commits(&self) -> usize {
        let log = std::fs::read(self.directory.path().join("ledger.db-wal")).unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let (header, frames) = log.split_at(32);
        let (page_bytes, salt) = (number(&header[8..12]) as usize, &header[16..24]);
        frames
            .chunks_exact(24 + page_bytes)
            .take_while(|frame| &frame[8..16] == salt)
            .filter(|frame| number(&frame[4..8]) != 0)
            .count()
    }
}

#[test]
fn each_lease_costs_a_bounded_number_of_calls() {
    let leases = share_of(10_000) as usize;
    let mut world = world(policy(vec![by_label(leases)]));
    for index in 0..leases {
        world.add_named(1000 + index as i32, "burner");
    }
    let taking = world.calls(|world| {
        world
            .engine
            .take(&[about("burner", Status::Firing)], Instant::now())
            .unwrap();
    });
    assert_eq!(world.engine.ledger().leases.len(), leases);
    assert!(taking <= leases * CALLS_PER_LEASE, "{taking} calls");
    world.crash_and_restart();
    assert_eq!(world.engine.ledger().leases.len(), leases);
    let undoing = world.calls(|world| {
        world
            .engine
            .take(&[about("burner", Status::Resolved)], Instant::now())
            .unwrap();
    });
    assert!(undoing <= leases * CALLS_PER_LEASE, "{undoing} calls");
    assert!(world.engine.ledger().leases.is_empty());
    let host = world.engine.host();
    assert!(
        host.processes
            .values()
            .all(|found| found.threads.values().all(|thread| thread.nice() == 0))
    );
}

#[test]
fn undoing_looks_at_the_leases_of_the_target_alone() {
    let mut more = along("more", "nice 10");
    more.max_matches = 500;
    let mut world = world(policy(vec![by_label(500), more]));
    for index in 0..500 {
        world.add_named(1000 + index, "burner");
    }
    world
        .engine
        .take(&[about("burner", Status::Firing)], Instant::now())
        .unwrap();
    let leases = &world.engine.ledger().leases;
    assert_eq!(leases.len(), 501);
    let seen: usize = leases.values().map(|lease| leases.on(lease.target).count()).sum();
    assert_eq!(seen, 499 + 2 * 2, "one process has two");
    assert_eq!(
        leases.of("more", &about("burner", Status::Firing).fingerprint).count(),
        1
    );
}

#[test]
fn thousand_alerts_that_resolve_share_commits_and_readings() {
    const ALERTS: usize = 1000;
    let mut world = world(policy(vec![by_label(1)]));
    let comm = |index: usize| format!("burner-{index}");
    for index in 0..ALERTS {
        world.add_named(1000 + index as i32, &comm(index));
    }
    let all = |status| (0..ALERTS).map(|index| about(&comm(index), status)).collect::<Vec<_>>();
    let _reader = world.keep_log();
    let before = world.commits();
    world.engine.take(&all(Status::Firing), Instant::now()).unwrap();
    assert_eq!(world.engine.ledger().leases.len(), ALERTS);
    assert_eq!(world.commits() - before, 2, "intents and outcomes");
    let before = world.commits();
    let calls = world.calls(|world| world.engine.take(&all(Status::Resolved), Instant::now()).unwrap());
    assert_eq!(
        world.commits() - before,
        3,
        "intents, outcomes, and a sweep of the history"
    );
    assert!(calls <= ALERTS * CALLS_PER_LEASE, "{calls} calls");
    assert!(world.engine.ledger().leases.is_empty() && world.engine.ledger().episodes.is_empty());
}

#[test]
fn a_repeat_renews_a_thousand_leases_by_no_commit_or_one() {
    const LEASES: usize = 1000;
    let mut rule = by_label(LEASES);
    rule.hold = Duration::from_secs(400);
    let mut world = world(policy(vec![rule]));
    for index in 0..LEASES {
        world.add_named(1000 + index as i32, "burner");
    }
    let fire = |world: &mut World| {
        let before = world.commits();
        world
            .engine
            .take(&[about("burner", Status::Firing)], Instant::now())
            .unwrap();
        world.commits() - before
    };
    let _reader = world.keep_log();
    fire(&mut world);
    for (seconds, expected) in [(30, 0), (30, 0), (50, 1), (30, 0)] {
        world.pass(seconds);
        assert_eq!(fire(&mut world), expected, "{seconds} s later");
        let now = world.engine.host().now.boot;
        let deadlines = world.engine.ledger().leases.values().map(|lease| lease.deadline);
        assert!(
            deadlines
                .into_iter()
                .all(|deadline| deadline == now + Duration::from_secs(400))
        );
    }
}

#[test]
fn alert_beyond_its_share_is_to_be_sent_again() {
    let mut world = world(policy(vec![by_label(1), example("other", "nice 5")]));
    let numbered = |number: usize, status| about(&format!("process-{number}"), status);
    let most: Vec<Alert> = (0..1024).map(|number| numbered(number, Status::Firing)).collect();
    world.engine.take(&most, Instant::now()).unwrap();
    let one_more = [numbered(1024, Status::Firing)];
    let refused = world.engine.take(&one_more, Instant::now()).unwrap_err();
    assert!(refused.contains("rule and alert name"), "{refused}");
    assert_eq!(world.decided("calm", Decision::Budget), 1.0);
    let families = world.telemetry.families();
    let counter = families
        .iter()
        .find(|family| family.name == "evenkeel_alerts_refused_total");
    let counts: Vec<String> = counter
        .unwrap()
        .points()
        .map(|point| format!("{:?}", point.value))
        .collect();
    assert_eq!(counts, ["Number(1.0)", "Number(0.0)"], "calm, other");
    // A repeat of an open one is no new one, and other rules go on.
    world.engine.take(&most, Instant::now()).unwrap();
    world.fire("other");
    assert_eq!(world.engine.ledger().episodes.len(), 1025);
    let ended = [numbered(0, Status::Resolved)];
    world.engine.take(&ended, Instant::now()).unwrap();
    world.engine.take(&one_more, Instant::now()).unwrap();
    assert_eq!(world.engine.ledger().episodes.len(), 1025);
}
