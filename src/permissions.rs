//! Who can change a file: the check, as sshd's, that a path belongs to root or to evenkeel's own user, and that no
//! other user can write or replace it. Also creates files that only their owner may read.

use nix::libc;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Maximum number of symbolic links in a path, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;
const GROUP_MAY_WRITE: u32 = 0o020;
const OTHERS_MAY_WRITE: u32 = 0o002;
/// In a sticky directory a user can replace only files of their own.
const STICKY: u32 = 0o1000;

/// A path that another user can change, or that could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}; {}", .path.display(), .fault, self.correction())]
pub struct Untrusted {
    pub path: PathBuf,
    pub fault: Fault,
    /// The user that evenkeel runs as.
    own: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("belongs to uid {0}, who can change it")]
    Owner(u32),
    #[error("belongs to uid {0}, who can replace what is in it")]
    OwnerAbove(u32),
    #[error("other users can write it (mode {:04o})", .0 & 0o7777)]
    Writable(u32),
    #[error("is {0}, but must be {1}")]
    Kind(&'static str, &'static str),
    #[error("cannot be checked: {0}")]
    Unreadable(io::ErrorKind),
}

impl Untrusted {
    /// A file of the storage directory that is something else.
    pub fn of_kind(path: &Path, found: &'static str, expected: &'static str) -> Untrusted {
        Untrusted {
            path: path.to_owned(),
            fault: Fault::Kind(found, expected),
            own: own_uid(),
        }
    }

    /// The user to whom the path should belong, as chown takes it.
    fn owner(&self) -> String {
        match self.own {
            0 => "root".to_owned(),
            uid => uid.to_string(),
        }
    }

    /// The command that makes it right.
    pub fn correction(&self) -> String {
        let path = self.path.display();
        match self.fault {
            Fault::Owner(_) => format!("run chown {} {path}", self.owner()),
            Fault::OwnerAbove(_) => format!("run chown {} {path}, or choose another path", self.owner()),
            Fault::Writable(mode) if mode & GROUP_MAY_WRITE != 0 => format!("run chmod go-w {path}"),
            Fault::Writable(_) => format!("run chmod o-w {path}"),
            Fault::Kind(..) => format!("run rm {path}"),
            Fault::Unreadable(_) => format!("see it with ls -ld {path}"),
        }
    }
}

/// What decides about a file, from stat(2).
#[derive(Debug, Clone, Copy)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    is_link: bool,
}

impl From<&Metadata> for Attributes {
    fn from(meta: &Metadata) -> Attributes {
        Attributes {
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode(),
            is_link: meta.is_symlink(),
        }
    }
}

/// The fault of a file itself, or of a directory or link `is_above` the file in question.
fn fault_of(found: Attributes, own: u32, is_above: bool) -> Option<Fault> {
    if found.uid != 0 && found.uid != own {
        return Some(match is_above {
            true => Fault::OwnerAbove(found.uid),
            false => Fault::Owner(found.uid),
        });
    }
    // The mode of a link means nothing.
    if found.is_link || (is_above && found.mode & STICKY != 0) {
        return None;
    }
    // A group with the number of its user has no other members by convention (umask 002).
    let by_group = found.mode & GROUP_MAY_WRITE != 0 && found.gid != found.uid;
    (by_group || found.mode & OTHERS_MAY_WRITE != 0).then_some(Fault::Writable(found.mode))
}

/// Checks a file or directory and all directories and links on the way to it. Returns its path without links.
///
/// # Errors
/// The first path that another user can change.
pub fn check(path: &Path) -> Result<PathBuf, Untrusted> {
    let own = own_uid();
    let untrusted = |path: &Path, fault: Fault| Untrusted {
        path: path.to_owned(),
        fault,
        own,
    };
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| untrusted(&path, Fault::Unreadable(error.kind()))
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
        let mut meta = next.symlink_metadata().map_err(unreadable(&next))?;
        let target = meta.is_symlink().then(|| next.read_link()).transpose();
        let target = target.map_err(unreadable(&next))?;
        // The links in /proc/PID/fd may lead to a pipe, which has no path.
        let is_pipe = |target: &PathBuf| resolved.starts_with("/proc") && target.to_string_lossy().contains(":[");
        let target = target.filter(|target| !is_pipe(target));
        if meta.is_symlink() && target.is_none() {
            meta = next.metadata().map_err(unreadable(&next))?;
        }
        let is_above = !rest.is_empty() || target.is_some();
        if let Some(fault) = fault_of(Attributes::from(&meta), own, is_above) {
            return Err(untrusted(&next, fault));
        }
        match target {
            None => resolved = next,
            Some(_) if links == MAX_LINKS => {
                let fault = Fault::Kind("one of too many symbolic links", "a file or a directory");
                return Err(untrusted(&next, fault));
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
    Ok(resolved)
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

    fn file(uid: u32, gid: u32, mode: u32) -> Attributes {
        Attributes {
            uid,
            gid,
            mode: 0o100_000 | mode,
            is_link: false,
        }
    }

    #[test]
    fn only_root_and_own_user_are_trusted() {
        let check = |found: Attributes, expected: [Option<Fault>; 2]| {
            let faults = [false, true].map(|is_above| fault_of(found, OWN, is_above));
            assert_eq!(faults, expected, "{found:?}");
        };
        check(file(0, 0, 0o644), [None, None]);
        check(file(OWN, OWN, 0o664), [None, None]);
        check(file(0, 0, 0o775), [None, None]);
        check(file(7, 7, 0o600), [Some(Fault::Owner(7)), Some(Fault::OwnerAbove(7))]);
        let both = |mode| {
            let fault = Fault::Writable(0o100_000_u32 | mode);
            [Some(fault.clone()), Some(fault)]
        };
        check(file(0, 50, 0o664), both(0o664));
        check(file(0, 0, 0o666), both(0o666));
        check(file(0, 0, 0o1777), [Some(Fault::Writable(0o101_777)), None]);
        let link = Attributes {
            is_link: true,
            ..file(OWN, OWN, 0o777)
        };
        check(link, [None, None]);
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_corrects_it() {
        let check = |fault: Fault, own: u32, expected: &str| {
            let path = PathBuf::from("/x/y");
            assert_eq!(Untrusted { path, fault, own }.to_string(), expected);
        };
        check(
            Fault::Owner(7),
            0,
            "/x/y: belongs to uid 7, who can change it; run chown root /x/y",
        );
        check(
            Fault::OwnerAbove(7),
            OWN,
            "/x/y: belongs to uid 7, who can replace what is in it; run chown 1000 /x/y, or choose another path",
        );
        check(
            Fault::Writable(0o100_666),
            0,
            "/x/y: other users can write it (mode 0666); run chmod go-w /x/y",
        );
        check(
            Fault::Writable(0o40_703),
            0,
            "/x/y: other users can write it (mode 0703); run chmod o-w /x/y",
        );
        check(
            Fault::Kind("a symbolic link", "a regular file"),
            0,
            "/x/y: is a symbolic link, but must be a regular file; run rm /x/y",
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
        let real = check(&path("a/b/c")).unwrap();
        assert_eq!(check(&path("link/c")), Ok(real));
        for (name, mode, back) in [("a", 0o757, 0o755), ("a/b", 0o757, 0o755), ("a/b/c", 0o646, 0o644)] {
            set(name, mode);
            let wrong = check(&path("link/c")).unwrap_err();
            assert_eq!(wrong.path.file_name(), path(name).file_name(), "{wrong}");
            set(name, back);
        }
        set("a", 0o1757);
        assert!(check(&path("a/b/c")).is_ok(), "a sticky directory");
        assert!(check(&path("a")).is_err(), "not as the last one");
        symlink("round", path("round")).unwrap();
        assert!(check(&path("round")).is_err());
        let missing = check(&path("missing")).unwrap_err();
        assert_eq!(missing.fault, Fault::Unreadable(io::ErrorKind::NotFound));
    }
}
