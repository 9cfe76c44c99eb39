//! Properties of processors in `/sys/devices/system/cpu`: throttling, isolation, and which are online.

use crate::family::{Family, Label, label};
use crate::sense::collectors::cpu_list::parse_cpu_list;
use crate::sense::runtime::kernel_file::{list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A counter that siblings of one core, or cores of one package, share.
struct Throttle {
    labels: Vec<Label>,
    /// The same counter at each processor; one that goes offline loses its files.
    files: Vec<PathBuf>,
}

/// What hardly changes: which processors are isolated and online, and where throttles are counted.
pub struct Topology {
    pub families: Vec<Family>,
    cores: Vec<Throttle>,
    packages: Vec<Throttle>,
}

impl Topology {
    /// Whether the kernel counts throttles here; virtual machines and most processors beside Intel's have none.
    pub fn has_throttles(&self) -> bool {
        !self.cores.is_empty() || !self.packages.is_empty()
    }
}

/// Isolation and hotplug, and the files of throttles (`thermal_throttle` under each processor, x86 only).
pub fn read_topology(roots: &Roots) -> Topology {
    let base = roots.sys("devices/system/cpu");
    let names = list_names(&base).unwrap_or_default();
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix("cpu")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut cores: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    let mut packages: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for cpu in &numbers {
        let cpu = base.join(format!("cpu{cpu}"));
        let Some(package) = read_number(&cpu.join("topology/physical_package_id")) else {
            continue;
        };
        let Some(core) = read_number(&cpu.join("topology/core_id")) else {
            continue;
        };
        let (package, core) = (package.to_string(), core.to_string());
        let core_file = cpu.join("thermal_throttle/core_throttle_count");
        if core_file.exists() {
            cores.entry((package.clone(), core)).or_default().push(core_file);
        }
        let package_file = cpu.join("thermal_throttle/package_throttle_count");
        if package_file.exists() {
            packages.entry(package).or_default().push(package_file);
        }
    }
    let cores = cores.into_iter().map(|((package, core), files)| Throttle {
        labels: vec![label("package", package), label("core", core)],
        files,
    });
    let packages = packages.into_iter().map(|(package, files)| Throttle {
        labels: vec![label("package", package)],
        files,
    });
    Topology {
        families: processor_families(&base, &numbers),
        cores: cores.collect(),
        packages: packages.collect(),
    }
}

fn processor_families(base: &Path, numbers: &[u32]) -> Vec<Family> {
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
            None if *cpu == 0 => break,
            None => online.push([label("cpu", cpu.to_string())], 0.0),
        }
    }
    let mut families = vec![isolated, online];
    families.retain(|family| !family.is_empty());
    families
}

/// The counters of throttles: a file per core and per package.
pub fn read_throttles(topology: &Topology) -> Vec<Family> {
    let cores = Family::counter(
        "node_cpu_core_throttles_total",
        "Times that a core was slowed down because it was hot.",
    );
    let packages = Family::counter(
        "node_cpu_package_throttles_total",
        "Times that a package was slowed down because it was hot.",
    );
    let mut families = vec![cores, packages];
    for (family, throttles) in families.iter_mut().zip([&topology.cores, &topology.packages]) {
        for throttle in throttles {
            if let Some(count) = throttle.files.iter().find_map(|file| read_number(file)) {
                family.push(throttle.labels.iter().cloned(), count);
            }
        }
    }
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
        let topology = read_topology(&tree.roots);
        // The first processor goes offline, and its sibling counts the same core.
        std::fs::remove_dir_all(tree.roots.sys("devices/system/cpu/cpu0/thermal_throttle")).unwrap();
        assert_eq!(
            text_of(&read_throttles(&topology), ""),
            [
                "node_cpu_core_throttles_total{package=\"0\",core=\"0\"} 5",
                "node_cpu_core_throttles_total{package=\"0\",core=\"1\"} 7",
                "node_cpu_package_throttles_total{package=\"0\"} 30",
            ]
        );
    }

    #[test]
    fn isolated_and_offline_processors_are_shown() {
        let tree = Tree::new();
        tree.sys("devices/system/cpu/isolated", "1\n");
        tree.sys("devices/system/cpu/cpu0/online", "1\n");
        tree.sys("devices/system/cpu/cpu1/online", "0\n");
        assert_eq!(
            text_of(&read_topology(&tree.roots).families, ""),
            [
                "node_cpu_isolated{cpu=\"1\"} 1",
                "node_cpu_online{cpu=\"0\"} 1",
                "node_cpu_online{cpu=\"1\"} 0",
            ]
        );
    }
}
