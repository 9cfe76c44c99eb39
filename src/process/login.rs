//! Login sessions: whether the end of a process ends the login of a user. A terminal alone proves nothing, because any
//! program gives a process one (script(1)). A login is started by a program that runs as root.

use super::cgroup::unit_of;
use super::fields::Process;
use super::proc_dir::OpenProcess;
use super::program::is_in_system_directory;
use super::table::Procfs;
use super::timed_calls::Blocked;

/// Programs that let users in, and those that they start between themselves and the shell or the desktop.
const LOGIN_PROGRAMS: &[&str] = &[
    "sshd",
    "sshd-session",
    "sshd-auth",
    "dropbear",
    "login",
    "getty",
    "agetty",
    "mgetty",
    "mingetty",
    "gdm-session-worker",
    "gdm-wayland-session",
    "gdm-x-session",
    "lightdm",
    "sddm",
    "sddm-helper",
    "xdm",
    "greetd",
    "lxdm-binary",
    "xrdp-sesman",
    "xrdp-sesexec",
    "cockpit-session",
];
/// Maximum number of such programs between a shell and the one that runs as root.
const MAX_PROGRAMS: usize = 8;

/// Whether a cgroup is in the scope that logind makes for a login, which users cannot make.
pub fn is_in_login_scope(cgroup: &str) -> bool {
    unit_of(cgroup).is_some_and(|unit| unit.starts_with("session-") && unit.ends_with(".scope"))
}

impl Procfs {
    /// Whether a process leads the session of a login: it is a login program of root in such a session, or it was
    /// started by one, directly or through other login programs.
    ///
    /// # Errors
    /// When the file system at the path of a program does not answer in time.
    pub(super) fn leads_login(&self, process: &Process, files: &OpenProcess) -> Result<bool, Blocked> {
        let in_scope = process.details.cgroup.as_deref().is_some_and(is_in_login_scope);
        let leads = process.session == process.identity.pid && (process.has_terminal || in_scope);
        if !leads && !in_scope {
            return Ok(false);
        }
        if self.runs_login_program(files)? && files.real_uid() == Some(0) {
            return Ok(true);
        }
        Ok(leads && self.is_below_login_program(process)?)
    }

    /// Whether all ancestors up to one that runs as root are login programs.
    fn is_below_login_program(&self, process: &Process) -> Result<bool, Blocked> {
        let mut pid = process.parent;
        for _ in 0..MAX_PROGRAMS {
            let Ok(files) = OpenProcess::open(self, pid) else {
                return Ok(false);
            };
            if !self.runs_login_program(&files)? {
                return Ok(false);
            }
            if files.real_uid() == Some(0) {
                return Ok(true);
            }
            let Some(parent) = files.read_stat(self, Default::default()) else {
                return Ok(false);
            };
            pid = parent.parent;
        }
        Ok(false)
    }

    fn runs_login_program(&self, files: &OpenProcess) -> Result<bool, Blocked> {
        let is_named = |path: &String| {
            let file = path.rsplit('/').next().unwrap_or(path);
            is_in_system_directory(path) && LOGIN_PROGRAMS.contains(&file)
        };
        match files.exe_path().filter(is_named) {
            Some(path) => files.is_host_program(&self.root, &path),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::consistent_read::ProcessReader;
    use crate::process::{BootId, ProcessFields};
    use std::fs;
    use std::path::{Path, PathBuf};

    /// A procfs of processes that run real programs.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            Machine(tempfile::tempdir().unwrap())
        }

        /// Adds a process that leads its own session.
        fn add(&self, pid: i32, parent: i32, exe: &Path, uid: u32, terminal: i32, cgroup: &str) {
            let directory = self.0.path().join(pid.to_string());
            fs::create_dir(&directory).unwrap();
            let stat = format!("{pid} (x) S {parent} {pid} {pid} {terminal} -1 0 0 0 0 0 0 0 0 0 20 0 1 0 100 0 0 0");
            fs::write(directory.join("stat"), stat).unwrap();
            fs::write(directory.join("status"), format!("Uid:\t{uid}\t0\t0\t0\n")).unwrap();
            fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
            std::os::unix::fs::symlink(exe, directory.join("exe")).unwrap();
        }

        fn leads_login(&self, pid: i32) -> bool {
            let procfs = Procfs {
                root: self.0.path().to_owned(),
                boot: BootId(1),
                page_bytes: 4096,
                calls: None,
            };
            let mut process = procfs.read_process(pid, Default::default()).unwrap();
            let needs = ProcessFields::CGROUP | ProcessFields::LOGIN;
            assert!(ProcessReader::new(procfs).read_details(&mut process, needs));
            process.details.leads_login.unwrap()
        }
    }

    fn program(path: &str) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|error| panic!("this test needs {path}: {error}"))
    }

    #[test]
    fn shell_of_a_login_program_leads_the_login() {
        let (getty, shell, machine) = (program("/sbin/agetty"), program("/bin/sh"), Machine::new());
        machine.add(
            10,
            1,
            &getty,
            0,
            1025,
            "/system.slice/system-getty.slice/getty@tty1.service",
        );
        machine.add(
            11,
            10,
            &shell,
            1000,
            1025,
            "/user.slice/user-1000.slice/session-1.scope",
        );
        machine.add(
            12,
            11,
            &shell,
            1000,
            34816,
            "/user.slice/user-1000.slice/session-1.scope",
        );
        assert!(machine.leads_login(10) && machine.leads_login(11));
        assert!(!machine.leads_login(12), "a terminal of script(1) in the login");
    }

    #[test]
    fn login_program_of_a_user_makes_no_login() {
        let (getty, shell, machine) = (program("/sbin/agetty"), program("/bin/sh"), Machine::new());
        let scope = "/user.slice/user-1000.slice/session-1.scope";
        machine.add(10, 1, &shell, 1000, 0, scope);
        machine.add(11, 10, &getty, 1000, 34816, scope);
        machine.add(12, 11, &shell, 1000, 34816, scope);
        machine.add(13, 1, &shell, 1000, 0, scope);
        for pid in 10..=13 {
            assert!(!machine.leads_login(pid), "{pid}");
        }
        machine.add(14, 1, &getty, 0, 0, scope);
        machine.add(15, 14, &getty, 1000, 0, scope);
        machine.add(16, 15, &shell, 1000, 0, scope);
        assert!(
            machine.leads_login(14) && machine.leads_login(16),
            "through two programs"
        );
    }

    #[test]
    fn impostor_with_the_path_of_a_login_program_makes_no_login() {
        let (shell, machine) = (program("/bin/sh"), Machine::new());
        machine.add(
            10,
            1,
            Path::new("/usr/bin/absent/sshd"),
            0,
            1025,
            "/system.slice/x.service",
        );
        machine.add(11, 10, &shell, 1000, 34816, "/system.slice/x.service");
        assert!(!machine.leads_login(10) && !machine.leads_login(11));
    }

    #[test]
    fn users_cannot_make_a_login_scope() {
        for (path, expected) in [
            ("/user.slice/user-1000.slice/session-3.scope", true),
            ("/user.slice/user-1000.slice/session-3.scope/below", true),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/session-3.scope",
                false,
            ),
            ("/system.slice/batch.service/session-3.scope", false),
            ("/system.slice/ssh.service", false),
        ] {
            assert_eq!(is_in_login_scope(path), expected, "{path}");
        }
    }
}
