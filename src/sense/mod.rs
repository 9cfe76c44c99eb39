//! Host metrics: collectors that read procfs and sysfs, and the runtime that schedules them and serves snapshots of
//! what they read.

pub mod collectors;
pub mod names;
pub mod runtime;
#[cfg(test)]
mod fixture;

pub use collectors::groups::group::{Group, Groups};
pub use collectors::info::{CollectorInfo, Pace};
pub use collectors::ipvs::labels::BACKEND_LABELS;
pub use collectors::name_filter::NameFilter;
pub use collectors::options::CollectorOptions;
pub use collectors::perf::counters::PerfCounters;
pub use collectors::perf::events::EventGroup;
pub use collectors::perf::options::{InvalidPerfOption, PerfOptions};
pub use collectors::registry::COLLECTORS;
pub use collectors::sysctl::setting::{InvalidSysctl, Sysctl};
pub use collectors::{groups, systemd};
pub use runtime::collector::Collector;
pub use runtime::day_history::{self, DayHistory};
pub use runtime::kernel_file::ReadError;
pub use runtime::recent_history::{self, RecentHistory};
pub use runtime::roots::Roots;
pub use runtime::sampler::{Sampler, SamplerConfig, Sampling};
pub use runtime::snapshot::{
    CollectorReading, EarlyCause, Freshness, MaxAge, SampleKind, SampleTime, Snapshot, max_reading_age,
};
pub use runtime::subscriber::Subscriber;
