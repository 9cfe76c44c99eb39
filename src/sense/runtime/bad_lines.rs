//! The lines of kernel files that a parser could not read. A bad line costs that line only; it is counted, and the
//! first one explains the loss. Pure, except for the recorder's lock.

use super::kernel_file::{ParseError, ReadError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The lines of one file so far.
#[derive(Debug, Default)]
pub struct BadLines {
    good: u64,
    bad: u64,
    first: Option<ParseError>,
}

impl BadLines {
    /// The value of a good line; a bad line is counted.
    pub fn keep<T>(&mut self, line: Result<T, ParseError>) -> Option<T> {
        match line {
            Ok(value) => {
                self.good += 1;
                Some(value)
            }
            Err(error) => {
                self.bad += 1;
                self.first.get_or_insert(error);
                None
            }
        }
    }

    /// Parses a text. A text without any good line fails with its first bad one; an error about the whole text counts
    /// as one bad line.
    pub fn parse<I: ?Sized, T>(
        &mut self,
        text: &I,
        parse: impl FnOnce(&I, &mut BadLines) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        let value = parse(text, self);
        if let (Err(error), None) = (&value, &self.first) {
            (self.bad, self.first) = (1, Some(error.clone()));
        }
        match &self.first {
            Some(first) if self.good == 0 => Err(first.clone()),
            _ => value,
        }
    }

    pub fn has_bad(&self) -> bool {
        self.bad > 0
    }
}

/// The bad lines of all files that one read of a collector parsed.
#[derive(Debug, Default)]
pub struct SkippedLines {
    pub count: u64,
    first: Option<(PathBuf, ParseError)>,
}

impl SkippedLines {
    /// The error of the first one.
    pub fn into_error(self) -> Option<ReadError> {
        let (path, source) = self.first?;
        Some(ReadError::Malformed { path, source })
    }
}

/// Collects the bad lines of one read. A clone begins without any, because it belongs to another thread.
#[derive(Debug, Default)]
pub struct BadLineRecorder(Mutex<SkippedLines>);

impl Clone for BadLineRecorder {
    fn clone(&self) -> Self {
        BadLineRecorder::default()
    }
}

impl BadLineRecorder {
    pub fn record(&self, path: &Path, lines: BadLines) {
        let Some(first) = lines.first else { return };
        let mut skipped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        skipped.count += lines.bad;
        skipped.first.get_or_insert_with(|| (path.to_owned(), first));
    }

    /// The bad lines since the last call.
    pub fn take(&self) -> SkippedLines {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str, bad: &mut BadLines) -> Result<Vec<u32>, ParseError> {
        let number = |line: &str| line.parse().map_err(|_| ParseError::text(line, "is not a number"));
        Ok(text.lines().filter_map(|line| bad.keep(number(line))).collect())
    }

    #[test]
    fn text_fails_only_without_any_good_line() {
        let mut lines = BadLines::default();
        assert_eq!(lines.parse("1\nx\n2\ny\n", numbers), Ok(vec![1, 2]));
        let recorder = BadLineRecorder::default();
        recorder.record(Path::new("/proc/some"), lines);
        let skipped = recorder.take();
        assert_eq!(skipped.count, 2);
        assert_eq!(
            skipped.into_error().unwrap().to_string(),
            "/proc/some: \"x\" is not a number"
        );
        assert_eq!(recorder.take().count, 0);
        assert!(BadLines::default().parse("x\n", numbers).is_err());
        assert_eq!(BadLines::default().parse("", numbers), Ok(vec![]));
    }
}
