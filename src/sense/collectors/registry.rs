//! The table of collectors: names, pace, default, and how each is built from its options. Flags, the sampler and
//! `collect[]` all read this one table.

use super::cpu::Cpu;
use super::diskstats::Diskstats;
use super::filesystem::Filesystem;
use super::filesystem::statfs::{self, StatfsClient};
use super::groups::{Groups, GroupsReader};
use super::meminfo::Meminfo;
use super::netdev::Netdev;
use super::netstat::Netstat;
use super::process::OwnProcess;
use super::sockstat::Sockstat;
use super::softnet::Softnet;
use super::systemd::{Systemd, SystemdOptions};
use super::vmstat::Vmstat;
use super::{
    arp, bonding, cpufreq, dmi, edac, hwmon, inet_sockets, interrupts, kernel_limits, loadavg, mdadm, netclass, os,
    pressure, processes, schedstat, stat, textfile, thermal_zone, time, timex, uname,
};
use crate::family::Family;
use crate::sense::runtime::kernel_file::ReadError;
use crate::sense::runtime::roots::Roots;
use crate::sense::runtime::ttl_cache::TtlCache;
use regex::Regex;
use std::path::PathBuf;
use std::time::Duration;

/// How often a collector is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// Anew for a scrape, and every `interval` while a rule reads one of its metrics.
    Fast,
    /// Every `slow_interval`, on a thread of its own so that a slow driver delays no fast sample.
    Slow,
    /// Every `slow_interval` on a thread of its own: whom it asks may make it wait for long.
    Isolated,
}

/// Reads its files and yields families; keeps what it needs between two reads.
pub(in crate::sense) type ReadFn = Box<dyn FnMut(&Roots) -> Result<Vec<Family>, ReadError> + Send>;

/// One collector as flags and documentation need it.
pub struct CollectorInfo {
    /// node_exporter's name, as in `--collector.NAME` and the label `collector`.
    pub name: &'static str,
    pub pace: Pace,
    pub default_on: bool,
    /// One line for `--help`.
    pub help: &'static str,
    build: fn(&CollectorOptions) -> ReadFn,
}

impl CollectorInfo {
    pub(in crate::sense) fn build(&self, options: &CollectorOptions) -> ReadFn {
        (self.build)(options)
    }
}

/// Which names a collector shows. An empty filter allows all.
#[derive(Debug, Clone, Default)]
pub struct NameFilter {
    pub include: Option<Regex>,
    pub exclude: Option<Regex>,
}

impl NameFilter {
    /// A filter as node_exporter's `…-exclude` flags mean it: not anchored.
    ///
    /// # Errors
    ///
    /// When the pattern is no regular expression.
    pub fn exclude(pattern: &str) -> Result<Self, regex::Error> {
        Ok(NameFilter {
            include: None,
            exclude: Some(Regex::new(pattern)?),
        })
    }

    /// A filter as node_exporter's `…-include` flags mean it: not anchored.
    ///
    /// # Errors
    ///
    /// When the pattern is no regular expression.
    pub fn include(pattern: &str) -> Result<Self, regex::Error> {
        Ok(NameFilter {
            include: Some(Regex::new(pattern)?),
            exclude: None,
        })
    }

    pub fn allows(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(name))
            && self.exclude.as_ref().is_none_or(|exclude| !exclude.is_match(name))
    }
}

/// Default of `--collector.diskstats.device-exclude`: partitions, memory and loop devices.
pub const DISKSTATS_EXCLUDE: &str = r"^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$";

/// Default of `--collector.filesystem.mount-points-exclude`.
pub const MOUNT_POINTS_EXCLUDE: &str =
    r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)";

/// Default of `--collector.filesystem.fs-types-exclude`: what is no storage.
pub const FS_TYPES_EXCLUDE: &str = "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|\
    iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$";

/// Default of `--collector.netstat.fields`.
pub const NETSTAT_FIELDS: &str = "^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|\
    Icmp6?_(InMsgs|OutMsgs)|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts)|\
    Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)|\
    Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$";

/// Default of `--collector.vmstat.fields`.
pub const VMSTAT_FIELDS: &str = "^(oom_kill|pgpg|pswp|pg.*fault).*";

/// What node_exporter's own flags of single collectors set.
#[derive(Debug, Clone)]
pub struct CollectorOptions {
    pub diskstats_devices: NameFilter,
    pub netdev_devices: NameFilter,
    pub mount_points: NameFilter,
    pub fs_types: NameFilter,
    /// How long all mounts of one round together may take to answer `statfs`.
    pub mount_timeout: Duration,
    pub arp_devices: NameFilter,
    pub netclass_devices: NameFilter,
    /// `--collector.textfile.directory`; patterns are allowed.
    pub textfile_directories: Vec<String>,
    pub netstat_fields: Regex,
    pub vmstat_fields: Regex,
    /// `--path.udev.data`.
    pub udev_data: PathBuf,
    /// `process_groups` of the configuration.
    pub process_groups: Groups,
    pub systemd: SystemdOptions,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        let pattern = |text| Regex::new(text).expect("a constant that tests compile");
        let exclude = |text| NameFilter {
            include: None,
            exclude: Some(pattern(text)),
        };
        CollectorOptions {
            diskstats_devices: exclude(DISKSTATS_EXCLUDE),
            netdev_devices: NameFilter::default(),
            mount_points: exclude(MOUNT_POINTS_EXCLUDE),
            fs_types: exclude(FS_TYPES_EXCLUDE),
            mount_timeout: Duration::from_secs(5),
            arp_devices: NameFilter::default(),
            netclass_devices: NameFilter::default(),
            textfile_directories: Vec::new(),
            netstat_fields: pattern(NETSTAT_FIELDS),
            vmstat_fields: pattern(VMSTAT_FIELDS),
            udev_data: "/run/udev/data".into(),
            process_groups: Groups::default(),
            systemd: SystemdOptions::default(),
        }
    }
}

/// A collector that is on by default.
const fn on(
    name: &'static str,
    pace: Pace,
    help: &'static str,
    build: fn(&CollectorOptions) -> ReadFn,
) -> CollectorInfo {
    CollectorInfo {
        name,
        pace,
        default_on: true,
        help,
        build,
    }
}

/// A collector that is off by default, as in node_exporter, for it is dear or yields many series.
const fn off(name: &'static str, help: &'static str, build: fn(&CollectorOptions) -> ReadFn) -> CollectorInfo {
    CollectorInfo {
        name,
        pace: Pace::Slow,
        default_on: false,
        help,
        build,
    }
}

/// Every collector there is. Within a pace they are read in this order, those that may take long last.
pub const COLLECTORS: &[CollectorInfo] = &[
    on("time", Pace::Fast, "wall clock, time zone and clock sources", |_| {
        let mut surroundings = TtlCache::default();
        Box::new(move |roots| Ok(time::read_time(roots, &mut surroundings)))
    }),
    on("cpu", Pace::Fast, "processor time per mode", |_| {
        let mut cpu = Cpu::default();
        Box::new(move |roots| cpu.read(roots))
    }),
    on(
        "stat",
        Pace::Fast,
        "interrupts, context switches, forks, boot time",
        |_| Box::new(stat::read_stat),
    ),
    on("meminfo", Pace::Fast, "memory", |_| {
        let mut meminfo = Meminfo::default();
        Box::new(move |roots| meminfo.read(roots))
    }),
    on("loadavg", Pace::Fast, "load averages", |_| {
        Box::new(loadavg::read_loadavg)
    }),
    on("pressure", Pace::Fast, "pressure stall information", |_| {
        Box::new(pressure::read_pressure)
    }),
    on("vmstat", Pace::Fast, "paging and out-of-memory kills", |options| {
        let mut vmstat = Vmstat::new(options.vmstat_fields.clone());
        Box::new(move |roots| vmstat.read(roots))
    }),
    on("filefd", Pace::Fast, "file handles", |_| {
        Box::new(kernel_limits::read_filefd)
    }),
    on("diskstats", Pace::Fast, "block devices", |options| {
        let mut diskstats = Diskstats::new(options.diskstats_devices.clone(), &options.udev_data);
        Box::new(move |roots| diskstats.read(roots))
    }),
    on("netdev", Pace::Fast, "network devices", |options| {
        let mut netdev = Netdev::new(options.netdev_devices.clone());
        Box::new(move |roots| netdev.read(roots))
    }),
    on("netstat", Pace::Fast, "protocol counters", |options| {
        let mut netstat = Netstat::new(options.netstat_fields.clone());
        Box::new(move |roots| netstat.read(roots))
    }),
    on("sockstat", Pace::Fast, "sockets in use", |_| {
        let mut sockstat = Sockstat::default();
        Box::new(move |roots| sockstat.read(roots))
    }),
    on("softnet", Pace::Fast, "packets taken by each processor", |_| {
        let mut softnet = Softnet::default();
        Box::new(move |roots| softnet.read(roots))
    }),
    on("conntrack", Pace::Fast, "tracked connections", |_| {
        Box::new(kernel_limits::read_conntrack)
    }),
    on("process", Pace::Slow, "evenkeel itself: process_*", |_| {
        let mut own = OwnProcess::default();
        Box::new(move |_| own.read())
    }),
    on("uname", Pace::Slow, "kernel and host name", |_| {
        Box::new(|_| Ok(uname::read_uname()))
    }),
    on("os", Pace::Slow, "distribution", |_| Box::new(os::read_os)),
    on("dmi", Pace::Slow, "what the firmware says of the machine", |_| {
        Box::new(dmi::read_dmi)
    }),
    on("entropy", Pace::Slow, "entropy", |_| {
        Box::new(kernel_limits::read_entropy)
    }),
    on("timex", Pace::Slow, "discipline of the clock", |_| {
        Box::new(|_| timex::read_timex())
    }),
    on("schedstat", Pace::Slow, "time that tasks ran and waited", |_| {
        Box::new(schedstat::read_schedstat)
    }),
    on("cpufreq", Pace::Slow, "frequencies of processors", |_| {
        Box::new(cpufreq::read_cpufreq)
    }),
    on("edac", Pace::Slow, "memory errors", |_| Box::new(edac::read_edac)),
    on("mdadm", Pace::Slow, "software RAID", |_| Box::new(mdadm::read_mdadm)),
    on("arp", Pace::Slow, "ARP entries", |options| {
        let devices = options.arp_devices.clone();
        Box::new(move |roots| arp::read_arp(roots, &devices))
    }),
    on("bonding", Pace::Slow, "bonds of network devices", |_| {
        Box::new(bonding::read_bonding)
    }),
    on("netclass", Pace::Slow, "attributes of network devices", |options| {
        let devices = options.netclass_devices.clone();
        Box::new(move |roots| netclass::read_netclass(roots, &devices))
    }),
    on("udp_queues", Pace::Slow, "bytes that wait in UDP sockets", |_| {
        Box::new(inet_sockets::read_udp_queues)
    }),
    off("tcpstat", "TCP sockets per state", |_| {
        Box::new(inet_sockets::read_tcpstat)
    }),
    off("interrupts", "interrupts per line and processor", |_| {
        Box::new(interrupts::read_interrupts)
    }),
    off("processes", "processes and threads per state", |_| {
        Box::new(processes::read_processes)
    }),
    on(
        "textfile",
        Pace::Slow,
        "metrics that other programs leave in files",
        |options| {
            let patterns = options.textfile_directories.clone();
            Box::new(move |_| Ok(textfile::read_textfile(&patterns)))
        },
    ),
    on("thermal_zone", Pace::Slow, "temperatures and cooling", |_| {
        Box::new(thermal_zone::read_thermal_zone)
    }),
    on("hwmon", Pace::Slow, "sensors", |_| Box::new(hwmon::read_hwmon)),
    on("filesystem", Pace::Slow, "sizes of file systems", |options| {
        let client = StatfsClient::new(statfs::system_call(), options.mount_timeout);
        let mut filesystem = Filesystem::new(options.mount_points.clone(), options.fs_types.clone(), client);
        Box::new(move |roots| filesystem.read(roots))
    }),
    on(
        "groups",
        Pace::Isolated,
        "process_groups of the configuration",
        |options| {
            // The kernel may make a reader of a process wait for that process.
            let mut groups = GroupsReader::new(Groups::clone(&options.process_groups));
            Box::new(move |roots| groups.read(roots))
        },
    ),
    CollectorInfo {
        pace: Pace::Isolated,
        ..off("systemd", "units of systemd, asked over D-Bus", |options| {
            let mut systemd = Systemd::new(options.systemd.clone());
            Box::new(move |_| systemd.read())
        })
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_default_options_compile() {
        let names: HashSet<&str> = COLLECTORS.iter().map(|collector| collector.name).collect();
        assert_eq!(names.len(), COLLECTORS.len());
        let options = CollectorOptions::default();
        assert!(options.mount_points.allows("/srv") && !options.mount_points.allows("/proc"));
        assert!(options.fs_types.allows("ext4") && !options.fs_types.allows("cgroup2"));
    }

    #[test]
    fn include_and_exclude_are_not_anchored() {
        assert!(NameFilter::include("th").unwrap().allows("eth0"));
        assert!(!NameFilter::exclude("th").unwrap().allows("eth0"));
    }
}
