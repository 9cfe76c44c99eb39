//! The division of the enabled collectors among threads, by their pace.

use super::collector::Collector;
use super::collector_set::{CollectorSet, ScheduledCollector};
use super::readers::{ReaderConfig, Timer};
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
    /// On other threads.
    pub others: Vec<ReaderConfig>,
}

impl CollectorThreads {
    /// The collectors of these names.
    pub fn new(
        enabled: &BTreeSet<&'static str>,
        options: &CollectorOptions,
        slow_interval: Duration,
    ) -> CollectorThreads {
        let (mut fast, mut scraped, mut timed) = (Vec::new(), Vec::new(), Vec::new());
        let mut isolated = Vec::new();
        let scraped_freshness = Freshness::Scraped {
            valid_for: slow_interval,
        };
        for info in COLLECTORS.iter().filter(|info| enabled.contains(info.name)) {
            let collector = Collector::new(info, options).with_freshness(match info.pace {
                Pace::Fast => Freshness::Fast,
                Pace::Scrape | Pace::IsolatedScrape if info.has_sources(options) => scraped_freshness,
                Pace::Scrape | Pace::IsolatedScrape => Freshness::Timed,
                Pace::Slow => Freshness::Timed,
            });
            match info.pace {
                Pace::Fast => fast.push(ScheduledCollector::new(collector)),
                Pace::Scrape => scraped.push(collector),
                Pace::IsolatedScrape => isolated.push(ReaderConfig {
                    name: info.name,
                    collectors: vec![collector],
                    timer: Timer::Always,
                }),
                Pace::Slow => timed.push(collector),
            }
        }
        let timed = ReaderConfig {
            name: "slow-sampler",
            collectors: timed,
            timer: Timer::Only,
        };
        let scraped = ReaderConfig {
            name: "scrape-reader",
            collectors: scraped,
            timer: Timer::WithRules,
        };
        CollectorThreads {
            fast: CollectorSet::new(fast),
            others: [timed, scraped].into_iter().chain(isolated).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrape_does_not_wait_for_text_files_without_a_directory() {
        let freshness = |directories: &[&str]| {
            let options = CollectorOptions {
                textfile_directories: directories.iter().map(|name| (*name).to_owned()).collect(),
                ..CollectorOptions::default()
            };
            let threads = CollectorThreads::new(&BTreeSet::from(["textfile"]), &options, Duration::from_secs(15));
            let textfile = threads.others.into_iter().find(|config| config.name == "textfile");
            let mut collector = textfile.unwrap().collectors.remove(0);
            collector.read(&crate::sense::Roots::default()).freshness
        };
        assert!(matches!(freshness(&[]), Freshness::Timed));
        assert!(matches!(freshness(&["/nowhere"]), Freshness::Scraped { .. }));
    }
}
