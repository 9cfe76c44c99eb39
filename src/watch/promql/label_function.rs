//! `label_replace` and `label_join`, which change the labels of series.

use super::Element;
use super::evaluate::{EvaluationError, unique};
use super::expression::{LabelFunction, LabelFunctionKind};

impl LabelFunction {
    pub(super) fn apply(&self, mut elements: Vec<Element>) -> Result<Vec<Element>, EvaluationError> {
        for element in &mut elements {
            let value = match &self.kind {
                LabelFunctionKind::Replace {
                    replacement,
                    source,
                    pattern,
                } => {
                    let Some(captures) = pattern.captures(element.labels.get(source)) else {
                        continue;
                    };
                    let mut value = String::new();
                    captures.expand(replacement, &mut value);
                    value
                }
                LabelFunctionKind::Join { separator, sources } => {
                    let values: Vec<&str> = sources.iter().map(|source| element.labels.get(source)).collect();
                    values.join(separator)
                }
            };
            element.labels = element.labels.with([(self.destination.clone(), value.into())]);
        }
        unique(elements)
    }
}
