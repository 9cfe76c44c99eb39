//! A host without a boot id: metrics are served, and the actuator is off and says so.

use std::process::Command;
use std::time::Duration;

use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::{eventually, http};

/// Hides the boot id in a mount namespace of its own, then executes the command behind it.
const HIDE_AND_RUN: &str = "mount -t tmpfs none /proc/sys/kernel/random && exec \"$@\"";

#[test]
fn host_without_boot_id_is_served_with_the_actuator_off() {
    let home = Home::new("rules: []\n");
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "--", "bash", "-c", HIDE_AND_RUN, "bash"]);
    let mut evenkeel = home.start_by(hidden, &["--enforce"]);

    assert_eq!(evenkeel.metric("evenkeel_actuator_on", &[]), 0.0);
    assert!(evenkeel.metric("node_memory_MemTotal_bytes", &[]) > 0.0);
    eventually("its own process to be measured", Duration::from_secs(30), || {
        (evenkeel.metric("process_resident_memory_bytes", &[]) > 0.0).then_some(())
    });
    let log = evenkeel.log_of_start().join("\n");
    assert!(log.contains("actuator off") && log.contains("boot_id"), "{log}");

    let refused = evenkeel.post(about("Any", "any").as_bytes());
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("actuator is off"), "{refused:?}");
    let page = http::get(evenkeel.metrics, "/").expect("a page").body;
    assert!(page.contains("The actuator is off"), "{page}");

    evenkeel.reload();
    evenkeel.log_with("config reloaded");
    assert!(evenkeel.terminate().success());
}
