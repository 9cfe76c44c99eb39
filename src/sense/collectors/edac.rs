//! `edac`: correctable and uncorrectable memory errors from sysfs (Documentation/admin-guide/ras.rst).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_edac_channel_correctable_errors_total node_edac_channel_uncorrectable_errors_total \
    node_edac_correctable_errors_total node_edac_csrow_correctable_errors_total \
    node_edac_csrow_uncorrectable_errors_total node_edac_uncorrectable_errors_total";

pub const INFO: CollectorInfo =
    CollectorInfo::on("edac", Pace::Scrape, "memory errors", METRICS, |_| Box::new(read_edac));

/// The numbers N of the entries `prefixN` of a directory.
fn numbered(directory: &Path, prefix: &str) -> Vec<u32> {
    let names = list_names(directory).unwrap_or_default();
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The label of a module; the default of the kernel, `mc#0csrow#1channel#0`, becomes `mc0_csrow1_channel0`.
fn dimm_label(path: &Path) -> String {
    let Some(text) = read_attribute(path) else {
        return "unknown".to_owned();
    };
    let text = text.trim().replace('#', "");
    text.replace("csrow", "_csrow").replace("channel", "_channel")
}

pub fn read_edac(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("devices/system/edac/mc");
    let mut families = [
        (
            "node_edac_correctable_errors_total",
            "Memory errors of a controller that were corrected.",
        ),
        (
            "node_edac_uncorrectable_errors_total",
            "Memory errors of a controller that could not be corrected.",
        ),
        (
            "node_edac_csrow_correctable_errors_total",
            "Memory errors of a row that were corrected.",
        ),
        (
            "node_edac_csrow_uncorrectable_errors_total",
            "Memory errors of a row that could not be corrected.",
        ),
        (
            "node_edac_channel_correctable_errors_total",
            "Memory errors of a channel that were corrected.",
        ),
        (
            "node_edac_channel_uncorrectable_errors_total",
            "Memory errors of a channel that could not be corrected.",
        ),
    ]
    .map(|(name, help)| Family::counter(name, help));
    let mut push = |family: usize, controller: u32, csrow: Option<String>, channel: &[Label], path: &Path| {
        let mut labels = vec![label("controller", controller.to_string())];
        labels.extend(csrow.map(|csrow| label("csrow", csrow)));
        labels.extend_from_slice(channel);
        if let Some(count) = read_number(path) {
            families[family].push(labels, count);
        }
    };
    for controller in numbered(&base, "mc") {
        let directory = base.join(format!("mc{controller}"));
        push(0, controller, None, &[], &directory.join("ce_count"));
        push(1, controller, None, &[], &directory.join("ue_count"));
        // Errors of an unknown row.
        push(
            2,
            controller,
            Some("unknown".to_owned()),
            &[],
            &directory.join("ce_noinfo_count"),
        );
        push(
            3,
            controller,
            Some("unknown".to_owned()),
            &[],
            &directory.join("ue_noinfo_count"),
        );
        for csrow in numbered(&directory, "csrow") {
            let row = directory.join(format!("csrow{csrow}"));
            push(2, controller, Some(csrow.to_string()), &[], &row.join("ce_count"));
            push(3, controller, Some(csrow.to_string()), &[], &row.join("ue_count"));
            for name in list_names(&row).unwrap_or_default() {
                let Some(channel) = name.strip_prefix("ch").and_then(|rest| rest.strip_suffix("_ce_count")) else {
                    continue;
                };
                let labels = [
                    label("channel", channel.to_owned()),
                    label("dimm_label", dimm_label(&row.join(format!("ch{channel}_dimm_label")))),
                ];
                push(4, controller, Some(csrow.to_string()), &labels, &row.join(&name));
                let uncorrected = row.join(format!("ch{channel}_ue_count"));
                push(5, controller, Some(csrow.to_string()), &labels, &uncorrected);
            }
        }
    }
    Ok(families.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn errors_are_counted_per_controller_and_row() {
        let tree = Tree::new();
        assert_eq!(text_of(&read_edac(&tree.roots).unwrap(), ""), [""; 0]);
        for (file, count) in [
            ("ce_count", 3),
            ("ue_count", 1),
            ("ce_noinfo_count", 2),
            ("ue_noinfo_count", 0),
            ("csrow0/ce_count", 4),
            ("csrow0/ue_count", 5),
            ("csrow0/ch1_ce_count", 6),
            ("csrow0/ch1_ue_count", 7),
            ("csrow0/ch2_ce_count", 8),
        ] {
            tree.sys(&format!("devices/system/edac/mc/mc0/{file}"), format!("{count}\n"));
        }
        let file = "devices/system/edac/mc/mc0/csrow0/ch1_dimm_label";
        tree.sys(file, "mc#0csrow#0channel#1\n");
        let channel = |number: u32, label: &str| {
            format!("{{controller=\"0\",csrow=\"0\",channel=\"{number}\",dimm_label=\"{label}\"}}")
        };
        let (one, two) = (channel(1, "mc0_csrow0_channel1"), channel(2, "unknown"));
        assert_eq!(
            text_of(&read_edac(&tree.roots).unwrap(), ""),
            [
                "node_edac_correctable_errors_total{controller=\"0\"} 3".to_owned(),
                "node_edac_uncorrectable_errors_total{controller=\"0\"} 1".to_owned(),
                "node_edac_csrow_correctable_errors_total{controller=\"0\",csrow=\"unknown\"} 2".to_owned(),
                "node_edac_csrow_correctable_errors_total{controller=\"0\",csrow=\"0\"} 4".to_owned(),
                "node_edac_csrow_uncorrectable_errors_total{controller=\"0\",csrow=\"unknown\"} 0".to_owned(),
                "node_edac_csrow_uncorrectable_errors_total{controller=\"0\",csrow=\"0\"} 5".to_owned(),
                format!("node_edac_channel_correctable_errors_total{one} 6"),
                format!("node_edac_channel_correctable_errors_total{two} 8"),
                format!("node_edac_channel_uncorrectable_errors_total{one} 7"),
            ]
        );
    }
}
