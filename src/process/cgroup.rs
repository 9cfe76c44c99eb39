//! A cgroup as data, and the systemd unit of a path. Data and pure functions; `host` reads.

use super::target::CgroupIdentity;

/// One cgroup as it was read at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Cgroup {
    pub identity: CgroupIdentity,
    /// The path as in `/proc/PID/cgroup`: it begins with `/`, and the root is `/`.
    pub path: String,
    /// `memory.current`; `None` where the memory controller is not enabled.
    pub memory_bytes: Option<u64>,
    /// Processor cores that its processes and those below use; `None` until measured.
    pub cpu_cores: Option<f64>,
}

impl Cgroup {
    /// A cgroup without further data.
    pub fn at(identity: CgroupIdentity, path: String) -> Cgroup {
        Cgroup {
            identity,
            path,
            memory_bytes: None,
            cpu_cores: None,
        }
    }

    /// The unit of this cgroup. Cgroups that a unit creates below its own have none.
    pub fn unit(&self) -> Option<&str> {
        unit_of(&self.path).filter(|unit| self.path.ends_with(*unit))
    }

    /// Whether the user of a `user@UID.service` arranges the processes in it. That service itself and its `init.scope`
    /// hold the user's manager, as everywhere.
    pub fn is_managed_by_user(&self) -> bool {
        below_user_manager(&self.path).is_some_and(|below| !matches!(below, "" | "init.scope"))
    }

    /// Whether a path is this cgroup or one below it.
    pub fn holds(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.path.trim_end_matches('/'));
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The unit of the system manager that owns a cgroup: the first on the path that is no slice, as in `systemctl status
/// PID`, or for a slice the slice itself. Units of a user manager belong to `user@UID.service`.
pub fn unit_of(path: &str) -> Option<&str> {
    let mut slice = None;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let is_unit = UNIT_SUFFIXES
            .iter()
            .any(|suffix| part.len() > suffix.len() && part.ends_with(suffix));
        match is_unit {
            true if part.ends_with(".slice") => slice = Some(part),
            true => return Some(part),
            // Another program created this cgroup below a slice.
            false => return slice,
        }
    }
    slice
}

/// The user in whose slice a cgroup is. Only the system manager moves processes into a slice of a user, so this counts
/// more than a uid, of which one person may have many.
pub(super) fn user_of_slice(path: &str) -> Option<u32> {
    let slice = path.strip_prefix("/user.slice/user-")?.split('/').next()?;
    slice.strip_suffix(".slice")?.parse().ok()
}

/// The part of a path below the `user@UID.service` in which a user chooses all names.
fn below_user_manager(path: &str) -> Option<&str> {
    let unit = unit_of(path).filter(|unit| unit.starts_with("user@") && unit.ends_with(".service"))?;
    // All parts before the unit are slices.
    let (_, below) = path.split_once(unit)?;
    Some(below.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::BootId;

    fn cgroup(path: &str) -> Cgroup {
        let identity = CgroupIdentity {
            boot: BootId(1),
            inode: 1,
        };
        Cgroup::at(identity, path.to_owned())
    }

    #[test]
    fn paths_name_the_unit_as_systemd_does() {
        for (path, unit, own) in [
            ("/system.slice/ssh.service", Some("ssh.service"), true),
            ("/system.slice/docker.service/abc", Some("docker.service"), false),
            ("/batch.slice/batch-render.slice", Some("batch-render.slice"), true),
            (
                "/user.slice/user-7.slice/session-2.scope",
                Some("session-2.scope"),
                true,
            ),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/x.service",
                Some("user@7.service"),
                false,
            ),
            ("/init.scope", Some("init.scope"), true),
            ("/kubepods/burstable", None, false),
            ("/", None, false),
            ("/.service", None, false),
        ] {
            assert_eq!(unit_of(path), unit, "{path}");
            assert_eq!(cgroup(path).unit().is_some(), own, "{path}");
        }
    }

    #[test]
    fn cgroup_contains_itself_and_its_descendants() {
        let batch = cgroup("/batch.slice");
        assert!(batch.holds("/batch.slice") && batch.holds("/batch.slice/x.service"));
        assert!(!batch.holds("/batch.slice2") && !batch.holds("/"));
        assert!(cgroup("/").holds("/batch.slice"));
    }
}
