//! A compiled rule before it is checked against the others, with the places of what was written.

use super::ruleset::Rule;
use crate::diagnostic::{HostReference, Span};
use crate::host::Knob;
use crate::yaml::Text;
use std::sync::Arc;

/// A compiled rule with the places of what was written, for checks across rules.
pub(super) struct UncheckedRule {
    pub file: usize,
    pub span: Span,
    pub name_span: Span,
    pub matcher_texts: Vec<Text>,
    pub hold_span: Option<Span>,
    pub limit_span: Option<Span>,
    /// The knobs that its steps set, which are reverted: only who knows the host can tell whether they may be set there.
    pub settings: Vec<HostReference<Knob>>,
    pub rule: Arc<Rule>,
}
