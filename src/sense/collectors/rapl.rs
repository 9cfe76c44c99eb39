//! `rapl`: energy that processors and memory used, from `/sys/class/powercap` (Documentation/power/powercap).

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;
use std::collections::HashMap;

/// The published metrics. The zones name the rest.
const METRICS: &str = "\
    node_rapl_core_joules_total node_rapl_dram_joules_total node_rapl_joules_total node_rapl_package_joules_total \
    node_rapl_psys_joules_total node_rapl_uncore_joules_total node_rapl_*";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "rapl",
    Pace::Scrape,
    "energy of processors (RAPL)",
    METRICS,
    |options| {
        let has_zone_label = options.rapl_zone_label;
        Box::new(move |roots| read_rapl(roots, has_zone_label))
    },
);

/// Name and number of a zone: `package-0` states both, and of equal names the first is 0.
fn zone(name: &str, seen: &mut HashMap<String, u32>) -> (String, u32) {
    let stated = name
        .split_once('-')
        .and_then(|(zone, number)| Some((zone, number.parse().ok()?)));
    let (zone, index) = match stated {
        Some((zone, number)) => (zone.to_owned(), number),
        None => (name.to_owned(), seen.get(name).copied().unwrap_or_default()),
    };
    seen.insert(zone.clone(), index.saturating_add(1));
    (zone, index)
}

pub fn read_rapl(roots: &Roots, has_zone_label: bool) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/powercap");
    let names = list_names(&base).map_err(|error| error.or_absent("no RAPL"))?;
    let mut set = FamilySet::default();
    let mut seen = HashMap::new();
    let mut has_unreadable = false;
    for name in names {
        let directory = base.join(name);
        // The driver has an entry of its own, without a name.
        let Some(name) = read_attribute(&directory.join("name")) else {
            continue;
        };
        let (zone, index) = zone(name.trim(), &mut seen);
        let Some(microjoules) = read_number(&directory.join("energy_uj")) else {
            has_unreadable = true;
            continue;
        };
        let path = label("path", directory.display().to_string());
        let labels = [label("index", index.to_string()), path];
        let joules = microjoules / 1e6;
        if has_zone_label {
            let labels = [labels.as_slice(), &[label("rapl_zone", zone)]].concat();
            set.add("node_rapl_joules_total", "Energy that a zone used.", &labels, joules);
        } else {
            let name = format!("node_rapl_{}_joules_total", metric_part(&zone));
            set.add(name, format!("Energy that zone {zone} used."), &labels, joules);
        }
    }
    let families = set.into_families();
    match families.is_empty() && has_unreadable {
        // Since CVE-2020-8694 the kernel lets only root read the energy.
        true => Err(ReadError::Absent("no RAPL zone that evenkeel may read")),
        false => Ok(families),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn zones_without_readable_energy_are_no_success() {
        let tree = Tree::new();
        tree.sys("class/powercap/intel-rapl/enabled", "1\n");
        assert!(read_rapl(&tree.roots, false).unwrap().is_empty());
        tree.sys("class/powercap/intel-rapl:0/name", "package-0\n");
        assert!(matches!(read_rapl(&tree.roots, false), Err(ReadError::Absent(_))));
    }

    #[test]
    fn zones_are_numbered() {
        let tree = Tree::new();
        assert!(matches!(read_rapl(&tree.roots, false), Err(ReadError::Absent(_))));
        for (zone, name, energy) in [
            ("intel-rapl:0", "package-0", "1500000"),
            ("intel-rapl:0:0", "core", "1000000"),
            ("intel-rapl:1", "package-1", "2500000"),
            ("intel-rapl:1:0", "core", "2000000"),
            ("intel-rapl:2", "hidden", ""),
        ] {
            tree.sys(&format!("class/powercap/{zone}/name"), format!("{name}\n"));
            tree.sys(&format!("class/powercap/{zone}/energy_uj"), format!("{energy}\n"));
        }
        tree.sys("class/powercap/intel-rapl/enabled", "1\n");
        let base = tree.roots.sys("class/powercap").display().to_string();
        let of = |index: u32, zone: &str| format!("{{index=\"{index}\",path=\"{base}/{zone}\"");
        assert_eq!(
            text_of(&read_rapl(&tree.roots, false).unwrap(), ""),
            [
                format!("node_rapl_package_joules_total{}}} 1.5", of(0, "intel-rapl:0")),
                format!("node_rapl_package_joules_total{}}} 2.5", of(1, "intel-rapl:1")),
                format!("node_rapl_core_joules_total{}}} 1", of(0, "intel-rapl:0:0")),
                format!("node_rapl_core_joules_total{}}} 2", of(1, "intel-rapl:1:0")),
            ]
        );
        assert_eq!(
            text_of(&read_rapl(&tree.roots, true).unwrap(), "core")[0],
            format!(
                "node_rapl_joules_total{},rapl_zone=\"core\"}} 1",
                of(0, "intel-rapl:0:0")
            )
        );
    }
}
