//! `sockstat`: sockets in use from `/proc/net/{sockstat,sockstat6}`.

use super::roots::{ReadError, Roots};
use crate::family::Family;

/// Protocol, figure, value, as the lines `TCP: inuse 8 orphan 0` say.
pub fn parse_sockstat(text: &str) -> Result<Vec<(String, String, f64)>, String> {
    let mut sample = Vec::new();
    for line in text.lines() {
        let bad = || format!("{line:?} is not of the form `protocol: name number …`");
        let (protocol, rest) = line.split_once(':').ok_or_else(bad)?;
        let mut fields = rest.split_ascii_whitespace();
        while let Some(name) = fields.next() {
            let value = fields.next().and_then(|value| value.parse().ok()).ok_or_else(bad)?;
            sample.push((protocol.to_owned(), name.to_owned(), value));
        }
    }
    Ok(sample)
}

pub fn read_sockstat(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let mut families = Vec::new();
    // Either may be missing, where the kernel has no IPv4 or no IPv6.
    for file in ["net/sockstat", "net/sockstat6"] {
        let sample = match roots.record(file, parse_sockstat) {
            Ok(sample) => sample,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for (protocol, name, value) in sample {
            let metric = format!("node_sockstat_{protocol}_{name}");
            if name == "mem" {
                let bytes = value * rustix::param::page_size() as f64;
                let help = format!("Memory of {protocol} sockets in bytes.");
                families.push(Family::gauge(format!("{metric}_bytes"), help).value(bytes));
            }
            families.push(Family::gauge(metric, format!("Figure {name} of {protocol} sockets.")).value(value));
        }
    }
    if families.is_empty() {
        Err(ReadError::Absent("no IP sockets"))
    } else {
        Ok(families)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

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
        assert_eq!(text_of(&read_sockstat(&tree.roots).unwrap(), ""), expected);
        assert!(parse_sockstat("TCP: inuse\n").is_err());
    }
}
