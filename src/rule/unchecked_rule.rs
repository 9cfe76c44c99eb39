//! A compiled rule before it is checked against the others, with the places of what was written.

use super::ruleset::Rule;
use crate::diagnostic::{Diagnostic, Span};
use crate::host::Knob;
use crate::yaml::Text;
use std::sync::Arc;

/// A compiled rule with the places of what was written, for checks across rules.
pub(super) struct Candidate {
    pub file: usize,
    pub span: Span,
    pub name_span: Span,
    pub matcher_texts: Vec<Text>,
    pub hold_span: Option<Span>,
    pub limit_span: Option<Span>,
    pub settings: Vec<Setting>,
    pub rule: Arc<Rule>,
}

/// A step that is undone, and where it stands: only who knows the host can tell whether it may be taken there.
#[derive(Debug)]
pub struct Setting {
    pub knob: Knob,
    pub(super) place: Diagnostic,
}

impl Setting {
    /// A warning at the place of the step.
    pub fn warning(&self, message: String, help: String) -> Diagnostic {
        let mut warning = self.place.clone();
        (warning.message, warning.help) = (message, Some(help));
        warning
    }
}
