//! `os`: the distribution, from `os-release` (os-release(5)).

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, label};
use crate::sense::runtime::kernel_file::{ReadError, read_text};
use crate::sense::runtime::roots::Roots;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::collections::HashMap;
use std::path::Path;

/// The published metrics.
const METRICS: &str = "node_os_info node_os_support_end_timestamp_seconds node_os_version";

pub const INFO: CollectorInfo = CollectorInfo::on("os", Pace::Slow, "distribution", METRICS, |_| Box::new(read_os));

const LABELS: [(&str, &str); 12] = [
    ("build_id", "BUILD_ID"),
    ("id", "ID"),
    ("id_like", "ID_LIKE"),
    ("image_id", "IMAGE_ID"),
    ("image_version", "IMAGE_VERSION"),
    ("name", "NAME"),
    ("pretty_name", "PRETTY_NAME"),
    ("variant", "VARIANT"),
    ("variant_id", "VARIANT_ID"),
    ("version", "VERSION"),
    ("version_codename", "VERSION_CODENAME"),
    ("version_id", "VERSION_ID"),
];

/// Variables of a file of shell assignments, without expansion.
pub fn parse_os_release(text: &str) -> HashMap<String, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), unquote(value)))
        .collect()
}

fn unquote(value: &str) -> String {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(literal) = inner('\'') {
        return literal.to_owned();
    }
    let mut plain = String::with_capacity(value.len());
    let mut characters = inner('"').unwrap_or(value).chars();
    while let Some(character) = characters.next() {
        // In double quotes a backslash escapes the next character.
        plain.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    plain
}

/// `12` of `12`, `9.3` of `9.3.1`, `None` of `rolling`.
fn major_minor(version: &str) -> Option<f64> {
    let mut dots = 0;
    let end = version
        .find(|character: char| {
            dots += usize::from(character == '.');
            !(character.is_ascii_digit() || (character == '.' && dots == 1))
        })
        .unwrap_or(version.len());
    version[..end].trim_end_matches('.').parse().ok()
}

/// The Unix time at which a day such as `2028-06-30` begins in UTC.
fn support_end(day: &str) -> Option<f64> {
    let begin = day.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(begin.timestamp().as_second() as f64)
}

pub fn read_os(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let read = |path| read_text(&roots.host(Path::new(path)));
    let text = match read("/etc/os-release") {
        Err(error) if error.is_not_found() => read("/usr/lib/os-release"),
        other => other,
    };
    let variables = parse_os_release(&text.map_err(|error| error.or_absent("no os-release file"))?);
    let get = |key: &str| variables.get(key).cloned().unwrap_or_default();

    let mut info = Family::gauge(
        "node_os_info",
        "The distribution as os-release names it; the value is always 1.",
    );
    info.push(LABELS.into_iter().map(|(name, key)| label(name, get(key))), 1.0);
    let mut families = vec![info];
    if let Some(version) = major_minor(&get("VERSION_ID")).filter(|version| *version > 0.0) {
        let mut family = Family::gauge("node_os_version", "Major and minor part of the distribution's version.");
        family.push(
            ["id", "id_like", "name"].map(|name| label(name, get(&name.to_uppercase()))),
            version,
        );
        families.push(family);
    }
    if let Some(end) = support_end(&get("SUPPORT_END")) {
        let help = "Unix time at which the support of the distribution ends.";
        families.push(Family::gauge("node_os_support_end_timestamp_seconds", help).value(end));
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn quotes_follow_the_shell() {
        let variables = parse_os_release("# no\nA=plain\nB=\"a \\\"b\\\" \\\\\"\nC='it\\s'\n\nD=\nbroken\n");
        for (name, value) in [("A", "plain"), ("B", "a \"b\" \\"), ("C", "it\\s"), ("D", "")] {
            assert_eq!(variables[name], value, "{name}");
        }
        assert_eq!(variables.len(), 4);
    }

    #[test]
    fn version_is_its_first_two_numbers() {
        for (text, expected) in [
            ("12", Some(12.0)),
            ("9.3.1", Some(9.3)),
            ("22.04 LTS", Some(22.04)),
            ("8.", Some(8.0)),
            ("", None),
            ("sid", None),
        ] {
            assert_eq!(major_minor(text), expected, "{text:?}");
        }
    }

    #[test]
    fn second_path_is_tried_and_version_is_optional() {
        let tree = Tree::new();
        assert!(matches!(read_os(&tree.roots), Err(ReadError::Absent(_))));
        tree.host("/usr/lib/os-release", "ID=arch\nNAME=Arch\n");
        let families = read_os(&tree.roots).unwrap();
        assert_eq!(families.len(), 1);
        tree.host(
            "/etc/os-release",
            "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nSUPPORT_END=2028-06-30\n",
        );
        let families = read_os(&tree.roots).unwrap();
        assert_eq!(
            text_of(&families, "support_end"),
            ["node_os_support_end_timestamp_seconds 1845936000"]
        );
        assert_eq!(
            text_of(&families, "version{"),
            ["node_os_version{id=\"debian\",id_like=\"\",name=\"Debian GNU/Linux\"} 12"]
        );
    }
}
