//! The registry of collectors. A new collector is a file with its `INFO`, its `mod` line, and a row here.

use super::info::CollectorInfo;
use super::{
    arp, bcache, bcachefs, bonding, btrfs, buddyinfo, cgroups, conntrack, cpu, cpu_vulnerabilities, cpufreq, diskstats,
    dmi, dmmultipath, drbd, drm, edac, entropy, ethtool, fibrechannel, filefd, filesystem, groups, hwmon, infiniband,
    interrupts, ipvs, kernel_hung, ksmd, lnstat, loadavg, logind, mdadm, meminfo, meminfo_numa, mountstats, netclass,
    netdev, netstat, network_route, nfs, nfsd, nvme, nvmesubsystem, os, pcidevice, perf, powersupplyclass, pressure,
    process, processes, qdisc, rapl, schedstat, selinux, slabinfo, sockstat, softirqs, softnet, stat, swap, sysctl,
    systemd, tapestats, tcpstat, textfile, thermal_zone, time, timex, udp_queues, uname, vmstat, watchdog, wifi, xfrm,
    xfs, zfs, zoneinfo,
};

/// Every collector. Within a pace they are read in this order; those that may take long are last.
pub const COLLECTORS: &[CollectorInfo] = &[
    time::INFO,
    cpu::INFO,
    stat::INFO,
    meminfo::INFO,
    loadavg::INFO,
    pressure::INFO,
    vmstat::INFO,
    filefd::INFO,
    diskstats::INFO,
    netdev::INFO,
    netstat::INFO,
    sockstat::INFO,
    softnet::INFO,
    conntrack::INFO,
    process::INFO,
    uname::INFO,
    os::INFO,
    dmi::INFO,
    entropy::INFO,
    timex::INFO,
    schedstat::INFO,
    cpufreq::INFO,
    edac::INFO,
    mdadm::INFO,
    arp::INFO,
    bonding::INFO,
    netclass::INFO,
    udp_queues::INFO,
    tcpstat::INFO,
    interrupts::INFO,
    processes::INFO,
    bcache::INFO,
    bcachefs::INFO,
    btrfs::INFO,
    dmmultipath::INFO,
    fibrechannel::INFO,
    infiniband::INFO,
    ipvs::INFO,
    kernel_hung::INFO,
    nfs::INFO,
    nfsd::INFO,
    nvme::INFO,
    powersupplyclass::INFO,
    rapl::INFO,
    selinux::INFO,
    tapestats::INFO,
    watchdog::INFO,
    xfs::INFO,
    zfs::INFO,
    buddyinfo::INFO,
    cgroups::INFO,
    cpu_vulnerabilities::INFO,
    drbd::INFO,
    drm::INFO,
    ksmd::INFO,
    lnstat::INFO,
    meminfo_numa::INFO,
    mountstats::INFO,
    nvmesubsystem::INFO,
    pcidevice::INFO,
    perf::INFO,
    slabinfo::INFO,
    softirqs::INFO,
    swap::INFO,
    sysctl::INFO,
    xfrm::INFO,
    zoneinfo::INFO,
    network_route::INFO,
    qdisc::INFO,
    wifi::INFO,
    ethtool::INFO,
    logind::INFO,
    textfile::INFO,
    thermal_zone::INFO,
    hwmon::INFO,
    filesystem::INFO,
    groups::INFO,
    systemd::INFO,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique() {
        let names: HashSet<&str> = COLLECTORS.iter().map(|collector| collector.name).collect();
        assert_eq!(names.len(), COLLECTORS.len());
    }

    #[test]
    fn every_collector_has_a_file_of_its_name() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sense/collectors");
        for collector in COLLECTORS {
            assert!(
                folder.join(collector.name).with_extension("rs").exists(),
                "{}",
                collector.name
            );
        }
    }
}
