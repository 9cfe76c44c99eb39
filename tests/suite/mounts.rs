//! A file system that does not respond: a real FUSE mount whose server ignores `statfs`, under a hostile name, in its
//! own mount namespace.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};

use crate::support::daemon::Home;
use crate::support::metrics::Scrape;
use crate::support::tools::{python, succeed};
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);
const SCRAPES: usize = 100;
/// Pause between scrapes after which each reads again.
const APART: Duration = Duration::from_millis(110);
const POLL_TIMEOUT_MS: u16 = 50;
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

/// include/uapi/linux/fuse.h
mod fuse {
    pub const INIT: u32 = 26;
    pub const STATFS: u32 = 17;
    /// `fuse_in_header`: length, opcode, unique number of the request, and more.
    pub const HEAD_BYTES: usize = 40;
    pub const MAX_REQUEST_BYTES: usize = 128 << 10;

    /// `fuse_out_header` and `fuse_init_out` of version 7.31, without any of the optional features.
    pub fn answer_to_init(unique: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [7_u32, 31, 4096, 0] {
            body.extend(number.to_ne_bytes());
        }
        // Limit and congestion threshold of background requests.
        body.extend(12_u16.to_ne_bytes());
        body.extend(9_u16.to_ne_bytes());
        // Largest write, granularity of times.
        body.extend(4096_u32.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        body.resize(64, 0);
        let mut answer = Vec::new();
        answer.extend((16 + body.len() as u32).to_ne_bytes());
        answer.extend(0_i32.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(body);
        answer
    }
}

/// The server of the mount, which only responds to the initial request. The kernel aborts the mount when no process has
/// its device open, neither this one nor `unshare`. Until then not even SIGKILL ends a process that waits for it.
struct Swallower {
    swallowed: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swallower {
    /// The file is the open `/dev/fuse` of a mount.
    fn start(mut device: File) -> Self {
        let (swallowed, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (Arc::clone(&swallowed), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut request = vec![0; fuse::MAX_REQUEST_BYTES];
            while !told.load(Ordering::Relaxed) {
                let mut asked = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
                if poll(&mut asked, POLL_TIMEOUT_MS).expect("an open device") == 0 {
                    continue;
                }
                let length = match device.read(&mut request) {
                    Ok(length) => length,
                    // The caller has disconnected.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("the mount cannot be served: {error}"),
                };
                assert!(length >= fuse::HEAD_BYTES, "{length} bytes are no request");
                let opcode = u32::from_ne_bytes(request[4..8].try_into().expect("four bytes"));
                let unique = u64::from_ne_bytes(request[8..16].try_into().expect("eight bytes"));
                match opcode {
                    fuse::INIT => device
                        .write_all(&fuse::answer_to_init(unique))
                        .expect("a kernel that listens"),
                    fuse::STATFS => drop(counted.fetch_add(1, Ordering::Relaxed)),
                    _ => {}
                }
            }
        });
        Swallower {
            swallowed,
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Swallower {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            std::thread::panicking() || matches!(ended, Some(Ok(()))),
            "the mount's server failed"
        );
    }
}

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
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open("/dev/fuse")
        .expect("run the tests as root, on a kernel with FUSE");
    let descriptor = device.as_raw_fd();

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
        .arg(descriptor.to_string())
        .args([&hung, &neighbour]);
    // Only this command inherits the descriptor, because other tests start programs concurrently.
    // SAFETY: between fork and exec only the flags of an open descriptor are set.
    unsafe {
        within.pre_exec(move || {
            let descriptor = BorrowedFd::borrow_raw(descriptor);
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    let flags = [
        "--collector.filesystem.mount-timeout=8s",
        "--collector.filesystem.mount-points-exclude=^/(proc|sys)($|/)",
    ];
    let evenkeel = home.start_by(within, &flags);
    let swallower = Swallower::start(device);

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
    assert!(
        swallower.swallowed.load(Ordering::Relaxed) > 0,
        "no request reached the mount"
    );
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
