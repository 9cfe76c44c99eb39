//! Host metrics: each collector reads a few files, parses them purely, and yields families under the names that
//! node_exporter made standard. `sampler` runs them on its own threads; nobody else reads through them.

pub mod collectors;
pub mod sampler;
pub mod snapshot;
mod cpu;
mod derived;
mod diskstats;
mod fields;
mod filesystem;
mod kernel_limits;
mod loadavg;
mod meminfo;
mod mounts;
mod netdev;
mod netstat;
mod own_process;
mod pressure;
mod roots;
mod sockstat;
mod softnet;
mod stat;
mod statfs;
mod time;
mod uname;
mod vmstat;
#[cfg(test)]
mod fixture;

pub use collectors::{COLLECTORS, CollectorInfo, NameFilter, Options, Pace};
pub use roots::{ReadError, Roots};
pub use sampler::{Config, Sampler, Sampling};
pub use snapshot::{Reading, Snapshot};
