//! The user of a process that needs no privileges, and the change to it (setresuid(2)).

use super::CapabilitySet;
use super::capabilities::effective;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::fs;

/// The name of the user, which packaging/sysusers.conf creates.
pub const NAME: &str = "evenkeel";
/// A user of the system is in this file. Other sources would load libraries.
const USERS: &str = "/etc/passwd";

/// A user without privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnUser {
    uid: u32,
    gid: u32,
}

/// Why the process stays with its user.
#[derive(Debug, thiserror::Error)]
pub enum OwnUserError {
    #[error("there is no user {NAME} in {USERS}")]
    Missing,
    #[error("it takes CAP_SETUID and CAP_SETGID")]
    NotPermitted,
    #[error("the kernel refused it: {0}")]
    Kernel(#[from] nix::errno::Errno),
}

impl OwnUser {
    /// # Errors
    /// When there is no such user.
    pub fn find() -> Result<OwnUser, OwnUserError> {
        let users = fs::read_to_string(USERS).unwrap_or_default();
        parse(&users).ok_or(OwnUserError::Missing)
    }

    /// Makes the process one of this user, in no other group. Call it before any thread starts.
    ///
    /// # Errors
    /// When the privileges are missing.
    pub fn switch(self) -> Result<(), OwnUserError> {
        if !effective().contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            return Err(OwnUserError::NotPermitted);
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        Ok(())
    }
}

/// The user in the lines of passwd(5). One with the number of root is none.
fn parse(users: &str) -> Option<OwnUser> {
    let fields = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(NAME)).then_some(fields)
    })?;
    let mut numbers = fields.skip(1).map(str::parse);
    let (Some(Ok(uid)), Some(Ok(gid))) = (numbers.next(), numbers.next()) else {
        return None;
    };
    (uid != 0 && gid != 0).then_some(OwnUser { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_found_by_its_whole_name() {
        let users =
            "root:x:0:0::/root:/bin/sh\nevenkeel2:x:7:8::/:/bin/false\nevenkeel:x:997:996:evenkeel:/:/bin/false\n";
        assert_eq!(parse(users), Some(OwnUser { uid: 997, gid: 996 }));
        for none in [
            "",
            "evenkeel:x:0:5::/:/bin/sh",
            "evenkeel:x:5:0::/:/bin/sh",
            "evenkeel:x:a:b",
            "evenkeel",
        ] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }
}
