//! `filesystem`: sizes of mounted file systems, from `statfs(2)`.

use super::info::{CollectorInfo, Pace};
use super::name_filter::NameFilter;
pub(super) mod mounts;
pub(super) mod statfs;

use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::roots::Roots;
use mounts::{Mount, parse_mountinfo};
use statfs::{FsUsage, StatfsClient};
use std::collections::HashSet;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_filesystem_avail_bytes node_filesystem_device_error node_filesystem_files node_filesystem_files_free \
    node_filesystem_free_bytes node_filesystem_mount_info node_filesystem_readonly node_filesystem_size_bytes";

pub const INFO: CollectorInfo =
    CollectorInfo::on("filesystem", Pace::Slow, "sizes of file systems", METRICS, |options| {
        let client = StatfsClient::new(statfs::system_call(), options.mount_timeout);
        let mut filesystem = Filesystem::new(options.mount_points.clone(), options.fs_types.clone(), client);
        Box::new(move |roots| filesystem.read(roots))
    });

/// The labels of one mount and its usage.
struct MountRow {
    device: String,
    fstype: String,
    mount_point: String,
    read_only: bool,
    /// Major and minor number of the device.
    number: (u32, u32),
    /// What `statfs` returned; the text of an error is a label.
    usage: Result<FsUsage, String>,
}

/// The label of an error: node_exporter's word for a mount that does not answer, else the kernel's.
fn error_text(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::TimedOut {
        return "mountpoint timeout".to_owned();
    }
    match error.raw_os_error() {
        Some(number) => rustix::io::Errno::from_raw_os_error(number).to_string().to_lowercase(),
        None => error.to_string(),
    }
}

/// A mount point as the host sees it, without the prefix `--path.rootfs`.
fn strip_rootfs(roots: &Roots, mount_point: &Path) -> String {
    let stripped = mount_point.strip_prefix(&roots.rootfs).unwrap_or(mount_point);
    Path::new("/").join(stripped).to_string_lossy().into_owned()
}

fn families(lines: &[MountRow]) -> Vec<Family> {
    let mut error = Family::gauge(
        "node_filesystem_device_error",
        "1 where the file system did not say how full it is, or not in time.",
    );
    let mut read_only = Family::gauge(
        "node_filesystem_readonly",
        "1 where the file system is mounted read-only.",
    );
    let mut mount_info = Family::gauge("node_filesystem_mount_info", "A mount; the value is always 1.");
    type UsageGauge = fn(&FsUsage) -> f64;
    let mut figures: [(Family, UsageGauge); 5] = [
        (Family::gauge("node_filesystem_size_bytes", "Size in bytes."), |usage| {
            usage.size_bytes
        }),
        (
            Family::gauge(
                "node_filesystem_free_bytes",
                "Free bytes, those kept for root included.",
            ),
            |usage| usage.free_bytes,
        ),
        (
            Family::gauge("node_filesystem_avail_bytes", "Bytes free to users other than root."),
            |usage| usage.avail_bytes,
        ),
        (Family::gauge("node_filesystem_files", "Inodes in all."), |usage| {
            usage.files
        }),
        (Family::gauge("node_filesystem_files_free", "Free inodes."), |usage| {
            usage.files_free
        }),
    ];
    let mut mounts = HashSet::new();
    for line in lines {
        let labels = || {
            let mut labels = vec![
                label("device", line.device.clone()),
                label("fstype", line.fstype.clone()),
                label("mountpoint", line.mount_point.clone()),
            ];
            labels.extend(
                line.usage
                    .as_ref()
                    .err()
                    .map(|text| label("device_error", text.clone())),
            );
            labels
        };
        error.push(labels(), f64::from(line.usage.is_err()));
        read_only.push(labels(), f64::from(line.read_only));
        let Ok(usage) = &line.usage else { continue };
        let (major, minor) = line.number;
        let info = [
            label("device", line.device.clone()),
            label("major", major.to_string()),
            label("minor", minor.to_string()),
            label("mountpoint", line.mount_point.clone()),
        ];
        // Its labels lack the type, which only a faked mount table has twice for one mount.
        if mounts.insert((&line.device, line.number, &line.mount_point)) {
            mount_info.push(info, 1.0);
        }
        for (family, figure) in &mut figures {
            family.push(labels(), figure(usage));
        }
    }
    let mut families = vec![error, read_only, mount_info];
    families.extend(figures.map(|(family, _)| family));
    families
}

/// The state between two reads: filters, and the client with its stuck mounts.
pub struct Filesystem {
    mount_points: NameFilter,
    fs_types: NameFilter,
    client: StatfsClient,
}

impl Filesystem {
    pub fn new(mount_points: NameFilter, fs_types: NameFilter, client: StatfsClient) -> Self {
        Filesystem {
            mount_points,
            fs_types,
            client,
        }
    }

    fn mounts(&self, roots: &Roots) -> Result<Vec<Mount>, ReadError> {
        // The mount table of init is that of the host; our own may be that of a container or a systemd sandbox.
        match roots.parse_bytes_once("1/mountinfo", parse_mountinfo) {
            Err(ReadError::Io { .. }) => roots.parse_bytes_once("self/mountinfo", parse_mountinfo),
            mounts => mounts,
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let mounts = self.mounts(roots)?;
        let deadline = self.client.begin(mounts.iter().map(|mount| mount.id));
        let mut lines = Vec::new();
        let mut seen = HashSet::new();
        for mount in mounts {
            let mount_point = strip_rootfs(roots, &mount.mount_point);
            if !self.mount_points.allows(&mount_point) || !self.fs_types.allows(&mount.fstype) {
                continue;
            }
            // A device can be mounted twice at one mount point, but a series exists once.
            if !seen.insert((mount.device.clone(), mount.fstype.clone(), mount_point.clone())) {
                continue;
            }
            let stripped = mount
                .mount_point
                .strip_prefix(&roots.rootfs)
                .unwrap_or(&mount.mount_point);
            let usage = self.client.query(mount.id, &roots.host(stripped), deadline);
            if let Err(error) = &usage {
                tracing::debug!(mountpoint = mount_point, %error, "statfs failed");
            }
            lines.push(MountRow {
                device: mount.device,
                fstype: mount.fstype,
                mount_point,
                read_only: mount.read_only,
                number: mount.number,
                usage: usage.map_err(|error| error_text(&error)),
            });
        }
        Ok(families(&lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::options::CollectorOptions;
    use crate::sense::fixture::{Tree, text_of};
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    fn read(mountinfo: &[u8], rootfs: &str) -> Vec<Family> {
        let mut tree = Tree::new();
        tree.roots.rootfs = rootfs.into();
        tree.proc("1/mountinfo", mountinfo);
        let call = Arc::new(|path: &Path| match path.to_str() {
            Some(path) if path.ends_with("/broken") => Err(io::Error::other("no")),
            _ => Ok(FsUsage {
                size_bytes: 100.0,
                free_bytes: 60.0,
                avail_bytes: 50.0,
                files: 9.0,
                files_free: 8.0,
            }),
        });
        let options = CollectorOptions::default();
        let client = StatfsClient::new(call, Duration::from_secs(10));
        Filesystem::new(options.mount_points, options.fs_types, client)
            .read(&tree.roots)
            .unwrap()
    }

    #[test]
    fn pseudo_file_systems_and_repeated_mounts_are_left_out() {
        let families = read(
            b"1 1 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /proc rw - proc proc rw\n3 1 0:3 / /x rw - overlay o rw\n\
              4 1 0:4 / /dev/shm rw - tmpfs tmpfs rw\n5 1 0:5 / /mnt/a\\040b rw - xfs /dev/sdb ro\n\
              6 1 0:5 / /mnt/a\\040b rw - xfs /dev/sdb ro\n7 1 0:9 / /var/lib/docker/x rw - ext4 d rw\n",
            "/",
        );
        assert_eq!(
            text_of(&families, "readonly"),
            [
                "node_filesystem_readonly{device=\"/dev/vda\",fstype=\"ext4\",mountpoint=\"/\"} 0",
                "node_filesystem_readonly{device=\"/dev/sdb\",fstype=\"xfs\",mountpoint=\"/mnt/a b\"} 1",
            ]
        );
        assert_eq!(text_of(&families, "avail")[0].rsplit(' ').next(), Some("50"));
    }

    #[test]
    fn mount_with_two_types_has_one_info() {
        let families = read(
            b"1 1 0:5 / / rw - xfs /dev/sdb rw\n2 1 0:5 / / rw - ext4 /dev/sdb rw\n",
            "/",
        );
        let counts = ["mount_info", "readonly"].map(|name| text_of(&families, name).len());
        assert_eq!(counts, [1, 2]);
    }

    #[test]
    fn failed_mount_has_its_error_and_no_sizes() {
        let families = read(
            b"1 1 0:1 / /data/broken rw - ext4 d rw\n2 1 0:2 / / rw - ext4 d rw\n",
            "/",
        );
        assert_eq!(
            text_of(&families, "broken"),
            ["device_error", "readonly"].map(|name| {
                let of = "{device=\"d\",fstype=\"ext4\",mountpoint=\"/data/broken\",device_error=\"no\"}";
                format!("node_filesystem_{name}{of} {}", u8::from(name == "device_error"))
            })
        );
        assert_eq!(text_of(&families, "mountpoint=\"/\"").len(), 8);
        assert_eq!(
            text_of(&families, "mount_info"),
            ["node_filesystem_mount_info{device=\"d\",major=\"0\",minor=\"2\",mountpoint=\"/\"} 1"]
        );
    }

    #[test]
    fn rootfs_prefix_is_not_shown() {
        let families = read(
            b"1 1 0:1 / /host rw - ext4 d rw\n2 1 0:2 / /host/srv rw - ext4 d rw\n",
            "/host",
        );
        let lines = text_of(&families, "size_bytes");
        assert!(
            lines[0].contains("mountpoint=\"/\"") && lines[1].contains("mountpoint=\"/srv\""),
            "{lines:?}"
        );
    }
}
