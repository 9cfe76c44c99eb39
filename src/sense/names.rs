//! The names of all published metrics, with which `check` finds misspelt names in expressions.

use super::collectors::registry::COLLECTORS;
use super::runtime::derived;
use std::sync::LazyLock;

/// Every declared name or pattern, in the order of the registry.
fn declared() -> impl Iterator<Item = &'static str> {
    let lists = COLLECTORS.iter().map(|collector| collector.metrics);
    lists.chain([derived::METRICS]).flat_map(str::split_ascii_whitespace)
}

/// Every fixed name, sorted.
pub fn known() -> impl Iterator<Item = &'static str> {
    static KNOWN: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let mut known: Vec<&str> = declared().filter(|name| !name.ends_with('*')).collect();
        known.sort_unstable();
        known
    });
    KNOWN.iter().copied()
}

/// Whether a collector may publish this name, here or on another host.
pub fn may_be_published(name: &str) -> bool {
    declared().any(|declared| matches(declared, name))
}

/// The names of all labels that collectors give. Text files may have others, for metrics that only they have.
const LABELS: &str = "\
    address adminstate algorithm altname ana_state backing_device bios_date bios_release bios_vendor bios_version \
    block_group_type board_asset_tag board_id board_name board_serial board_vendor board_version broadcast bssid btrfs_dev_uuid bug \
    build_id bus bus_info cache_device cachesize capacity_level card cause channel charge_type chassis_asset_tag \
    chassis_serial chassis_vendor chassis_version chip chip_name class class_id class_name clocksource cntlid \
    codename collector controller core cpu csrow ctxswitchtype data_type dataset dest dev_loss_tmo device device_error device_id \
    device_name devices dimm_label domainname driver duplex error error_type expansion_rom_version export \
    fabric_name family fc_host file firmware_revision firmware_version flag fstype function governor group groupname gw \
    hca_type health id id_like identity ifalias image_id image_version index info iomode iopolicy ip kind l label \
    local_address local_mark local_port lv_layer lv_name mac_address machine major manufacturer master memory_vendor memtype \
    method microcode minor mitigation mode model model_name mountaddr mountpoint name netmask node nodename nqn nsid \
    operation operstate options package parent_bus parent_device parent_function parent_segment path port port_id \
    port_name port_state port_type power_performance_level power_supply pretimeout_governor pretty_name priority \
    product_family product_name product_serial product_sku product_uuid product_version proto protocol queue \
    rapl_zone release remote remote_address remote_port revision rotational scope seat segment sensor serial \
    serial_number size slab speed src ssid state status stepping subsys_name subsystem subsystem_device_id \
    subsystem_vendor_id subsystem_vendor_name supported_classes supported_speeds swap_type symbolic_name sysfs_name \
    sysname system_vendor technology thread thread_state threadname time_zone transport type unique_id usage usb_type uuid value \
    variant variant_id vector vendor vendor_id vendor_name version version_codename version_id vg_name \
    virtualization_type wchan weight wwn x y zone zpool";

/// Whether a metric of this name can have the label: no collector gives a fixed name another one.
pub fn may_have_label(metric: &str, label: &str) -> bool {
    !known().any(|known| known == metric) || LABELS.split_ascii_whitespace().any(|known| known == label)
}

fn matches(declared: &str, name: &str) -> bool {
    match declared.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == declared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::options::CollectorOptions;
    use crate::sense::runtime::roots::Roots;
    use std::path::{Path, PathBuf};

    #[test]
    fn collectors_publish_only_declared_names() {
        let options = CollectorOptions::default();
        for collector in COLLECTORS {
            // A feature that this host lacks has no families.
            let Ok(families) = collector.build(&options)(&Roots::default()) else {
                continue;
            };
            for family in families {
                let mut declared = collector.metrics.split_ascii_whitespace();
                assert!(
                    declared.any(|declared| matches(declared, &family.name)),
                    "{} of {}",
                    family.name,
                    collector.name
                );
                for (label, _) in family.points().flat_map(|point| point.labels) {
                    assert!(may_have_label("node_load1", label), "label {label} of {}", family.name);
                }
            }
        }
    }

    #[test]
    fn every_name_in_the_sources_is_declared() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sense");
        let mut found = 0;
        // A key of the configuration, and a metric of another module that text files must not have.
        let others = ["process_groups", "node_exporter_build_info"];
        for path in [sources(&folder.join("collectors")), sources(&folder.join("runtime"))].concat() {
            let is_test = path.iter().any(|part| part == "tests" || part == "tests.rs");
            if path.ends_with("snapshot.rs") || is_test {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]").next().unwrap();
            for name in code.split('"').filter(|text| {
                let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                is_name
                    && ["node_", "evenkeel_", "process_"]
                        .iter()
                        .any(|start| text.starts_with(start))
            }) {
                found += 1;
                let is_prefix =
                    name.ends_with('_') || declared().any(|declared| declared.strip_suffix('*') == Some(name));
                assert!(
                    known().any(|known| known == name) || is_prefix || others.contains(&name),
                    "{name} of {path:?}"
                );
            }
        }
        assert!(found > 100, "only {found} names found");
    }

    #[test]
    fn every_label_in_the_sources_is_listed() {
        let mut found = 0;
        for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sense/collectors")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]").next().unwrap();
            for part in code.split("label(\"").skip(1) {
                let label = part.split('"').next().unwrap();
                found += 1;
                assert!(may_have_label("node_load1", label), "{label} of {path:?}");
            }
        }
        assert!(found > 50, "only {found} labels found");
    }

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let below = folders.iter().flat_map(|folder| sources(folder));
        let is_source = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "rs");
        files.into_iter().filter(is_source).chain(below).collect()
    }
}
