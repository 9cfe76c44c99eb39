//! `nvmesubsystem`: paths of NVMe subsystems, from `/sys/class/nvme-subsystem`.

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_nvmesubsystem_info node_nvmesubsystem_namespace_info node_nvmesubsystem_path_state node_nvmesubsystem_paths \
    node_nvmesubsystem_paths_live";

pub const INFO: CollectorInfo =
    CollectorInfo::off("nvmesubsystem", Pace::Slow, "paths of NVMe subsystems", METRICS, |_| {
        Box::new(read_nvmesubsystem)
    });

/// The states of a path, sorted. The kernel's other ones are `unknown`, and `deleting (no IO)` is `deleting`.
const STATES: [&str; 7] = ["connecting", "dead", "deleting", "live", "new", "resetting", "unknown"];

/// Whether a name is `nvme` with a number.
fn is_controller(name: &str) -> bool {
    let number = name.strip_prefix("nvme").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a name is that of a namespace, such as `nvme0n1`.
fn is_namespace(name: &str) -> bool {
    let parts = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
    parts.is_some_and(|(controller, id)| {
        [controller, id]
            .iter()
            .all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

pub fn read_nvmesubsystem(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/nvme-subsystem");
    let names = list_names(&base).map_err(|error| error.or_absent("no NVMe subsystem"))?;
    let mut set = FamilySet::default();
    for name in names.into_iter().filter(|name| name.starts_with("nvme-subsys")) {
        let directory = base.join(&name);
        let text = |file: &str| {
            read_attribute(&directory.join(file))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let subsystem = label("subsystem", name);
        let info = [
            subsystem.clone(),
            label("nqn", text("subsysnqn")),
            label("model", text("model")),
            label("serial", text("serial")),
            label("iopolicy", text("iopolicy")),
        ];
        set.add(
            "node_nvmesubsystem_info",
            "A subsystem; the value is always 1.",
            &info,
            1.0,
        );
        let (mut paths, mut live) = (0.0, 0.0);
        for entry in list_names(&directory)? {
            if is_namespace(&entry) {
                let labels = [subsystem.clone(), label("device", entry)];
                let help = "A namespace of a subsystem; the value is always 1.";
                set.add("node_nvmesubsystem_namespace_info", help, &labels, 1.0);
            } else if is_controller(&entry) {
                let state = text(&format!("{entry}/state"));
                let state = match state.as_str() {
                    "deleting (no IO)" => "deleting",
                    state => STATES.into_iter().find(|known| *known == state).unwrap_or("unknown"),
                };
                paths += 1.0;
                live += f64::from(state == "live");
                let transport = text(&format!("{entry}/transport"));
                for known in STATES {
                    let labels = [
                        subsystem.clone(),
                        label("controller", entry.clone()),
                        label("transport", transport.clone()),
                        label("state", known),
                    ];
                    let help = "1 for the state that a path is in.";
                    set.add(
                        "node_nvmesubsystem_path_state",
                        help,
                        &labels,
                        f64::from(known == state),
                    );
                }
            }
        }
        let subsystem = std::slice::from_ref(&subsystem);
        set.add("node_nvmesubsystem_paths", "Paths of a subsystem.", subsystem, paths);
        set.add(
            "node_nvmesubsystem_paths_live",
            "Live paths of a subsystem.",
            subsystem,
            live,
        );
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn paths_are_counted_by_state() {
        let tree = Tree::new();
        assert!(matches!(read_nvmesubsystem(&tree.roots), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("subsysnqn", "nqn.2014\n"),
            ("nvme0/state", "live\n"),
            ("nvme0/transport", "tcp\n"),
            ("nvme1/state", "deleting (no IO)\n"),
            ("nvme0n1/size", "1\n"),
            ("power/control", "auto\n"),
        ] {
            tree.sys(&format!("class/nvme-subsystem/nvme-subsys0/{file}"), text);
        }
        let families = read_nvmesubsystem(&tree.roots).unwrap();
        let mut states = text_of(&families, "path_state");
        assert_eq!(states.len(), 14);
        states.retain(|line| line.ends_with(" 1"));
        let of = |controller: &str, transport: &str, state: &str| {
            format!(
                "node_nvmesubsystem_path_state{{subsystem=\"nvme-subsys0\",controller=\"{controller}\",\
                 transport=\"{transport}\",state=\"{state}\"}} 1"
            )
        };
        assert_eq!(states, [of("nvme0", "tcp", "live"), of("nvme1", "", "deleting")]);
        assert_eq!(
            text_of(&families, "paths"),
            [
                "node_nvmesubsystem_paths{subsystem=\"nvme-subsys0\"} 2",
                "node_nvmesubsystem_paths_live{subsystem=\"nvme-subsys0\"} 1",
            ]
        );
        assert_eq!(text_of(&families, "namespace").len(), 1);
    }
}
