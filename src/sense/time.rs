//! `time`: the wall clock, its zone, and the kernel's clock sources.

use super::roots::{ReadError, Roots, attribute, names};
use crate::family::{Family, label};
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub fn read_time(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let now = Timestamp::now();
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
    for name in names(&base).unwrap_or_default() {
        let Some(device) = name.strip_prefix("clocksource") else {
            continue;
        };
        let directory = base.join(&name);
        let sources = |file: &str| attribute(&directory.join(file)).unwrap_or_default();
        for (family, file) in [
            (&mut available, "available_clocksource"),
            (&mut current, "current_clocksource"),
        ] {
            for source in sources(file).split_ascii_whitespace() {
                family.push(
                    vec![
                        label("device", device.to_owned()),
                        label("clocksource", source.to_owned()),
                    ],
                    1.0,
                );
            }
        }
    }

    let mut families = vec![
        Family::gauge(
            "node_time_seconds",
            "The system's Unix time when it was read, in seconds.",
        )
        .value(now.as_nanosecond() as f64 / 1e9),
        offset,
    ];
    families.extend(
        [available, current]
            .into_iter()
            .filter(|family| !family.points.is_empty()),
    );
    Ok(families)
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
            text_of(&read_time(&tree.roots).unwrap(), "clocksource"),
            [
                "node_time_clocksource_available_info{device=\"0\",clocksource=\"tsc\"} 1",
                "node_time_clocksource_available_info{device=\"0\",clocksource=\"hpet\"} 1",
                "node_time_clocksource_current_info{device=\"0\",clocksource=\"tsc\"} 1",
            ]
        );
    }
}
