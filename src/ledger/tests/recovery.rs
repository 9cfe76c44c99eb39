//! Tests of the recovery: signs of a damaged write-ahead log, rows on unused pages, and leftovers of earlier
//! attempts.

use super::damage::{BOOT, FRAME, LEASES, LOG_HEADER, harm, ids, lease, ledger, open, set_aside};
use crate::host::Value;
use crate::host::job::Run;
use crate::ledger::files::FILE_NAME;
use crate::ledger::recovery::replace;
use crate::ledger::write_ahead_log::log_is_damaged;
use crate::ledger::{Command, Effect, Entry, Journal, Lease, Outcome, RetryState};
use crate::process::BootId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files on disk, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap();
    let file = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((name, std::fs::read(path).ok()?))
    };
    entries.filter_map(|entry| file(entry.unwrap().path())).collect()
}

fn written(files: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

/// Changes a ledger with SQL, as an operator could.
fn change(directory: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(directory.join(FILE_NAME)).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[test]
fn damaged_frame_of_the_log_loses_no_lease() {
    let (directory, before) = ledger(true);
    let whole = files(directory.path());
    let log = format!("{FILE_NAME}-wal");
    let frames = (whole[&log].len() - LOG_HEADER) / FRAME;
    assert!(frames > 20);
    for frame in 0..frames {
        // Changes one byte of the salt or of the checksum, and no page.
        let at = LOG_HEADER + frame * FRAME + if frame % 2 == 0 { 9 } else { 17 };
        let directory = written(&whole);
        harm(directory.path(), &log, |bytes| bytes[at] ^= 1);
        let what = format!("frame {frame} of {frames}");
        let harmed = files(directory.path());
        // No commit follows the last one, so its damage is a torn end.
        if frame + 1 == frames {
            assert!(!log_is_damaged(&directory.path().join(FILE_NAME)));
            continue;
        }
        assert!(log_is_damaged(&directory.path().join(FILE_NAME)), "{what}");
        assert_eq!(open(directory.path(), &before, &what), ids(&before), "{what}");
        let (_, ledger) = Journal::open(directory.path(), BOOT);
        assert_eq!(ledger.last_lease_id, before.last_lease_id, "{what}");
        let aside = set_aside(directory.path()).remove(0);
        let name = aside.file_name().unwrap().to_str().unwrap();
        let now = files(directory.path());
        assert!(now[name] == harmed[FILE_NAME], "{what}: the file is kept");
        assert!(now[&format!("{name}-wal")] == harmed[&log], "{what}: and its log");
    }
}

#[test]
fn log_with_a_torn_commit_or_a_new_start_is_sound() {
    let (directory, _) = ledger(true);
    let log = format!("{FILE_NAME}-wal");
    change(directory.path(), "PRAGMA wal_checkpoint(TRUNCATE)");
    let connection = rusqlite::Connection::open(directory.path().join(FILE_NAME)).unwrap();
    for outcome in ["'expired'", "NULL"] {
        let all = format!("UPDATE lease SET outcome = {outcome}");
        connection.execute(&all, []).unwrap();
    }
    let directory = written(&files(directory.path()));
    let is_commit = |bytes: &[u8], frame: usize| bytes[LOG_HEADER + frame * FRAME..][4..8] != [0; 4];
    harm(directory.path(), &log, |bytes| {
        let frames = (bytes.len() - LOG_HEADER) / FRAME;
        let before_last = (0..frames - 1).rfind(|frame| is_commit(bytes, *frame)).unwrap();
        assert!(before_last + 4 < frames, "the last commit has several frames");
        bytes[LOG_HEADER + (before_last + 1) * FRAME + 100] ^= 1;
        bytes.truncate(bytes.len() - FRAME);
    });
    assert!(!log_is_damaged(&directory.path().join(FILE_NAME)));
    // A restarted log overwrites the old one from its start, and the rest of the old one stays behind it.
    let (directory, _) = ledger(true);
    let whole = files(directory.path());
    let origin = written(&whole);
    let connection = rusqlite::Connection::open(origin.path().join(FILE_NAME)).unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
        .unwrap();
    connection
        .execute("INSERT INTO meta VALUES ('other', 'x')", [])
        .unwrap();
    let reset = std::fs::read(origin.path().join(&log)).unwrap();
    assert!(reset.len() == whole[&log].len() && reset[16..24] != whole[&log][16..24]);
    assert!(!log_is_damaged(&origin.path().join(FILE_NAME)));
}

#[test]
fn damaged_log_of_another_boot_is_ignored() {
    let (directory, _) = ledger(true);
    let log = format!("{FILE_NAME}-wal");
    // The database has the boot id, and the log has later rows.
    change(directory.path(), "PRAGMA wal_checkpoint(TRUNCATE)");
    let connection = rusqlite::Connection::open(directory.path().join(FILE_NAME)).unwrap();
    for id in 1..=9 {
        let end = "UPDATE lease SET outcome = 'restored' WHERE id = ?1";
        connection.execute(end, [id]).unwrap();
    }
    let mut harmed = files(directory.path());
    harmed.get_mut(&log).unwrap()[LOG_HEADER + FRAME + 17] ^= 1;
    for (boot, aside) in [(BOOT, 1), (BootId(2), 0)] {
        let directory = written(&harmed);
        let (journal, _) = Journal::open(directory.path(), boot);
        assert!(journal.is_writable());
        assert_eq!(set_aside(directory.path()).len(), aside, "{boot}");
    }
}

/// Leases of two boots, none applied yet. The other boot left one command to revert.
const OF_THE_PAST: &str = "
    UPDATE lease SET body = json_set(body, '$.settled', json('false'));
    UPDATE lease SET boot = '00000000-0000-0000-0000-000000000002' WHERE id % 5 = 0;
    UPDATE lease SET boot = '00000000-0000-0000-0000-000000000002', outcome = NULL, body = json_set(body, '$.effect',
        json('{\"command\": COMMAND}')) WHERE id = 100;";
/// Ends some of these leases, and settles the rest.
const SINCE: &str = "
    UPDATE lease SET body = json_set(body, '$.settled', json('true')) WHERE id <> 100;
    UPDATE lease SET outcome = 'restored' WHERE id % 7 = 0;";

fn command() -> Command {
    let run = |path: &str| Run {
        argv: vec![path.to_owned()],
        env: BTreeMap::new(),
        user: None,
        timeout: Duration::from_secs(1),
    };
    Command {
        step: "exec".into(),
        run: run("/bin/drain"),
        undo: Some(run("/bin/undrain")),
        has_ended: true,
        retry: RetryState::default(),
    }
}

#[test]
fn unused_pages_restore_no_ended_lease() {
    let (directory, mut before) = ledger(false);
    let path = directory.path();
    let text = serde_json::to_string(&command()).unwrap();
    change(path, &OF_THE_PAST.replace("COMMAND", &text));
    let past = std::fs::read(path.join(FILE_NAME)).unwrap();
    change(path, SINCE);
    let since = std::fs::read(path.join(FILE_NAME)).unwrap();
    assert_ne!(past, since);
    let asked = Lease {
        effect: Effect::Command(Box::new(command())),
        deadline: Duration::ZERO,
        settled: false,
        is_undoing: false,
        released: None,
        ..lease(100)
    };
    before.record(&Entry::Lease(asked));
    let expected: BTreeSet<u64> = ids(&before)
        .into_iter()
        .filter(|id| *id == 100 || id % 5 != 0 && id % 7 != 0)
        .collect();
    for parts in [[&past, &since], [&since, &past]] {
        // A file without a readable schema, with old and present pages in any order.
        let mut bytes = parts.map(|part| part.as_slice()).concat();
        bytes[..100].fill(0x55);
        let directory = written(&[(FILE_NAME.to_owned(), bytes)].into());
        let found = open(directory.path(), &before, "pages of the past");
        assert_eq!(found, expected);
        let (_, ledger) = Journal::open(directory.path(), BOOT);
        let mut of_this_boot = ledger.leases.values().filter(|lease| lease.id != 100);
        assert!(of_this_boot.all(|lease| lease.settled));
        assert_eq!(ledger.leases[&100].deadline, Duration::ZERO);
    }
}

#[test]
fn rest_of_a_former_log_is_oldest() {
    let (directory, mut before) = ledger(true);
    let connection = rusqlite::Connection::open(directory.path().join(FILE_NAME)).unwrap();
    let restart = "PRAGMA wal_checkpoint(RESTART)";
    connection.query_row(restart, [], |_| Ok(())).unwrap();
    let since = "UPDATE lease SET outcome = 'restored' WHERE id % 7 = 0;
        UPDATE lease SET body = json_set(body, '$.effect.value.prior[0].value', json('{\"nice\": 3}')) WHERE id = 1;
        UPDATE lease SET deadline_ms = 99000 WHERE id = 2;";
    connection.execute_batch(since).unwrap();
    let whole = files(directory.path());
    for id in (7..=LEASES).step_by(7) {
        let outcome = Outcome::Restored;
        before.record(&Entry::LeaseEnded { id, outcome });
    }
    let mut inherited = lease(1);
    if let Effect::Value { saved, .. } = &mut inherited.effect {
        saved[0].value = Value::Nice(3);
    }
    before.record(&Entry::Lease(inherited));
    let (ids, deadline) = (vec![2], Duration::from_secs(99));
    before.record(&Entry::Renewed { ids, deadline });
    // Either the log or the database is unreadable.
    for (name, at) in [(format!("{FILE_NAME}-wal"), LOG_HEADER + 17), (FILE_NAME.to_owned(), 0)] {
        let directory = written(&whole);
        harm(directory.path(), &name, |bytes| bytes[at] ^= 1);
        open(directory.path(), &before, &name);
        let (_, ledger) = Journal::open(directory.path(), BOOT);
        assert_eq!(ledger.leases, before.leases, "{name}");
    }
}

#[test]
fn readable_leases_are_not_carved() {
    let (directory, before) = ledger(false);
    let past = std::fs::read(directory.path().join(FILE_NAME)).unwrap();
    change(
        directory.path(),
        "DELETE FROM lease WHERE id <= 20; UPDATE episode SET body = '{'",
    );
    // Pages beyond the file's own page count.
    harm(directory.path(), FILE_NAME, |bytes| bytes.extend(past));
    let expected: BTreeSet<u64> = ids(&before).into_iter().filter(|id| *id > 20).collect();
    assert_eq!(open(directory.path(), &before, "another table is broken"), expected);
    assert_eq!(set_aside(directory.path()).len(), 1);
}

#[test]
fn rest_of_an_earlier_attempt_is_not_the_new_ledger() {
    let (directory, before) = ledger(false);
    let (other, _) = ledger(true);
    let connection = rusqlite::Connection::open(other.path().join(FILE_NAME)).unwrap();
    let others = "UPDATE lease SET id = id + 1000, body = json_set(body, '$.id', id + 1000)";
    connection.execute(others, []).unwrap();
    for (name, bytes) in files(other.path()) {
        let name = name.replace(FILE_NAME, "ledger.db.building");
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    harm(directory.path(), FILE_NAME, |bytes| bytes[..100].fill(0x55));
    assert_eq!(open(directory.path(), &before, "tried before"), ids(&before));
    assert_eq!(set_aside(directory.path()).len(), 1);
}

#[test]
fn failed_replacement_keeps_the_ledger() {
    let (directory, ledger) = ledger(true);
    let path = directory.path();
    let before = files(path);
    // No file can be renamed to this path.
    std::fs::create_dir(path.join("ledger.db.new")).unwrap();
    assert!(replace(path, BOOT, Some(&ledger)).is_err());
    let after = files(path);
    assert!(
        before
            .iter()
            .all(|(name, bytes)| name.ends_with("-shm") || after.get(name) == Some(bytes))
    );
    std::fs::remove_dir(path.join("ledger.db.new")).unwrap();
    assert_eq!(open(path, &ledger, "not replaced"), ids(&ledger));
}
