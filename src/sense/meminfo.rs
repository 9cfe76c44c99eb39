//! `meminfo`: every line of `/proc/meminfo` (proc(5)) as a gauge.

use super::roots::{ReadError, Roots};
use crate::family::Family;

/// Metric name after `node_memory_`, and its value; bytes where the kernel names a unit.
pub type MeminfoSample = Vec<(String, f64)>;

pub fn parse_meminfo(text: &str) -> Result<MeminfoSample, String> {
    let mut sample = MeminfoSample::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || format!("{line:?} is not of the form `name: number [kB]`");
        let (name, rest) = line.split_once(':').ok_or_else(bad)?;
        let mut fields = rest.split_ascii_whitespace();
        let value: u64 = fields.next().and_then(|field| field.parse().ok()).ok_or_else(bad)?;
        // Active(anon) -> Active_anon
        let mut name = match name.trim().split_once('(') {
            Some((before, within)) => [before, "_", &within.replace(')', "")].concat(),
            None => name.trim().to_owned(),
        };
        sample.push(match fields.next() {
            Some("kB") => {
                name.push_str("_bytes");
                (name, value as f64 * 1024.0)
            }
            _ => (name, value as f64),
        });
    }
    if sample.is_empty() {
        Err("the file is empty".to_owned())
    } else {
        Ok(sample)
    }
}

pub fn read_meminfo(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let sample = roots.record("meminfo", parse_meminfo)?;
    Ok(sample
        .into_iter()
        .map(|(name, value)| {
            // Fifty lines each second: `concat` allocates once, where `format!` grows.
            Family::gauge(
                ["node_memory_", &name].concat(),
                ["The line ", &name, " of /proc/meminfo."].concat(),
            )
            .value(value)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_and_units_go_into_the_name() {
        let sample = parse_meminfo("MemTotal:  2 kB\nActive(anon):  1 kB\nHugePages_Total:  7\n").unwrap();
        let expected = [
            ("MemTotal_bytes", 2048.0),
            ("Active_anon_bytes", 1024.0),
            ("HugePages_Total", 7.0),
        ];
        assert_eq!(sample, expected.map(|(name, value)| (name.to_owned(), value)));
        for bad in ["", "MemTotal 5 kB\n", "MemTotal: lots kB\n"] {
            assert!(parse_meminfo(bad).is_err(), "{bad:?}");
        }
    }
}
