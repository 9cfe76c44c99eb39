//! A thread that reads a few collectors on request. A collector whose read hangs keeps its thread, and another thread
//! goes on with the other collectors.

use super::collector::Collector;
use super::roots::Roots;
use super::snapshot::{CollectorReading, MaxAge, SampleTime};
use crate::host::self_priority;
use arc_swap::ArcSwapOption;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A request to read collectors.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest {
    pub at: Instant,
    pub wanted: Wanted,
}

/// The collectors that a request is for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// All of them.
    All,
    /// Those that are stale for a scrape.
    Stale(MaxAge),
}

impl ReadRequest {
    fn wants(&self, newest: Option<&CollectorReading>) -> bool {
        newest.is_none_or(|reading| match self.wanted {
            Wanted::All => reading.read.instant < self.at,
            Wanted::Stale(max_age) => !reading.is_fresh(self.at, max_age),
        })
    }
}

/// Called when a request is done.
pub type Done = Box<dyn FnOnce() + Send>;

/// A collector with its newest reading.
struct Slot {
    name: &'static str,
    /// Locked during a read.
    collector: Mutex<Collector>,
    newest: ArcSwapOption<CollectorReading>,
    /// Whether a read has taken longer than permitted and has not returned.
    hangs: AtomicBool,
}

impl Slot {
    fn new(collector: Collector) -> Slot {
        Slot {
            name: collector.name,
            collector: Mutex::new(collector),
            newest: ArcSwapOption::empty(),
            hangs: AtomicBool::new(false),
        }
    }

    fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Acquire)
    }

    /// Whether a request makes a thread read it. A read that hangs is not waited for.
    fn is_due(&self, request: &ReadRequest) -> bool {
        !self.hangs() && request.wants(self.newest.load().as_deref())
    }
}

/// What the thread does now.
#[derive(Default)]
struct Progress {
    /// The number of the thread that serves requests. Threads before it each have a read that hangs.
    thread: u32,
    /// The index of the collector that this thread reads, and since when.
    reading: Option<(usize, Instant)>,
}

/// The state that a thread, those that replaced it and their owner share.
struct Shared {
    slots: Box<[Slot]>,
    progress: Mutex<Progress>,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics with the lock held.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a collector. Returns whether the thread of this number still serves requests.
    fn read(&self, thread: u32, index: usize, roots: &Roots) -> bool {
        let slot = &self.slots[index];
        let since = Instant::now();
        self.progress().reading = Some((index, since));
        let mut collector = slot.collector.lock().unwrap_or_else(PoisonError::into_inner);
        // Stored one by one, so that a slow collector does not delay those before it.
        slot.newest.store(Some(collector.read(roots)));
        drop(collector);
        let mut progress = self.progress();
        // Under the lock, so that the owner sees a read either as going on or as over.
        let has_hung = slot.hangs.swap(false, Ordering::AcqRel);
        let is_serving = progress.thread == thread;
        if is_serving {
            progress.reading = None;
        }
        drop(progress);
        if has_hung {
            let seconds = since.elapsed().as_secs();
            tracing::info!(collector = slot.name, seconds, "collector no longer hangs");
        }
        is_serving
    }

    fn serve(&self, thread: u32, roots: &Roots, requests: &Receiver<(ReadRequest, Done)>) {
        for (request, done) in requests {
            for (index, slot) in self.slots.iter().enumerate() {
                // The thread that replaced this one goes on with the request.
                if slot.is_due(&request) && !self.read(thread, index, roots) {
                    return;
                }
            }
            done();
        }
    }
}

/// A read that hangs.
struct Hang {
    index: usize,
    since: SampleTime,
}

/// The thread, as its owner sees it.
pub struct ReaderThread {
    name: &'static str,
    shared: Arc<Shared>,
    requests: Sender<(ReadRequest, Done)>,
    hangs: Vec<Hang>,
}

impl ReaderThread {
    pub fn start(name: &'static str, collectors: Vec<Collector>, roots: &Roots) -> io::Result<ReaderThread> {
        let shared = Arc::new(Shared {
            slots: collectors.into_iter().map(Slot::new).collect(),
            progress: Mutex::default(),
        });
        Ok(ReaderThread {
            name,
            requests: spawn(name, Arc::clone(&shared), 0, roots)?,
            shared,
            hangs: Vec::new(),
        })
    }

    /// Whether the thread is alive to receive the request. It serves one after the other.
    pub fn send(&self, request: ReadRequest, done: Done) -> bool {
        self.requests.send((request, done)).is_ok()
    }

    /// Whether a request makes the thread read a collector.
    pub fn is_due(&self, request: &ReadRequest) -> bool {
        self.shared.slots.iter().any(|slot| slot.is_due(request))
    }

    /// Whether the read of a collector has taken longer than `patience` and another thread serves requests instead.
    /// That thread waits for its first request. A thread with one collector is not replaced, because nothing waits for
    /// it. So there is at most one thread more than collectors.
    pub fn replace_if_it_hangs(&mut self, patience: Duration, roots: &Roots) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut progress = shared.progress();
        let Some((index, since)) = progress.reading.filter(|(_, since)| since.elapsed() > patience) else {
            return false;
        };
        let slot = &shared.slots[index];
        let is_news = !slot.hangs.swap(true, Ordering::AcqRel);
        if is_news {
            self.report(index, since);
        }
        if shared.slots.len() == 1 {
            return false;
        }
        match spawn(self.name, Arc::clone(&shared), progress.thread + 1, roots) {
            Ok(requests) => {
                // The former thread ends when its read returns.
                self.requests = requests;
                *progress = Progress {
                    thread: progress.thread + 1,
                    reading: None,
                };
                true
            }
            Err(error) => {
                // The next tick tries again.
                if is_news {
                    tracing::warn!(%error, "could not start a thread for the collectors behind it");
                }
                false
            }
        }
    }

    fn report(&mut self, index: usize, since: Instant) {
        let slot = &self.shared.slots[index];
        let since = SampleTime::before_now(since.elapsed());
        tracing::warn!(collector = slot.name, since = %format_args!("{:.3}", since.wall), "collector hangs");
        self.hangs.retain(|hang| hang.index != index);
        self.hangs.push(Hang { index, since });
        // A collector that has never returned has failed. A reading that comes at this moment is kept.
        let failed = CollectorReading::failed(slot.name, since, hangs_since(since));
        slot.newest
            .compare_and_swap(&None::<Arc<CollectorReading>>, Some(Arc::new(failed)));
    }

    /// The newest reading of each collector. It counts as failed once a newer one was due for `max_age`: since its read
    /// hangs, or since `asked`, when the thread got the request that it serves. Age alone does not count, because nothing
    /// may have asked for a reading, or evenkeel as a whole may have been frozen.
    pub fn readings(
        &self,
        now: Instant,
        max_age: Duration,
        asked: Option<Instant>,
    ) -> impl Iterator<Item = Arc<CollectorReading>> {
        let slots = self.shared.slots.iter().enumerate();
        slots.filter_map(move |(index, slot)| {
            let newest = slot.newest.load_full()?;
            let hang = self.hangs.iter().find(|hang| hang.index == index && slot.hangs());
            let due_since = match hang {
                Some(hang) => Some(hang.since.instant),
                None => asked.filter(|asked| newest.read.instant < *asked),
            };
            if due_since.is_none_or(|since| now.saturating_duration_since(since) <= max_age) {
                return Some(newest);
            }
            let reason = hang.map(|hang| hangs_since(hang.since));
            Some(Arc::new(newest.outdated(max_age, reason)))
        })
    }
}

fn hangs_since(since: SampleTime) -> String {
    format!("its read has not returned since {:.3}", since.wall)
}

/// Starts a thread. It is never joined, because a source may block it for ever and it holds nothing that needs a clean
/// end. It ends when its owner drops the sender.
fn spawn(
    name: &'static str,
    shared: Arc<Shared>,
    thread: u32,
    roots: &Roots,
) -> io::Result<Sender<(ReadRequest, Done)>> {
    let (sender, requests) = channel();
    // Caches of open files belong to one thread.
    let roots = roots.clone();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        self_priority::reset_priority();
        shared.serve(thread, &roots, &requests);
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests;
