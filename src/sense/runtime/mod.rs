//! The threads that run the collectors, the caches that make reading cheap, and the snapshots that scrapes and rules
//! get.

pub(super) mod bad_lines;
pub(super) mod collector;
pub(super) mod collector_set;
pub(super) mod collector_threads;
pub(super) mod core_stats;
pub(super) mod derived;
pub(super) mod device_rates;
pub(super) mod file_cache;
pub(super) mod headroom;
pub(super) mod idle_cache;
pub(super) mod kernel_file;
pub(super) mod lines;
pub(super) mod name_cache;
pub(super) mod netlink;
pub(super) mod network_links;
pub(super) mod part_error;
pub(super) mod pressure_watch;
pub(super) mod reader_thread;
pub(super) mod readers;
pub mod recent_history;
pub mod day_history;
pub mod roots;
pub mod sampler;
pub(super) mod sampler_thread;
pub(super) mod scrape_queue;
pub mod snapshot;
pub(super) mod subscriber;
pub(super) mod ticker;
pub(super) mod ttl_cache;
