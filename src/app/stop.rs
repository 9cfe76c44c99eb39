//! Why the daemon did not start, or ended by itself.

use crate::diagnostic::Diagnostic;

pub enum Stop {
    Findings(Vec<Diagnostic>),
    Because(String),
    /// After the start, and logged already.
    Failed,
}

impl Stop {
    pub fn because(error: impl std::error::Error) -> Stop {
        Stop::Because(error.to_string())
    }
}

/// Says what failed before the error.
pub fn because<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Stop {
    let what = what.to_owned();
    move |error| Stop::Because(format!("{what}: {error}"))
}
