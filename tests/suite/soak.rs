//! Many concurrent scrapers, some of which disconnect midway or read slowly. evenkeel's memory, descriptors and threads
//! must not grow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::daemon::Home;
use crate::support::{eventually, http};

const SCRAPERS: usize = 50;
/// The first part determines the memory of this load; the rest must not exceed it.
const WARM_UP: Duration = Duration::from_secs(5);
const SOAK: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Permitted growth, for free pages that the allocator may keep.
const MAX_GROWTH_BYTES: u64 = 8 << 20;
/// Permitted change of the number of descriptors without load.
const SPARE_DESCRIPTORS: usize = 8;
const SPARE_THREADS: usize = 4;

const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Disconnects in the middle of a response.
fn cut(at: SocketAddr) -> std::io::Result<u16> {
    let mut stream = connect(at)?;
    stream.write_all(REQUEST)?;
    stream.read_exact(&mut [0; 100])?;
    Ok(200)
}

/// Reads its response slowly.
fn slowly(at: SocketAddr) -> std::io::Result<u16> {
    let mut stream = connect(at)?;
    stream.write_all(REQUEST)?;
    for _ in 0..20 {
        if stream.read(&mut [0; 512])? == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(200)
}

fn whole(at: SocketAddr) -> std::io::Result<u16> {
    let answer = http::get(at, "/metrics")?;
    assert!(answer.status != 200 || answer.body.ends_with("# EOF\n"), "{answer:?}");
    Ok(answer.status)
}

fn soak(flags: &[&str], is_refused: bool) {
    let evenkeel = Home::new("rules: []\n");
    let evenkeel = evenkeel.start(flags);
    evenkeel.scrape_text();
    let (quiet_descriptors, quiet_threads) = (evenkeel.open_descriptors(), evenkeel.threads());
    let (started, end) = (Instant::now(), Instant::now() + WARM_UP + SOAK);
    let [served, refused] = [0, 1].map(|_| AtomicU64::new(0));
    let mut warm_bytes = 0;
    std::thread::scope(|threads| {
        for index in 0..SCRAPERS {
            let (served, refused, at) = (&served, &refused, evenkeel.metrics);
            let scrape = [whole, whole, whole, cut, slowly][index % 5];
            threads.spawn(move || {
                while Instant::now() < end {
                    match scrape(at).expect("no client is cut off") {
                        503 => refused.fetch_add(1, Ordering::Relaxed),
                        _ => served.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        std::thread::sleep(WARM_UP.saturating_sub(started.elapsed()));
        warm_bytes = evenkeel.resident_bytes();
    });
    let [served, refused] = [served, refused].map(AtomicU64::into_inner);
    let after_bytes = evenkeel.resident_bytes();
    eprintln!("soak: {served} served, {refused} refused, {warm_bytes} bytes warm, {after_bytes} after");
    assert!(served > SCRAPERS as u64);
    assert!(is_refused || refused == 0, "{refused} were refused");
    assert!(
        after_bytes < warm_bytes + MAX_GROWTH_BYTES,
        "{warm_bytes} bytes grew to {after_bytes}"
    );
    eventually("all connections to be closed, and idle threads to end", TIMEOUT, || {
        let are_closed = evenkeel.open_descriptors() <= quiet_descriptors + SPARE_DESCRIPTORS;
        (are_closed && evenkeel.threads() <= quiet_threads + SPARE_THREADS).then_some(())
    });
}

#[test]
fn fifty_scrapers_leave_nothing_behind() {
    soak(&["--web.max-requests=0"], false);
}

/// The response beyond forty parallel scrapes.
#[test]
fn fifty_scrapers_leave_nothing_behind_where_forty_are_allowed() {
    soak(&[], true);
}
