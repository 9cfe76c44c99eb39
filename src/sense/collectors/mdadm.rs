//! `mdadm`: software RAID from `/proc/mdstat` (md(4)) and `/sys/block/md*/md`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, list_names, read_attribute, read_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_md_blocks node_md_blocks_synced node_md_degraded node_md_disks node_md_disks_required node_md_raid_disks \
    node_md_state";

pub const INFO: CollectorInfo = CollectorInfo::on("mdadm", Pace::Scrape, "software RAID", METRICS, |_| {
    Box::new(read_mdadm)
});

/// The states that every array shows. An array in another state shows that one as well, so that one state is always 1.
const STATES: [&str; 6] = ["active", "inactive", "recovering", "resync", "check", "reshape"];

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Array {
    pub device: String,
    pub state: String,
    pub active: f64,
    pub failed: f64,
    pub spare: f64,
    pub required: f64,
    pub blocks: f64,
    pub blocks_synced: f64,
}

/// The two numbers of `[3/2]`, or of `(5/10)` with parentheses.
fn pair(text: &str, open: char, close: char) -> Option<(f64, f64)> {
    text.split(open).skip(1).find_map(|rest| {
        let (one, other) = rest.split_once(close)?.0.split_once('/')?;
        Some((one.parse().ok()?, other.parse().ok()?))
    })
}

pub fn parse_mdstat(text: &str, bad: &mut BadLines) -> Result<Vec<Array>, ParseError> {
    let mut arrays: Vec<Array> = Vec::new();
    // The lines below a bad one are not those of the array before it.
    let mut is_known = false;
    for line in text.lines() {
        // The first line lists the levels that the kernel knows.
        let named = line
            .split_once(" : ")
            .filter(|(name, _)| *name != "Personalities" && !name.contains(' '));
        if let Some((device, rest)) = named {
            let mut fields = rest.split_ascii_whitespace();
            let state = bad.keep(fields.next().ok_or_else(|| ParseError::missing("state", line)));
            is_known = state.is_some();
            let Some(state) = state.map(str::to_owned) else {
                continue;
            };
            let members = fields.filter(|field| field.contains('[')).collect::<Vec<_>>();
            // A member may have several marks: `sdc[2](S)(R)`.
            let marked = |mark| members.iter().filter(|member| member.contains(mark)).count() as f64;
            // Levels without redundancy have no [n/m] and need all members, whatever the state.
            let is_striped = rest
                .split_ascii_whitespace()
                .any(|field| ["raid0", "linear"].contains(&field));
            let all = if is_striped || state == "active" {
                members.len() as f64
            } else {
                0.0
            };
            let (failed, spare) = (marked("(F)"), marked("(S)"));
            arrays.push(Array {
                device: device.to_owned(),
                state,
                active: all,
                required: all,
                failed,
                spare,
                ..Array::default()
            });
            continue;
        }
        // The line is before the first array or after the last.
        let Some(array) = arrays.last_mut().filter(|_| is_known && line.starts_with(' ')) else {
            continue;
        };
        let mut fields = line.split_ascii_whitespace();
        if let (Some(Ok(blocks)), Some("blocks")) = (fields.next().map(str::parse), fields.next()) {
            array.blocks = blocks;
            array.blocks_synced = blocks;
            // An array that is not active needs no disk.
            let is_active = array.state != "inactive";
            if let Some((required, active)) = pair(line, '[', ']').filter(|_| is_active) {
                (array.required, array.active) = (required, active);
            }
            continue;
        }
        for (word, state) in [
            ("recovery", "recovering"),
            ("resync", "resync"),
            ("check", "check"),
            ("reshape", "reshape"),
        ] {
            let Some((_, progress)) = line
                .split_once(word)
                .filter(|(_, rest)| rest.trim_start().starts_with('='))
            else {
                continue;
            };
            array.state = state.to_owned();
            // PENDING and DELAYED have no progress yet.
            array.blocks_synced = pair(progress, '(', ')').map_or(0.0, |(synced, _)| synced);
        }
    }
    Ok(arrays)
}

fn families(arrays: &[Array]) -> Vec<Family> {
    let mut state = Family::gauge("node_md_state", "1 for the state that an array is in.");
    let mut disks = Family::gauge("node_md_disks", "Disks of an array by state.");
    let mut required = Family::gauge("node_md_disks_required", "Disks that an array needs to be whole.");
    let mut blocks = Family::gauge("node_md_blocks", "Blocks of an array.");
    let mut synced = Family::gauge("node_md_blocks_synced", "Blocks of an array that are in step.");
    for array in arrays {
        let device = || label("device", array.device.clone());
        let other = Some(array.state.as_str()).filter(|name| !STATES.contains(name));
        for name in STATES.into_iter().chain(other) {
            state.push(
                vec![device(), label("state", name.to_owned())],
                f64::from(array.state == name),
            );
        }
        for (name, count) in [
            ("active", array.active),
            ("failed", array.failed),
            ("spare", array.spare),
        ] {
            disks.push(vec![device(), label("state", name)], count);
        }
        required.push(vec![device()], array.required);
        blocks.push(vec![device()], array.blocks);
        synced.push(vec![device()], array.blocks_synced);
    }
    vec![state, disks, required, blocks, synced]
}

pub fn read_mdadm(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let arrays = roots
        .parse_lines_once("mdstat", parse_mdstat)
        .map_err(|error| error.or_absent("no software RAID"))?;
    let mut families = families(&arrays);
    families.extend(read_sysfs(roots));
    Ok(families)
}

/// Disks of each array that has a directory in sysfs.
fn read_sysfs(roots: &Roots) -> [Family; 2] {
    let mut disks = Family::gauge("node_md_raid_disks", "Disks that an array is made for.");
    let mut degraded = Family::gauge("node_md_degraded", "Disks that an array lacks.");
    let base = roots.sys("block");
    let names = list_names(&base).unwrap_or_default();
    for device in names.into_iter().filter(|name| name.starts_with("md")) {
        let directory = base.join(&device).join("md");
        let Some(level) = read_attribute(&directory.join("level")) else {
            continue;
        };
        let device = label("device", device);
        // While an array grows, the former number follows in parentheses. Containers have no disks of their own.
        let count = read_attribute(&directory.join("raid_disks"))
            .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
        if let Some(count) = count.filter(|_| !["container", "imsm", "ddf", ""].contains(&level.as_str())) {
            disks.push([device.clone()], count);
        }
        // Levels without redundancy have no such file.
        degraded.push([device], read_number(&directory.join("degraded")).unwrap_or_default());
    }
    [disks, degraded]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};

    const MDSTAT: &str = "Personalities : [raid1] [raid6] [raid0]
md0 : active raid1 sdb1[1](F) sda1[0] sdc1[2](S)
      1000 blocks super 1.2 [2/1] [U_]
      [==>..................]  recovery = 12.6% (126/1000) finish=127.5min speed=33440K/sec

md1 : active raid0 sda2[0] sdb2[1]
      500 blocks super 1.2 512k chunks

md2 : inactive sdd1[0](S)
      64 blocks

md3 : active (auto-read-only) raid1 sda3[0] sdb3[1]
      77 blocks [2/2] [UU]
      \tresync=PENDING

md4 : broken raid0 sdb4[1] sda4[0]
      900 blocks super 1.2 512k chunks

md5 : active raid1 sdc5[2](S)(R) sdb5[1] sda5[0]
      90 blocks [2/2] [UU]

unused devices: <none>
";

    #[test]
    fn states_disks_and_progress_are_read() {
        let arrays = parsed(MDSTAT, parse_mdstat).unwrap();
        let figures: Vec<_> = arrays
            .iter()
            .map(|a| {
                (
                    a.device.as_str(),
                    a.state.as_str(),
                    [a.active, a.failed, a.spare, a.required, a.blocks, a.blocks_synced],
                )
            })
            .collect();
        assert_eq!(
            figures,
            [
                ("md0", "recovering", [1.0, 1.0, 1.0, 2.0, 1000.0, 126.0]),
                ("md1", "active", [2.0, 0.0, 0.0, 2.0, 500.0, 500.0]),
                ("md2", "inactive", [0.0, 0.0, 1.0, 0.0, 64.0, 64.0]),
                ("md3", "resync", [2.0, 0.0, 0.0, 2.0, 77.0, 0.0]),
                ("md4", "broken", [2.0, 0.0, 0.0, 2.0, 900.0, 900.0]),
                ("md5", "active", [2.0, 0.0, 1.0, 2.0, 90.0, 90.0]),
            ]
        );
    }

    #[test]
    fn exactly_one_state_is_1() {
        let tree = Tree::new();
        let array = |first: &str, last: &str| {
            tree.proc("mdstat", format!("md0 : {first}\n      1000 blocks [2/2] [UU]\n{last}"));
            let families = read_mdadm(&tree.roots).unwrap();
            let mut states = text_of(&families, "node_md_state");
            states.retain(|line| line.ends_with(" 1"));
            states
        };
        let state = |name: &str| [format!("node_md_state{{device=\"md0\",state={name:?}}} 1")];
        let active = "active raid5 sda1[0] sdb1[1]";
        let progress = |word: &str| format!("      [=>.........]  {word} =  9.1% (91/1000) finish=1.0min\n");
        assert_eq!(array(active, ""), state("active"));
        for (word, name) in [
            ("recovery", "recovering"),
            ("resync", "resync"),
            ("check", "check"),
            ("reshape", "reshape"),
        ] {
            assert_eq!(array(active, &progress(word)), state(name));
            assert_eq!(array(active, &format!("      {word}=DELAYED\n")), state(name));
        }
        assert_eq!(array("inactive sda1[0](S)", ""), state("inactive"));
        let inactive = read_mdadm(&tree.roots).unwrap();
        assert!(text_of(&inactive, "required").join("").ends_with(" 0"));
        assert_eq!(array("broken raid0 sda1[0]", ""), state("broken"));
    }

    #[test]
    fn disks_of_sysfs_are_shown() {
        let tree = Tree::new();
        tree.proc("mdstat", "Personalities : [raid1]\nunused devices: <none>\n");
        for (file, text) in [
            ("md0/md/level", "raid5\n"),
            ("md0/md/raid_disks", "4 (3)\n"),
            ("md0/md/degraded", "1\n"),
            ("md1/md/level", "raid0\n"),
            ("md1/md/raid_disks", "2\n"),
            ("md127/md/level", "container\n"),
            ("sda/size", "1\n"),
        ] {
            tree.sys(&format!("block/{file}"), text);
        }
        assert_eq!(
            text_of(&read_mdadm(&tree.roots).unwrap(), ""),
            [
                "node_md_raid_disks{device=\"md0\"} 4",
                "node_md_raid_disks{device=\"md1\"} 2",
                "node_md_degraded{device=\"md0\"} 1",
                "node_md_degraded{device=\"md1\"} 0",
                "node_md_degraded{device=\"md127\"} 0",
            ]
        );
    }

    #[test]
    fn every_array_state_is_shown() {
        let tree = Tree::new();
        assert!(matches!(read_mdadm(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc("mdstat", MDSTAT);
        let families = read_mdadm(&tree.roots).unwrap();
        assert_eq!(text_of(&families, "node_md_state").len(), 37);
        assert_eq!(
            text_of(&families, "state=\"recovering\"} 1"),
            ["node_md_state{device=\"md0\",state=\"recovering\"} 1"]
        );
    }
}
