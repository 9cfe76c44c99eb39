//! A ledger that is broken: what can be read of it goes into a new one, and the file is set aside, never deleted.

use super::entry::{Entry, Outcome};
use super::lease::Lease;
use super::reading::{Problem, Reading};
use super::state::LedgerState;
use super::store::{FILE_NAME, Store, StoreError};
use crate::process::BootId;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A new ledger that is being filled.
const BUILDING: &str = "ledger.db.building";
/// One that is complete while the broken one was set aside already.
const COMPLETE: &str = "ledger.db.new";
/// As SQLite creates databases unless told otherwise.
const PAGE_BYTES: usize = 4096;
/// Of a write-ahead log, and of each page in it.
const LOG_HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// How a log begins whose checksums count in this machine's byte order. No other machine's log is of this boot.
const LOG_MAGIC: u32 = 0x377f_0682 | cfg!(target_endian = "big") as u32;
/// A boot id as text.
const BOOT_ID_BYTES: usize = 36;
/// SQLite's companions of a database: the write-ahead log and its index.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Puts a new ledger with what `known` holds, or else with what can be read of the broken one, in the place of the
/// broken one. Returns what the new one holds and where the old one is.
///
/// # Errors
/// When the directory cannot be written; everything is as it was then.
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
    // Of an earlier attempt. SQLite deletes a log whose database is new.
    remove_file(&building).map_err(failed(&building))?;
    let mut store = Store::open_file(&building, boot)?;
    // Notes the boot, by which open episodes are known to be of today.
    store.load()?;
    store.commit(&entries(&ledger))?;
    store.go_on_after(ledger.last_lease_id)?;
    store.close()?;
    let aside = set_aside(&broken).map_err(failed(&broken))?;
    fs::rename(&building, directory.join(COMPLETE)).map_err(failed(&building))?;
    finish(directory).map_err(failed(&broken))?;
    Ok((ledger, aside))
}

/// Goes on with a replacement that was interrupted.
///
/// # Errors
/// When the directory cannot be written.
pub fn finish(directory: &Path) -> io::Result<()> {
    let complete = directory.join(COMPLETE);
    if !complete.exists() {
        return Ok(());
    }
    let broken = directory.join(FILE_NAME);
    // The old log must not be taken for the new ledger's.
    for companion in COMPANIONS {
        remove_file(&companion_of(&broken, companion))?;
    }
    fs::rename(complete, broken)
}

/// Gives the broken file and its log names of their own, with the time in them.
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
    // Links, so that there is no moment without a ledger.
    fs::hard_link(broken, &aside)?;
    let log = companion_of(broken, COMPANIONS[0]);
    if log.exists() {
        fs::hard_link(log, companion_of(&aside, COMPANIONS[0]))?;
    }
    Ok(aside)
}

fn companion_of(path: &Path, companion: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(companion);
    PathBuf::from(name)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Everything that a ledger must hold to be read as this book.
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
    entries
}

/// Reads a ledger that cannot be written, as it is.
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

/// What a reader sees; `None` where nothing can be opened. A file on a read-only file system has no log beside it that
/// could be shared, and is then read by itself.
fn look(path: &Path, boot: BootId) -> Option<Reading> {
    let plain = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let immutable = format!("file:{}?immutable=1", path.display());
    let readings = [
        Connection::open_with_flags(path, plain),
        Connection::open_with_flags(immutable, plain | OpenFlags::SQLITE_OPEN_URI),
    ];
    let readings = readings.into_iter().flatten();
    readings
        .map(|connection| Reading::take(&connection, boot))
        .min_by_key(|reading| reading.problems.len())
}

/// As much as can be read of a broken ledger.
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
        // What was carried out at any time was carried out.
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
        "rescued from the broken ledger"
    );
    ledger
}

/// Open leases, and the numbers of those that ended.
fn split(rows: Vec<(Lease, bool)>) -> (Vec<Lease>, Vec<u64>) {
    let (open, ended): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, is_open)| *is_open);
    let ended = ended.into_iter().map(|(lease, _)| lease.id);
    (open.into_iter().map(|(lease, _)| lease).collect(), ended.collect())
}

/// Leases by the look of their rows, and whether each is open, where no page tells any more which table is where: every page
/// that looks like a leaf of a table is gone through (<https://www.sqlite.org/fileformat2.html#b_tree_pages>). First those of
/// the database, among which are some that nothing uses any more, then those of the log, which are newer.
fn carve(broken: &Path, boot: BootId) -> [Vec<(Lease, bool)>; 2] {
    let database = fs::read(broken).unwrap_or_default();
    let log = fs::read(companion_of(broken, COMPANIONS[0])).unwrap_or_default();
    let (header, frames) = log.split_at(log.len().min(LOG_HEADER_BYTES));
    let frames = frames.chunks_exact(FRAME_HEADER_BYTES + PAGE_BYTES);
    // A log that is begun anew leaves the end of the former one behind itself, by its salt. That is in the database by then.
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

/// A row of the table `lease`: boot id, the lease as JSON, deadline and outcome; the last serial type before them is that
/// of the outcome, 0 while there is none (<https://www.sqlite.org/fileformat2.html#record_format>).
fn row(cell: &[u8], boot: BootId) -> Option<(Lease, bool)> {
    // Its length and its number, each up to nine bytes with the high bit set in all but the last.
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
    // A whole number of so many bytes. What is no such thing leaves the one that the lease began with.
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

/// Whether a write-ahead log holds commits that SQLite will not read, because something before them is broken. Its end
/// may be torn after a loss of power; that is no damage, for nothing after it was ever durable
/// (<https://www.sqlite.org/fileformat2.html#walformat>).
pub fn log_is_damaged(database: &Path) -> bool {
    let Ok(log) = fs::read(companion_of(database, COMPANIONS[0])) else {
        return false;
    };
    if log.len() <= LOG_HEADER_BYTES {
        return false;
    }
    let word = |at: usize| u32::from_be_bytes([log[at], log[at + 1], log[at + 2], log[at + 3]]);
    let sum = |mut sums: (u32, u32), bytes: &[u8]| {
        for pair in bytes.chunks_exact(8) {
            let half = |at: usize| u32::from_ne_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
            sums.0 = sums.0.wrapping_add(half(0)).wrapping_add(sums.1);
            sums.1 = sums.1.wrapping_add(half(4)).wrapping_add(sums.0);
        }
        sums
    };
    let mut sums = sum((0, 0), &log[..24]);
    if (word(0), sums) != (LOG_MAGIC, (word(24), word(28))) {
        return true;
    }
    let (page_size, salt) = (word(8) as usize, (word(16), word(20)));
    let mut is_broken = false;
    let mut at = LOG_HEADER_BYTES;
    while at + FRAME_HEADER_BYTES + page_size <= log.len() {
        let is_of_this_log = (word(at + 8), word(at + 12)) == salt;
        let is_commit = word(at + 4) != 0;
        if is_broken && is_of_this_log && is_commit {
            return true;
        }
        if !is_broken {
            sums = sum(sums, &log[at..at + 8]);
            sums = sum(sums, &log[at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + page_size]);
            is_broken = !is_of_this_log || sums != (word(at + 16), word(at + 20));
        }
        at += FRAME_HEADER_BYTES + page_size;
    }
    false
}

/// Whether the log of this boot's ledger is damaged: after another boot nothing that it holds matters any more.
pub fn has_damaged_log(directory: &Path, boot: BootId) -> bool {
    let path = directory.join(FILE_NAME);
    if !log_is_damaged(&path) {
        return false;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let query = "SELECT value FROM meta WHERE key = 'boot'";
    let known = Connection::open_with_flags(&path, flags)
        .and_then(|connection| connection.query_row(query, [], |row| row.get::<_, String>(0)));
    // A ledger whose very beginning is in the log has no boot in it yet.
    known.map_or(true, |known| known == boot.to_string())
}
