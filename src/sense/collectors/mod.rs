//! The collectors, one file each under the name that node_exporter gave it. A file reads from the top: what the
//! collector publishes, `parse`, families, state. `registry` lists them all.

#[cfg(test)]
mod tests;

pub(super) mod info;
pub(super) mod options;
pub(super) mod name_filter;
pub mod registry;
pub(super) mod socket_table;

// One line per collector.
pub(super) mod arp;
pub(super) mod bonding;
pub(super) mod conntrack;
pub(super) mod cpu;
pub(super) mod cpufreq;
pub(super) mod diskstats;
pub(super) mod dmi;
pub(super) mod edac;
pub(super) mod entropy;
pub(super) mod filefd;
pub(super) mod filesystem;
pub mod groups;
pub(super) mod hwmon;
pub(super) mod interrupts;
pub(super) mod loadavg;
pub(super) mod mdadm;
pub(super) mod meminfo;
pub(super) mod netclass;
pub(super) mod netdev;
pub(super) mod netstat;
pub(super) mod os;
pub(super) mod pressure;
pub(super) mod process;
pub(super) mod processes;
pub(super) mod schedstat;
pub(super) mod sockstat;
pub(super) mod softnet;
pub(super) mod stat;
pub mod systemd;
pub(super) mod tcpstat;
pub(super) mod textfile;
pub(super) mod thermal_zone;
pub(super) mod time;
pub(super) mod timex;
pub(super) mod udp_queues;
pub(super) mod uname;
pub(super) mod vmstat;
