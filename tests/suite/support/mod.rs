//! Support for tests with real programs: tools, servers, the daemon, and target processes.

pub mod alertmanager;
pub mod broker;
pub mod browser;
pub mod burner;
pub mod daemon;
pub mod desk;
pub mod frontend;
pub mod fuse;
pub mod hog;
pub mod http;
pub mod inject;
pub mod metrics;
pub mod page;
pub mod payload;
pub mod process;
pub mod prometheus;
pub mod selectors;
pub mod shipped;
pub mod status_page;
pub mod tools;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Calls `probe` until it returns a value.
///
/// # Panics
///
/// After `timeout`; `what` completes "waited in vain for".
#[track_caller]
pub fn eventually<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(started.elapsed() < timeout, "waited in vain for {what} ({timeout:?})");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// A loopback address without a listener now. Another program may bind it before the caller, who then retries with
/// another address.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    listener.local_addr().expect("a bound listener has an address")
}

/// The node name of this machine (`uname -n`), which alerts about it have as `instance`.
pub fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_str()
        .expect("a node name is ASCII")
        .to_owned()
}
