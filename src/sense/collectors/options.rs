//! The options of collectors, as flags and configuration set them, and the defaults of node_exporter.

use super::cpu::options::CpuOptions;
use super::groups::group::Groups;
use super::ipvs::labels::BACKEND_LABELS;
use super::name_filter::NameFilter;
use super::netdev::options::NetdevOptions;
use super::pcidevice::names::PciNames;
use super::perf::counters::PerfCounters;
use super::perf::options::PerfOptions;
use super::sysctl::setting::Sysctl;
use super::systemd::options::SystemdOptions;
use regex::Regex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Default of `--collector.diskstats.device-exclude`: partitions, memory and loop devices.
pub const DISKSTATS_EXCLUDE: &str = r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$";

/// Default of `--collector.filesystem.mount-points-exclude`.
pub const MOUNT_POINTS_EXCLUDE: &str =
    r"^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)";

/// Default of `--collector.filesystem.fs-types-exclude`: types without storage.
pub const FS_TYPES_EXCLUDE: &str = "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|\
    iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$";

/// Default of `--collector.netstat.fields`.
pub const NETSTAT_FIELDS: &str = "^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|\
    Icmp6?_(InMsgs|OutMsgs)|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)|\
    Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)|\
    Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$";

/// Default of `--collector.vmstat.fields`.
pub const VMSTAT_FIELDS: &str = "^(oom_kill|pgpg|pswp|pg.*fault).*";

/// The options that flags of single collectors set.
#[derive(Debug, Clone)]
pub struct CollectorOptions {
    pub diskstats_devices: NameFilter,
    pub netdev_devices: NameFilter,
    pub mount_points: NameFilter,
    pub fs_types: NameFilter,
    /// Timeout of `statfs` for all mounts of one round together.
    pub mount_timeout: Duration,
    pub arp_devices: NameFilter,
    pub netclass_devices: NameFilter,
    /// Devices of an unknown speed have no speed, instead of a negative one.
    pub netclass_ignores_invalid_speed: bool,
    pub infiniband_devices: NameFilter,
    pub tape_devices: NameFilter,
    pub power_supplies: NameFilter,
    pub hwmon_chips: NameFilter,
    /// On `chip;sensor`.
    pub hwmon_sensors: NameFilter,
    /// On `name;info;devices`.
    pub interrupts: NameFilter,
    pub interrupts_without_zeros: bool,
    pub cpu: CpuOptions,
    /// Softirqs in the collector `stat`.
    pub stat_softirqs: bool,
    pub bcache_priority_stats: bool,
    pub rapl_zone_label: bool,
    pub ipvs_backend_labels: Vec<&'static str>,
    pub ethtool_devices: NameFilter,
    /// Counters of drivers to show; `None` is all.
    pub ethtool_counters: Option<Regex>,
    pub qdisc_devices: NameFilter,
    pub qdisc_fixtures: Option<PathBuf>,
    pub wifi_fixtures: Option<PathBuf>,
    /// Other names of network devices, which only netlink lists.
    pub netclass_netlink: bool,
    /// With `netclass_netlink`, the counters of network devices in `netclass` instead of `netdev`.
    pub netclass_statistics: bool,
    pub netdev: NetdevOptions,
    pub slabs: NameFilter,
    pub sysctls: Vec<Sysctl>,
    pub pci_names: PciNames,
    pub perf: PerfOptions,
    /// The counters of `perf`, which are opened before the sandbox.
    pub perf_counters: Arc<PerfCounters>,
    /// `--collector.textfile.directory`; glob patterns are allowed.
    pub textfile_directories: Vec<String>,
    pub netstat_fields: Regex,
    pub vmstat_fields: Regex,
    /// `--path.udev.data`.
    pub udev_data: PathBuf,
    /// How old the attributes of network devices may be.
    pub slow_interval: Duration,
    /// `process_groups` of the configuration.
    pub process_groups: Groups,
    pub systemd: SystemdOptions,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        let pattern = |text| Regex::new(text).expect("a constant that tests compile");
        let exclude = |text| NameFilter::exclude(pattern(text));
        CollectorOptions {
            diskstats_devices: exclude(DISKSTATS_EXCLUDE),
            netdev_devices: NameFilter::default(),
            mount_points: exclude(MOUNT_POINTS_EXCLUDE),
            fs_types: exclude(FS_TYPES_EXCLUDE),
            mount_timeout: Duration::from_secs(5),
            arp_devices: NameFilter::default(),
            netclass_devices: NameFilter::default(),
            netclass_ignores_invalid_speed: false,
            infiniband_devices: NameFilter::default(),
            tape_devices: NameFilter::default(),
            power_supplies: NameFilter::default(),
            hwmon_chips: NameFilter::default(),
            hwmon_sensors: NameFilter::default(),
            interrupts: NameFilter::default(),
            interrupts_without_zeros: false,
            cpu: CpuOptions::default(),
            stat_softirqs: false,
            bcache_priority_stats: false,
            rapl_zone_label: false,
            ipvs_backend_labels: BACKEND_LABELS.to_vec(),
            ethtool_devices: NameFilter::default(),
            ethtool_counters: None,
            qdisc_devices: NameFilter::default(),
            qdisc_fixtures: None,
            wifi_fixtures: None,
            netclass_netlink: false,
            netclass_statistics: false,
            netdev: NetdevOptions::default(),
            slabs: NameFilter::default(),
            sysctls: Vec::new(),
            pci_names: PciNames::default(),
            perf: PerfOptions::default(),
            perf_counters: Arc::default(),
            textfile_directories: Vec::new(),
            netstat_fields: pattern(NETSTAT_FIELDS),
            vmstat_fields: pattern(VMSTAT_FIELDS),
            udev_data: "/run/udev/data".into(),
            slow_interval: Duration::from_secs(15),
            process_groups: Groups::default(),
            systemd: SystemdOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_patterns_compile_and_hide_pseudo_mounts() {
        let options = CollectorOptions::default();
        assert!(options.mount_points.allows("/srv") && !options.mount_points.allows("/proc"));
        assert!(options.fs_types.allows("ext4") && !options.fs_types.allows("cgroup2"));
    }
}
