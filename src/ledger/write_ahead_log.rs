//! The check of SQLite's write-ahead log for damage, which SQLite itself ignores silently.

use super::files::{COMPANIONS, FILE_NAME, companion_of, open_read_only};
use crate::process::BootId;
use std::fs;
use std::path::Path;

/// Size of the header of a write-ahead log, and of each page in it.
pub(super) const LOG_HEADER_BYTES: usize = 32;
pub(super) const FRAME_HEADER_BYTES: usize = 24;
/// The magic number of a log with checksums in this machine's byte order. Logs of other machines are not of this boot.
const LOG_MAGIC: u32 = 0x377f_0682 | cfg!(target_endian = "big") as u32;

/// Whether a write-ahead log has commits that SQLite will not read, because an earlier one is damaged. A torn end after
/// a loss of power is no damage, because nothing after it was durable
/// (<https://www.sqlite.org/fileformat2.html#walformat>).
pub(super) fn log_is_damaged(database: &Path) -> bool {
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

/// Whether the log of this boot's ledger is damaged. After another boot its content no longer matters.
pub(super) fn has_damaged_log(directory: &Path, boot: BootId) -> bool {
    let path = directory.join(FILE_NAME);
    if !log_is_damaged(&path) {
        return false;
    }
    let query = "SELECT value FROM meta WHERE key = 'boot'";
    let known =
        open_read_only(&path).and_then(|connection| connection.query_row(query, [], |row| row.get::<_, String>(0)));
    // A ledger whose first commits are in the log has no boot id yet.
    known.map_or(true, |known| known == boot.to_string())
}
