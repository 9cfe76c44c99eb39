//! Which users the mode of a file lets write. The mode alone says too much of a group that has one member, and of a
//! file on a read-only mount.

use super::{GROUP_MAY_WRITE, OTHERS_MAY_WRITE};
use nix::unistd::{Group, User, getegid, geteuid};
use rustix::fs::{StatVfsMountFlags, getxattr, statvfs};
use rustix::io::Errno;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const ACCOUNTS: &str = "/etc/passwd";
/// The root directory of the first process.
const FIRST_ROOT: &str = "/proc/1/root";
/// With an access control list, the group bits of the mode are the bound of all its entries (acl(5)).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// evenkeel reads it, so the mode does not matter on a read-only mount.
    Configuration,
    /// evenkeel writes to it.
    Storage,
}

/// The write bits of group and others that other users than root and evenkeel's own can use.
pub fn writers(path: &Path, meta: &Metadata, purpose: Purpose) -> u32 {
    let mut writers = meta.mode() & (GROUP_MAY_WRITE | OTHERS_MAY_WRITE);
    // The mode of a link means nothing.
    if meta.is_symlink() || writers == 0 {
        return 0;
    }
    if writers & GROUP_MAY_WRITE != 0 && is_private_group(meta.gid()) && !has_access_list(path) {
        writers &= !GROUP_MAY_WRITE;
    }
    if writers != 0 && purpose == Purpose::Configuration && is_on_read_only_mount(path, meta) {
        return 0;
    }
    writers
}

/// Whether a group is evenkeel's own and has no other member, as where each user has a group of the same name. Root's
/// group is never private, because users of containers and services may have it.
fn is_private_group(gid: u32) -> bool {
    let (uid, own) = (geteuid(), getegid());
    if uid.is_root() || gid != own.as_raw() {
        return false;
    }
    let (Ok(Some(user)), Ok(Some(group)), Ok(accounts)) =
        (User::from_uid(uid), Group::from_gid(own), fs::read(ACCOUNTS))
    else {
        return false;
    };
    user.gid == own
        && group.name == user.name
        && group.mem.iter().all(|member| *member == user.name)
        && is_primary_group_of_one(uid.as_raw(), gid, &String::from_utf8_lossy(&accounts))
}

/// Whether no other account has this primary group, by the lines of passwd(5).
fn is_primary_group_of_one(uid: u32, gid: u32, accounts: &str) -> bool {
    let ids = accounts.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    });
    ids.filter(|(_, group)| *group == gid).all(|(user, _)| user == uid)
}

fn has_access_list(path: &Path) -> bool {
    let nothing: &mut [u8] = &mut [];
    !matches!(
        getxattr(path, ACCESS_LIST, nothing),
        Err(Errno::NODATA | Errno::OPNOTSUPP)
    )
}

/// Whether a file is on a mount that is read-only for all users, such as a volume of a container or an image of the
/// system. Under `ProtectSystem=` each mount is read-only for evenkeel alone, so the mount of the first process counts
/// where that has the same file.
fn is_on_read_only_mount(path: &Path, meta: &Metadata) -> bool {
    let is_read_only = |path: &Path| statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    if !is_read_only(path) || fs::metadata(FIRST_ROOT).is_err() {
        return false;
    }
    let as_first = Path::new(FIRST_ROOT).join(path.strip_prefix("/").unwrap_or(path));
    match as_first.symlink_metadata() {
        Ok(found) if (found.dev(), found.ino()) == (meta.dev(), meta.ino()) => is_read_only(&as_first),
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primary_group_of_two_accounts_is_shared() {
        let own = "root:x:0:0:root:/root:/bin/sh\n# a comment\nkeel:x:100:101::/:/bin/false\n";
        assert!(is_primary_group_of_one(100, 101, own));
        let alias = format!("{own}alias:x:100:101::/:/bin/sh\n");
        assert!(is_primary_group_of_one(100, 101, &alias));
        let shared = format!("{own}deploy:x:102:101::/:/bin/sh\n");
        assert!(!is_primary_group_of_one(100, 101, &shared));
    }
}
