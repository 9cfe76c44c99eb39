//! The source of named files: a directory, or strings in memory.

use crate::diagnostic::{Findings, SourceText};
use crate::yaml::Text;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Maximum size of a rule file.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The shipped files by the names that the shipped `evenkeel.yml` uses.
pub(super) const SHIPPED: &[(&str, &str)] = &[
    ("rules/batch-queue.yml", include_str!("../../rules/batch-queue.yml")),
    ("rules/cpu-saturated.yml", include_str!("../../rules/cpu-saturated.yml")),
    ("rules/fork-bomb.yml", include_str!("../../rules/fork-bomb.yml")),
    ("rules/free-memory.yml", include_str!("../../rules/free-memory.yml")),
    ("rules/io-saturated.yml", include_str!("../../rules/io-saturated.yml")),
    ("rules/log-level.yml", include_str!("../../rules/log-level.yml")),
    ("rules/memory-low.yml", include_str!("../../rules/memory-low.yml")),
    ("rules/more-capacity.yml", include_str!("../../rules/more-capacity.yml")),
    (
        "rules/network-saturated.yml",
        include_str!("../../rules/network-saturated.yml"),
    ),
    (
        "rules/runaway-process.yml",
        include_str!("../../rules/runaway-process.yml"),
    ),
    ("alerting/host.rules.yml", include_str!("../../alerting/host.rules.yml")),
];

/// Where an Alertmanager configuration is looked for, to compare its repeats with `hold`.
const ALERTMANAGER_FILES: [&str; 2] = ["alertmanager.yml", "alerting/alertmanager.yml"];

pub(super) enum FileSource<'p> {
    /// The directory of the configuration file; empty for the working directory.
    Directory(&'p Path),
    /// Strings by name, and no other file.
    Texts(&'p [(&'p str, &'p str)]),
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it is a directory")]
    Directory,
    #[error("larger than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLarge,
    #[error("line {line} is not UTF-8")]
    NotUtf8 { line: usize },
}

/// Reads a text file up to the maximum size.
pub fn read(path: &Path) -> Result<SourceText, FileError> {
    let file = fs::File::open(path)?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(FileError::Directory);
    }
    let mut bytes = Vec::new();
    // Bounded during the read, because a pipe or a device has no size.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(FileError::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        FileError::NotUtf8 { line }
    })?;
    Ok(SourceText::new(path.display().to_string(), text))
}

impl FileSource<'_> {
    /// A path relative to the configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            FileSource::Directory(directory) => directory.join(name),
            FileSource::Texts(_) => PathBuf::from(name),
        }
    }

    /// The files that these patterns name, each once, in the order of patterns and names.
    pub fn find(&self, key: &str, patterns: &[Text], findings: &mut Findings) -> Vec<SourceText> {
        let mut found: Vec<SourceText> = Vec::new();
        for pattern in patterns {
            let names = match self.names(&pattern.value) {
                Ok(names) => names,
                Err(problem) => {
                    findings.error(
                        pattern.span,
                        format!("not a pattern for files: {}", problem.msg),
                        "such as rules/*.yml",
                    );
                    continue;
                }
            };
            if names.is_empty() {
                self.report_nothing(key, pattern, findings);
            }
            for name in names {
                let name_text = name.display().to_string();
                if is_test(&name_text) || found.iter().any(|source| source.name() == name_text) {
                    continue;
                }
                match self.read(&name) {
                    Ok(source) => found.push(source),
                    Err(problem) => findings.error(pattern.span, format!("cannot read {name_text}: {problem}"), ""),
                }
            }
        }
        found
    }

    fn report_nothing(&self, key: &str, pattern: &Text, findings: &mut Findings) {
        let place = match self {
            FileSource::Directory(directory) if directory.as_os_str().is_empty() => "the working directory".to_owned(),
            FileSource::Directory(directory) => directory.display().to_string(),
            FileSource::Texts(texts) => texts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        };
        let help = format!("looked in {place}; `{key}` is relative to this file");
        if is_glob(&pattern.value) {
            findings.warning(pattern.span, format!("`{}` matches no file", pattern.value), help);
        } else {
            findings.error(pattern.span, format!("no file `{}`", pattern.value), help);
        }
    }

    /// Files that a pattern names, sorted.
    fn names(&self, pattern: &str) -> Result<Vec<PathBuf>, glob::PatternError> {
        match self {
            FileSource::Directory(_) if !is_glob(pattern) => {
                let path = self.path(pattern);
                // A file that this user may not see is reported when it is read.
                Ok(if path.try_exists().unwrap_or(true) {
                    vec![path]
                } else {
                    Vec::new()
                })
            }
            FileSource::Directory(directory) => {
                let directory = glob::Pattern::escape(&directory.display().to_string());
                let full = Path::new(&directory).join(pattern).display().to_string();
                Ok(glob::glob(&full)?.flatten().filter(|path| !path.is_dir()).collect())
            }
            FileSource::Texts(texts) => {
                let pattern = glob::Pattern::new(pattern)?;
                let options = glob::MatchOptions {
                    require_literal_separator: true,
                    ..glob::MatchOptions::new()
                };
                let names = texts.iter().map(|(name, _)| name);
                Ok(names
                    .filter(|name| pattern.matches_with(name, options))
                    .map(PathBuf::from)
                    .collect())
            }
        }
    }

    fn read(&self, name: &Path) -> Result<SourceText, FileError> {
        match self {
            FileSource::Directory(_) => read(name),
            FileSource::Texts(texts) => {
                let text = texts
                    .iter()
                    .find(|(known, _)| Path::new(known) == name)
                    .map(|(_, text)| *text);
                Ok(SourceText::new(name.display().to_string(), text.unwrap_or_default()))
            }
        }
    }

    /// The configuration file of an Alertmanager on this host.
    pub fn alertmanager(&self) -> Option<SourceText> {
        match self {
            FileSource::Directory(_) => ALERTMANAGER_FILES.iter().find_map(|name| read(&self.path(name)).ok()),
            FileSource::Texts(_) => None,
        }
    }
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// Unit tests of rules stand beside the rules.
fn is_test(name: &str) -> bool {
    name.ends_with(".test.yml") || name.ends_with(".test.yaml")
}
