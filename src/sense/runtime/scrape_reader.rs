//! Threads that read collectors for scrapes. A source that hangs delays only the collectors on the same thread, and
//! a scrape waits for a thread no longer than its patience.

use super::collector::Collector;
use super::roots::Roots;
use super::snapshot::{CollectorReading, MaxAge};
use crate::host::self_priority;
use arc_swap::ArcSwapOption;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The share of `interval` by which a timer may be early, so that the jitter of ticks does not cost it a whole one.
const EARLY_SHARE: u32 = 20;

/// When a reader reads without a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// Every `slow_interval` while there are rules.
    WithRules,
    /// Every `slow_interval`.
    Always,
}

/// The collectors of one thread.
pub struct ReaderConfig {
    pub name: &'static str,
    pub collectors: Vec<Collector>,
    pub timer: Timer,
}

/// The newest reading of each collector of a thread.
type NewestReadings = Arc<[ArcSwapOption<CollectorReading>]>;

/// A request to read what is stale for a scrape.
struct ReadRequest {
    at: Instant,
    max_age: MaxAge,
    /// Called when all is read.
    done: Box<dyn FnOnce() + Send>,
}

/// A thread that reads collectors on request. Its owner tells it when a request is done.
struct ScrapeReader {
    newest: NewestReadings,
    requests: Sender<ReadRequest>,
    timer: Timer,
    last_request: Option<Instant>,
    /// When the request was made that the thread works on.
    busy_since: Option<Instant>,
}

impl ScrapeReader {
    fn start(config: ReaderConfig, roots: Roots) -> io::Result<ScrapeReader> {
        let newest: NewestReadings = config.collectors.iter().map(|_| ArcSwapOption::empty()).collect();
        let (sender, requests) = channel();
        let (shared, collectors) = (Arc::clone(&newest), config.collectors);
        // It is never joined, because a source may block it for ever and it holds nothing that needs a clean end.
        thread::Builder::new().name(config.name.to_owned()).spawn(move || {
            self_priority::reset_priority();
            read_on_request(collectors, &shared, &roots, &requests);
        })?;
        Ok(ScrapeReader {
            newest,
            requests: sender,
            timer: config.timer,
            last_request: None,
            busy_since: None,
        })
    }

    /// Makes an idle thread read what is stale.
    fn request_stale(&mut self, now: Instant, max_age: MaxAge, done: impl FnOnce() + Send + 'static) {
        if self.busy_since.is_some() || !self.is_stale(now, max_age) {
            return;
        }
        let request = ReadRequest {
            at: now,
            max_age,
            done: Box::new(done),
        };
        self.last_request = Some(now);
        self.busy_since = self.requests.send(request).is_ok().then(Instant::now);
    }

    fn is_stale(&self, now: Instant, max_age: MaxAge) -> bool {
        let is_stale = |newest: &ArcSwapOption<CollectorReading>| is_stale(newest, now, max_age);
        self.newest.iter().any(is_stale)
    }
}

fn is_stale(newest: &ArcSwapOption<CollectorReading>, now: Instant, max_age: MaxAge) -> bool {
    newest
        .load()
        .as_ref()
        .is_none_or(|reading| !reading.is_fresh(now, max_age))
}

fn read_on_request(
    mut collectors: Vec<Collector>,
    newest: &[ArcSwapOption<CollectorReading>],
    roots: &Roots,
    requests: &Receiver<ReadRequest>,
) {
    for request in requests {
        for (collector, newest) in collectors.iter_mut().zip(newest) {
            if is_stale(newest, request.at, request.max_age) {
                // Stored one by one, so that a slow collector does not delay those before it.
                newest.store(Some(collector.read(roots)));
            }
        }
        (request.done)();
    }
}

/// The threads that read for scrapes, as the sampler's thread sees them.
pub struct ScrapeReaders {
    readers: Vec<ScrapeReader>,
    interval: Duration,
    slow_interval: Duration,
}

impl ScrapeReaders {
    pub fn start(
        configs: impl IntoIterator<Item = ReaderConfig>,
        roots: &Roots,
        interval: Duration,
        slow_interval: Duration,
    ) -> io::Result<ScrapeReaders> {
        let configs = configs.into_iter().filter(|config| !config.collectors.is_empty());
        let readers = configs.map(|config| ScrapeReader::start(config, roots.clone()));
        Ok(ScrapeReaders {
            readers: readers.collect::<io::Result<_>>()?,
            interval,
            slow_interval,
        })
    }

    /// Makes the idle threads read what is stale for a scrape. `done` gets the index of a thread for
    /// [`ScrapeReaders::note_done`].
    pub fn request_stale(&mut self, now: Instant, max_age: MaxAge, done: impl Fn(usize) + Clone + Send + 'static) {
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let done = done.clone();
            reader.request_stale(now, max_age, move || done(index));
        }
    }

    /// Makes the idle threads read what is older than `slow_interval`, where no scrape did so meanwhile.
    pub fn tick(&mut self, has_rules: bool, done: impl Fn(usize) + Clone + Send + 'static) {
        let now = Instant::now();
        let interval = self.slow_interval - self.interval / EARLY_SHARE;
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let is_timed = has_rules || reader.timer == Timer::Always;
            if is_timed && reader.last_request.is_none_or(|last| now - last >= interval) {
                let done = done.clone();
                reader.request_stale(now, MaxAge::of_all(interval), move || done(index));
            }
        }
    }

    pub fn slow_interval(&self) -> Duration {
        self.slow_interval
    }

    pub fn note_done(&mut self, index: usize) {
        self.readers[index].busy_since = None;
    }

    pub fn is_busy(&self) -> bool {
        self.readers.iter().any(|reader| reader.busy_since.is_some())
    }

    /// Until when a scrape waits for threads that read for it; `None` where it has all that it gets. It does not wait
    /// for a read that has already taken longer than `patience`.
    pub fn wait_until(&self, asked: Instant, max_age: MaxAge, patience: Duration, now: Instant) -> Option<Instant> {
        let busy = self.readers.iter().filter_map(|reader| {
            let busy_since = reader.busy_since?;
            reader
                .is_stale(asked, max_age)
                .then_some(busy_since.min(asked) + patience)
        });
        busy.filter(|until| *until > now).max()
    }

    /// The newest reading of each collector.
    pub fn readings(&self) -> impl Iterator<Item = Arc<CollectorReading>> {
        let newest = self.readers.iter().flat_map(|reader| reader.newest.iter());
        newest.filter_map(|newest| newest.load_full())
    }
}
