//! Cgroup v2 on the real host: reads, writes and lists the files below the mount. Each access opens the cgroup,
//! compares its inode, and uses that descriptor for everything else, so that it never touches a new cgroup under the
//! same path.

use crate::knob::limit::{CgroupFile, Device, IoKind, IoLimit, Setting};
use crate::process::{BootId, Cgroup, CgroupIdentity};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes for one write to `memory.reclaim`, small enough to check the time limit in between.
const RECLAIM_BYTES: u64 = 8 << 20;
/// Time limit of a reclaim, because swapping to a slow disk must not block the engine.
pub const RECLAIM_TIME: Duration = Duration::from_secs(2);
/// Maximum wait until all processes of a cgroup are frozen.
const FREEZE_WAIT: Duration = Duration::from_millis(500);
/// Bound on the number of cgroups, above that of any real host.
const MAX_CGROUPS: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cgroup {path} is gone")]
    Gone { path: String },
    #[error("cgroup {path} was replaced by a new one")]
    ChangedIdentity { path: String },
    #[error("cgroup {path} has no {file}: {why}")]
    Missing {
        path: String,
        file: &'static str,
        why: String,
    },
    #[error("{file} of cgroup {path}: not permitted")]
    Denied { path: String, file: &'static str },
    #[error("{file} of cgroup {path}: {source}")]
    Failed {
        path: String,
        file: &'static str,
        source: io::Error,
    },
    #[error("this host has no cgroup v2")]
    NoHierarchy,
    #[error("unit {unit}: {reason}")]
    Systemd { unit: String, reason: String },
}

/// The hierarchy of cgroup v2.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    mount: PathBuf,
    boot: BootId,
}

impl Hierarchy {
    /// Finds the mount; `None` where cgroup v2 is not mounted.
    pub fn find(procfs: &Path, boot: BootId) -> Option<Hierarchy> {
        let mounts = fs::read_to_string(procfs.join("self/mountinfo")).ok()?;
        let mount = mount_point(&mounts)?;
        Some(Hierarchy { mount, boot })
    }

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Every cgroup, the root included.
    ///
    /// # Errors
    /// When not even the root can be listed.
    pub fn list(&self) -> io::Result<Vec<Cgroup>> {
        let mut found = Vec::new();
        fs::read_dir(&self.mount)?;
        let mut waiting = vec!["/".to_owned()];
        while let Some(path) = waiting.pop() {
            let Some(cgroup) = self.find_cgroup(&path) else {
                continue;
            };
            let folder = self.folder(&path);
            // A cgroup that was removed meanwhile has none below it.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && let Ok(name) = entry.file_name().into_string()
                {
                    waiting.push(format!("{}/{name}", path.trim_end_matches('/')));
                }
            }
            found.push(cgroup);
            if found.len() >= MAX_CGROUPS {
                break;
            }
        }
        Ok(found)
    }

    /// The cgroup that has this path now.
    pub fn find_cgroup(&self, path: &str) -> Option<Cgroup> {
        let folder = self.open_path(path).ok()?;
        let inode = rustix::fs::fstat(&folder).ok()?.st_ino;
        let memory = read_in(&folder, "memory.current").ok();
        Some(Cgroup {
            identity: CgroupIdentity { boot: self.boot, inode },
            path: path.to_owned(),
            memory_bytes: memory.and_then(|text| text.trim().parse().ok()),
            cpu_cores: None,
        })
    }

    /// Pids of all processes in a cgroup and below it. A process of another pid namespace has the pid 0 here.
    ///
    /// # Errors
    /// When the cgroup is gone, or a `cgroup.procs` below it is unreadable.
    pub fn members(&self, cgroup: &Cgroup) -> Result<Vec<i32>, CgroupError> {
        drop(self.open(cgroup)?);
        let mut pids = Vec::new();
        let mut waiting = vec![self.folder(&cgroup.path)];
        while let Some(folder) = waiting.pop() {
            let failed = |source| refused(cgroup, "cgroup.procs", source);
            match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                // A cgroup that was removed meanwhile had no members. Members of a threaded cgroup count in its domain.
                Err(error) if is_gone(&error) || error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
                Err(error) => return Err(failed(error)),
            }
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            waiting.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        drop(self.open(cgroup)?);
        Ok(pids)
    }

    /// The value of a file.
    ///
    /// # Errors
    /// When the cgroup is gone or another, has no such file, or the file says something unknown.
    pub fn get(&self, cgroup: &Cgroup, file: CgroupFile) -> Result<Setting, CgroupError> {
        let name = file.as_str();
        let text = self.read(cgroup, name, Some(file.controller()))?;
        Setting::parse(file, &text).map_err(|error| refused(cgroup, name, io::Error::other(error)))
    }

    /// One limit of one device in `io.max`.
    ///
    /// # Errors
    /// As [`Hierarchy::get`].
    pub fn get_io(&self, cgroup: &Cgroup, device: Device, kind: IoKind) -> Result<Setting, CgroupError> {
        let limit = match self.get(cgroup, CgroupFile::IoMax)? {
            Setting::IoMax(limits) => limits.get(device, kind),
            other => return Ok(other),
        };
        Ok(Setting::IoLimit(IoLimit { device, kind, limit }))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When the cgroup is gone or another, has no such file, or the kernel refuses.
    pub fn set(&self, cgroup: &Cgroup, setting: &Setting) -> Result<(), CgroupError> {
        let name = setting.file().as_str();
        for line in self.lines_for(cgroup, setting)? {
            self.write(cgroup, name, Some(setting.file().controller()), &line)?;
        }
        Ok(())
    }

    /// The lines to write, one at a time. A device without an entry in the setting loses its present limits.
    fn lines_for(&self, cgroup: &Cgroup, setting: &Setting) -> Result<Vec<String>, CgroupError> {
        let Setting::IoMax(wanted) = setting else {
            return Ok(vec![setting.line()]);
        };
        let Setting::IoMax(found) = self.get(cgroup, CgroupFile::IoMax)? else {
            return Ok(Vec::new());
        };
        let mut devices: Vec<_> = wanted.devices().chain(found.devices()).collect();
        devices.sort_unstable();
        devices.dedup();
        Ok(devices.into_iter().map(|device| wanted.line(device)).collect())
    }

    /// Whether `cgroup.freeze` is set.
    ///
    /// # Errors
    /// When it is gone or another, or is the root.
    pub fn is_frozen(&self, cgroup: &Cgroup) -> Result<bool, CgroupError> {
        self.read(cgroup, "cgroup.freeze", None).map(|text| text.trim() == "1")
    }

    /// Freezes or thaws all processes of a cgroup, and waits up to [`FREEZE_WAIT`] until they are frozen.
    ///
    /// # Errors
    /// When it is gone or another, or the kernel refuses.
    pub fn freeze(&self, cgroup: &Cgroup, frozen: bool) -> Result<(), CgroupError> {
        self.write(cgroup, "cgroup.freeze", None, if frozen { "1" } else { "0" })?;
        let until = Instant::now() + FREEZE_WAIT;
        while frozen && !self.read(cgroup, "cgroup.events", None)?.contains("frozen 1") && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether the cgroup or one below it has a process.
    ///
    /// # Errors
    /// When it is gone or another.
    pub fn is_populated(&self, cgroup: &Cgroup) -> Result<bool, CgroupError> {
        self.read(cgroup, "cgroup.events", None)
            .map(|text| text.contains("populated 1"))
    }

    /// Sends SIGKILL to every process in the cgroup and below, including concurrent forks.
    ///
    /// # Errors
    /// When it is gone or another, or the kernel refuses or is older than 5.14.
    pub fn kill(&self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        self.write(cgroup, "cgroup.kill", None, "1")
    }

    /// Makes the kernel reclaim memory. Returns the cgroup's use before and after, because the kernel reports only
    /// whether it reclaimed less than requested.
    ///
    /// # Errors
    /// When the cgroup is gone or another, has no memory controller, or the kernel is older than 5.19.
    pub fn reclaim(&self, cgroup: &Cgroup, bytes: u64) -> Result<(u64, u64), CgroupError> {
        let before = self.memory(cgroup)?;
        let (mut left, until) = (bytes, Instant::now() + RECLAIM_TIME);
        while left > 0 && Instant::now() < until {
            let portion = left.min(RECLAIM_BYTES);
            match self.write(cgroup, "memory.reclaim", Some("memory"), &portion.to_string()) {
                Ok(()) => left -= portion,
                Err(CgroupError::Failed { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok((before, self.memory(cgroup)?))
    }

    fn memory(&self, cgroup: &Cgroup) -> Result<u64, CgroupError> {
        let name = "memory.current";
        let text = self.read(cgroup, name, Some("memory"))?;
        text.trim()
            .parse()
            .map_err(|_| refused(cgroup, name, io::Error::other("no number")))
    }

    /// Checks that the path still belongs to this cgroup.
    ///
    /// # Errors
    /// When it does not.
    pub fn verify(&self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        self.open(cgroup).map(drop)
    }

    fn folder(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }

    fn open_path(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(self.folder(path), flags, Mode::empty())
    }

    fn open(&self, cgroup: &Cgroup) -> Result<OwnedFd, CgroupError> {
        let path = || cgroup.path.clone();
        let folder = self.open_path(&cgroup.path).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV => CgroupError::Gone { path: path() },
            errno => refused(cgroup, "directory", errno.into()),
        })?;
        let found = rustix::fs::fstat(&folder).map_err(|errno| refused(cgroup, "directory", errno.into()))?;
        if found.st_ino != cgroup.identity.inode || cgroup.identity.boot != self.boot {
            return Err(CgroupError::ChangedIdentity { path: path() });
        }
        Ok(folder)
    }

    fn read(&self, cgroup: &Cgroup, file: &'static str, controller: Option<&str>) -> Result<String, CgroupError> {
        let folder = self.open(cgroup)?;
        read_in(&folder, file).map_err(|error| self.missing_or(cgroup, file, controller, error))
    }

    fn write(
        &self,
        cgroup: &Cgroup,
        file: &'static str,
        controller: Option<&str>,
        text: &str,
    ) -> Result<(), CgroupError> {
        let folder = self.open(cgroup)?;
        rustix::fs::openat(&folder, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| fs::File::from(file).write_all(text.as_bytes()))
            .map_err(|error| self.missing_or(cgroup, file, controller, error))
    }

    /// Finds out why a file does not exist: the cgroup was removed, or the controller is not enabled.
    fn missing_or(
        &self,
        cgroup: &Cgroup,
        file: &'static str,
        controller: Option<&str>,
        error: io::Error,
    ) -> CgroupError {
        if !is_gone(&error) {
            return refused(cgroup, file, error);
        }
        if let Err(gone) = self.verify(cgroup) {
            return gone;
        }
        let path = cgroup.path.clone();
        let enabled = self
            .open(cgroup)
            .ok()
            .and_then(|folder| read_in(&folder, "cgroup.controllers").ok())
            .unwrap_or_default();
        let why = match controller {
            _ if path == "/" => "the root cgroup has no limits".to_owned(),
            Some(controller) if !enabled.split_whitespace().any(|name| name == controller) => {
                format!("the controller {controller} is not enabled (cgroup.subtree_control of the parent)")
            }
            _ => "this kernel does not have it".to_owned(),
        };
        CgroupError::Missing { path, file, why }
    }
}

fn read_in(folder: &OwnedFd, file: &str) -> io::Result<String> {
    let file = rustix::fs::openat(folder, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads of the files of a removed cgroup fail with ENODEV (kernfs).
fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NODEV]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn refused(cgroup: &Cgroup, file: &'static str, source: io::Error) -> CgroupError {
    let path = cgroup.path.clone();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => CgroupError::Denied { path, file },
        _ => CgroupError::Failed { path, file, source },
    }
}

/// The mount point of cgroup2 in a mountinfo (proc_pid_mountinfo(5)): fields before ` - `, then the type. Among several
/// mounts, the one with the root of the hierarchy.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescaped(point)))
    })
}

/// Replaces the octal escapes of blanks, tabs, newlines and backslashes.
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (octal, character)| {
            text.replace(octal, character)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_is_found() {
        let mounts = "\
24 1 0:22 / /proc rw - proc proc rw
31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 /inner /srv/inner rw - cgroup2 cgroup2 rw
42 31 0:38 / /sys/fs/cgroup/with\\040blank rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/with blank")));
        assert_eq!(mount_point("24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }
}
