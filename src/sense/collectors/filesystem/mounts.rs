//! A parser of the mount table `/proc/PID/mountinfo` (proc_pid_mountinfo(5)). Pure.

use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::ParseError;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount. Its path keeps its bytes, because `statfs` gets it; its device is only a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while mounted; a later mount at the same path has another id.
    pub id: u32,
    pub mount_point: PathBuf,
    pub fstype: String,
    pub device: String,
    /// Whether the mount or its file system is read-only.
    pub read_only: bool,
    /// Major and minor number of the device.
    pub number: (u32, u32),
}

/// Decodes octal escapes (`\ooo`), which the kernel writes for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] = tail
        {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    bytes
}

fn has_option(options: &[u8], option: &[u8]) -> bool {
    options.split(|&byte| byte == b',').any(|part| part == option)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // Split at single spaces, because a device may be empty.
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let separator = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let [fstype, device, super_options] = fields.get(separator + 1..separator + 4)? else {
        return None;
    };
    let (major, minor) = str::from_utf8(fields[2]).ok()?.split_once(':')?;
    Some(Mount {
        id: str::from_utf8(fields[0]).ok()?.parse().ok()?,
        mount_point: PathBuf::from(OsString::from_vec(unescape(fields[4]))),
        fstype: text(fstype),
        device: text(device),
        read_only: has_option(fields[5], b"ro")
            || has_option(super_options, b"ro")
            || has_option(super_options, b"emergency_ro"),
        number: (major.parse().ok()?, minor.parse().ok()?),
    })
}

pub fn parse_mountinfo(bytes: &[u8], bad: &mut BadLines) -> Result<Vec<Mount>, ParseError> {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mount = |line| {
        parse_line(line).ok_or_else(|| ParseError::text(&String::from_utf8_lossy(line), "is not a line of mountinfo"))
    };
    Ok(lines.filter_map(|line| bad.keep(mount(line))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn mount(line: &[u8]) -> Mount {
        BadLines::default().parse(line, parse_mountinfo).unwrap().remove(0)
    }

    #[test]
    fn escapes_and_empty_devices_are_parsed() {
        let plain = mount(b"27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n");
        assert_eq!(
            (plain.id, plain.device.as_str(), plain.read_only),
            (27, "/dev/vda", false)
        );
        let odd = mount(b"30 27 0:5 / /a\\040b\\012c\\134d\xff\\9 rw - fuse.x  ro,x\n");
        assert_eq!(odd.mount_point.as_os_str().as_bytes(), b"/a b\nc\\d\xff\\9");
        assert_eq!((odd.device.as_str(), odd.read_only), ("", true));
        assert!(
            BadLines::default()
                .parse(b"27 1 254:0 / /\n".as_slice(), parse_mountinfo)
                .is_err()
        );
    }

    #[test]
    fn option_with_prefix_ro_is_not_ro() {
        assert!(!mount(b"1 1 0:1 / /x rw,root=1 - tmpfs t rw,errors=remount-ro\n").read_only);
        assert!(mount(b"1 1 0:1 / /x nodev,ro - tmpfs t rw\n").read_only);
        // ext4 after an error, since Linux 6.16.
        assert!(mount(b"1 1 0:1 / /x rw - ext4 t rw,emergency_ro\n").read_only);
    }
}
