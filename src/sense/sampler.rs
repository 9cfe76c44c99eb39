//! The threads that read the host: one for the fast collectors, every second and for scrapes, one for the slow ones,
//! one for each that may wait for others.
//! Nothing here is async, so no blocking read can land on an async worker; scrapers wait for an answer instead.

use super::beat::Beat;
use super::collectors::{COLLECTORS, Options, Pace};
use super::derived::{self, ReadyMade};
use super::guarded::Collector;
use super::headroom::Headroom;
use super::meminfo;
use super::pressure_watch::{self, PressureWatch};
use super::roots::Roots;
use super::shelf::{Held, Shelf};
use super::slow::{self, SlowReadings};
use super::snapshot::{Cause, Occasion, Reading, Snapshot};
use super::trail::Trail;
use super::vitals::{Sources, Vitals, VitalsReader};
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
pub struct Config {
    pub roots: Roots,
    pub options: Options,
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

impl Default for Config {
    fn default() -> Self {
        Config {
            roots: Roots::default(),
            options: Options::default(),
            sampling: Sampling::default(),
            collectors: COLLECTORS
                .iter()
                .filter(|info| info.default_on)
                .map(|info| info.name)
                .collect(),
        }
    }
}

/// Who follows the samples. Runs on the sampler's thread, so it must return quickly.
pub trait Follower: Send {
    /// Which rules there are: another number when they may read other metrics. Where there is none, nobody follows, and
    /// samples are taken for scrapes only.
    fn edition(&self) -> Option<u64>;

    /// Whether a rule reads the metric of this name.
    fn reads(&self, metric: &str) -> bool;

    /// Told of every sample that was not taken for a scrape, as long as there are rules.
    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, occasion: Occasion);
}

/// Nobody follows.
impl Follower for () {
    fn edition(&self) -> Option<u64> {
        None
    }

    fn reads(&self, _metric: &str) -> bool {
        false
    }

    fn on_sample(&mut self, _snapshot: &Arc<Snapshot>, _occasion: Occasion) {}
}

enum Request {
    Fresh {
        max_age: Duration,
        reply: oneshot::Sender<Arc<Snapshot>>,
    },
    /// The kernel says that something begins to stall.
    Early(Cause),
    /// The sender is dropped when the thread has ended.
    Stop(Sender<()>),
}

/// Where requests go in. The thread sleeps between two beats without waiting in the channel, which costs it less.
#[derive(Clone)]
struct Door {
    requests: Sender<Request>,
    thread: Thread,
}

impl Door {
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
    trail: Arc<Mutex<Trail>>,
    interval: Duration,
    door: Door,
    /// Ends with the sampler.
    pressure_watch: Option<PressureWatch>,
}

impl Sampler {
    /// Starts the threads and returns when a first sample is there.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(config: Config, follower: Box<dyn Follower>) -> io::Result<Sampler> {
        let (mut shelf, mut slow, mut apart) = (Vec::new(), Vec::new(), Vec::new());
        for info in COLLECTORS.iter().filter(|info| config.collectors.contains(info.name)) {
            let collector = Collector::new(info, &config.options);
            match info.pace {
                Pace::Fast => shelf.push(Held::new(collector)),
                Pace::Slow => slow.push(collector),
                Pace::Apart => apart.push((info.name, vec![collector])),
            }
        }
        let mut sampler = Self::start_with(
            VitalsReader::new(Sources::new(&config.collectors, &config.options)),
            Shelf::new(shelf),
            [("slow-sampler", slow)].into_iter().chain(apart),
            config.roots.clone(),
            config.sampling,
            follower,
        )?;
        let door = sampler.door.clone();
        sampler.pressure_watch = pressure_watch::start(&config.roots, move |cause| door.send(Request::Early(cause)))?;
        Ok(sampler)
    }

    fn start_with(
        reader: VitalsReader,
        shelf: Shelf,
        slow: impl IntoIterator<Item = (&'static str, Vec<Collector>)>,
        roots: Roots,
        sampling: Sampling,
        follower: Box<dyn Follower>,
    ) -> io::Result<Sampler> {
        let (slow, slow_done): (Vec<SlowReadings>, Vec<Receiver<()>>) = slow
            .into_iter()
            .map(|(name, collectors)| slow::start(name, collectors, roots.clone(), sampling.slow_interval))
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let latest = Arc::new(ArcSwap::from_pointee(Snapshot {
            taken_at: Timestamp::now(),
            taken_instant: Instant::now(),
            taken_boot: boot_time(),
            fresh_since: Instant::now(),
            readings: Vec::new(),
            ready_made: Arc::default(),
        }));
        let trail = Arc::default();
        let (requests, asked) = channel();
        let (first, first_sample) = channel();
        let mut fast = Fast {
            reader,
            shelf,
            roots,
            slow,
            slow_interval: sampling.slow_interval,
            ready_made: ReadyMade::default(),
            headroom: Headroom::default(),
            next_glance: None,
            latest: Arc::clone(&latest),
            trail: Arc::clone(&trail),
            follower,
        };
        let thread = thread::Builder::new().name("sampler".to_owned()).spawn(move || {
            self_priority::go_first();
            // A slow collector that hangs must not keep the first sample back for ever.
            let until = Instant::now() + FIRST_SLOW_PATIENCE;
            for done in slow_done {
                let _ = done.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            let stop = fast.run(sampling.interval, &asked, &first);
            // Whoever waits for the end waits for what the listener holds, too.
            drop(fast);
            drop(stop);
        })?;
        // Fails only when the thread died, and then there is no sample to wait for.
        let _ = first_sample.recv();
        Ok(Sampler {
            latest,
            trail,
            interval: sampling.interval,
            door: Door {
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
    pub fn trail(&self) -> Trail {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A snapshot whose fast samples are at most `max_age` old: read anew if need be, once for all who wait at that
    /// moment. After `patience` without an answer the newest there is; its age says so.
    pub async fn fresh(&self, max_age: Duration, patience: Duration) -> Arc<Snapshot> {
        let latest = self.latest();
        if latest.fresh_since.elapsed() <= max_age {
            return latest;
        }
        let (reply, answer) = oneshot::channel();
        if !self.door.send(Request::Fresh { max_age, reply }) {
            return latest;
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(snapshot)) => snapshot,
            _ => self.latest(),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let (stop, stopped) = channel();
        self.door.send(Request::Stop(stop));
        // A collector that hangs in the kernel must not keep the daemon from ending.
        let _ = stopped.recv_timeout(STOP_PATIENCE);
    }
}

/// When a sample was begun, on every clock that somebody asks for.
#[derive(Clone, Copy)]
struct Moment {
    wall: Timestamp,
    instant: Instant,
    boot: Duration,
}

struct Fast {
    reader: VitalsReader,
    shelf: Shelf,
    roots: Roots,
    slow: Vec<SlowReadings>,
    slow_interval: Duration,
    ready_made: ReadyMade,
    headroom: Headroom,
    /// When free memory must be looked at; never where the kernel does not tell it, and where nobody follows.
    next_glance: Option<Instant>,
    latest: Arc<ArcSwap<Snapshot>>,
    trail: Arc<Mutex<Trail>>,
    follower: Box<dyn Follower>,
}

impl Fast {
    fn run(&mut self, interval: Duration, asked: &Receiver<Request>, first: &Sender<()>) -> Option<Sender<()>> {
        let begun = self.look();
        self.sample(begun);
        let _ = first.send(());
        let mut beat = Beat::new(interval, Instant::now());
        loop {
            let now = Instant::now();
            let remaining = beat.remaining(now);
            // First, so that a flood of scrapes cannot hold up the beat.
            if remaining.is_zero() {
                beat.next(now);
                self.tick();
                continue;
            }
            let until_glance = self.next_glance.map(|at| at.saturating_duration_since(now));
            if until_glance.is_some_and(|left| left.is_zero()) {
                self.glance();
                continue;
            }
            match asked.try_recv() {
                Ok(Request::Fresh { max_age, reply }) => self.answer(max_age, reply),
                Ok(Request::Early(cause)) => {
                    let begun = self.begin();
                    self.sample_early(cause, begun, |_| true);
                }
                Ok(Request::Stop(stop)) => return Some(stop),
                Err(TryRecvError::Disconnected) => return None,
                // Whoever sends wakes this thread afterwards, so nothing is overslept.
                Err(TryRecvError::Empty) => thread::park_timeout(until_glance.unwrap_or(remaining).min(remaining)),
            }
        }
    }

    /// The regular beat: vital signs always, and what rules read. Where there are no rules, the rest is left to scrapes.
    fn tick(&mut self) {
        let begun = self.look();
        if self.follower.edition().is_some() {
            self.sample(begun);
        } else {
            self.next_glance = None;
        }
    }

    /// One look of the regular beat: only these count for rates and distributions, so that scrapes do not change them.
    fn look(&mut self) -> Moment {
        let begun = self.begin();
        // As with a collector: what is kept is usable, and what was not looked at is not repeated.
        if catch_unwind(AssertUnwindSafe(|| self.reader.look(&self.roots, Instant::now))).is_err() {
            self.reader.vitals = Vitals::default();
            tracing::error!("looking at the host panicked");
        }
        self.ready_made.observe(&self.reader.vitals);
        let mut trail = self.trail.lock().unwrap_or_else(PoisonError::into_inner);
        trail.observe(&self.reader.vitals);
        begun
    }

    /// The newest reading of every collector; what a rule reads is read in this round.
    fn sample(&mut self, begun: Moment) {
        let (slow_interval, follower) = (self.slow_interval, &*self.follower);
        let readings = self
            .shelf
            .read(&self.roots, |held| held.is_due(slow_interval, follower));
        self.look_at_memory();
        let snapshot = self.publish(begun, readings);
        self.tell(&snapshot, Occasion::Beat);
    }

    /// Looks at free memory alone, which allocates nothing, and takes a sample of memory where it has fallen.
    fn glance(&mut self) {
        let begun = self.begin();
        let available_bytes = self.look_at_memory();
        if available_bytes.is_some_and(|available_bytes| self.headroom.is_news(available_bytes)) {
            self.sample_early(Cause::MemoryFalls, begun, |held| held.collector.name == "meminfo");
        }
    }

    /// A sample between two beats, for rules only: it counts neither for ready-made rates nor for distributions.
    fn sample_early(&mut self, cause: Cause, begun: Moment, is_meant: impl Fn(&Held) -> bool) {
        let follower = &*self.follower;
        let readings = self
            .shelf
            .read_apart(&self.roots, |held| is_meant(held) && held.is_wanted(follower));
        let snapshot = Arc::new(Snapshot {
            taken_at: begun.wall,
            taken_instant: begun.instant,
            taken_boot: begun.boot,
            fresh_since: begun.instant,
            readings,
            ready_made: Arc::new(derived::of_one_moment(self.reader.memory_used_ratio(&self.roots))),
        });
        self.tell(&snapshot, Occasion::Early(cause));
    }

    /// What is free now, or was in this round, and when to look again.
    fn look_at_memory(&mut self) -> Option<u64> {
        let available_bytes = meminfo::read_available_bytes(&self.roots);
        let now = Instant::now();
        self.next_glance = available_bytes.map(|available_bytes| now + self.headroom.look(now, available_bytes));
        available_bytes
    }

    fn tell(&mut self, snapshot: &Arc<Snapshot>, occasion: Occasion) {
        if self.follower.edition().is_none() {
            return;
        }
        // Of this round, so it is what rules will see.
        if let Some(available_bytes) = meminfo::read_available_bytes(&self.roots) {
            self.headroom.sampled(available_bytes);
        }
        // Whoever listens is a guest on this thread: its fault must not end the sampling.
        if catch_unwind(AssertUnwindSafe(|| self.follower.on_sample(snapshot, occasion))).is_err() {
            tracing::error!("a listener to samples panicked");
        }
    }

    /// A scraper that asked while others were being served finds what was read for them.
    fn answer(&mut self, max_age: Duration, reply: oneshot::Sender<Arc<Snapshot>>) {
        let latest = self.latest.load_full();
        let snapshot = if latest.fresh_since.elapsed() <= max_age {
            latest
        } else {
            let begun = self.begin();
            let readings = self.shelf.read(&self.roots, |held| held.is_older_than(max_age));
            self.publish(begun, readings)
        };
        // A scraper that has gone away needs no answer.
        let _ = reply.send(snapshot);
    }

    /// From here on files are read anew.
    fn begin(&self) -> Moment {
        self.roots.begin_round();
        Moment {
            wall: Timestamp::now(),
            instant: Instant::now(),
            boot: boot_time(),
        }
    }

    fn publish(&mut self, begun: Moment, mut readings: Vec<Arc<Reading>>) -> Arc<Snapshot> {
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
            fresh_since: self.shelf.fresh_since(begun.instant),
            ready_made: self.ready_made.families(&self.reader.vitals, filesystem),
            readings,
        });
        self.latest.store(Arc::clone(&snapshot));
        snapshot
    }
}

#[cfg(test)]
mod tests;
