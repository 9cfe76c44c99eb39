//! Who can change a file: the check, as sshd's, that a path belongs to root or to evenkeel's own user, and that no
//! other user can write or replace it. Also creates files that only their owner may read.

mod writers;

use nix::libc;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
pub use writers::Purpose;

/// Maximum number of symbolic links in a path, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
pub const GROUP_MAY_WRITE: u32 = 0o020;
pub const OTHERS_MAY_WRITE: u32 = 0o002;
/// In a sticky directory a user can replace only files of their own.
pub const STICKY: u32 = 0o1000;

/// A path that another user can change, or that could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .path.display(), .fault)]
pub struct Untrusted {
    pub path: PathBuf,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("belongs to uid {0}, who can change it")]
    Owner(u32),
    #[error("belongs to uid {0}, who can replace what is in it")]
    OwnerAbove(u32),
    #[error("other users can write it (mode {:04o})", .mode & 0o7777)]
    Writable { mode: u32, owner: u32 },
    /// A directory on the way, of any owner.
    #[error("other users can write it (mode {:04o})", .0 & 0o7777)]
    WritableAbove(u32),
    #[error("is {0}, but must be {1}")]
    Kind(&'static str, &'static str),
    #[error("cannot be checked: {0}")]
    Unreadable(io::ErrorKind),
}

impl Untrusted {
    /// What makes a file of the configuration right. No advice changes a directory that is made for all users, or that
    /// belongs to another one.
    pub fn correction(&self) -> String {
        self.correction_for(own_uid())
    }

    fn correction_for(&self, own: u32) -> String {
        let path = self.path.display();
        match self.fault {
            Fault::Owner(_) => format!("run chown {} {path}", user(own)),
            Fault::Writable { mode, .. } | Fault::WritableAbove(mode) if mode & STICKY == 0 => {
                format!("run chmod {} {path}", without_writers(mode))
            }
            Fault::OwnerAbove(_) | Fault::Writable { .. } | Fault::WritableAbove(_) => {
                "keep it in a directory that only root can write, such as /etc/evenkeel".to_owned()
            }
            Fault::Kind(..) | Fault::Unreadable(_) => format!("see it with ls -ld {path}"),
        }
    }
}

/// A user as an argument of chown(1).
pub fn user(uid: u32) -> String {
    match uid {
        0 => "root".to_owned(),
        uid => uid.to_string(),
    }
}

/// The argument of chmod(1) after which only the owner can write.
pub fn without_writers(mode: u32) -> &'static str {
    if mode & GROUP_MAY_WRITE == 0 { "o-w" } else { "go-w" }
}

/// What decides about a file.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    uid: u32,
    mode: u32,
    /// The write bits of group and others that other users can use.
    writers: u32,
}

impl Attributes {
    fn of(path: &Path, meta: &Metadata, purpose: Purpose) -> Attributes {
        Attributes {
            uid: meta.uid(),
            mode: meta.mode(),
            writers: writers::writers(path, meta, purpose),
        }
    }
}

/// The fault of a file itself, or of a directory or link `is_above` the file in question.
fn fault_of(found: Attributes, own: u32, is_above: bool) -> Option<Fault> {
    let Attributes {
        uid: owner,
        mode,
        writers,
    } = found;
    if owner != 0 && owner != own {
        return Some(match is_above {
            true => Fault::OwnerAbove(owner),
            false => Fault::Owner(owner),
        });
    }
    if writers == 0 {
        return None;
    }
    match is_above {
        true => (mode & STICKY == 0).then_some(Fault::WritableAbove(mode)),
        false => Some(Fault::Writable { mode, owner }),
    }
}

/// Checks a file or directory and all directories and links on the way to it. Returns its path without links.
///
/// # Errors
/// The first path that another user can change.
pub fn check(path: &Path, purpose: Purpose) -> Result<PathBuf, Untrusted> {
    let (existing, missing) = check_existing(path, purpose)?;
    match missing.components().next() {
        None => Ok(existing),
        Some(name) => Err(Untrusted {
            path: existing.join(name),
            fault: Fault::Unreadable(io::ErrorKind::NotFound),
        }),
    }
}

/// Checks a path as far as it exists. Returns that part without links, and the missing part, which is empty where the
/// whole path exists.
///
/// # Errors
/// As [`check`].
pub fn check_existing(path: &Path, purpose: Purpose) -> Result<(PathBuf, PathBuf), Untrusted> {
    let own = own_uid();
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| Untrusted {
            path,
            fault: Fault::Unreadable(error.kind()),
        }
    };
    let absolute = std::path::absolute(path).map_err(unreadable(path))?;
    let mut resolved = PathBuf::from("/");
    let mut rest = reversed(&absolute);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&name);
        let mut meta = match next.symlink_metadata() {
            Ok(meta) => meta,
            // Where `..` follows, the path has no meaning.
            Err(error) if error.kind() == io::ErrorKind::NotFound && rest.iter().all(|name| name != "..") => {
                rest.push(name);
                return Ok((resolved, rest.iter().rev().collect()));
            }
            Err(error) => return Err(unreadable(&next)(error)),
        };
        let target = meta.is_symlink().then(|| next.read_link()).transpose();
        let target = target.map_err(unreadable(&next))?;
        // The links in /proc/PID/fd may lead to a pipe, which has no path.
        let is_pipe = |target: &PathBuf| resolved.starts_with("/proc") && target.to_string_lossy().contains(":[");
        let target = target.filter(|target| !is_pipe(target));
        if meta.is_symlink() && target.is_none() {
            meta = next.metadata().map_err(unreadable(&next))?;
        }
        let is_above = !rest.is_empty() || target.is_some();
        let fault = fault_of(Attributes::of(&next, &meta, purpose), own, is_above);
        if let Some(fault) = fault {
            return Err(Untrusted { path: next, fault });
        }
        match target {
            None => resolved = next,
            Some(_) if links == MAX_LINKS => {
                let fault = Fault::Kind("one of too many symbolic links", "a file or a directory");
                return Err(Untrusted { path: next, fault });
            }
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                rest.extend(reversed(&target));
            }
        }
    }
    Ok((resolved, PathBuf::new()))
}

/// The names in a path, last first.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

/// Whether a user may change what evenkeel does: root, and the user that it runs as.
pub fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == own_uid()
}

pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Creates a file that must not exist, with mode 0600, for writing.
///
/// # Errors
/// As `open(2)`; a link is an existing file.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file, and no link, for reading.
///
/// # Errors
/// As `open(2)`.
pub fn open_no_link(path: &Path) -> io::Result<File> {
    // A pipe without a writer would block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const OWN: u32 = 1000;

    fn file(uid: u32, mode: u32) -> Attributes {
        Attributes {
            uid,
            mode,
            writers: mode & (GROUP_MAY_WRITE | OTHERS_MAY_WRITE),
        }
    }

    #[test]
    fn only_root_and_own_user_are_trusted() {
        let check = |found: Attributes, expected: [Option<Fault>; 2]| {
            let faults = [false, true].map(|is_above| fault_of(found, OWN, is_above));
            assert_eq!(faults, expected, "{found:?}");
        };
        check(file(0, 0o644), [None, None]);
        check(file(OWN, 0o600), [None, None]);
        check(file(7, 0o600), [Some(Fault::Owner(7)), Some(Fault::OwnerAbove(7))]);
        let writable = |owner, mode| [Some(Fault::Writable { mode, owner }), Some(Fault::WritableAbove(mode))];
        check(file(OWN, 0o664), writable(OWN, 0o664));
        check(file(0, 0o775), writable(0, 0o775));
        check(file(0, 0o666), writable(0, 0o666));
        let [itself, _] = writable(0, 0o1777);
        check(file(0, 0o1777), [itself, None]);
        let harmless = Attributes {
            writers: 0,
            ..file(0, 0o777)
        };
        check(harmless, [None, None]);
    }

    #[test]
    fn a_finding_says_what_is_wrong_and_what_corrects_it() {
        let check = |fault: Fault, own: u32, expected: [&str; 2]| {
            let path = PathBuf::from("/x/y");
            let found = Untrusted { path, fault };
            assert_eq!([found.to_string(), found.correction_for(own)], expected);
        };
        check(
            Fault::Owner(7),
            0,
            ["/x/y: belongs to uid 7, who can change it", "run chown root /x/y"],
        );
        let elsewhere = "keep it in a directory that only root can write, such as /etc/evenkeel";
        check(
            Fault::OwnerAbove(7),
            OWN,
            ["/x/y: belongs to uid 7, who can replace what is in it", elsewhere],
        );
        check(
            Fault::WritableAbove(0o40_775),
            0,
            ["/x/y: other users can write it (mode 0775)", "run chmod go-w /x/y"],
        );
        let writable = |mode| Fault::Writable { mode, owner: 0 };
        check(
            writable(0o40_703),
            0,
            ["/x/y: other users can write it (mode 0703)", "run chmod o-w /x/y"],
        );
        check(
            writable(0o41_777),
            0,
            ["/x/y: other users can write it (mode 1777)", elsewhere],
        );
    }

    #[test]
    fn each_directory_and_link_on_the_way_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let set = |name: &str, mode: u32| {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/c"), "").unwrap();
        symlink("a/../a/b", path("link")).unwrap();
        let real = check(&path("a/b/c"), Purpose::Storage).unwrap();
        assert_eq!(check(&path("link/c"), Purpose::Storage), Ok(real));
        for (name, mode, back) in [("a", 0o757, 0o755), ("a/b", 0o757, 0o755), ("a/b/c", 0o646, 0o644)] {
            set(name, mode);
            let wrong = check(&path("link/c"), Purpose::Storage).unwrap_err();
            assert_eq!(wrong.path.file_name(), path(name).file_name(), "{wrong}");
            set(name, back);
        }
        set("a", 0o1757);
        assert!(check(&path("a/b/c"), Purpose::Storage).is_ok(), "a sticky directory");
        assert!(check(&path("a"), Purpose::Storage).is_err(), "not as the last one");
        symlink("round", path("round")).unwrap();
        assert!(check(&path("round"), Purpose::Storage).is_err());
        let missing = check(&path("missing"), Purpose::Storage).unwrap_err();
        assert_eq!(missing.fault, Fault::Unreadable(io::ErrorKind::NotFound));
    }
}
