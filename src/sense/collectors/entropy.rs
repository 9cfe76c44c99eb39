//! `entropy`: bits in the kernel's entropy pool, from `/proc/sys/kernel/random`.

use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::{ReadError, parse_number, read_record};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_entropy_available_bits node_entropy_pool_size_bits";

pub const INFO: CollectorInfo =
    CollectorInfo::on("entropy", Pace::Slow, "entropy", METRICS, |_| Box::new(read_entropy));

pub fn read_entropy(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let read = |file: &str| read_record(&roots.proc(&format!("sys/kernel/random/{file}")), parse_number);
    Ok(vec![
        Family::gauge("node_entropy_available_bits", "Bits of entropy at hand.").value(read("entropy_avail")?),
        Family::gauge("node_entropy_pool_size_bits", "Bits that the entropy pool holds.").value(read("poolsize")?),
    ])
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
