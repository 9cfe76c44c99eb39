//! What it costs to read the host once and to write the families in each format, on one thread and without a network: for
//! counting instructions with `valgrind --tool=callgrind`, where a daemon's times are noise.
//!
//! `encode read|openmetrics|text [ROUNDS]` does only that; without arguments it prints the time of each.

use evenkeel::publish::{Content, exposition};
use evenkeel::sense::{Config, Sampler};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 500;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let rounds = args.get(1).and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let sampler = Sampler::start(Config::default(), Box::new(())).expect("the sampler starts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let snapshot = sampler.latest();
    let content = Arc::new(Content {
        readings: snapshot.readings.clone(),
        ready_made: Arc::clone(&snapshot.ready_made),
        own: Vec::new(),
        ..Content::default()
    });
    let read = || drop(runtime.block_on(sampler.fresh(Duration::ZERO, Duration::from_secs(60))));
    let openmetrics = || drop(exposition::openmetrics(Arc::clone(&content)).expect("it is encoded"));
    let text = || drop(exposition::text(&content).expect("it is encoded"));
    let jobs: [(&str, &dyn Fn()); 3] = [("read", &read), ("openmetrics", &openmetrics), ("text", &text)];
    for (name, job) in jobs {
        if args.first().is_some_and(|only| only != name) {
            continue;
        }
        let started = Instant::now();
        (0..rounds).for_each(|_| job());
        println!(
            "{name}: {:.1} us",
            started.elapsed().as_secs_f64() * 1e6 / rounds as f64
        );
    }
}
