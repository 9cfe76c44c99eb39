//! The status that the page and `/api/v1/status` show. Pure. It never holds command lines, annotations or environment.

use crate::family::Family;
use crate::sense::recent_history::{HistoryMetric, RecentHistory};
use crate::sense::{DayHistory, Sampler, Snapshot};
use crate::telemetry::{Activity, BudgetLimits, FrontendStatus, Telemetry};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub version: &'static str,
    pub mode: &'static str,
    pub paused: bool,
    /// Why evenkeel only publishes metrics; left out while the actuator is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actuator_off: Option<String>,
    /// Starts of the engine after a panic.
    pub engine_restarts: u64,
    /// The process that serves HTTP; left out where the main process does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendStatus>,
    pub host: HostInfo,
    pub alerts_firing: BTreeMap<&'static str, usize>,
    pub leases_held: usize,
    #[serde(flatten)]
    pub activity: Activity,
    pub budget_remaining: u32,
    /// Episodes that may still run commands without `undo`.
    pub commands_remaining: u32,
    pub budget: BudgetLimits,
    pub breakers_open: Vec<String>,
    /// The rules that are paused by themselves.
    pub paused_rules: BTreeSet<String>,
    pub ledger_writable: bool,
    /// False while the newest configuration is not in force.
    pub config_last_reload_successful: bool,
    pub config_last_reload_success_at: Timestamp,
    pub sampled_at: Timestamp,
    pub sampling_interval_seconds: f64,
    pub figures: HostFigures,
    /// The values of each figure over the last minutes, oldest first, one per sample; `null` where a sample lacks it.
    #[serde(serialize_with = "serialize_recent_history", rename = "trail")]
    pub recent_history: RecentHistory,
    #[serde(skip)]
    pub day_history: DayHistory,
    pub collectors: Vec<CollectorStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct HostInfo {
    pub name: String,
    pub kernel: String,
    pub machine: String,
}

/// HostFigures of the newest sample; a figure without a value is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostFigures {
    pub cpu_busy_ratio: Option<f64>,
    pub memory_used_ratio: Option<f64>,
    pub memory_total_bytes: Option<f64>,
    pub load1: Option<f64>,
    pub filesystem_used_ratio: BTreeMap<String, f64>,
    pub network_receive_bytes_per_second: BTreeMap<String, f64>,
    pub network_transmit_bytes_per_second: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CollectorStatus {
    pub name: &'static str,
    pub success: bool,
    pub error: Option<String>,
    pub age_seconds: f64,
    pub duration_seconds: f64,
}

impl Status {
    /// Whether more leases are held than are listed.
    pub fn has_more_leases(&self) -> bool {
        self.leases_held > self.activity.leases.len()
    }
}

fn serialize_recent_history<S: Serializer>(recent_history: &RecentHistory, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(HistoryMetric::ALL.map(|metric| {
        let name = match metric {
            HistoryMetric::CpuBusy => "cpu_busy_ratio",
            HistoryMetric::MemoryUsed => "memory_used_ratio",
            HistoryMetric::CpuWaiting => "cpu_waiting_ratio",
            HistoryMetric::IoWaiting => "io_waiting_ratio",
            HistoryMetric::MemoryWaiting => "memory_waiting_ratio",
            HistoryMetric::Received => "receive_bytes_per_second",
            HistoryMetric::Sent => "transmit_bytes_per_second",
            HistoryMetric::DiskRead => "disk_read_bytes_per_second",
            HistoryMetric::DiskWritten => "disk_written_bytes_per_second",
        };
        // NaN becomes null.
        (name, recent_history.values(metric).collect::<Vec<f32>>())
    }))
}

/// The values of a family by one label.
fn by_label(snapshot: &Snapshot, family: &str, label: &str) -> BTreeMap<String, f64> {
    let points = snapshot.family(family).into_iter().flat_map(Family::points);
    points
        .filter_map(|point| Some((point.label(label).unwrap_or_default().to_owned(), point.number()?)))
        .collect()
}

fn single(snapshot: &Snapshot, family: &str) -> Option<f64> {
    by_label(snapshot, family, "").into_values().next()
}

fn host(snapshot: &Snapshot) -> HostInfo {
    let point = || snapshot.family("node_uname_info")?.points().next();
    let text = |name: &str| {
        point()
            .and_then(|point| point.label(name))
            .unwrap_or_default()
            .to_owned()
    };
    HostInfo {
        name: text("nodename"),
        kernel: text("release"),
        machine: text("machine"),
    }
}

/// The status at `now`, with the figures of a sample.
pub fn status(sampler: &Sampler, snapshot: &Snapshot, telemetry: &Telemetry, now: Instant) -> Status {
    let (state, reload) = (telemetry.state(), telemetry.reload());
    Status {
        version: env!("CARGO_PKG_VERSION"),
        mode: if state.enforce { "enforce" } else { "dry-run" },
        paused: state.paused,
        actuator_off: telemetry.actuator_off(),
        engine_restarts: telemetry.engine_restarts(),
        frontend: telemetry.frontend(),
        host: host(snapshot),
        leases_held: state.leases.values().sum(),
        alerts_firing: state.alerts_firing,
        activity: telemetry.activity(),
        budget_remaining: state.budget_remaining,
        commands_remaining: state.commands_remaining,
        budget: state.budget,
        breakers_open: state
            .breakers
            .into_iter()
            .filter(|(_, open)| *open)
            .map(|(rule, _)| rule)
            .collect(),
        paused_rules: state.paused_rules,
        ledger_writable: !state.is_ledger_lost,
        config_last_reload_successful: !reload.failed,
        config_last_reload_success_at: Timestamp::from_millisecond((reload.success_timestamp_seconds * 1e3) as i64)
            .unwrap_or_default(),
        sampled_at: snapshot.taken.wall,
        sampling_interval_seconds: sampler.interval().as_secs_f64(),
        recent_history: sampler.recent_history(),
        day_history: sampler.day_history(),
        figures: HostFigures {
            cpu_busy_ratio: single(snapshot, "evenkeel_cpu_busy_ratio"),
            memory_used_ratio: single(snapshot, "evenkeel_memory_used_ratio"),
            memory_total_bytes: single(snapshot, "node_memory_MemTotal_bytes"),
            load1: single(snapshot, "node_load1"),
            filesystem_used_ratio: by_label(snapshot, "evenkeel_filesystem_used_ratio", "mountpoint"),
            network_receive_bytes_per_second: by_label(snapshot, "evenkeel_network_receive_bytes_per_second", "device"),
            network_transmit_bytes_per_second: by_label(
                snapshot,
                "evenkeel_network_transmit_bytes_per_second",
                "device",
            ),
        },
        collectors: snapshot
            .readings
            .iter()
            .map(|reading| CollectorStatus {
                name: reading.collector,
                success: reading.success(),
                error: reading.error.clone(),
                age_seconds: now.saturating_duration_since(reading.read.instant).as_secs_f64(),
                duration_seconds: reading.duration.as_secs_f64(),
            })
            .collect(),
    }
}
