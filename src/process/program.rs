//! Programs of the host: whether a process runs the file that its path names on this host, and only root can write that
//! file. The path alone proves nothing, because a user can mount any file at any path in a mount namespace of their own.

use super::file_id::FileId;
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};
use rustix::path::Arg;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Directories that only an administrator can write.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/", "/bin/", "/sbin/", "/lib/", "/opt/", "/snap/", "/nix/"];
/// The bits that let others than the owner write a file.
const WRITABLE_BY_OTHERS: u16 = 0o022;

/// Whether a path is in a directory that only an administrator can write.
pub fn is_in_system_directory(path: &str) -> bool {
    SYSTEM_DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

/// Whether the process with this directory in procfs runs the host's own program at `path`: the same file by device and
/// inode, owned by root and writable by root only.
pub(super) fn is_of_host(procfs: &Path, directory: BorrowedFd<'_>, path: &str) -> bool {
    if !is_in_system_directory(path) {
        return false;
    }
    let Some(running) = look_at(directory, "exe") else {
        return false;
    };
    if running.stx_uid != 0 || running.stx_mode & WRITABLE_BY_OTHERS != 0 {
        return false;
    }
    // In a container evenkeel sees other files than the host, whose first process sees them.
    let views = [PathBuf::from("/"), procfs.join("1/root")];
    views.iter().any(|root| {
        let named = root.join(path.trim_start_matches('/'));
        if running.stx_nlink == 0 {
            return is_replaced(&running, &named);
        }
        FileId::of(&named) == Some(FileId::from(&running))
    })
}

/// Whether a file without a name, as an upgrade leaves it, was in this directory of the host: the kernel then shows the
/// path of the host's own mount. A mount of a user has another number. Known since Linux 5.8.
fn is_replaced(running: &Statx, named: &Path) -> bool {
    let is_known = |found: &Statx| found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let directory = named.parent().and_then(|directory| look_at(CWD, directory));
    is_known(running) && directory.is_some_and(|found| is_known(&found) && found.stx_mnt_id == running.stx_mnt_id)
}

/// Reads the attributes of a file without asking a server, which could let evenkeel wait.
fn look_at(at: impl AsFd, path: impl Arg) -> Option<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    statx(at, path, AtFlags::STATX_DONT_SYNC, wanted).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Child, Command};

    struct Running(Child);

    impl Running {
        fn start(program: &Path) -> Running {
            Running(Command::new(program).arg("600").spawn().unwrap())
        }

        fn is_of_host(&self, path: &str) -> bool {
            let directory = File::open(format!("/proc/{}", self.0.id())).unwrap();
            is_of_host(Path::new("/proc"), directory.as_fd(), path)
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A copy of sleep(1) in a directory of the system.
    fn copy_of_sleep(directory: &Path) -> PathBuf {
        let copy = directory.join("sleeper");
        fs::copy("/usr/bin/sleep", &copy).unwrap();
        copy
    }

    #[test]
    fn program_is_recognised_by_its_file_not_its_path() {
        let sleeper = Running::start(Path::new("/usr/bin/sleep"));
        let path = fs::canonicalize("/usr/bin/sleep").unwrap();
        assert!(sleeper.is_of_host(path.to_str().unwrap()));
        for other in ["/usr/bin/true", "/usr/bin/absent", "/home/mallory/sleep"] {
            assert!(!sleeper.is_of_host(other), "{other}");
        }
    }

    #[test]
    fn program_that_others_can_write_is_not_the_hosts() {
        let directory = tempfile::tempdir_in("/usr/local").unwrap();
        let copy = copy_of_sleep(directory.path());
        let path = copy.to_str().unwrap();
        let sleeper = Running::start(&copy);
        assert!(sleeper.is_of_host(path));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(!sleeper.is_of_host(path));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&copy, Some(65534), None).unwrap();
        assert!(!sleeper.is_of_host(path));
    }

    #[test]
    fn program_whose_file_was_replaced_is_still_the_hosts() {
        let directory = tempfile::tempdir_in("/usr/local").unwrap();
        let copy = copy_of_sleep(directory.path());
        let sleeper = Running::start(&copy);
        fs::remove_file(&copy).unwrap();
        symlink("/usr/bin/true", &copy).unwrap();
        assert!(sleeper.is_of_host(copy.to_str().unwrap()));
        assert!(!sleeper.is_of_host("/usr/lib/absent/sleeper"));
    }
}
