//! A file system that does not respond: a real FUSE mount whose server ignores `statfs`, under a hostile name, in its
//! own mount namespace.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::daemon::Home;
use crate::support::fuse::Swallower;
use crate::support::metrics::Scrape;
use crate::support::tools::{python, succeed};
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);
const SCRAPES: usize = 100;
/// Pause between scrapes after which each reads again.
const APART: Duration = Duration::from_millis(110);
/// Half of the time of a scrape that waits for the mount.
const LATE: Duration = Duration::from_secs(4);

/// A name with newline, quote, backslash, and invalid UTF-8.
const NAME: &[u8] = b"swal\"low\\ed\n\xff";
const NAME_SHOWN: &str = "swal\\\"low\\\\ed\\n\u{fffd}";

/// Mounts the open `/dev/fuse` ($1) on a folder ($2) and a tmpfs on another ($3), then executes the command after them.
/// It is the first process of its namespace, whose mounts evenkeel reads.
const MOUNT_AND_RUN: &str = "
mount -i -t fuse -o fd=$1,rootmode=40000,user_id=0,group_id=0 swallower \"$2\" &&
mount -t tmpfs neighbour \"$3\" || exit 1
eval \"exec $1<&-\" &&
shift 3 &&
exec \"$@\"
";

fn threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("evenkeel runs");
    tasks.count()
}

/// The only child of a process.
fn child(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
    children
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("one child, not {children:?}"))
}

#[test]
fn hanging_mount_costs_its_own_line_and_no_scrape() {
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 1s, slow_interval: 1s}\nrule_files: [rules/*.yml]\n",
    );
    let [hung, neighbour] = [NAME, b"neighbour"].map(|name| home.path().join(OsStr::from_bytes(name)));
    for folder in [&hung, &neighbour] {
        std::fs::create_dir(folder).expect("a writable folder");
    }
    let mount = Swallower::open();
    let mut within = Command::new("unshare");
    within
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
            "bash",
            "-c",
            MOUNT_AND_RUN,
            "bash",
        ])
        .arg(mount.descriptor().to_string())
        .args([&hung, &neighbour]);
    mount.pass_to(&mut within);
    let flags = [
        "--collector.filesystem.mount-timeout=8s",
        "--collector.filesystem.mount-points-exclude=^/(proc|sys)($|/)",
    ];
    let evenkeel = home.start_by(within, &flags);
    let swallower = mount.serve();

    // The hanging mount has only its error series, and its neighbour has all series.
    let is_told = |text: &str| {
        let series = Scrape::parse(text).series();
        let of = |name: &str, mount: &str| {
            let found = series
                .iter()
                .find(|(key, _)| key.starts_with(name) && key.contains(mount));
            found.map(|(_, value)| *value)
        };
        of("node_filesystem_device_error{", "swal") == Some(1.0)
            && of("node_filesystem_size_bytes{", "swal").is_none()
            && of("node_filesystem_device_error{", "neighbour") == Some(0.0)
            && of("node_filesystem_size_bytes{", "neighbour").is_some_and(|size| size > 0.0)
    };
    eventually("the mount that hangs to be told", TIMEOUT, || {
        is_told(&evenkeel.scrape_text()).then_some(())
    });
    assert!(swallower.requests() > 0, "no request reached the mount");
    let pid = child(evenkeel.pid());
    let threads_before = threads(pid);
    for _ in 0..SCRAPES {
        let asked = Instant::now();
        let text = evenkeel.scrape_text();
        let took = asked.elapsed();
        assert!(took < LATE, "a scrape took {took:?}");
        assert!(is_told(&text), "{text}");
        std::thread::sleep(APART.saturating_sub(took));
    }
    let threads_after = threads(pid);
    assert!(
        threads_after <= threads_before,
        "{threads_before} threads became {threads_after}"
    );

    let accept = [("Accept", "application/openmetrics-text; version=1.0.0")];
    let answer = http::exchange(evenkeel.metrics, "/metrics", &accept).expect("an answer");
    let answer = String::from_utf8(answer).expect("UTF-8, whatever names there are");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(body.contains(NAME_SHOWN), "{body}");
    home.write("metrics.txt", body);
    let parse = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse; \
                 print([s.labels['mountpoint'] for f in parse(open(sys.argv[1]).read()) for s in f.samples \
                 if s.name == 'node_filesystem_device_error' and s.value == 1])";
    let shown = succeed(python().args(["-c", parse]).arg(home.path().join("metrics.txt")));
    assert!(shown.contains(r#"swal"low\\ed\n"#), "{shown}");
}
