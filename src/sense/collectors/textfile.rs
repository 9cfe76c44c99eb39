//! `textfile`: metrics that other programs write to `*.prom` files.

pub mod precedence;
mod text_format;

use super::info::{CollectorInfo, Pace};
use crate::family::{Family, Label, SharedStr, label};
use crate::sense::runtime::kernel_file::{ParseError, ReadError, file_name, list_entries, read_regular_file};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The published metrics.
const METRICS: &str = "node_textfile_mtime_seconds node_textfile_scrape_error";

const SCRAPE_ERROR: &str = "node_textfile_scrape_error";

/// How the names begin that only evenkeel itself publishes, beside the metrics of collectors.
const RESERVED: [&str; 4] = [
    "evenkeel_",
    "node_exporter_build_info",
    "node_scrape_",
    "node_textfile_",
];

pub const INFO: CollectorInfo = CollectorInfo::on(
    "textfile",
    Pace::IsolatedScrape,
    "metrics that other programs leave in files",
    METRICS,
    |options| {
        let patterns = options.textfile_directories.clone();
        Box::new(move |_| Ok(read_textfile(&patterns)))
    },
)
.with_sources(|options| !options.textfile_directories.is_empty());

/// The directories that match a pattern; a pattern without matches is itself the directory.
fn directories(pattern: &str) -> Vec<PathBuf> {
    let found: Vec<_> = glob::glob(pattern)
        .map(|paths| paths.flatten().collect())
        .unwrap_or_default();
    if found.is_empty() { vec![pattern.into()] } else { found }
}

/// The families of a file and its modification time in seconds since the epoch.
fn read_file(path: &Path) -> Result<(Vec<Family>, f64), ReadError> {
    let (bytes, modified) = read_regular_file(path)?;
    let families = text_format::parse(&bytes).map_err(|source| ReadError::malformed(path, source))?;
    let since = modified.duration_since(UNIX_EPOCH);
    Ok((families, since.map_or(0.0, |since| since.as_secs() as f64)))
}

/// The families of all files, by name.
#[derive(Default)]
struct MergedFamilies(BTreeMap<SharedStr, MergedFamily>);

struct MergedFamily {
    family: Family,
    /// The files that have it.
    paths: Vec<String>,
    /// The label sets that it has.
    series: HashSet<Vec<Label>>,
}

impl MergedFamilies {
    /// Adds a family of a file. Of equal series the first stays.
    ///
    /// # Errors
    ///
    /// When the name is reserved, or when an earlier file gives the metric another type or another help.
    fn add(&mut self, family: Family, path: &Path) -> Result<(), &'static str> {
        if RESERVED.iter().any(|reserved| family.name.starts_with(reserved)) {
            return Err("the name is one of evenkeel's own metrics");
        }
        let merged = self.0.entry(family.name.clone()).or_insert_with(|| MergedFamily {
            family: Family::new(family.name.clone(), family.help.clone(), family.kind),
            paths: Vec::new(),
            series: HashSet::new(),
        });
        let known = &merged.family;
        if known.kind != family.kind {
            return Err("an earlier file gives the metric another type");
        }
        match (known.help.is_empty(), family.help.is_empty()) {
            (false, false) if known.help != family.help => return Err("an earlier file gives the metric another help"),
            (true, false) => merged.family = merged.family.clone().with_help(family.help.clone()),
            _ => {}
        }
        merged.paths.push(path.display().to_string());
        for point in family.points() {
            let mut key: Vec<Label> = point.labels.to_vec();
            key.retain(|(_, value)| !value.is_empty());
            key.sort_unstable();
            if merged.series.insert(key) {
                merged
                    .family
                    .push_value(point.labels.iter().cloned(), point.value.clone());
            }
        }
        Ok(())
    }

    fn into_families(self) -> impl Iterator<Item = Family> {
        self.0.into_values().map(|merged| match merged.family.help.is_empty() {
            true => merged
                .family
                .with_help(format!("Metric read from {}", merged.paths.join(", "))),
            false => merged.family,
        })
    }
}

/// The families of all valid files. An invalid file, or a family that another one contradicts, is skipped and sets
/// `node_textfile_scrape_error`.
pub fn read_textfile(patterns: &[String]) -> Vec<Family> {
    let mut merged = MergedFamilies::default();
    let mut error = 0.0;
    let mut complain = |what: ReadError| {
        tracing::debug!(error = %what, "text file is left out");
        error = 1.0;
    };
    let mut modified = Family::gauge(
        "node_textfile_mtime_seconds",
        "Unix time at which a text file was last written.",
    );
    for directory in patterns.iter().flat_map(|pattern| directories(pattern)) {
        let entries = match list_entries(&directory) {
            Ok(entries) => entries,
            Err(what) => {
                complain(what);
                continue;
            }
        };
        for path in entries.into_iter().filter(|path| file_name(path).ends_with(".prom")) {
            match read_file(&path) {
                Ok((families, at)) => {
                    for family in families {
                        let name = family.name.clone();
                        if let Err(problem) = merged.add(family, &path) {
                            complain(ReadError::malformed(&path, ParseError::text(&name, problem)));
                        }
                    }
                    modified.push([label("file", path.to_string_lossy().into_owned())], at);
                }
                Err(what) => complain(what),
            }
        }
    }
    let mut families = vec![modified, scrape_error(error)];
    families.extend(merged.into_families());
    families
}

fn scrape_error(error: f64) -> Family {
    Family::gauge(SCRAPE_ERROR, "1 where a text file could not be read.").value(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn invalid_file_is_skipped() {
        let tree = Tree::new();
        tree.host("a/good.prom", "# TYPE x gauge\nx 1\n");
        tree.host("a/other.txt", "y 1\n");
        tree.host("b/bad.prom", "good 1\nbad\n");
        let base = tree.roots.rootfs.display();
        let good = [format!("{base}/a")];
        assert_eq!(
            text_of(&read_textfile(&good), "scrape_error"),
            ["node_textfile_scrape_error 0"]
        );
        let families = read_textfile(&[format!("{base}/*")]);
        assert_eq!(text_of(&families, "x 1"), ["x 1"]);
        assert_eq!(text_of(&families, "good "), [""; 0], "nothing of a bad file");
        assert_eq!(text_of(&families, "scrape_error"), ["node_textfile_scrape_error 1"]);
        assert_eq!(
            families
                .iter()
                .find(|family| family.name == "node_textfile_mtime_seconds")
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn files_are_merged_by_name() {
        let tree = Tree::new();
        tree.host("a/1.prom", "# TYPE a gauge\na{x=\"1\"} 1\nb 1\n");
        tree.host(
            "a/2.prom",
            "# HELP a A.\n# TYPE a gauge\na{x=\"2\",y=\"\"} 2\na{y=\"\",x=\"1\"} 7\nb{x=\"2\"} 2\n",
        );
        let directory = [tree.roots.rootfs.join("a").display().to_string()];
        let families = read_textfile(&directory);
        assert_eq!(
            text_of(&families[1..], ""),
            [
                "node_textfile_scrape_error 0",
                "a{x=\"1\"} 1",
                "a{x=\"2\",y=\"\"} 2",
                "b 1",
                "b{x=\"2\"} 2"
            ]
        );
        let [one, two] = ["1", "2"].map(|name| format!("{}/{name}.prom", directory[0]));
        let helps = families[2..].iter().map(|family| family.help.to_string());
        assert_eq!(
            helps.collect::<Vec<_>>(),
            ["A.".to_owned(), format!("Metric read from {one}, {two}")]
        );
    }

    #[test]
    fn contradicting_and_reserved_families_are_left_out() {
        for (one, two, left) in [
            (
                "# HELP a A.\na 1\n",
                "# HELP a B.\na{x=\"2\"} 2\nb 3\n",
                vec!["a 1", "b 3"],
            ),
            ("# TYPE a gauge\na 1\n", "# TYPE a counter\na{x=\"2\"} 2\n", vec!["a 1"]),
            (
                "# TYPE s summary\ns_sum 1\n",
                "# TYPE s_sum gauge\ns_sum 2\n",
                vec!["s_sum 1", "s_count 0"],
            ),
            (
                "evenkeel_actuator_on 7\n",
                "node_textfile_scrape_error 9\nb 3\n",
                vec!["b 3"],
            ),
            (
                "node_scrape_collector_success{collector=\"cpu\"} 0\n",
                "b 3\n",
                vec!["b 3"],
            ),
        ] {
            let tree = Tree::new();
            tree.host("a/1.prom", one);
            tree.host("a/2.prom", two);
            let families = read_textfile(&[tree.roots.rootfs.join("a").display().to_string()]);
            let mut lines = text_of(&families[1..], "");
            assert_eq!(lines.remove(0), "node_textfile_scrape_error 1", "{one:?} {two:?}");
            lines.sort();
            let mut left = left;
            left.sort_unstable();
            assert_eq!(lines, left, "{one:?} {two:?}");
            assert_eq!(families[0].len(), 2, "both files were read");
        }
    }

    #[test]
    fn file_name_may_be_any_bytes() {
        let tree = Tree::new();
        tree.host("a/good.prom", "");
        let folder = tree.roots.rootfs.join("a");
        std::fs::write(folder.join(OsStr::from_bytes(b"w\xff.prom")), "x 1\n").unwrap();
        let families = read_textfile(&[folder.display().to_string()]);
        assert_eq!(text_of(&families, "x 1"), ["x 1"]);
        assert!(text_of(&families, "mtime")[1].contains("w\u{fffd}.prom"));
    }

    #[test]
    fn missing_directory_and_pipe_are_errors() {
        let tree = Tree::new();
        tree.host("a/keep", "");
        let directory = tree.roots.rootfs.join("a");
        nix::unistd::mkfifo(&directory.join("pipe.prom"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (patterns, error) in [
            (vec![], "0"),
            (vec!["/nowhere/at/all".to_owned()], "1"),
            (vec![directory.display().to_string()], "1"),
        ] {
            let lines = text_of(&read_textfile(&patterns), "scrape_error");
            assert_eq!(lines, [format!("node_textfile_scrape_error {error}")], "{patterns:?}");
        }
    }
}
