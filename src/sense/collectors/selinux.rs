//! `selinux`: whether SELinux is enabled and enforced, from `/sys/fs/selinux` and `/etc/selinux/config`.

use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::{ReadError, read_attribute, read_text};
use crate::sense::runtime::roots::Roots;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "node_selinux_config_mode node_selinux_current_mode node_selinux_enabled";

pub const INFO: CollectorInfo = CollectorInfo::on("selinux", Pace::Slow, "state of SELinux", METRICS, |_| {
    Box::new(read_selinux)
});

/// The mode that the configuration sets: 1 enforcing, 0 permissive, -1 disabled or unknown.
fn configured_mode(text: &str) -> f64 {
    let mode = text.lines().find_map(|line| line.trim().strip_prefix("SELINUX="));
    match mode.map(|mode| mode.trim().to_lowercase()).as_deref() {
        Some("enforcing") => 1.0,
        Some("permissive") => 0.0,
        _ => -1.0,
    }
}

pub fn read_selinux(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let enabled = Family::gauge("node_selinux_enabled", "1 if SELinux is enabled, 0 if not.");
    let Some(mode) = read_attribute(&roots.sys("fs/selinux/enforce")) else {
        return Ok(vec![enabled.value(0.0)]);
    };
    let configuration = read_text(&roots.host(Path::new("/etc/selinux/config"))).unwrap_or_default();
    Ok(vec![
        enabled.value(1.0),
        Family::gauge(
            "node_selinux_config_mode",
            "Configured mode: 1 enforcing, 0 permissive, -1 disabled.",
        )
        .value(configured_mode(&configuration)),
        Family::gauge("node_selinux_current_mode", "Current mode: 1 enforcing, 0 permissive.")
            .value(f64::from(mode.trim() == "1")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn modes_are_shown_where_it_is_enabled() {
        let tree = Tree::new();
        let text = || text_of(&read_selinux(&tree.roots).unwrap(), "");
        assert_eq!(text(), ["node_selinux_enabled 0"]);
        tree.sys("fs/selinux/enforce", "0");
        tree.host(
            "etc/selinux/config",
            "# SELINUX=disabled\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
        );
        assert_eq!(
            text(),
            [
                "node_selinux_enabled 1",
                "node_selinux_config_mode 1",
                "node_selinux_current_mode 0"
            ]
        );
    }
}
