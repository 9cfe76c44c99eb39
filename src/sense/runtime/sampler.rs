//! The sampler: its own thread reads core figures every second, and the fast collectors for rules and scrapes. Further
//! threads read other collectors, for scrapes or by a timer.
//!
//! Nothing here is async, so that no blocking read lands on an async worker. Scrapes await a reply.

use super::collector_threads::CollectorThreads;
use super::core_stats::{CoreStatsReader, StatSources};
use super::day_history::DayHistory;
use super::derived::DerivedMetrics;
use super::pressure_watch::{self, PressureWatch};
use super::readers::Readers;
use super::recent_history::RecentHistory;
use super::roots::Roots;
use super::sampler_thread::{MemoryPoll, Request, SamplerHandle, SamplerThread, SharedResults};
use super::scrape_queue::{ScrapeQueue, WaitingScrape};
use super::snapshot::{CollectorReading, MaxAge, SampleTime, Snapshot, max_reading_age};
use super::subscriber::Subscriber;
use crate::host::self_priority::{self, SelfProtection};
use crate::sense::collectors::options::CollectorOptions;
use crate::sense::collectors::registry::COLLECTORS;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The share of its patience that a scrape waits for other threads. The rest is for encoding what they yielded.
const READING_SHARE: f64 = 0.75;

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

/// The running sampler. It stops when dropped.
pub struct Sampler {
    shared: SharedResults,
    sampling: Sampling,
    handle: SamplerHandle,
    /// A failed reading of each enabled collector, for as long as it has no other.
    unread: Vec<Arc<CollectorReading>>,
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
        let mut sampler = Self::start_with(
            CoreStatsReader::new(StatSources::new(&config.collectors, &config.options)),
            CollectorThreads::new(&config.collectors, &config.options, config.sampling.slow_interval),
            config.roots.clone(),
            config.sampling,
            config.self_protection,
            subscriber,
        )?;
        let enabled = COLLECTORS.iter().filter(|info| config.collectors.contains(info.name));
        sampler.unread = enabled.map(|info| CollectorReading::unread(info.name)).collect();
        let handle = sampler.handle.clone();
        sampler.pressure_watch = pressure_watch::start(&config.roots, move |cause| handle.send(Request::Early(cause)))?;
        Ok(sampler)
    }

    fn start_with(
        reader: CoreStatsReader,
        threads: CollectorThreads,
        roots: Roots,
        sampling: Sampling,
        self_protection: SelfProtection,
        subscriber: Box<dyn Subscriber>,
    ) -> io::Result<Sampler> {
        let readers = Readers::start(threads.others, &roots, sampling.interval, sampling.slow_interval)?;
        let empty = Snapshot {
            taken: SampleTime::now(),
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
            collector_set: threads.fast,
            roots,
            scrapes: ScrapeQueue::new(readers),
            derived: DerivedMetrics::default(),
            memory_poll: MemoryPoll::default(),
            shared: shared.clone(),
            subscriber,
        };
        let own_sender = sender.clone();
        let thread = thread::Builder::new().name("sampler".to_owned()).spawn(move || {
            self_priority::raise_priority(self_protection);
            let handle = SamplerHandle {
                requests: own_sender,
                thread: thread::current(),
            };
            sampler_thread.wait_for_others(&handle, &requests);
            let stop = sampler_thread.run(sampling.interval, &handle, &requests, &first);
            // A caller that waits for the end waits for what the subscriber holds, too.
            drop(sampler_thread);
            drop(stop);
        })?;
        // This fails only when the thread died, and then no sample comes.
        let _ = first_sample.recv();
        Ok(Sampler {
            shared,
            sampling,
            handle: SamplerHandle {
                requests: sender,
                thread: thread.thread().clone(),
            },
            unread: Vec::new(),
            pressure_watch: None,
        })
    }

    /// The reading of every enabled collector. One that was never read, because another one on its thread has
    /// not returned so far, has failed.
    pub fn readings(&self, snapshot: &Snapshot) -> Vec<Arc<CollectorReading>> {
        let has_none = |unread: &&Arc<CollectorReading>| {
            let mut readings = snapshot.readings.iter();
            !readings.any(|reading| reading.collector == unread.collector)
        };
        let unread = self.unread.iter().filter(has_none);
        snapshot.readings.iter().chain(unread).cloned().collect()
    }

    /// The newest snapshot: of the last tick while there are rules, else of the last scrape.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.shared.latest.load_full()
    }

    /// The interval between two ticks.
    pub fn interval(&self) -> Duration {
        self.sampling.interval
    }

    /// The interval of readings by a timer.
    pub fn slow_interval(&self) -> Duration {
        self.sampling.slow_interval
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

    /// A snapshot whose samples are at most `max_age` old. Scrapes that wait at the same moment share one read. Of a
    /// collector that takes longer than `patience` it has the former sample, and its age metrics show how old that is.
    pub async fn fresh(&self, max_age: MaxAge, patience: Duration) -> Arc<Snapshot> {
        let (latest, now) = (self.latest(), Instant::now());
        if latest.is_fresh(now, max_age) {
            return latest;
        }
        let (reply, serve_scrape) = oneshot::channel();
        let scrape = WaitingScrape {
            at: now,
            max_age,
            patience: patience.mul_f64(READING_SHARE),
            reply,
        };
        let is_alive = self.handle.send(Request::Fresh(scrape));
        match tokio::time::timeout(patience, serve_scrape).await {
            Ok(Ok(snapshot)) if is_alive => snapshot,
            // The sampler's thread itself hangs, or has died.
            _ => {
                let max_age = max_reading_age(self.sampling.slow_interval);
                self.latest().without_outdated(Instant::now(), max_age)
            }
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

#[cfg(test)]
mod tests;
