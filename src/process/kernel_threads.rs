//! A cache of kernel threads. They are most of the process table on a machine with many processors, and evenkeel
//! never touches them. So each is read once, and one read of a file lists those that still exist.

use super::fields::Process;
use super::read::{MAX_FILE_BYTES, read_file};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// The children of kthreadd, which starts every kernel thread (proc(5); a kernel without CONFIG_PROC_CHILDREN has no
/// such file).
const CHILDREN: &str = "2/task/2/children";

/// The known kernel threads, as first read.
#[derive(Debug, Clone, Default)]
pub struct KernelThreads {
    known: BTreeMap<i32, Process>,
    present: BTreeSet<i32>,
}

impl KernelThreads {
    /// Reads which kernel threads exist now. `root` is the root of the procfs.
    pub(super) fn refresh(&mut self, root: BorrowedFd<'_>, text: &mut Vec<u8>) {
        let read = read_file(root, CHILDREN, MAX_FILE_BYTES, text);
        self.present = read.map(|()| numbers(text)).unwrap_or_default();
        self.known.retain(|pid, _| self.present.contains(pid));
    }

    /// The cached kernel thread with this pid, if it still exists.
    pub(super) fn find(&self, pid: &str, boot_now: Duration) -> Option<Process> {
        let thread = self.known.get(&pid.parse().ok()?)?;
        Some(Process {
            age: boot_now.saturating_sub(thread.born_at),
            ..thread.clone()
        })
    }

    /// Caches a process if it is a kernel thread. Children of kthreadd may also be programs that the kernel runs.
    pub(super) fn note(&mut self, process: &Process) {
        let pid = process.identity.pid;
        if process.is_kernel_thread && self.present.contains(&pid) {
            self.known.insert(pid, process.clone());
        }
    }
}

fn numbers(text: &[u8]) -> BTreeSet<i32> {
    let words = text.split(u8::is_ascii_whitespace);
    words
        .filter_map(|word| str::from_utf8(word).ok()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::process::BootId;
    use crate::process::kernel_threads::KernelThreads;
    use crate::process::table::Procfs;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    const PF_KTHREAD: u64 = 0x0020_0000;

    fn put(root: &Path, pid: i32, name: &str, flags: u64) {
        let stat = format!("{pid} ({name}) S 2 0 0 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 100 0 0 0");
        fs::create_dir_all(root.join(pid.to_string())).unwrap();
        fs::write(root.join(format!("{pid}/stat")), stat).unwrap();
    }

    #[test]
    fn known_kernel_thread_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let procfs = Procfs {
            root: root.to_owned(),
            boot: BootId(1),
            page_bytes: 4096,
            calls: None,
        };
        let children = |text: &str| {
            fs::create_dir_all(root.join("2/task/2")).unwrap();
            fs::write(root.join("2/task/2/children"), text).unwrap();
        };
        put(root, 2, "kthreadd", PF_KTHREAD);
        put(root, 3, "kworker", PF_KTHREAD);
        put(root, 4, "helper", 0);
        put(root, 5, "shell", 0);
        let mut threads = KernelThreads::default();
        let names = |threads: &mut KernelThreads| {
            let table = procfs.read_table(Duration::from_secs(9), threads).unwrap();
            let mut names: Vec<String> = table.into_iter().map(|process| process.name).collect();
            names.sort();
            names
        };
        children("3 4 ");
        assert_eq!(names(&mut threads), ["helper", "kthreadd", "kworker", "shell"]);
        for pid in 2..=5 {
            put(root, pid, &format!("new{pid}"), 0);
        }
        assert_eq!(names(&mut threads), ["kworker", "new2", "new4", "new5"]);
        // The thread has exited, and another process has its pid.
        children("4 ");
        assert_eq!(names(&mut threads), ["new2", "new3", "new4", "new5"]);
        children("3 4 ");
        assert_eq!(names(&mut threads), ["new2", "new3", "new4", "new5"]);
        fs::remove_dir_all(root.join("2/task")).unwrap();
        assert_eq!(names(&mut threads), ["new2", "new3", "new4", "new5"]);
    }
}
