//! The cost of reading each collector once, on this host and on a full host that does not exist: its files are written
//! below a temporary directory.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use evenkeel::sense::{COLLECTORS, Collector, CollectorInfo, CollectorOptions, Roots};

use crate::peer::Outcome;

/// Reads of each collector; the first one opens files and fills caches, and does not count.
const ROUNDS: usize = 10;

/// The records of udev below the root.
const UDEV: &str = "run/udev/data";

const DISKS: usize = 1000;
const DEVICES: usize = 500;
const CPUS: usize = 64;
const POOLS: usize = 100;
const DATASETS: usize = 4;

/// The longest time for reading the full host once, with the default collectors.
const MAX_FULL: Duration = Duration::from_secs(1);

/// The cost of one read.
#[derive(Default)]
struct Cost {
    cpu: Duration,
    time: Duration,
    series: usize,
    error: Option<String>,
}

/// Processor time of this thread, which reads the collectors.
fn own_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// The cost of a read after the first one: the least of some, because others include other work of the machine.
fn cost(info: &CollectorInfo, roots: &Roots) -> Cost {
    let options = CollectorOptions {
        udev_data: roots.host(Path::new(UDEV)),
        ..CollectorOptions::default()
    };
    let mut collector = Collector::new(info, &options);
    collector.read(roots);
    let rounds = (0..ROUNDS).map(|_| {
        let (cpu, started) = (own_cpu(), Instant::now());
        let reading = collector.read(roots);
        Cost {
            cpu: own_cpu() - cpu,
            time: started.elapsed(),
            series: reading.families.iter().map(|family| family.len()).sum(),
            error: reading.error.clone(),
        }
    });
    rounds.min_by_key(|cost| cost.cpu).unwrap_or_default()
}

fn print_costs(what: &str, roots: &Roots, infos: impl Iterator<Item = &'static CollectorInfo>) -> Cost {
    println!(
        "\n{what:<32}{:<16}{:>10}{:>10}{:>10}",
        "read", "CPU, us", "time, us", "series"
    );
    let mut sum = Cost::default();
    for info in infos {
        let cost = cost(info, roots);
        let name = format!("{}{}", info.name, if info.default_on { "" } else { " (off)" });
        let [cpu, time] = [cost.cpu, cost.time].map(|time| time.as_secs_f64() * 1e6);
        let pace = format!("{:?}", info.pace);
        let error = cost.error.map(|error| format!("  {error}")).unwrap_or_default();
        println!("{name:<32}{pace:<16}{cpu:>10.1}{time:>10.1}{:>10}{error}", cost.series);
        sum.cpu += cost.cpu;
        sum.time += cost.time;
        sum.series += cost.series;
    }
    sum
}

/// A row for each collector on this host.
pub fn print_each() {
    let roots = Roots::default();
    print_costs("collector, one read here", &roots, COLLECTORS.iter());
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Outcome<()> {
    fs::create_dir_all(path.parent().ok_or("a path below the directory")?)?;
    Ok(fs::write(path, text)?)
}

fn write_processors(proc: &Path, sys: &Path) -> Outcome<()> {
    let mut stat = String::from("cpu  1 2 3 4 5 6 7 8 9 10\n");
    let (mut cpuinfo, mut schedstat, mut softnet) = (String::new(), String::from("version 15\n"), String::new());
    for cpu in 0..CPUS {
        writeln!(stat, "cpu{cpu} 100 2 300 4000 5 0 7 0 0 0")?;
        writeln!(
            cpuinfo,
            "processor\t: {cpu}\nvendor_id\t: Maker\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Maker CPU\n\
             stepping\t: 7\nmicrocode\t: 0x5\ncpu MHz\t\t: 2600.0\ncache size\t: 1024 KB\nphysical id\t: {}\n\
             core id\t\t: {}\nflags\t\t: fpu aes\nbugs\t\t: mds\n",
            cpu / 32,
            cpu % 32
        )?;
        writeln!(schedstat, "cpu{cpu} 0 0 0 0 0 0 1000000 2000000 3000")?;
        writeln!(softnet, "{}", ["0000000a"; 15].join(" "))?;
        let directory = sys.join(format!("devices/system/cpu/cpu{cpu}"));
        for (file, value) in [
            ("online", 1),
            ("topology/physical_package_id", cpu / 32),
            ("topology/core_id", cpu % 32),
            ("thermal_throttle/core_throttle_count", 3),
            ("thermal_throttle/package_throttle_count", 4),
            ("cpufreq/cpuinfo_min_freq", 800_000),
            ("cpufreq/cpuinfo_max_freq", 3_000_000),
            ("cpufreq/scaling_min_freq", 800_000),
            ("cpufreq/scaling_max_freq", 3_000_000),
            ("cpufreq/scaling_cur_freq", 2_600_000),
        ] {
            write(&directory.join(file), format!("{value}\n"))?;
        }
        write(&directory.join("cpufreq/scaling_governor"), "powersave\n")?;
        write(
            &directory.join("cpufreq/scaling_available_governors"),
            "performance powersave\n",
        )?;
    }
    stat += "intr 100 1 2\nctxt 5000\nbtime 1700000000\nprocesses 900\nprocs_running 3\nprocs_blocked 0\n";
    stat += "softirq 10 1 1 1 1 1 1 1 1 1 1\n";
    let head: String = (0..CPUS).map(|cpu| format!("       CPU{cpu}")).collect();
    let row = " 1000".repeat(CPUS);
    let mut interrupts = format!("{head}\n");
    for line in 0..200 {
        writeln!(interrupts, "{line:4}:{row}  PCI-MSI {line}-edge  device{line}")?;
    }
    let softirqs = [
        "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU",
    ];
    let softirqs: String = softirqs.map(|name| format!("{name}:{row}\n")).concat();
    write(&proc.join("stat"), stat)?;
    write(&proc.join("cpuinfo"), cpuinfo)?;
    write(&proc.join("schedstat"), schedstat)?;
    write(&proc.join("net/softnet_stat"), softnet)?;
    write(&proc.join("interrupts"), interrupts)?;
    write(&proc.join("softirqs"), format!("{head}\n{softirqs}"))
}

fn write_disks(proc: &Path, sys: &Path, udev: &Path) -> Outcome<()> {
    let mut diskstats = String::new();
    for disk in 0..DISKS {
        let (major, minor) = (65 + disk / 256, disk % 256);
        writeln!(
            diskstats,
            "{major:4} {minor:7} disk{disk} 10 1 8 1500 20 2 16 2500 3 4000 5500 6 7 9 250 11 750"
        )?;
        write(&sys.join(format!("block/disk{disk}/queue/rotational")), "0\n")?;
        let record = format!("S:disk/by-id/x\nE:ID_MODEL=Fast\nE:ID_SERIAL_SHORT=S{disk}\nE:ID_FS_TYPE=xfs\n");
        write(&udev.join(format!("b{major}:{minor}")), record)?;
    }
    write(&proc.join("diskstats"), diskstats)
}

fn write_devices(proc: &Path, sys: &Path) -> Outcome<()> {
    let mut dev = String::from("Inter-|   Receive  |  Transmit\n face |bytes |bytes\n");
    for device in 0..DEVICES {
        writeln!(dev, "eth{device}: 1000 20 0 0 0 0 0 1 2000 30 0 0 0 0 0 0")?;
        let directory = sys.join(format!("class/net/eth{device}"));
        for (file, text) in [
            ("address", "02:00:00:00:00:01"),
            ("broadcast", "ff:ff:ff:ff:ff:ff"),
            ("duplex", "full"),
            ("ifalias", ""),
            ("operstate", "up"),
            ("flags", "0x1003"),
        ] {
            write(&directory.join(file), format!("{text}\n"))?;
        }
        for file in [
            "addr_assign_type",
            "carrier",
            "carrier_changes",
            "carrier_down_count",
            "carrier_up_count",
            "dev_id",
            "dormant",
            "ifindex",
            "iflink",
            "link_mode",
            "mtu",
            "name_assign_type",
            "netdev_group",
            "proto_down",
            "speed",
            "tx_queue_len",
            "type",
            "statistics/rx_nohandler",
        ] {
            write(&directory.join(file), "1\n")?;
        }
    }
    write(&proc.join("net/dev"), dev)
}

fn write_pools(proc: &Path) -> Outcome<()> {
    let zfs = proc.join("spl/kstat/zfs");
    let table = |rows: usize| {
        let rows = (0..rows).map(|row| format!("counter_{row} 4 {row}000\n"));
        format!("1 1 0x01 1 80 1 1\nname type data\n{}", rows.collect::<String>())
    };
    write(&zfs.join("arcstats"), table(110))?;
    for file in [
        "abdstats",
        "dbufstats",
        "dmu_tx",
        "dnodestats",
        "fm",
        "zfetchstats",
        "zil",
    ] {
        write(&zfs.join(file), table(20))?;
    }
    for pool in 0..POOLS {
        let directory = zfs.join(format!("pool{pool}"));
        write(&directory.join("state"), "ONLINE\n")?;
        write(
            &directory.join("io"),
            "1 1 0x00 1 80 1 1\nnread nwritten reads writes wtime wlentime wupdate rtime rlentime rupdate wcnt rcnt\n\
             1 2 3 4 5 6 7 8 9 10 11 12\n",
        )?;
        for dataset in 0..DATASETS {
            let name = format!("dataset_name 7 pool{pool}/data{dataset}\n");
            let counters = ["writes", "nwritten", "reads", "nread", "nunlinks", "nunlinked"];
            let counters = counters.map(|counter| format!("{counter} 4 100\n")).concat();
            let text = format!("1 1 0x01 1 80 1 1\nname type data\n{name}{counters}");
            write(&directory.join(format!("objset-{dataset:#x}")), text)?;
        }
    }
    Ok(())
}

/// Reads a host with many disks, network devices, processors and pools.
///
/// # Errors
///
/// Where reading it takes too long.
pub fn print_full_host() -> Outcome<()> {
    let home = tempfile::tempdir()?;
    let [proc, sys, root] = ["proc", "sys", "root"].map(|name| home.path().join(name));
    write_processors(&proc, &sys)?;
    write_disks(&proc, &sys, &root.join(UDEV))?;
    write_devices(&proc, &sys)?;
    write_pools(&proc)?;
    let roots = Roots::new(&proc, &sys, &root);
    let what = format!("{DISKS} disks, {DEVICES} devices");
    println!("\na full host: {DISKS} disks, {DEVICES} network devices, {CPUS} processors, {POOLS} pools of ZFS");
    let sum = print_costs(&what, &roots, COLLECTORS.iter().filter(|info| info.default_on));
    let [cpu, time, most] = [sum.cpu, sum.time, MAX_FULL].map(|time| time.as_secs_f64() * 1e3);
    println!(
        "all of them: {cpu:.1} ms CPU, {time:.1} ms of at most {most:.0} ms, {} series",
        sum.series
    );
    if sum.time > MAX_FULL {
        return Err("reading a full host takes too long".into());
    }
    Ok(())
}
