//! Limits of a slice with leases of several alerts, and a limit whose restore would kill.

use super::memory::{HOLDS_BYTES, Holder};
use super::unit::has_assignments;
use super::*;

/// A slice with a unit file, which is stopped and removed when the test ends.
struct Slice {
    name: String,
}

impl Slice {
    fn start(name: &str, settings: &str) -> Self {
        let slice = Slice {
            name: format!("{name}.slice"),
        };
        std::fs::write(slice.file(), format!("[Slice]\n{settings}\n")).expect("units are written by root");
        sh(&format!("systemctl daemon-reload; systemctl start {}", slice.name));
        slice
    }

    fn file(&self) -> String {
        format!("/etc/systemd/system/{}", self.name)
    }

    fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    fn shows(&self, property: &str) -> String {
        let show = format!("systemctl show --value --property={property} {}", self.name);
        sh(&show).trim().to_owned()
    }

    /// The content of a file without unlimited devices, which the kernel may or may not show.
    fn io_max(&self) -> String {
        let text = read(&self.cgroup(), "io.max");
        let unlimited = "rbps=max wbps=max riops=max wiops=max";
        let limited: Vec<&str> = text.lines().filter(|line| !line.ends_with(unlimited)).collect();
        limited.join("; ")
    }

    fn select(&self) -> String {
        format!("{{unit: '{}'}}", self.name.replace('.', "\\."))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let stop = ["stop", &self.name];
        let _ = std::process::Command::new("systemctl").args(stop).status();
        let _ = std::fs::remove_file(self.file());
    }
}

fn send(evenkeel: &Daemon, name: &str, status: &str, ends_at: &str) {
    let mut alert: Value = firing(json!({"alertname": name, "instance": node_name()}));
    (alert["status"], alert["endsAt"]) = (json!(status), json!(ends_at));
    alert["fingerprint"] = json!(format!("{:016x}", u64::from(name.as_bytes()[0])));
    deliver(evenkeel, &envelope(&[alert]).to_string());
}

fn rule(name: &str, slice: &Slice, limits: &str) -> String {
    format!(
        "\x20 - name: {name}\n\
         \x20   matchers: ['alertname=\"{name}\"']\n\
         \x20   select: {}\n\
         \x20   actions: [{{cgroup: {{{limits}}}}}]\n",
        slice.select()
    )
}

#[test]
fn limits_of_several_alerts_are_restored_one_by_one() {
    let slice = Slice::start("shared", "CPUQuota=200%\nIOReadBandwidthMax=/dev/vda 5M");
    let cpu_max = || read(&slice.cgroup(), "cpu.max");
    let numbers = |name: &str| read_number(&format!("/sys/block/{name}/dev"));
    let (first, second) = (numbers("vda"), numbers("vdb"));
    let own = format!("{first} rbps=5000000 wbps=max riops=max wiops=max");
    assert_eq!((cpu_max(), slice.io_max()), ("200000 100000".into(), own.clone()));
    let home = Home::new(&format!(
        "rules:\n{}{}{}",
        rule("a", &slice, "cpu.max: -50%, io.max: /dev/vda wbps=1MiB"),
        rule("b", &slice, "cpu.max: -50%, io.max: /dev/vdb wbps=2MiB"),
        rule("c", &slice, "cpu.max: -50%, io.max: /dev/vda rbps=3MiB"),
    ));
    let mut evenkeel = enforce(&home);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        send(&evenkeel, name, "firing", "0001-01-01T00:00:00Z");
        outcomes(&evenkeel, "applied", 2.0 * (index + 1) as f64);
        assert_eq!(cpu_max(), "100000 100000", "{name} fires");
    }
    let of_first = |rbps, wbps| format!("{first} rbps={rbps} wbps={wbps} riops=max wiops=max");
    let of_second = format!("{second} rbps=max wbps=2097152 riops=max wiops=max");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.split("; ").map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let all = format!("{}; {of_second}", of_first("3145728", "1048576"));
    assert_eq!(sorted(&slice.io_max()), sorted(&all));
    sh("systemctl daemon-reload");
    assert_eq!(
        (cpu_max(), sorted(&slice.io_max())),
        ("100000 100000".into(), sorted(&all))
    );

    send(&evenkeel, "b", "resolved", "2024-01-02T04:00:00Z");
    outcomes(&evenkeel, "restored", 2.0);
    assert_eq!(
        (cpu_max(), slice.io_max()),
        ("100000 100000".into(), of_first("3145728", "1048576"))
    );
    send(&evenkeel, "a", "resolved", "2024-01-02T04:00:00Z");
    outcomes(&evenkeel, "restored", 4.0);
    assert_eq!(
        (cpu_max(), slice.io_max()),
        ("100000 100000".into(), of_first("3145728", "max"))
    );
    evenkeel.kill();
    let evenkeel = home.start_again(&evenkeel, &FLAGS);
    send(&evenkeel, "c", "resolved", "2024-01-02T04:00:00Z");
    outcomes(&evenkeel, "restored", 2.0);
    assert_eq!((cpu_max(), slice.io_max()), ("200000 100000".into(), own.clone()));
    assert!(!has_assignments(&slice.name));
    assert_eq!(slice.shows("NeedDaemonReload"), "no");
    sh("systemctl daemon-reload");
    assert_eq!((cpu_max(), slice.io_max()), ("200000 100000".into(), own));
}

fn read_number(path: &str) -> String {
    std::fs::read_to_string(path).expect("a disk").trim().to_owned()
}

#[test]
fn memory_max_comes_back_when_it_kills_no_process() {
    let slice = Slice::start("room", "MemoryMax=64M\nMemorySwapMax=0");
    let file = |name: &str| read(&slice.cgroup(), name);
    let kills = || {
        file("memory.events")
            .lines()
            .any(|line| line.starts_with("oom_kill ") && line != "oom_kill 0")
    };
    let home = home(&slice.select(), "[{cgroup: {memory.max: +100%}}]");
    let mut evenkeel = enforce(&home);
    fire(&evenkeel);
    outcomes(&evenkeel, "applied", 1.0);
    let raised = (128_u64 << 20).to_string();
    assert_eq!(file("memory.max"), raised);
    let holder = Holder::start_in(&slice.name, "holder-room");
    assert!(holder.resident_bytes() > HOLDS_BYTES - (1 << 20));

    resolve(&evenkeel);
    outcomes(&evenkeel, "failed", 1.0);
    assert!(home.ledger_has_row_with(&["the kernel would kill processes"]));
    evenkeel.kill();
    let evenkeel = home.start_again(&evenkeel, &FLAGS);
    outcomes(&evenkeel, "failed", 1.0);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((file("memory.max"), kills()), (raised, false));
    assert!(holder.resident_bytes() > 0, "it lives");

    drop(holder);
    outcomes(&evenkeel, "restored", 1.0);
    assert_eq!(file("memory.max"), (64_u64 << 20).to_string());
    assert_eq!(slice.shows("MemoryMax"), (64_u64 << 20).to_string());
    assert!(!kills() && !has_assignments(&slice.name));
}
