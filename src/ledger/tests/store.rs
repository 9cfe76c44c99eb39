//! Tests of the ledger on a real file, including files of former versions.

use crate::alert::Source;
use crate::host::Value;
use crate::host::job::{Request, Server};
use crate::ledger::EpisodeKey;
use crate::ledger::files::FILE_NAME;
use crate::ledger::retention::KEEP_CLOSED;
use crate::ledger::schema::SCHEMA_VERSION;
use crate::ledger::store::{Store, StoreError, read_records};
use crate::ledger::{
    Allocation, Effect, Episode, GrantState, Lease, Outcome, Release, RetryState, SavedValue, TargetProgress, Victim,
};
use crate::ledger::{Closed, Entry, LedgerState};
use crate::process::{BootId, Identity, Target};
use crate::template::Segment;
use jiff::Timestamp;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The state as loaded, without the times of closes, which the file does not store.
fn closed_at(ended_at: Timestamp) -> Closed {
    Closed {
        ended_at,
        closed_at: None,
    }
}

fn target() -> Target {
    Target::Process(Identity {
        boot: BootId(1),
        pid: 7,
        start_ticks: 70,
    })
}

fn lease(id: u64) -> Lease {
    Lease {
        id,
        rule: "calm".into(),
        fingerprint: "f".into(),
        target: target(),
        name: "a\n\"b".into(),
        effect: Effect::Value {
            value: Value::Nice(15),
            saved: vec![SavedValue {
                tid: 7,
                start_ticks: 70,
                value: Value::Nice(0),
                unit: None,
                favour: None,
            }],
        },
        taken_at: Duration::from_secs(5),
        deadline: Duration::from_secs(60),
        settled: false,
        is_undoing: false,
        released: None,
    }
}

fn episode() -> Episode {
    Episode {
        key: EpisodeKey {
            rule: "calm".into(),
            fingerprint: "f".into(),
            simulated: false,
        },
        steps_text: String::new(),
        source: Source::Local,
        labels: [("alertname".to_owned(), "X".to_owned())].into(),
        annotations: Default::default(),
        generator_url: None,
        starts_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        opened_at: Duration::from_secs(1),
        seen_at: Duration::from_secs(2),
        evidence: Default::default(),
        targets: vec![TargetProgress {
            target: target(),
            name: "x".into(),
            step_index: 2,
            due: Duration::from_secs(9),
            refused: Some(crate::ledger::Decision::Cooldown),
        }],
        excluded: Vec::new(),
    }
}

fn breaker(failures: u32, opened_at: Option<Timestamp>) -> Entry {
    Entry::Breaker {
        rule: "calm".into(),
        breaker: crate::ledger::Breaker { failures, opened_at },
    }
}

fn rule_paused(rule: &str, paused: bool) -> Entry {
    let rule = rule.to_owned();
    Entry::RulePaused { rule, paused }
}

/// A command for the host, which counts at once.
fn run(at: u64) -> Entry {
    let at = Duration::new(at, 7);
    Entry::Victim(Victim {
        rule: "notify".into(),
        fingerprint: "f".into(),
        gone_at: Some(at),
        ..Victim::new(Target::Host, false, at)
    })
}

#[test]
fn committed_state_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = LedgerState::default();
    let closed = EpisodeKey {
        rule: "old".into(),
        fingerprint: "g".into(),
        simulated: true,
    };
    let entries = [
        Entry::Episode(episode()),
        Entry::EpisodeClosed {
            key: closed,
            closed: closed_at("2026-01-01T00:00:00Z".parse().unwrap()),
        },
        Entry::Lease(lease(1)),
        Entry::Lease(lease(2)),
        Entry::LeasePrior {
            id: 2,
            saved: vec![SavedValue {
                tid: 7,
                start_ticks: 70,
                value: Value::Nice(-5),
                unit: None,
                favour: None,
            }],
        },
        Entry::LeaseEnded {
            id: 1,
            outcome: Outcome::Restored,
        },
        Entry::Renewed {
            ids: vec![2],
            deadline: Duration::from_secs(600),
        },
        Entry::Victim(Victim {
            rule: "calm".into(),
            fingerprint: "f".into(),
            signals: vec![15],
            unsent: Some(15),
            ..Victim::new(target(), false, Duration::from_secs(3))
        }),
        Entry::VictimGone {
            target: target(),
            at: Duration::from_secs(3),
            simulated: true,
        },
        Entry::Victim(Victim {
            rule: "calm".into(),
            fingerprint: "f".into(),
            signals: vec![15, 9],
            gone_by: Some(Duration::from_secs(33)),
            memory: Some(crate::ledger::victim::MemoryBefore {
                resident_bytes: 5,
                available_bytes: 6,
            }),
            ..Victim::new(target(), false, Duration::from_secs(3))
        }),
        Entry::VictimGone {
            target: target(),
            at: Duration::from_secs(4),
            simulated: false,
        },
        run(5),
        run(6),
        Entry::CommandUncounted {
            key: EpisodeKey {
                rule: "notify".into(),
                fingerprint: "f".into(),
                simulated: false,
            },
            struck_at: Duration::new(5, 7),
        },
        breaker(2, None),
        breaker(0, None),
        breaker(3, Some("2026-01-01T00:00:00Z".parse().unwrap())),
        Entry::Paused(true),
        rule_paused("a:b %", true),
        rule_paused("over", true),
        rule_paused("over", false),
        rule_paused("never", false),
    ];
    for entry in &entries {
        let (before, former) = (expected.clone(), expected.former(entry));
        expected.record(entry);
        let mut back = expected.clone();
        back.roll_back(former);
        assert_eq!(back, before, "{entry:?} taken back");
    }
    Store::open(directory.path(), BootId(1)).unwrap().load().unwrap();
    Store::open(directory.path(), BootId(1))
        .unwrap()
        .commit(&entries)
        .unwrap();
    assert_eq!(
        Store::open(directory.path(), BootId(1)).unwrap().load().unwrap(),
        expected
    );
}

#[test]
fn another_boot_ends_leases_and_open_episodes() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), BootId(1)).unwrap();
    store.load().unwrap();
    store
        .commit(&[Entry::Episode(episode()), Entry::Lease(lease(1))])
        .unwrap();
    let ledger = Store::open(directory.path(), BootId(2)).unwrap().load().unwrap();
    assert!(ledger.leases.is_empty() && ledger.episodes.is_empty());
    assert_eq!(ledger.last_lease_id, 1);
}

#[test]
fn closed_leases_are_pruned_and_numbers_not_reused() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), BootId(1)).unwrap();
    let ended = |id, outcome| Entry::LeaseEnded { id, outcome };
    let closed = |second: i64| Entry::EpisodeClosed {
        key: EpisodeKey {
            fingerprint: second.to_string().into(),
            ..episode().key
        },
        closed: closed_at(Timestamp::from_second(second).unwrap()),
    };
    let entries = [
        Entry::Lease(lease(1)),
        Entry::Lease(lease(2)),
        Entry::Lease(lease(3)),
        ended(2, Outcome::Restored),
        ended(3, Outcome::Restored),
    ];
    store.load().unwrap();
    store.commit(&entries).unwrap();
    store
        .commit(&(0..=KEEP_CLOSED).map(closed).collect::<Vec<_>>())
        .unwrap();
    let ledger = store.load().unwrap();
    assert_eq!(ledger.leases.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!((ledger.last_lease_id, ledger.closed.len()), (3, KEEP_CLOSED as usize));
    assert!(ledger.closed.keys().all(|key| key.fingerprint != "0"));
    let left: i64 = Connection::open(store.path())
        .unwrap()
        .query_row("SELECT count(*) FROM lease", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 2);
}

/// A ledger of each former schema. A new version of the tables adds one.
const FORMER: [&str; SCHEMA_VERSION as usize - 1] = [
    include_str!("../../../tests/fixtures/ledger/schema-1.sql"),
    include_str!("../../../tests/fixtures/ledger/schema-2.sql"),
];

/// A directory with a ledger of a former schema, counted from 1.
fn former(schema: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    connection.execute_batch(FORMER[schema - 1]).unwrap();
    directory
}

/// The tables with their columns, and the indexes. The order of columns may differ after a migration.
fn layout(directory: &Path) -> Vec<String> {
    let connection = Connection::open(directory.join(FILE_NAME)).unwrap();
    let query = "SELECT concat_ws(' ', entry.type, entry.name, field.name, field.type)
        FROM sqlite_master entry LEFT JOIN pragma_table_info(entry.name) field ORDER BY 1";
    let mut statement = connection.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn schema(directory: &Path) -> String {
    let connection = Connection::open(directory.join(FILE_NAME)).unwrap();
    let query = "SELECT value FROM meta WHERE key = 'schema'";
    connection.query_row(query, [], |row| row.get(0)).unwrap()
}

#[test]
fn ledger_of_each_former_schema_is_upgraded() {
    let fresh = tempfile::tempdir().unwrap();
    Store::open(fresh.path(), BootId(1)).unwrap();
    for number in 1..SCHEMA_VERSION as usize {
        let directory = former(number);
        assert_eq!(schema(directory.path()), number.to_string());
        let mut store = Store::open(directory.path(), BootId(1)).unwrap();
        assert_eq!(schema(directory.path()), SCHEMA_VERSION.to_string());
        assert_eq!(layout(directory.path()), layout(fresh.path()), "schema {number}");
        let before = store.load().unwrap();
        assert!(!before.leases.is_empty() && !store.records().unwrap().is_empty());
        store
            .commit(&[
                Entry::Episode(episode()),
                Entry::Lease(lease(900)),
                breaker(1, None),
                run(7),
            ])
            .unwrap();
        drop(store);
        let mut store = Store::open(directory.path(), BootId(1)).unwrap();
        let after = store.load().unwrap();
        assert_eq!(after.leases.len(), before.leases.len() + 1, "schema {number}");
        assert_eq!(after.victims.len(), before.victims.len() + 1, "schema {number}");
    }
}

#[test]
fn ledger_of_the_first_schema_keeps_its_entries() {
    let directory = former(1);
    let mut store = Store::open(directory.path(), BootId(1)).unwrap();
    let ledger = store.load().unwrap();
    assert_eq!(ledger.leases[&1], lease(1));
    assert_eq!(ledger.episodes.values().collect::<Vec<_>>(), [&episode()]);
    assert_eq!(store.records().unwrap()[0].target, Some((target(), "x".to_owned())));
    let gone = Entry::VictimGone {
        target: target(),
        at: Duration::from_secs(4),
        simulated: false,
    };
    store.commit(&[gone]).unwrap();
    let ledger = Store::open(directory.path(), BootId(1)).unwrap().load().unwrap();
    assert_eq!(ledger.victims[0].gone_at, Some(Duration::from_secs(4)));
}

#[test]
fn grant_outlasts_a_reboot_and_is_released_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), BootId(1)).unwrap();
    store.load().unwrap();
    let mut asked = lease(2);
    asked.target = Target::Host;
    asked.effect = Effect::Allocation(Box::new(Allocation {
        step: "allocate".into(),
        ask: Request {
            method: "POST".into(),
            url: "https://broker.example/allocate".into(),
            body: Some("{}".into()),
            key: "k".into(),
        },
        server: Server {
            authorization: None,
            tls: Default::default(),
            timeout: Duration::from_secs(10),
        },
        resource_at: "/resource".into(),
        ttl_at: None,
        release: Some(Release {
            method: "DELETE".into(),
            url: vec![Segment::Text("https://broker.example/".into()), Segment::Resource],
            body: None,
        }),
        grant: GrantState::Requested { in_doubt: true },
        unnamed: None,
        retry: RetryState::default(),
    }));
    store
        .commit(&[Entry::Lease(lease(1)), Entry::Lease(asked.clone())])
        .unwrap();
    let ledger = Store::open(directory.path(), BootId(2)).unwrap().load().unwrap();
    asked.deadline = Duration::ZERO;
    assert_eq!(ledger.leases.into_values().collect::<Vec<_>>(), [asked]);
}

#[test]
fn ledger_of_a_later_schema_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let later = "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE record (id INTEGER PRIMARY KEY);
        CREATE INDEX record_rule ON record (id);
        INSERT INTO meta VALUES ('schema', '99');";
    Connection::open(&path).unwrap().execute_batch(later).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(
        Store::open(directory.path(), BootId(1)),
        Err(StoreError::Newer { found: 99, .. })
    ));
    assert!(std::fs::read(&path).unwrap() == before, "the file is as before");
}

#[test]
fn unfinished_ledger_has_no_records() {
    let directory = tempfile::tempdir().unwrap();
    Connection::open(directory.path().join(FILE_NAME))
        .unwrap()
        .pragma_update(None, "journal_mode", "WAL")
        .unwrap();
    assert!(read_records(directory.path(), 10).unwrap().is_empty());
    assert!(read_records(&directory.path().join("missing"), 10).is_err());
}

#[test]
fn commit_that_fails_at_its_end_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), BootId(1)).unwrap();
    let other = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    // A deferred foreign key, which SQLite checks at the commit and which fails.
    let obstacle = "CREATE TABLE never (id INTEGER PRIMARY KEY);
        CREATE TABLE bound (id INTEGER REFERENCES never DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER obstacle AFTER INSERT ON lease BEGIN INSERT INTO bound VALUES (1); END";
    other.execute_batch(obstacle).unwrap();
    let refused = store.commit(&[Entry::Lease(lease(1))]).unwrap_err();
    assert!(refused.to_string().contains("FOREIGN KEY"), "{refused}");
    assert!(!refused.is_corruption());
    // No other connection could write if the transaction were still open.
    other.execute_batch("DROP TRIGGER obstacle").unwrap();
    store.commit(&[Entry::Lease(lease(2))]).unwrap();
    let leases = store.load().unwrap().leases;
    assert_eq!(leases.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_reboot_closes_its_leases_in_the_history() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), BootId(1)).unwrap();
    let ended = Entry::LeaseEnded {
        id: 2,
        outcome: Outcome::Restored,
    };
    let entries = [
        Entry::Episode(episode()),
        Entry::Lease(lease(1)),
        Entry::Lease(lease(2)),
        ended,
    ];
    store.commit(&entries).unwrap();
    drop(store);
    for _ in 0..2 {
        let mut store = Store::open(directory.path(), BootId(2)).unwrap();
        assert!(store.load().unwrap().leases.is_empty());
        let records = store.records().unwrap();
        assert_eq!(records.len(), 1, "{records:?}");
        let told = &records[0];
        assert_eq!((told.rule.as_str(), told.alertname.as_str()), ("calm", "X"));
        assert_eq!(told.step.as_deref(), Some("undo nice"));
        assert_eq!(told.outcome, Some(Outcome::Gone));
        assert_eq!(told.before.as_deref(), Some("15"));
        assert_eq!(told.target, Some((target(), "a\n\"b".to_owned())));
        assert_eq!(told.reason, "the host was rebooted");
    }
}

#[test]
fn history_is_readable_after_a_crash_in_the_creation_of_the_file() {
    let [running, crashed] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let connection = rusqlite::Connection::open(running.path().join("ledger.db")).unwrap();
    // A small cache makes SQLite write into the file before the commit.
    let begin = "CREATE TABLE record (id INTEGER PRIMARY KEY, body TEXT);
        PRAGMA cache_size = 1; BEGIN; INSERT INTO record (body)
        SELECT zeroblob(9000) FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9))";
    connection.execute_batch(begin).unwrap();
    for name in ["ledger.db", "ledger.db-journal"] {
        std::fs::copy(running.path().join(name), crashed.path().join(name)).unwrap();
    }
    assert_eq!(read_records(crashed.path(), 10).unwrap(), []);
}
