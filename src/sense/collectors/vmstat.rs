//! `vmstat`: selected lines of `/proc/vmstat` (proc(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, MetricKind};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::name_cache::NameCache;
use crate::sense::runtime::roots::Roots;
use regex::Regex;
use std::sync::Arc;

/// The published metrics.
const METRICS: &str = "\
    node_vmstat_oom_kill node_vmstat_pgfault node_vmstat_pgmajfault node_vmstat_pgpgin node_vmstat_pgpgout \
    node_vmstat_pswpin node_vmstat_pswpout node_vmstat_*";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "vmstat",
    Pace::Fast,
    "paging and out-of-memory kills",
    METRICS,
    |options| {
        let mut vmstat = Vmstat::new(options.vmstat_fields.clone());
        Box::new(move |roots| vmstat.read(roots))
    },
);

fn parse_vmstat(
    text: &str,
    bad: &mut BadLines,
    wanted: &Regex,
    descriptors: &mut NameCache<Option<Arc<Descriptor>>>,
) -> Result<Vec<Family>, ParseError> {
    let descriptor = |name: &str| {
        wanted.is_match(name).then(|| {
            let help = ["The line ", name, " of /proc/vmstat."].concat();
            Descriptor::single(["node_vmstat_", name].concat(), help, MetricKind::Untyped)
        })
    };
    let mut families = Vec::with_capacity(16);
    descriptors.rewind();
    let mut parse_line = |line: &str| {
        let (descriptor, value) = descriptors
            .next(line, ' ', descriptor)
            .ok_or_else(|| ParseError::text(line, "is not of the form `name number`"))?;
        let Some(descriptor) = descriptor else {
            return Ok(None);
        };
        let value: f64 = value
            .trim()
            .parse()
            .map_err(|_| ParseError::text(line, "does not end in a number"))?;
        Ok(Some(descriptor.family([value])))
    };
    families.extend(lines(text).filter_map(|line| bad.keep(parse_line(line)).flatten()));
    Ok(families)
}

/// The state between two reads.
pub struct Vmstat {
    wanted: Regex,
    descriptors: NameCache<Option<Arc<Descriptor>>>,
}

impl Vmstat {
    /// Shows the lines whose names are `wanted`.
    pub fn new(wanted: Regex) -> Self {
        Vmstat {
            wanted,
            descriptors: NameCache::default(),
        }
    }

    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        roots.parse_lines("vmstat", FileLayout::Rows, |text, bad| {
            parse_vmstat(text, bad, &self.wanted, &mut self.descriptors)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{parsed, text_of};

    #[test]
    fn only_selected_lines_are_read() {
        let wanted = Regex::new("^(oom_kill|pg.*fault).*").unwrap();
        let mut descriptors = NameCache::default();
        let mut parse = |text: &str| parsed(text, |text, bad| parse_vmstat(text, bad, &wanted, &mut descriptors));
        let text = "nr_free_pages broken\npgfault 7\npgmajfault 2\noom_kill 1\n";
        let expected = [
            "node_vmstat_pgfault 7",
            "node_vmstat_pgmajfault 2",
            "node_vmstat_oom_kill 1",
        ];
        for _ in 0..2 {
            assert_eq!(text_of(&parse(text).unwrap(), ""), expected);
        }
        assert!(parse("pgfault x\n").unwrap_err().to_string().contains("pgfault"));
    }
}
