//! The cost of the status page with 1,000 leases and a day of timeline: the time until a browser paints it, and the
//! processor time of evenkeel and the browser while the page is open, compared with scrapes at the same interval. Compare
//! ratios, because absolute figures differ between machines. Exits with a failure where a limit is exceeded.

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
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use browser::Browser;
use evenkeel::host::{Host, LinuxHost};
use evenkeel::process::table::{Procfs, TICKS_PER_SECOND};
use evenkeel::publish::{HandlerOptions, MetricsHandler};
use evenkeel::sense::recent_history::HistoryMetric;
use evenkeel::sense::{Sampler, SamplerConfig, recent_history};
use evenkeel::telemetry::Telemetry;
use http_body_util::BodyExt;
use hyper::Request;
use nix::time::{ClockId, clock_gettime};
use status_page::{day_activity, day_history, serve, server, telemetry};
use tokio::runtime::Runtime;

const LEASES: u64 = 1000;
const ANSWERS: u32 = 300;
const LOADS: usize = 11;
/// The update interval of src/publish/page/script.js.
const PAGE_INTERVAL: Duration = Duration::from_secs(2);
const OPEN: Duration = Duration::from_secs(20);

/// Episodes of the day that are over.
const EPISODES: i32 = 64;

/// Limits of the page with a day of timeline, and of evenkeel while it is open.
const MAX_ANSWER_MS: f64 = 100.0;
const MAX_BYTES: usize = 300_000;
const MAX_SHARE: f64 = 0.01;

/// The least points that a curve of a whole day has, of 360 steps.
const MIN_POINTS: usize = 300;
/// The least marks that all episodes of the day leave.
const MIN_MARKS: usize = 40;

fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::from(spent).as_secs_f64())
}

/// The cost of the answers, and the time until a browser paints the page.
struct Answers {
    page_ms: f64,
    json_ms: f64,
    scrape_ms: f64,
    day_ms: f64,
    day_bytes: usize,
    /// Curves and marks of a whole day.
    full_curves: usize,
    marks: usize,
    paints: Vec<f64>,
}

impl Answers {
    /// Fills the drawings without five minutes of waiting: with a fast interval. The sampler and its cost end with the
    /// runtime.
    fn measure(browser: &mut Browser, telemetry: &Telemetry) -> Result<Answers, Box<dyn Error>> {
        let runtime = runtime()?;
        let mut config = SamplerConfig::default();
        config.sampling.interval = Duration::from_millis(20);
        let sampler = Arc::new(Sampler::start(config, Box::new(()))?);
        while sampler.recent_history().len() < recent_history::MAX_SAMPLES {
            std::thread::sleep(Duration::from_millis(50));
        }
        sampler.restore(day_history());
        let busy = Arc::new(MetricsHandler::new(
            sampler,
            telemetry.clone(),
            HandlerOptions::default(),
        ));
        let server = server(Arc::clone(&busy));
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let cost_of = |path: &str| -> Result<f64, Box<dyn Error>> {
            let request = Request::builder().uri(path).body(())?;
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
        let request = Request::builder().uri("/?range=24h").body(())?;
        let answer = runtime.block_on(server.answer(&request, peer));
        let day_page = runtime.block_on(answer.into_body().collect())?.to_bytes();
        let day_page = std::str::from_utf8(&day_page)?;
        let url = serve(&runtime, Arc::clone(&busy))?;
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
        Ok(Answers {
            page_ms: cost_of("/")?,
            json_ms: cost_of("/api/v1/status")?,
            scrape_ms: cost_of("/metrics")?,
            day_ms: cost_of("/?range=24h")?,
            day_bytes: day_page.len(),
            full_curves: points_of_curves(day_page)
                .filter(|points| *points >= MIN_POINTS)
                .count(),
            marks: day_page.matches("class=\"mark ").count(),
            paints,
        })
    }
}

/// The number of points of each curve on a page.
fn points_of_curves(page: &str) -> impl Iterator<Item = usize> {
    let points = |curve: &str| {
        let path = curve.split(" d=\"").nth(1)?.split('"').next()?;
        Some(path.split([' ', 'M']).filter(|number| !number.is_empty()).count() / 2)
    };
    page.split("data-top=").skip(1).filter_map(points)
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let telemetry = telemetry(day_activity(EPISODES), LEASES, true);
    let mut browser = Browser::start();
    let answers = Answers::measure(&mut browser, &telemetry)?;

    // The default interval of one sample a second, which costs the same with and without the page.
    let runtime = runtime()?;
    let sampler = Arc::new(Sampler::start(SamplerConfig::default(), Box::new(()))?);
    sampler.restore(day_history());
    let field = Arc::new(MetricsHandler::new(sampler, telemetry, HandlerOptions::default()));
    browser.open(&(serve(&runtime, field)? + "?range=24h"));
    let open = Shares::over(OPEN, &browser)?;
    browser.open("about:blank");
    let closed = Shares::over(OPEN, &browser)?;
    drop(browser);
    let share = open.evenkeel - closed.evenkeel;

    let Answers {
        page_ms,
        json_ms,
        scrape_ms,
        day_ms,
        day_bytes,
        full_curves,
        marks,
        paints,
    } = answers;
    println!(
        "status page with {LEASES} leases, {EPISODES} episodes that are over, {full_curves} curves of a day, {marks} marks"
    );
    println!(
        "  first paint in Chromium: median {:.0} ms, slowest of {LOADS} {:.0} ms",
        paints[LOADS / 2],
        paints[LOADS - 1]
    );
    println!(
        "  one answer: page {page_ms:.2} ms, status as JSON {json_ms:.2} ms, scrape {scrape_ms:.2} ms of processor"
    );
    println!(
        "  the page with a day of timeline: {day_ms:.2} ms of processor (at most {MAX_ANSWER_MS}), {day_bytes} bytes (at most \
         {MAX_BYTES})"
    );
    println!(
        "  a page kept open costs {:.2} times a scrape every {} s",
        day_ms / scrape_ms,
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
    let mut exit_code = ExitCode::SUCCESS;
    for (is_kept, what) in [
        (
            full_curves == HistoryMetric::ALL.len() && marks > MIN_MARKS,
            "the drawings are not those of a whole day",
        ),
        (day_ms <= MAX_ANSWER_MS, "the page takes too much time"),
        (day_bytes <= MAX_BYTES, "the page is too large"),
        (share <= MAX_SHARE, "an open page takes too much of a core"),
    ] {
        if !is_kept {
            eprintln!("error: {what}");
            exit_code = ExitCode::FAILURE;
        }
    }
    Ok(exit_code)
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
