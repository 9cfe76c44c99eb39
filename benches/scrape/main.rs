//! The cost of a scrape of evenkeel and of node_exporter in one run with the same collectors, its growth with
//! processes, network devices and scrapers, and the cost of reading each collector. Compare ratios, because absolute
//! figures differ between machines. `scrape collectors` prints only the part about collectors.
//!
//! The part with network devices needs root, because it creates them in a network namespace.

mod collectors;
mod peer;

use evenkeel::sense::COLLECTORS;
use peer::{Outcome, Peer, Resident, Scraper};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Pause between scrapes, longer than a sample stays fresh, so that each scrape reads the host.
const APART: Duration = Duration::from_millis(120);
const FRESH_SCRAPES: usize = 150;
const BURST_SCRAPES: usize = 1000;
/// Time without scrapes, whose processor time is subtracted. As long as the interval of the collectors that a timer
/// reads, so that it includes one round of them.
const IDLE: Duration = Duration::from_secs(15);
/// Scrapes until both programs have their buffers and caches.
const WARM_SCRAPES: usize = 15;
/// Length of the run as in production, with a sample each second and regular scrapes.
const STEADY: Duration = Duration::from_secs(120);
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);

const PROCESSES: [usize; 3] = [100, 1000, 5000];
const DEVICES: [usize; 2] = [4, 500];
const SCRAPERS: [usize; 2] = [1, 50];
const GROWTH_SCRAPES: usize = 30;

/// The argument that runs only the part about collectors.
const COLLECTORS_ONLY: &str = "collectors";

/// The argument with which the benchmark starts itself in a network namespace.
const IN_NAMESPACE: &str = "--in-namespace";

#[derive(Default)]
struct Figures {
    fresh_cpu_ms: f64,
    burst_cpu_ms: f64,
    idle_cpu_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
    resident: Resident,
    binary_mb: f64,
    steady_cpu_ms: f64,
}

fn cpu_ms(peers: &[Peer; 2]) -> Outcome<[f64; 2]> {
    Ok([peers[0].cpu_ms()?, peers[1].cpu_ms()?])
}

/// Measures both at the same time, so that other load of the machine affects both.
fn idle_cpu_ms_per_second(peers: &[Peer; 2]) -> Outcome<[f64; 2]> {
    let before = cpu_ms(peers)?;
    std::thread::sleep(IDLE);
    let after = cpu_ms(peers)?;
    Ok([0, 1].map(|index| (after[index] - before[index]) / IDLE.as_secs_f64()))
}

/// Processor time per scrape above the idle time, and sorted latencies.
fn fresh(peers: &mut [Peer; 2], scrapes: usize, idle: [f64; 2]) -> Outcome<([f64; 2], [Vec<f64>; 2])> {
    let before = cpu_ms(peers)?;
    let started = Instant::now();
    let mut latencies = [Vec::new(), Vec::new()];
    for _ in 0..scrapes {
        for (peer, latencies) in peers.iter_mut().zip(&mut latencies) {
            let asked = Instant::now();
            peer.scrape()?;
            latencies.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(APART);
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = cpu_ms(peers)?;
    for latencies in &mut latencies {
        latencies.sort_by(f64::total_cmp);
    }
    let spent = [0, 1].map(|index| (after[index] - before[index] - idle[index] * seconds) / scrapes as f64);
    Ok((spent, latencies))
}

fn warm(peers: &mut [Peer; 2]) -> Outcome<()> {
    for peer in peers {
        for _ in 0..WARM_SCRAPES {
            peer.scrape()?;
            std::thread::sleep(APART);
        }
    }
    Ok(())
}

fn measure(peers: &mut [Peer; 2]) -> Outcome<[Figures; 2]> {
    let mut figures = [Figures::default(), Figures::default()];
    warm(peers)?;
    let idle = idle_cpu_ms_per_second(peers)?;
    let (spent, latencies) = fresh(peers, FRESH_SCRAPES, idle)?;
    for (index, figures) in figures.iter_mut().enumerate() {
        figures.idle_cpu_ms = idle[index];
        figures.fresh_cpu_ms = spent[index];
        figures.p50_ms = latencies[index][FRESH_SCRAPES / 2];
        figures.p99_ms = latencies[index][FRESH_SCRAPES * 99 / 100];
    }

    for (peer, figures) in peers.iter_mut().zip(&mut figures) {
        let before = peer.cpu_ms()?;
        let started = Instant::now();
        for _ in 0..BURST_SCRAPES {
            peer.scrape()?;
        }
        figures.burst_cpu_ms = (peer.cpu_ms()? - before) / BURST_SCRAPES as f64;
        figures.per_second = BURST_SCRAPES as f64 / started.elapsed().as_secs_f64();
        figures.binary_mb = fs::metadata(fs::canonicalize(&peer.program)?)?.len() as f64 / 1e6;
    }

    let before = cpu_ms(peers)?;
    for _ in 0..STEADY.as_secs() / SCRAPE_INTERVAL.as_secs() {
        for peer in peers.iter_mut() {
            peer.scrape()?;
        }
        std::thread::sleep(SCRAPE_INTERVAL);
    }
    for (index, (peer, figures)) in peers.iter().zip(&mut figures).enumerate() {
        figures.steady_cpu_ms = (peer.cpu_ms()? - before[index]) / (STEADY.as_secs_f64() / 60.0);
        figures.resident = peer.resident()?;
    }
    Ok(figures)
}

fn start(home: &std::path::Path) -> Outcome<[Peer; 2]> {
    let mut collectors = vec!["--collector.disable-defaults".to_owned()];
    // Collectors that node_exporter lacks are cheap: `process`, and `groups` without groups.
    let shared = COLLECTORS
        .iter()
        .filter(|info| info.default_on && !["process", "groups"].contains(&info.name));
    collectors.extend(shared.map(|info| format!("--collector.{}", info.name)));
    let ours = peer::evenkeel(home, "rule_files: []\n", &collectors)?;
    // An older node_exporter has fewer, which counts in its favour.
    let known = peer::help_of("node_exporter")?;
    collectors.retain(|flag| known.contains(&format!("{} ", flag.trim_start_matches('-'))));
    Ok([ours, peer::tool("node_exporter", &collectors)?])
}

fn print_head(what: &str) {
    println!("\n{what:<48}{:>12}{:>16}{:>8}", "evenkeel", "node_exporter", "ratio");
}

fn print_row(what: &str, [ours, theirs]: [f64; 2]) {
    println!("{what:<48}{ours:>12.3}{theirs:>16.3}{:>8.3}", ours / theirs);
}

/// Prints the processor time per fresh scrape, and per second without scrapes.
fn print_growth(what: &str, peers: &mut [Peer; 2]) -> Outcome<()> {
    warm(peers)?;
    let idle = idle_cpu_ms_per_second(peers)?;
    let (spent, _) = fresh(peers, GROWTH_SCRAPES, idle)?;
    print_row(&format!("{what}: CPU per fresh scrape, ms"), spent);
    print_row(&format!("{what}: CPU per idle second, ms"), idle);
    Ok(())
}

/// Sleeping processes, which are killed on drop.
struct Sleepers(Vec<Child>);

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The child may have exited.
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

fn grow_by_processes(peers: &mut [Peer; 2]) -> Outcome<()> {
    let mut sleepers = Sleepers(Vec::new());
    for processes in PROCESSES {
        while sleepers.0.len() < processes {
            let sleeper = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?;
            sleepers.0.push(sleeper);
        }
        print_growth(&format!("{processes} processes"), peers)?;
    }
    Ok(())
}

/// Scrapes concurrently, each scraper on its own connection.
fn grow_by_scrapers(peers: &mut [Peer; 2]) -> Outcome<()> {
    for count in SCRAPERS {
        let mut spent = [0.0; 2];
        for (peer, spent) in peers.iter().zip(&mut spent) {
            let mut scrapers = Vec::new();
            for _ in 0..count {
                scrapers.push(Scraper::connect(peer.address)?);
            }
            let before = peer.cpu_ms()?;
            for _ in 0..GROWTH_SCRAPES {
                std::thread::scope(|scope| {
                    // Both programs refuse scrapers beyond `--web.max-requests`.
                    let asked: Vec<_> = scrapers
                        .iter_mut()
                        .map(|scraper| scope.spawn(|| drop(scraper.scrape())))
                        .collect();
                    asked.into_iter().for_each(|thread| drop(thread.join()));
                });
                std::thread::sleep(APART);
            }
            *spent = (peer.cpu_ms()? - before) / (GROWTH_SCRAPES * count) as f64;
        }
        print_row(&format!("{count} scrapers at once: CPU per scrape, ms"), spent);
    }
    Ok(())
}

/// Runs in the namespace. Devices come in pairs.
fn grow_by_devices(home: &std::path::Path) -> Outcome<()> {
    let mut made = 0;
    for devices in DEVICES {
        let mut commands = String::from("link set lo up\n");
        while made < devices {
            commands += &format!("link add bench{made} type veth peer name bench{}\n", made + 1);
            made += 2;
        }
        let batch = home.join("devices");
        fs::write(&batch, commands)?;
        if !Command::new("ip").arg("-batch").arg(&batch).status()?.success() {
            return Err("ip cannot make devices".into());
        }
        print_growth(&format!("{devices} network devices"), &mut start(home)?)?;
    }
    Ok(())
}

/// Runs in a new namespace with its own sysfs, because sysfs shows the network namespace in which it was mounted.
fn in_namespace() -> Outcome<()> {
    let inside = "mount -t sysfs sysfs /sys && exec \"$0\" \"$1\"";
    let namespace = ["--net", "--mount", "--", "sh", "-c", inside];
    let status = Command::new("unshare")
        .args(namespace)
        .arg(std::env::current_exe()?)
        .arg(IN_NAMESPACE)
        .status()?;
    if !status.success() {
        println!("network devices: not measured, for a network namespace needs root");
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let home = tempfile::tempdir()?;
    if std::env::args().any(|arg| arg == IN_NAMESPACE) {
        return grow_by_devices(home.path());
    }
    if std::env::args().any(|arg| arg == COLLECTORS_ONLY) {
        collectors::print_each();
        return collectors::print_full_host();
    }
    let mut peers = start(home.path())?;
    let [ours, theirs] = measure(&mut peers)?;
    print_head("the same collectors");
    let row = |what: &str, value: fn(&Figures) -> f64| print_row(what, [value(&ours), value(&theirs)]);
    row("CPU per fresh scrape, ms", |figures| figures.fresh_cpu_ms);
    row("CPU per scrape back to back, ms", |figures| figures.burst_cpu_ms);
    row("CPU per second without scrapes, ms", |figures| figures.idle_cpu_ms);
    row("CPU per minute, a scrape each 15 s, ms", |figures| {
        figures.steady_cpu_ms
    });
    row("latency of a fresh scrape, p50, ms", |figures| figures.p50_ms);
    row("latency of a fresh scrape, p99, ms", |figures| figures.p99_ms);
    row("scrapes per second on one connection", |figures| figures.per_second);
    row("resident memory, MB", |figures| figures.resident.all_mb);
    row("  of it anonymous, MB", |figures| figures.resident.anonymous_mb);
    row("  of it from files, MB", |figures| figures.resident.file_mb);
    row("binary, MB", |figures| figures.binary_mb);
    print_head("growth");
    grow_by_scrapers(&mut peers)?;
    grow_by_processes(&mut peers)?;
    drop(peers);
    in_namespace()?;
    collectors::print_each();
    collectors::print_full_host()
}
