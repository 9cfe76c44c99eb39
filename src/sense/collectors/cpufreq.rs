//! `cpufreq`: frequencies of processors from sysfs (Documentation/admin-guide/pm/cpufreq.rst).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_cpu_frequency_avg_hertz node_cpu_frequency_hertz node_cpu_frequency_max_hertz node_cpu_frequency_min_hertz \
    node_cpu_scaling_frequency_hertz node_cpu_scaling_frequency_max_hertz node_cpu_scaling_frequency_min_hertz \
    node_cpu_scaling_governor";

pub const INFO: CollectorInfo =
    CollectorInfo::on("cpufreq", Pace::Scrape, "frequencies of processors", METRICS, |_| {
        Box::new(read_cpufreq)
    });

/// File, metric, help. The files are in kilohertz.
const FREQUENCIES: [(&str, &str, &str); 7] = [
    (
        "cpuinfo_cur_freq",
        "node_cpu_frequency_hertz",
        "Frequency that the hardware runs at.",
    ),
    (
        "cpuinfo_avg_freq",
        "node_cpu_frequency_avg_hertz",
        "Mean frequency of the hardware over the last moment.",
    ),
    (
        "cpuinfo_min_freq",
        "node_cpu_frequency_min_hertz",
        "Lowest frequency of the hardware.",
    ),
    (
        "cpuinfo_max_freq",
        "node_cpu_frequency_max_hertz",
        "Highest frequency of the hardware.",
    ),
    (
        "scaling_cur_freq",
        "node_cpu_scaling_frequency_hertz",
        "Frequency that the kernel asked for.",
    ),
    (
        "scaling_min_freq",
        "node_cpu_scaling_frequency_min_hertz",
        "Lowest frequency that the kernel may ask for.",
    ),
    (
        "scaling_max_freq",
        "node_cpu_scaling_frequency_max_hertz",
        "Highest frequency that the kernel may ask for.",
    ),
];

pub fn read_cpufreq(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("devices/system/cpu");
    let mut cpus: Vec<u32> = list_names(&base)?
        .iter()
        .filter_map(|name| name.strip_prefix("cpu")?.parse().ok())
        .collect();
    cpus.sort_unstable();
    let mut families = FREQUENCIES.map(|(_, name, help)| Family::gauge(name, help));
    let mut governors = Family::gauge(
        "node_cpu_scaling_governor",
        "1 for the governor that sets the frequency.",
    );
    for cpu in cpus {
        let directory = base.join(format!("cpu{cpu}/cpufreq"));
        for (family, (file, ..)) in families.iter_mut().zip(FREQUENCIES) {
            if let Some(kilohertz) = read_number(&directory.join(file)) {
                family.push([label("cpu", cpu.to_string())], kilohertz * 1e3);
            }
        }
        let Some(current) = read_attribute(&directory.join("scaling_governor")).filter(|name| !name.is_empty()) else {
            continue;
        };
        let available = read_attribute(&directory.join("scaling_available_governors")).unwrap_or_default();
        for governor in available.split_ascii_whitespace() {
            let labels = [label("cpu", cpu.to_string()), label("governor", governor.to_owned())];
            governors.push(labels, f64::from(governor == current));
        }
    }
    Ok(families.into_iter().chain([governors]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn kilohertz_become_hertz_and_processors_are_in_order() {
        let tree = Tree::new();
        for cpu in [10, 2] {
            tree.sys(
                &format!("devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"),
                format!("{cpu}00000\n"),
            );
        }
        tree.sys("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1\n");
        tree.sys("devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n");
        tree.sys(
            "devices/system/cpu/cpu2/cpufreq/scaling_available_governors",
            "performance powersave \n",
        );
        assert_eq!(
            text_of(&read_cpufreq(&tree.roots).unwrap(), ""),
            [
                "node_cpu_scaling_frequency_hertz{cpu=\"2\"} 200000000",
                "node_cpu_scaling_frequency_hertz{cpu=\"10\"} 1000000000",
                "node_cpu_scaling_governor{cpu=\"2\",governor=\"performance\"} 0",
                "node_cpu_scaling_governor{cpu=\"2\",governor=\"powersave\"} 1",
            ]
        );
    }
}
