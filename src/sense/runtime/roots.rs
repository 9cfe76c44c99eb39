//! The roots of the trees that collectors read: procfs, sysfs and the root file system. Files of procfs that are read
//! every second stay open.

use super::bad_lines::{BadLineRecorder, BadLines, SkippedLines};
use super::file_cache::FileCache;
use super::kernel_file::{FileLayout, ParseError, ReadError, for_each_row, read_bytes};
use super::ttl_cache::TtlCache;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a round of reads is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sense) enum RoundPurpose {
    /// A sample for rules, each second. Counters that cost a file per device may be some seconds old in it.
    Rules,
    /// A scrape, whose counters are all read for it.
    Scrape,
}

/// The round of reads that goes on. A clone begins without one, which is a scrape.
#[derive(Debug, Default)]
struct Round {
    is_for_rules: AtomicBool,
    /// Whether a collector took counters from a cache.
    has_old_counters: AtomicBool,
}

impl Clone for Round {
    fn clone(&self) -> Self {
        Round::default()
    }
}

/// The trees that collectors read, as `--path.procfs`, `--path.sysfs` and `--path.rootfs` give them.
#[derive(Debug, Clone)]
pub struct Roots {
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
    pub rootfs: PathBuf,
    file_cache: FileCache,
    bad_lines: BadLineRecorder,
    round: Round,
}

impl Default for Roots {
    fn default() -> Self {
        Roots::new("/proc", "/sys", "/")
    }
}

impl Roots {
    pub fn new(procfs: impl Into<PathBuf>, sysfs: impl Into<PathBuf>, rootfs: impl Into<PathBuf>) -> Self {
        Roots {
            procfs: procfs.into(),
            sysfs: sysfs.into(),
            rootfs: rootfs.into(),
            file_cache: FileCache::default(),
            bad_lines: BadLineRecorder::default(),
            round: Round::default(),
        }
    }

    /// Until the next call each open file of procfs is read once.
    pub(in crate::sense) fn begin_round(&self, purpose: RoundPurpose) {
        self.file_cache.begin_round();
        let is_for_rules = purpose == RoundPurpose::Rules;
        self.round.is_for_rules.store(is_for_rules, Ordering::Relaxed);
    }

    /// Counters that cost a file per device or core: read now for a scrape, and from the cache for rules.
    pub(in crate::sense) fn device_counters<'a, T>(
        &self,
        cache: &'a mut TtlCache<T>,
        read: impl FnOnce() -> T,
    ) -> &'a T {
        if self.round.is_for_rules.load(Ordering::Relaxed) {
            self.round.has_old_counters.store(true, Ordering::Relaxed);
        } else {
            cache.clear();
        }
        cache.get(Instant::now(), read)
    }

    /// Whether counters came from a cache since the last call, so that the reading is none for a scrape.
    pub(in crate::sense) fn take_old_counters(&self) -> bool {
        self.round.has_old_counters.swap(false, Ordering::Relaxed)
    }

    /// Parses the lines of a file of procfs that is read every second. A bad line is counted and left out; the file
    /// fails where no line is good.
    pub(in crate::sense) fn parse_lines<T>(
        &self,
        path: &'static str,
        layout: FileLayout,
        parse: impl FnOnce(&str, &mut BadLines) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        let mut lines = BadLines::default();
        let parsed = self.parse(path, layout, |text| lines.parse(text, parse));
        if lines.has_bad() {
            self.bad_lines.record(&self.proc(path), lines);
        }
        parsed
    }

    /// Like [`Roots::parse_lines`], for a file that is read seldom.
    pub(in crate::sense) fn parse_lines_once<T>(
        &self,
        path: &str,
        parse: impl FnOnce(&str, &mut BadLines) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        self.parse_bytes_once(path, |bytes, bad| parse(&String::from_utf8_lossy(bytes), bad))
    }

    /// The same for a file whose names matter byte by byte.
    pub(in crate::sense) fn parse_bytes_once<T>(
        &self,
        path: &str,
        parse: impl FnOnce(&[u8], &mut BadLines) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        self.parse_path(self.proc(path), parse)
    }

    /// Like [`Roots::parse_lines_once`], for a file of any tree.
    pub(in crate::sense) fn parse_file<T>(
        &self,
        path: PathBuf,
        parse: impl FnOnce(&str, &mut BadLines) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        self.parse_path(path, |bytes, bad| parse(&String::from_utf8_lossy(bytes), bad))
    }

    fn parse_path<T>(
        &self,
        path: PathBuf,
        parse: impl FnOnce(&[u8], &mut BadLines) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        let bytes = read_bytes(&path)?;
        let mut lines = BadLines::default();
        let parsed = lines.parse(bytes.as_slice(), parse);
        self.bad_lines.record(&path, lines);
        parsed.map_err(|source| ReadError::Malformed { path, source })
    }

    /// Folds the rows of a file of procfs that may be far longer than others. Each row is gone when the next one is
    /// read.
    pub(in crate::sense) fn fold_rows<T>(
        &self,
        path: &str,
        mut value: T,
        mut add: impl FnMut(&mut T, &str, &mut BadLines),
    ) -> Result<T, ReadError> {
        let path = self.proc(path);
        let mut lines = BadLines::default();
        for_each_row(&path, |line| add(&mut value, line, &mut lines))?;
        let folded = lines.parse(&(), |_, _| Ok(value));
        self.bad_lines.record(&path, lines);
        folded.map_err(|source| ReadError::Malformed { path, source })
    }

    /// The bad lines since the last call.
    pub(in crate::sense) fn take_bad_lines(&self) -> SkippedLines {
        self.bad_lines.take()
    }

    /// Parses a file of procfs that is read every second. An error of the parser gets the path as prefix.
    pub(in crate::sense) fn parse<T>(
        &self,
        path: &'static str,
        layout: FileLayout,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        self.file_cache
            .read(&self.procfs, path, layout, |bytes| match str::from_utf8(bytes) {
                // The check costs a fraction of the lossy conversion, which hardly any file needs.
                Ok(text) => parse(text),
                Err(_) => parse(&String::from_utf8_lossy(bytes)),
            })
            .map_err(|source| ReadError::io(&self.proc(path), source))?
            .map_err(|source| ReadError::malformed(&self.proc(path), source))
    }

    pub fn proc(&self, path: &str) -> PathBuf {
        self.procfs.join(path)
    }

    pub fn sys(&self, path: &str) -> PathBuf {
        self.sysfs.join(path)
    }

    /// An absolute path of the host, below rootfs.
    pub fn host(&self, path: &Path) -> PathBuf {
        self.rootfs.join(path.strip_prefix("/").unwrap_or(path))
    }
}
