//! The owner of a process or a cgroup: the user for whom it counts where users share something. Pure.

use super::cgroup::{Cgroup, user_of_slice};
use super::fields::Process;

/// The first uid of people, as of login.defs(5). Those below belong to services of the system.
pub const FIRST_USER: u32 = 1000;

impl Process {
    /// The user in whose slice the process is. Elsewhere its real uid, if that was read, because a setuid program keeps
    /// it.
    pub fn owner(&self) -> Option<u32> {
        let slice = self.details.cgroup.as_deref().and_then(user_of_slice);
        slice.or(self.details.real_uid)
    }
}

impl Cgroup {
    /// The user in whose slice the cgroup is, and else root.
    pub fn owner(&self) -> u32 {
        user_of_slice(&self.path).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_of_a_user_counts_more_than_the_uid() {
        for (cgroup, uid, owner) in [
            ("/user.slice/user-1000.slice/session-3.scope", 100_001, Some(1000)),
            ("/user.slice/user-1000.slice", 0, Some(1000)),
            ("/user.slice/user-0.slice/session-1.scope", 0, Some(0)),
            ("/system.slice/cron.service", 1000, Some(1000)),
            ("/system.slice/x.service/user.slice/user-33.slice", 1000, Some(1000)),
            ("/user.slice/user-1000.slice2", 1001, Some(1001)),
            ("/user.slice", 1001, Some(1001)),
        ] {
            let mut process = Process::example(7, "x");
            process.details.cgroup = Some(cgroup.to_owned());
            process.details.real_uid = Some(uid);
            assert_eq!(process.owner(), owner, "{cgroup}");
        }
        assert_eq!(Process::example(7, "x").owner(), None);
    }
}
