//! `cgroups`: number of cgroups per controller, from `/proc/cgroups` (cgroups(7)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_cgroups_cgroups node_cgroups_enabled";

pub const INFO: CollectorInfo = CollectorInfo::off("cgroups", Pace::Scrape, "cgroups per controller", METRICS, |_| {
    Box::new(read_cgroups)
});

/// Controller, number of cgroups, and whether it is enabled.
type Controller = (String, f64, f64);

fn parse_controller(line: &str) -> Result<Controller, ParseError> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let parsed = match *fields {
        [name, _, cgroups, enabled] => match (cgroups.parse(), enabled.parse()) {
            (Ok(cgroups), Ok(enabled)) => Some((name.to_owned(), cgroups, enabled)),
            _ => None,
        },
        _ => None,
    };
    parsed.ok_or_else(|| ParseError::text(line, "is not a name with three numbers"))
}

pub fn parse_cgroups(text: &str, bad: &mut BadLines) -> Result<Vec<Controller>, ParseError> {
    let lines = lines(text).filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| bad.keep(parse_controller(line))).collect())
}

pub fn read_cgroups(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut set = FamilySet::default();
    for (name, cgroups, enabled) in roots.parse_lines_once("cgroups", parse_cgroups)? {
        let labels = [label("subsys_name", name)];
        set.add("node_cgroups_cgroups", "Cgroups of a controller.", &labels, cgroups);
        set.add(
            "node_cgroups_enabled",
            "1 if a controller is enabled.",
            &labels,
            enabled,
        );
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn controllers_are_counted() {
        let tree = Tree::new();
        tree.proc(
            "cgroups",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t172\t1\nrdma\t4\t1\t0",
        );
        assert_eq!(
            text_of(&read_cgroups(&tree.roots).unwrap(), ""),
            [
                "node_cgroups_cgroups{subsys_name=\"cpu\"} 172",
                "node_cgroups_cgroups{subsys_name=\"rdma\"} 1",
                "node_cgroups_enabled{subsys_name=\"cpu\"} 1",
                "node_cgroups_enabled{subsys_name=\"rdma\"} 0",
            ]
        );
    }
}
