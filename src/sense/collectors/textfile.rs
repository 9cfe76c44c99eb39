//! `textfile`: metrics that other programs write to `*.prom` files.

use super::info::{CollectorInfo, Pace};
use crate::sense::runtime::kernel_file::{ParseError, ReadError, file_name, list_entries, read_text};
mod text_format;

use crate::family::{Family, label};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The published metrics.
const METRICS: &str = "node_textfile_mtime_seconds node_textfile_scrape_error";

pub const INFO: CollectorInfo = CollectorInfo::on(
    "textfile",
    Pace::Slow,
    "metrics that other programs leave in files",
    METRICS,
    |options| {
        let patterns = options.textfile_directories.clone();
        Box::new(move |_| Ok(read_textfile(&patterns)))
    },
);

/// The directories that match a pattern; a pattern without matches is itself the directory.
fn directories(pattern: &str) -> Vec<PathBuf> {
    let found: Vec<_> = glob::glob(pattern)
        .map(|paths| paths.flatten().collect())
        .unwrap_or_default();
    if found.is_empty() { vec![pattern.into()] } else { found }
}

/// The families of a file and its modification time in seconds since the epoch.
fn read_file(path: &Path) -> Result<(Vec<Family>, f64), ReadError> {
    let metadata = fs::metadata(path).map_err(|source| ReadError::io(path, source))?;
    // Opening a pipe would block until a writer opens it.
    if !metadata.is_file() {
        return Err(ReadError::malformed(path, ParseError::File("is not a regular file")));
    }
    let text = read_text(path)?;
    let families = text_format::parse(&text).map_err(|source| ReadError::malformed(path, source))?;
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((families, modified.map_or(0.0, |since| since.as_secs() as f64)))
}

/// The families of all valid files. An invalid file is skipped and sets `node_textfile_scrape_error`.
pub fn read_textfile(patterns: &[String]) -> Vec<Family> {
    let mut families = Vec::new();
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
                Ok((more, at)) => {
                    families.extend(more.into_iter().map(|family| with_help(family, &path)));
                    modified.push([label("file", path.to_string_lossy().into_owned())], at);
                }
                Err(what) => complain(what),
            }
        }
    }
    let help = "1 where a text file could not be read.";
    families.extend([modified, Family::gauge("node_textfile_scrape_error", help).value(error)]);
    families
}

fn with_help(family: Family, path: &Path) -> Family {
    if family.help.is_empty() {
        family.with_help(format!("Metric read from {}", path.display()))
    } else {
        family
    }
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
