//! Tests of a damaged ledger: it is set aside, and its readable rows are kept.

use crate::host::Value;
use crate::ledger::entry::Entry;
use crate::ledger::files::FILE_NAME;
use crate::ledger::lease::{Effect, Lease, SavedValue};
use crate::ledger::outcome::Outcome;
use crate::ledger::recovery::replace;
use crate::ledger::state::LedgerState;
use crate::ledger::write_ahead_log::log_is_damaged;
use crate::ledger::{Episode, EpisodeKey, Journal, Victim};
use crate::process::{BootId, Identity, Target};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const BOOT: BootId = BootId(1);
pub(super) const LEASES: u64 = 120;
const PAGE: usize = 4096;
/// Sizes of the header of a write-ahead log, and of a frame's header.
pub(super) const LOG_HEADER: usize = 32;
pub(super) const FRAME: usize = 24 + PAGE;

fn target(id: u64) -> Target {
    Target::Process(Identity {
        boot: BOOT,
        pid: 1000 + id as i32,
        start_ticks: id,
    })
}

pub(super) fn lease(id: u64) -> Lease {
    let value = Value::Nice(15);
    let saved = SavedValue {
        tid: 1000 + id as i32,
        start_ticks: id,
        value: Value::Nice(0),
        unit: None,
        favour: None,
    };
    Lease {
        id,
        rule: "calm".into(),
        fingerprint: "f".into(),
        target: target(id),
        name: "burner".into(),
        effect: Effect::Value {
            value,
            saved: vec![saved],
        },
        taken_at: Duration::from_secs(5),
        deadline: Duration::from_secs(60),
        settled: true,
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
        source: crate::alert::Source::Local,
        labels: Default::default(),
        annotations: Default::default(),
        generator_url: None,
        starts_at: jiff::Timestamp::UNIX_EPOCH,
        opened_at: Duration::ZERO,
        seen_at: Duration::ZERO,
        evidence: Default::default(),
        targets: vec![],
        excluded: vec![],
    }
}

/// A ledger of many leases, every third of which has ended, in the state after a kill of the daemon: all rows in the
/// database, or in its log.
pub(super) fn ledger(in_log: bool) -> (tempfile::TempDir, LedgerState) {
    let (origin, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut journal, mut ledger) = Journal::open(origin.path(), BOOT);
    let mut entries = vec![Entry::Episode(episode())];
    entries.extend((1..=LEASES).map(|id| Entry::Lease(lease(id))));
    entries.extend((1..=LEASES).filter(|id| id % 3 == 0).map(|id| Entry::LeaseEnded {
        id,
        outcome: Outcome::Restored,
    }));
    entries.push(Entry::Victim(Victim::new(target(7), false, Duration::from_secs(3))));
    for part in entries.chunks(40) {
        part.iter().for_each(|entry| ledger.record(entry));
        journal.begin(part).unwrap();
    }
    if !in_log {
        let other = rusqlite::Connection::open(origin.path().join(FILE_NAME)).unwrap();
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        other.query_row(checkpoint, [], |_| Ok(())).unwrap();
    }
    for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal")] {
        std::fs::copy(origin.path().join(&name), copy.path().join(&name)).unwrap();
    }
    (copy, ledger)
}

pub(super) fn harm(directory: &Path, name: &str, harm: impl FnOnce(&mut Vec<u8>)) {
    let path = directory.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    harm(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

pub(super) fn set_aside(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().path());
    names
        .filter(|path| {
            path.display().to_string().contains(".corrupt-") && !path.display().to_string().ends_with("-wal")
        })
        .collect()
}

pub(super) fn ids(ledger: &LedgerState) -> BTreeSet<u64> {
    ledger.leases.keys().copied().collect()
}

/// Opens a damaged ledger: no ended lease returns, and the journal works. Returns the leases found.
pub(super) fn open(directory: &Path, before: &LedgerState, what: &str) -> BTreeSet<u64> {
    let (mut journal, ledger) = Journal::open(directory, BOOT);
    let found = ids(&ledger);
    assert!(found.is_subset(&ids(before)), "{what}: {found:?}");
    for lease in ledger.leases.values() {
        assert_eq!(lease.effect, before.leases[&lease.id].effect, "{what}");
    }
    assert!(journal.is_writable(), "{what}");
    journal.begin(&[Entry::Paused(true)]).unwrap();
    drop(journal);
    let (_, again) = Journal::open(directory, BOOT);
    assert_eq!(ids(&again), found, "{what}, opened again");
    assert!(again.paused, "{what}");
    found
}

#[test]
fn a_sound_ledger_is_left_as_it_is() {
    for in_log in [true, false] {
        let (directory, before) = ledger(in_log);
        assert_eq!(open(directory.path(), &before, "nothing"), ids(&before));
        assert_eq!(set_aside(directory.path()), Vec::<PathBuf>::new());
    }
}

#[test]
fn zeroed_page_costs_only_its_own_rows() {
    let (directory, before) = ledger(false);
    let pages = std::fs::metadata(directory.path().join(FILE_NAME)).unwrap().len() as usize / PAGE;
    assert!(pages > 10);
    let mut fewest = usize::MAX;
    for page in 0..pages {
        let (directory, _) = ledger(false);
        harm(directory.path(), FILE_NAME, |bytes| {
            bytes[page * PAGE..(page + 1) * PAGE].fill(0);
        });
        let found = open(directory.path(), &before, &format!("page {page} of {pages}")).len();
        let is_whole = found == before.leases.len();
        assert!(is_whole || set_aside(directory.path()).len() == 1, "page {page}");
        fewest = fewest.min(found);
    }
    assert!(fewest >= before.leases.len() / 2, "{fewest} of {}", before.leases.len());
}

#[test]
fn corrupt_first_page_loses_no_lease() {
    let garble = |bytes: &mut [u8]| {
        bytes
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at * 37) as u8)
    };
    for length in [16, 100, PAGE] {
        let (directory, before) = ledger(false);
        harm(directory.path(), FILE_NAME, |bytes| garble(&mut bytes[..length]));
        let found = open(directory.path(), &before, &format!("{length} bytes of garbage"));
        assert_eq!(found, ids(&before));
        let (_, ledger) = Journal::open(directory.path(), BOOT);
        assert_eq!(ledger.last_lease_id, LEASES, "which has ended");
        let aside = set_aside(directory.path());
        assert_eq!(aside.len(), 1);
        assert_eq!(std::fs::read(&aside[0]).unwrap()[1], 37, "kept as it was");
    }
}

#[test]
fn truncated_ledger_keeps_the_rest() {
    let (directory, before) = ledger(false);
    harm(directory.path(), FILE_NAME, |bytes| {
        bytes.truncate(bytes.len() * 3 / 4 / PAGE * PAGE)
    });
    open(directory.path(), &before, "three quarters are left");
    assert_eq!(set_aside(directory.path()).len(), 1);
}

#[test]
fn a_damaged_log_is_noticed_and_its_leases_are_found() {
    let log = format!("{FILE_NAME}-wal");
    for at in [0, 17, LOG_HEADER + 3, LOG_HEADER + 5 * FRAME + 2000] {
        let (directory, before) = ledger(true);
        harm(directory.path(), &log, |bytes| bytes[at] ^= 0xff);
        assert!(log_is_damaged(&directory.path().join(FILE_NAME)), "byte {at}");
        let found = open(directory.path(), &before, &format!("byte {at} of the log"));
        assert!(
            found.len() >= before.leases.len() - 30,
            "byte {at}: {} found",
            found.len()
        );
        assert_eq!(set_aside(directory.path()).len(), 1, "byte {at}");
    }
}

#[test]
fn a_torn_end_of_the_log_is_no_damage() {
    let (directory, before) = ledger(true);
    harm(directory.path(), &format!("{FILE_NAME}-wal"), |bytes| {
        let end = bytes.len();
        bytes[end - FRAME / 2..].fill(0);
        bytes.extend([7; 1000]);
    });
    // The last frame is a commit. Only its rows are lost.
    let (journal, ledger) = Journal::open(directory.path(), BOOT);
    assert!(journal.is_writable() && ids(&ledger).is_superset(&ids(&before)));
    assert_eq!(set_aside(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn ledger_broken_while_running_is_replaced_from_memory() {
    let (directory, _) = ledger(false);
    let (mut journal, mut ledger) = Journal::open(directory.path(), BOOT);
    // Another process writes, so that pages are read again.
    let other = rusqlite::Connection::open(directory.path().join(FILE_NAME)).unwrap();
    other.execute("INSERT INTO meta VALUES ('other', 'x')", []).unwrap();
    other
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(other);
    harm(directory.path(), FILE_NAME, |bytes| bytes.fill(0x55));
    let entry = Entry::Lease(lease(LEASES + 1));
    assert!(journal.begin(std::slice::from_ref(&entry)).is_err());
    assert!(!journal.is_writable());
    assert!(journal.recover(&ledger).is_none());
    assert!(journal.is_writable());
    ledger.record(&entry);
    journal.begin(&[entry]).unwrap();
    drop(journal);
    let (_, again) = Journal::open(directory.path(), BOOT);
    assert_eq!((again.leases, again.episodes), (ledger.leases, ledger.episodes));
    assert_eq!(set_aside(directory.path()).len(), 1);
}

#[test]
fn interrupted_replacement_is_completed() {
    let (directory, before) = ledger(true);
    let path = directory.path();
    std::fs::copy(path.join(FILE_NAME), path.join("kept")).unwrap();
    let (new, _) = ledger(false);
    std::fs::copy(new.path().join(FILE_NAME), path.join("ledger.db.new")).unwrap();
    harm(path, FILE_NAME, |bytes| bytes.fill(0));
    assert_eq!(open(path, &before, "half replaced"), ids(&before));
    assert!(!path.join("ledger.db.new").exists());
}

#[test]
fn replaced_ledger_has_the_whole_state_in_memory() {
    let (directory, mut ledger) = ledger(false);
    let mut rehearsed = Victim::new(target(8), true, Duration::from_secs(4));
    rehearsed.gone_at = Some(Duration::from_secs(5));
    ledger.record(&Entry::Victim(rehearsed));
    ledger.record(&Entry::Paused(true));
    ledger.record(&Entry::RulePaused {
        rule: "calm".to_owned(),
        paused: true,
    });
    let (replaced, _) = replace(directory.path(), BOOT, Some(&ledger)).unwrap();
    assert_eq!(replaced, ledger);
    let (_, again) = Journal::open(directory.path(), BOOT);
    assert_eq!(
        again.last_lease_id, LEASES,
        "the last one has ended, and its number is not given again"
    );
    assert_eq!(again, ledger);
}

#[test]
fn ledger_that_others_can_change_is_not_believed() {
    let (directory, before) = ledger(false);
    let set_mode = |mode| std::fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
    set_mode(0o777);
    let (journal, ledger) = Journal::open(directory.path(), BOOT);
    assert!(!journal.is_writable() && ledger.leases.is_empty());
    set_mode(0o700);
    assert_eq!(ids(&Journal::open(directory.path(), BOOT).1), ids(&before));
}

#[test]
fn journal_without_file_is_never_writable() {
    let mut journal = Journal::without_file(BOOT);
    journal.settle(vec![Entry::Paused(true)]);
    assert!(journal.begin(&[Entry::Paused(false)]).is_err());
    assert!(journal.recover(&LedgerState::default()).is_none());
    assert!(!journal.is_writable());
}
