//! What the kernel says of the devices of a mounted file system (ioctl(2) on its root), and parsers of the answers. The
//! parsers are pure.

use nix::errno::Errno;
use nix::libc;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

const FS_INFO: libc::Ioctl = 0x8400_941f_u32 as libc::Ioctl;
const DEV_INFO: libc::Ioctl = 0xd000_941e_u32 as libc::Ioctl;
const GET_DEV_STATS: libc::Ioctl = 0xc408_9434_u32 as libc::Ioctl;
/// Lengths of the structures, which the numbers above hold too.
const FS_INFO_BYTES: usize = 1024;
const DEV_INFO_BYTES: usize = 4096;
const DEV_STATS_BYTES: usize = 1032;
/// Where the path of a device begins.
const PATH_AT: usize = 3072;

/// The kinds of errors in the order of the kernel.
pub const ERRORS: [&str; 5] = ["write", "read", "flush", "corruption", "generation"];

/// No file system has more devices.
const MAX_DEVICES: u64 = 4096;

/// A device of a file system.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// The name without its directory.
    pub name: String,
    pub uuid: String,
    pub size: f64,
    pub unused: f64,
    /// In the order of [`ERRORS`].
    pub errors: [f64; ERRORS.len()],
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u64::from_ne_bytes)
}

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` of 16 bytes.
fn uuid_at(bytes: &[u8], at: usize) -> String {
    let bytes = bytes.get(at..at + 16).unwrap_or_default();
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn parse_device(info: &[u8], errors: &[u8]) -> Device {
    let path = info.get(PATH_AT..).unwrap_or_default();
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    let path = String::from_utf8_lossy(&path[..end]);
    let (used, size) = (u64_at(info, 24), u64_at(info, 32));
    Device {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        uuid: uuid_at(info, 8),
        size: size as f64,
        unused: size.saturating_sub(used) as f64,
        errors: std::array::from_fn(|index| u64_at(errors, 24 + index * 8) as f64),
    }
}

/// Sends a request; the answer overwrites it.
fn ask(root: &File, request: libc::Ioctl, structure: &mut [u8]) -> nix::Result<()> {
    // SAFETY: the structure is as long as the request says, and lives during the call.
    Errno::result(unsafe { libc::ioctl(root.as_raw_fd(), request, structure.as_mut_ptr()) }).map(drop)
}

/// The UUID of the file system at a mount point, and its devices.
///
/// # Errors
/// When the mount point cannot be opened, or is of another type.
pub fn read_devices(mount_point: &Path) -> std::io::Result<(String, Vec<Device>)> {
    let root = File::open(mount_point)?;
    let mut info = vec![0; FS_INFO_BYTES];
    ask(&root, FS_INFO, &mut info)?;
    let (last, count) = (u64_at(&info, 0).min(MAX_DEVICES), u64_at(&info, 8) as usize);
    let mut devices = Vec::new();
    // Numbers of removed devices are free.
    for number in 0..=last {
        let mut info = vec![0; DEV_INFO_BYTES];
        info[..8].copy_from_slice(&number.to_ne_bytes());
        match ask(&root, DEV_INFO, &mut info) {
            Err(Errno::ENODEV) => continue,
            answer => answer?,
        }
        let mut errors = vec![0; DEV_STATS_BYTES];
        errors[..8].copy_from_slice(&number.to_ne_bytes());
        errors[8..16].copy_from_slice(&(ERRORS.len() as u64).to_ne_bytes());
        ask(&root, GET_DEV_STATS, &mut errors)?;
        devices.push(parse_device(&info, &errors));
        if devices.len() == count {
            break;
        }
    }
    Ok((uuid_at(&info, 16), devices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let mut info = vec![0; DEV_INFO_BYTES];
        info[8..24].copy_from_slice(&(0..16).collect::<Vec<u8>>());
        info[24..32].copy_from_slice(&30u64.to_ne_bytes());
        info[32..40].copy_from_slice(&100u64.to_ne_bytes());
        info[PATH_AT..PATH_AT + 8].copy_from_slice(b"/dev/sda");
        let mut errors = vec![0; DEV_STATS_BYTES];
        errors[24 + 3 * 8] = 7;
        let device = Device {
            name: "sda".to_owned(),
            uuid: "00010203-0405-0607-0809-0a0b0c0d0e0f".to_owned(),
            size: 100.0,
            unused: 70.0,
            errors: [0.0, 0.0, 0.0, 7.0, 0.0],
        };
        assert_eq!(parse_device(&info, &errors), device);
    }

    #[test]
    fn other_file_systems_are_an_error() {
        assert!(read_devices(Path::new("/proc")).is_err());
        assert!(read_devices(Path::new("/nowhere")).is_err());
    }
}
