//! The cost of reading the host once, of encoding the families in each format and of gzip, on one thread and without a
//! network. Use it to count instructions with `valgrind --tool=callgrind`, because the times of a daemon are noisy.
//!
//! `encode read|openmetrics|text|again|gzip [ROUNDS]` runs one part; without arguments it prints the time of each.
//! `again` is OpenMetrics of a sample with the families of the one before.

use evenkeel::publish::{Compressor, Content, EncodeCache, Encoder, Format, PlainEncoder};
use evenkeel::sense::{MaxAge, Sampler, SamplerConfig};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 500;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let rounds = args.get(1).and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let sampler = Sampler::start(SamplerConfig::default(), Box::new(())).expect("the sampler starts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime starts");
    let fresh = || runtime.block_on(sampler.fresh(MaxAge::of_all(Duration::ZERO), Duration::from_secs(60)));
    let samples = [fresh(), fresh()].map(|snapshot| {
        Arc::new(Content {
            readings: snapshot.readings.clone(),
            derived: Arc::clone(&snapshot.derived),
            own: Vec::new(),
            ..Content::default()
        })
    });
    let read = || drop(fresh());
    let write = |format| drop(PlainEncoder.encode(&samples[0], format).expect("it is encoded"));
    let (encode_cache, turn) = (EncodeCache::default(), Cell::new(0));
    let again = || {
        turn.set(1 - turn.get());
        drop(
            encode_cache
                .encode(&samples[turn.get()], Format::OpenMetrics)
                .expect("it is encoded"),
        );
    };
    let text = PlainEncoder
        .encode(&samples[0], Format::OpenMetrics)
        .expect("it is encoded");
    let gzip = Compressor::default();
    let compress = || drop(gzip.compress(&text).expect("it is compressed"));
    let jobs: [(&str, &dyn Fn()); 5] = [
        ("read", &read),
        ("openmetrics", &|| write(Format::OpenMetrics)),
        ("text", &|| write(Format::Text)),
        ("again", &again),
        ("gzip", &compress),
    ];
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
