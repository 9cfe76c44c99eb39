//! The threads that read collectors for scrapes, or by a timer, as the sampler's thread sees them. A scrape waits for a
//! thread no longer than its patience.

use super::collector::Collector;
use super::reader_thread::{ReadRequest, ReaderThread, Wanted};
use super::roots::Roots;
use super::snapshot::{CollectorReading, MaxAge, max_reading_age};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The share of `interval` by which a timer may be early, so that the jitter of ticks does not cost it a whole one.
const EARLY_SHARE: u32 = 20;
/// The same where no scrape reads as well: then the nearest tick counts.
const EARLY_SHARE_ALONE: u32 = 2;

/// A read that takes longer than `slow_interval` counts as hanging, within these bounds. The lower one is for busy hosts,
/// which may delay a read by some seconds, and the upper one keeps the other collectors from being outdated.
const HANG_PATIENCE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];

/// When a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// For scrapes, and every `slow_interval` while there are rules.
    WithRules,
    /// For scrapes, and every `slow_interval`.
    Always,
    /// Every `slow_interval`.
    Only,
}

/// The collectors of one thread.
pub struct ReaderConfig {
    pub name: &'static str,
    pub collectors: Vec<Collector>,
    pub timer: Timer,
}

/// A request that a thread works on.
struct CurrentRequest {
    request: ReadRequest,
    /// When the thread got it.
    since: Instant,
}

/// A thread with its timer. Its owner tells it when a request is done.
struct Reader {
    thread: ReaderThread,
    timer: Timer,
    last_request: Option<Instant>,
    current: Option<CurrentRequest>,
}

impl Reader {
    fn start(config: ReaderConfig, roots: &Roots) -> io::Result<Reader> {
        Ok(Reader {
            thread: ReaderThread::start(config.name, config.collectors, roots)?,
            timer: config.timer,
            last_request: None,
            current: None,
        })
    }

    /// Makes an idle thread read.
    fn request(&mut self, request: ReadRequest, done: impl FnOnce() + Send + 'static) {
        if self.current.is_none() && self.thread.is_due(&request) {
            self.last_request = Some(request.at);
            self.send(request, done);
        }
    }

    fn send(&mut self, request: ReadRequest, done: impl FnOnce() + Send + 'static) {
        // A thread that has died serves no request, and its readings become outdated.
        let _ = self.thread.send(request, Box::new(done));
        self.current = Some(CurrentRequest {
            request,
            since: Instant::now(),
        });
    }

    fn is_for_scrapes(&self) -> bool {
        self.timer != Timer::Only
    }

    /// Replaces a thread whose read takes longer than `patience`; the other one goes on with the request.
    fn replace_hanging_thread(
        &mut self,
        now: Instant,
        patience: Duration,
        roots: &Roots,
        done: impl FnOnce() + Send + 'static,
    ) {
        if let Some(current) = &self.current
            && now.saturating_duration_since(current.since) > patience
        {
            let request = current.request;
            if self.thread.replace_if_it_hangs(patience, roots) {
                self.send(request, done);
            }
        }
    }
}

/// All threads, and how often they read.
pub struct Readers {
    readers: Vec<Reader>,
    roots: Roots,
    interval: Duration,
    slow_interval: Duration,
}

impl Readers {
    pub fn start(
        configs: impl IntoIterator<Item = ReaderConfig>,
        roots: &Roots,
        interval: Duration,
        slow_interval: Duration,
    ) -> io::Result<Readers> {
        let configs = configs.into_iter().filter(|config| !config.collectors.is_empty());
        let readers = configs.map(|config| Reader::start(config, roots));
        Ok(Readers {
            readers: readers.collect::<io::Result<_>>()?,
            roots: roots.clone(),
            interval,
            slow_interval,
        })
    }

    /// Makes all threads read, at the start. `done` gets the index of a thread for [`Readers::note_done`].
    pub fn request_all(&mut self, done: impl Fn(usize) + Clone + Send + 'static) {
        let at = Instant::now();
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let done = done.clone();
            reader.request(
                ReadRequest {
                    at,
                    wanted: Wanted::All,
                },
                move || done(index),
            );
        }
    }

    /// Makes the idle threads read what is stale for a scrape. `done` is that of [`Readers::request_all`].
    pub fn request_stale(&mut self, at: Instant, max_age: MaxAge, done: impl Fn(usize) + Clone + Send + 'static) {
        let wanted = Wanted::Stale(max_age);
        for (index, reader) in self.readers.iter_mut().enumerate() {
            if reader.is_for_scrapes() {
                let done = done.clone();
                reader.request(ReadRequest { at, wanted }, move || done(index));
            }
        }
    }

    /// Replaces threads that hang, and makes the idle threads read what is older than `slow_interval`, where no scrape
    /// did so meanwhile.
    pub fn tick(&mut self, has_rules: bool, done: impl Fn(usize) + Clone + Send + 'static) {
        let at = Instant::now();
        let [least, most] = HANG_PATIENCE;
        let patience = self.slow_interval.clamp(least, most);
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let done = done.clone();
            let done = move || done(index);
            reader.replace_hanging_thread(at, patience, &self.roots, done.clone());
            let is_timed = has_rules || reader.timer != Timer::WithRules;
            let early_share = if reader.is_for_scrapes() {
                EARLY_SHARE
            } else {
                EARLY_SHARE_ALONE
            };
            let interval = self.slow_interval.saturating_sub(self.interval / early_share);
            if is_timed && reader.last_request.is_none_or(|last| at - last >= interval) {
                reader.request(
                    ReadRequest {
                        at,
                        wanted: Wanted::All,
                    },
                    done,
                );
            }
        }
    }

    pub fn slow_interval(&self) -> Duration {
        self.slow_interval
    }

    pub fn note_done(&mut self, index: usize) {
        self.readers[index].current = None;
    }

    pub fn is_busy(&self) -> bool {
        self.readers.iter().any(|reader| reader.current.is_some())
    }

    /// Until when a scrape waits for threads that read for it; `None` where it has all that it gets. It does not wait
    /// for a read that has already taken longer than `patience`.
    pub fn wait_until(&self, asked: Instant, max_age: MaxAge, patience: Duration, now: Instant) -> Option<Instant> {
        let request = ReadRequest {
            at: asked,
            wanted: Wanted::Stale(max_age),
        };
        let busy = self.readers.iter().filter_map(|reader| {
            let since = reader.current.as_ref()?.since;
            let is_awaited = reader.is_for_scrapes() && reader.thread.is_due(&request);
            is_awaited.then_some(since.min(asked) + patience)
        });
        busy.filter(|until| *until > now).max()
    }

    /// The newest reading of each collector. An outdated reading counts as failed.
    pub fn readings(&self) -> impl Iterator<Item = Arc<CollectorReading>> {
        let (now, max_age) = (Instant::now(), max_reading_age(self.slow_interval));
        let readers = self.readers.iter();
        readers.flat_map(move |reader| {
            let asked = reader.current.as_ref().map(|current| current.since);
            reader.thread.readings(now, max_age, asked)
        })
    }
}
