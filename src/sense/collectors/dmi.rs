//! `dmi`: the machine as its firmware describes it, from `/sys/class/dmi/id`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{Attributes, ReadError};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_dmi_info";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "dmi",
    Pace::Slow,
    "what the firmware says of the machine",
    METRICS,
    |_| Box::new(read_dmi),
);

/// Label and file; only root can read serial numbers.
const FIELDS: [(&str, &str); 20] = [
    ("bios_date", "bios_date"),
    ("bios_release", "bios_release"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("board_asset_tag", "board_asset_tag"),
    ("board_name", "board_name"),
    ("board_serial", "board_serial"),
    ("board_vendor", "board_vendor"),
    ("board_version", "board_version"),
    ("chassis_asset_tag", "chassis_asset_tag"),
    ("chassis_serial", "chassis_serial"),
    ("chassis_vendor", "chassis_vendor"),
    ("chassis_version", "chassis_version"),
    ("product_family", "product_family"),
    ("product_name", "product_name"),
    ("product_serial", "product_serial"),
    ("product_sku", "product_sku"),
    ("product_uuid", "product_uuid"),
    ("product_version", "product_version"),
    ("system_vendor", "sys_vendor"),
];

pub fn read_dmi(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let attributes = Attributes::open(&roots.sys("class/dmi/id"));
    let text = |file| Some(attributes.as_ref()?.read(file)?.trim().to_owned());
    let labels: Vec<_> = FIELDS
        .into_iter()
        .filter_map(|(name, file)| Some(label(name, text(file)?)))
        .collect();
    if labels.is_empty() {
        return Err(ReadError::Absent("no DMI information"));
    }
    let mut info = Family::gauge(
        "node_dmi_info",
        "What the firmware says of the machine; the value is always 1.",
    );
    info.push(labels, 1.0);
    Ok(vec![info])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn only_existing_files_become_labels() {
        let tree = Tree::new();
        assert!(matches!(read_dmi(&tree.roots), Err(ReadError::Absent(_))));
        tree.sys("class/dmi/id/sys_vendor", " Acme\n");
        tree.sys("class/dmi/id/product_name", b"X\xff1\n");
        assert_eq!(
            text_of(&read_dmi(&tree.roots).unwrap(), ""),
            ["node_dmi_info{product_name=\"X\u{fffd}1\",system_vendor=\"Acme\"} 1"]
        );
    }
}
