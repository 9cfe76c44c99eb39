//! `drm`: use and memory of AMD graphics cards, from `/sys/class/drm`.

use super::family_set::{AttributeRow, FamilySet};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute, read_text};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_drm_card_info node_drm_gpu_busy_percent node_drm_memory_gtt_size_bytes node_drm_memory_gtt_used_bytes \
    node_drm_memory_vis_vram_size_bytes node_drm_memory_vis_vram_used_bytes node_drm_memory_vram_size_bytes \
    node_drm_memory_vram_used_bytes";

pub const INFO: CollectorInfo = CollectorInfo::off("drm", Pace::Scrape, "graphics cards of AMD", METRICS, |_| {
    Box::new(read_drm)
});

const NUMBERS: [AttributeRow; 7] = [
    (
        "gpu_busy_percent",
        "node_drm_gpu_busy_percent",
        "Busy share of a graphics processor.",
        1.0,
    ),
    (
        "mem_info_gtt_total",
        "node_drm_memory_gtt_size_bytes",
        "Memory of the host that a card may use.",
        1.0,
    ),
    (
        "mem_info_gtt_used",
        "node_drm_memory_gtt_used_bytes",
        "Memory of the host that a card uses.",
        1.0,
    ),
    (
        "mem_info_vram_total",
        "node_drm_memory_vram_size_bytes",
        "Memory of a card.",
        1.0,
    ),
    (
        "mem_info_vram_used",
        "node_drm_memory_vram_used_bytes",
        "Used memory of a card.",
        1.0,
    ),
    (
        "mem_info_vis_vram_total",
        "node_drm_memory_vis_vram_size_bytes",
        "Memory of a card that the host sees.",
        1.0,
    ),
    (
        "mem_info_vis_vram_used",
        "node_drm_memory_vis_vram_used_bytes",
        "Used memory of a card that the host sees.",
        1.0,
    ),
];

pub fn read_drm(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/drm");
    let names = list_names(&base).map_err(|error| error.or_absent("no graphics card"))?;
    let mut set = FamilySet::default();
    // Beside the cards there are their connectors, such as `card0-DP-1`.
    let is_card = |name: &String| {
        name.strip_prefix("card")
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    for card in names.into_iter().filter(is_card) {
        let device = base.join(&card).join("device");
        let uevent = read_text(&device.join("uevent")).unwrap_or_default();
        if !uevent.lines().any(|line| line == "DRIVER=amdgpu") {
            continue;
        }
        let text = |file: &str| read_attribute(&device.join(file)).unwrap_or_default();
        let card = label("card", card);
        let info = [
            card.clone(),
            label("memory_vendor", text("mem_info_vram_vendor")),
            label("power_performance_level", text("power_dpm_force_performance_level")),
            label("unique_id", text("unique_id")),
            label("vendor", "amd"),
        ];
        set.add(
            "node_drm_card_info",
            "A graphics card; the value is always 1.",
            &info,
            1.0,
        );
        set.add_attributes(&device, &NUMBERS, &[card]);
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn cards_of_amd_are_shown() {
        let tree = Tree::new();
        assert!(matches!(read_drm(&tree.roots), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("card0/device/uevent", "DRIVER=amdgpu\nPCI_ID=1002:687F\n"),
            ("card0/device/gpu_busy_percent", "4\n"),
            ("card0/device/mem_info_vram_vendor", "samsung\n"),
            ("card0-DP-1/status", "connected\n"),
            ("card1/device/uevent", "DRIVER=i915\n"),
        ] {
            tree.sys(&format!("class/drm/{file}"), text);
        }
        assert_eq!(
            text_of(&read_drm(&tree.roots).unwrap(), ""),
            [
                "node_drm_card_info{card=\"card0\",memory_vendor=\"samsung\",power_performance_level=\"\",unique_id=\"\",\
                 vendor=\"amd\"} 1",
                "node_drm_gpu_busy_percent{card=\"card0\"} 4",
            ]
        );
    }
}
