//! `vmstat`: chosen lines of `/proc/vmstat` (proc(5)).

use super::fields::Fields;
use super::roots::{ReadError, Roots};
use crate::family::{Family, Kind};

/// Names and values of the lines that are wanted.
pub fn parse_vmstat(text: &str, wanted: &mut Fields) -> Result<Vec<(String, f64)>, String> {
    let mut sample = Vec::new();
    for line in text.lines() {
        let (name, value) = line
            .split_once(' ')
            .ok_or_else(|| format!("{line:?} is not of the form `name number`"))?;
        if wanted.allows(name) {
            let value = value
                .trim()
                .parse::<f64>()
                .map_err(|_| format!("{value:?} of {name} is not a number"))?;
            sample.push((name.to_owned(), value));
        }
    }
    Ok(sample)
}

pub fn read_vmstat(roots: &Roots, wanted: &mut Fields) -> Result<Vec<Family>, ReadError> {
    let sample = roots.parsed("vmstat", |text| parse_vmstat(text, wanted))?;
    let family = |(name, value): (String, f64)| {
        let help = ["The line ", &name, " of /proc/vmstat."].concat();
        Family::new(["node_vmstat_", &name].concat(), help, Kind::Untyped).value(value)
    };
    Ok(sample.into_iter().map(family).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn only_what_is_wanted_is_read() {
        let mut wanted = Fields::new(Regex::new("^(oom_kill|pg.*fault).*").unwrap());
        let sample = parse_vmstat(
            "nr_free_pages broken\npgfault 7\npgmajfault 2\noom_kill 1\n",
            &mut wanted,
        )
        .unwrap();
        assert_eq!(
            sample,
            [("pgfault", 7.0), ("pgmajfault", 2.0), ("oom_kill", 1.0)].map(|(n, v)| (n.to_owned(), v))
        );
        assert!(
            parse_vmstat("pgfault x\n", &mut wanted)
                .unwrap_err()
                .contains("pgfault")
        );
    }
}
