//! The scrapes that wait for samples, and the threads that read for them.

use super::readers::Readers;
use super::snapshot::{MaxAge, SampleTime, Snapshot};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A scrape whose samples are being read.
pub struct WaitingScrape {
    pub at: Instant,
    pub max_age: MaxAge,
    /// How long it waits for each thread.
    pub patience: Duration,
    pub reply: oneshot::Sender<Arc<Snapshot>>,
}

/// The waiting scrapes, in the order in which they came.
pub struct ScrapeQueue {
    pub readers: Readers,
    waiting: Vec<WaitingScrape>,
    /// When fast collectors were last read for a scrape.
    pub fast_read: SampleTime,
}

impl ScrapeQueue {
    pub fn new(readers: Readers) -> ScrapeQueue {
        ScrapeQueue {
            readers,
            waiting: Vec::new(),
            fast_read: SampleTime::now(),
        }
    }

    pub fn push(&mut self, scrape: WaitingScrape) {
        self.waiting.push(scrape);
    }

    /// Notes that a thread is done, which may have begun before a waiting scrape came, and then reads again. `done` is
    /// that of [`Readers::request_stale`].
    pub fn note_done(&mut self, index: usize, done: &(impl Fn(usize) + Clone + Send + 'static)) {
        self.readers.note_done(index);
        for scrape in &self.waiting {
            self.readers.request_stale(scrape.at, scrape.max_age, done.clone());
        }
    }

    /// Removes the scrapes that have all that they get, and those whose client has gone. Returns also when another one
    /// stops waiting.
    pub fn take_ready(&mut self, now: Instant) -> (Vec<WaitingScrape>, Option<Instant>) {
        let (readers, mut next) = (&self.readers, None::<Instant>);
        let ready = self.waiting.extract_if(.., |scrape| {
            if scrape.reply.is_closed() {
                return true;
            }
            let until = readers.wait_until(scrape.at, scrape.max_age, scrape.patience, now);
            next = next.into_iter().chain(until).min();
            until.is_none()
        });
        (ready.collect(), next)
    }
}
