//! The selectors of a PromQL expression, each with the functions around it, for lints and queries.

use std::convert::Infallible;
use std::time::Duration;

use promql_parser::parser::{Expr, VectorSelector, parse};
use promql_parser::util::{ExprVisitor, walk_expr};

pub struct Selected {
    pub selector: VectorSelector,
    /// The range of `name[range]`.
    pub range: Option<Duration>,
    /// The function or aggregation directly around it.
    pub function: Option<String>,
}

impl Selected {
    pub fn name(&self) -> &str {
        self.selector.name.as_deref().unwrap_or_default()
    }

    /// The selector as an instant query.
    pub fn query(&self) -> String {
        VectorSelector {
            offset: None,
            at: None,
            ..self.selector.clone()
        }
        .to_string()
    }

    pub fn has_matcher(&self, text: &str) -> bool {
        let matchers = &self.selector.matchers.matchers;
        matchers.iter().any(|matcher| matcher.to_string() == text)
    }
}

/// # Panics
///
/// When the text is no PromQL.
#[track_caller]
pub fn selectors(expr: &str) -> Vec<Selected> {
    let parsed = parse(expr).unwrap_or_else(|error| panic!("{expr}: {error}"));
    let mut visitor = Visitor::default();
    let Ok(_) = walk_expr(&mut visitor, &parsed);
    visitor.found
}

#[derive(Default)]
struct Visitor {
    /// The functions around the visited expression; `None` for other nodes.
    around: Vec<Option<String>>,
    found: Vec<Selected>,
}

impl ExprVisitor for Visitor {
    type Error = Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
        let mut add = |selector: &VectorSelector, range| {
            self.found.push(Selected {
                selector: selector.clone(),
                range,
                function: self.around.last().cloned().flatten(),
            });
        };
        match expr {
            Expr::VectorSelector(selector) => add(selector, None),
            Expr::MatrixSelector(matrix) => add(&matrix.vs, Some(matrix.range)),
            _ => {}
        }
        self.around.push(match expr {
            Expr::Call(call) => Some(call.func.name.to_owned()),
            Expr::Aggregate(aggregate) => Some(aggregate.op.to_string()),
            _ => None,
        });
        Ok(true)
    }

    fn post_visit(&mut self, _: &Expr) -> Result<bool, Infallible> {
        self.around.pop();
        Ok(true)
    }
}

#[test]
fn selectors_know_the_calls_around_them() {
    let found = selectors("sum(rate(a_total{x=\"1\"}[5m] offset 1h)) / (b > 0) unless absent(c) or count(d)");
    let seen: Vec<_> = found
        .iter()
        .map(|found| {
            (
                found.query(),
                found.range.map(|range| range.as_secs()),
                found.function.as_deref(),
            )
        })
        .collect();
    let expected = [
        ("a_total{x=\"1\"}".to_owned(), Some(300), Some("rate")),
        ("b".to_owned(), None, None),
        ("c".to_owned(), None, Some("absent")),
        ("d".to_owned(), None, Some("count")),
    ];
    assert_eq!(seen, expected);
    assert!(found[0].has_matcher("x=\"1\""));
}
