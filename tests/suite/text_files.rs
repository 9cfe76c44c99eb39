//! Text files of the textfile collector, which other programs write: none of them breaks a scrape, nor replaces what
//! evenkeel reads.

use std::time::Duration;

use crate::support::daemon::Home;
use crate::support::prometheus::Prometheus;
use crate::support::{eventually, free_address, http};

const TIMEOUT: Duration = Duration::from_secs(60);
const TEXT: &str = "text/plain; version=0.0.4";

/// A home with text files in a directory, and the flag that names it.
fn home(files: &[(&str, &str)]) -> (Home, String) {
    let home = Home::new("rules: []\n");
    let directory = home.path().join("text");
    std::fs::create_dir(&directory).expect("a writable folder");
    for (name, text) in files {
        std::fs::write(directory.join(name), text).expect("a writable folder");
    }
    let flag = format!("--collector.textfile.directory={}", directory.display());
    (home, flag)
}

#[test]
fn no_text_file_takes_a_target_down() {
    let (home, flag) = home(&[
        ("name.prom", "name_l{__name__=\"zzz\"} 1\n"),
        (
            "fine.prom",
            "# TYPE fine summary\nfine{quantile=\"1\"} 3\nfine_sum 4\nfine_count 1\n",
        ),
        ("nul.prom", "nul{l=\"\u{0}\u{1}\u{7f}\"} 1\n# HELP nul \u{0}\n"),
        ("many.prom", &format!("many{{{}}} 1\n", "l=\"v\",".repeat(40_000))),
    ]);
    let evenkeel = home.start(&[&flag]);
    let prometheus = Prometheus::start(&[("evenkeel", evenkeel.metrics)], "groups: []\n", free_address());
    let value = |query: &str| {
        prometheus
            .query(query)
            .first()
            .map(|series| series["value"][1].to_string())
    };
    eventually("a scrape with text files", TIMEOUT, || {
        std::thread::sleep(Duration::from_millis(500));
        value("fine_sum")
    });
    assert_eq!(value("min_over_time(up[1m])").as_deref(), Some("\"1\""));
    assert_eq!(value("node_textfile_scrape_error").as_deref(), Some("\"1\""));
    assert_eq!(value("name_l or zzz"), None);
    assert_eq!(value("nul").as_deref(), Some("\"1\""));
    assert_eq!(value("fine{quantile=\"1.0\"}").as_deref(), Some("\"3\""));
}

#[test]
fn text_files_replace_nothing_that_evenkeel_reads() {
    let (home, flag) = home(&[(
        "forged.prom",
        "# TYPE node_filesystem_avail_bytes counter\nnode_filesystem_avail_bytes 1\n\
         # TYPE node_load1 gauge\nnode_load1 4711\n\
         node_scrape_collector_success{collector=\"loadavg\"} 7\n\
         # TYPE node_uname_info gauge\nnode_uname_info{release=\"further\"} 1\n\
         evenkeel_actuator_on 7\nnode_textfile_scrape_error 9\nown_metric 1\n",
    )]);
    let evenkeel = home.start(&[&flag]);
    let answer = eventually("the slow collectors", TIMEOUT, || {
        let answer = http::request(evenkeel.metrics, "GET", "/metrics", &[("Accept", TEXT)], b"").ok()?;
        let has_all = ["own_metric 1", "node_filesystem_avail_bytes{"].map(|part| answer.body.contains(part));
        (has_all == [true; 2]).then_some(answer.body)
    });
    for forged in [
        "node_filesystem_avail_bytes 1",
        "node_load1 4711",
        "node_scrape_collector_success{collector=\"loadavg\"} 7",
        "evenkeel_actuator_on 7",
        "node_textfile_scrape_error 9",
    ] {
        assert!(!answer.lines().any(|line| line == forged), "{forged}");
    }
    for expected in [
        "# TYPE node_filesystem_avail_bytes gauge",
        "node_scrape_collector_success{collector=\"loadavg\"} 1",
        "evenkeel_actuator_on 1",
        "node_textfile_scrape_error 1",
        "node_uname_info{release=\"further\"} 1",
        "own_metric 1",
    ] {
        assert!(answer.lines().any(|line| line == expected), "no {expected}");
    }
}
