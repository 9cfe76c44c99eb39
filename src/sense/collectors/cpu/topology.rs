//! Properties of processors in `/sys/devices/system/cpu`: throttling, isolation, and which are online.

use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;

/// No machine has a processor of a higher number; a broken list must not fill the memory.
const MAX_CPU: u32 = 8192;

/// The numbers of a list such as `1,3-5`; what cannot be parsed is left out.
fn parse_cpu_list(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        (last <= MAX_CPU).then_some(first..=last)
    });
    ranges.flatten().collect()
}

/// Families of throttling (`thermal_throttle` under each processor, x86 only), isolation and hotplug.
pub fn read_topology(roots: &Roots) -> Vec<Family> {
    let base = roots.sys("devices/system/cpu");
    let names = list_names(&base).unwrap_or_default();
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix("cpu")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut cores = BTreeMap::new();
    let mut packages = BTreeMap::new();
    for cpu in &numbers {
        let cpu = base.join(format!("cpu{cpu}"));
        let Some(package) = read_number(&cpu.join("topology/physical_package_id")) else {
            continue;
        };
        let Some(core) = read_number(&cpu.join("topology/core_id")) else {
            continue;
        };
        // Siblings of one core, and cores of one package, share the counter.
        if let Some(count) = read_number(&cpu.join("thermal_throttle/core_throttle_count")) {
            cores.entry((package.to_string(), core.to_string())).or_insert(count);
        }
        if let Some(count) = read_number(&cpu.join("thermal_throttle/package_throttle_count")) {
            packages.entry(package.to_string()).or_insert(count);
        }
    }
    let mut core_family = Family::counter(
        "node_cpu_core_throttles_total",
        "Times that a core was slowed down because it was hot.",
    );
    for ((package, core), count) in cores {
        core_family.push([label("package", package), label("core", core)], count);
    }
    let mut package_family = Family::counter(
        "node_cpu_package_throttles_total",
        "Times that a package was slowed down because it was hot.",
    );
    for (package, count) in packages {
        package_family.push([label("package", package)], count);
    }
    let mut isolated = Family::gauge(
        "node_cpu_isolated",
        "1 for each processor that the scheduler leaves out.",
    );
    for cpu in parse_cpu_list(&read_attribute(&base.join("isolated")).unwrap_or_default()) {
        isolated.push([label("cpu", cpu.to_string())], 1.0);
    }
    let mut online = Family::gauge("node_cpu_online", "1 for each processor that is online, 0 for others.");
    for cpu in numbers {
        match read_number(&base.join(format!("cpu{cpu}/online"))) {
            Some(state) => online.push([label("cpu", cpu.to_string())], f64::from(state == 1.0)),
            // Where the first processor cannot be switched off, node_exporter shows none of them.
            None if cpu == 0 => break,
            None => online.push([label("cpu", cpu.to_string())], 0.0),
        }
    }
    let mut families = vec![core_family, package_family, isolated, online];
    families.retain(|family| !family.is_empty());
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn throttles_are_counted_once_per_core_and_package() {
        let tree = Tree::new();
        for (cpu, core, count) in [(0, 0, 5), (1, 0, 5), (2, 1, 7)] {
            let base = format!("devices/system/cpu/cpu{cpu}");
            tree.sys(&format!("{base}/topology/physical_package_id"), "0\n");
            tree.sys(&format!("{base}/topology/core_id"), format!("{core}\n"));
            tree.sys(
                &format!("{base}/thermal_throttle/core_throttle_count"),
                format!("{count}\n"),
            );
            tree.sys(&format!("{base}/thermal_throttle/package_throttle_count"), "30\n");
        }
        tree.sys("devices/system/cpu/cpufreq/boost", "1\n");
        assert_eq!(
            text_of(&read_topology(&tree.roots), "throttles"),
            [
                "node_cpu_core_throttles_total{package=\"0\",core=\"0\"} 5",
                "node_cpu_core_throttles_total{package=\"0\",core=\"1\"} 7",
                "node_cpu_package_throttles_total{package=\"0\"} 30",
            ]
        );
    }

    #[test]
    fn lists_of_processors_are_parsed() {
        for (list, expected) in [
            ("1,3-5,9\n", vec![1, 3, 4, 5, 9]),
            ("", vec![]),
            ("2,x,7-,0-999999999", vec![2]),
        ] {
            assert_eq!(parse_cpu_list(list), expected, "{list}");
        }
        let tree = Tree::new();
        tree.sys("devices/system/cpu/isolated", "1\n");
        tree.sys("devices/system/cpu/cpu0/online", "1\n");
        tree.sys("devices/system/cpu/cpu1/online", "0\n");
        assert_eq!(
            text_of(&read_topology(&tree.roots), ""),
            [
                "node_cpu_isolated{cpu=\"1\"} 1",
                "node_cpu_online{cpu=\"0\"} 1",
                "node_cpu_online{cpu=\"1\"} 0",
            ]
        );
    }
}
