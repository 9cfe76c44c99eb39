//! `entropy`: bits in the kernel's entropy pool, from `/proc/sys/kernel/random`.

use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::{ReadError, or_without, parse_number};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_entropy_available_bits node_entropy_pool_size_bits";

pub const INFO: CollectorInfo =
    CollectorInfo::on("entropy", Pace::Slow, "entropy", METRICS, |_| Box::new(read_entropy));

pub fn read_entropy(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut families = Vec::new();
    for (file, name, help) in [
        (
            "entropy_avail",
            "node_entropy_available_bits",
            "Bits of entropy at hand.",
        ),
        (
            "poolsize",
            "node_entropy_pool_size_bits",
            "Bits that the entropy pool holds.",
        ),
    ] {
        let path = format!("sys/kernel/random/{file}");
        let bits = roots.parse_lines_once(&path, |text, bad| Ok(bad.keep(parse_number(text))));
        families.extend(
            or_without(bits)?
                .flatten()
                .map(|bits| Family::gauge(name, help).value(bits)),
        );
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn entropy_is_two_numbers() {
        let tree = Tree::new();
        tree.proc("sys/kernel/random/entropy_avail", "250\n");
        tree.proc("sys/kernel/random/poolsize", "256\n");
        assert_eq!(
            text_of(&read_entropy(&tree.roots).unwrap(), ""),
            ["node_entropy_available_bits 250", "node_entropy_pool_size_bits 256"]
        );
    }
}
