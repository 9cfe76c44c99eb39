//! The sampler with collectors made up for a test, and on this host.

use super::*;
use crate::family::FormsOf;
use crate::sense::ReadError;
use crate::sense::fixture::Tree;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Never beats within a test: only the first sample and what scrapers ask for.
const STILL: Sampling = Sampling {
    interval: Duration::from_secs(3600),
    slow_interval: Duration::from_secs(3600),
};

fn collector(
    name: &'static str,
    read: impl FnMut(&Roots) -> Result<Vec<Family>, ReadError> + Send + 'static,
) -> Collector {
    Collector::with_reader(name, Box::new(read))
}

fn fast(collectors: impl IntoIterator<Item = Collector>) -> Shelf {
    Shelf::new(collectors.into_iter().map(|collector| Held::new(collector, false)))
}

/// Hears of samples, and reads no metric.
struct Listener<F>(F);

impl<F: FnMut(&Arc<Snapshot>, Occasion) + Send> Follower for Listener<F> {
    fn reads(&self, _metric: &str) -> bool {
        false
    }

    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, occasion: Occasion) {
        (self.0)(snapshot, occasion);
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
    let crate::family::Value::Number(value) = snapshot.family(family).unwrap().point(0).value else {
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
fn a_panic_or_an_error_costs_only_its_own_collector() {
    let collectors = vec![
        collector("panics", |_| panic!("deliberately, in a test")),
        collector("fails", |_| Err(ReadError::System("broken".to_owned()))),
        counting("works"),
    ];
    let sampler = Sampler::start_with(fast(collectors), [], Roots::default(), STILL, Box::new(())).unwrap();
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
fn all_scrapers_that_wait_at_one_moment_share_one_read() {
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let mut count = 0.0;
    // Every read but the first waits until it is let through.
    let gated = collector("gated", move |_| {
        count += 1.0;
        if count > 1.0 {
            let _ = gate.lock().unwrap().recv();
        }
        Ok(vec![Family::gauge("reads", "").value(count)])
    });
    let sampler = Sampler::start_with(fast([gated]), [], Roots::default(), STILL, Box::new(())).unwrap();
    let patience = Duration::from_secs(60);
    let hour = Duration::from_secs(3600);
    runtime().block_on(async {
        assert_eq!(
            reads(&sampler.fresh(hour, patience).await),
            1.0,
            "a young sample is not read again"
        );
        let max_age = Duration::from_millis(500);
        while sampler.latest().fresh_since.elapsed() <= max_age {
            std::thread::sleep(max_age / 10);
        }
        // `join!` polls in order: all three wait before the read that the first caused goes on.
        let (first, second, third, ()) = tokio::join!(
            sampler.fresh(max_age, patience),
            sampler.fresh(max_age, patience),
            sampler.fresh(max_age, patience),
            async { drop(open) }
        );
        assert_eq!([reads(&first), reads(&second), reads(&third)], [2.0; 3]);
    });
}

#[test]
fn what_no_rule_reads_is_left_to_scrapes_and_read_by_none_twice_within_the_age_they_allow() {
    struct Rules(Arc<AtomicBool>, Sender<[f64; 2]>);
    impl Follower for Rules {
        fn reads(&self, metric: &str) -> bool {
            self.0.load(Ordering::SeqCst) && metric == "on_demand"
        }

        fn on_sample(&mut self, snapshot: &Arc<Snapshot>, _occasion: Occasion) {
            let _ = self.1.send(["fast", "on_demand"].map(|name| number(snapshot, name)));
        }
    }
    let counting = |name: &'static str| {
        let mut count = 0.0;
        collector(name, move |_| {
            count += 1.0;
            Ok(vec![Family::gauge(name, "").value(count)])
        })
    };
    let shelf = Shelf::new([
        Held::new(counting("fast"), false),
        Held::new(counting("on_demand"), true),
    ]);
    let sampling = Sampling {
        interval: Duration::from_millis(100),
        ..STILL
    };
    let is_read = Arc::new(AtomicBool::new(false));
    let (heard, hears) = channel();
    let rules = Box::new(Rules(Arc::clone(&is_read), heard));
    let sampler = Sampler::start_with(shelf, [], Roots::default(), sampling, rules).unwrap();
    assert_eq!([hears.recv(), hears.recv()], [Ok([1.0, 1.0]), Ok([2.0, 1.0])]);
    let fresh = |max_age| runtime().block_on(sampler.fresh(max_age, Duration::from_secs(60)));
    assert_eq!(number(&fresh(Duration::ZERO), "on_demand"), 2.0);
    assert_eq!(
        number(&fresh(Duration::from_secs(3600)), "on_demand"),
        2.0,
        "it is young enough"
    );
    is_read.store(true, Ordering::SeqCst);
    let heard: Vec<f64> = hears.iter().map(|[_, on_demand]| on_demand).take(12).collect();
    let read_anew = heard.windows(2).filter(|pair| pair[1] > pair[0]).count();
    assert!(read_anew >= 8, "{heard:?}");
}

#[test]
fn a_scraper_does_not_wait_for_a_collector_that_hangs() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let mut first = true;
    let hangs = collector("hangs", move |_| {
        if !std::mem::take(&mut first) {
            let _ = released.lock().unwrap().recv();
        }
        Ok(vec![Family::gauge("reads", "").value(1.0)])
    });
    let sampler = Sampler::start_with(fast([hangs]), [], Roots::default(), STILL, Box::new(())).unwrap();
    let stale = runtime().block_on(sampler.fresh(Duration::ZERO, Duration::from_millis(20)));
    assert_eq!(reads(&stale), 1.0);
    drop(release);
}

#[test]
fn listeners_hear_the_beat_and_not_the_scrapes_and_may_panic() {
    let (heard, hears) = channel();
    let sampling = Sampling {
        interval: Duration::from_millis(5),
        ..STILL
    };
    let follower = Listener(move |snapshot: &Arc<Snapshot>, _| {
        let _ = heard.send(reads(snapshot));
        panic!("deliberately, in a test");
    });
    let sampler = Sampler::start_with(
        fast([counting("x")]),
        [],
        Roots::default(),
        sampling,
        Box::new(follower),
    )
    .unwrap();
    assert_eq!([hears.recv(), hears.recv(), hears.recv()], [Ok(1.0), Ok(2.0), Ok(3.0)]);
    drop(sampler);
    assert!(
        hears.iter().count() < 1_000_000,
        "the listener is dropped with the sampler"
    );
}

#[test]
fn memory_that_falls_is_sampled_between_two_beats_and_counts_for_no_distribution() {
    let tree = Tree::new();
    let available = |kib: u64| tree.proc("meminfo", format!("MemTotal: 1000 kB\nMemAvailable: {kib} kB\n"));
    available(900);
    let (heard, hears) = channel();
    let follower = Listener(move |snapshot: &Arc<Snapshot>, occasion| {
        let names: Vec<_> = snapshot.readings.iter().map(|reading| reading.collector).collect();
        let ready: Vec<_> = snapshot
            .ready_made
            .iter()
            .map(|family| family.name.to_string())
            .collect();
        let _ = heard.send((occasion, names, ready));
    });
    let mut meminfo = meminfo::Meminfo::default();
    let collectors = vec![counting("x"), collector("meminfo", move |roots| meminfo.read(roots))];
    let sampler = Sampler::start_with(fast(collectors), [], tree.roots.clone(), STILL, Box::new(follower)).unwrap();
    let (occasion, names, ready) = hears.recv().unwrap();
    assert_eq!((occasion, names), (Occasion::Beat, vec!["x", "meminfo"]));
    assert!(ready.contains(&"evenkeel_memory_used_ratio_distribution".to_owned()));
    available(100);
    let (occasion, names, ready) = hears.recv().unwrap();
    assert_eq!(
        (occasion, names),
        (Occasion::Early(Cause::MemoryFalls), vec!["meminfo"])
    );
    assert_eq!(ready, ["evenkeel_memory_used_ratio"]);
    drop(sampler);
}

#[test]
fn slow_collectors_are_in_the_first_snapshot_and_do_not_hold_it_up_when_one_hangs() {
    let (_release, released) = channel::<()>();
    let released = Mutex::new(released);
    let hangs = collector("hangs", move |_| {
        let _ = released.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let slow = vec![counting("before"), hangs];
    let sampler = Sampler::start_with(
        fast([counting("x")]),
        [("slow-sampler", slow)],
        Roots::default(),
        STILL,
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
fn the_default_collectors_sample_this_host() {
    let config = Config {
        roots: Roots::default(),
        ..Config::default()
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
fn an_empty_tree_makes_every_reader_of_it_fail_and_nothing_else() {
    let tree = Tree::new();
    let config = Config {
        roots: tree.roots.clone(),
        ..Config::default()
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
    let about = snapshot.about_collectors(snapshot.taken_instant + Duration::from_secs(2), &mut FormsOf::default());
    assert_eq!(about[0].len(), snapshot.readings.len());
}
