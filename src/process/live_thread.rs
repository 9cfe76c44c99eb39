//! The live thread of a process whose first thread has exited. The kernel shows such a process as a zombie without
//! executable, command line and memory, although its other threads run.

use super::fields::Process;
use super::read::{MAX_FILE_BYTES, read_file};
use super::table::{Procfs, has_left};
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::time::Duration;

/// Space for the first few threads. A process may have thousands, and listing them all takes milliseconds.
const LISTING_BYTES: usize = 512;

impl Procfs {
    /// The process as one of its live threads shows it, if its first thread has exited and others run.
    pub(super) fn with_live_thread(&self, mut process: Process) -> Process {
        if process.is_leader_gone()
            && let Some(thread) = self.live_thread(process.identity.pid)
        {
            process.live_thread = Some(thread.identity.pid);
            process.state = thread.state;
            process.nice = thread.nice;
            process.virtual_bytes = thread.virtual_bytes;
            process.resident_bytes = thread.resident_bytes;
        }
        process
    }

    /// The youngest live thread of the first few, because threads that start each other and exit go in this order.
    fn live_thread(&self, pid: i32) -> Option<Process> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, self.root.join(format!("{pid}/task")), flags, Mode::empty()).ok()?;
        let mut space = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut listing = RawDir::new(&folder, &mut space);
        let mut found = None;
        while let Some(Ok(entry)) = listing.next() {
            let name = entry.file_name().to_str().unwrap_or_default();
            let thread = name.parse::<i32>().ok().and_then(|_| self.thread(folder.as_fd(), name));
            found = thread.or(found);
            if found.is_some() && listing.is_buffer_empty() {
                break;
            }
        }
        found
    }

    /// A thread by its directory, unless it has exited.
    fn thread(&self, tasks: impl AsFd, name: &str) -> Option<Process> {
        let mut stat = Vec::with_capacity(1024);
        read_file(tasks.as_fd(), format!("{name}/stat"), MAX_FILE_BYTES, &mut stat).ok()?;
        let is_live = !has_left(&stat)?;
        is_live.then(|| self.parse_stat(&stat, Duration::ZERO)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::BootId;
    use std::fs;

    fn process_of(threads: &[(i32, char)]) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let procfs = Procfs {
            root: folder.path().to_owned(),
            boot: BootId(1),
            page_bytes: 4096,
            calls: None,
        };
        let write = |path: String, tid: i32, state: char| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let pages = if state == 'Z' { 0 } else { 25 };
            let stat = format!("{tid} (x) {state} 1 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 5 2 0 1000 4096 {pages} 0");
            fs::write(path, stat).unwrap();
        };
        write("42/stat".to_owned(), 42, threads[0].1);
        for (tid, state) in threads {
            write(format!("42/task/{tid}/stat"), *tid, *state);
        }
        procfs.read_process(42, Duration::ZERO).unwrap()
    }

    #[test]
    fn process_without_its_first_thread_shows_a_live_one() {
        let process = process_of(&[(42, 'Z'), (43, 'X'), (44, 'T')]);
        assert_eq!((process.identity.pid, process.live_thread), (42, Some(44)));
        assert_eq!(
            (process.state, process.nice, process.resident_bytes),
            ('T', 5, 25 * 4096)
        );
        for (threads, state) in [([(42, 'S'), (43, 'R')], 'S'), ([(42, 'Z'), (43, 'Z')], 'Z')] {
            let process = process_of(&threads);
            assert_eq!((process.live_thread, process.state), (None, state), "{threads:?}");
        }
    }
}
