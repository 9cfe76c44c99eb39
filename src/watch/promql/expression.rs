//! A checked expression, every part of which can be evaluated.

use super::Matcher;
use super::date::DatePart;
use super::function::Elementwise;
use super::over_time::RangeFunction;
use super::scan::{position, without_comments};
use crate::watch::history::ReadSet;
use crate::watch::labels::{LabelSet, METRIC_NAME, Selected, Text};
use regex::Regex;
use std::borrow::Cow;

/// Maximum range of an expression. The history is in memory, where a week of one series takes 7 MB at a sample per
/// second.
pub const MAX_REACH_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// An expression together with its text.
#[derive(Debug, Clone)]
pub struct Query {
    pub text: String,
    pub(super) expression: Expression,
    /// The functions in it that have no result, because they read native histograms.
    pub native_functions: Vec<&'static str>,
}

impl Query {
    /// Adds the metrics that the expression reads to `read_set`, with the time to keep their samples.
    pub fn add_to_read_set(&self, read_set: &mut ReadSet) {
        self.add_to_read_set_before(0, read_set);
    }

    /// As [`Query::add_to_read_set`], where the query is evaluated for `offset_ms` earlier.
    pub fn add_to_read_set_before(&self, offset_ms: i64, read_set: &mut ReadSet) {
        self.expression.visit_selectors(0, &mut |matchers, keep_ms| {
            read_set.add(matchers, keep_ms + offset_ms);
        });
    }

    /// How far back the expression reads, in milliseconds.
    pub fn reach_ms(&self) -> i64 {
        let mut longest_ms = 0;
        self.expression
            .visit_selectors(0, &mut |_, keep_ms| longest_ms = keep_ms.max(longest_ms));
        longest_ms
    }

    /// The matchers on labels of each selector that names its metric, with that name.
    pub fn label_matchers(&self) -> Vec<(String, Vec<Matcher>)> {
        let mut found = Vec::new();
        self.expression.visit_selectors(0, &mut |matchers, _| {
            let on_name = |matcher: &&Matcher| &*matcher.name == METRIC_NAME;
            let name = matchers.iter().filter(on_name).find_map(Matcher::equal_to);
            let on_labels = matchers.iter().filter(|matcher| !on_name(matcher)).cloned();
            found.extend(name.map(|name| (name.to_owned(), on_labels.collect())));
        });
        found
    }

    /// The text with blanks in place of its comments, for positions in the text.
    pub fn code(&self) -> Cow<'_, str> {
        without_comments(&self.text)
    }

    /// The metrics that the expression names, each with its first position in the text in bytes.
    pub fn metric_names(&self) -> Vec<(usize, String)> {
        let mut read_set = ReadSet::default();
        self.add_to_read_set(&mut read_set);
        let code = self.code();
        let placed = |name: &str| (position(&code, name).unwrap_or(0), name.to_owned());
        let mut names: Vec<(usize, String)> = read_set.names().map(placed).collect();
        names.sort_unstable();
        names
    }
}

/// When a selector or a subquery is evaluated, by its modifiers `@` and `offset`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct When {
    pub at: At,
    /// How long before; after where negative.
    pub offset_ms: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) enum At {
    /// When the expression around it is evaluated.
    #[default]
    Around,
    /// When the whole query is, which has no range: `@ start()` and `@ end()`.
    Query,
    /// Unix time in milliseconds.
    Fixed(i64),
}

impl When {
    /// How long before the evaluation of the query samples are read, where the expression around is evaluated up to
    /// `before_ms` earlier, and this one reads `range_ms`.
    fn reach_ms(self, before_ms: i64, range_ms: i64) -> i64 {
        let own_ms = self.offset_ms + range_ms;
        match self.at {
            At::Around => before_ms + own_ms,
            At::Query => own_ms,
            // Nothing older is kept in memory.
            At::Fixed(_) => own_ms.max(MAX_REACH_MS),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct SeriesSelector {
    pub matchers: Vec<Matcher>,
    /// The value of an equality matcher on the metric name, which avoids a search over all names.
    pub metric_name: Option<Text>,
    pub when: When,
}

/// The argument of a function over time.
#[derive(Debug, Clone)]
pub(super) enum Range {
    Samples {
        selector: SeriesSelector,
        range_ms: i64,
    },
    Subquery {
        inner: Box<Expression>,
        range_ms: i64,
        step_ms: Option<i64>,
        when: When,
    },
}

impl Range {
    /// Its length in milliseconds, and when it ends.
    pub fn extent(&self) -> (i64, When) {
        match self {
            Range::Samples { selector, range_ms } => (*range_ms, selector.when),
            Range::Subquery { range_ms, when, .. } => (*range_ms, *when),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    And,
    Or,
    Unless,
}

impl Operator {
    pub fn is_comparison(self) -> bool {
        use Operator::*;
        matches!(self, Equal | NotEqual | Greater | Less | GreaterOrEqual | LessOrEqual)
    }

    pub fn is_set(self) -> bool {
        matches!(self, Operator::And | Operator::Or | Operator::Unless)
    }
}

/// The side of a vector operation that may have several series per match, and the labels that it gets from the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cardinality {
    OneToOne,
    ManyToOne(Vec<Text>),
    OneToMany(Vec<Text>),
}

impl Cardinality {
    /// Whether results get labels of the side with one series, which may make them equal.
    pub fn adds_labels(&self) -> bool {
        match self {
            Cardinality::OneToOne => false,
            Cardinality::ManyToOne(included) | Cardinality::OneToMany(included) => !included.is_empty(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Binary {
    pub operator: Operator,
    pub left: Expression,
    pub right: Expression,
    pub returns_bool: bool,
    pub matching: Selected,
    pub cardinality: Cardinality,
}

#[derive(Debug, Clone)]
pub(super) enum Aggregation {
    Sum,
    Average,
    Minimum,
    Maximum,
    Count,
    Group,
    StandardDeviation,
    StandardVariance,
    Top(Expression),
    Bottom(Expression),
    Quantile(Expression),
    CountValues(Text),
}

#[derive(Debug, Clone)]
pub(super) struct Aggregate {
    pub aggregation: Aggregation,
    pub inner: Expression,
    pub grouping: Selected,
}

#[derive(Debug, Clone)]
pub(super) struct LabelFunction {
    pub inner: Expression,
    pub destination: Text,
    pub kind: LabelFunctionKind,
}

#[derive(Debug, Clone)]
pub(super) enum LabelFunctionKind {
    /// The replacement, with the groups of the pattern in it, where the source matches.
    Replace {
        replacement: String,
        source: Text,
        pattern: Regex,
    },
    /// The values of all sources with the separator between them.
    Join { separator: String, sources: Vec<Text> },
}

#[derive(Debug, Clone)]
pub(super) enum Expression {
    Number(f64),
    SeriesSelector(SeriesSelector),
    Negate(Box<Expression>),
    Binary(Box<Binary>),
    Aggregate(Box<Aggregate>),
    OverTime {
        function: RangeFunction,
        range: Range,
        /// The scalar argument of `predict_linear` and `quantile_over_time`.
        parameter: Option<Box<Expression>>,
    },
    AbsentOverTime {
        range: Range,
        labels: LabelSet,
    },
    Absent {
        inner: Box<Expression>,
        labels: LabelSet,
    },
    /// A function of each element's value.
    Elementwise {
        function: Elementwise,
        inner: Box<Expression>,
        parameters: Vec<Expression>,
    },
    Date {
        part: DatePart,
        inner: Option<Box<Expression>>,
    },
    Time,
    /// `timestamp()` of a selector is the time of its sample …
    SampleTime(SeriesSelector),
    /// … of anything else it is that of the evaluation.
    EvaluationTime(Box<Expression>),
    VectorOf(Box<Expression>),
    ScalarOf(Box<Expression>),
    Sort {
        inner: Box<Expression>,
        descending: bool,
    },
    LabelFunction(Box<LabelFunction>),
    /// A function that ignores all but native histograms, so that it has no result.
    OfNativeHistograms(Box<Expression>),
    /// A function of classic histograms, `histogram_quantile` or `histogram_fraction`.
    OfHistograms {
        inner: Box<Expression>,
        /// One for a quantile, two for a fraction.
        parameters: Vec<Expression>,
    },
}

impl Expression {
    /// Calls `visit` with the matchers of each selector, and the time to keep its samples.
    fn visit_selectors(&self, before_ms: i64, visit: &mut dyn FnMut(&[Matcher], i64)) {
        match self {
            Expression::Number(_) | Expression::Time => {}
            Expression::SeriesSelector(selector) | Expression::SampleTime(selector) => {
                visit(&selector.matchers, selector.when.reach_ms(before_ms, 0).max(0));
            }
            Expression::OverTime { range, parameter, .. } => {
                range.visit_selectors(before_ms, visit);
                if let Some(parameter) = parameter {
                    parameter.visit_selectors(before_ms, visit);
                }
            }
            Expression::AbsentOverTime { range, .. } => range.visit_selectors(before_ms, visit),
            Expression::Binary(binary) => {
                binary.left.visit_selectors(before_ms, visit);
                binary.right.visit_selectors(before_ms, visit);
            }
            Expression::Aggregate(aggregate) => {
                aggregate.inner.visit_selectors(before_ms, visit);
                if let Some(parameter) = aggregate.aggregation.parameter() {
                    parameter.visit_selectors(before_ms, visit);
                }
            }
            Expression::Elementwise { inner, parameters, .. } | Expression::OfHistograms { inner, parameters } => {
                inner.visit_selectors(before_ms, visit);
                parameters
                    .iter()
                    .for_each(|parameter| parameter.visit_selectors(before_ms, visit));
            }
            Expression::Date { inner, .. } => {
                if let Some(inner) = inner {
                    inner.visit_selectors(before_ms, visit);
                }
            }
            Expression::Negate(inner)
            | Expression::Absent { inner, .. }
            | Expression::EvaluationTime(inner)
            | Expression::VectorOf(inner)
            | Expression::ScalarOf(inner)
            | Expression::OfNativeHistograms(inner)
            | Expression::Sort { inner, .. } => inner.visit_selectors(before_ms, visit),
            Expression::LabelFunction(function) => function.inner.visit_selectors(before_ms, visit),
        }
    }
}

impl Range {
    fn visit_selectors(&self, before_ms: i64, visit: &mut dyn FnMut(&[Matcher], i64)) {
        let (range_ms, when) = self.extent();
        let reach_ms = when.reach_ms(before_ms, range_ms).max(0);
        match self {
            Range::Samples { selector, .. } => visit(&selector.matchers, reach_ms),
            // The reach of a fixed time covers what the inner expression adds.
            Range::Subquery { inner, .. } if matches!(when.at, At::Fixed(_)) => {
                inner.visit_selectors(0, &mut |matchers, inner_ms| visit(matchers, reach_ms.max(inner_ms)));
            }
            Range::Subquery { inner, .. } => inner.visit_selectors(reach_ms, visit),
        }
    }
}

impl SeriesSelector {
    pub fn new(matchers: Vec<Matcher>, when: When) -> Self {
        let on_name = matchers.iter().filter(|matcher| &*matcher.name == METRIC_NAME);
        let metric_name = on_name.filter_map(Matcher::equal_to).map(Text::from).next();
        SeriesSelector {
            matchers,
            metric_name,
            when,
        }
    }
}
