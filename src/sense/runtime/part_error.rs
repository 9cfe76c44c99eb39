//! The error of a part of a collector, without which the rest goes on. It is logged once, as that of a collector is.

use super::kernel_file::ReadError;

/// A part with its last error.
#[derive(Debug)]
pub struct PartError {
    collector: &'static str,
    part: &'static str,
    last: Option<String>,
}

impl PartError {
    /// `part` is the flag that asks for it, or what it publishes.
    pub const fn new(collector: &'static str, part: &'static str) -> PartError {
        PartError {
            collector,
            part,
            last: None,
        }
    }

    /// What was read. A new error is logged.
    pub fn report<T>(&mut self, read: Result<T, ReadError>) -> Option<T> {
        let (collector, part) = (self.collector, self.part);
        match read {
            Ok(value) => {
                if self.last.take().is_some() {
                    tracing::info!(collector, part, "part of a collector recovered");
                }
                Some(value)
            }
            Err(error) => {
                let error = error.to_string();
                if self.last.as_ref() != Some(&error) {
                    tracing::warn!(collector, part, error, "part of a collector failed");
                    self.last = Some(error);
                }
                None
            }
        }
    }

    #[cfg(test)]
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_kept_until_the_part_recovers() {
        let mut part = PartError::new("x", "y");
        let failed = || Err::<(), _>(ReadError::System("no".to_owned()));
        assert_eq!((part.report(failed()), part.last()), (None, Some("no")));
        assert_eq!((part.report(failed()), part.last()), (None, Some("no")));
        assert_eq!((part.report(Ok(7)), part.last()), (Some(7), None));
    }
}
