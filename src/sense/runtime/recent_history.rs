//! A ring buffer of the core figures of the last five minutes, which the status page draws. Pure.

use super::core_stats::CoreStats;

/// Capacity in samples: five minutes at one second.
pub const MAX_SAMPLES: usize = 300;

/// A figure that the page draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryMetric {
    CpuBusy,
    MemoryUsed,
    /// Share of the time in which some task waited for a processor (PSI).
    CpuWaiting,
    IoWaiting,
    MemoryWaiting,
    /// Bytes of the busiest device, because traffic of a bridge passes several devices.
    Received,
    Sent,
    /// Bytes of the busiest device, because a disk may lie on another.
    DiskRead,
    DiskWritten,
}

impl HistoryMetric {
    pub const ALL: [HistoryMetric; 9] = [
        HistoryMetric::CpuBusy,
        HistoryMetric::MemoryUsed,
        HistoryMetric::CpuWaiting,
        HistoryMetric::IoWaiting,
        HistoryMetric::MemoryWaiting,
        HistoryMetric::Received,
        HistoryMetric::Sent,
        HistoryMetric::DiskRead,
        HistoryMetric::DiskWritten,
    ];

    fn value_in(self, core_stats: &CoreStats) -> Option<f64> {
        let [cpu_waiting, io_waiting, memory_waiting] = core_stats.waiting_ratios;
        match self {
            HistoryMetric::CpuBusy => core_stats.cpu_busy_ratio,
            HistoryMetric::MemoryUsed => core_stats.memory_used_ratio,
            HistoryMetric::CpuWaiting => cpu_waiting,
            HistoryMetric::IoWaiting => io_waiting,
            HistoryMetric::MemoryWaiting => memory_waiting,
            HistoryMetric::Received => core_stats.traffic.busiest()[0],
            HistoryMetric::Sent => core_stats.traffic.busiest()[1],
            HistoryMetric::DiskRead => core_stats.disks.busiest()[0],
            HistoryMetric::DiskWritten => core_stats.disks.busiest()[1],
        }
    }

    /// Whether the figure is a ratio. The others are bytes per second.
    pub fn is_ratio(self) -> bool {
        !matches!(
            self,
            HistoryMetric::Received | HistoryMetric::Sent | HistoryMetric::DiskRead | HistoryMetric::DiskWritten
        )
    }
}

/// The newest values of every figure.
#[derive(Debug, Clone, Default)]
pub struct RecentHistory {
    /// One entry per sample; NaN where a figure was missing.
    entries: Vec<[f32; HistoryMetric::ALL.len()]>,
    /// Index of the oldest entry.
    start: usize,
}

impl RecentHistory {
    /// Adds a sample, and returns it.
    pub fn observe(&mut self, core_stats: &CoreStats) -> [f32; HistoryMetric::ALL.len()] {
        let entry = HistoryMetric::ALL.map(|metric| metric.value_in(core_stats).map_or(f32::NAN, |value| value as f32));
        if self.entries.len() < MAX_SAMPLES {
            self.entries.push(entry);
        } else {
            self.entries[self.start] = entry;
            self.start = (self.start + 1) % MAX_SAMPLES;
        }
        entry
    }

    /// The values of a figure, oldest first; NaN where it was missing.
    pub fn values(&self, metric: HistoryMetric) -> impl Iterator<Item = f32> + Clone + '_ {
        let (newer, older) = self.entries.split_at(self.start);
        older.iter().chain(newer).map(move |entry| entry[metric as usize])
    }

    /// Number of samples, at most [`MAX_SAMPLES`].
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_newest_in_order() {
        let mut recent_history = RecentHistory::default();
        for second in 0..MAX_SAMPLES + 7 {
            recent_history.observe(&CoreStats {
                waiting_ratios: [None, Some(second as f64), None],
                ..CoreStats::default()
            });
        }
        let expected: Vec<f32> = (7..MAX_SAMPLES + 7).map(|second| second as f32).collect();
        assert_eq!(
            recent_history.values(HistoryMetric::IoWaiting).collect::<Vec<_>>(),
            expected
        );
        assert!(recent_history.values(HistoryMetric::CpuWaiting).all(f32::is_nan));
        assert_eq!(recent_history.len(), MAX_SAMPLES);
    }
}
