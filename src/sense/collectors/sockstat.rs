//! `sockstat`: sockets in use from `/proc/net/{sockstat,sockstat6}`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Descriptor, Family, MetricKind};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{FileLayout, ParseError, ReadError, if_present, or_without};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::name_cache::NameCache;
use crate::sense::runtime::roots::Roots;
use std::sync::Arc;

/// The published metrics.
const METRICS: &str = "\
    node_sockstat_FRAG6_inuse node_sockstat_FRAG6_memory node_sockstat_FRAG_inuse node_sockstat_FRAG_memory \
    node_sockstat_RAW6_inuse node_sockstat_RAW_inuse node_sockstat_TCP6_inuse node_sockstat_TCP_alloc \
    node_sockstat_TCP_inuse node_sockstat_TCP_mem node_sockstat_TCP_mem_bytes node_sockstat_TCP_orphan \
    node_sockstat_TCP_tw node_sockstat_UDP6_inuse node_sockstat_UDPLITE6_inuse node_sockstat_UDPLITE_inuse \
    node_sockstat_UDP_inuse node_sockstat_UDP_mem node_sockstat_UDP_mem_bytes node_sockstat_sockets_used \
    node_sockstat_*";

pub const INFO: CollectorInfo = CollectorInfo::on("sockstat", Pace::Fast, "sockets in use", METRICS, |_| {
    let mut sockstat = Sockstat::default();
    Box::new(move |roots| sockstat.read(roots))
});

struct Protocol {
    name: String,
    figures: NameCache<SocketFigure>,
}

/// The descriptors of a figure: as the kernel counts it, and in bytes where it counts pages.
struct SocketFigure {
    plain: Arc<Descriptor>,
    in_bytes: Option<Arc<Descriptor>>,
}

fn figure(protocol: &str, name: &str) -> SocketFigure {
    let metric = format!("node_sockstat_{protocol}_{name}");
    let in_bytes = || {
        let help = format!("Memory of {protocol} sockets in bytes.");
        Descriptor::single(format!("{metric}_bytes"), help, MetricKind::Gauge)
    };
    SocketFigure {
        in_bytes: (name == "mem").then(in_bytes),
        plain: Descriptor::single(
            metric,
            format!("Figure {name} of {protocol} sockets."),
            MetricKind::Gauge,
        ),
    }
}

/// Parses lines like `TCP: inuse 8 orphan 0`.
fn parse_sockstat(
    text: &str,
    bad: &mut BadLines,
    name_cache: &mut NameCache<Protocol>,
) -> Result<Vec<Family>, ParseError> {
    let mut families = Vec::with_capacity(20);
    name_cache.rewind();
    for line in lines(text) {
        let before = families.len();
        if bad.keep(parse_protocol(line, name_cache, &mut families)).is_none() {
            families.truncate(before);
        }
    }
    Ok(families)
}

fn parse_protocol(
    line: &str,
    name_cache: &mut NameCache<Protocol>,
    families: &mut Vec<Family>,
) -> Result<(), ParseError> {
    let bad = || ParseError::text(line, "is not of the form `protocol: name number …`");
    let make = |name: &str| Protocol {
        name: name.to_owned(),
        figures: NameCache::default(),
    };
    let (Protocol { name, figures }, mut rest) = name_cache.next(line, ':', make).ok_or_else(bad)?;
    figures.rewind();
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(());
        }
        let (figure, after) = figures
            .next(rest, ' ', |figure_name| figure(name, figure_name))
            .ok_or_else(bad)?;
        let (value, after) = after.split_once(' ').unwrap_or((after, ""));
        let value: f64 = value.parse().map_err(|_| bad())?;
        if let Some(in_bytes) = &figure.in_bytes {
            families.push(in_bytes.family([value * rustix::param::page_size() as f64]));
        }
        families.push(figure.plain.family([value]));
        rest = after;
    }
}

/// The state between two reads: a cache per file of protocols and their figures.
#[derive(Default)]
pub struct Sockstat([NameCache<Protocol>; 2]);

impl Sockstat {
    pub fn read(&mut self, roots: &Roots) -> Result<Vec<Family>, ReadError> {
        let mut families = Vec::new();
        let mut is_there = false;
        // Either file is missing where the kernel lacks IPv4 or IPv6.
        for (path, name_cache) in ["net/sockstat", "net/sockstat6"].into_iter().zip(&mut self.0) {
            let parse = |text: &str, bad: &mut BadLines| parse_sockstat(text, bad, name_cache);
            let sockets = or_without(roots.parse_lines(path, FileLayout::Record, parse));
            if let Some(sockets) = if_present(sockets)? {
                is_there = true;
                families.extend(sockets.into_iter().flatten());
            }
        }
        if is_there {
            Ok(families)
        } else {
            Err(ReadError::Absent("no IP sockets"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, parsed, text_of};

    #[test]
    fn memory_is_shown_in_bytes_too() {
        let tree = Tree::new();
        tree.proc(
            "net/sockstat",
            "sockets: used 22\nTCP: inuse 8 mem 2\nFRAG: inuse 0 memory 5\n",
        );
        let page = rustix::param::page_size();
        let expected = [
            "node_sockstat_sockets_used 22".to_owned(),
            "node_sockstat_TCP_inuse 8".to_owned(),
            format!("node_sockstat_TCP_mem_bytes {}", page * 2),
            "node_sockstat_TCP_mem 2".to_owned(),
            "node_sockstat_FRAG_inuse 0".to_owned(),
            "node_sockstat_FRAG_memory 5".to_owned(),
        ];
        let mut sockstat = Sockstat::default();
        for _ in 0..2 {
            assert_eq!(text_of(&sockstat.read(&tree.roots).unwrap(), ""), expected);
        }
        // The same figures of another protocol, and other figures of the same.
        tree.proc("net/sockstat", "sockets: used 22\nUDP: inuse 8 mem 2\nFRAG: memory 5\n");
        let expected = [
            "node_sockstat_sockets_used 22".to_owned(),
            "node_sockstat_UDP_inuse 8".to_owned(),
            format!("node_sockstat_UDP_mem_bytes {}", page * 2),
            "node_sockstat_UDP_mem 2".to_owned(),
            "node_sockstat_FRAG_memory 5".to_owned(),
        ];
        assert_eq!(text_of(&sockstat.read(&tree.roots).unwrap(), ""), expected);
        for torn in ["TCP: inuse\n", "TCP: inuse x\n", "TCP\n"] {
            assert!(
                parsed(torn, |text, bad| parse_sockstat(text, bad, &mut NameCache::default())).is_err(),
                "{torn:?}"
            );
        }
    }
}
