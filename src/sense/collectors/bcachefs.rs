//! `bcachefs`: file systems of that type, from `/sys/fs/bcachefs`.

use super::family_set::{FamilySet, metric_part};
use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, label};
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{
    ParseError, ReadError, if_present, list_names, or_without, read_attribute, read_number,
};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;
use std::path::{Path, PathBuf};

/// The published metrics.
const METRICS: &str = "\
    node_bcachefs_btree_cache_size_bytes node_bcachefs_btree_write_average_size_bytes \
    node_bcachefs_btree_writes_total node_bcachefs_compression_compressed_bytes \
    node_bcachefs_compression_uncompressed_bytes node_bcachefs_device_bucket_size_bytes node_bcachefs_device_buckets \
    node_bcachefs_device_durability node_bcachefs_device_info node_bcachefs_device_io_done_bytes_total \
    node_bcachefs_device_io_errors_total node_bcachefs_errors_total node_bcachefs_info node_bcachefs_*";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "bcachefs",
    Pace::IsolatedScrape,
    "file systems of type bcachefs",
    METRICS,
    |_| Box::new(read_bcachefs),
);

/// A number as bcachefs writes it, such as `2.05G`.
fn parse_human(text: &str) -> Option<f64> {
    let text = text.trim();
    let last = text.chars().last()?;
    let Some(power) = "kmgtpe".find(last.to_ascii_lowercase()) else {
        return text.parse().ok();
    };
    let mantissa: f64 = text[..text.len() - 1].trim().parse().ok()?;
    Some((mantissa * 1024f64.powi(i32::try_from(power).ok()? + 1)).trunc())
}

/// Lines of a name and numbers, of which the first two are returned; a table has a header.
fn parse_table(text: &str, bad: &mut BadLines, header: usize) -> Result<Vec<(String, f64, Option<f64>)>, ParseError> {
    let rows = lines(text).skip(header).filter(|line| !line.trim().is_empty());
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next().unwrap_or_default().trim_end_matches(':').to_owned();
        let first = fields.next().and_then(parse_human);
        let second = fields.next().map(parse_human);
        match (first, second) {
            (Some(first), Some(Some(second))) => Ok((name, first, Some(second))),
            (Some(first), None) => Ok((name, first, None)),
            _ => Err(ParseError::text(line, "is no name with numbers")),
        }
    };
    Ok(rows.filter_map(|line| bad.keep(row(line))).collect())
}

/// `name:value` in sections, of which a line without value is the head.
fn parse_sections(text: &str, bad: &mut BadLines) -> Result<Vec<(String, String, f64)>, ParseError> {
    let mut section = String::new();
    let mut values = Vec::new();
    for line in lines(text).filter(|line| !line.trim().is_empty()) {
        match line.split_once(':') {
            Some((name, value)) if !value.trim().is_empty() => {
                let value = value.trim().parse();
                let value = bad.keep(value.map_err(|_| ParseError::text(line, "has no number")));
                values.extend(value.map(|value| (section.clone(), name.trim().to_owned(), value)));
            }
            _ => section = line.trim().trim_end_matches(':').to_owned(),
        }
    }
    Ok(values)
}

fn parse_counter(text: &str, bad: &mut BadLines) -> Result<Option<f64>, ParseError> {
    let value = lines(text).find_map(|line| line.strip_prefix("since filesystem creation:"));
    let value = value.and_then(parse_human);
    Ok(bad.keep(value.ok_or_else(|| ParseError::text(text, "has no count since the creation"))))
}

/// What a file holds, or nothing where it is missing or has no good line.
fn optional<T: Default>(
    roots: &Roots,
    path: PathBuf,
    parse: impl FnOnce(&str, &mut BadLines) -> Result<T, ParseError>,
) -> Result<T, ReadError> {
    let read = if_present(or_without(roots.parse_file(path, parse)))?;
    Ok(read.flatten().unwrap_or_default())
}

fn add_device(roots: &Roots, directory: &Path, labels: &[Label], set: &mut FamilySet) -> Result<(), ReadError> {
    let text = |file: &str| read_attribute(&directory.join(file)).map(|text| text.trim().to_owned());
    let info = [
        labels,
        &[
            label("label", text("label").unwrap_or_default()),
            label("state", text("state").unwrap_or_default()),
        ],
    ];
    set.add(
        "node_bcachefs_device_info",
        "A device; the value is always 1.",
        &info.concat(),
        1.0,
    );
    if let Some(bytes) = text("bucket_size").as_deref().and_then(parse_human) {
        set.add(
            "node_bcachefs_device_bucket_size_bytes",
            "Size of a bucket of a device.",
            labels,
            bytes,
        );
    }
    if let Some(count) = read_number(&directory.join("nbuckets")) {
        set.add("node_bcachefs_device_buckets", "Buckets of a device.", labels, count);
    }
    if let Some(durability) = read_number(&directory.join("durability")) {
        set.add(
            "node_bcachefs_device_durability",
            "How many replicas a copy on a device counts as.",
            labels,
            durability,
        );
    }
    for (operation, data, bytes) in optional(roots, directory.join("io_done"), parse_sections)? {
        let labels = [labels, &[label("operation", operation), label("data_type", data)]].concat();
        let help = "Bytes read from and written to a device, by kind of data.";
        set.add("node_bcachefs_device_io_done_bytes_total", help, &labels, bytes);
    }
    let errors = optional(roots, directory.join("io_errors"), parse_sections)?;
    let since_creation = |section: &str| section.starts_with("IO errors since filesystem creation");
    for (_, kind, count) in errors.into_iter().filter(|(section, ..)| since_creation(section)) {
        let labels = [labels, &[label("type", kind)]].concat();
        set.add(
            "node_bcachefs_device_io_errors_total",
            "Errors of a device.",
            &labels,
            count,
        );
    }
    Ok(())
}

pub fn read_bcachefs(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let base = roots.sys("fs/bcachefs");
    let absent = "no file system of type bcachefs";
    let names = list_names(&base).map_err(|error| error.or_absent(absent))?;
    let mut set = FamilySet::default();
    for uuid in names {
        let directory = base.join(&uuid);
        if !directory.is_dir() {
            continue;
        }
        let uuid = [label("uuid", uuid)];
        let with = |more: Label| [uuid[0].clone(), more];
        set.add(
            "node_bcachefs_info",
            "A file system; the value is always 1.",
            &uuid,
            1.0,
        );
        if let Some(bytes) = read_attribute(&directory.join("btree_cache_size"))
            .as_deref()
            .and_then(parse_human)
        {
            let help = "Memory that cached nodes take.";
            set.add("node_bcachefs_btree_cache_size_bytes", help, &uuid, bytes);
        }
        let compression = |text: &str, bad: &mut BadLines| parse_table(text, bad, 1);
        for (algorithm, compressed, original) in optional(roots, directory.join("compression_stats"), compression)? {
            let labels = with(label("algorithm", algorithm));
            let help = "Size of compressed data.";
            set.add("node_bcachefs_compression_compressed_bytes", help, &labels, compressed);
            let help = "Size of data before it was compressed.";
            set.add(
                "node_bcachefs_compression_uncompressed_bytes",
                help,
                &labels,
                original.unwrap_or_default(),
            );
        }
        let errors = |text: &str, bad: &mut BadLines| parse_table(text, bad, 0);
        for (kind, count, _) in optional(roots, directory.join("errors"), errors)? {
            let help = "Errors of a file system by kind.";
            set.add(
                "node_bcachefs_errors_total",
                help,
                &with(label("error_type", kind)),
                count,
            );
        }
        for (kind, count, bytes) in optional(roots, directory.join("btree_write_stats"), compression)? {
            let labels = with(label("type", kind));
            set.add(
                "node_bcachefs_btree_writes_total",
                "Writes of nodes by reason.",
                &labels,
                count,
            );
            let help = "Mean size of a write of a node by reason.";
            set.add(
                "node_bcachefs_btree_write_average_size_bytes",
                help,
                &labels,
                bytes.unwrap_or_default(),
            );
        }
        let counters = directory.join("counters");
        for name in if_present(list_names(&counters))?.unwrap_or_default() {
            if let Some(count) = optional(roots, counters.join(&name), parse_counter)? {
                let help = format!("Counter {name} since the file system was created.");
                set.add(
                    format!("node_bcachefs_{}_total", metric_part(&name)),
                    help,
                    &uuid,
                    count,
                );
            }
        }
        for name in list_names(&directory)? {
            if let Some(device) = name.strip_prefix("dev-") {
                let labels = with(label("device", device.to_owned()));
                add_device(roots, &directory.join(&name), &labels, &mut set)?;
            }
        }
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn human_numbers_are_powers_of_1024() {
        for (text, expected) in [
            ("12", Some(12.0)),
            (" 1.5k\n", Some(1536.0)),
            ("2T", Some(2f64.powi(41))),
            ("x", None),
        ] {
            assert_eq!(parse_human(text), expected, "{text:?}");
        }
    }

    #[test]
    fn file_systems_and_devices_are_shown() {
        let tree = Tree::new();
        assert!(matches!(read_bcachefs(&tree.roots), Err(ReadError::Absent(_))));
        for (file, text) in [
            ("btree_cache_size", "1.5M\n"),
            (
                "compression_stats",
                "type compressed uncompressed average\nzstd 1k 3k 1k\nlz4 x y z\n",
            ),
            ("errors", "some_error   4   1700000000\n"),
            ("btree_write_stats", "   nr size\ninitial: 9 2k\n"),
            (
                "counters/data-read",
                "since mount: 1\nsince filesystem creation: 2.0k\n",
            ),
            ("dev-0/label", "fast\n"),
            ("dev-0/state", "[rw] ro\n"),
            ("dev-0/bucket_size", "512k\n"),
            ("dev-0/nbuckets", "77\n"),
            ("dev-0/io_done", "read:\nsb : 10\nwrite:\nsb : 20\n"),
            (
                "dev-0/io_errors",
                "IO errors since filesystem creation\n  read: 3\nIO errors since 8 y ago\n  read: 1\n",
            ),
        ] {
            tree.sys(&format!("fs/bcachefs/ab-1/{file}"), text);
        }
        let lines = text_of(&read_bcachefs(&tree.roots).unwrap(), "");
        let short: Vec<String> = lines
            .iter()
            .map(|line| {
                line.replace("node_bcachefs_", "")
                    .replace("uuid=\"ab-1\"", "")
                    .replace("{,", "{")
            })
            .collect();
        assert_eq!(
            short,
            [
                "info{} 1",
                "btree_cache_size_bytes{} 1572864",
                "compression_compressed_bytes{algorithm=\"zstd\"} 1024",
                "compression_uncompressed_bytes{algorithm=\"zstd\"} 3072",
                "errors_total{error_type=\"some_error\"} 4",
                "btree_writes_total{type=\"initial\"} 9",
                "btree_write_average_size_bytes{type=\"initial\"} 2048",
                "data_read_total{} 2048",
                "device_info{device=\"0\",label=\"fast\",state=\"[rw] ro\"} 1",
                "device_bucket_size_bytes{device=\"0\"} 524288",
                "device_buckets{device=\"0\"} 77",
                "device_io_done_bytes_total{device=\"0\",operation=\"read\",data_type=\"sb\"} 10",
                "device_io_done_bytes_total{device=\"0\",operation=\"write\",data_type=\"sb\"} 20",
                "device_io_errors_total{device=\"0\",type=\"read\"} 3",
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
