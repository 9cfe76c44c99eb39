//! `bonding`: links of bonds, all and up, from `/sys/class/net` (Documentation/networking/bonding.rst).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, read_attribute, read_text};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_bonding_active node_bonding_slaves";

pub const INFO: CollectorInfo = CollectorInfo::on("bonding", Pace::Slow, "bonds of network devices", METRICS, |_| {
    Box::new(read_bonding)
});

pub fn read_bonding(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("class/net");
    let masters = read_text(&base.join("bonding_masters")).map_err(|error| error.or_absent("no bonds"))?;
    let mut slaves = Family::gauge("node_bonding_slaves", "Links that a bond has.");
    let mut active = Family::gauge("node_bonding_active", "Links of a bond that are up.");
    for master in masters.split_ascii_whitespace() {
        let directory = base.join(master);
        // The bond may have been removed meanwhile.
        let Ok(links) = read_text(&directory.join("bonding/slaves")) else {
            continue;
        };
        let links: Vec<&str> = links.split_ascii_whitespace().collect();
        let is_up = |link: &&&str| {
            // Before Linux 3.13 the links were called slave_*.
            let status =
                |prefix: &str| read_attribute(&directory.join(format!("{prefix}_{link}/bonding_slave/mii_status")));
            status("lower")
                .or_else(|| status("slave"))
                .is_some_and(|status| status.trim() == "up")
        };
        let up = links.iter().filter(is_up).count();
        slaves.push([label("master", master.to_owned())], links.len() as f64);
        active.push([label("master", master.to_owned())], up as f64);
    }
    Ok(vec![slaves, active])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn links_that_are_down_are_not_active() {
        let tree = Tree::new();
        assert!(matches!(read_bonding(&tree.roots), Err(ReadError::Absent(_))));
        tree.sys("class/net/bonding_masters", "bond0 empty\n");
        tree.sys("class/net/bond0/bonding/slaves", "eth0 eth1 eth2\n");
        tree.sys("class/net/empty/bonding/slaves", "\n");
        tree.sys("class/net/bond0/lower_eth0/bonding_slave/mii_status", "up\n");
        tree.sys("class/net/bond0/lower_eth1/bonding_slave/mii_status", "down\n");
        tree.sys("class/net/bond0/slave_eth2/bonding_slave/mii_status", "up\n");
        assert_eq!(
            text_of(&read_bonding(&tree.roots).unwrap(), ""),
            [
                "node_bonding_slaves{master=\"bond0\"} 3",
                "node_bonding_slaves{master=\"empty\"} 0",
                "node_bonding_active{master=\"bond0\"} 2",
                "node_bonding_active{master=\"empty\"} 0",
            ]
        );
    }
}
