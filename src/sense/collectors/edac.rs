//! `edac`: correctable and uncorrectable memory errors from sysfs (Documentation/admin-guide/ras.rst).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_number};
use crate::sense::runtime::roots::Roots;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "\
    node_edac_correctable_errors_total node_edac_csrow_correctable_errors_total \
    node_edac_csrow_uncorrectable_errors_total node_edac_uncorrectable_errors_total";

pub const INFO: CollectorInfo =
    CollectorInfo::on("edac", Pace::Slow, "memory errors", METRICS, |_| Box::new(read_edac));

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
    ]
    .map(|(name, help)| Family::counter(name, help));
    let mut push = |family: usize, controller: u32, csrow: Option<String>, path: &Path| {
        let mut labels = vec![label("controller", controller.to_string())];
        labels.extend(csrow.map(|csrow| label("csrow", csrow)));
        if let Some(count) = read_number(path) {
            families[family].push(labels, count);
        }
    };
    for controller in numbered(&base, "mc") {
        let directory = base.join(format!("mc{controller}"));
        push(0, controller, None, &directory.join("ce_count"));
        push(1, controller, None, &directory.join("ue_count"));
        // Errors of an unknown row.
        push(
            2,
            controller,
            Some("unknown".to_owned()),
            &directory.join("ce_noinfo_count"),
        );
        push(
            3,
            controller,
            Some("unknown".to_owned()),
            &directory.join("ue_noinfo_count"),
        );
        for csrow in numbered(&directory, "csrow") {
            let row = directory.join(format!("csrow{csrow}"));
            push(2, controller, Some(csrow.to_string()), &row.join("ce_count"));
            push(3, controller, Some(csrow.to_string()), &row.join("ue_count"));
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
        ] {
            tree.sys(&format!("devices/system/edac/mc/mc0/{file}"), format!("{count}\n"));
        }
        assert_eq!(
            text_of(&read_edac(&tree.roots).unwrap(), ""),
            [
                "node_edac_correctable_errors_total{controller=\"0\"} 3",
                "node_edac_uncorrectable_errors_total{controller=\"0\"} 1",
                "node_edac_csrow_correctable_errors_total{controller=\"0\",csrow=\"unknown\"} 2",
                "node_edac_csrow_correctable_errors_total{controller=\"0\",csrow=\"0\"} 4",
                "node_edac_csrow_uncorrectable_errors_total{controller=\"0\",csrow=\"unknown\"} 0",
                "node_edac_csrow_uncorrectable_errors_total{controller=\"0\",csrow=\"0\"} 5",
            ]
        );
    }
}
