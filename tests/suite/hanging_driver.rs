//! Drivers whose files do not answer: pipes in a tree of sysfs. A read of one waits for a writer, as a read of a driver
//! waits for its device.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;

use crate::support::daemon::{Daemon, Home};
use crate::support::metrics::Scrape;
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A file of a driver, with the metric that shows it.
struct DriverFile {
    collector: &'static str,
    file: &'static str,
    metric: &'static str,
    /// The value of the metric in units of the file.
    unit: f64,
}

/// On each thread a driver that is going to hang, and one that is read after it.
const THREADS: [(&str, DriverFile, DriverFile); 2] = [
    (
        "slow-sampler",
        DriverFile {
            collector: "powersupplyclass",
            file: "class/power_supply/BAT0/cycle_count",
            metric: "node_power_supply_cyclecount",
            unit: 1.0,
        },
        DriverFile {
            collector: "thermal_zone",
            file: "class/thermal/thermal_zone0/temp",
            metric: "node_thermal_zone_temp",
            unit: 1e3,
        },
    ),
    (
        "scrape-reader",
        DriverFile {
            collector: "edac",
            file: "devices/system/edac/mc/mc0/ce_count",
            metric: "node_edac_correctable_errors_total",
            unit: 1.0,
        },
        DriverFile {
            collector: "rapl",
            file: "class/powercap/intel-rapl:0/energy_uj",
            metric: "node_rapl_package_joules_total",
            unit: 1e6,
        },
    ),
];

/// A tree of sysfs.
struct Sysfs(PathBuf);

impl Sysfs {
    fn path(&self, file: &str) -> PathBuf {
        let path = self.0.join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        path
    }

    /// Puts a file in the place of another one at once, so that no read finds neither.
    fn replace(&self, file: &str, make: impl FnOnce(&Path)) {
        let path = self.path(file);
        let new = self.0.join("new");
        make(&new);
        std::fs::rename(new, path).expect("a writable folder");
    }

    fn write(&self, file: &str, text: &str) {
        self.replace(file, |path| std::fs::write(path, text).expect("a writable folder"));
    }

    fn set(&self, driver: &DriverFile, value: f64) {
        self.write(driver.file, &format!("{}\n", value * driver.unit));
    }

    fn hang(&self, driver: &DriverFile) {
        self.replace(driver.file, |path| {
            nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("a pipe")
        });
    }

    /// Waits until a read of the file hangs. The read returns when the result is dropped.
    fn wait_for_read(&self, driver: &DriverFile) -> File {
        let path = self.path(driver.file);
        eventually("a read of a pipe", TIMEOUT, || {
            // An open for writing fails as long as there is no reader.
            File::options().write(true).custom_flags(O_NONBLOCK).open(&path).ok()
        })
    }
}

fn value(evenkeel: &Daemon, driver: &DriverFile) -> Option<f64> {
    Scrape::parse(&evenkeel.scrape_text()).sum(driver.metric, &[])
}

fn wait_for_value(evenkeel: &Daemon, driver: &DriverFile, expected: Option<f64>) {
    let what = format!("{} {expected:?}", driver.metric);
    eventually(&what, TIMEOUT, || (value(evenkeel, driver) == expected).then_some(()));
}

fn success(evenkeel: &Daemon, driver: &DriverFile) -> f64 {
    evenkeel.metric("node_scrape_collector_success", &[("collector", driver.collector)])
}

/// The number of threads of the daemon with this name.
fn threads(evenkeel: &Daemon, name: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", evenkeel.pid())).expect("evenkeel runs");
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

/// The lines of the log with this message about a collector.
fn logged(evenkeel: &Daemon, message: &str, driver: &DriverFile) -> usize {
    let (message, collector) = (format!("msg=\"{message}\""), format!("collector={}", driver.collector));
    let log = evenkeel.log();
    let is_it = |line: &&String| line.contains(&message) && line.split(' ').any(|word| word == collector);
    log.iter().filter(is_it).count()
}

#[test]
fn hanging_driver_delays_no_other_and_heals() {
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 1s, slow_interval: 1s}\nrule_files: [rules/*.yml]\n",
    );
    let sys = Sysfs(home.path().join("sys"));
    sys.write("class/thermal/thermal_zone0/type", "acpitz\n");
    sys.write("class/powercap/intel-rapl:0/name", "package-0\n");
    for (_, hanging, other) in &THREADS {
        sys.set(hanging, 1.0);
        sys.set(other, 1.0);
    }
    let mut evenkeel = home.start(&[&format!("--path.sysfs={}", sys.0.display())]);
    for (_, hanging, other) in &THREADS {
        wait_for_value(&evenkeel, hanging, Some(1.0));
        wait_for_value(&evenkeel, other, Some(1.0));
    }

    let writers = THREADS.each_ref().map(|(_, hanging, _)| {
        sys.hang(hanging);
        // A scrape reads the file, and each scrape has its reply.
        evenkeel.scrape_text();
        sys.wait_for_read(hanging)
    });
    for round in [2.0, 3.0] {
        for (_, _, other) in &THREADS {
            sys.set(other, round);
            wait_for_value(&evenkeel, other, Some(round));
        }
    }
    for (name, hanging, other) in &THREADS {
        // Its last value is shown for ten seconds.
        wait_for_value(&evenkeel, hanging, None);
        assert_eq!([success(&evenkeel, hanging), success(&evenkeel, other)], [0.0, 1.0]);
        assert_eq!(threads(&evenkeel, name), 2, "{name}");
    }
    let status = http::get(evenkeel.metrics, "/api/v1/status")
        .expect("evenkeel answers")
        .body;
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    for (_, hanging, _) in &THREADS {
        let mut collectors = status["collectors"].as_array().expect("a list").iter();
        let collector = collectors.find(|status| status["name"] == hanging.collector);
        let error = collector.expect("every collector")["error"]
            .as_str()
            .unwrap_or_default();
        assert!(error.starts_with("its read has not returned since "), "{error:?}");
    }
    evenkeel.reload();
    eventually("a reload", TIMEOUT, || {
        evenkeel
            .log()
            .iter()
            .any(|line| line.contains("config reloaded"))
            .then_some(())
    });

    for (_, hanging, _) in &THREADS {
        sys.set(hanging, 4.0);
    }
    drop(writers);
    for (name, hanging, other) in &THREADS {
        wait_for_value(&evenkeel, hanging, Some(4.0));
        eventually("one thread", TIMEOUT, || (threads(&evenkeel, name) == 1).then_some(()));
        assert_eq!([success(&evenkeel, hanging), success(&evenkeel, other)], [1.0; 2]);
        for message in ["collector hangs", "collector no longer hangs"] {
            eventually(message, TIMEOUT, || {
                (logged(&evenkeel, message, hanging) > 0).then_some(())
            });
            assert_eq!(logged(&evenkeel, message, hanging), 1, "{message}");
        }
    }

    let _writers = THREADS.each_ref().map(|(_, hanging, _)| {
        sys.hang(hanging);
        evenkeel.scrape_text();
        sys.wait_for_read(hanging)
    });
    assert!(evenkeel.terminate().success());
}

#[test]
fn first_read_that_hangs_is_shown_as_failed() {
    let home = Home::new("rules: []\n");
    let sys = Sysfs(home.path().join("sys"));
    let thermal_zone = &THREADS[0].2;
    sys.write("class/thermal/thermal_zone0/type", "acpitz\n");
    sys.hang(thermal_zone);
    let evenkeel = home.start(&[&format!("--path.sysfs={}", sys.0.display())]);
    let get = |path: &str| http::request(evenkeel.metrics, "GET", path, &[("Accept", "text/plain")], b"");
    eventually("a scrape", TIMEOUT, || get("/metrics").ok());
    assert_eq!(success(&evenkeel, thermal_zone), 0.0);
    let answer = get("/metrics?collect[]=thermal_zone").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = get("/metrics?collect[]=zoneinfo").expect("an answer");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, "disabled collector: zoneinfo\n")
    );
    // It is read after the one that hangs.
    eventually("a read of file systems", TIMEOUT, || {
        let labels = [("collector", "filesystem")];
        (evenkeel.metric("node_scrape_collector_success", &labels) == 1.0).then_some(())
    });
}
