//! `swap`: swap devices and files, from `/proc/swaps` (proc(5)).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_swap_priority node_swap_size_bytes node_swap_used_bytes";

pub const INFO: CollectorInfo = CollectorInfo::off("swap", Pace::Scrape, "swap devices and files", METRICS, |_| {
    Box::new(read_swap)
});

/// The kernel counts in kibibytes.
const KIBIBYTE: f64 = 1024.0;

/// Device, type, and size, use and priority.
type Swap = (String, String, [f64; 3]);

fn parse_line(line: &str) -> Result<Swap, ParseError> {
    // A name may hold blanks, which the kernel escapes.
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let parsed = match *fields {
        [device, kind, size, used, priority] => {
            let numbers: Option<Vec<f64>> = [size, used, priority].iter().map(|field| field.parse().ok()).collect();
            numbers
                .and_then(|numbers| numbers.try_into().ok())
                .map(|numbers| (device.to_owned(), kind.to_owned(), numbers))
        }
        _ => None,
    };
    parsed.ok_or_else(|| ParseError::text(line, "is not name, type and three numbers"))
}

pub fn parse_swaps(text: &str, bad: &mut BadLines) -> Result<Vec<Swap>, ParseError> {
    let lines = lines(text).skip(1).filter(|line| !line.trim().is_empty());
    Ok(lines.filter_map(|line| bad.keep(parse_line(line))).collect())
}

pub fn read_swap(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut set = FamilySet::default();
    for (device, kind, [size, used, priority]) in roots.parse_lines_once("swaps", parse_swaps)? {
        let labels = [label("device", device), label("swap_type", kind)];
        set.add(
            "node_swap_size_bytes",
            "Size of a swap device.",
            &labels,
            size * KIBIBYTE,
        );
        set.add(
            "node_swap_used_bytes",
            "Used part of a swap device.",
            &labels,
            used * KIBIBYTE,
        );
        set.add("node_swap_priority", "Priority of a swap device.", &labels, priority);
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn sizes_are_bytes() {
        let tree = Tree::new();
        tree.proc(
            "swaps",
            "Filename Type Size Used Priority\n/dev/zram0  partition 8\t4\t-2\n/dev/x file 1\n",
        );
        let of = "{device=\"/dev/zram0\",swap_type=\"partition\"}";
        assert_eq!(
            text_of(&read_swap(&tree.roots).unwrap(), ""),
            [
                format!("node_swap_size_bytes{of} 8192"),
                format!("node_swap_used_bytes{of} 4096"),
                format!("node_swap_priority{of} -2"),
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
