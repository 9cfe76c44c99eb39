//! `thermal_zone`: temperatures and cooling from `/sys/class/thermal` (sysfs-api.rst of the thermal subsystem).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_cooling_device_cur_state node_cooling_device_max_state node_thermal_zone_temp";

pub const INFO: CollectorInfo =
    CollectorInfo::on("thermal_zone", Pace::Slow, "temperatures and cooling", METRICS, |_| {
        Box::new(read_thermal_zone)
    });

pub fn read_thermal_zone(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/thermal");
    let mut temperature = Family::gauge("node_thermal_zone_temp", "Temperature of a zone in degrees Celsius.");
    let mut current = Family::gauge("node_cooling_device_cur_state", "How hard a cooling device works.");
    let mut maximum = Family::gauge("node_cooling_device_max_state", "How hard a cooling device can work.");
    for name in list_names(&base).map_err(|error| error.or_absent("no thermal zones"))? {
        let directory = base.join(&name);
        let kind = read_attribute(&directory.join("type")).unwrap_or_default();
        if let Some(zone) = name.strip_prefix("thermal_zone") {
            // A disabled sensor returns an error.
            if let Some(millidegrees) = read_number(&directory.join("temp")) {
                let labels = vec![label("zone", zone.to_owned()), label("type", kind)];
                temperature.push(labels, millidegrees / 1e3);
            }
        } else if let Some(device) = name.strip_prefix("cooling_device") {
            for (family, file) in [(&mut current, "cur_state"), (&mut maximum, "max_state")] {
                if let Some(state) = read_number(&directory.join(file)) {
                    family.push(
                        vec![label("name", device.to_owned()), label("type", kind.clone())],
                        state,
                    );
                }
            }
        }
    }
    Ok(vec![temperature, current, maximum])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn zones_are_in_celsius_and_silent_sensors_left_out() {
        let tree = Tree::new();
        assert!(matches!(read_thermal_zone(&tree.roots), Err(ReadError::Absent(_))));
        tree.sys("class/thermal/thermal_zone0/type", "x86_pkg_temp\n");
        tree.sys("class/thermal/thermal_zone0/temp", "44500\n");
        tree.sys("class/thermal/thermal_zone1/type", "off\n");
        tree.sys("class/thermal/cooling_device0/type", "Processor\n");
        tree.sys("class/thermal/cooling_device0/cur_state", "1\n");
        tree.sys("class/thermal/cooling_device0/max_state", "10\n");
        assert_eq!(
            text_of(&read_thermal_zone(&tree.roots).unwrap(), ""),
            [
                "node_thermal_zone_temp{zone=\"0\",type=\"x86_pkg_temp\"} 44.5",
                "node_cooling_device_cur_state{name=\"0\",type=\"Processor\"} 1",
                "node_cooling_device_max_state{name=\"0\",type=\"Processor\"} 10",
            ]
        );
    }
}
