//! The page-out of a process's memory: process_madvise(2) with MADV_PAGEOUT through its pidfd, range by range, until
//! enough is paged out.

use nix::errno::Errno;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Bytes for one system call, small enough to check the time limit and the result in between.
const PORTION_BYTES: u64 = 8 << 20;
/// Time limit of a page-out, because swapping to a slow disk must not block the engine.
pub const PAGE_OUT_TIME: Duration = Duration::from_secs(2);

/// An address range of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    bytes: u64,
}

/// Advises the ranges of `maps` (proc_pid_maps(5)) until `resident` has dropped by `bytes`. Skips ranges that cannot be
/// paged out.
///
/// # Errors
/// When evenkeel lacks the permission, or the kernel lacks the call (before 5.10).
pub fn page_out(pidfd: &OwnedFd, maps: &str, bytes: u64, resident: impl Fn() -> u64) -> io::Result<()> {
    let (before, until) = (resident(), Instant::now() + PAGE_OUT_TIME);
    for range in maps.lines().filter_map(movable) {
        for portion in portions(range) {
            if before.saturating_sub(resident()) >= bytes || Instant::now() >= until {
                return Ok(());
            }
            match advise(pidfd, portion) {
                Ok(()) => {}
                // A range that was unmapped meanwhile, is locked, or cannot be paged out.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EINVAL | libc::EBADF)) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The range of a line of `maps`, unless the kernel provides the mapping.
fn movable(line: &str) -> Option<Range> {
    let (addresses, rest) = line.split_once(' ')?;
    let is_kernels = ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"]
        .iter()
        .any(|name| rest.ends_with(name));
    let (start, end) = addresses.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    (!is_kernels && end > start).then(|| Range {
        start,
        bytes: end - start,
    })
}

fn portions(range: Range) -> impl Iterator<Item = Range> {
    (0..range.bytes.div_ceil(PORTION_BYTES)).map(move |index| {
        let offset = index * PORTION_BYTES;
        Range {
            start: range.start + offset,
            bytes: PORTION_BYTES.min(range.bytes - offset),
        }
    })
}

fn advise(pidfd: &OwnedFd, range: Range) -> io::Result<()> {
    let vector = libc::iovec {
        iov_base: range.start as *mut libc::c_void,
        iov_len: range.bytes as usize,
    };
    // SAFETY: the kernel reads one iovec of evenkeel's; its addresses belong to the other process and are not
    // dereferenced here.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            &vector as *const libc::iovec,
            1_usize,
            libc::MADV_PAGEOUT,
            0_u32,
        )
    };
    Ok(Errno::result(answer).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_portions() {
        let line = "7f0000000000-7f0001800000 rw-p 00000000 00:00 0 ";
        let range = movable(line).unwrap();
        assert_eq!((range.start, range.bytes), (0x7f00_0000_0000, 24 << 20));
        let sizes: Vec<u64> = portions(range).map(|portion| portion.bytes).collect();
        assert_eq!(sizes, [8 << 20; 3]);
        let small = Range {
            start: 4096,
            bytes: 4096,
        };
        assert_eq!(portions(small).collect::<Vec<_>>(), [small]);
        for kernels in [
            "7ffd000-7ffe000 r-xp 00000000 00:00 0                          [vdso]",
            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]",
            "nonsense",
        ] {
            assert_eq!(movable(kernels), None, "{kernels}");
        }
    }
}
