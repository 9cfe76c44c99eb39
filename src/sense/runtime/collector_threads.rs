//! The division of the enabled collectors among threads, by their pace.

use super::collector::Collector;
use super::collector_set::{CollectorSet, ScheduledCollector};
use super::scrape_reader::{ReaderConfig, Timer};
use super::snapshot::Freshness;
use crate::sense::collectors::info::Pace;
use crate::sense::collectors::options::CollectorOptions;
use crate::sense::collectors::registry::COLLECTORS;
use std::collections::BTreeSet;
use std::time::Duration;

/// The collectors of each thread.
#[derive(Default)]
pub struct CollectorThreads {
    /// On the sampler's thread.
    pub fast: CollectorSet,
    /// On threads that read for scrapes.
    pub scraped: Vec<ReaderConfig>,
    /// On threads with a timer, each with its name.
    pub timed: Vec<(&'static str, Vec<Collector>)>,
}

impl CollectorThreads {
    /// The collectors of these names.
    pub fn new(
        enabled: &BTreeSet<&'static str>,
        options: &CollectorOptions,
        slow_interval: Duration,
    ) -> CollectorThreads {
        let (mut fast, mut scraped, mut timed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut isolated_readers, mut isolated_timers) = (Vec::new(), Vec::new());
        let scraped_freshness = Freshness::Scraped {
            valid_for: slow_interval,
        };
        for info in COLLECTORS.iter().filter(|info| enabled.contains(info.name)) {
            let collector = Collector::new(info, options).with_freshness(match info.pace {
                Pace::Fast => Freshness::Fast,
                Pace::Scrape | Pace::IsolatedScrape => scraped_freshness,
                Pace::Slow | Pace::IsolatedSlow => Freshness::Timed,
            });
            match info.pace {
                Pace::Fast => fast.push(ScheduledCollector::new(collector)),
                Pace::Scrape => scraped.push(collector),
                Pace::IsolatedScrape => isolated_readers.push(ReaderConfig {
                    name: info.name,
                    collectors: vec![collector],
                    timer: Timer::Always,
                }),
                Pace::Slow => timed.push(collector),
                Pace::IsolatedSlow => isolated_timers.push((info.name, vec![collector])),
            }
        }
        let scraped = ReaderConfig {
            name: "scrape-reader",
            collectors: scraped,
            timer: Timer::WithRules,
        };
        CollectorThreads {
            fast: CollectorSet::new(fast),
            scraped: [scraped].into_iter().chain(isolated_readers).collect(),
            timed: [("slow-sampler", timed)].into_iter().chain(isolated_timers).collect(),
        }
    }
}
