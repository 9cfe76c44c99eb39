//! A reader of procfs files with as few system calls as possible.

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Maximum size of a file such as `stat`, `status` or `cgroup`, which are far shorter.
pub(super) const MAX_FILE_BYTES: usize = 64 * 1024;
/// Size of the first read, which nearly every file of a process fits.
pub(super) const FIRST_READ_BYTES: usize = 4 * 1024;

/// Whether the file of a process cannot be read because the process is gone. Any other error, such as a lack of
/// descriptors, says nothing about the process.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::SRCH)
}

/// Leaves a process out that exited meanwhile or that evenkeel may not read.
///
/// # Errors
/// When evenkeel itself, or the host, lacks descriptors or memory, so that no process can be read. A table without any
/// would be taken for a host without processes.
pub(super) fn unless_unreadable<T>(read: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Reads a complete file, with as few system calls as possible.
///
/// # Errors
/// Those of open(2) and read(2).
pub(super) fn read_file(
    at: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    limit: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), Errno> {
    let path = path.as_ref();
    let opened = openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    bytes.clear();
    loop {
        if bytes.spare_capacity_mut().is_empty() {
            bytes.reserve(bytes.len());
        }
        match read(&opened, rustix::buffer::spare_capacity(bytes)) {
            // A short read is the end of every file except `cmdline`, which the kernel returns page by page, and
            // `children`, which it returns in pieces.
            Ok(0) => break,
            Ok(_) if bytes.len() >= limit => {
                bytes.truncate(limit);
                break;
            }
            Ok(_) if bytes.len() < bytes.capacity() && !path.ends_with("cmdline") && !path.ends_with("children") => {
                break;
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
