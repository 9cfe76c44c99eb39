//! The release of the program pages that only the start used. It is an optimisation: without a call of [`release`] the
//! program works the same.
//!
//! The start reads files, compiles patterns and opens databases with code that hardly ever runs again, and the kernel maps
//! 64 KiB around each function that runs. These pages would count as resident, and locking would keep them in memory
//! for good. The dist build with node_exporter's collectors, beside node_exporter with 21.1 MB, has 9.4 MB with the
//! call, 16.0 MB without it, and 12.1 MB without it and with a link order that lists the functions of the start. The budget is
//! half of node_exporter's.

use nix::libc;
use rustix::mm::{Advice, madvise};

#[cfg(target_pointer_width = "64")]
type Header = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type Header = libc::Elf32_Phdr;

/// Releases the pages of the program and its libraries (madvise(2), MADV_DONTNEED). The kernel maps a page again from the page
/// cache when it is used. Writable segments stay, because their pages hold what the loader wrote. A debugger loses its
/// breakpoints. packaging/layout/record.py takes the call of dl_iterate_phdr(3) as the end of the start.
pub fn release() {
    // SAFETY: the callback accesses only the object that it receives.
    unsafe {
        libc::dl_iterate_phdr(Some(release_object), std::ptr::null_mut());
    }
}

/// Releases the pages of one loaded object (dl_iterate_phdr(3)).
unsafe extern "C" fn release_object(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader passes one object with `dlpi_phnum` headers, which stays valid during the call.
    let (base, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (object.dlpi_addr, headers)
    };
    let page = rustix::param::page_size();
    let is_never_written = |header: &&Header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(is_never_written) {
        let start = base.wrapping_add(header.p_vaddr) as usize;
        let end = (start + header.p_memsz as usize) / page * page;
        let start = start.next_multiple_of(page);
        // SAFETY: whole pages of this segment only, unmodified since they were read. A page fault reads them again.
        let _ = unsafe { madvise(start as *mut _, end.saturating_sub(start), Advice::LinuxDontNeed) };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::Advice::LinuxPopulateRead;
    use std::fs;

    /// The program's own code: address, size and resident size in KiB (proc_pid_smaps(5)).
    fn own_code() -> (usize, u64, u64) {
        let own = release as fn() as usize;
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = text.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16);
            !range
                .is_some_and(|(from, to)| (number(from).unwrap_or(usize::MAX)..number(to).unwrap_or(0)).contains(&own))
        });
        let start = lines.next().and_then(|line| line.split('-').next()).unwrap();
        let mut kib = |name: &str| {
            let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (usize::from_str_radix(start, 16).unwrap(), kib("Size:"), kib("Rss:"))
    }

    /// Runs in a separate process, because threads of other tests run code concurrently.
    #[test]
    fn pages_are_released_and_return_when_used() {
        const ALONE: &str = "EVENKEEL_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "host::program_pages::tests::pages_are_released_and_return_when_used";
            let own = std::env::current_exe().unwrap();
            let run = std::process::Command::new(own)
                .args([name, "--exact"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let (start, size, _) = own_code();
        // SAFETY: reads pages of the own program.
        unsafe { madvise(start as *mut _, size as usize * 1024, LinuxPopulateRead) }.unwrap();
        let (.., before) = own_code();
        assert!(before > size / 2, "{before} of {size} KiB");
        release();
        let (.., after) = own_code();
        assert!(after < before / 2, "{after} of {before} KiB");
    }
}
