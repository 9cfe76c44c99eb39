//! Tests of the retention on a real file: old history is deleted in portions and the file shrinks; open episodes and
//! leases stay.

use crate::alert::Source;
use crate::host::Value;
use crate::ledger::files::FILE_NAME;
use crate::ledger::store::Store;
use crate::ledger::{
    Decision, Effect, Entry, Episode, EpisodeKey, Lease, LedgerState, Outcome, Record, Retention, SavedValue, Victim,
};
use crate::process::{BootId, Identity, Target};
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

const BOOT: BootId = BootId(1);
const OPEN: u64 = 50;
/// The number of rows of one sweep.
const MOST_ROWS: usize = 500;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn store(directory: &Path, retention: Retention) -> Store {
    let mut store = Store::open(directory, BOOT).unwrap();
    store.load().unwrap();
    store.retain(retention);
    store
}

/// A line of history, this many seconds after the first.
fn line(second: i64) -> Entry {
    Entry::Record(Record {
        at: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second),
        rule: "calm".into(),
        alertname: "HostCpuSaturated".into(),
        fingerprint: "0123456789abcdef".into(),
        target: None,
        step: None,
        decision: Some(Decision::NoTarget),
        outcome: None,
        before: None,
        after: None,
        output: None,
        reason: "no process matches the selector".repeat(8),
        operation: None,
        by: None,
        is_effect: false,
    })
}

fn lease(id: u64) -> Entry {
    let target = Target::Process(Identity {
        boot: BOOT,
        pid: id as i32,
        start_ticks: id,
    });
    let saved = SavedValue {
        tid: id as i32,
        start_ticks: id,
        value: Value::Nice(0),
        unit: None,
        favour: None,
    };
    Entry::Lease(Lease {
        id,
        rule: "calm".into(),
        fingerprint: "f".into(),
        target,
        name: "burner".into(),
        effect: Effect::Value {
            value: Value::Nice(15),
            saved: vec![saved],
        },
        taken_at: Duration::from_secs(5),
        deadline: Duration::from_secs(60),
        settled: true,
        is_undoing: false,
        released: None,
    })
}

fn episode() -> Entry {
    Entry::Episode(Episode {
        key: EpisodeKey {
            rule: "calm".into(),
            fingerprint: "f".into(),
            simulated: false,
        },
        steps_text: String::new(),
        source: Source::Local,
        labels: Default::default(),
        annotations: Default::default(),
        generator_url: None,
        starts_at: Timestamp::UNIX_EPOCH,
        opened_at: Duration::ZERO,
        seen_at: Duration::ZERO,
        evidence: Default::default(),
        targets: Vec::new(),
        excluded: Vec::new(),
    })
}

/// An open episode and lease, older than all history.
fn open(store: &mut Store) -> LedgerState {
    let entries: Vec<Entry> = (1..=OPEN).map(lease).chain([episode()]).collect();
    store.commit(&entries).unwrap();
    store.load().unwrap()
}

fn seconds(store: &Store) -> Vec<i64> {
    let records = store.records().unwrap();
    records.iter().map(|record| record.at.as_second()).collect()
}

/// Sweeps until nothing is left to delete.
fn sweep_all(store: &mut Store) -> usize {
    let mut sweeps = 0;
    loop {
        let before = store.records().unwrap().len();
        let is_more = store.sweep().unwrap();
        assert!(before - store.records().unwrap().len() <= MOST_ROWS);
        sweeps += 1;
        if !is_more {
            return sweeps;
        }
    }
}

fn file_bytes(directory: &Path) -> u64 {
    std::fs::metadata(directory.join(FILE_NAME)).unwrap().len()
}

#[test]
fn lines_are_deleted_by_age_relative_to_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(
        directory.path(),
        Retention {
            time: 2 * DAY,
            ..Retention::default()
        },
    );
    let open = open(&mut store);
    let hours: Vec<Entry> = (0..24 * 70).map(|hour| line(hour * 3600)).collect();
    store.commit(&hours).unwrap();
    assert!(sweep_all(&mut store) >= 24 * 68 / MOST_ROWS);
    let kept: Vec<i64> = (24 * 70 - 49..24 * 70).map(|hour| hour * 3600).collect();
    assert_eq!(seconds(&store), kept);
    assert_eq!(store.load().unwrap(), open);
    // Age does not depend on the clock, so a host without new history keeps the old history.
    assert!(!store.sweep().unwrap());
    assert_eq!(seconds(&store), kept);
}

#[test]
fn oldest_lines_are_deleted_until_the_file_is_small() {
    const LIMIT: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(
        directory.path(),
        Retention {
            size_bytes: LIMIT,
            ..Retention::default()
        },
    );
    let open = open(&mut store);
    let lines: Vec<Entry> = (0..20_000).map(line).collect();
    store.commit(&lines).unwrap();
    store.close().unwrap();
    let before = file_bytes(directory.path());
    assert!(before > 8 * LIMIT, "{before}");
    let mut store = self::store(
        directory.path(),
        Retention {
            size_bytes: LIMIT,
            ..Retention::default()
        },
    );
    sweep_all(&mut store);
    let kept = seconds(&store);
    assert!(kept.len() > 500 && *kept.last().unwrap() == 19_999, "{}", kept.len());
    assert!(kept.is_sorted() && kept[0] == 20_000 - kept.len() as i64, "the newest");
    assert_eq!(store.load().unwrap(), open);
    store.close().unwrap();
    // Up to a tenth and a quarter of a megabyte stay free for new entries.
    let after = file_bytes(directory.path());
    assert!(after <= LIMIT + LIMIT / 10 + (256 << 10), "{after}");
}

#[test]
fn without_a_quiet_moment_the_file_stays_bounded_as_well() {
    const LIMIT: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = crate::ledger::Journal::open(directory.path(), BOOT);
    journal.retain(Retention {
        size_bytes: LIMIT,
        ..Retention::default()
    });
    for turn in 0..300 {
        let lines: Vec<Entry> = (0..100).map(|number| line(turn * 100 + number)).collect();
        journal.begin(&lines[..50]).unwrap();
        journal.settle(lines[50..].to_vec());
    }
    let left = journal.records().len();
    drop(journal);
    let bytes = file_bytes(directory.path());
    assert!(bytes < 2 * LIMIT && left > 1000, "{bytes} bytes, {left} lines");
}

#[test]
fn open_entries_stay_even_beyond_the_size() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(
        directory.path(),
        Retention {
            size_bytes: 1,
            ..Retention::default()
        },
    );
    let open = open(&mut store);
    store.commit(&[line(1), line(2)]).unwrap();
    sweep_all(&mut store);
    assert_eq!((seconds(&store), store.load().unwrap()), (vec![], open));
}

#[test]
fn ended_leases_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(directory.path(), Retention::default());
    let ended = |id| Entry::LeaseEnded {
        id,
        outcome: Outcome::Restored,
    };
    let all: Vec<Entry> = (1..=1200).map(lease).chain((2..=1200).map(ended)).collect();
    store.commit(&all).unwrap();
    assert_eq!(sweep_all(&mut store), 4, "three portions, and one that finds nothing");
    let ids = "SELECT group_concat(id) FROM lease";
    let connection = Connection::open(store.path()).unwrap();
    let left: String = connection.query_row(ids, [], |row| row.get(0)).unwrap();
    assert_eq!(left, "1,1200", "the open one, and the last number that was given");
}

#[test]
fn file_from_before_retention_is_rewritten_to_shrink() {
    let directory = tempfile::tempdir().unwrap();
    let lines: Vec<Entry> = (0..5000).map(line).collect();
    let mut store = store(directory.path(), Retention::default());
    let open = open(&mut store);
    store.commit(&lines).unwrap();
    store.close().unwrap();
    let path = directory.path().join(FILE_NAME);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA auto_vacuum = NONE; VACUUM;").unwrap();
    drop(connection);
    let mut store = self::store(
        directory.path(),
        Retention {
            size_bytes: 1 << 20,
            ..Retention::default()
        },
    );
    let before = file_bytes(directory.path());
    sweep_all(&mut store);
    assert_eq!(store.load().unwrap(), open);
    store.close().unwrap();
    assert!(file_bytes(directory.path()) < before / 2);
}

#[test]
fn sweep_does_not_wait_for_other_writers() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = store(
        directory.path(),
        Retention {
            size_bytes: 1,
            ..Retention::default()
        },
    );
    store.commit(&[line(1)]).unwrap();
    let other = Connection::open(store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(store.sweep().is_err());
    other.execute_batch("ROLLBACK").unwrap();
    sweep_all(&mut store);
    assert!(seconds(&store).is_empty());
}

#[test]
fn sweep_without_new_entries_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store(dir.path(), Retention::default());
    while store.sweep().unwrap() {}
    let other = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    // A lock refuses readers meanwhile.
    let look = |store: &mut Store| {
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let looked = store.sweep().is_err();
        other.execute_batch("ROLLBACK").unwrap();
        looked
    };
    assert!(!look(&mut store));
    store.commit(&[line(1)]).unwrap();
    assert!(look(&mut store), "a line was written");
    while store.sweep().unwrap() {}
    assert!(!look(&mut store));
    store.retain(Retention {
        time: DAY,
        ..Retention::default()
    });
    assert!(look(&mut store), "less is to be kept");
}

/// An exited victim, of the open episode or of another alert.
fn victim(pid: i32, fingerprint: &str, struck_at: Duration) -> Entry {
    let target = Target::Process(Identity {
        boot: BOOT,
        pid,
        start_ticks: 1,
    });
    Entry::Victim(Victim {
        rule: "calm".into(),
        fingerprint: fingerprint.into(),
        gone_at: Some(struck_at),
        ..Victim::new(target, false, struck_at)
    })
}

fn gone(pid: i32) -> Entry {
    let target = Target::Process(Identity {
        boot: BOOT,
        pid,
        start_ticks: 1,
    });
    let (at, simulated) = (DAY, false);
    Entry::VictimGone { target, at, simulated }
}

#[test]
fn victims_stay_while_episode_cooldown_or_budget_needs_them() {
    for (victims, expected) in [(DAY, 1), (7 * DAY, 3)] {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention {
            victims,
            ..Retention::default()
        };
        let mut store = store(directory.path(), retention);
        let old = [
            victim(1, "f", DAY),
            victim(2, "g", DAY),
            victim(3, "g", 3 * DAY),
            victim(4, "g", 4 * DAY),
            victim(5, "g", 9 * DAY),
        ];
        let ends = [1, 2, 3, 4, 5].map(gone);
        let entries: Vec<Entry> = [episode()].into_iter().chain(old).chain(ends).collect();
        store.commit(&entries).unwrap();
        // As many newer victims as are kept at any age.
        let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        let newer = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
            INSERT INTO victim (boot, target, body, gone_ms) SELECT boot, target, body, gone_ms FROM victim, n WHERE id = 5";
        connection.execute_batch(newer).unwrap();
        sweep_all(&mut store);
        let mut kept = connection.prepare("SELECT id FROM victim WHERE id < 5").unwrap();
        let kept: Vec<i64> = kept
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(kept.len(), expected, "{kept:?}");
        assert!(kept.contains(&1), "its episode is open");
    }
}
