//! The identity of a file: device and inode. A path is none, because a mount namespace shows any file at any path, and
//! a name of a process is none, because a process renames itself.

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, makedev, statx};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::path::Path;

/// A file on this host, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    /// The file at a path, behind symbolic links.
    pub fn of(path: &Path) -> Option<FileId> {
        FileId::at(CWD, path)
    }

    /// The file at a path below a directory. Asks no server of a network or FUSE file system, because such a server may
    /// never answer. `None` also where evenkeel may not look, as in the FUSE mount of another user.
    pub(super) fn at(directory: impl AsFd, path: impl rustix::path::Arg) -> Option<FileId> {
        let found = statx(directory, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
        Some(FileId::from(&found))
    }
}

impl From<&Statx> for FileId {
    fn from(found: &Statx) -> FileId {
        FileId {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_keeps_its_id_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, copy] = ["first", "second", "copy"].map(|name| folder.path().join(name));
        std::fs::write(&first, "text").unwrap();
        std::fs::copy(&first, &copy).unwrap();
        let id = FileId::of(&first).unwrap();
        std::fs::hard_link(&first, &second).unwrap();
        assert_eq!(FileId::of(&second), Some(id));
        assert_ne!(FileId::of(&copy), Some(id));
        std::fs::remove_file(&first).unwrap();
        assert_eq!(FileId::of(&first), None);
    }
}
