//! The sampler: one thread for the fast collectors, one for the slow ones, one for each isolated one. The fast thread
//! reads core figures every second and collectors for rules and scrapes.
//!
//! Nothing here is async, so that no blocking read lands on an async worker. Scrapes await a reply.

use super::collector::Collector;
use super::collector_set::{CollectorSet, ScheduledCollector};
use super::core_stats::{CoreStats, CoreStatsReader, StatSources};
use super::day_history::DayHistory;
use super::derived::{self, DerivedMetrics};
use super::headroom::Headroom;
use super::pressure_watch::{self, PressureWatch};
use super::recent_history::RecentHistory;
use super::roots::Roots;
use super::slow_sampler::{self, SlowReadings};
use super::snapshot::{CollectorReading, EarlyCause, SampleKind, SampleTime, Snapshot};
use super::subscriber::Subscriber;
use super::ticker::Ticker;
use crate::host::self_priority::{self, SelfProtection};
use crate::sense::collectors::info::Pace;
use crate::sense::collectors::meminfo;
use crate::sense::collectors::options::CollectorOptions;
use crate::sense::collectors::registry::COLLECTORS;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the start waits for the slow collectors, so that the first scrape has them.
const FIRST_SLOW_PATIENCE: Duration = Duration::from_secs(1);

/// How long a stop waits for a read in progress.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The collectors to run, where they read, and how often.
#[derive(Debug, Clone)]
pub struct SamplerConfig {
    pub roots: Roots,
    pub options: CollectorOptions,
    pub sampling: Sampling,
    /// Names of the enabled collectors.
    pub collectors: BTreeSet<&'static str>,
    pub self_protection: SelfProtection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    pub interval: Duration,
    pub slow_interval: Duration,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            interval: Duration::from_secs(1),
            slow_interval: Duration::from_secs(15),
        }
    }
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig {
            roots: Roots::default(),
            options: CollectorOptions::default(),
            sampling: Sampling::default(),
            collectors: COLLECTORS
                .iter()
                .filter(|info| info.default_on)
                .map(|info| info.name)
                .collect(),
            self_protection: SelfProtection::default(),
        }
    }
}

enum Request {
    Fresh {
        max_age: Duration,
        reply: oneshot::Sender<Arc<Snapshot>>,
    },
    /// The kernel reports that tasks begin to stall.
    Early(EarlyCause),
    /// The thread drops the sender when it ends.
    Stop(Sender<()>),
}

/// A handle that sends requests. The thread parks between two ticks and does not wait in the channel, because that
/// costs it less.
#[derive(Clone)]
struct SamplerHandle {
    requests: Sender<Request>,
    thread: Thread,
}

impl SamplerHandle {
    /// Whether the thread is alive to receive it.
    fn send(&self, request: Request) -> bool {
        let is_there = self.requests.send(request).is_ok();
        self.thread.unpark();
        is_there
    }
}

/// The results that the thread shares with scrapes and the status page.
#[derive(Clone)]
struct SharedResults {
    latest: Arc<ArcSwap<Snapshot>>,
    drawn: Arc<Mutex<DrawnHistory>>,
}

/// What the status page draws.
#[derive(Default)]
struct DrawnHistory {
    recent: RecentHistory,
    day: DayHistory,
}

impl SharedResults {
    fn drawn(&self) -> MutexGuard<'_, DrawnHistory> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running sampler. It stops when dropped.
pub struct Sampler {
    shared: SharedResults,
    interval: Duration,
    handle: SamplerHandle,
    /// The watch ends with the sampler.
    pressure_watch: Option<PressureWatch>,
}

impl Sampler {
    /// Starts the threads and returns after the first sample.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(config: SamplerConfig, subscriber: Box<dyn Subscriber>) -> io::Result<Sampler> {
        let (mut collector_set, mut slow, mut isolated) = (Vec::new(), Vec::new(), Vec::new());
        for info in COLLECTORS.iter().filter(|info| config.collectors.contains(info.name)) {
            let collector = Collector::new(info, &config.options);
            match info.pace {
                Pace::Fast => collector_set.push(ScheduledCollector::new(collector)),
                Pace::Slow => slow.push(collector),
                Pace::Isolated => isolated.push((info.name, vec![collector])),
            }
        }
        let mut sampler = Self::start_with(
            CoreStatsReader::new(StatSources::new(&config.collectors, &config.options)),
            CollectorSet::new(collector_set),
            [("slow-sampler", slow)].into_iter().chain(isolated),
            config.roots.clone(),
            config.sampling,
            config.self_protection,
            subscriber,
        )?;
        let handle = sampler.handle.clone();
        sampler.pressure_watch = pressure_watch::start(&config.roots, move |cause| handle.send(Request::Early(cause)))?;
        Ok(sampler)
    }

    fn start_with(
        reader: CoreStatsReader,
        collector_set: CollectorSet,
        slow: impl IntoIterator<Item = (&'static str, Vec<Collector>)>,
        roots: Roots,
        sampling: Sampling,
        self_protection: SelfProtection,
        subscriber: Box<dyn Subscriber>,
    ) -> io::Result<Sampler> {
        let (slow, slow_done): (Vec<SlowReadings>, Vec<Receiver<()>>) = slow
            .into_iter()
            .map(|(name, collectors)| slow_sampler::start(name, collectors, roots.clone(), sampling.slow_interval))
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let empty = Snapshot {
            taken: SampleTime::now(),
            fresh_since: Instant::now(),
            readings: Vec::new(),
            derived: Arc::default(),
        };
        let shared = SharedResults {
            latest: Arc::new(ArcSwap::from_pointee(empty)),
            drawn: Arc::default(),
        };
        let (sender, requests) = channel();
        let (first, first_sample) = channel();
        let mut sampler_thread = SamplerThread {
            reader,
            collector_set,
            roots,
            slow,
            slow_interval: sampling.slow_interval,
            derived: DerivedMetrics::default(),
            memory_poll: MemoryPoll::default(),
            shared: shared.clone(),
            subscriber,
        };
        let thread = thread::Builder::new().name("sampler".to_owned()).spawn(move || {
            self_priority::raise_priority(self_protection);
            // A slow collector that hangs must not delay the first sample for ever.
            let until = Instant::now() + FIRST_SLOW_PATIENCE;
            for done in slow_done {
                let _ = done.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            let stop = sampler_thread.run(sampling.interval, &requests, &first);
            // A caller that waits for the end waits for what the subscriber holds, too.
            drop(sampler_thread);
            drop(stop);
        })?;
        // This fails only when the thread died, and then no sample comes.
        let _ = first_sample.recv();
        Ok(Sampler {
            shared,
            interval: sampling.interval,
            handle: SamplerHandle {
                requests: sender,
                thread: thread.thread().clone(),
            },
            pressure_watch: None,
        })
    }

    /// The newest snapshot: of the last tick while there are rules, else of the last scrape.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.shared.latest.load_full()
    }

    /// The interval between two ticks.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The last minutes, as the status page draws them.
    pub fn recent_history(&self) -> RecentHistory {
        self.shared.drawn().recent.clone()
    }

    /// The last day in coarser steps.
    pub fn day_history(&self) -> DayHistory {
        self.shared.drawn().day.clone()
    }

    /// Replaces the history of the day by that from before a restart, at the start.
    pub fn restore(&self, history: DayHistory) {
        self.shared.drawn().day = history;
    }

    /// A snapshot whose fast samples are at most `max_age` old. Scrapes that wait at the same moment share one read.
    /// After `patience` without a reply it is the newest snapshot, whose age metrics show how old it is.
    pub async fn fresh(&self, max_age: Duration, patience: Duration) -> Arc<Snapshot> {
        let latest = self.latest();
        if latest.fresh_since.elapsed() <= max_age {
            return latest;
        }
        let (reply, serve_scrape) = oneshot::channel();
        if !self.handle.send(Request::Fresh { max_age, reply }) {
            return latest;
        }
        match tokio::time::timeout(patience, serve_scrape).await {
            Ok(Ok(snapshot)) => snapshot,
            _ => self.latest(),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let (stop, stopped) = channel();
        self.handle.send(Request::Stop(stop));
        // A collector that hangs in the kernel must not block the shutdown.
        let _ = stopped.recv_timeout(STOP_PATIENCE);
    }
}

/// The polls of free memory between two ticks.
#[derive(Default)]
struct MemoryPoll {
    headroom: Headroom,
    /// When to poll next; `None` where the kernel does not report free memory or no rule needs samples.
    due: Option<Instant>,
}

struct SamplerThread {
    reader: CoreStatsReader,
    collector_set: CollectorSet,
    roots: Roots,
    slow: Vec<SlowReadings>,
    slow_interval: Duration,
    derived: DerivedMetrics,
    memory_poll: MemoryPoll,
    shared: SharedResults,
    subscriber: Box<dyn Subscriber>,
}

impl SamplerThread {
    fn run(&mut self, interval: Duration, requests: &Receiver<Request>, first: &Sender<()>) -> Option<Sender<()>> {
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
                self.tick();
                continue;
            }
            let until_memory_poll = self.memory_poll.due.map(|at| at.saturating_duration_since(now));
            if until_memory_poll.is_some_and(|left| left.is_zero()) {
                self.poll_memory();
                continue;
            }
            match requests.try_recv() {
                Ok(Request::Fresh { max_age, reply }) => self.serve_scrape(max_age, reply),
                Ok(Request::Early(cause)) => {
                    let time = self.begin_round();
                    self.sample_early(cause, time, |_| true);
                }
                Ok(Request::Stop(stop)) => return Some(stop),
                Err(TryRecvError::Disconnected) => return None,
                // A sender unparks this thread after sending, so no request waits for the timeout.
                Err(TryRecvError::Empty) => thread::park_timeout(until_memory_poll.unwrap_or(remaining).min(remaining)),
            }
        }
    }

    /// A regular tick: core figures always, collectors where rules read them. Without rules only scrapes read
    /// collectors.
    fn tick(&mut self) {
        let time = self.read_core_stats();
        if self.subscriber.rules_revision().is_some() {
            self.sample(time);
        } else {
            self.memory_poll.due = None;
        }
    }

    /// Reads the core figures of a regular tick. Only these count for rates and distributions, so that scrapes do not
    /// change them.
    fn read_core_stats(&mut self) -> SampleTime {
        let time = self.begin_round();
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
        let (slow_interval, subscriber) = (self.slow_interval, &*self.subscriber);
        let readings = self
            .collector_set
            .read(&self.roots, |scheduled| scheduled.is_due(slow_interval, subscriber));
        self.read_free_memory();
        let snapshot = self.publish(time, readings);
        self.notify(&snapshot, SampleKind::Regular);
    }

    /// Polls free memory, which allocates nothing, and takes an early sample of memory where it has fallen.
    fn poll_memory(&mut self) {
        let time = self.begin_round();
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
            fresh_since: time.instant,
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

    /// Replies to a scrape. One that came while others were served gets what was read for them.
    fn serve_scrape(&mut self, max_age: Duration, reply: oneshot::Sender<Arc<Snapshot>>) {
        let latest = self.shared.latest.load_full();
        let snapshot = if latest.fresh_since.elapsed() <= max_age {
            latest
        } else {
            let time = self.begin_round();
            let readings = self
                .collector_set
                .read(&self.roots, |scheduled| scheduled.is_older_than(max_age));
            self.publish(time, readings)
        };
        // A scraper that disconnected needs no reply.
        let _ = reply.send(snapshot);
    }

    /// Begins a round: from here on each file is read again once.
    fn begin_round(&self) -> SampleTime {
        self.roots.begin_round();
        SampleTime::now()
    }

    fn publish(&mut self, time: SampleTime, mut readings: Vec<Arc<CollectorReading>>) -> Arc<Snapshot> {
        for slow in &self.slow {
            readings.extend(slow.load().iter().cloned());
        }
        let filesystem = readings
            .iter()
            .find(|reading| reading.collector == "filesystem" && reading.success());
        let snapshot = Arc::new(Snapshot {
            taken: time,
            fresh_since: self.collector_set.fresh_since(time.instant),
            derived: self.derived.families(&self.reader.stats, filesystem),
            readings,
        });
        self.shared.latest.store(Arc::clone(&snapshot));
        snapshot
    }
}

#[cfg(test)]
mod tests;
