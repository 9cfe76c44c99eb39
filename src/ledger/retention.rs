//! The retention of the ledger: history is deleted by age and size, and state once no decision needs it. Open
//! episodes and leases stay. Deletion works in portions, so that no decision waits for long.

use super::state::REMEMBER_VICTIMS;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension};
use std::time::Duration;

/// Maximum number of closed episodes, the latest ones; each is some 100 bytes.
pub const KEEP_CLOSED: i64 = 10_000;
/// Maximum number of exited victims.
const KEEP_VICTIMS: i64 = 10_000;
/// Rows of a table per portion.
const PORTION: i64 = 500;
/// Pages that are freed per portion. Each may be copied to another place first.
const PORTION_PAGES: u64 = 64;
/// Part of the file up to which free pages are kept for new entries.
const FREE_PART: u64 = 10;

/// The limits of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Age of the oldest line relative to the newest.
    pub time: Duration,
    /// Size of the file. Open episodes and leases are kept regardless.
    pub size_bytes: u64,
    /// Age up to which cooldowns and the budget need victims.
    pub victims: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            time: Duration::from_secs(90 * 24 * 3600),
            size_bytes: 100 << 20,
            victims: REMEMBER_VICTIMS,
        }
    }
}

/// Entries after which a sweep does not wait for an idle moment: fewer than a portion, so that deletion keeps up with
/// new entries.
pub const ENTRIES_PER_SWEEP: usize = PORTION as usize / 2;

/// Deletes one portion of what is too old, too large or not needed any more, and frees unused pages. Returns whether
/// there may be more.
///
/// # Errors
/// When the file cannot be read or written.
pub fn sweep(connection: &mut Connection, retention: Retention) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    let mut is_more = forget_ended(&transaction)?
        | forget_victims(&transaction, retention.victims)?
        | (remove_beyond_time(&transaction, retention.time)? > 0);
    if !is_more && File::of(&transaction)?.used_bytes() > retention.size_bytes {
        is_more = remove_oldest(&transaction, None)? > 0;
    }
    transaction.commit()?;
    let file = File::of(connection)?;
    let is_loose = file.free_pages > (file.pages / FREE_PART).max(PORTION_PAGES);
    if is_loose && file.gives_back {
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PORTION_PAGES})"))?;
        // Each row of this pragma frees a page.
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        is_more = true;
    }
    Ok(is_more)
}

struct File {
    page_bytes: u64,
    pages: u64,
    free_pages: u64,
    /// Whether free pages can be returned to the file system.
    gives_back: bool,
}

impl File {
    fn of(connection: &Connection) -> rusqlite::Result<File> {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        Ok(File {
            page_bytes: number("page_size")?.unsigned_abs(),
            pages: number("page_count")?.unsigned_abs(),
            free_pages: number("freelist_count")?.unsigned_abs(),
            gives_back: number("auto_vacuum")? != 0,
        })
    }

    fn used_bytes(&self) -> u64 {
        self.pages.saturating_sub(self.free_pages) * self.page_bytes
    }
}

/// Ages count from the newest line, not from now, because a clock step must not delete the history, and an idle host
/// keeps its last lines.
fn remove_beyond_time(connection: &Connection, time: Duration) -> rusqlite::Result<usize> {
    let newest = "SELECT at FROM record ORDER BY id DESC LIMIT 1";
    let newest: Option<String> = connection.query_row(newest, [], |row| row.get(0)).optional()?;
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    let newest = newest.and_then(|text| text.parse::<Timestamp>().ok());
    match newest.and_then(|newest| newest.checked_sub(time).ok()) {
        Some(since) => remove_oldest(connection, Some(since)),
        None => Ok(0),
    }
}

/// Deletes a portion of the oldest lines, or those of them from before a time.
fn remove_oldest(connection: &Connection, before: Option<Timestamp>) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM record WHERE id IN (SELECT id FROM record ORDER BY id LIMIT ?1)
                AND (?2 IS NULL OR julianday(at) < julianday(?2))",
        )?
        .execute((PORTION, before.map(|time| time.to_string())))
}

/// Deletes a portion of what no decision needs any more. The history has all of ended leases; the newest stays, because
/// its number must not be reused. Returns whether there was any.
///
/// # Errors
/// When the file cannot be read or written.
pub fn forget_ended(connection: &Connection) -> rusqlite::Result<bool> {
    let leases = "DELETE FROM lease WHERE id IN (
        SELECT id FROM lease WHERE outcome IS NOT NULL AND id < (SELECT max(id) FROM lease) LIMIT ?1)";
    let leases = connection.prepare_cached(leases)?.execute([PORTION])?;
    let closed = "SELECT count(*) FROM episode WHERE body IS NULL";
    let closed: i64 = connection.prepare_cached(closed)?.query_row([], |row| row.get(0))?;
    let surplus = (closed - KEEP_CLOSED).clamp(0, PORTION);
    if surplus > 0 {
        let oldest = "DELETE FROM episode WHERE body IS NULL AND (rule, fingerprint, simulated) IN (
            SELECT rule, fingerprint, simulated FROM episode WHERE body IS NULL ORDER BY julianday(ended_at) LIMIT ?1)";
        connection.prepare_cached(oldest)?.execute([surplus])?;
    }
    Ok(leases > 0 || surplus > 0)
}

/// Deletes a portion of the exited victims that are beyond the maximum, older than `age` relative to the newest, and
/// not counted against the `limit` of an open episode. Returns whether there was any.
fn forget_victims(connection: &Connection, age: Duration) -> rusqlite::Result<bool> {
    let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    // Times count from boot, and rows of other boots are removed at the start.
    let victims = "DELETE FROM victim WHERE id IN (
        SELECT id FROM victim WHERE gone_ms IS NOT NULL AND id <= (SELECT max(id) FROM victim) - ?1
            AND json_extract(body, '$.struck_at.secs')
                < (SELECT json_extract(body, '$.struck_at.secs') FROM victim ORDER BY id DESC LIMIT 1) - ?2
            AND NOT EXISTS (SELECT 1 FROM episode WHERE episode.body IS NOT NULL
                AND episode.rule = json_extract(victim.body, '$.rule')
                AND episode.fingerprint = json_extract(victim.body, '$.fingerprint')
                AND episode.simulated = json_extract(victim.body, '$.simulated'))
        LIMIT ?3)";
    let removed = connection
        .prepare_cached(victims)?
        .execute((KEEP_VICTIMS, seconds, PORTION))?;
    Ok(removed > 0)
}
