//! A thread for slow collectors. A driver that is slow, or never answers, delays only the collectors on the same
//! thread.

use super::collector::Collector;
use super::roots::Roots;
use super::snapshot::CollectorReading;
use super::ticker::Ticker;
use crate::host::self_priority;
use arc_swap::ArcSwap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The newest readings of the collectors on one thread.
pub type SlowReadings = Arc<ArcSwap<Vec<Arc<CollectorReading>>>>;

/// Starts a thread. It is never joined, because a driver may block it for ever and it holds nothing that needs a clean
/// end. It ends when the readings have no other owner.
pub fn start(
    name: &str,
    mut collectors: Vec<Collector>,
    roots: Roots,
    interval: Duration,
) -> io::Result<(SlowReadings, Receiver<()>)> {
    let readings = SlowReadings::default();
    let shared = Arc::downgrade(&readings);
    let (done, slow_done) = channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        self_priority::reset_priority();
        let mut ticker = Ticker::new(interval, Instant::now());
        let mut current: Vec<Arc<CollectorReading>> = Vec::new();
        loop {
            for (index, collector) in collectors.iter_mut().enumerate() {
                let reading = collector.read(&roots);
                if index < current.len() {
                    current[index] = reading;
                } else {
                    current.push(reading);
                }
                // Readings are stored one by one, so that a slow collector does not delay those before it.
                let Some(shared) = shared.upgrade() else { return };
                shared.store(Arc::new(current.clone()));
            }
            let _ = done.send(());
            thread::sleep(ticker.next(Instant::now()));
        }
    })?;
    Ok((readings, slow_done))
}
