//! The trees that collectors read (procfs, sysfs, the root file system), and the reading of procfs files that stay open.

use super::file_cache::FileCache;
use super::kernel_file::{FileLayout, ReadError};
use std::path::{Path, PathBuf};

/// The trees that collectors read, as `--path.procfs`, `--path.sysfs` and `--path.rootfs` give them.
#[derive(Debug, Clone)]
pub struct Roots {
    pub procfs: PathBuf,
    pub sysfs: PathBuf,
    pub rootfs: PathBuf,
    file_cache: FileCache,
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
        }
    }

    /// From here to the next call each file of procfs that is kept open is read once.
    pub(in crate::sense) fn begin_round(&self) {
        self.file_cache.begin_round();
    }

    /// A file of procfs that is read every second, through its parser, whose complaint gets the path put in front.
    pub(in crate::sense) fn parse_file<T>(
        &self,
        path: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ReadError> {
        self.parse_cached(path, FileLayout::Pieces, parse)
    }

    /// The same for a file that the kernel writes as one record.
    pub(in crate::sense) fn parse_record<T>(
        &self,
        path: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ReadError> {
        self.parse_cached(path, FileLayout::Record, parse)
    }

    /// The same for a sysctl of one line.
    pub(in crate::sense) fn parse_value<T>(
        &self,
        path: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ReadError> {
        self.parse_cached(path, FileLayout::Value, parse)
    }

    fn parse_cached<T>(
        &self,
        path: &'static str,
        layout: FileLayout,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ReadError> {
        self.file_cache
            .read(&self.procfs, path, layout, |bytes| match str::from_utf8(bytes) {
                // Several times cheaper than the lossy way, and nearly always enough.
                Ok(text) => parse(text),
                Err(_) => parse(&String::from_utf8_lossy(bytes)),
            })
            .map_err(|source| ReadError::io(&self.proc(path), source))?
            .map_err(|what| ReadError::Malformed {
                path: self.proc(path),
                what,
            })
    }

    pub fn proc(&self, path: &str) -> PathBuf {
        self.procfs.join(path)
    }

    pub fn sys(&self, path: &str) -> PathBuf {
        self.sysfs.join(path)
    }

    /// The place of an absolute path of the host as seen from here.
    pub fn host(&self, path: &Path) -> PathBuf {
        self.rootfs.join(path.strip_prefix("/").unwrap_or(path))
    }
}
