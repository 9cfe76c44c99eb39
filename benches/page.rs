//! The cost of the status page with 1,000 leases: the time until a browser paints it, and the processor time of
//! evenkeel and the browser while the page is open, compared with scrapes at the same interval. Compare ratios, because
//! absolute figures differ between machines.

// Only the tests use all of these modules.
#[path = "../tests/suite/support/browser.rs"]
#[allow(dead_code)]
mod browser;
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
use evenkeel::http::Access;
use evenkeel::process::table::{Procfs, TICKS_PER_SECOND};
use evenkeel::publish::{self, HandlerOptions, MetricsHandler, MetricsServer};
use evenkeel::sense::{Sampler, SamplerConfig, recent_history};
use evenkeel::telemetry::{
    EngineState, Event, EventKind, LeaseStatus, OpenAlert, OpenLists, RuleStatus, Telemetry, episode_id,
};
use hyper::Request;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

const LEASES: u64 = 1000;
const ANSWERS: u32 = 300;
const LOADS: usize = 11;
/// The update interval of src/publish/page/script.js.
const PAGE_INTERVAL: Duration = Duration::from_secs(2);
const OPEN: Duration = Duration::from_secs(20);

/// A daemon's state with many leases and full lists.
fn telemetry() -> Telemetry {
    let (telemetry, now) = (Telemetry::default(), Timestamp::now());
    let rule = "calm-batch-jobs".to_owned();
    telemetry.set_rules(vec![RuleStatus {
        rule: rule.clone(),
        steps: vec!["nice 10".to_owned(), "ionice idle".to_owned()],
        text: "name: calm-batch-jobs".into(),
        actions: ["nice", "ionice"].into(),
        acts: true,
        last_decision: None,
    }]);
    let leases = (1..=LEASES).map(|id| LeaseStatus {
        id,
        rule: rule.clone(),
        fingerprint: "f".into(),
        since: now,
        pid: Some(10_000 + id as i32),
        process: format!("worker-{id}"),
        what: "nice 0 -> 10".to_owned(),
        until: Some(now),
        released: None,
    });
    let alert = OpenAlert {
        episode: episode_id(&rule, "f", false, now),
        fingerprint: "f".into(),
        opened_at: now,
        alertname: "HostCpuSaturated".to_owned(),
        labels: [("severity".to_owned(), "warning".to_owned())].into(),
        rule: rule.clone(),
        source: "alertmanager".into(),
        since: now,
        state: "firing".into(),
        dry_run: false,
        targets: LEASES as usize,
        runbook_url: None,
        rule_text: Arc::default(),
    };
    let open = OpenLists {
        alerts: vec![alert],
        leases: leases.collect(),
        is_complete: true,
    };
    telemetry.set_open(open, now);
    telemetry.set_state(EngineState {
        enforce: true,
        rules: 1,
        alerts_firing: [("alertmanager", 1)].into(),
        leases: [((rule.clone(), "nice"), LEASES as usize)].into(),
        ..EngineState::default()
    });
    for pid in 0..100 {
        for kind in [EventKind::decision("planned"), EventKind::outcome("applied")] {
            telemetry.record_event(Event {
                at: now,
                rule: rule.clone(),
                alertname: "HostCpuSaturated".to_owned(),
                fingerprint: "f".into(),
                kind,
                pid: Some(10_000 + pid),
                process: Some(format!("worker-{pid}")),
                step: Some("nice 10".to_owned()),
                before: Some("0".to_owned()),
                after: Some("10".to_owned()),
                reason: String::new(),
            });
        }
    }
    telemetry
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
    let telemetry = telemetry();
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
        "  a page kept open costs {:.2} times a scrape every {} s",
        page_ms / scrape_ms,
        PAGE_INTERVAL.as_secs()
    );
    for (who, open, closed) in [
        ("evenkeel", open.evenkeel, closed.evenkeel),
        ("the browser", open.browser, closed.browser),
    ] {
        println!(
            "  {who} with the page open: {:.2} % of a core, without: {:.2} %, so the page: {:.2} %",
            open * 100.0,
            closed * 100.0,
            (open - closed) * 100.0
        );
    }
    Ok(())
}

fn server(handler: Arc<MetricsHandler>) -> MetricsServer<MetricsHandler> {
    MetricsServer {
        service: handler,
        access: Access::open(),
        telemetry_path: HandlerOptions::default().telemetry_path.into(),
        max_connections: publish::MAX_CONNECTIONS,
    }
}

/// Serves a handler until the benchmark exits, and returns its address.
fn serve(runtime: &tokio::runtime::Runtime, handler: Arc<MetricsHandler>) -> Result<String, Box<dyn Error>> {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let url = format!("http://{}/", listener.local_addr()?);
    runtime.spawn(server(handler).run(listener, std::future::pending()));
    Ok(url)
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
