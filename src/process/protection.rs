//! The built-in protections: a closed list of programs that evenkeel never touches unless a rule names the override.
//! They are recognised by the file of their executable or by their systemd unit, because any program can use the name
//! and the path of another.

use super::cgroup::unit_of;
use super::fields::{Process, ProcessFields};
use super::program::is_in_system_directory;

/// One entry of the built-in protection.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltInProtection {
    /// The name in `override_protection`.
    pub name: &'static str,
    /// File names of executables in a system directory (`/usr/bin`, `/usr/sbin`, `/usr/lib`, `/usr/libexec`, `/opt` …).
    pub exes: &'static [&'static str],
    /// Units of the system manager.
    pub units: &'static [&'static str],
}

const LOGIN_SESSION: &str = "login-session";

/// The list, by name.
pub const BUILT_IN: &[BuiltInProtection] = &[
    BuiltInProtection {
        name: "sshd",
        exes: &["sshd", "sshd-session", "sshd-auth"],
        units: &["ssh.service", "sshd.service"],
    },
    BuiltInProtection {
        name: "systemd",
        exes: &[
            "systemd",
            "init",
            "systemd-journald",
            "systemd-udevd",
            "systemd-logind",
            "systemd-networkd",
            "systemd-resolved",
            "systemd-timesyncd",
            "systemd-oomd",
            "systemd-machined",
            "systemd-hostnamed",
            "systemd-executor",
            "udevd",
        ],
        units: &[
            "init.scope",
            "systemd-journald.service",
            "systemd-udevd.service",
            "systemd-logind.service",
            "systemd-networkd.service",
            "systemd-resolved.service",
            "systemd-timesyncd.service",
            "systemd-oomd.service",
            "systemd-machined.service",
            "systemd-hostnamed.service",
        ],
    },
    BuiltInProtection {
        name: "dbus",
        exes: &["dbus-daemon", "dbus-broker", "dbus-broker-launch"],
        units: &["dbus.service", "dbus-broker.service"],
    },
    BuiltInProtection {
        name: "container-runtime",
        exes: &[
            "dockerd",
            "docker-proxy",
            "containerd",
            "containerd-shim",
            "containerd-shim-runc-v2",
            "crio",
            "conmon",
            "runc",
            "crun",
            "podman",
            "lxcfs",
        ],
        units: &["docker.service", "containerd.service", "crio.service", "podman.service"],
    },
    BuiltInProtection {
        name: "kubelet",
        exes: &["kubelet", "k3s", "rke2"],
        units: &["kubelet.service", "k3s.service"],
    },
    BuiltInProtection {
        name: "prometheus",
        exes: &["prometheus"],
        units: &["prometheus.service"],
    },
    BuiltInProtection {
        name: "alertmanager",
        exes: &["alertmanager", "prometheus-alertmanager"],
        units: &["alertmanager.service", "prometheus-alertmanager.service"],
    },
    BuiltInProtection {
        name: "grafana",
        exes: &["grafana", "grafana-server"],
        units: &["grafana.service", "grafana-server.service"],
    },
    BuiltInProtection {
        name: "node-exporter",
        exes: &["node_exporter", "prometheus-node-exporter"],
        units: &["node_exporter.service", "prometheus-node-exporter.service"],
    },
    // `login` recognises it, without an executable.
    BuiltInProtection {
        name: LOGIN_SESSION,
        exes: &[],
        units: &[],
    },
];

/// The fields that [`recognise`] needs.
pub const NEEDS: ProcessFields = ProcessFields::EXE
    .union(ProcessFields::PROTECTED_PROGRAM)
    .union(ProcessFields::CGROUP)
    .union(ProcessFields::LOGIN);

/// The built-in protection of a process, if any.
pub fn recognise(process: &Process) -> Option<&'static BuiltInProtection> {
    BUILT_IN.iter().find(|protection| is_recognised(protection, process))
}

/// The protection of programs with this path. Only where there is one it matters which file is there.
pub fn entry_of_path(exe: &str) -> Option<&'static BuiltInProtection> {
    let is_named = |protection: &&BuiltInProtection| protection.exes.contains(&file_name(exe));
    BUILT_IN.iter().find(is_named).filter(|_| is_in_system_directory(exe))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_recognised(protection: &BuiltInProtection, process: &Process) -> bool {
    let details = &process.details;
    if protection.name == LOGIN_SESSION {
        return details.leads_login == Some(true);
    }
    let by_exe = details.is_host_program == Some(true)
        && details
            .exe
            .as_deref()
            .is_some_and(|exe| is_in_system_directory(exe) && protection.exes.contains(&file_name(exe)));
    // Only the system manager's own unit counts: a user chooses the names below `user@UID.service`.
    let unit = details.cgroup.as_deref().and_then(unit_of);
    by_exe || unit.is_some_and(|unit| protection.units.contains(&unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(exe: Option<&str>, cgroup: Option<&str>) -> Process {
        let mut process = Process::example(7, "sshd");
        process.details.exe = exe.map(str::to_owned);
        process.details.is_host_program = exe.map(|_| true);
        process.details.cgroup = cgroup.map(str::to_owned);
        process
    }

    fn entry_of(process: &Process) -> Option<&'static str> {
        recognise(process).map(|protection| protection.name)
    }

    #[test]
    fn executables_and_units_are_protected_not_borrowed_names() {
        for (exe, cgroup, expected) in [
            (Some("/usr/sbin/sshd"), None, Some("sshd")),
            (Some("/home/mallory/sshd"), None, None),
            (None, Some("/system.slice/ssh.service"), Some("sshd")),
            (None, Some("/system.slice/k3s.service/x"), Some("kubelet")),
            (None, Some("/init.scope"), Some("systemd")),
            (Some("/usr/bin/sleep"), Some("/user.slice"), None),
            (None, None, None),
        ] {
            assert_eq!(entry_of(&named(exe, cgroup)), expected, "{exe:?} {cgroup:?}");
        }
    }

    #[test]
    fn path_in_another_mount_namespace_is_not_protected() {
        let mut process = named(Some("/usr/local/bin/prometheus"), None);
        assert_eq!(entry_of(&process), Some("prometheus"));
        for is_host_program in [Some(false), None] {
            process.details.is_host_program = is_host_program;
            assert_eq!(entry_of(&process), None);
        }
    }

    #[test]
    fn unit_name_that_a_user_chose_is_not_protected() {
        let of_user = "/user.slice/user-1000.slice/user@1000.service/app.slice";
        for cgroup in [
            format!("{of_user}/sshd.service"),
            format!("{of_user}/init.scope"),
            "/user.slice/user-1000.slice/user@1000.service/init.scope".to_owned(),
            "/system.slice/batch.service/sshd.service".to_owned(),
            "/kubepods/pod/sshd.service".to_owned(),
        ] {
            assert_eq!(entry_of(&named(None, Some(&cgroup))), None, "{cgroup}");
        }
    }

    #[test]
    fn leader_of_a_login_is_protected_and_a_terminal_is_not_enough() {
        let mut shell = Process::example(7, "bash");
        (shell.session, shell.has_terminal) = (7, true);
        assert_eq!(entry_of(&shell), None);
        shell.details.leads_login = Some(true);
        assert_eq!(entry_of(&shell), Some("login-session"));
    }
}
