//! Programs of the host: whether a process runs the file that its path names on this host, and only root can write that
//! file. The path alone proves nothing, because a user can mount any file at any path in a mount namespace of their own.

use super::file_id::FileId;
use super::timed_calls::{Blocked, BoundedCalls, PATIENCE};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;
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
/// inode, owned by root and writable by root only. A user chooses the path, which may lead to a file system that never
/// answers, so that only `calls` ask one.
///
/// # Errors
/// When the file system at the path does not answer in time.
pub(super) fn is_of_host(
    procfs: &Path,
    directory: BorrowedFd<'_>,
    path: &str,
    calls: Option<&(BoundedCalls, i32)>,
) -> Result<bool, Blocked> {
    if !is_in_system_directory(path) {
        return Ok(false);
    }
    let Ok(running) = look_at(directory, "exe") else {
        return Ok(false);
    };
    if running.stx_uid != 0 || running.stx_mode & WRITABLE_BY_OTHERS != 0 {
        return Ok(false);
    }
    // In a container evenkeel sees other files than the host, whose first process sees them.
    let views = [PathBuf::from("/"), procfs.join("1/root")];
    let below = path.trim_start_matches('/').to_owned();
    // The directories of a program that runs are in the kernel's cache.
    if let Some(answer) = is_in_a_view(&running, &views, &below, look_in_cache) {
        return Ok(answer);
    }
    let look = move || is_in_a_view(&running, &views, &below, |view, below| look_at(view, below)) == Some(true);
    match calls {
        Some((calls, pid)) => calls.run(*pid, PATIENCE, look),
        None => Ok(look()),
    }
}

/// Whether a running file is at a path below one of the views; `None` if `look` could not tell.
fn is_in_a_view(
    running: &Statx,
    views: &[PathBuf],
    below: &str,
    look: impl Fn(BorrowedFd<'_>, &str) -> Result<Statx, Errno>,
) -> Option<bool> {
    // A file without a name, as an upgrade leaves it, is looked for by its directory.
    let is_replaced = running.stx_nlink == 0;
    let wanted = match is_replaced {
        true => below.rsplit_once('/').map_or(".", |(directory, _)| directory),
        false => below,
    };
    for view in views {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(view) = openat(CWD, view, flags, Mode::empty()) else {
            continue;
        };
        match look(view.as_fd(), wanted) {
            Ok(found) if is_replaced && is_on_same_mount(running, &found) => return Some(true),
            Ok(found) if !is_replaced && FileId::from(&found) == FileId::from(running) => return Some(true),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => {}
            Err(_) => return None,
        }
    }
    Some(false)
}

/// Whether a file without a name was in this directory of the host: the kernel then shows the path of the host's own
/// mount. A mount of a user has another number. Known since Linux 5.8.
fn is_on_same_mount(running: &Statx, directory: &Statx) -> bool {
    let is_known = |found: &Statx| found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    is_known(running) && is_known(directory) && directory.stx_mnt_id == running.stx_mnt_id
}

/// Reads the attributes of a file whose path the kernel has in its cache, since Linux 5.12. Asks no file system, and
/// mounts nothing.
fn look_in_cache(view: BorrowedFd<'_>, below: &str) -> Result<Statx, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(view, below, flags, Mode::empty(), ResolveFlags::CACHED)?;
    look_at(found, "")
}

/// Reads the attributes of a file. They come from the kernel, but each directory on the way may be on a server.
fn look_at(at: impl AsFd, path: &str) -> Result<Statx, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    statx(at, path, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
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
            let answer = |calls| is_of_host(Path::new("/proc"), directory.as_fd(), path, calls);
            let calls = (BoundedCalls::default(), 7);
            assert_eq!(answer(Some(&calls)), answer(None));
            answer(None).unwrap()
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
    fn path_of_a_running_program_is_in_the_cache() {
        let sleeper = Running::start(Path::new("/usr/bin/sleep"));
        let running = FileId::of(Path::new(&format!("/proc/{}/exe", sleeper.0.id())));
        let path = fs::canonicalize("/usr/bin/sleep").unwrap();
        let root = File::open("/").unwrap();
        let found = look_in_cache(root.as_fd(), path.to_str().unwrap().trim_start_matches('/')).unwrap();
        assert_eq!(Some(FileId::from(&found)), running);
        let absent = format!("usr/lib/absent-{}/sleep", sleeper.0.id());
        assert_eq!(
            look_in_cache(root.as_fd(), &absent).unwrap_err(),
            Errno::AGAIN,
            "it would ask the file system"
        );
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
