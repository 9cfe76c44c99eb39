//! The flags of node_exporter 1.12 for its collectors: which evenkeel has, which have no use there, and former names.

use crate::sense::COLLECTORS;

/// Flags without a value. The others need one.
pub const SWITCHES: [&str; 24] = [
    "collector.arp.netlink",
    "collector.bcache.priorityStats",
    "collector.cpu.guest",
    "collector.cpu.info",
    "collector.interrupts.include-zeros",
    "collector.netclass.ignore-invalid-speed",
    "collector.netclass.netlink",
    "collector.netclass_rtnl.with-stats",
    "collector.netdev.address-info",
    "collector.netdev.enable-detailed-metrics",
    "collector.netdev.label-ifalias",
    "collector.netdev.netlink",
    "collector.ntp.server-is-local",
    "collector.pcidevice.names",
    "collector.perf.disable-cache-profilers",
    "collector.perf.disable-hardware-profilers",
    "collector.perf.disable-software-profilers",
    "collector.rapl.enable-zone-label",
    "collector.stat.softirq",
    "collector.systemd.enable-restarts-metrics",
    "collector.systemd.enable-start-time-metrics",
    "collector.systemd.enable-task-metrics",
    "collector.systemd.private",
    "web.disable-exporter-metrics",
];

/// Flags with a value that have an effect.
pub const OPTIONS: [&str; 47] = [
    "collector.arp.device-exclude",
    "collector.arp.device-include",
    "collector.cpu.info.bugs-include",
    "collector.cpu.info.flags-include",
    "collector.diskstats.device-exclude",
    "collector.diskstats.device-include",
    "collector.ethtool.device-exclude",
    "collector.ethtool.device-include",
    "collector.ethtool.metrics-include",
    "collector.filesystem.fs-types-exclude",
    "collector.filesystem.fs-types-include",
    "collector.filesystem.mount-points-exclude",
    "collector.filesystem.mount-points-include",
    "collector.filesystem.mount-timeout",
    "collector.hwmon.chip-exclude",
    "collector.hwmon.chip-include",
    "collector.hwmon.sensor-exclude",
    "collector.hwmon.sensor-include",
    "collector.infiniband.device-exclude",
    "collector.infiniband.device-include",
    "collector.interrupts.name-exclude",
    "collector.interrupts.name-include",
    "collector.ipvs.backend-labels",
    "collector.netclass.ignored-devices",
    "collector.netdev.device-exclude",
    "collector.netdev.device-include",
    "collector.netstat.fields",
    "collector.pcidevice.idsfile",
    "collector.perf.cache-profilers",
    "collector.perf.cpus",
    "collector.perf.hardware-profilers",
    "collector.perf.software-profilers",
    "collector.perf.tracepoint",
    "collector.powersupply.ignored-supplies",
    "collector.qdisc.device-exclude",
    "collector.qdisc.device-include",
    "collector.qdisc.fixtures",
    "collector.slabinfo.slabs-exclude",
    "collector.slabinfo.slabs-include",
    "collector.sysctl.include",
    "collector.sysctl.include-info",
    "collector.systemd.unit-exclude",
    "collector.systemd.unit-include",
    "collector.tapestats.ignored-devices",
    "collector.textfile.directory",
    "collector.vmstat.fields",
    "collector.wifi.fixtures",
];

/// Options that node_exporter does not accept together.
pub const EXCLUSIVE: [(&str, &str); 4] = [
    (
        "collector.diskstats.device-exclude",
        "collector.diskstats.device-include",
    ),
    (
        "collector.filesystem.fs-types-exclude",
        "collector.filesystem.fs-types-include",
    ),
    (
        "collector.filesystem.mount-points-exclude",
        "collector.filesystem.mount-points-include",
    ),
    ("collector.netdev.device-exclude", "collector.netdev.device-include"),
];

/// Flags of node_exporter without a use in evenkeel, and why.
pub const UNUSED: [(&str, &str); 15] = [
    ("collector.arp.netlink", "evenkeel reads /proc/net/arp"),
    (
        "collector.filesystem.stat-workers",
        "a mount that hangs delays no other",
    ),
    ("collector.netdev.netlink", "evenkeel reads /proc/net/dev"),
    ("collector.ntp.ip-ttl", NO_COLLECTOR),
    ("collector.ntp.local-offset-tolerance", NO_COLLECTOR),
    ("collector.ntp.max-distance", NO_COLLECTOR),
    ("collector.ntp.protocol-version", NO_COLLECTOR),
    ("collector.ntp.server", NO_COLLECTOR),
    ("collector.ntp.server-is-local", NO_COLLECTOR),
    ("collector.ntp.server-port", NO_COLLECTOR),
    ("collector.runit.servicedir", NO_COLLECTOR),
    ("collector.supervisord.url", NO_COLLECTOR),
    ("collector.systemd.private", "evenkeel asks systemd through D-Bus"),
    ("runtime.gomaxprocs", "evenkeel is not written in Go"),
    (
        "web.disable-exporter-metrics",
        "--no-collector.process leaves out process_*",
    ),
];

pub const NO_COLLECTOR: &str = "evenkeel has no such collector";

/// Collectors of node_exporter that evenkeel lacks, and what to use instead.
pub const MISSING: [(&str, &str); 3] = [
    ("ntp", "timex shows the state of the clock"),
    ("runit", "process_groups shows the services"),
    ("supervisord", "process_groups shows the programs"),
];

/// Former names of flags.
pub const FORMER: [(&str, &str); 9] = [
    (
        "collector.diskstats.ignored-devices",
        "collector.diskstats.device-exclude",
    ),
    (
        "collector.filesystem.ignored-fs-types",
        "collector.filesystem.fs-types-exclude",
    ),
    (
        "collector.filesystem.ignored-mount-points",
        "collector.filesystem.mount-points-exclude",
    ),
    ("collector.netdev.device-blacklist", "collector.netdev.device-exclude"),
    ("collector.netdev.device-whitelist", "collector.netdev.device-include"),
    ("collector.qdisk.device-exclude", "collector.qdisc.device-exclude"),
    ("collector.qdisk.device-include", "collector.qdisc.device-include"),
    ("collector.systemd.unit-blacklist", "collector.systemd.unit-exclude"),
    ("collector.systemd.unit-whitelist", "collector.systemd.unit-include"),
];

/// The flag most like a misspelt one.
pub fn suggestion(flag: &str) -> Option<String> {
    let (prefix, option) = match flag.strip_prefix("no-") {
        Some(option) => ("no-collector.", option),
        None => ("collector.", flag),
    };
    let (_, name) = option.split_once('.')?;
    let options = SWITCHES
        .iter()
        .chain(&OPTIONS)
        .filter_map(|flag| flag.strip_prefix("collector."));
    let names = COLLECTORS
        .iter()
        .map(|info| info.name)
        .chain(options)
        .chain(["disable-defaults"]);
    let alike = names.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    let best = best.filter(|(likeness, _)| *likeness > ALIKE);
    best.map(|(_, known)| format!("{prefix}{known}"))
}

/// How like a name is to one that it may be meant to be, from 0 to 1.
const ALIKE: f64 = 0.85;

/// Whether a flag takes no value. Switches of whole collectors have no second dot.
pub fn is_switch(flag: &str) -> bool {
    let option = flag.strip_prefix("no-").unwrap_or(flag);
    SWITCHES.contains(&option) || (option.starts_with("collector.") && option.matches('.').count() == 1)
}

/// Whether a flag is one that clap does not know.
pub fn is_ours(flag: &str) -> bool {
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    let name = name.strip_prefix("no-").unwrap_or(name);
    let is_collectors = |(prefix, _): (&str, &str)| strsim::jaro_winkler(prefix, "collector") > ALIKE;
    name.split_once('.').is_some_and(is_collectors)
        || ["runtime.gomaxprocs", "web.disable-exporter-metrics"].contains(&name)
}
