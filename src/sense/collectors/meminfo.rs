//! `meminfo`: every line of `/proc/meminfo` (proc(5)) as a gauge.

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, MetricKind};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::name_cache::NameCache;
use crate::sense::runtime::roots::Roots;
use std::sync::Arc;

/// The published metrics.
const METRICS: &str = "\
    node_memory_Active_anon_bytes node_memory_Active_bytes node_memory_Active_file_bytes \
    node_memory_AnonHugePages_bytes node_memory_AnonPages_bytes node_memory_Balloon_bytes node_memory_Bounce_bytes \
    node_memory_Buffers_bytes node_memory_Cached_bytes node_memory_CmaFree_bytes node_memory_CmaTotal_bytes \
    node_memory_CommitLimit_bytes node_memory_Committed_AS_bytes node_memory_DirectMap1G_bytes \
    node_memory_DirectMap2M_bytes node_memory_DirectMap4k_bytes node_memory_Dirty_bytes \
    node_memory_FileHugePages_bytes node_memory_FilePmdMapped_bytes node_memory_HardwareCorrupted_bytes \
    node_memory_HugePages_Free node_memory_HugePages_Rsvd node_memory_HugePages_Surp node_memory_HugePages_Total \
    node_memory_Hugepagesize_bytes node_memory_Hugetlb_bytes node_memory_Inactive_anon_bytes \
    node_memory_Inactive_bytes node_memory_Inactive_file_bytes node_memory_KReclaimable_bytes \
    node_memory_KernelStack_bytes node_memory_Mapped_bytes node_memory_MemAvailable_bytes node_memory_MemFree_bytes \
    node_memory_MemTotal_bytes node_memory_Mlocked_bytes node_memory_NFS_Unstable_bytes node_memory_PageTables_bytes \
    node_memory_Percpu_bytes node_memory_SReclaimable_bytes node_memory_SUnreclaim_bytes \
    node_memory_SecPageTables_bytes node_memory_ShmemHugePages_bytes node_memory_ShmemPmdMapped_bytes \
    node_memory_Shmem_bytes node_memory_Slab_bytes node_memory_SwapCached_bytes node_memory_SwapFree_bytes \
    node_memory_SwapTotal_bytes node_memory_Unevictable_bytes node_memory_VmallocChunk_bytes \
    node_memory_VmallocTotal_bytes node_memory_VmallocUsed_bytes node_memory_WritebackTmp_bytes \
    node_memory_Writeback_bytes node_memory_Zswap_bytes node_memory_Zswapped_bytes node_memory_*";

pub const INFO: CollectorInfo = CollectorInfo::on("meminfo", Pace::Fast, "memory", METRICS, |_| {
    let mut meminfo = Meminfo::default();
    Box::new(move |roots| meminfo.read(roots))
});

/// The descriptors of a line without and with a unit, because the name does not say which.
type Names = NameCache<[Arc<Descriptor>; 2]>;

fn descriptors(name: &str) -> [Arc<Descriptor>; 2] {
    // Active(anon) -> Active_anon
    let name = match name.trim().split_once('(') {
        Some((before, within)) => [before, "_", &within.replace(')', "")].concat(),
        None => name.trim().to_owned(),
    };
    let descriptor = |name: &str| {
        let help = ["The line ", name, " of /proc/meminfo."].concat();
        Descriptor::single(["node_memory_", name].concat(), help, MetricKind::Gauge)
    };
    [descriptor(&name), descriptor(&[&name, "_bytes"].concat())]
}

/// A gauge per line; in bytes where the line has a unit.
fn parse_meminfo(text: &str, bad: &mut BadLines, name_cache: &mut Names) -> Result<Vec<Family>, ParseError> {
    let mut families = Vec::with_capacity(64);
    name_cache.rewind();
    let lines = lines(text).filter(|line| !line.is_empty());
    families.extend(lines.filter_map(|line| bad.keep(parse_line(line, name_cache))));
    if families.is_empty() {
        Err(ParseError::File("the file is empty"))
    } else {
        Ok(families)
    }
}

fn parse_line(line: &str, name_cache: &mut Names) -> Result<Family, ParseError> {
    let bad = || ParseError::text(line, "is not of the form `name: number [kB]`");
    let ([plain, in_bytes], rest) = name_cache.next(line, ':', descriptors).ok_or_else(bad)?;
    let mut fields = rest.split_ascii_whitespace();
    let value: u64 = fields.next().and_then(|field| field.parse().ok()).ok_or_else(bad)?;
    Ok(match fields.next() {
        Some("kB") => in_bytes.family([value as f64 * 1024.0]),
        _ => plain.family([value as f64]),
    })
}

/// Reads only `MemAvailable`, in bytes, for a cheap poll. `None` where it cannot be read; kernels before 3.14 lack it.
pub fn read_available_bytes(roots: &Roots) -> Option<u64> {
    let parse = |text: &str| Ok(available_bytes(text));
    roots.parse("meminfo", FileLayout::Record, parse).ok()?
}

fn available_bytes(text: &str) -> Option<u64> {
    bytes(text, "MemAvailable:")
}

/// Share of memory that is not available to new programs, 0 to 1. `None` on kernels before 3.14, because an estimate
/// would be wrong.
pub fn used_ratio(text: &str) -> Option<f64> {
    let (total, available) = (bytes(text, "MemTotal:")?, available_bytes(text)?);
    (total > 0).then(|| (1.0 - available as f64 / total as f64).clamp(0.0, 1.0))
}

fn bytes(text: &str, name: &str) -> Option<u64> {
    let rest = lines(text).find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The state between two reads.
#[derive(Default)]
pub struct Meminfo(Names);

impl Meminfo {
    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        roots.parse_lines("meminfo", FileLayout::Record, |text, bad| {
            parse_meminfo(text, bad, &mut self.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{parsed, text_of};

    #[test]
    fn parentheses_and_units_go_into_the_name() {
        let mut names = Names::default();
        let mut shown = |text: &str| {
            parsed(text, |text, bad| parse_meminfo(text, bad, &mut names)).map(|families| text_of(&families, ""))
        };
        assert_eq!(
            shown("MemTotal:  2 kB\nActive(anon):  1 kB\nHugePages_Total:  7\n").unwrap(),
            [
                "node_memory_MemTotal_bytes 2048",
                "node_memory_Active_anon_bytes 1024",
                "node_memory_HugePages_Total 7",
            ]
        );
        assert_eq!(available_bytes("MemTotal:  9 kB\nMemAvailable:   2 kB\n"), Some(2048));
        assert_eq!(available_bytes("MemTotal:  9 kB\n"), None);
        assert_eq!(used_ratio("MemTotal:  8 kB\nMemAvailable:   2 kB\n"), Some(0.75));
        assert_eq!(used_ratio("MemTotal:  8 kB\nMemAvailable:   9 kB\n"), Some(0.0));
        assert_eq!(used_ratio("MemTotal:  9 kB\n"), None);
        assert_eq!(used_ratio("MemTotal:  0 kB\nMemAvailable:   0 kB\n"), None);
        for bad in ["", "MemTotal 5 kB\n", "MemTotal: lots kB\n"] {
            assert!(shown(bad).is_err(), "{bad:?}");
        }
    }
}
