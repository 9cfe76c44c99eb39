//! The built-in protections: a closed list of programs that evenkeel never touches unless a rule names the override.
//! They are recognised by executable or systemd unit, because any program can use the name of another.

use super::table::{Process, ProcessFields};

/// One entry of the built-in protection.
#[derive(Debug, PartialEq, Eq)]
pub struct Protection {
    /// The name in `override_protection`.
    pub name: &'static str,
    /// File names of executables in a system directory (`/usr/bin`, `/usr/sbin`, `/usr/lib`, `/usr/libexec`, `/opt` …).
    pub exes: &'static [&'static str],
    /// systemd units, as the last parts of a cgroup path.
    pub units: &'static [&'static str],
}

/// The list, by name.
pub const BUILT_IN: &[Protection] = &[
    Protection {
        name: "sshd",
        exes: &["sshd", "sshd-session", "sshd-auth"],
        units: &["ssh.service", "sshd.service"],
    },
    Protection {
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
        units: &["init.scope"],
    },
    Protection {
        name: "dbus",
        exes: &["dbus-daemon", "dbus-broker", "dbus-broker-launch"],
        units: &["dbus.service", "dbus-broker.service"],
    },
    Protection {
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
    Protection {
        name: "kubelet",
        exes: &["kubelet", "k3s", "rke2"],
        units: &["kubelet.service", "k3s.service"],
    },
    Protection {
        name: "prometheus",
        exes: &["prometheus"],
        units: &["prometheus.service"],
    },
    Protection {
        name: "alertmanager",
        exes: &["alertmanager", "prometheus-alertmanager"],
        units: &["alertmanager.service", "prometheus-alertmanager.service"],
    },
    Protection {
        name: "grafana",
        exes: &["grafana", "grafana-server"],
        units: &["grafana.service", "grafana-server.service"],
    },
    Protection {
        name: "node-exporter",
        exes: &["node_exporter", "prometheus-node-exporter"],
        units: &["node_exporter.service", "prometheus-node-exporter.service"],
    },
    // Recognised as the leader of a session with a controlling terminal or a login scope, without an executable.
    Protection {
        name: "login-session",
        exes: &[],
        units: &[],
    },
];

/// The fields that [`recognise`] needs.
pub const NEEDS: ProcessFields = ProcessFields::EXE.union(ProcessFields::CGROUP);

/// Directories that only an administrator can write. An executable elsewhere is not protected by its name.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/", "/bin/", "/sbin/", "/lib/", "/opt/", "/snap/", "/nix/"];

/// The built-in protection of a process, if any.
pub fn recognise(process: &Process) -> Option<&'static Protection> {
    BUILT_IN.iter().find(|protection| is_recognised(protection, process))
}

fn is_recognised(protection: &Protection, process: &Process) -> bool {
    if protection.name == "login-session" {
        return is_login_leader(process);
    }
    let by_exe = process.details.exe.as_deref().is_some_and(|exe| {
        let file = exe.rsplit('/').next().unwrap_or(exe);
        SYSTEM_DIRECTORIES.iter().any(|directory| exe.starts_with(directory)) && protection.exes.contains(&file)
    });
    let by_unit = process
        .details
        .cgroup
        .as_deref()
        .is_some_and(|cgroup| cgroup.split('/').any(|part| protection.units.contains(&part)));
    by_exe || by_unit
}

/// The leader of a session that has a controlling terminal, or of a `session-N.scope` of logind. Its exit ends
/// the session of a user.
fn is_login_leader(process: &Process) -> bool {
    let leads = process.session == process.identity.pid;
    let in_login_scope = process.details.cgroup.as_deref().is_some_and(|cgroup| {
        cgroup
            .rsplit('/')
            .next()
            .is_some_and(|scope| scope.starts_with("session-") && scope.ends_with(".scope"))
    });
    leads && (process.has_terminal || in_login_scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exe: Option<&str>, cgroup: Option<&str>, expected: Option<&str>) {
        let mut process = Process::example(7, "sshd");
        process.details.exe = exe.map(str::to_owned);
        process.details.cgroup = cgroup.map(str::to_owned);
        assert_eq!(
            recognise(&process).map(|protection| protection.name),
            expected,
            "{exe:?} {cgroup:?}"
        );
    }

    #[test]
    fn executables_and_units_are_protected_not_borrowed_names() {
        check(Some("/usr/sbin/sshd"), None, Some("sshd"));
        check(Some("/home/mallory/sshd"), None, None);
        check(None, Some("/system.slice/ssh.service"), Some("sshd"));
        check(None, Some("/system.slice/k3s.service/x"), Some("kubelet"));
        check(Some("/usr/bin/sleep"), Some("/user.slice"), None);
        check(None, None, None);
    }

    #[test]
    fn leader_of_a_terminal_session_is_protected() {
        let mut shell = Process::example(7, "bash");
        shell.session = 7;
        shell.has_terminal = true;
        assert_eq!(
            recognise(&shell).map(|protection| protection.name),
            Some("login-session")
        );
        shell.session = 6;
        assert_eq!(recognise(&shell), None);
    }
}
