//! Reading one file of procfs whole, in as few calls as there are.

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// `stat`, `status`, `cgroup` and the like are far shorter; a bound all the same.
pub(super) const MAX_FILE_BYTES: usize = 64 * 1024;
/// The first read asks for so much: nearly every file of a process is shorter.
pub(super) const FIRST_READ_BYTES: usize = 4 * 1024;

/// Reads until nothing comes, in as few calls as there are.
pub(super) fn read_file(at: BorrowedFd<'_>, path: impl AsRef<Path>, limit: usize, bytes: &mut Vec<u8>) -> Option<()> {
    let path = path.as_ref();
    let opened = openat(at, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    bytes.clear();
    loop {
        if bytes.spare_capacity_mut().is_empty() {
            bytes.reserve(bytes.len());
        }
        match read(&opened, rustix::buffer::spare_capacity(bytes)) {
            // Less than was asked for is the end of every file here but `cmdline`, whose pages are asked one by one, and
            // `children`, which comes in pieces.
            Ok(0) => break,
            Ok(_) if bytes.len() >= limit => {
                bytes.truncate(limit);
                break;
            }
            Ok(_) if bytes.len() < bytes.capacity() && !path.ends_with("cmdline") && !path.ends_with("children") => {
                break;
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}
