//! Consistent readings of one process: all fields belong to the same process and the same program, although the
//! process may rename itself, run another program or exit meanwhile.

use super::command_lines::CommandLines;
use super::fields::{Process, ProcessFields, Unread};
use super::kernel_threads::KernelThreads;
use super::proc_dir::OpenProcess;
use super::protection::entry_of_path;
use super::selector::{Selector, SelectorMatch};
use super::table::Procfs;
use super::timed_calls::Blocked;
use super::user_names::UserNames;
use std::io;
use std::time::Duration;

/// Attempts to read a process that changes meanwhile.
const MAX_READS: usize = 3;

/// Reads whole tables, and single processes consistently. What it has read of users, kernel threads and command lines it
/// keeps.
#[derive(Clone)]
pub struct ProcessReader {
    pub procfs: Procfs,
    kernel_threads: KernelThreads,
    fields: FieldReader,
}

#[derive(Clone)]
struct FieldReader {
    users: UserNames,
    command_lines: CommandLines,
}

impl ProcessReader {
    pub fn new(procfs: Procfs) -> ProcessReader {
        ProcessReader {
            kernel_threads: KernelThreads::default(),
            fields: FieldReader {
                users: UserNames::with_deadline(procfs.calls.clone()),
                command_lines: CommandLines::default(),
            },
            procfs,
        }
    }

    /// Reads every process; `boot_now` is CLOCK_BOOTTIME.
    ///
    /// # Errors
    /// When the procfs itself cannot be read.
    pub fn read_table(&mut self, boot_now: Duration) -> io::Result<Vec<Process>> {
        self.fields.command_lines.forget_all();
        self.procfs.read_table(boot_now, &mut self.kernel_threads)
    }

    /// Reads one process again; `None` if it is gone.
    ///
    /// # Errors
    /// When it cannot be read for another reason, and may run.
    pub fn find_process(&mut self, pid: i32, boot_now: Duration) -> io::Result<Option<Process>> {
        self.fields.command_lines.forget(pid);
        Ok(self.procfs.find_process(pid, boot_now)?)
    }

    /// Looks up the users with these names, which later readings need.
    pub fn prepare_users(&mut self, names: &[&str]) {
        self.fields.users.prepare(names.iter().copied());
    }

    /// Reads the expensive fields into `process`. Returns false when the process is gone or its pid was reused.
    /// [`Details::unread`](super::Details::unread) says whether the fields can be relied on.
    pub fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        let ProcessReader { procfs, fields, .. } = self;
        read_consistently(procfs, process, |files, process| {
            fields.read(procfs, files, process, needs);
            true
        })
    }

    /// The same for one of many processes: its command line is read within the budget of its user.
    pub fn read_details_in_time(&mut self, process: &mut Process, needs: ProcessFields, boot_now: Duration) -> bool {
        let ProcessReader { procfs, fields, .. } = self;
        let is_it = read_consistently(procfs, process, |files, process| {
            fields.read_in_time(procfs, files, process, needs, boot_now);
            true
        });
        fields.command_lines.stop(boot_now);
        is_it
    }

    /// Reads the fields of a selector until its result is known, and `more` where the process matches. Returns whether
    /// it matches.
    pub fn satisfies(
        &mut self,
        process: &mut Process,
        selector: &Selector,
        more: ProcessFields,
        boot_now: Duration,
    ) -> bool {
        let more = more.difference(selector.needs());
        let ProcessReader { procfs, fields, .. } = self;
        let holds = read_consistently(procfs, process, |files, process| {
            satisfies(process, selector, more, |process, needs| {
                fields.read_in_time(procfs, files, process, needs, boot_now);
            })
        });
        fields.command_lines.stop(boot_now);
        holds && process.details.unread.is_none()
    }
}

impl FieldReader {
    fn read_in_time(
        &mut self,
        procfs: &Procfs,
        files: &OpenProcess,
        process: &mut Process,
        needs: ProcessFields,
        boot_now: Duration,
    ) {
        self.read(procfs, files, process, needs.difference(ProcessFields::CMDLINE));
        if needs.contains(ProcessFields::CMDLINE) {
            self.command_lines.read(files, process, boot_now);
        }
    }

    fn read(&mut self, procfs: &Procfs, files: &OpenProcess, process: &mut Process, needs: ProcessFields) {
        files.read_details(&mut process.details, needs, &mut self.users);
        let details = &mut process.details;
        let is_wanted = |path: &&str| {
            needs.contains(ProcessFields::HOST_PROGRAM)
                || needs.contains(ProcessFields::PROTECTED_PROGRAM) && entry_of_path(path).is_some()
        };
        if let Some(path) = details.exe.as_deref().filter(is_wanted) {
            details.is_host_program = match files.is_host_program(&procfs.root, path) {
                Ok(is_host_program) => Some(is_host_program),
                Err(Blocked) => {
                    details.unread = Some(Unread::LookupBlocked);
                    None
                }
            };
        }
        if needs.contains(ProcessFields::LOGIN) {
            match procfs.leads_login(process, files) {
                Ok(leads_login) => process.details.leads_login = Some(leads_login),
                Err(Blocked) => process.details.unread = Some(Unread::LookupBlocked),
            }
        }
    }
}

/// Reads fields until they are consistent, or until `read` returns false. The identity of a process is its boot, pid
/// and start time. execve(2) mixes the fields of two programs, which the file of the executable shows. A new name
/// alone proves nothing, because a process can rename itself all the time: it is read again, and accepted at last.
fn read_consistently(
    procfs: &Procfs,
    process: &mut Process,
    mut read: impl FnMut(&OpenProcess, &mut Process) -> bool,
) -> bool {
    for attempt in 1..=MAX_READS {
        let Ok(files) = OpenProcess::open(procfs, process.identity.pid) else {
            return false;
        };
        let files = files.of_thread(process.live_thread);
        let program = files.executable();
        if !read(&files, process) {
            return false;
        }
        let is_it = |now: &Process| now.identity == process.identity;
        let Some(now) = files.read_stat(procfs, Duration::ZERO).filter(is_it) else {
            return false;
        };
        let now = procfs.with_live_thread(now);
        let read_from = process.details.exe_file.or(program);
        let is_same_program = program == read_from && program == files.executable();
        let has_thread_left = match process.live_thread {
            Some(_) => files.has_thread_left(),
            None => now.live_thread.is_some(),
        };
        if is_same_program && !has_thread_left && (now.name == process.name || attempt == MAX_READS) {
            return true;
        }
        if attempt < MAX_READS {
            *process = Process {
                age: process.age,
                cpu_cores: process.cpu_cores,
                ..now
            };
        }
    }
    process.details.unread = Some(Unread::Changing);
    true
}

/// Reads one file after the other, until a condition fails.
fn satisfies(
    process: &mut Process,
    selector: &Selector,
    more: ProcessFields,
    mut read: impl FnMut(&mut Process, ProcessFields),
) -> bool {
    // Ordered by cost: a link, a path from the kernel, `status`, and the memory of the process.
    const EXPENSIVE: [ProcessFields; 6] = [
        ProcessFields::EXE,
        ProcessFields::CGROUP,
        ProcessFields::USER,
        ProcessFields::SIGNALS,
        ProcessFields::OOM_SCORE,
        ProcessFields::CMDLINE,
    ];
    let wanted = selector.needs();
    let mut known = ProcessFields::empty();
    for need in EXPENSIVE.into_iter().filter(|need| wanted.contains(*need)) {
        read(process, need);
        known |= need;
        if matches!(selector.judge_known(process, known), SelectorMatch::Fails(_)) {
            return false;
        }
    }
    let holds = selector.judge(process) == SelectorMatch::Holds;
    if holds {
        read(process, more);
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::BootId;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// A procfs of one process, with the pid 7.
    struct OneProcess(tempfile::TempDir);

    impl OneProcess {
        fn new() -> OneProcess {
            let folder = OneProcess(tempfile::tempdir().unwrap());
            fs::create_dir(folder.path().join("7")).unwrap();
            folder.rename("first", 70);
            folder.exec("first");
            folder
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn rename(&self, name: &str, start_ticks: u64) {
            let stat = format!("7 ({name}) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start_ticks} 0 0\n");
            fs::write(self.path().join("7/stat"), stat).unwrap();
        }

        fn exec(&self, program: &str) {
            let (file, link) = (self.path().join(program), self.path().join("7/exe"));
            fs::write(&file, "").unwrap();
            let _ = fs::remove_file(&link);
            symlink(&file, &link).unwrap();
        }

        /// Looks at the process while `meanwhile` happens, which gets the number of the look. Returns the number of
        /// looks and the process, if it is the same.
        fn look(&self, meanwhile: impl Fn(&Self, usize)) -> (usize, Option<Process>) {
            let procfs = Procfs {
                root: self.path().to_owned(),
                boot: BootId(1),
                page_bytes: 4096,
                calls: None,
            };
            let mut process = procfs.read_process(7, Duration::ZERO).unwrap();
            let mut looks = 0;
            let is_it = read_consistently(&procfs, &mut process, |files, process| {
                looks += 1;
                files.read_details(&mut process.details, ProcessFields::EXE, &mut UserNames::default());
                meanwhile(self, looks);
                true
            });
            (looks, is_it.then_some(process))
        }
    }

    #[test]
    fn process_that_renames_itself_all_the_time_is_read() {
        let (looks, process) = OneProcess::new().look(|host, look| host.rename(&format!("name{look}"), 70));
        let process = process.unwrap();
        assert_eq!((looks, process.details.unread), (MAX_READS, None));
        assert!(process.details.exe.is_some());
    }

    #[test]
    fn program_that_replaces_another_is_read_as_a_whole() {
        let (looks, process) = OneProcess::new().look(|host, look| {
            if look == 1 {
                host.rename("second", 70);
                host.exec("second");
            }
        });
        let process = process.unwrap();
        assert_eq!((looks, process.details.unread), (2, None));
        assert_eq!(process.name, "second");
        assert!(process.details.exe.unwrap().ends_with("/second"));
    }

    #[test]
    fn process_that_runs_another_program_all_the_time_is_unread() {
        let (looks, process) = OneProcess::new().look(|host, look| host.exec(&format!("program{look}")));
        assert_eq!(
            (looks, process.unwrap().details.unread),
            (MAX_READS, Some(Unread::Changing))
        );
    }

    #[test]
    fn reused_pid_is_another_process() {
        assert_eq!(OneProcess::new().look(|host, _| host.rename("first", 71)), (1, None));
    }
}
