//! A driver whose file never answers: every enabled collector has its success all the same, and can be asked for.

use std::time::Duration;

use nix::sys::stat::Mode;

use crate::support::daemon::Home;
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn collectors_behind_a_hanging_one_are_shown_as_failed() {
    let home = Home::new("rules: []\n");
    let sys = home.path().join("sys");
    let chip = sys.join("class/hwmon/hwmon0");
    std::fs::create_dir_all(&chip).expect("a writable folder");
    // A read waits for a writer, as one of a driver that waits for its device.
    nix::unistd::mkfifo(&chip.join("temp1_input"), Mode::S_IRWXU).expect("a pipe");
    let evenkeel = home.start(&[&format!("--path.sysfs={}", sys.display())]);
    let get = |path: &str| http::request(evenkeel.metrics, "GET", path, &[("Accept", "text/plain")], b"");
    let answer = eventually("a scrape", TIMEOUT, || get("/metrics").ok());
    for (collector, success) in [("loadavg", 1), ("hwmon", 0), ("filesystem", 0)] {
        let line = format!("node_scrape_collector_success{{collector=\"{collector}\"}} {success}");
        assert!(answer.body.lines().any(|found| found == line), "no {line}");
    }
    let answer = get("/metrics?collect[]=filesystem").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = get("/metrics?collect[]=zoneinfo").expect("an answer");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, "disabled collector: zoneinfo\n")
    );
}
