//! `cpu_vulnerabilities`: known weaknesses of the processor, from `/sys/devices/system/cpu/vulnerabilities`.

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, list_names, read_attribute};
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "node_cpu_vulnerabilities_info";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "cpu_vulnerabilities",
    Pace::Slow,
    "weaknesses of the processor",
    METRICS,
    |_| Box::new(read_cpu_vulnerabilities),
);

/// State and mitigation: `Mitigation: PTI` is `mitigation` by `PTI`. A text that is not known is shown whole.
fn parse_vulnerability(text: &str) -> (&'static str, String) {
    let text = text.trim();
    let lower = text.to_lowercase();
    if lower.starts_with("not affected") {
        return ("not affected", String::new());
    }
    let states = ["vulnerable", "mitigation", "unknown"];
    let Some(state) = states.into_iter().find(|state| lower.starts_with(state)) else {
        return ("unknown", text.to_owned());
    };
    let rest: Vec<&str> = text.split_whitespace().skip(1).collect();
    (state, rest.join(" "))
}

pub fn read_cpu_vulnerabilities(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("devices/system/cpu/vulnerabilities");
    let names = list_names(&base).map_err(|error| error.or_absent("no list of weaknesses"))?;
    let mut family = Family::gauge("node_cpu_vulnerabilities_info", "A weakness; the value is always 1.");
    for name in names {
        let Some(text) = read_attribute(&base.join(&name)) else {
            continue;
        };
        let (state, mitigation) = parse_vulnerability(&text);
        let labels = [
            label("codename", name),
            label("state", state),
            label("mitigation", mitigation),
        ];
        family.push(labels, 1.0);
    }
    Ok(vec![family])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn states_and_mitigations_are_told_apart() {
        for (text, expected) in [
            ("Not affected\n", ("not affected", "")),
            ("Vulnerable: No microcode\n", ("vulnerable", "No microcode")),
            ("Mitigation: PTI; SMT  off\n", ("mitigation", "PTI; SMT off")),
            ("Processor vulnerable\n", ("unknown", "Processor vulnerable")),
        ] {
            let (state, mitigation) = parse_vulnerability(text);
            assert_eq!((state, mitigation.as_str()), expected, "{text}");
        }
        let tree = Tree::new();
        tree.sys("devices/system/cpu/vulnerabilities/mds", "Vulnerable\n");
        assert_eq!(
            text_of(&read_cpu_vulnerabilities(&tree.roots).unwrap(), ""),
            ["node_cpu_vulnerabilities_info{codename=\"mds\",state=\"vulnerable\",mitigation=\"\"} 1"]
        );
    }
}
