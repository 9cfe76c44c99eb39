//! The registry of collectors. A new collector is a file with its `INFO`, its `mod` line, and a row here.

use super::info::CollectorInfo;
use super::{
    arp, bonding, conntrack, cpu, cpufreq, diskstats, dmi, edac, entropy, filefd, filesystem, groups, hwmon,
    interrupts, loadavg, mdadm, meminfo, netclass, netdev, netstat, os, pressure, process, processes, schedstat,
    sockstat, softnet, stat, systemd, tcpstat, textfile, thermal_zone, time, timex, udp_queues, uname, vmstat,
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
