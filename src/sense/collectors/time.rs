//! `time`: the wall clock, its zone, and the kernel's clock sources.

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{list_names, read_attribute};
use crate::sense::runtime::roots::Roots;
use crate::sense::runtime::ttl_cache::TtlCache;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::Instant;

/// The published metrics.
const METRICS: &str = "\
    node_time_clocksource_available_info node_time_clocksource_current_info node_time_seconds \
    node_time_zone_offset_seconds";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "time",
    Pace::Fast,
    "wall clock, time zone and clock sources",
    METRICS,
    |_| {
        let mut surroundings = TtlCache::default();
        Box::new(move |roots| Ok(read_time(roots, &mut surroundings)))
    },
);

/// Reads the time zone and the clock sources, which hardly ever change.
fn read_surroundings(roots: &Roots, now: Timestamp) -> Vec<Family> {
    let zone = TimeZone::system();
    let info = zone.to_offset_info(now);
    let mut offset = Family::gauge(
        "node_time_zone_offset_seconds",
        "Offset of the system's time zone from UTC, in seconds.",
    );
    offset.push(
        vec![label("time_zone", info.abbreviation().to_owned())],
        f64::from(info.offset().seconds()),
    );

    let mut available = Family::gauge(
        "node_time_clocksource_available_info",
        "Clock sources that the kernel could use.",
    );
    let mut current = Family::gauge(
        "node_time_clocksource_current_info",
        "Clock source that the kernel uses.",
    );
    let base = roots.sys("devices/system/clocksource");
    for name in list_names(&base).unwrap_or_default() {
        let Some(device) = name.strip_prefix("clocksource") else {
            continue;
        };
        let directory = base.join(&name);
        for (family, file) in [
            (&mut available, "available_clocksource"),
            (&mut current, "current_clocksource"),
        ] {
            let sources = read_attribute(&directory.join(file)).unwrap_or_default();
            for source in sources.split_ascii_whitespace() {
                let labels = vec![
                    label("device", device.to_owned()),
                    label("clocksource", source.to_owned()),
                ];
                family.push(labels, 1.0);
            }
        }
    }
    let mut families = vec![offset, available, current];
    families.retain(|family| !family.is_empty());
    families
}

pub fn read_time(roots: &Roots, surroundings: &mut TtlCache<Vec<Family>>) -> Vec<Family> {
    let now = Timestamp::now();
    let help = "The system's Unix time when it was read, in seconds.";
    let mut families = vec![Family::gauge("node_time_seconds", help).value(now.as_nanosecond() as f64 / 1e9)];
    let surroundings = surroundings.get(Instant::now(), || read_surroundings(roots, now));
    families.extend_from_slice(surroundings);
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn clock_sources_are_listed() {
        let tree = Tree::new();
        tree.sys(
            "devices/system/clocksource/clocksource0/available_clocksource",
            "tsc hpet \n",
        );
        tree.sys("devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        assert_eq!(
            text_of(&read_time(&tree.roots, &mut TtlCache::default()), "clocksource"),
            [
                "node_time_clocksource_available_info{device=\"0\",clocksource=\"tsc\"} 1",
                "node_time_clocksource_available_info{device=\"0\",clocksource=\"hpet\"} 1",
                "node_time_clocksource_current_info{device=\"0\",clocksource=\"tsc\"} 1",
            ]
        );
    }
}
