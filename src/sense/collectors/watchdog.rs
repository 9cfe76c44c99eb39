//! `watchdog`: hardware watchdogs, from `/sys/class/watchdog` (Documentation/ABI/testing/sysfs-class-watchdog).

use super::family_set::{AttributeRow, FamilySet};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_watchdog_access_cs0 node_watchdog_bootstatus node_watchdog_fw_version node_watchdog_info \
    node_watchdog_nowayout node_watchdog_pretimeout_seconds node_watchdog_timeleft_seconds \
    node_watchdog_timeout_seconds";

pub const INFO: CollectorInfo = CollectorInfo::on("watchdog", Pace::Slow, "hardware watchdogs", METRICS, |_| {
    Box::new(read_watchdog)
});

const NUMBERS: [AttributeRow; 7] = [
    ("bootstatus", "node_watchdog_bootstatus", "Status at the boot.", 1.0),
    (
        "fw_version",
        "node_watchdog_fw_version",
        "Version of the firmware.",
        1.0,
    ),
    (
        "nowayout",
        "node_watchdog_nowayout",
        "1 if the watchdog cannot be stopped.",
        1.0,
    ),
    (
        "timeleft",
        "node_watchdog_timeleft_seconds",
        "Time left until the reset.",
        1.0,
    ),
    (
        "timeout",
        "node_watchdog_timeout_seconds",
        "Time without a sign of life until the reset.",
        1.0,
    ),
    (
        "pretimeout",
        "node_watchdog_pretimeout_seconds",
        "Time before the reset at which the watchdog warns.",
        1.0,
    ),
    (
        "access_cs0",
        "node_watchdog_access_cs0",
        "1 if the watchdog reset the machine to its second boot source.",
        1.0,
    ),
];

pub fn read_watchdog(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/watchdog");
    let names = list_names(&base).map_err(|error| error.or_absent("no watchdog"))?;
    let mut set = FamilySet::default();
    for name in names {
        let directory = base.join(&name);
        let name = label("name", name);
        set.add_attributes(&directory, &NUMBERS, std::slice::from_ref(&name));
        let text = |file: &str| read_attribute(&directory.join(file)).unwrap_or_default();
        let info = [
            name,
            label("options", text("options")),
            label("identity", text("identity")),
            label("state", text("state")),
            label("status", text("status")),
            label("pretimeout_governor", text("pretimeout_governor")),
        ];
        set.add("node_watchdog_info", "A watchdog; the value is always 1.", &info, 1.0);
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn numbers_and_texts_are_shown() {
        let tree = Tree::new();
        assert!(matches!(read_watchdog(&tree.roots), Err(ReadError::Absent(_))));
        tree.sys("class/watchdog/watchdog0/timeout", "60\n");
        tree.sys("class/watchdog/watchdog0/identity", "Software Watchdog\n");
        assert_eq!(
            text_of(&read_watchdog(&tree.roots).unwrap(), ""),
            [
                "node_watchdog_timeout_seconds{name=\"watchdog0\"} 60".to_owned(),
                "node_watchdog_info{name=\"watchdog0\",options=\"\",identity=\"Software Watchdog\",state=\"\",status=\"\",\
                 pretimeout_governor=\"\"} 1"
                    .to_owned(),
            ]
        );
    }
}
