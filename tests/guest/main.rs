//! What only a real systemd and all of cgroup v2 can show. Runs as root in the guest that `tests/guest.sh` boots.

use std::process::Command;

/// What everything else here stands on; without it the other tests would show nothing.
#[test]
fn the_guest_has_controllers_systemd_swap_and_a_disk() {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").expect("cgroup v2");
    for controller in ["cpu", "io", "memory", "pids"] {
        assert!(
            controllers.split_whitespace().any(|has| has == controller),
            "{controllers}"
        );
    }
    let show = Command::new("systemctl").args(["show", "--property=Version"]).output();
    let show = show.expect("systemctl runs");
    assert!(show.status.success(), "{show:?}");
    let swaps = std::fs::read_to_string("/proc/swaps").expect("a kernel with swap");
    assert!(swaps.contains("/dev/vda"), "{swaps}");
}
