//! What `/proc/cpuinfo` says of the processors (proc(5)); x86 has the most.

use super::options::CpuOptions;
use crate::family::{Family, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::collections::HashMap;

/// Line, and label of `node_cpu_info`.
const LABELS: [(&str, &str); 10] = [
    ("physical id", "package"),
    ("core id", "core"),
    ("processor", "cpu"),
    ("vendor_id", "vendor"),
    ("cpu family", "family"),
    ("model", "model"),
    ("model name", "model_name"),
    ("microcode", "microcode"),
    ("stepping", "stepping"),
    ("cache size", "cachesize"),
];

type Processor = HashMap<String, String>;

/// The lines `name : value` of each processor.
pub fn parse_cpu_info(text: &str, bad: &mut BadLines) -> Result<Vec<Processor>, ParseError> {
    let mut processors: Vec<Processor> = Vec::new();
    for line in lines(text) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        if name == "processor" {
            let number: Result<u32, _> = value.parse();
            let Some(number) = bad.keep(number.map_err(|_| ParseError::field(value, "is not a number", line))) else {
                continue;
            };
            processors.push(HashMap::from([(name.to_owned(), number.to_string())]));
        } else if let Some(processor) = processors.last_mut() {
            processor.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(processors)
}

fn families(processors: &[Processor], options: &CpuOptions) -> Vec<Family> {
    let mut info = Family::gauge("node_cpu_info", "A processor; the value is always 1.");
    let mut frequency = Family::gauge("node_cpu_frequency_hertz", "Frequency that the hardware runs at.");
    for processor in processors {
        let text = |line: &str| processor.get(line).cloned().unwrap_or_default();
        info.push(LABELS.map(|(line, label)| (label.into(), text(line).into())), 1.0);
        if let Some(megahertz) = text("cpu MHz").parse::<f64>().ok().filter(|_| options.has_frequency) {
            let labels = [
                label("package", text("physical id")),
                label("core", text("core id")),
                label("cpu", text("processor")),
            ];
            frequency.push(labels, megahertz * 1e6);
        }
    }
    let mut flags = Family::gauge(
        "node_cpu_flag_info",
        "A feature of the first processor; the value is always 1.",
    );
    let mut bugs = Family::gauge(
        "node_cpu_bug_info",
        "A known bug of the first processor; the value is always 1.",
    );
    for (family, line, name, wanted) in [
        (&mut flags, "flags", "flag", &options.flags),
        (&mut bugs, "bugs", "bug", &options.bugs),
    ] {
        let words = processors.first().and_then(|first| first.get(line));
        for word in words.into_iter().flat_map(|words| words.split_ascii_whitespace()) {
            if wanted.as_ref().is_some_and(|wanted| wanted.is_match(word)) {
                family.push([(name.into(), word.to_owned().into())], 1.0);
            }
        }
    }
    let mut families = vec![info, frequency, flags, bugs];
    families.retain(|family| !family.is_empty());
    families
}

/// No families where the file cannot be read: the times of processors do not depend on it.
pub fn read_cpu_info(roots: &Roots, options: &CpuOptions) -> Vec<Family> {
    let read: Result<Vec<Processor>, ReadError> = roots.parse_lines_once("cpuinfo", parse_cpu_info);
    match read {
        Ok(processors) => families(&processors, options),
        Err(error) => {
            tracing::debug!(%error, "processors are not described");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use regex::Regex;

    #[test]
    fn processors_flags_and_bugs_are_shown() {
        let tree = Tree::new();
        let options = CpuOptions {
            flags: Regex::new("^avx.?$").ok(),
            ..CpuOptions::default()
        };
        assert_eq!(text_of(&read_cpu_info(&tree.roots, &options), ""), [""; 0]);
        let processor = |number: &str| {
            format!(
                "processor\t: {number}\nvendor_id\t: Vendor\nmodel name\t: Name: fast\ncpu MHz\t\t: 800.5\n\
                 physical id\t: 0\ncore id\t: 7\nflags\t: fpu avx avx2 avx512f\nbugs\t: mds\n\n"
            )
        };
        tree.proc("cpuinfo", [processor("0"), processor("1")].concat());
        let families = read_cpu_info(&tree.roots, &options);
        let lines = text_of(&families, "");
        assert_eq!(text_of(&families, "node_cpu_info").len(), 2);
        assert!(lines[0].contains("core=\"7\",cpu=\"0\",vendor=\"Vendor\"") && lines[0].contains("\"Name: fast\""));
        assert_eq!(
            lines[2..],
            [
                "node_cpu_frequency_hertz{package=\"0\",core=\"7\",cpu=\"0\"} 800500000",
                "node_cpu_frequency_hertz{package=\"0\",core=\"7\",cpu=\"1\"} 800500000",
                "node_cpu_flag_info{flag=\"avx\"} 1",
                "node_cpu_flag_info{flag=\"avx2\"} 1",
            ]
        );
    }
}
