//! Durations of flags that another program has as well.

use crate::yaml::{DurationError, parse_duration};
use jiff::SignedDuration;
use std::time::Duration;

/// A duration as in the configuration, or as Go writes it (`1.5s`).
///
/// # Errors
/// When it is neither.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text).or_else(|error| {
        let in_go = text
            .parse::<SignedDuration>()
            .ok()
            .and_then(|duration| duration.try_into().ok());
        in_go.ok_or(error)
    })
}
