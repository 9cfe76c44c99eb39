//! Rates of two counters per device (received and sent, read and written) between two reads. Pure.

use smol_str::SmolStr;
use std::time::Instant;

/// A device and its rates.
#[derive(Debug)]
pub struct DeviceRate {
    pub device: SmolStr,
    /// The rates of the first and the second counter. `None` for a new device and for a counter that fell, because a new device
    /// has taken the name.
    pub per_second: [Option<f64>; 2],
    counts: [u64; 2],
    is_shown: bool,
}

/// The devices in the kernel's order.
#[derive(Debug, Default)]
pub struct DeviceRates {
    devices: Vec<DeviceRate>,
    looked_at: Option<Instant>,
}

impl DeviceRates {
    /// Updates the rates with the counters read at `now`. `is_shown` is asked once per device, when it is new.
    pub fn update<'t>(
        &mut self,
        now: Instant,
        found: impl IntoIterator<Item = (&'t str, [u64; 2])>,
        is_shown: impl Fn(&str) -> bool,
    ) {
        let before = self.looked_at.replace(now);
        let seconds = before.map(|before| now.saturating_duration_since(before).as_secs_f64());
        let seconds = seconds.filter(|seconds| *seconds > 0.0);
        let mut place = 0;
        for (device, counts) in found {
            // Nearly always the device has its place of the last read.
            match self.devices[place..].iter().position(|rate| rate.device == device) {
                Some(further) => {
                    self.devices.swap(place, place + further);
                    let rate = &mut self.devices[place];
                    rate.per_second = [0, 1].map(|index| {
                        let growth = counts[index].checked_sub(rate.counts[index])?;
                        Some(growth as f64 / seconds?)
                    });
                    rate.counts = counts;
                }
                None => self.devices.insert(
                    place,
                    DeviceRate {
                        device: device.into(),
                        per_second: [None; 2],
                        counts,
                        is_shown: is_shown(device),
                    },
                ),
            }
            place += 1;
        }
        self.devices.truncate(place);
    }

    /// The devices that the filter shows.
    pub fn shown(&self) -> impl Iterator<Item = &DeviceRate> {
        self.devices.iter().filter(|rate| rate.is_shown)
    }

    /// The largest rates among the shown devices. A sum would count the traffic of a bridge, or of a disk on a disk,
    /// several times.
    pub fn busiest(&self) -> [Option<f64>; 2] {
        [0, 1].map(|index| self.shown().filter_map(|rate| rate.per_second[index]).reduce(f64::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rates(device_rates: &DeviceRates) -> Vec<(&str, [Option<f64>; 2])> {
        device_rates
            .shown()
            .map(|rate| (rate.device.as_str(), rate.per_second))
            .collect()
    }

    #[test]
    fn new_devices_and_fallen_counters_have_no_rate() {
        let start = Instant::now();
        let mut device_rates = DeviceRates::default();
        let mut second = 0;
        let mut look = |devices: &[(&'static str, [u64; 2])]| {
            second += 2;
            device_rates.update(start + Duration::from_secs(second), devices.iter().copied(), |name| {
                name != "lo"
            });
            let seen: Vec<_> = rates(&device_rates)
                .into_iter()
                .map(|(name, rates)| (name.to_owned(), rates))
                .collect();
            (seen, device_rates.busiest())
        };
        let one = |name: &str, rates| (name.to_owned(), rates);
        assert_eq!(
            look(&[("a", [100, 1]), ("lo", [0, 0])]),
            (vec![one("a", [None; 2])], [None; 2])
        );
        let (seen, busiest) = look(&[("a", [500, 1]), ("b", [7, 7]), ("lo", [9_000, 9_000])]);
        assert_eq!(seen, [one("a", [Some(200.0), Some(0.0)]), one("b", [None; 2])]);
        assert_eq!(busiest, [Some(200.0), Some(0.0)]);
        // In another order, and the counter of one restarted.
        let (seen, busiest) = look(&[("b", [27, 5]), ("a", [500, 3])]);
        assert_eq!(seen, [one("b", [Some(10.0), None]), one("a", [Some(0.0), Some(1.0)])]);
        assert_eq!(busiest, [Some(10.0), Some(1.0)]);
        // A device that is gone is forgotten.
        assert_eq!(look(&[("a", [600, 3])]).0, [one("a", [Some(50.0), Some(0.0)])]);
        assert_eq!(look(&[]), (vec![], [None; 2]));
        assert_eq!(look(&[("a", [900, 3])]).0, [one("a", [None; 2])]);
    }

    #[test]
    fn simultaneous_reads_have_no_rate_and_names_may_repeat() {
        let start = Instant::now();
        let mut device_rates = DeviceRates::default();
        // Names that are not UTF-8 may look alike.
        let devices = |first, second| [("x", [first, 0]), ("x", [second, 0])];
        device_rates.update(start, devices(1, 10), |_| true);
        device_rates.update(start, devices(2, 20), |_| true);
        assert_eq!(rates(&device_rates), [("x", [None; 2]), ("x", [None; 2])]);
        device_rates.update(start + Duration::from_secs(1), devices(3, 50), |_| true);
        assert_eq!(
            rates(&device_rates),
            [("x", [Some(1.0), Some(0.0)]), ("x", [Some(30.0), Some(0.0)])]
        );
    }
}
