//! The sampler's thread: regular and early samples, and samples for scrapes.

use super::collector_set::{CollectorSet, ScheduledCollector};
use super::core_stats::{CoreStats, CoreStatsReader};
use super::day_history::DayHistory;
use super::derived::{self, DerivedMetrics};
use super::headroom::Headroom;
use super::recent_history::RecentHistory;
use super::roots::{Roots, RoundPurpose};
use super::scrape_queue::{ScrapeQueue, WaitingScrape};
use super::snapshot::{CollectorReading, EarlyCause, SampleKind, SampleTime, Snapshot};
use super::subscriber::Subscriber;
use super::ticker::Ticker;
use crate::sense::collectors::meminfo;
use crate::sense::collectors::textfile::precedence::put_collectors_first;
use arc_swap::ArcSwap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long the start waits for the collectors on other threads, so that the first scrape has them.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// What the sampler's thread is asked to do.
pub enum Request {
    Fresh(WaitingScrape),
    /// The thread of this index has read what it was asked for.
    ReaderDone(usize),
    /// The kernel reports that tasks begin to stall.
    Early(EarlyCause),
    /// The thread drops the sender when it ends.
    Stop(Sender<()>),
}

/// A handle that sends requests. The thread parks between two ticks and does not wait in the channel, because that
/// costs it less.
#[derive(Clone)]
pub struct SamplerHandle {
    pub requests: Sender<Request>,
    pub thread: Thread,
}

impl SamplerHandle {
    /// Whether the thread is alive to receive it.
    pub fn send(&self, request: Request) -> bool {
        let is_there = self.requests.send(request).is_ok();
        self.thread.unpark();
        is_there
    }

    /// Tells the thread that another one is done.
    fn reader_done(&self) -> impl Fn(usize) + Clone + Send + 'static {
        let handle = self.clone();
        move |index| {
            // The thread may have ended.
            let _ = handle.send(Request::ReaderDone(index));
        }
    }
}

/// The results that the thread shares with scrapes and the status page.
#[derive(Clone)]
pub struct SharedResults {
    pub latest: Arc<ArcSwap<Snapshot>>,
    pub drawn: Arc<Mutex<DrawnHistory>>,
}

/// What the status page draws.
#[derive(Default)]
pub struct DrawnHistory {
    pub recent: RecentHistory,
    pub day: DayHistory,
}

impl SharedResults {
    pub fn drawn(&self) -> MutexGuard<'_, DrawnHistory> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The polls of free memory between two ticks.
#[derive(Default)]
pub struct MemoryPoll {
    headroom: Headroom,
    /// When to poll next; `None` where the kernel does not report free memory or no rule needs samples.
    due: Option<Instant>,
}

/// The state of the sampler's thread.
pub struct SamplerThread {
    pub reader: CoreStatsReader,
    pub collector_set: CollectorSet,
    pub roots: Roots,
    pub scrapes: ScrapeQueue,
    pub derived: DerivedMetrics,
    pub memory_poll: MemoryPoll,
    pub shared: SharedResults,
    pub subscriber: Box<dyn Subscriber>,
}

impl SamplerThread {
    /// Waits for the first readings of the other threads. A source that hangs must not delay the first sample for
    /// ever.
    pub fn wait_for_others(&mut self, handle: &SamplerHandle, requests: &Receiver<Request>) {
        let until = Instant::now() + FIRST_PATIENCE;
        let remaining = || until.saturating_duration_since(Instant::now());
        self.scrapes.readers.request_all(handle.reader_done());
        while self.scrapes.readers.is_busy()
            && let Ok(Request::ReaderDone(index)) = requests.recv_timeout(remaining())
        {
            self.scrapes.readers.note_done(index);
        }
    }

    /// Samples until it is stopped. Returns what the request to stop sent.
    pub fn run(
        &mut self,
        interval: Duration,
        handle: &SamplerHandle,
        requests: &Receiver<Request>,
        first: &Sender<()>,
    ) -> Option<Sender<()>> {
        let time = self.read_core_stats();
        self.sample(time);
        let _ = first.send(());
        let mut ticker = Ticker::new(interval, Instant::now());
        loop {
            let now = Instant::now();
            let remaining = ticker.remaining(now);
            // Ticks come first, so that a flood of scrapes cannot delay them.
            if remaining.is_zero() {
                ticker.next(now);
                self.tick(handle);
                continue;
            }
            let until_memory_poll = self.memory_poll.due.map(|at| at.saturating_duration_since(now));
            if until_memory_poll.is_some_and(|left| left.is_zero()) {
                self.poll_memory();
                continue;
            }
            let next_reply = self.serve_waiting(now);
            match requests.try_recv() {
                Ok(Request::Fresh(scrape)) => self.read_for_scrape(scrape, handle),
                Ok(Request::ReaderDone(index)) => self.scrapes.note_done(index, &handle.reader_done()),
                Ok(Request::Early(cause)) => {
                    let time = self.begin_round(RoundPurpose::Rules);
                    self.sample_early(cause, time, |_| true);
                }
                Ok(Request::Stop(stop)) => return Some(stop),
                Err(TryRecvError::Disconnected) => return None,
                // A sender unparks this thread after sending, so no request waits for the timeout.
                Err(TryRecvError::Empty) => {
                    let until_reply = next_reply.map(|at| at.saturating_duration_since(now));
                    let others = until_memory_poll.into_iter().chain(until_reply);
                    thread::park_timeout(others.fold(remaining, Duration::min));
                }
            }
        }
    }

    /// A regular tick: core figures always, collectors where rules read them. Without rules only scrapes read
    /// collectors.
    fn tick(&mut self, handle: &SamplerHandle) {
        let time = self.read_core_stats();
        let has_rules = self.subscriber.rules_revision().is_some();
        self.scrapes.readers.tick(has_rules, handle.reader_done());
        if has_rules {
            self.sample(time);
        } else {
            self.memory_poll.due = None;
        }
    }

    /// Reads the core figures of a regular tick. Only these count for rates and distributions, so that scrapes do not
    /// change them.
    fn read_core_stats(&mut self) -> SampleTime {
        let time = self.begin_round(RoundPurpose::Rules);
        // After a panic the reader stays usable, as a collector does, and old figures are not repeated.
        if catch_unwind(AssertUnwindSafe(|| self.reader.read(&self.roots, Instant::now))).is_err() {
            self.reader.stats = CoreStats::default();
            tracing::error!("reading core figures panicked");
        }
        self.derived.observe(&self.reader.stats);
        let mut drawn = self.shared.drawn();
        let sample = drawn.recent.observe(&self.reader.stats);
        let since_1970 = Duration::try_from(time.wall.duration_since(jiff::Timestamp::UNIX_EPOCH));
        drawn.day.observe(since_1970.unwrap_or_default(), &sample);
        drop(drawn);
        time
    }

    /// Takes a regular sample: the newest reading of every collector, read now where rules read it.
    fn sample(&mut self, time: SampleTime) {
        let (slow_interval, subscriber) = (self.scrapes.readers.slow_interval(), &*self.subscriber);
        let readings = self
            .collector_set
            .read(&self.roots, |scheduled| scheduled.is_due(slow_interval, subscriber));
        self.read_free_memory();
        let snapshot = self.publish(time, readings);
        self.notify(&snapshot, SampleKind::Regular);
    }

    /// Polls free memory, which allocates nothing, and takes an early sample of memory where it has fallen.
    fn poll_memory(&mut self) {
        let time = self.begin_round(RoundPurpose::Rules);
        let available_bytes = self.read_free_memory();
        if available_bytes.is_some_and(|available_bytes| self.memory_poll.headroom.has_dropped(available_bytes)) {
            self.sample_early(EarlyCause::MemoryFalls, time, |scheduled| {
                scheduled.collector.name == "meminfo"
            });
        }
    }

    /// Takes a sample between two ticks for rules. It counts neither for derived rates nor for distributions.
    fn sample_early(&mut self, cause: EarlyCause, time: SampleTime, is_meant: impl Fn(&ScheduledCollector) -> bool) {
        let subscriber = &*self.subscriber;
        let readings = self.collector_set.read_for_early_sample(&self.roots, |scheduled| {
            is_meant(scheduled) && scheduled.is_read_by_rules(subscriber)
        });
        let snapshot = Arc::new(Snapshot {
            taken: time,
            readings,
            derived: Arc::new(derived::early_sample_families(
                self.reader.memory_used_ratio(&self.roots),
            )),
        });
        self.notify(&snapshot, SampleKind::Early(cause));
    }

    /// Reads the available memory of this round and schedules the next poll.
    fn read_free_memory(&mut self) -> Option<u64> {
        let available_bytes = meminfo::read_available_bytes(&self.roots);
        let now = Instant::now();
        self.memory_poll.due =
            available_bytes.map(|available_bytes| now + self.memory_poll.headroom.next_poll(now, available_bytes));
        available_bytes
    }

    fn notify(&mut self, snapshot: &Arc<Snapshot>, kind: SampleKind) {
        if self.subscriber.rules_revision().is_none() {
            return;
        }
        // The figure of this round is the one that rules see.
        if let Some(available_bytes) = meminfo::read_available_bytes(&self.roots) {
            self.memory_poll.headroom.record_sample(available_bytes);
        }
        // A panic in the subscriber must not stop sampling.
        if catch_unwind(AssertUnwindSafe(|| self.subscriber.on_sample(snapshot, kind))).is_err() {
            tracing::error!("subscriber of samples panicked");
        }
    }

    /// Reads what is stale for a scrape. One that came while others were served gets what was read for them.
    fn read_for_scrape(&mut self, scrape: WaitingScrape, handle: &SamplerHandle) {
        let (at, max_age) = (scrape.at, scrape.max_age);
        if !self.shared.latest.load().is_fresh(at, max_age) {
            // The other threads read at the same time, so that all samples are of the time of the scrape.
            self.scrapes.readers.request_stale(at, max_age, handle.reader_done());
            self.scrapes.fast_read = self.begin_round(RoundPurpose::Scrape);
            self.collector_set
                .read(&self.roots, |scheduled| scheduled.is_stale(at, max_age));
        }
        self.scrapes.push(scrape);
    }

    /// Replies to the scrapes that have all that they get. Returns when another one stops waiting.
    fn serve_waiting(&mut self, now: Instant) -> Option<Instant> {
        let (served, next) = self.scrapes.take_ready(now);
        if served.is_empty() {
            return next;
        }
        let latest = self.shared.latest.load_full();
        let is_fresh = |scrape: &WaitingScrape| latest.is_fresh(scrape.at, scrape.max_age);
        let snapshot = if served.iter().all(is_fresh) {
            latest
        } else {
            let readings = self.collector_set.read(&self.roots, |_| false);
            self.publish(self.scrapes.fast_read, readings)
        };
        for scrape in served {
            // A scraper that disconnected needs no reply.
            let _ = scrape.reply.send(Arc::clone(&snapshot));
        }
        next
    }

    /// Begins a round: from here on each file is read again once.
    fn begin_round(&self, purpose: RoundPurpose) -> SampleTime {
        self.roots.begin_round(purpose);
        SampleTime::now()
    }

    fn publish(&mut self, time: SampleTime, mut readings: Vec<Arc<CollectorReading>>) -> Arc<Snapshot> {
        readings.extend(self.scrapes.readers.readings());
        put_collectors_first(&mut readings);
        let filesystem = readings
            .iter()
            .find(|reading| reading.collector == "filesystem" && reading.success());
        let snapshot = Arc::new(Snapshot {
            taken: time,
            derived: self.derived.families(&self.reader.stats, filesystem),
            readings,
        });
        self.shared.latest.store(Arc::clone(&snapshot));
        snapshot
    }
}
