//! The states in which a process receives no signals: a stop, a debugger, a frozen cgroup. Reads only.
//!
//! SIGKILL reaches a process that is stopped, traced, or in a frozen cgroup of version 2. No signal reaches one in a
//! freezer of cgroup v1. Any other signal that the process handles stays pending until it continues (checked on Linux
//! 6.18).

use crate::process::Process;
use nix::sys::signal::Signal;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// One reason why a process does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspension {
    /// SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU stopped it.
    Stopped,
    /// A debugger holds it (ptrace(2)).
    Traced,
    /// This cgroup, which contains it directly or below, is frozen.
    Cgroup(String),
    /// A freezer of cgroup v1 holds it.
    Freezer(String),
}

impl Suspension {
    /// Whether a signal stays pending until the suspension ends.
    pub fn holds_back(&self, signal: Signal) -> bool {
        signal != Signal::SIGKILL || matches!(self, Suspension::Freezer(_))
    }

    /// The suspension that the state of a process shows.
    pub fn of_state(process: &Process) -> Option<Suspension> {
        match process.state {
            'T' => Some(Suspension::Stopped),
            't' => Some(Suspension::Traced),
            _ => None,
        }
    }
}

impl fmt::Display for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suspension::Stopped => f.write_str("it is stopped"),
            Suspension::Traced => f.write_str("a debugger has stopped it"),
            Suspension::Cgroup(path) => write!(f, "its cgroup {path} is frozen"),
            Suspension::Freezer(path) => write!(f, "the freezer {path} of cgroup v1 holds it"),
        }
    }
}

/// The mounts of the freezers of cgroup v2 and v1.
#[derive(Debug, Clone, Default)]
pub struct Freezers {
    /// Mount of cgroup v2.
    unified: Option<PathBuf>,
    /// Mount of the freezer of cgroup v1.
    legacy: Option<PathBuf>,
}

impl Freezers {
    pub fn find(procfs: &Path, unified: Option<&Path>) -> Freezers {
        let mounts = fs::read_to_string(procfs.join("self/mountinfo")).unwrap_or_default();
        Freezers {
            unified: unified.map(Path::to_owned),
            legacy: legacy_mount(&mounts),
        }
    }

    /// The frozen cgroups of a process with this `/proc/PID/cgroup`.
    pub fn frozen(&self, cgroups: &str) -> Vec<Suspension> {
        let unified = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
        let unified = self.unified.as_deref().zip(unified);
        let unified = unified.and_then(|(mount, path)| frozen_above(mount, path));
        let legacy = cgroups.lines().find_map(legacy_path);
        let legacy = self.legacy.as_deref().zip(legacy);
        let legacy = legacy.filter(|(mount, path)| {
            // The file has this state below a frozen cgroup as well, and while freezing is under way.
            let state = fs::read_to_string(folder(mount, path).join("freezer.state"));
            state.is_ok_and(|state| matches!(state.trim(), "FROZEN" | "FREEZING"))
        });
        let unified = unified.map(Suspension::Cgroup);
        let legacy = legacy.map(|(_, path)| Suspension::Freezer(path.to_owned()));
        unified.into_iter().chain(legacy).collect()
    }
}

/// The nearest cgroup v2 with `cgroup.freeze` set. `cgroup.events` would show it only once all its processes are
/// frozen.
fn frozen_above(mount: &Path, path: &str) -> Option<String> {
    let above = std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(above, _)| above));
    let mut above = above.filter(|path| !path.is_empty());
    let is_frozen = |path: &&str| {
        let text = fs::read_to_string(folder(mount, path).join("cgroup.freeze"));
        text.is_ok_and(|text| text.trim() == "1")
    };
    above.find(is_frozen).map(str::to_owned)
}

fn folder(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// The path in a line such as `6:freezer:/jobs` of `/proc/PID/cgroup` (cgroups(7)).
fn legacy_path(line: &str) -> Option<&str> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    controllers
        .split(',')
        .any(|name| name == "freezer")
        .then_some(path)
        .filter(|path| *path != "/")
}

fn legacy_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let is_legacy = kind.next() == Some("cgroup");
        let is_freezer = kind.nth(1)?.split(',').any(|option| option == "freezer");
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (is_legacy && is_freezer && root == "/").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                          31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          32 24 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";

    #[test]
    fn mount_of_the_legacy_freezer_is_found() {
        assert_eq!(legacy_mount(MOUNTS), Some(PathBuf::from("/sys/fs/cgroup/freezer")));
        assert_eq!(legacy_mount(MOUNTS.lines().next().unwrap()), None);
        assert_eq!(legacy_path("6:freezer:/jobs/a"), Some("/jobs/a"));
        assert_eq!((legacy_path("6:freezer:/"), legacy_path("0::/freezer")), (None, None));
    }

    #[test]
    fn frozen_cgroups_are_found_on_the_way_up() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("v2/batch.slice/cgroup.freeze", "1\n");
        write("v2/batch.slice/job.service/cgroup.freeze", "0\n");
        write("v2/shop.service/cgroup.freeze", "0\n");
        write("v1/jobs/freezer.state", "FREEZING\n");
        write("v1/shop/freezer.state", "THAWED\n");
        let freezers = Freezers {
            unified: Some(folder.path().join("v2")),
            legacy: Some(folder.path().join("v1")),
        };
        let (batch, jobs) = (
            Suspension::Cgroup("/batch.slice".into()),
            Suspension::Freezer("/jobs".into()),
        );
        for (cgroups, expected) in [
            ("0::/batch.slice/job.service\n", vec![batch.clone()]),
            ("6:freezer:/jobs\n0::/batch.slice\n", vec![batch, jobs.clone()]),
            ("6:cpu,freezer:/jobs\n0::/\n", vec![jobs]),
            ("6:freezer:/shop\n0::/shop.service\n", vec![]),
            ("0::/gone.service\n", vec![]),
        ] {
            assert_eq!(freezers.frozen(cgroups), expected, "{cgroups}");
        }
        assert_eq!(Freezers::default().frozen("6:freezer:/jobs\n0::/batch.slice\n"), vec![]);
    }

    #[test]
    fn sigkill_is_held_back_by_the_legacy_freezer_only() {
        let path = || "/a".to_owned();
        let all = [
            Suspension::Stopped,
            Suspension::Traced,
            Suspension::Cgroup(path()),
            Suspension::Freezer(path()),
        ];
        let holding = |signal| all.iter().filter(|suspension| suspension.holds_back(signal)).count();
        assert_eq!((holding(Signal::SIGTERM), holding(Signal::SIGKILL)), (4, 1));
    }
}
