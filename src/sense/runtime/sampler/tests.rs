//! Tests of the sampler with fake collectors, and on this host.

use super::*;
use crate::family::{DescriptorCache, Family};
use crate::sense::ReadError;
use crate::sense::collectors::meminfo;
use crate::sense::fixture::Tree;
use crate::sense::runtime::collector::Collector;
use crate::sense::runtime::collector_set::{CollectorSet, ScheduledCollector};
use crate::sense::runtime::readers::{ReaderConfig, Timer};
use crate::sense::runtime::roots::RoundPurpose;
use crate::sense::runtime::snapshot::Freshness;
use crate::sense::runtime::snapshot::{EarlyCause, SampleKind};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;

/// Never ticks within a test: only the first sample and samples for scrapes are taken.
const NO_TICKS: Sampling = Sampling {
    interval: Duration::from_secs(3600),
    slow_interval: Duration::from_secs(3600),
};

fn collector(
    name: &'static str,
    read: impl FnMut(&Roots) -> Result<Vec<Family>, ReadError> + Send + 'static,
) -> Collector {
    Collector::with_reader(name, Box::new(read))
}

fn fast(collectors: impl IntoIterator<Item = Collector>) -> CollectorThreads {
    CollectorThreads {
        fast: CollectorSet::new(collectors.into_iter().map(ScheduledCollector::new)),
        ..CollectorThreads::default()
    }
}

/// With `collector` on a thread that reads for scrapes.
fn scraped(collector: Collector, timer: Timer) -> CollectorThreads {
    let freshness = Freshness::Scraped {
        valid_for: Duration::from_secs(3600),
    };
    let reader = ReaderConfig {
        name: "scrape-reader",
        collectors: vec![collector.with_freshness(freshness)],
        timer,
    };
    CollectorThreads {
        others: vec![reader],
        ..fast([counting("fast")])
    }
}

/// A snapshot as a scrape gets it.
fn fresh(sampler: &Sampler, max_age: Duration, patience: Duration) -> Arc<Snapshot> {
    runtime().block_on(sampler.fresh(MaxAge::of_all(max_age), patience))
}

/// With nothing to look at between two beats, so that it sleeps until then unless it is woken.
fn start(threads: CollectorThreads, sampling: Sampling, subscriber: impl Subscriber + 'static) -> Sampler {
    let (core_stats, roots) = (
        CoreStatsReader::default(),
        Roots::new("/nothing", "/nothing", "/nothing"),
    );
    Sampler::start_with(
        core_stats,
        threads,
        roots,
        sampling,
        SelfProtection::Off,
        Box::new(subscriber),
    )
    .unwrap()
}

/// A subscriber whose rules read the metrics of the fake collectors.
struct RuleSubscriber<F>(F);

impl<F: FnMut(&Arc<Snapshot>, SampleKind) + Send> Subscriber for RuleSubscriber<F> {
    fn rules_revision(&self) -> Option<u64> {
        Some(0)
    }

    fn reads(&self, metric: &str) -> bool {
        ["reads", "node_memory_MemTotal_bytes"].contains(&metric)
    }

    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, kind: SampleKind) {
        (self.0)(snapshot, kind);
    }
}

fn counting(name: &'static str) -> Collector {
    let reads = AtomicU64::new(0);
    collector(name, move |_| {
        let count = reads.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(vec![Family::gauge("reads", "").value(count as f64)])
    })
}

fn reads(snapshot: &Arc<Snapshot>) -> f64 {
    number(snapshot, "reads")
}

fn number(snapshot: &Arc<Snapshot>, family: &str) -> f64 {
    let crate::family::SampleValue::Number(value) = snapshot.family(family).unwrap().point(0).value else {
        panic!("not a number")
    };
    *value
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

#[test]
fn panic_or_error_affects_only_its_own_collector() {
    let collectors = vec![
        collector("panics", |_| panic!("deliberately, in a test")),
        collector("fails", |_| Err(ReadError::System("broken".to_owned()))),
        counting("works"),
    ];
    let sampler = start(fast(collectors), NO_TICKS, ());
    let snapshot = sampler.latest();
    let errors: Vec<_> = snapshot
        .readings
        .iter()
        .map(|reading| reading.error.as_deref())
        .collect();
    assert_eq!(errors, [Some("the collector panicked"), Some("broken"), None]);
    assert_eq!(reads(&snapshot), 1.0);
}

#[test]
fn concurrent_scrapes_share_one_read() {
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let mut count = 0.0;
    // Every read but the first waits for the gate.
    let gated = collector("gated", move |_| {
        count += 1.0;
        if count > 1.0 {
            let _ = gate.lock().unwrap().recv();
        }
        Ok(vec![Family::gauge("reads", "").value(count)])
    });
    let sampler = start(fast([gated]), NO_TICKS, ());
    let patience = Duration::from_secs(60);
    let hour = Duration::from_secs(3600);
    runtime().block_on(async {
        assert_eq!(
            reads(&sampler.fresh(MaxAge::of_all(hour), patience).await),
            1.0,
            "a young sample is not read again"
        );
        let max_age = Duration::from_millis(500);
        while sampler.latest().taken.instant.elapsed() <= max_age {
            std::thread::sleep(max_age / 10);
        }
        // `join!` polls in order: all three wait before the read of the first continues.
        let (first, second, third, ()) = tokio::join!(
            sampler.fresh(MaxAge::of_all(max_age), patience),
            sampler.fresh(MaxAge::of_all(max_age), patience),
            sampler.fresh(MaxAge::of_all(max_age), patience),
            async { drop(open) }
        );
        assert_eq!([reads(&first), reads(&second), reads(&third)], [2.0; 3]);
    });
}

/// Rules that change while a test runs: their revision, and the metric that they read.
#[derive(Clone, Default)]
struct Rules(Arc<Mutex<Option<(u64, &'static str)>>>, Option<Sender<[f64; 2]>>);

impl Rules {
    fn set(&self, rules: Option<(u64, &'static str)>) {
        *self.0.lock().unwrap() = rules;
    }
}

impl Subscriber for Rules {
    fn rules_revision(&self) -> Option<u64> {
        self.0.lock().unwrap().map(|(rules_revision, _)| rules_revision)
    }

    fn reads(&self, metric: &str) -> bool {
        self.0.lock().unwrap().is_some_and(|(_, read)| read == metric)
    }

    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, _kind: SampleKind) {
        if let Some(receiver) = &self.1 {
            let _ = receiver.send(["one", "other"].map(|name| number(snapshot, name)));
        }
    }
}

#[test]
fn collectors_without_rules_are_read_for_scrapes_only() {
    let counting = |name: &'static str| {
        let mut count = 0.0;
        let read = move |_: &Roots| {
            count += 1.0;
            Ok(vec![Family::gauge(name, "").value(count)])
        };
        collector(name, read)
    };
    let collectors = fast([counting("one"), counting("other")]);
    let sampling = Sampling {
        interval: Duration::from_millis(50),
        ..NO_TICKS
    };
    let (received, receiver) = channel();
    let rules = Rules(Arc::default(), Some(received));
    let sampler = start(collectors, sampling, rules.clone());
    let both = |snapshot: &Arc<Snapshot>| ["one", "other"].map(|name| number(snapshot, name));
    let fresh = |max_age| both(&fresh(&sampler, max_age, Duration::from_secs(60)));

    // Without rules no collector is read and the subscriber gets nothing, not even early samples.
    let first = sampler.latest();
    assert!(sampler.handle.send(Request::Early(EarlyCause::CpuPressure)));
    assert_eq!(
        receiver.recv_timeout(4 * sampling.interval),
        Err(RecvTimeoutError::Timeout)
    );
    assert!(Arc::ptr_eq(&first, &sampler.latest()), "a sample without a scrape");
    assert_eq!(both(&first), [1.0; 2]);
    assert_eq!(fresh(Duration::ZERO), [2.0; 2]);
    assert_eq!(fresh(Duration::from_secs(3600)), [2.0; 2], "it is young enough");

    rules.set(Some((1, "one")));
    let received: Vec<_> = receiver.iter().take(3).collect();
    assert_eq!(received, [[3.0, 2.0], [4.0, 2.0], [5.0, 2.0]]);
    // After a reload the collector `other` is read from the next tick on, and `one` no more.
    rules.set(Some((2, "other")));
    let mut received = receiver.iter().skip_while(|[_, other]| *other == 2.0);
    let [one, other] = received.next().unwrap();
    for round in 1..10 {
        assert_eq!(received.next(), Some([one, other + f64::from(round)]));
    }

    rules.set(None);
    while receiver.recv_timeout(4 * sampling.interval).is_ok() {}
    let before = both(&sampler.latest());
    std::thread::sleep(4 * sampling.interval);
    assert_eq!(both(&sampler.latest()), before);
}

#[test]
fn failed_collector_is_read_again_at_next_tick() {
    let mut count = 0.0;
    let fails_at_first = collector("x", move |_| {
        count += 1.0;
        if count < 3.0 {
            return Err(ReadError::System("broken".to_owned()));
        }
        Ok(vec![Family::gauge("reads", "").value(count)])
    });
    let (received, receiver) = channel();
    let subscriber = RuleSubscriber(move |snapshot: &Arc<Snapshot>, _| {
        let _ = received.send(snapshot.family("reads").map(|_| reads(snapshot)));
    });
    let sampling = Sampling {
        interval: Duration::from_millis(5),
        ..NO_TICKS
    };
    let _sampler = start(fast([fails_at_first]), sampling, subscriber);
    let received: Vec<_> = receiver.iter().take(4).collect();
    assert_eq!(received, [None, None, Some(3.0), Some(4.0)]);
}

#[test]
fn rules_find_metrics_that_appear_later() {
    let mut count = 0.0;
    let read = move |_: &Roots| {
        count += 1.0;
        let name = if count > 2.0 { "late" } else { "reads" };
        Ok(vec![Family::gauge(name, "").value(count)])
    };
    let sampling = Sampling {
        interval: Duration::from_millis(5),
        slow_interval: Duration::from_millis(40),
    };
    struct Late(Sender<Option<f64>>);
    impl Subscriber for Late {
        fn rules_revision(&self) -> Option<u64> {
            Some(7)
        }

        fn reads(&self, metric: &str) -> bool {
            metric == "late"
        }

        fn on_sample(&mut self, snapshot: &Arc<Snapshot>, _kind: SampleKind) {
            let _ = self.0.send(snapshot.family("late").map(|_| number(snapshot, "late")));
        }
    }
    let (received, receiver) = channel();
    let _sampler = start(fast([collector("x", read)]), sampling, Late(received));
    let late: Vec<f64> = receiver.iter().flatten().take(5).collect();
    assert_eq!(late, [3.0, 4.0, 5.0, 6.0, 7.0]);
}

/// A collector that hangs from its second read on, until the sender is dropped.
fn hanging_from_the_second_read() -> (Collector, Sender<()>) {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let mut first = true;
    let hangs = collector("hangs", move |_| {
        if !std::mem::take(&mut first) {
            let _ = released.lock().unwrap().recv();
        }
        Ok(vec![Family::gauge("reads", "").value(1.0)])
    });
    (hangs, release)
}

#[test]
fn scrape_does_not_wait_for_hanging_collector() {
    let (hangs, release) = hanging_from_the_second_read();
    let sampler = start(fast([hangs]), NO_TICKS, ());
    let stale = fresh(&sampler, Duration::ZERO, Duration::from_millis(20));
    assert_eq!(reads(&stale), 1.0);
    drop(release);
}

#[test]
fn hanging_sampler_shows_no_outdated_reading() {
    let (hangs, release) = hanging_from_the_second_read();
    let sampling = Sampling {
        slow_interval: Duration::from_secs(1),
        ..NO_TICKS
    };
    let sampler = start(fast([hangs]), sampling, ());
    let mut former = Snapshot::clone(&sampler.latest());
    former.readings = vec![Arc::new(CollectorReading {
        read: SampleTime::before_now(max_reading_age(sampling.slow_interval)),
        ..CollectorReading::clone(&former.readings[0])
    })];
    sampler.shared.latest.store(Arc::new(former));
    let snapshot = fresh(&sampler, Duration::ZERO, Duration::from_millis(20));
    let error = snapshot.readings[0].error.as_deref();
    assert_eq!(error, Some("its last reading is older than 10 s"));
    assert!(snapshot.family("reads").is_none());
    drop(release);
}

#[test]
fn subscriber_gets_ticks_not_scrapes_and_may_panic() {
    let (received, receiver) = channel();
    let sampling = Sampling {
        interval: Duration::from_millis(5),
        ..NO_TICKS
    };
    let subscriber = RuleSubscriber(move |snapshot: &Arc<Snapshot>, _| {
        let _ = received.send(reads(snapshot));
        panic!("deliberately, in a test");
    });
    let sampler = start(fast([counting("x")]), sampling, subscriber);
    assert_eq!(
        [receiver.recv(), receiver.recv(), receiver.recv()],
        [Ok(1.0), Ok(2.0), Ok(3.0)]
    );
    drop(sampler);
    assert!(
        receiver.iter().count() < 1_000_000,
        "the subscriber is dropped with the sampler"
    );
}

#[test]
fn falling_memory_is_sampled_early_and_not_counted() {
    let tree = Tree::new();
    // One write of constant length, because the sampler reads the file meanwhile.
    tree.proc("meminfo", "");
    let file = std::fs::File::options()
        .write(true)
        .open(tree.roots.proc("meminfo"))
        .unwrap();
    let available = |kib: u64| {
        let text = format!("MemTotal: 1000 kB\nMemAvailable: {kib:4} kB\n");
        file.write_all_at(text.as_bytes(), 0).unwrap();
    };
    available(900);
    let (received, receiver) = channel();
    let subscriber = RuleSubscriber(move |snapshot: &Arc<Snapshot>, kind| {
        let names: Vec<_> = snapshot.readings.iter().map(|reading| reading.collector).collect();
        let ready: Vec<_> = snapshot.derived.iter().map(|family| family.name.to_string()).collect();
        let _ = received.send((kind, names, ready));
    });
    let mut meminfo = meminfo::Meminfo::default();
    let collectors = vec![counting("x"), collector("meminfo", move |roots| meminfo.read(roots))];
    let core_stats = CoreStatsReader::new(StatSources::new(
        &BTreeSet::from(["meminfo"]),
        &CollectorOptions::default(),
    ));
    let sampler = Sampler::start_with(
        core_stats,
        fast(collectors),
        tree.roots.clone(),
        NO_TICKS,
        SelfProtection::Off,
        Box::new(subscriber),
    )
    .unwrap();
    let (kind, names, ready) = receiver.recv().unwrap();
    assert_eq!((kind, names), (SampleKind::Regular, vec!["x", "meminfo"]));
    assert!(ready.contains(&"evenkeel_memory_used_ratio_distribution".to_owned()));
    available(100);
    let (kind, names, ready) = receiver.recv().unwrap();
    assert_eq!(
        (kind, names),
        (SampleKind::Early(EarlyCause::MemoryFalls), vec!["meminfo"])
    );
    assert_eq!(ready, ["evenkeel_memory_used_ratio"]);
    drop(sampler);
}

#[test]
fn first_snapshot_waits_briefly_for_slow_collectors() {
    let (_release, released) = channel::<()>();
    let released = Mutex::new(released);
    let hangs = collector("hangs", move |_| {
        let _ = released.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let sampler = Sampler::start_with(
        CoreStatsReader::default(),
        CollectorThreads {
            others: vec![ReaderConfig {
                name: "slow-sampler",
                collectors: vec![counting("before"), hangs],
                timer: Timer::Only,
            }],
            ..fast([counting("x")])
        },
        Roots::default(),
        NO_TICKS,
        SelfProtection::Off,
        Box::new(()),
    )
    .unwrap();
    let names: Vec<_> = sampler
        .latest()
        .readings
        .iter()
        .map(|reading| reading.collector)
        .collect();
    assert_eq!(names, ["x", "before"]);
}

#[test]
fn first_snapshot_waits_briefly_for_scraped_collectors() {
    let (_release, released) = channel::<()>();
    let released = Mutex::new(released);
    let hangs = collector("hangs", move |_| {
        let _ = released.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let mut threads = scraped(counting("before"), Timer::WithRules);
    threads.others[0].collectors.push(hangs);
    let sampler = start(threads, NO_TICKS, ());
    let names: Vec<_> = sampler
        .latest()
        .readings
        .iter()
        .map(|reading| reading.collector)
        .collect();
    assert_eq!(names, ["fast", "before"]);
}

const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// The number of times that the collector on the other thread was read.
fn scraped_reads(snapshot: &Arc<Snapshot>) -> f64 {
    number(snapshot, "scraped_reads")
}

/// A collector that counts its reads, each of which takes `duration`.
fn counting_slowly(duration: Duration) -> Collector {
    let mut count = 0.0;
    collector("scraped", move |_| {
        count += 1.0;
        thread::sleep(duration);
        Ok(vec![Family::gauge("scraped_reads", "").value(count)])
    })
}

#[test]
fn other_threads_read_for_each_scrape() {
    let sampler = start(scraped(counting_slowly(Duration::ZERO), Timer::WithRules), NO_TICKS, ());
    for expected in [2.0, 3.0, 4.0] {
        thread::sleep(Duration::from_millis(20));
        let snapshot = fresh(&sampler, Duration::from_millis(1), LONG_PATIENCE);
        assert_eq!([reads(&snapshot), scraped_reads(&snapshot)], [expected; 2]);
    }
    let hour = Duration::from_secs(3600);
    assert_eq!(scraped_reads(&fresh(&sampler, hour, LONG_PATIENCE)), 4.0);
    // A scrape of fast collectors only.
    let max_age = MaxAge {
        fast: Duration::ZERO,
        scraped: hour,
    };
    let snapshot = runtime().block_on(sampler.fresh(max_age, LONG_PATIENCE));
    assert_eq!([reads(&snapshot), scraped_reads(&snapshot)], [5.0, 4.0]);
}

#[test]
fn scrapers_share_an_expensive_reading() {
    let duration = Duration::from_millis(400);
    let sampler = start(scraped(counting_slowly(duration), Timer::WithRules), NO_TICKS, ());
    let zero = MaxAge::of_all(Duration::ZERO);
    let reading = || {
        let latest = sampler.latest();
        let mut readings = latest.readings.iter();
        Arc::clone(readings.find(|reading| reading.collector == "scraped").unwrap())
    };
    // It is valid for as long again as it took.
    let (first, tick) = (reading(), Duration::from_nanos(1));
    let end = first.read.instant + 2 * first.duration;
    assert!(first.duration >= duration && first.is_fresh(end, zero) && !first.is_fresh(end + tick, zero));
    let is_shared = || reading().is_fresh(Instant::now(), zero);
    while is_shared() {
        thread::sleep(duration / 10);
    }
    let both = runtime().block_on(async {
        let (one, other) = tokio::join!(sampler.fresh(zero, LONG_PATIENCE), sampler.fresh(zero, LONG_PATIENCE));
        [scraped_reads(&one), scraped_reads(&other)]
    });
    assert_eq!(both, [2.0; 2]);
}

#[test]
fn what_the_host_lacks_is_looked_for_by_slow_interval_only() {
    type Read = fn() -> Result<Vec<Family>, ReadError>;
    let nothing: [Read; 2] = [
        || Err(ReadError::Absent("no such thing")),
        || Ok(vec![Family::gauge("thing", "")]),
    ];
    for result in nothing {
        let looks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&looks);
        let absent = collector("absent", move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            result()
        });
        let sampler = start(scraped(absent, Timer::WithRules), NO_TICKS, ());
        for expected in [2.0, 3.0] {
            assert_eq!(reads(&fresh(&sampler, Duration::ZERO, LONG_PATIENCE)), expected);
        }
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn scrape_gets_the_former_reading_of_a_hanging_thread() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let mut count = 0.0;
    let hangs = collector("hangs", move |_| {
        count += 1.0;
        if count == 2.0 {
            let _ = released.lock().unwrap().recv();
        }
        Ok(vec![Family::gauge("scraped_reads", "").value(count)])
    });
    let sampler = start(scraped(hangs, Timer::WithRules), NO_TICKS, ());
    let patience = Duration::from_millis(400);
    let snapshot = fresh(&sampler, Duration::ZERO, patience);
    assert_eq!(
        [reads(&snapshot), scraped_reads(&snapshot)],
        [2.0, 1.0],
        "the other thread's samples are fresh"
    );
    // Those after it do not wait again.
    let asked = Instant::now();
    for expected in [3.0, 4.0, 5.0] {
        let snapshot = fresh(&sampler, Duration::ZERO, patience);
        assert_eq!([reads(&snapshot), scraped_reads(&snapshot)], [expected, 1.0]);
    }
    assert!(asked.elapsed() < patience, "{:?}", asked.elapsed());
    drop(release);
    while scraped_reads(&fresh(&sampler, Duration::ZERO, patience)) < 3.0 {
        assert!(asked.elapsed() < LONG_PATIENCE, "the thread goes on");
    }
}

#[test]
fn hanging_collector_delays_no_other_one_of_its_thread() {
    let sampling = Sampling {
        interval: Duration::from_millis(20),
        slow_interval: Duration::from_millis(20),
    };
    let started = Instant::now();
    let hanging = [Timer::Always, Timer::Only].map(|timer| {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let hangs = collector("hangs", move |_| {
            let _ = released.lock().unwrap().recv();
            Ok(vec![Family::gauge("returned", "").value(1.0)])
        });
        let mut threads = scraped(counting_slowly(Duration::ZERO), timer);
        threads.others[0].collectors.insert(0, hangs);
        (start(threads, sampling, ()), release)
    });
    for (sampler, release) in hanging {
        let wait_for = |name: &str, least: f64| loop {
            let snapshot = fresh(&sampler, Duration::ZERO, LONG_PATIENCE);
            if snapshot.family(name).is_some() && number(&snapshot, name) >= least {
                return snapshot;
            }
            assert!(started.elapsed() < LONG_PATIENCE, "{name} {least}");
            thread::sleep(sampling.interval);
        };
        let snapshot = wait_for("scraped_reads", 3.0);
        let hanging = snapshot.readings.iter().find(|reading| reading.collector == "hangs");
        let error = hanging.and_then(|reading| reading.error.as_deref()).unwrap();
        assert!(error.starts_with("its read has not returned since "), "{error}");
        drop(release);
        let snapshot = wait_for("returned", 1.0);
        wait_for("scraped_reads", scraped_reads(&snapshot) + 3.0);
    }
}

#[test]
fn timer_reads_for_rules_where_no_scrape_does() {
    let sampling = Sampling {
        interval: Duration::from_millis(20),
        slow_interval: Duration::from_millis(60),
    };
    let start_without_scrapes = |timer, has_rules: bool| {
        let rules = Rules::default();
        rules.set(has_rules.then_some((1, "none")));
        start(scraped(counting_slowly(Duration::ZERO), timer), sampling, rules)
    };
    let count = |sampler: &Sampler| {
        let fast_only = MaxAge {
            fast: Duration::ZERO,
            scraped: Duration::from_secs(3600),
        };
        scraped_reads(&runtime().block_on(sampler.fresh(fast_only, LONG_PATIENCE)))
    };
    for (timer, has_rules) in [(Timer::WithRules, true), (Timer::Always, false)] {
        let (sampler, started) = (start_without_scrapes(timer, has_rules), Instant::now());
        while count(&sampler) < 3.0 {
            assert!(started.elapsed() < LONG_PATIENCE, "{timer:?}");
            thread::sleep(sampling.slow_interval);
        }
    }
    let sampler = start_without_scrapes(Timer::WithRules, false);
    thread::sleep(10 * sampling.slow_interval);
    assert_eq!(count(&sampler), 1.0);
}

#[test]
fn default_collectors_sample_this_host() {
    let config = SamplerConfig {
        roots: Roots::default(),
        ..SamplerConfig::default()
    };
    let sampler = Sampler::start(config, Box::new(())).unwrap();
    let snapshot = sampler.latest();
    for name in [
        "node_cpu_seconds_total",
        "node_memory_MemTotal_bytes",
        "node_load1",
        "node_uname_info",
    ] {
        assert!(snapshot.family(name).is_some_and(|family| !family.is_empty()), "{name}");
    }
}

#[test]
fn empty_tree_fails_every_reader_of_it() {
    let tree = Tree::new();
    let config = SamplerConfig {
        roots: tree.roots.clone(),
        ..SamplerConfig::default()
    };
    let sampler = Sampler::start(config, Box::new(())).unwrap();
    let snapshot = sampler.latest();
    let of = |name: &str| {
        snapshot
            .readings
            .iter()
            .find(|reading| reading.collector == name)
            .unwrap()
    };
    assert!(!of("cpu").success() && of("cpu").error.as_ref().unwrap().contains("/stat"));
    assert!(of("uname").success());
    let about = snapshot.collector_families(
        snapshot.taken.instant + Duration::from_secs(2),
        &mut DescriptorCache::default(),
    );
    assert_eq!(about[0].len(), snapshot.readings.len());
}

#[test]
fn scrape_after_a_sample_for_rules_reads_counters_of_devices() {
    let tree = Tree::new();
    tree.proc("net/dev", "x\nx\neth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
    tree.sys("class/net/eth0/statistics/rx_nohandler", "1\n");
    let mut netdev = Collector::new(
        COLLECTORS.iter().find(|info| info.name == "netdev").unwrap(),
        &CollectorOptions::default(),
    );
    let max_age = MaxAge::of_all(Duration::from_secs(60));
    tree.roots.begin_round(RoundPurpose::Rules);
    let reading = netdev.read(&tree.roots);
    assert!(
        !reading.is_fresh(reading.read.instant, max_age),
        "its counter may be old"
    );
    tree.roots.begin_round(RoundPurpose::Scrape);
    let reading = netdev.read(&tree.roots);
    assert!(reading.is_fresh(reading.read.instant, max_age));
}
