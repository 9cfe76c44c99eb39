//! `loadavg`: the three load averages of `/proc/loadavg` (proc(5)).

use super::roots::{ReadError, Roots};
use crate::family::Family;

/// Load over 1, 5 and 15 minutes.
pub fn parse_loadavg(text: &str) -> Result<[f64; 3], String> {
    let mut loads = [0.0; 3];
    let mut fields = text.split_ascii_whitespace();
    for load in &mut loads {
        let field = fields.next().unwrap_or("");
        *load = field
            .parse()
            .map_err(|_| format!("{field:?} is not a load in {text:?}"))?;
    }
    Ok(loads)
}

pub fn read_loadavg(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let loads = roots.record("loadavg", parse_loadavg)?;
    let names = ["node_load1", "node_load5", "node_load15"];
    let helps = [
        "Load average over 1 minute.",
        "Load average over 5 minutes.",
        "Load average over 15 minutes.",
    ];
    Ok(names
        .into_iter()
        .zip(helps)
        .zip(loads)
        .map(|((name, help), load)| Family::gauge(name, help).value(load))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_loads_or_a_reason() {
        assert_eq!(parse_loadavg("0.21 0.37 19.50 1/719 19737\n"), Ok([0.21, 0.37, 19.5]));
        assert!(parse_loadavg("0.21 0.37").is_err());
    }
}
