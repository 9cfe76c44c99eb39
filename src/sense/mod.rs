//! Host metrics: each collector reads a few files, parses them purely, and yields families under the names that
//! node_exporter made standard. `sampler` runs them on its own threads; nobody else reads through them.

pub mod collectors;
pub mod sampler;
pub mod snapshot;
mod arp;
mod beat;
mod bonding;
mod cpu;
mod cpufreq;
mod derived;
mod diskstats;
mod dmi;
mod edac;
mod fields;
mod filesystem;
mod group_account;
pub mod groups;
mod guarded;
mod hwmon;
mod inet_sockets;
mod interrupts;
mod kernel_limits;
mod kept;
mod loadavg;
mod mdadm;
mod meminfo;
mod mounts;
mod netclass;
mod netdev;
mod netstat;
mod os;
mod own_process;
mod pressure;
mod processes;
mod roots;
mod schedstat;
mod slow;
mod slowly;
mod sockstat;
mod softnet;
mod stat;
mod statfs;
mod text_format;
mod textfile;
mod thermal_zone;
mod time;
mod timex;
mod uname;
mod vmstat;
#[cfg(test)]
mod fixture;

pub use collectors::{COLLECTORS, CollectorInfo, NameFilter, Options, Pace};
pub use groups::{Group, Groups};
pub use roots::{ReadError, Roots};
pub use sampler::{Config, OnSample, Sampler, Sampling};
pub use snapshot::{Reading, Snapshot};
