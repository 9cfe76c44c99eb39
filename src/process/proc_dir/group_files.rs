//! The files of a process that only process groups read: its threads, arguments, cgroups, wait channel and proportional
//! memory.

use super::{MAX_CMDLINE_BYTES, OpenProcess, first_number, is_pid, line_after};
use crate::process::fields::Process;
use crate::process::read::MAX_FILE_BYTES;
use crate::process::table::Procfs;
use rustix::fs::{Dir, Mode, OFlags, openat};
use std::time::Duration;

/// The proportional memory of a process: each shared page counts once for all processes that share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProportionalMemory {
    pub resident_bytes: u64,
    pub swap_bytes: u64,
}

impl OpenProcess {
    /// Calls `visit` for each thread of the process, with its own files. Threads that exit meanwhile are left out.
    pub fn for_each_thread(&self, procfs: &Procfs, boot_now: Duration, mut visit: impl FnMut(Process, &OpenProcess)) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(tasks) = openat(&self.directory, "task", flags, Mode::empty()) else {
            return;
        };
        let Ok(entries) = Dir::read_from(&tasks) else { return };
        let mut stat = Vec::with_capacity(1024);
        for entry in entries.flatten().filter(|entry| is_pid(entry.file_name())) {
            let Ok(files) = OpenProcess::open_at(&tasks, entry.file_name()) else {
                continue;
            };
            let read = files.read_into("stat", MAX_FILE_BYTES, &mut stat);
            if let Some(thread) = read.ok().and_then(|()| procfs.parse_stat(&stat, boot_now)) {
                visit(thread, &files);
            }
        }
    }

    /// The arguments, the program first. `None` where they cannot be read, and none for kernel threads and zombies.
    pub fn arguments(&self) -> Option<Vec<String>> {
        let bytes = self.read_cmdline(MAX_CMDLINE_BYTES).ok()??;
        Some(split_arguments(&bytes))
    }

    /// The path of the process in each hierarchy of cgroups, in the order of the file.
    pub fn cgroup_paths(&self) -> Vec<String> {
        let text = self.text("cgroup").unwrap_or_default();
        // A path may contain colons.
        let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        paths.map(str::to_owned).collect()
    }

    /// The function of the kernel in which the process or thread waits.
    pub fn wait_channel(&self) -> Option<String> {
        self.text("wchan").filter(|name| !matches!(name.as_str(), "" | "0"))
    }

    /// The proportional memory. The kernel walks over all pages of the process.
    pub fn proportional_memory(&self) -> Option<ProportionalMemory> {
        let text = self.text("smaps_rollup")?;
        let bytes = |key| {
            line_after(&text, key)
                .and_then(first_number)
                .map(|kibibytes| kibibytes.saturating_mul(1024))
        };
        Some(ProportionalMemory {
            resident_bytes: bytes("Pss:")?,
            swap_bytes: bytes("SwapPss:").unwrap_or(0),
        })
    }
}

/// Splits arguments, which end with NUL. Programs that set their title leave many of these.
fn split_arguments(bytes: &[u8]) -> Vec<String> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let arguments = bytes[..end].split(|byte| *byte == 0);
    arguments
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_at_each_nul() {
        for (bytes, expected) in [
            (&b""[..], &[][..]),
            (b"\0", &[""]),
            (b"sh\0-c\0\0x y\0", &["sh", "-c", "", "x y"]),
            (b"nginx: worker process\0\0\0", &["nginx: worker process"]),
            (b"no end", &["no end"]),
        ] {
            assert_eq!(split_arguments(bytes), expected);
        }
    }

    #[test]
    fn threads_of_this_process_have_names_and_files() {
        let procfs = Procfs::for_metrics(std::path::Path::new("/proc"));
        let (started, wait) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let named = std::thread::Builder::new().name("a-named-thread".into());
        let thread = named.spawn(move || {
            started.send(()).unwrap();
            let _ = ends.recv();
        });
        wait.recv().unwrap();
        let files = OpenProcess::open(&procfs, std::process::id() as i32).unwrap();
        let mut found = Vec::new();
        files.for_each_thread(&procfs, Duration::ZERO, |thread, files| {
            found.push((thread.name, thread.identity.pid, files.text("status").is_some()));
        });
        assert!(
            found
                .iter()
                .any(|(name, _, has_files)| name == "a-named-thread" && *has_files),
            "{found:?}"
        );
        assert!(found.iter().any(|(_, tid, _)| *tid == std::process::id() as i32));
        let memory = files.proportional_memory().unwrap();
        assert!(memory.resident_bytes > 0);
        assert!(!files.cgroup_paths().is_empty());
        assert_eq!(files.arguments().unwrap(), std::env::args().collect::<Vec<_>>());
        drop(end);
        thread.unwrap().join().unwrap();
    }
}
