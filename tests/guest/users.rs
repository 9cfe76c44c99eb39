//! Users of the host who want the protection or the favour of others: cgroups that a user arranges, below a
//! `user@UID.service`, and an OOM score that descendants would keep.

use super::*;

/// Of `tenant` in the guest's passwd.
const USER: u32 = 4242;

/// A unit that stands for the manager of a user: systemd gives its cgroup to the user, who runs a script in it.
struct Manager;

impl Manager {
    /// Starts `program` in the cgroup `below` of the unit.
    fn start(below: &str, program: &str) -> Manager {
        let script = format!(
            "cgroup=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/{below}; mkdir -p $cgroup; \
             echo $$ >$cgroup/cgroup.procs; exec {program}"
        );
        let service = format!(
            "[Service]\nUser={USER}\nSlice=user-{USER}.slice\nDelegate=yes\nExecStart=/bin/sh -ec '{}'\n",
            script.replace('$', "$$")
        );
        std::fs::write(Manager::file(), service).expect("units are written by root");
        sh(&format!("systemctl daemon-reload; systemctl start {}", Manager::unit()));
        Manager
    }

    fn unit() -> String {
        format!("user@{USER}.service")
    }

    fn file() -> String {
        format!("/run/systemd/system/{}", Manager::unit())
    }

    fn cgroup() -> String {
        format!("/user.slice/user-{USER}.slice/{}", Manager::unit())
    }

    /// The first process in a cgroup below, once it has moved there.
    fn pid_in(below: &str) -> i32 {
        eventually("the process to move", TIMEOUT, || {
            let path = format!("/sys/fs/cgroup{}/{below}/cgroup.procs", Manager::cgroup());
            std::fs::read_to_string(path).ok()?.lines().next()?.parse().ok()
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::process::Command::new("systemctl")
            .args(["stop", &Manager::unit()])
            .status();
        let _ = std::fs::remove_file(Manager::file());
    }
}

fn nice(pid: i32) -> i32 {
    sh(&format!("ps -o ni= -p {pid}")).trim().parse().expect("a nice value")
}

#[test]
fn unit_name_below_the_manager_of_a_user_protects_nothing() {
    let _manager = Manager::start("app.slice/sshd.service", "sleep 7777");
    let pid = Manager::pid_in("app.slice/sshd.service");
    let home = home("{cmdline: 'sleep 7777'}", "[{nice: 5}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    assert_eq!(nice(pid), 5);
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(nice(pid), 0);
}

#[test]
fn protected_program_of_a_user_does_not_shield_a_cgroup_of_the_user() {
    let program = "/usr/local/bin/prometheus";
    sh(&format!("mkdir -p /usr/local/bin; cp /usr/bin/sleep {program}"));
    let manager = Manager::start("app.slice/hog.scope", &format!("{program} 6666"));
    let pid = Manager::pid_in("app.slice/hog.scope");
    let home = home(r"{cgroup: '/user\.slice/.*/hog\.scope'}", "[{kill: true}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    eventually("the end of the process", TIMEOUT, || {
        (!std::fs::exists(format!("/proc/{pid}")).expect("a procfs")).then_some(())
    });
    drop(manager);
    sh(&format!("rm {program}"));
}

fn oom_score_adj(pid: i32) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
    text.trim().parse().expect("a number")
}

#[test]
fn favour_is_taken_from_descendants_whose_parents_are_gone() {
    // The shell forks twice once it has the favour, in its session and in another one.
    let script = "until [ $(cat /proc/$$/oom_score_adj) = -500 ]; do sleep 0.3; done\n\
                  (sleep 8888 &)\n(setsid sh -c '(sleep 8888 &)')\nsleep 9999\n";
    // Every user can read files here.
    let file = std::path::Path::new("/run/evenkeel-favoured.sh");
    std::fs::write(file, script).expect("a writable directory");
    let _manager = Manager::start("app.slice/favoured.scope", &format!("bash {}", file.display()));
    Manager::pid_in("app.slice/favoured.scope");
    let home = home(
        r"{cmdline: 'bash .*/evenkeel-favoured\.sh', user: tenant}",
        "[{oom_score_adj: -500}]",
    );
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    let descendants = eventually("two descendants", TIMEOUT, || {
        std::thread::sleep(PAUSE);
        let pids = sh("pgrep -f '^sleep 8888$' || true");
        let pids: Vec<i32> = pids.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 2).then_some(pids)
    });
    assert!(descendants.iter().all(|pid| oom_score_adj(*pid) == -500));
    resolve(&evenkeel);
    outcomes(&evenkeel, "restored", 1.0);
    let scores: Vec<i32> = descendants.into_iter().map(oom_score_adj).collect();
    assert_eq!(scores, [0, 0]);
}
