//! The threads that read the host: one for the fast collectors, every second and for scrapes, one for the slow ones,
//! one for each that may wait for others.
//! Nothing here is async, so no blocking read can land on an async worker; scrapers wait for an answer instead.

use super::collector::Collector;
use super::collector_set::{CollectorSet, ScheduledCollector};
use super::core_stats::{CoreStats, CoreStatsReader, StatSources};
use super::derived::{self, DerivedMetrics};
use super::headroom::Headroom;
use super::pressure_watch::{self, PressureWatch};
use super::recent_history::RecentHistory;
use super::roots::Roots;
use super::slow_sampler::{self, SlowReadings};
use super::snapshot::{CollectorReading, EarlyCause, SampleKind, Snapshot};
use super::subscriber::Subscriber;
use super::ticker::Ticker;
use crate::host::linux::boot_time;
use crate::host::self_priority;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long the start waits for the slow collectors, so that the first scrape already has them.
const FIRST_SLOW_PATIENCE: Duration = Duration::from_secs(1);

/// How long a stop waits for a read that is under way.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What is sampled, and how often.
#[derive(Debug, Clone)]
pub struct SamplerConfig {
    pub roots: Roots,
    pub options: CollectorOptions,
    pub sampling: Sampling,
    /// Names of the collectors that are on.
    pub collectors: BTreeSet<&'static str>,
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
        }
    }
}

enum Request {
    Fresh {
        max_age: Duration,
        reply: oneshot::Sender<Arc<Snapshot>>,
    },
    /// The kernel says that something begins to stall.
    Early(EarlyCause),
    /// The sender is dropped when the thread has ended.
    Stop(Sender<()>),
}

/// Where requests go in. The thread sleeps between two beats without waiting in the channel, which costs it less.
#[derive(Clone)]
struct SamplerHandle {
    requests: Sender<Request>,
    thread: Thread,
}

impl SamplerHandle {
    /// Whether anybody is there to take it.
    fn send(&self, request: Request) -> bool {
        let is_there = self.requests.send(request).is_ok();
        self.thread.unpark();
        is_there
    }
}

/// The running sampler. Stops when dropped.
pub struct Sampler {
    latest: Arc<ArcSwap<Snapshot>>,
    recent_history: Arc<Mutex<RecentHistory>>,
    interval: Duration,
    handle: SamplerHandle,
    /// Ends with the sampler.
    pressure_watch: Option<PressureWatch>,
}

impl Sampler {
    /// Starts the threads and returns when a first sample is there.
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
        subscriber: Box<dyn Subscriber>,
    ) -> io::Result<Sampler> {
        let (slow, slow_done): (Vec<SlowReadings>, Vec<Receiver<()>>) = slow
            .into_iter()
            .map(|(name, collectors)| slow_sampler::start(name, collectors, roots.clone(), sampling.slow_interval))
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let latest = Arc::new(ArcSwap::from_pointee(Snapshot {
            taken_at: Timestamp::now(),
            taken_instant: Instant::now(),
            taken_boot: boot_time(),
            fresh_since: Instant::now(),
            readings: Vec::new(),
            derived: Arc::default(),
        }));
        let recent_history = Arc::default();
        let (requests, asked) = channel();
        let (first, first_sample) = channel();
        let mut sampler_thread = SamplerThread {
            reader,
            collector_set,
            roots,
            slow,
            slow_interval: sampling.slow_interval,
            derived: DerivedMetrics::default(),
            headroom: Headroom::default(),
            next_memory_poll: None,
            latest: Arc::clone(&latest),
            recent_history: Arc::clone(&recent_history),
            subscriber,
        };
        let thread = thread::Builder::new().name("sampler".to_owned()).spawn(move || {
            self_priority::go_first();
            // A slow collector that hangs must not keep the first sample back for ever.
            let until = Instant::now() + FIRST_SLOW_PATIENCE;
            for done in slow_done {
                let _ = done.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            let stop = sampler_thread.run(sampling.interval, &asked, &first);
            // Whoever waits for the end waits for what the listener holds, too.
            drop(sampler_thread);
            drop(stop);
        })?;
        // Fails only when the thread died, and then there is no sample to wait for.
        let _ = first_sample.recv();
        Ok(Sampler {
            latest,
            recent_history,
            interval: sampling.interval,
            handle: SamplerHandle {
                requests,
                thread: thread.thread().clone(),
            },
            pressure_watch: None,
        })
    }

    /// The newest snapshot there is: of the last beat while rules follow, else of the last scrape.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.latest.load_full()
    }

    /// The regular beat.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The last minutes of what the page draws.
    pub fn recent_history(&self) -> RecentHistory {
        self.recent_history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A snapshot whose fast samples are at most `max_age` old: read anew if need be, once for all who wait at that
    /// moment. After `patience` without an answer the newest there is; its age says so.
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
        // A collector that hangs in the kernel must not keep the daemon from ending.
        let _ = stopped.recv_timeout(STOP_PATIENCE);
    }
}

/// When a sample was begun, on every clock that somebody asks for.
#[derive(Clone, Copy)]
struct SampleTime {
    wall: Timestamp,
    instant: Instant,
    boot: Duration,
}

struct SamplerThread {
    reader: CoreStatsReader,
    collector_set: CollectorSet,
    roots: Roots,
    slow: Vec<SlowReadings>,
    slow_interval: Duration,
    derived: DerivedMetrics,
    headroom: Headroom,
    /// When free memory must be looked at; never where the kernel does not tell it, and where nobody follows.
    next_memory_poll: Option<Instant>,
    latest: Arc<ArcSwap<Snapshot>>,
    recent_history: Arc<Mutex<RecentHistory>>,
    subscriber: Box<dyn Subscriber>,
}

impl SamplerThread {
    fn run(&mut self, interval: Duration, asked: &Receiver<Request>, first: &Sender<()>) -> Option<Sender<()>> {
        let begun = self.read_core_stats();
        self.sample(begun);
        let _ = first.send(());
        let mut ticker = Ticker::new(interval, Instant::now());
        loop {
            let now = Instant::now();
            let remaining = ticker.remaining(now);
            // First, so that a flood of scrapes cannot hold up the beat.
            if remaining.is_zero() {
                ticker.next(now);
                self.tick();
                continue;
            }
            let until_memory_poll = self.next_memory_poll.map(|at| at.saturating_duration_since(now));
            if until_memory_poll.is_some_and(|left| left.is_zero()) {
                self.poll_memory();
                continue;
            }
            match asked.try_recv() {
                Ok(Request::Fresh { max_age, reply }) => self.serve_scrape(max_age, reply),
                Ok(Request::Early(cause)) => {
                    let begun = self.begin_round();
                    self.sample_early(cause, begun, |_| true);
                }
                Ok(Request::Stop(stop)) => return Some(stop),
                Err(TryRecvError::Disconnected) => return None,
                // Whoever sends wakes this thread afterwards, so nothing is overslept.
                Err(TryRecvError::Empty) => thread::park_timeout(until_memory_poll.unwrap_or(remaining).min(remaining)),
            }
        }
    }

    /// The regular beat: vital signs always, and what rules read. Where there are no rules, the rest is left to scrapes.
    fn tick(&mut self) {
        let begun = self.read_core_stats();
        if self.subscriber.rules_revision().is_some() {
            self.sample(begun);
        } else {
            self.next_memory_poll = None;
        }
    }

    /// One look of the regular beat: only these count for rates and distributions, so that scrapes do not change them.
    fn read_core_stats(&mut self) -> SampleTime {
        let begun = self.begin_round();
        // As with a collector: what is kept is usable, and what was not looked at is not repeated.
        if catch_unwind(AssertUnwindSafe(|| self.reader.read(&self.roots, Instant::now))).is_err() {
            self.reader.stats = CoreStats::default();
            tracing::error!("looking at the host panicked");
        }
        self.derived.observe(&self.reader.stats);
        let mut recent_history = self.recent_history.lock().unwrap_or_else(PoisonError::into_inner);
        recent_history.observe(&self.reader.stats);
        begun
    }

    /// The newest reading of every collector; what a rule reads is read in this round.
    fn sample(&mut self, begun: SampleTime) {
        let (slow_interval, subscriber) = (self.slow_interval, &*self.subscriber);
        let readings = self
            .collector_set
            .read(&self.roots, |scheduled| scheduled.is_due(slow_interval, subscriber));
        self.read_free_memory();
        let snapshot = self.publish(begun, readings);
        self.notify(&snapshot, SampleKind::Regular);
    }

    /// Looks at free memory alone, which allocates nothing, and takes a sample of memory where it has fallen.
    fn poll_memory(&mut self) {
        let begun = self.begin_round();
        let available_bytes = self.read_free_memory();
        if available_bytes.is_some_and(|available_bytes| self.headroom.has_dropped(available_bytes)) {
            self.sample_early(EarlyCause::MemoryFalls, begun, |scheduled| {
                scheduled.collector.name == "meminfo"
            });
        }
    }

    /// A sample between two beats, for rules only: it counts neither for ready-made rates nor for distributions.
    fn sample_early(&mut self, cause: EarlyCause, begun: SampleTime, is_meant: impl Fn(&ScheduledCollector) -> bool) {
        let subscriber = &*self.subscriber;
        let readings = self.collector_set.read_for_early_sample(&self.roots, |scheduled| {
            is_meant(scheduled) && scheduled.is_read_by_rules(subscriber)
        });
        let snapshot = Arc::new(Snapshot {
            taken_at: begun.wall,
            taken_instant: begun.instant,
            taken_boot: begun.boot,
            fresh_since: begun.instant,
            readings,
            derived: Arc::new(derived::early_sample_families(
                self.reader.memory_used_ratio(&self.roots),
            )),
        });
        self.notify(&snapshot, SampleKind::Early(cause));
    }

    /// What is free now, or was in this round, and when to look again.
    fn read_free_memory(&mut self) -> Option<u64> {
        let available_bytes = meminfo::read_available_bytes(&self.roots);
        let now = Instant::now();
        self.next_memory_poll =
            available_bytes.map(|available_bytes| now + self.headroom.next_poll(now, available_bytes));
        available_bytes
    }

    fn notify(&mut self, snapshot: &Arc<Snapshot>, kind: SampleKind) {
        if self.subscriber.rules_revision().is_none() {
            return;
        }
        // Of this round, so it is what rules will see.
        if let Some(available_bytes) = meminfo::read_available_bytes(&self.roots) {
            self.headroom.record_sample(available_bytes);
        }
        // Whoever listens is a guest on this thread: its fault must not end the sampling.
        if catch_unwind(AssertUnwindSafe(|| self.subscriber.on_sample(snapshot, kind))).is_err() {
            tracing::error!("a listener to samples panicked");
        }
    }

    /// A scraper that asked while others were being served finds what was read for them.
    fn serve_scrape(&mut self, max_age: Duration, reply: oneshot::Sender<Arc<Snapshot>>) {
        let latest = self.latest.load_full();
        let snapshot = if latest.fresh_since.elapsed() <= max_age {
            latest
        } else {
            let begun = self.begin_round();
            let readings = self
                .collector_set
                .read(&self.roots, |scheduled| scheduled.is_older_than(max_age));
            self.publish(begun, readings)
        };
        // A scraper that has gone away needs no answer.
        let _ = reply.send(snapshot);
    }

    /// From here on files are read anew.
    fn begin_round(&self) -> SampleTime {
        self.roots.begin_round();
        SampleTime {
            wall: Timestamp::now(),
            instant: Instant::now(),
            boot: boot_time(),
        }
    }

    fn publish(&mut self, begun: SampleTime, mut readings: Vec<Arc<CollectorReading>>) -> Arc<Snapshot> {
        for slow in &self.slow {
            readings.extend(slow.load().iter().cloned());
        }
        let filesystem = readings
            .iter()
            .find(|reading| reading.collector == "filesystem" && reading.success());
        let snapshot = Arc::new(Snapshot {
            taken_at: begun.wall,
            taken_instant: begun.instant,
            taken_boot: begun.boot,
            fresh_since: self.collector_set.fresh_since(begun.instant),
            derived: self.derived.families(&self.reader.stats, filesystem),
            readings,
        });
        self.latest.store(Arc::clone(&snapshot));
        snapshot
    }
}

#[cfg(test)]
mod tests;
