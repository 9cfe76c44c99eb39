//! Memory that is reclaimed from a cgroup and from a single process, checked by the memory in use.

use super::*;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub const HOLDS_BYTES: u64 = 96 << 20;
const VARIABLE: &str = "EVENKEEL_TEST_HOLDER";

/// This test binary, started again in its own scope, with idle memory that it has written.
pub struct Holder {
    child: Child,
    pid: i32,
}

impl Holder {
    fn start(unit: &str) -> Self {
        Holder::start_in("system.slice", unit)
    }

    pub fn start_in(slice: &str, unit: &str) -> Self {
        let own = std::env::current_exe().expect("the test binary has a path");
        let mut child = Command::new("systemd-run")
            .args([
                "--scope",
                "--quiet",
                &format!("--slice={slice}"),
                &format!("--unit={unit}"),
            ])
            .arg(own)
            .args(["--exact", "memory::holder_holds_what_it_wrote", "--nocapture"])
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("systemd-run");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let pid = lines
            .find_map(|line| line.ok()?.strip_prefix("holder ")?.parse().ok())
            .expect("the holder says its pid");
        Holder { child, pid }
    }

    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|text| text.trim().strip_suffix(" kB")).expect("a size");
        kib.parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn holder_holds_what_it_wrote() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    let mut memory = vec![0_u8; HOLDS_BYTES as usize];
    memory
        .iter_mut()
        .step_by(512)
        .enumerate()
        .for_each(|(index, byte)| *byte = index as u8);
    println!("\nholder {}", std::process::id());
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    assert!(memory.len() as u64 == HOLDS_BYTES);
}

#[test]
fn cgroup_releases_the_requested_memory() {
    let holder = Holder::start("holder-cgroup");
    let home = home("{unit: 'holder-cgroup\\.scope'}", "[{reclaim: 40MiB}]");
    let cgroup = "/system.slice/holder-cgroup.scope";
    let used = || read(cgroup, "memory.current").parse::<u64>().expect("a number");
    let evenkeel = enforce(&home);
    let before = used();
    assert!(before > HOLDS_BYTES);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    let after = used();
    // As far as the time limit allows, which is not far in an emulated machine.
    assert!(before - after > 4 << 20, "{before} before, {after} after");
    assert!(holder.resident_bytes() < HOLDS_BYTES);
}

#[test]
fn process_is_paged_out_and_without_swap_reports_nothing() {
    let holder = Holder::start("holder-process");
    let home = home(&format!("{{pid: '{}'}}", holder.pid), "[{reclaim: 40MiB}]");
    let evenkeel = enforce(&home);
    let before = holder.resident_bytes();
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    let after = holder.resident_bytes();
    assert!(
        (4 << 20..64 << 20).contains(&(before - after)),
        "{before} before, {after} after"
    );
    drop(evenkeel);

    // Only anonymous memory, and no swap for it.
    sh("swapoff -a");
    sh("echo 3 >/proc/sys/vm/drop_caches");
    let anonymous = Holder::start("holder-no-swap");
    let home = super::home(
        &format!("{{pid: '{}'}}", anonymous.pid),
        "[{reclaim: 1GiB}, {wait: 2s}, {reclaim: 1GiB}]",
    );
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    eventually("nothing to have moved", TIMEOUT, || {
        let idle = evenkeel.metric("evenkeel_actions_total", &[("outcome", "no_effect")]);
        (idle >= 1.0).then_some(())
    });
    assert!(anonymous.resident_bytes() > HOLDS_BYTES - (1 << 20));
    sh("swapon /dev/vda");
}

#[test]
fn limit_that_would_make_the_kernel_kill_is_refused() {
    let holder = Holder::start("holder-tight");
    let home = home("{unit: 'holder-tight\\.scope'}", "[{cgroup: {memory.max: 8MiB}}]");
    let evenkeel = enforce(&home);
    fire(&evenkeel);
    eventually("a refusal", TIMEOUT, || {
        let refused = evenkeel.metric("evenkeel_decisions_total", &[("decision", "protected")]);
        (refused == 1.0).then_some(())
    });
    assert_eq!(read("/system.slice/holder-tight.scope", "memory.max"), "max");
    assert!(holder.resident_bytes() > 0, "it lives");
}
