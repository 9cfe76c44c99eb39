//! The recovery of a corrupt ledger: readable rows go into a new file, and the old file is set aside, never deleted.

use super::entry::Entry;
use super::files::{self, BUILDING, COMPANIONS, COMPLETE, FILE_NAME, companion_of, finish, remove_file};
use super::lease::Lease;
use super::outcome::Outcome;
use super::rows::{Problem, ReadEntries};
use super::state::LedgerState;
use super::store::{Store, StoreError};
use super::write_ahead_log::{FRAME_HEADER_BYTES, LOG_HEADER_BYTES, log_is_damaged};
use crate::process::BootId;
use jiff::Timestamp;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// SQLite's default page size.
const PAGE_BYTES: usize = 4096;
/// Length of a boot id as text.
const BOOT_ID_BYTES: usize = 36;

/// Replaces the corrupt ledger by a new one with the content of `known`, or else with the readable rows. Returns the
/// content of the new one and the path of the old one.
///
/// # Errors
/// When the directory cannot be written; then nothing changes.
pub fn replace(
    directory: &Path,
    boot: BootId,
    known: Option<&LedgerState>,
) -> Result<(LedgerState, PathBuf), StoreError> {
    let broken = directory.join(FILE_NAME);
    let ledger = match known {
        Some(ledger) => ledger.clone(),
        None => rescue(&broken, boot),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { path, source }
    };
    let building = directory.join(BUILDING);
    // Left over from an earlier attempt. SQLite deletes a log whose database is new.
    remove_file(&building).map_err(failed(&building))?;
    let mut store = Store::open_file(&building, boot)?;
    // Records the boot, which shows that open episodes are current.
    store.load()?;
    store.commit(&entries(&ledger))?;
    store.go_on_after(ledger.last_lease_id)?;
    store.close()?;
    let aside = set_aside(&broken).map_err(failed(&broken))?;
    fs::rename(&building, directory.join(COMPLETE)).map_err(failed(&building))?;
    finish(directory).map_err(failed(&broken))?;
    Ok((ledger, aside))
}

/// Renames the corrupt file and its log to names with the time.
fn set_aside(broken: &Path) -> io::Result<PathBuf> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |number: u32| {
        let more = if number == 0 {
            String::new()
        } else {
            format!("-{number}")
        };
        broken.with_file_name(format!("{FILE_NAME}.corrupt-{time}{more}"))
    };
    let aside = (0..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
    // Links instead of renames, so that a ledger exists at every moment.
    fs::hard_link(broken, &aside)?;
    let log = companion_of(broken, COMPANIONS[0]);
    if log.exists() {
        fs::hard_link(log, companion_of(&aside, COMPANIONS[0]))?;
    }
    Ok(aside)
}

/// The entries that recreate this state.
fn entries(ledger: &LedgerState) -> Vec<Entry> {
    let mut entries: Vec<Entry> = ledger.episodes.values().cloned().map(Entry::Episode).collect();
    entries.extend(ledger.closed.iter().map(|(key, closed)| Entry::EpisodeClosed {
        key: key.clone(),
        closed: *closed,
    }));
    entries.extend(ledger.leases.values().cloned().map(Entry::Lease));
    for victim in &ledger.victims {
        entries.push(Entry::Victim(victim.clone()));
        entries.extend(victim.gone_at.map(|at| Entry::VictimGone {
            target: victim.target,
            at,
            simulated: victim.simulated,
        }));
    }
    entries.extend(ledger.breakers.iter().map(|(rule, breaker)| Entry::Breaker {
        rule: rule.clone(),
        breaker: *breaker,
    }));
    entries.push(Entry::Paused(ledger.paused));
    entries.extend(ledger.paused_rules.iter().map(|rule| Entry::RulePaused {
        rule: rule.clone(),
        paused: true,
    }));
    entries
}

/// Reads a ledger that cannot be written.
///
/// # Errors
/// When it cannot be read either.
pub fn read_only(directory: &Path, boot: BootId) -> Result<LedgerState, StoreError> {
    let path = directory.join(FILE_NAME);
    let reading = look(&path, boot).ok_or_else(|| StoreError::Io {
        path: path.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    match reading.problems.is_empty() {
        true => Ok(reading.ledger),
        false => Err(StoreError::Damaged { path }),
    }
}

/// The leases that a start finds, without a change of the ledger. `None` where only the start itself can tell, because it
/// has to repair the ledger first.
pub fn stored_leases(directory: &Path, boot: BootId) -> Option<Vec<Lease>> {
    if directory.join(COMPLETE).exists() {
        return None;
    }
    match directory.join(FILE_NAME).try_exists() {
        Ok(false) => Some(Vec::new()),
        Ok(true) => Some(read_only(directory, boot).ok()?.leases.into_values().collect()),
        Err(_) => None,
    }
}

/// Opens the ledger for reading; `None` on failure. On a read-only file system the log cannot be shared, so the file is
/// read without it.
fn look(path: &Path, boot: BootId) -> Option<ReadEntries> {
    let readings = [files::open_read_only(path), files::open_immutable(path)];
    let readings = readings.into_iter().flatten();
    readings
        .map(|connection| ReadEntries::take(&connection, boot))
        .min_by_key(|reading| reading.problems.len())
}

/// Reads as much as possible of a corrupt ledger.
fn rescue(broken: &Path, boot: BootId) -> LedgerState {
    let is_log_damaged = log_is_damaged(broken);
    let reading = look(broken, boot);
    let of_leases = |problem: &Problem| matches!(problem, Problem::Sql { table: "lease", .. });
    let is_complete = reading
        .as_ref()
        .is_some_and(|reading| !reading.problems.iter().any(of_leases));
    let mut ledger = reading.map(|reading| reading.ledger).unwrap_or_default();
    let read = std::mem::take(&mut ledger.leases);
    let [older, newer] = match is_complete && !is_log_damaged {
        true => Default::default(),
        false => carve(broken, boot),
    };
    let (older, older_ended) = split(older);
    let (newer, newer_ended) = split(newer);
    let count = read.len();
    for lease in older.into_iter().chain(read.into_values()).chain(newer) {
        let known = ledger.leases.get(&lease.id);
        // A settled lease wins over unsettled rows of it.
        if known.is_none_or(|known| lease.settled || !known.settled) {
            ledger.record(&Entry::Lease(lease));
        }
    }
    for id in older_ended.into_iter().chain(newer_ended) {
        let outcome = Outcome::Gone;
        ledger.record(&Entry::LeaseEnded { id, outcome });
        ledger.last_lease_id = ledger.last_lease_id.max(id);
    }
    tracing::warn!(
        leases = ledger.leases.len(),
        read = count,
        "leases recovered from the corrupt ledger"
    );
    ledger
}

/// Open leases, and the numbers of those that ended.
fn split(rows: Vec<(Lease, bool)>) -> (Vec<Lease>, Vec<u64>) {
    let (open, ended): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, is_open)| *is_open);
    let ended = ended.into_iter().map(|(lease, _)| lease.id);
    (open.into_iter().map(|(lease, _)| lease).collect(), ended.collect())
}

/// Leases, and whether each is open, from rows that look like leases, for files without a readable schema: every page
/// that looks like a leaf of a table is searched (<https://www.sqlite.org/fileformat2.html#b_tree_pages>). First those
/// of the database, among which are some that nothing uses any more, then those of the log, which are newer.
fn carve(broken: &Path, boot: BootId) -> [Vec<(Lease, bool)>; 2] {
    let database = fs::read(broken).unwrap_or_default();
    let log = fs::read(companion_of(broken, COMPANIONS[0])).unwrap_or_default();
    let (header, frames) = log.split_at(log.len().min(LOG_HEADER_BYTES));
    let frames = frames.chunks_exact(FRAME_HEADER_BYTES + PAGE_BYTES);
    // A restarted log has pages of the former one at its end, with another salt. Those are in the database already.
    let (new, old): (Vec<&[u8]>, Vec<&[u8]>) = frames.partition(|frame| header.get(16..24) == frame.get(8..16));
    let former = old.into_iter().map(content);
    let older = former.chain(database.chunks_exact(PAGE_BYTES));
    let newer = new.into_iter().map(content);
    [
        older.flat_map(|page| rows(page, boot)).collect(),
        newer.flat_map(|page| rows(page, boot)).collect(),
    ]
}

/// The page in a frame of the log.
fn content(frame: &[u8]) -> &[u8] {
    &frame[FRAME_HEADER_BYTES..]
}

/// The rows of a page that look like leases which count on this boot, and whether each is open.
fn rows(page: &[u8], boot: BootId) -> Vec<(Lease, bool)> {
    const LEAF_OF_TABLE: u8 = 13;
    const PAGE_HEADER: usize = 8;
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    if page.first() != Some(&LEAF_OF_TABLE) {
        return Vec::new();
    }
    let cells = word(3).unwrap_or(0).min(page.len() / 4);
    let cells = (0..cells).filter_map(|index| page.get(word(PAGE_HEADER + 2 * index)?..));
    cells.filter_map(|cell| row(cell, boot)).collect()
}

/// A row of the table `lease`: boot id, the lease as JSON, deadline and outcome; the last serial type before them is
/// that of the outcome, 0 while there is none (<https://www.sqlite.org/fileformat2.html#record_format>).
fn row(cell: &[u8], boot: BootId) -> Option<(Lease, bool)> {
    // Skips length and row id, each a varint of up to nine bytes.
    let mut at = 0;
    for _ in 0..2 {
        at += 1 + cell.get(at..)?.iter().take(8).take_while(|byte| **byte >= 0x80).count();
    }
    let header = usize::from(*cell.get(at)?);
    let (of_boot, body) = cell.get(at + header..)?.split_at_checked(BOOT_ID_BYTES)?;
    let of_boot: BootId = str::from_utf8(of_boot).ok()?.parse().ok()?;
    let [.., deadline, outcome] = *cell.get(at..at + header)? else {
        return None;
    };
    let mut parsed = serde_json::Deserializer::from_slice(body).into_iter::<Lease>();
    let mut lease = parsed.next()?.ok()?;
    // An integer of this many bytes. Otherwise the initial deadline of the lease stays.
    let length = match deadline {
        1..=4 => usize::from(deadline),
        5 => 6,
        _ => 0,
    };
    let deadline = body.get(parsed.byte_offset()..)?.get(..length)?;
    if length > 0 {
        let deadline = deadline.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        lease.deadline = Duration::from_millis(deadline);
    }
    Some((lease.on_boot(of_boot == boot)?, outcome == 0))
}
