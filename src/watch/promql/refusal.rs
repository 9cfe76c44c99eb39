//! Why an expression is refused, and where.

/// The reason why an expression is invalid or unsupported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", .offset.map(|at| format!(" (at character {})", at + 1)).unwrap_or_default())]
pub struct Refusal {
    pub message: String,
    /// Position in the expression in bytes, if known.
    pub offset: Option<usize>,
    pub hint: Option<String>,
}

impl Refusal {
    pub(super) fn of_whole(message: String, hint: &str) -> Refusal {
        Refusal {
            message,
            offset: None,
            hint: Some(hint.to_owned()),
        }
    }
}
