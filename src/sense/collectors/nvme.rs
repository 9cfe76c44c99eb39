//! `nvme`: NVMe controllers and their namespaces, from `/sys/class/nvme`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_nvme_info node_nvme_namespace_capacity_bytes node_nvme_namespace_info \
    node_nvme_namespace_logical_block_size_bytes node_nvme_namespace_size_bytes node_nvme_namespace_used_bytes";

pub const INFO: CollectorInfo =
    CollectorInfo::on("nvme", Pace::Slow, "NVMe controllers", METRICS, |_| Box::new(read_nvme));

/// The id of a namespace: 1 of `nvme0n1`. Paths such as `nvme0c0n1` are none.
fn namespace_id(name: &str) -> Option<&str> {
    let (controller, id) = name.strip_prefix("nvme")?.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(controller) && is_number(id)).then_some(id)
}

pub fn read_nvme(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/nvme");
    let names = list_names(&base).map_err(|error| error.or_absent("no NVMe controller"))?;
    let mut set = FamilySet::default();
    for name in names {
        let directory = base.join(&name);
        let text = |file: &str| label_text(read_attribute(&directory.join(file)));
        let device = label("device", name);
        let info = [
            device.clone(),
            label("firmware_revision", text("firmware_rev")),
            label("model", text("model")),
            label("serial", text("serial")),
            label("state", text("state")),
            label("cntlid", text("cntlid")),
        ];
        set.add("node_nvme_info", "A controller; the value is always 1.", &info, 1.0);
        for entry in list_names(&directory)? {
            let Some(id) = namespace_id(&entry) else {
                continue;
            };
            let namespace = directory.join(&entry);
            let labels = [device.clone(), label("nsid", id.to_owned())];
            let state = read_attribute(&namespace.join("ana_state")).unwrap_or_else(|| "unknown".to_owned());
            let info = [labels.as_slice(), &[label("ana_state", state)]].concat();
            set.add(
                "node_nvme_namespace_info",
                "A namespace; the value is always 1.",
                &info,
                1.0,
            );
            let number = |file: &str| read_number(&namespace.join(file));
            let (Some(size), Some(used), Some(block)) =
                (number("size"), number("nuse"), number("queue/logical_block_size"))
            else {
                continue;
            };
            // node_exporter takes the kernel's sectors for blocks, and both have the same value on its dashboards.
            for (name, help, value) in [
                (
                    "node_nvme_namespace_capacity_bytes",
                    "Size of a namespace in blocks, in bytes.",
                    size * block,
                ),
                (
                    "node_nvme_namespace_size_bytes",
                    "Size of a namespace in blocks, in bytes.",
                    size * block,
                ),
                (
                    "node_nvme_namespace_used_bytes",
                    "Used blocks of a namespace, in bytes.",
                    used * block,
                ),
                (
                    "node_nvme_namespace_logical_block_size_bytes",
                    "Size of a block of a namespace.",
                    block,
                ),
            ] {
                set.add(name, help, &labels, value);
            }
        }
    }
    Ok(set.into_families())
}

/// A label without the blanks with which controllers fill their texts.
fn label_text(text: Option<String>) -> String {
    text.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn controllers_and_namespaces_are_shown() {
        let tree = Tree::new();
        assert!(matches!(read_nvme(&tree.roots), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("model", "Some SSD      \n"),
            ("state", "live\n"),
            ("nvme0n2/size", "100\n"),
            ("nvme0n2/nuse", "10\n"),
            ("nvme0n2/queue/logical_block_size", "512\n"),
            ("nvme0c0n1/size", "100\n"),
            ("nvme0n3/size", "100\n"),
        ] {
            tree.sys(&format!("class/nvme/nvme0/{file}"), text);
        }
        let families = read_nvme(&tree.roots).unwrap();
        let namespace = "{device=\"nvme0\",nsid=\"2\"";
        assert_eq!(
            text_of(&families, ""),
            [
                "node_nvme_info{device=\"nvme0\",firmware_revision=\"\",model=\"Some SSD\",serial=\"\",state=\"live\",cntlid=\"\"} 1"
                    .to_owned(),
                format!("node_nvme_namespace_info{namespace},ana_state=\"unknown\"}} 1"),
                "node_nvme_namespace_info{device=\"nvme0\",nsid=\"3\",ana_state=\"unknown\"} 1".to_owned(),
                format!("node_nvme_namespace_capacity_bytes{namespace}}} 51200"),
                format!("node_nvme_namespace_size_bytes{namespace}}} 51200"),
                format!("node_nvme_namespace_used_bytes{namespace}}} 5120"),
                format!("node_nvme_namespace_logical_block_size_bytes{namespace}}} 512"),
            ]
        );
    }
}
