//! `sysctl`: the settings of the kernel that the flags name, from `/proc/sys`.

pub(in crate::sense) mod setting;

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, MetricKind, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError, or_without};
use crate::sense::runtime::roots::Roots;
use setting::Sysctl;

/// The published metrics. The names of settings are the rest.
const METRICS: &str = "node_sysctl_info node_sysctl_*";

pub const INFO: CollectorInfo = CollectorInfo::off(
    "sysctl",
    Pace::Scrape,
    "settings of the kernel that flags name",
    METRICS,
    |options| {
        let settings = options.sysctls.clone();
        Box::new(move |roots| read_sysctl(roots, &settings))
    },
);

fn add(setting: &Sysctl, text: &str, set: &mut FamilySet) -> Result<(), ParseError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        return Err(ParseError::File("has no value"));
    }
    if setting.is_text {
        for (index, word) in words.iter().enumerate() {
            let labels = [
                label("name", setting.name.clone()),
                label("value", (*word).to_owned()),
                label("index", index.to_string()),
            ];
            set.add(
                "node_sysctl_info",
                "A setting in words; the value is always 1.",
                &labels,
                1.0,
            );
        }
        return Ok(());
    }
    if !setting.keys.is_empty() && setting.keys.len() != words.len() {
        return Err(ParseError::text(
            text,
            "has another number of values than the flag has names",
        ));
    }
    let numbers = words.iter().map(|word| word.parse::<i64>().map(|number| number as f64));
    let numbers: Vec<f64> = numbers
        .collect::<Result<_, _>>()
        .map_err(|_| ParseError::text(text, "is not a number"))?;
    let metric = format!("node_sysctl_{}", metric_part(&setting.name));
    let help = format!("Setting {}.", setting.name);
    for (index, number) in numbers.iter().enumerate() {
        let (name, labels) = match setting.keys.get(index) {
            Some(key) => (format!("{metric}_{}", metric_part(key)), vec![]),
            None if numbers.len() == 1 => (metric.clone(), vec![]),
            None => (metric.clone(), vec![label("index", index.to_string())]),
        };
        set.add_as(MetricKind::Untyped, name, help.clone(), &labels, *number);
    }
    Ok(())
}

pub fn read_sysctl(roots: &Roots, settings: &[Sysctl]) -> Result<Vec<Family>, ReadError> {
    let mut set = FamilySet::default();
    for setting in settings {
        let parse = |text: &str, bad: &mut BadLines| {
            bad.keep(add(setting, text, &mut set));
            Ok(())
        };
        or_without(roots.parse_lines_once(&setting.path(), parse))?;
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn values_are_numbered_named_or_words() {
        let tree = Tree::new();
        tree.proc("sys/fs/file-nr", "1024\t0\t99\n");
        tree.proc("sys/kernel/threads-max", "7801\n");
        tree.proc("sys/kernel/words", "allow log\n");
        tree.proc("sys/kernel/bad", "x\n");
        let number = |text: &str| Sysctl::parse(text, false).unwrap();
        let settings = [
            number("fs.file-nr:total,current,max"),
            number("kernel.threads-max"),
            number("kernel.bad"),
            Sysctl::parse("kernel.words", true).unwrap(),
        ];
        let families = read_sysctl(&tree.roots, &settings).unwrap();
        assert_eq!(families[0].kind, MetricKind::Untyped);
        assert_eq!(
            text_of(&families, ""),
            [
                "node_sysctl_fs_file_nr_total 1024",
                "node_sysctl_fs_file_nr_current 0",
                "node_sysctl_fs_file_nr_max 99",
                "node_sysctl_kernel_threads_max 7801",
                "node_sysctl_info{name=\"kernel.words\",value=\"allow\",index=\"0\"} 1",
                "node_sysctl_info{name=\"kernel.words\",value=\"log\",index=\"1\"} 1",
            ]
        );
        assert_eq!(
            text_of(&read_sysctl(&tree.roots, &[number("fs.file-nr")]).unwrap(), "")[1],
            "node_sysctl_fs_file_nr{index=\"1\"} 0"
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
        let too_few = read_sysctl(&tree.roots, &[number("fs.file-nr:total")]);
        assert_eq!(text_of(&too_few.unwrap(), ""), [""; 0]);
    }
}
