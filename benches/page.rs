//! The cost of the status page with 1,000 leases: the time until a browser paints it, and the processor time of
//! evenkeel and the browser while the page is open, compared with scrapes at the same interval. Compare ratios, because
//! absolute figures differ between machines.

// Only the tests use all of these modules.
#[path = "../tests/suite/support/browser.rs"]
#[allow(dead_code)]
mod browser;
#[path = "../tests/suite/support/status_page.rs"]
mod status_page;
#[path = "../tests/suite/support/tools.rs"]
#[allow(dead_code)]
mod tools;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use browser::Browser;
use evenkeel::host::{Host, LinuxHost};
use evenkeel::process::table::{Procfs, TICKS_PER_SECOND};
use evenkeel::publish::{HandlerOptions, MetricsHandler};
use evenkeel::sense::{DayHistory, Sampler, SamplerConfig, recent_history};
use http_body_util::BodyExt;
use hyper::Request;
use nix::time::{ClockId, clock_gettime};
use status_page::{serve, server, telemetry};

const LEASES: u64 = 1000;
const ANSWERS: u32 = 300;
const LOADS: usize = 11;
/// The update interval of src/publish/page/script.js.
const PAGE_INTERVAL: Duration = Duration::from_secs(2);
const OPEN: Duration = Duration::from_secs(20);

/// Figures of the last day that change from sample to sample.
fn day() -> DayHistory {
    let mut history = DayHistory::default();
    let now = jiff::Timestamp::now().as_second();
    for step in 0..86_400 / 5 {
        let value = (step * 7919 % 1009) as f32 / 1009.0;
        let sample = std::array::from_fn(|place| if place < 5 { value } else { value * 1e9 });
        let at = u64::try_from(now - 86_400 + step * 5).unwrap_or_default();
        history.observe(Duration::from_secs(at), &sample);
    }
    history
}

fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::from(spent).as_secs_f64())
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // Fills the charts without five minutes of waiting: a fast interval first, then the slowest one.
    let mut config = SamplerConfig::default();
    config.sampling.interval = Duration::from_millis(20);
    let sampler = Arc::new(Sampler::start(config, Box::new(()))?);
    while sampler.recent_history().len() < recent_history::MAX_SAMPLES {
        std::thread::sleep(Duration::from_millis(50));
    }
    sampler.restore(day());
    let telemetry = telemetry(LEASES, true);
    let busy = Arc::new(MetricsHandler::new(
        sampler,
        telemetry.clone(),
        HandlerOptions::default(),
    ));
    let server = server(Arc::clone(&busy));
    let cost_of = |path: &str| -> Result<f64, Box<dyn Error>> {
        let request = Request::builder().uri(path).body(())?;
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        runtime.block_on(server.answer(&request, peer));
        // Both include the sampler's own work, which is subtracted.
        let (start, begun) = (cpu_seconds()?, std::time::Instant::now());
        for _ in 0..ANSWERS {
            runtime.block_on(server.answer(&request, peer));
        }
        let (spent, took) = (cpu_seconds()? - start, begun.elapsed());
        let start = cpu_seconds()?;
        std::thread::sleep(took);
        Ok((spent - (cpu_seconds()? - start)).max(0.0) / f64::from(ANSWERS) * 1e3)
    };
    let page_ms = cost_of("/")?;
    let day_ms = cost_of("/?range=24h")?;
    let request = Request::builder().uri("/?range=24h").body(())?;
    let answer = runtime.block_on(server.answer(&request, std::net::SocketAddr::from(([127, 0, 0, 1], 0))));
    let day_bytes = runtime.block_on(answer.into_body().collect())?.to_bytes().len();
    let json_ms = cost_of("/api/v1/status")?;
    let scrape_ms = cost_of("/metrics")?;

    let mut browser = Browser::start();
    let url = serve(&runtime, busy)?;
    let mut paints = Vec::new();
    for _ in 0..LOADS {
        browser.open(&url);
        let paint = browser.evaluate(
            "new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()[0].startTime))
                 .observe({type: 'paint', buffered: true}))",
        );
        paints.push(paint.as_f64().ok_or("no paint")?);
    }
    paints.sort_by(f64::total_cmp);
    browser.open("about:blank");

    // The default interval of one sample a second. The sampler above costs the same with and without the page.
    let sampler = Arc::new(Sampler::start(SamplerConfig::default(), Box::new(()))?);
    let field = Arc::new(MetricsHandler::new(sampler, telemetry, HandlerOptions::default()));
    browser.open(&serve(&runtime, field)?);
    let open = Shares::over(OPEN, &browser)?;
    browser.open("about:blank");
    let closed = Shares::over(OPEN, &browser)?;
    drop(browser);

    println!("status page with {LEASES} leases and full drawings");
    println!(
        "  first paint in Chromium: median {:.0} ms, slowest of {LOADS} {:.0} ms",
        paints[LOADS / 2],
        paints[LOADS - 1]
    );
    println!(
        "  one answer: page {page_ms:.2} ms, status as JSON {json_ms:.2} ms, scrape {scrape_ms:.2} ms of processor"
    );
    println!(
        "  the page with a day of timeline: {day_ms:.2} ms of processor (at most 100), {day_bytes} bytes (at most 300,000)"
    );
    println!(
        "  a page kept open costs {:.2} times a scrape every {} s",
        page_ms / scrape_ms,
        PAGE_INTERVAL.as_secs()
    );
    for (who, open, closed, limit) in [
        ("evenkeel", open.evenkeel, closed.evenkeel, " (at most 1 %)"),
        ("the browser", open.browser, closed.browser, ""),
    ] {
        println!(
            "  {who} with the page open: {:.2} % of a core, without: {:.2} %, so the page: {:.2} %{limit}",
            open * 100.0,
            closed * 100.0,
            (open - closed) * 100.0
        );
    }
    Ok(())
}

/// Shares of a core.
struct Shares {
    evenkeel: f64,
    browser: f64,
}

impl Shares {
    fn over(time: Duration, browser: &Browser) -> Result<Shares, Box<dyn Error>> {
        let start = (cpu_seconds()?, browser_seconds(browser)?);
        std::thread::sleep(time);
        let end = (cpu_seconds()?, browser_seconds(browser)?);
        let share = |start: f64, end: f64| (end - start) / time.as_secs_f64();
        Ok(Shares {
            evenkeel: share(start.0, end.0),
            browser: share(start.1, end.1),
        })
    }
}

/// Processor time of all its processes. The time of processes that exit meanwhile is lost, so this is a lower bound.
fn browser_seconds(browser: &Browser) -> Result<f64, Box<dyn Error>> {
    let table = LinuxHost::new(Procfs::open(Path::new("/proc"))?, Arc::new(|_| ())).processes()?;
    let mut family = BTreeSet::from([i32::try_from(browser.pid())?]);
    loop {
        let before = family.len();
        let children = table.iter().filter(|process| family.contains(&process.parent));
        let children: Vec<i32> = children.map(|process| process.identity.pid).collect();
        family.extend(children);
        if family.len() == before {
            break;
        }
    }
    let members = table.iter().filter(|process| family.contains(&process.identity.pid));
    let ticks: u64 = members.map(|process| process.cpu_ticks).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND as f64)
}
