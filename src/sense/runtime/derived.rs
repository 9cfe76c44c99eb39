//! Derived metrics (`evenkeel_*`): gauges and distributions computed from one-second samples. Pure: readings in,
//! families out.

use super::core_stats::CoreStats;
use super::snapshot::CollectorReading;
use crate::family::{DescriptorPool, Family, Histogram, MetricKind, label};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The published metrics.
pub const METRICS: &str = "\
    evenkeel_cpu_busy_ratio evenkeel_cpu_busy_ratio_distribution_bucket evenkeel_cpu_busy_ratio_distribution_count \
    evenkeel_cpu_busy_ratio_distribution_sum evenkeel_filesystem_used_ratio evenkeel_memory_used_ratio \
    evenkeel_memory_used_ratio_distribution_bucket evenkeel_memory_used_ratio_distribution_count \
    evenkeel_memory_used_ratio_distribution_sum evenkeel_network_receive_bytes_per_second \
    evenkeel_network_transmit_bytes_per_second";

/// Upper bounds of the distributions of a ratio, finer near 1.
const RATIO_BOUNDS: [f64; 13] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0];

/// The distributions so far, and the families of the last second, built on demand.
#[derive(Default)]
pub struct DerivedMetrics {
    cpu_distribution: Distribution,
    memory_distribution: Distribution,
    descriptors: DescriptorPool,
    cached: Option<CachedFamilies>,
}

struct CachedFamilies {
    /// The reading from which the ratios of file systems were computed.
    filesystem: Option<Arc<CollectorReading>>,
    families: Arc<Vec<Family>>,
}

/// A [`Histogram`] of fixed size, which is updated without allocation.
struct Distribution {
    buckets: [(f64, u64); RATIO_BOUNDS.len()],
    sum: f64,
    count: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution {
            buckets: RATIO_BOUNDS.map(|bound| (bound, 0)),
            sum: 0.0,
            count: 0,
        }
    }
}

impl Distribution {
    fn observe(&mut self, value: f64) {
        for (bound, count) in &mut self.buckets {
            *count += u64::from(value <= *bound);
        }
        self.sum += value;
        self.count += 1;
    }

    fn histogram(&self) -> Histogram {
        Histogram {
            buckets: self.buckets.to_vec(),
            sum: self.sum,
            count: self.count,
        }
    }
}

/// The gauges that need no earlier sample, for early samples: these must not count in distributions over seconds.
pub fn early_sample_families(memory_used_ratio: Option<f64>) -> Vec<Family> {
    memory_used_ratio.map(memory_used).into_iter().collect()
}

fn memory_used(ratio: f64) -> Family {
    let help = "Share of memory that is not available to new programs, 0 to 1.";
    Family::gauge("evenkeel_memory_used_ratio", help).value(ratio)
}

impl DerivedMetrics {
    /// Counts one second.
    pub fn observe(&mut self, core_stats: &CoreStats) {
        self.cached = None;
        for (value, distribution) in [
            (core_stats.cpu_busy_ratio, &mut self.cpu_distribution),
            (core_stats.memory_used_ratio, &mut self.memory_distribution),
        ] {
            if let Some(value) = value {
                distribution.observe(value);
            }
        }
    }

    /// The families of the second that was counted last and of the last read of file systems. A gauge without a source
    /// is left out; an old value is never repeated.
    pub fn families(&mut self, core_stats: &CoreStats, filesystem: Option<&Arc<CollectorReading>>) -> Arc<Vec<Family>> {
        match &self.cached {
            Some(cached) if cached.filesystem.as_ref().map(Arc::as_ptr) == filesystem.map(Arc::as_ptr) => {
                Arc::clone(&cached.families)
            }
            _ => {
                let families = Arc::new(self.make(core_stats, filesystem));
                self.cached = Some(CachedFamilies {
                    filesystem: filesystem.cloned(),
                    families: Arc::clone(&families),
                });
                families
            }
        }
    }

    fn make(&mut self, core_stats: &CoreStats, filesystem: Option<&Arc<CollectorReading>>) -> Vec<Family> {
        let busy = core_stats.cpu_busy_ratio.map(|ratio| {
            let help = "Share of processor time in the last second that was neither idle nor iowait, 0 to 1.";
            Family::gauge("evenkeel_cpu_busy_ratio", help).value(ratio)
        });
        let distribution = |name, help, distribution: &Distribution| {
            let mut family = Family::new(name, help, MetricKind::Histogram);
            family.push_histogram([], distribution.histogram());
            family
        };
        let mut families: Vec<Family> = busy.into_iter().collect();
        families.push(distribution(
            concat!("evenkeel_cpu_busy_ratio", "_distribution"),
            "Distribution of the one-second samples of evenkeel_cpu_busy_ratio.",
            &self.cpu_distribution,
        ));
        families.extend(core_stats.memory_used_ratio.map(memory_used));
        families.push(distribution(
            concat!("evenkeel_memory_used_ratio", "_distribution"),
            "Distribution of the one-second samples of evenkeel_memory_used_ratio.",
            &self.memory_distribution,
        ));
        families.extend(filesystem.map(|filesystem| filesystem_used_ratio(&filesystem.families)));
        families.extend(network_rates(core_stats));
        families.retain(|family| !family.is_empty());
        self.descriptors.share(&mut families);
        families
    }
}

fn network_rates(core_stats: &CoreStats) -> [Family; 2] {
    let mut families = [
        Family::gauge(
            "evenkeel_network_receive_bytes_per_second",
            "Bytes received per second, over the last second.",
        ),
        Family::gauge(
            "evenkeel_network_transmit_bytes_per_second",
            "Bytes sent per second, over the last second.",
        ),
    ];
    for rate in core_stats.traffic.shown() {
        for (family, per_second) in families.iter_mut().zip(rate.per_second) {
            if let Some(per_second) = per_second {
                family.push([label("device", rate.device.clone())], per_second);
            }
        }
    }
    families
}

fn filesystem_used_ratio(families: &[Family]) -> Family {
    let by_mount = |name: &str| -> BTreeMap<String, f64> {
        let family = families.iter().find(|family| family.name == name);
        let points = family.into_iter().flat_map(Family::points);
        points
            .filter_map(|point| Some((point.label("mountpoint")?.to_owned(), point.number()?)))
            .collect()
    };
    let (size, free, avail) = (
        by_mount("node_filesystem_size_bytes"),
        by_mount("node_filesystem_free_bytes"),
        by_mount("node_filesystem_avail_bytes"),
    );
    let mut ratio = Family::gauge(
        "evenkeel_filesystem_used_ratio",
        "Share of a file system that is used, as df counts: without what is kept for root, 0 to 1.",
    );
    for (mount_point, size) in size {
        let (Some(free), Some(avail)) = (free.get(&mount_point), avail.get(&mount_point)) else {
            continue;
        };
        let used = size - free;
        // A file system without blocks has no ratio.
        if used + avail > 0.0 {
            ratio.push([label("mountpoint", mount_point)], used / (used + avail));
        }
    }
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::SampleValue;
    use crate::sense::{Freshness, SampleTime};
    use std::time::{Duration, Instant};

    fn filesystem(used: f64) -> Arc<CollectorReading> {
        let mut families = Vec::new();
        for (name, value) in [("size", 100.0), ("free", 100.0 - used), ("avail", 80.0 - used)] {
            let mut family = Family::gauge(format!("node_filesystem_{name}_bytes"), "");
            family.push([label("mountpoint", "/")], value);
            family.push([label("mountpoint", "/empty")], 0.0);
            families.push(family);
        }
        Arc::new(CollectorReading {
            collector: "filesystem",
            families,
            read: SampleTime::now(),
            duration: Duration::ZERO,
            freshness: Freshness::Fast,
            skipped_lines: 0,
            error: None,
        })
    }

    fn value(families: &[Family], name: &str) -> Option<SampleValue> {
        let family = families.iter().find(|family| family.name == name)?;
        assert_eq!(family.len(), 1, "{name}");
        Some(family.point(0).value.clone())
    }

    fn gauge(families: &[Family], name: &str) -> Option<f64> {
        value(families, name).map(|value| match value {
            SampleValue::Number(number) => number,
            SampleValue::Histogram(_) => panic!("{name} is a distribution"),
        })
    }

    #[test]
    fn each_second_counts_once_if_it_has_a_value() {
        let mut derived = DerivedMetrics::default();
        let core_stats = |cpu_busy_ratio| CoreStats {
            cpu_busy_ratio,
            memory_used_ratio: Some(0.75),
            ..CoreStats::default()
        };
        for (ratio, expected) in [
            (None, [0, 0, 0]),
            (Some(0.25), [1, 0, 1]),
            (None, [1, 0, 1]),
            (Some(0.05), [2, 1, 2]),
        ] {
            derived.observe(&core_stats(ratio));
            // Asking twice counts once.
            for _ in 0..2 {
                let families = derived.families(&core_stats(ratio), None);
                assert_eq!(gauge(&families, "evenkeel_cpu_busy_ratio"), ratio);
                assert_eq!(gauge(&families, "evenkeel_memory_used_ratio"), Some(0.75));
                let Some(SampleValue::Histogram(histogram)) = value(&families, "evenkeel_cpu_busy_ratio_distribution")
                else {
                    panic!("not a histogram")
                };
                assert_eq!(
                    [histogram.count, histogram.buckets[1].1, histogram.buckets[2].1],
                    expected
                );
            }
        }
        assert_eq!(early_sample_families(None), []);
        assert_eq!(
            gauge(&early_sample_families(Some(0.5)), "evenkeel_memory_used_ratio"),
            Some(0.5)
        );
    }

    #[test]
    fn file_systems_count_as_df_does() {
        let mut derived = DerivedMetrics::default();
        let mut used = |filesystem: &Arc<CollectorReading>| {
            let families = derived.families(&CoreStats::default(), Some(filesystem));
            assert!(Arc::ptr_eq(
                &families,
                &derived.families(&CoreStats::default(), Some(filesystem))
            ));
            gauge(&families, "evenkeel_filesystem_used_ratio")
        };
        assert_eq!(used(&filesystem(40.0)), Some(0.5));
        assert_eq!(used(&filesystem(60.0)), Some(0.75));
    }

    #[test]
    fn network_rates_skip_devices_without_rate() {
        let mut core_stats = CoreStats::default();
        let start = Instant::now();
        let name = "evenkeel_network_receive_bytes_per_second";
        core_stats.traffic.update(start, [("eth0", [100, 0])], |_| true);
        assert_eq!(
            gauge(&DerivedMetrics::default().families(&core_stats, None), name),
            None
        );
        let later = start + Duration::from_secs(2);
        core_stats
            .traffic
            .update(later, [("eth0", [500, 0]), ("eth1", [1, 1])], |_| true);
        let families = DerivedMetrics::default().families(&core_stats, None);
        assert_eq!(gauge(&families, name), Some(200.0));
        let sent = families
            .iter()
            .find(|family| family.name.ends_with("transmit_bytes_per_second"))
            .unwrap();
        assert_eq!((sent.len(), sent.point(0).number()), (1, Some(0.0)));
        assert_eq!(sent.point(0).label("device"), Some("eth0"));
    }
}
