//! The compiler from the parser's syntax tree to an [`Expression`]. It refuses unsupported syntax by name.

use super::date::DatePart;
use super::duration;
use super::evaluate::MAX_SUBQUERY_STEPS;
use super::expression::{Aggregate, Aggregation, At, Binary, Cardinality, Expression, MAX_REACH_MS, Operator};
use super::expression::{LabelFunction, LabelFunctionKind, Query, Range, SeriesSelector, When};
use super::function::Elementwise;
use super::over_time::RangeFunction;
use super::refusal::Refusal;
use super::scan::{MAX_NESTING, nesting, position, without_comments};
use super::{Matcher, by_name};
use crate::alert::go_regex;
use crate::watch::labels::{LabelSet, METRIC_NAME, Selected, Text};
use promql_parser::label::MatchOp;
use promql_parser::parser::token::*;
use promql_parser::parser::{self, AggregateExpr, AtModifier, BinaryExpr, Call, Expr, LabelModifier};
use promql_parser::parser::{MatrixSelector, Offset};
use promql_parser::parser::{SubqueryExpr, VectorMatchCardinality, VectorSelector};
use std::time::{Duration, UNIX_EPOCH};

/// Parses an expression and checks that evenkeel supports all of it.
///
/// # Errors
/// All syntax errors and unsupported parts at once.
pub fn parse(text: &str) -> Result<Query, Vec<Refusal>> {
    let code = without_comments(text);
    if nesting(&code) > MAX_NESTING {
        let message = format!("more than {MAX_NESTING} operators, calls and parentheses in one expression");
        return Err(vec![Refusal::of_whole(message, "split it with recording rules")]);
    }
    let folded = duration::fold(&code).map_err(|refusal| vec![refusal])?;
    // The parser panics at durations out of range.
    let parsed =
        std::panic::catch_unwind(|| parser::parse(&folded)).unwrap_or_else(|_| Err("number out of range".into()));
    let parsed = parsed.map_err(|message| {
        if let Some(refusal) = unknown_to_the_parser(&code) {
            return vec![refusal];
        }
        let message = if message == "invalid promql query" {
            "not a PromQL expression".into()
        } else {
            message
        };
        let offset = quoted(&message).and_then(|name| position(&code, name));
        vec![Refusal {
            message,
            offset,
            hint: None,
        }]
    })?;
    let mut compiler = Compiler {
        text: &code,
        refusals: Vec::new(),
        native_functions: Vec::new(),
    };
    let expression = compiler.expression(&parsed);
    let query = match expression {
        Some(expression) if compiler.refusals.is_empty() => Query {
            text: text.into(),
            expression,
            native_functions: compiler.native_functions,
        },
        _ => return Err(compiler.refusals),
    };
    if query.reach_ms() > MAX_REACH_MS {
        let message = "looks back more than 7 days, which is more than the history in memory keeps".into();
        let hint = "shorten the range or the offset, or let a Prometheus evaluate this rule";
        return Err(vec![Refusal::of_whole(message, hint)]);
    }
    Ok(query)
}

/// What Prometheus knows and the parser does not, by the first such word in an expression that it cannot parse.
fn unknown_to_the_parser(text: &str) -> Option<Refusal> {
    let experimental = ["anchored", "smoothed"].map(|name| (name, experimental(&format!("the modifier {name}"))));
    let trims = ["</", ">/"].map(|name| {
        (
            name,
            format!("{name} reads native histograms, which evenkeel does not have"),
        )
    });
    let found = experimental.into_iter().chain(trims);
    let placed = found.filter_map(|(name, message)| Some((position(text, name)?, message)));
    let (offset, message) = placed.min_by_key(|(offset, _)| *offset)?;
    Some(Refusal {
        message,
        offset: Some(offset),
        hint: None,
    })
}

fn experimental(what: &str) -> String {
    format!("{what} is experimental in Prometheus and not supported")
}

/// Functions that have a result for native histograms only.
const NATIVE_HISTOGRAMS: [&str; 5] = [
    "histogram_avg",
    "histogram_count",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
];

struct Compiler<'a> {
    text: &'a str,
    refusals: Vec<Refusal>,
    native_functions: Vec<&'static str>,
}

/// Methods return `None` after recording a refusal. The walk continues to find all of them.
impl Compiler<'_> {
    fn refuse<T>(&mut self, word: &str, message: String, hint: &str) -> Option<T> {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.refusals.push(Refusal {
            message,
            offset: position(self.text, word),
            hint,
        });
        None
    }

    fn expression(&mut self, expr: &Expr) -> Option<Expression> {
        match expr {
            Expr::Paren(paren) => self.expression(&paren.expr),
            Expr::NumberLiteral(number) => Some(Expression::Number(number.val)),
            Expr::StringLiteral(_) => self.refuse("", "a text is no result".into(), ""),
            Expr::VectorSelector(selector) => self.selector(selector).map(Expression::SeriesSelector),
            Expr::Unary(unary) => Some(Expression::Negate(Box::new(self.expression(&unary.expr)?))),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            Expr::Call(call) => self.call(call),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => self.refuse(
                "[",
                "a range vector is no result".into(),
                "pass it to a function such as rate()",
            ),
            Expr::Extension(extension) => self.refuse("", format!("{} is not supported", extension.expr.name()), ""),
        }
    }

    fn boxed(&mut self, expr: &Expr) -> Option<Box<Expression>> {
        self.expression(expr).map(Box::new)
    }

    fn selector(&mut self, selector: &VectorSelector) -> Option<SeriesSelector> {
        if !selector.matchers.or_matchers.is_empty() {
            return self.refuse(
                "or",
                "alternatives of matchers are not supported".into(),
                "use a regular expression",
            );
        }
        let when = when(selector.at.as_ref(), selector.offset.as_ref());
        let mut matchers: Vec<Matcher> = selector
            .name
            .iter()
            .map(|name| Matcher::equal(METRIC_NAME, name))
            .collect();
        for parsed in &selector.matchers.matchers {
            match Matcher::from_parsed(parsed) {
                Ok(matcher) => matchers.push(matcher),
                Err(error) => return self.refuse(&parsed.value, error.to_string(), ""),
            }
        }
        Some(SeriesSelector::new(matchers, when))
    }

    fn range(&mut self, expr: &Expr) -> Option<Range> {
        match expr {
            Expr::Paren(paren) => self.range(&paren.expr),
            Expr::MatrixSelector(MatrixSelector { vs, range }) => Some(Range::Samples {
                selector: self.selector(vs)?,
                range_ms: milliseconds(*range),
            }),
            Expr::Subquery(SubqueryExpr {
                expr,
                offset,
                at,
                range,
                step,
            }) => {
                let inner = self.boxed(expr);
                let step_ms = step.map(milliseconds).filter(|step_ms| *step_ms > 0);
                if step_ms.is_some_and(|step_ms| milliseconds(*range) / step_ms > MAX_SUBQUERY_STEPS) {
                    let message = format!("a subquery of more than {MAX_SUBQUERY_STEPS} steps");
                    return self.refuse("[", message, "choose a longer step");
                }
                Some(Range::Subquery {
                    inner: inner?,
                    range_ms: milliseconds(*range),
                    step_ms,
                    when: when(at.as_ref(), offset.as_ref()),
                })
            }
            _ => self.refuse("", "expected a range vector such as metric[5m]".into(), ""),
        }
    }

    fn binary(&mut self, binary: &BinaryExpr) -> Option<Expression> {
        let operator = match binary.op.id() {
            T_ADD => Operator::Add,
            T_SUB => Operator::Subtract,
            T_MUL => Operator::Multiply,
            T_DIV => Operator::Divide,
            T_MOD => Operator::Modulo,
            T_POW => Operator::Power,
            T_ATAN2 => Operator::Atan2,
            T_EQLC => Operator::Equal,
            T_NEQ => Operator::NotEqual,
            T_GTR => Operator::Greater,
            T_LSS => Operator::Less,
            T_GTE => Operator::GreaterOrEqual,
            T_LTE => Operator::LessOrEqual,
            T_LAND => Operator::And,
            T_LOR => Operator::Or,
            T_LUNLESS => Operator::Unless,
            _ => return self.refuse("", format!("the operator {} is not supported", binary.op), ""),
        };
        let (left, right) = (self.expression(&binary.lhs), self.expression(&binary.rhs));
        let mut matching = Selected::AllBut(Vec::new());
        let mut cardinality = Cardinality::OneToOne;
        if let Some(modifier) = &binary.modifier {
            if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
                let written = ["fill", "fill_left", "fill_right"].into_iter();
                let first = written
                    .filter_map(|name| Some((position(self.text, name)?, name)))
                    .min();
                let (_, name) = first.unwrap_or((0, "fill"));
                return self.refuse(name, experimental(&format!("the modifier {name}")), "");
            }
            if let Some(labels) = &modifier.matching {
                matching = self.selected(labels)?;
            }
            cardinality = match &modifier.card {
                VectorMatchCardinality::ManyToOne(labels) => Cardinality::ManyToOne(self.label_names(&labels.labels)?),
                VectorMatchCardinality::OneToMany(labels) => Cardinality::OneToMany(self.label_names(&labels.labels)?),
                VectorMatchCardinality::OneToOne | VectorMatchCardinality::ManyToMany => Cardinality::OneToOne,
            };
        }
        let returns_bool = binary.return_bool();
        let (left, right) = (left?, right?);
        Some(Expression::Binary(Box::new(Binary {
            operator,
            left,
            right,
            returns_bool,
            matching,
            cardinality,
        })))
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr) -> Option<Expression> {
        let inner = self.expression(&aggregate.expr);
        let parameter = aggregate.param.as_deref().map(without_parentheses);
        let aggregation = match (aggregate.op.id(), parameter) {
            (T_COUNT_VALUES, Some(Expr::StringLiteral(label))) => {
                Aggregation::CountValues(self.label_name(&label.val)?)
            }
            (T_SUM, _) => Aggregation::Sum,
            (T_AVG, _) => Aggregation::Average,
            (T_MIN, _) => Aggregation::Minimum,
            (T_MAX, _) => Aggregation::Maximum,
            (T_COUNT, _) => Aggregation::Count,
            (T_GROUP, _) => Aggregation::Group,
            (T_STDDEV, _) => Aggregation::StandardDeviation,
            (T_STDVAR, _) => Aggregation::StandardVariance,
            (T_TOPK, Some(parameter)) => Aggregation::Top(self.expression(parameter)?),
            (T_BOTTOMK, Some(parameter)) => Aggregation::Bottom(self.expression(parameter)?),
            (T_QUANTILE, Some(parameter)) => Aggregation::Quantile(self.expression(parameter)?),
            _ => {
                // All others are experimental.
                let name = aggregate.op.to_string();
                return self.refuse(&name, experimental(&format!("the aggregation {name}")), "");
            }
        };
        let grouping = match &aggregate.modifier {
            Some(modifier) => self.selected(modifier)?,
            None => Selected::Only(Vec::new()),
        };
        Some(Expression::Aggregate(Box::new(Aggregate {
            aggregation,
            inner: inner?,
            grouping,
        })))
    }

    fn call(&mut self, call: &Call) -> Option<Expression> {
        let name = call.func.name;
        let args: Vec<&Expr> = call.args.args.iter().map(|arg| without_parentheses(arg)).collect();
        if let Some(function) = by_name::<RangeFunction>(name) {
            let (range, parameter) = match (function, args.as_slice()) {
                (RangeFunction::QuantileOverTime, [parameter, range])
                | (RangeFunction::PredictLinear, [range, parameter]) => {
                    (self.range(range), Some(self.boxed(parameter)?))
                }
                (_, [range]) => (self.range(range), None),
                _ => return self.wrong_arguments(name),
            };
            return Some(Expression::OverTime {
                function,
                range: range?,
                parameter,
            });
        }
        if let Some(function) = by_name::<Elementwise>(name) {
            let [inner, parameters @ ..] = args.as_slice() else {
                return self.wrong_arguments(name);
            };
            let inner = self.boxed(inner);
            let parameters = parameters
                .iter()
                .map(|parameter| self.expression(parameter))
                .collect::<Option<_>>()?;
            return Some(Expression::Elementwise {
                function,
                inner: inner?,
                parameters,
            });
        }
        if let Some(part) = by_name::<DatePart>(name) {
            let inner = match args.first() {
                Some(inner) => Some(self.boxed(inner)?),
                None => None,
            };
            return Some(Expression::Date { part, inner });
        }
        match (name, args.as_slice()) {
            ("time", []) => Some(Expression::Time),
            ("timestamp", [Expr::VectorSelector(selector)]) => self.selector(selector).map(Expression::SampleTime),
            ("timestamp", [inner]) => self.boxed(inner).map(Expression::EvaluationTime),
            ("vector", [inner]) => self.boxed(inner).map(Expression::VectorOf),
            ("scalar", [inner]) => self.boxed(inner).map(Expression::ScalarOf),
            ("sort" | "sort_desc", [inner]) => Some(Expression::Sort {
                inner: self.boxed(inner)?,
                descending: name == "sort_desc",
            }),
            ("absent", [inner]) => Some(Expression::Absent {
                labels: absent_labels(inner),
                inner: self.boxed(inner)?,
            }),
            ("absent_over_time", [range]) => Some(Expression::AbsentOverTime {
                labels: absent_labels(range),
                range: self.range(range)?,
            }),
            ("pi", []) => Some(Expression::Number(std::f64::consts::PI)),
            ("histogram_quantile" | "histogram_fraction", [parameters @ .., inner]) => {
                let parameters = parameters.iter().map(|parameter| self.expression(parameter));
                Some(Expression::OfHistograms {
                    parameters: parameters.collect::<Option<_>>()?,
                    inner: self.boxed(inner)?,
                })
            }
            ("label_replace" | "label_join", [inner, Expr::StringLiteral(destination), texts @ ..]) => {
                let inner = self.expression(inner);
                let destination = self.label_name(&destination.val);
                let kind = self.label_function(name, texts)?;
                Some(Expression::LabelFunction(Box::new(LabelFunction {
                    inner: inner?,
                    destination: destination?,
                    kind,
                })))
            }
            (_, [inner]) if let Some(known) = NATIVE_HISTOGRAMS.iter().find(|known| **known == name) => {
                self.native_functions.push(known);
                self.boxed(inner).map(Expression::OfNativeHistograms)
            }
            _ if call.func.experimental => self.refuse(name, experimental(&format!("the function {name}")), ""),
            _ => self.refuse(name, format!("the function {name} is not supported"), ""),
        }
    }

    fn label_function(&mut self, name: &str, texts: &[&Expr]) -> Option<LabelFunctionKind> {
        let text = |expr: &&Expr| match expr {
            Expr::StringLiteral(literal) => Some(literal.val.clone()),
            _ => None,
        };
        let Some(texts) = texts.iter().map(text).collect::<Option<Vec<String>>>() else {
            return self.wrong_arguments(name);
        };
        match (name, texts.as_slice()) {
            ("label_replace", [replacement, source, pattern]) => {
                let compiled = match go_regex::of_promql(pattern) {
                    Ok(compiled) => compiled,
                    Err(error) => return self.refuse(name, format!("label_replace: {error}"), ""),
                };
                Some(LabelFunctionKind::Replace {
                    replacement: replacement.clone(),
                    source: source.as_str().into(),
                    pattern: compiled,
                })
            }
            ("label_join", [separator, sources @ ..]) => {
                let sources = sources.iter().map(|source| self.label_name(source));
                Some(LabelFunctionKind::Join {
                    separator: separator.clone(),
                    sources: sources.collect::<Option<_>>()?,
                })
            }
            _ => self.wrong_arguments(name),
        }
    }

    fn selected(&mut self, modifier: &LabelModifier) -> Option<Selected> {
        Some(match modifier {
            LabelModifier::Include(labels) => Selected::Only(self.label_names(&labels.labels)?),
            LabelModifier::Exclude(labels) => Selected::AllBut(self.label_names(&labels.labels)?),
        })
    }

    fn label_names(&mut self, names: &[String]) -> Option<Vec<Text>> {
        names.iter().map(|name| self.label_name(name)).collect()
    }

    /// Checks the name of a label. Prometheus 3 has any but the empty one.
    fn label_name(&mut self, name: &str) -> Option<Text> {
        if !name.is_empty() {
            return Some(name.into());
        }
        self.refusals.push(Refusal {
            message: "an empty string is not a label name".into(),
            offset: ["\"\"", "''", "``"]
                .iter()
                .filter_map(|empty| self.text.find(empty))
                .min(),
            hint: None,
        });
        None
    }

    fn wrong_arguments<T>(&mut self, name: &str) -> Option<T> {
        self.refuse(name, format!("wrong arguments for {name}"), "")
    }
}

fn without_parentheses(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(paren) => without_parentheses(&paren.expr),
        other => other,
    }
}

/// The time that the modifiers of a selector or a subquery choose.
fn when(at: Option<&AtModifier>, offset: Option<&Offset>) -> When {
    let at = match at {
        None => At::Around,
        Some(AtModifier::Start | AtModifier::End) => At::Query,
        Some(AtModifier::At(time)) => At::Fixed(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => milliseconds(after),
            Err(before) => -milliseconds(before.duration()),
        }),
    };
    let offset_ms = match offset {
        None => 0,
        Some(Offset::Pos(duration)) => milliseconds(*duration),
        Some(Offset::Neg(duration)) => -milliseconds(*duration),
    };
    When { at, offset_ms }
}

fn milliseconds(duration: Duration) -> i64 {
    // Clamps to a century, which is rejected later, so that sums cannot overflow.
    duration.as_millis().min(100 * 365 * 24 * 60 * 60 * 1000) as i64
}

/// The labels of the result of `absent`: those with an equality matcher and no other matcher.
fn absent_labels(expr: &Expr) -> LabelSet {
    let (Expr::VectorSelector(selector) | Expr::MatrixSelector(MatrixSelector { vs: selector, .. })) = expr else {
        return LabelSet::default();
    };
    let matchers = selector
        .matchers
        .matchers
        .iter()
        .filter(|matcher| matcher.name != METRIC_NAME);
    let mut labels: Vec<(&str, &str)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for matcher in matchers {
        if matches!(matcher.op, MatchOp::Equal) && !seen.contains(&matcher.name.as_str()) {
            labels.push((&matcher.name, &matcher.value));
            seen.push(&matcher.name);
        } else {
            labels.retain(|(name, _)| *name != matcher.name);
        }
    }
    LabelSet::from_pairs(labels)
}

fn quoted(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once('\'')?;
    rest.split_once('\'').map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
