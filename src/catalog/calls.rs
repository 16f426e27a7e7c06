//! The function calls that are ours, not DataFusion's: windows and aggregates.
//!
//! Owns: which of them there are, how each is written, why the others are refused. Does not own:
//! what is kept for them (see `decompose`), what windows mean (see `window`).

use super::{Shape, sql::line_of, window};
use datafusion_sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    visit_expressions,
};
use std::ops::ControlFlow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Count,
    CountDistinct,
    Sum,
    Min,
    Max,
    Avg,
    BoolAnd,
    BoolOr,
    First,
    Last,
    ArgMin,
    ArgMax,
    Delta,
    ApproxDistinct,
    ApproxPercentile,
    Spread(Spread),
}

/// Variance, or its square root; of the sample, or of the population.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    pub root: bool,
    pub sample: bool,
}

impl Aggregate {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count | Self::CountDistinct => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
            Self::BoolAnd => "bool_and",
            Self::BoolOr => "bool_or",
            Self::First => "first_value",
            Self::Last => "last_value",
            Self::ArgMin => "arg_min",
            Self::ArgMax => "arg_max",
            Self::Delta => "delta",
            Self::ApproxDistinct => "approx_distinct",
            Self::ApproxPercentile => "approx_percentile",
            Self::Spread(Spread { root: true, sample: true }) => "stddev_samp",
            Self::Spread(Spread { root: true, sample: false }) => "stddev_pop",
            Self::Spread(Spread { root: false, sample: true }) => "var_samp",
            Self::Spread(Spread { root: false, sample: false }) => "var_pop",
        }
    }

    /// How many arguments it takes; `count(*)` apart.
    fn arity(self) -> usize {
        match self {
            Self::ArgMin | Self::ArgMax | Self::ApproxPercentile => 2,
            _ => 1,
        }
    }
}

/// One call of an aggregate: `function(args) FILTER (WHERE filter)`.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub aggregate: Aggregate,
    /// None for `count(*)`.
    pub args: Vec<Expr>,
    pub filter: Option<Expr>,
    pub line: usize,
}

/// What a function's name says that it is.
enum Meaning {
    Aggregate(Aggregate),
    /// Of the event time, with what reads the call.
    Window(fn(&Function) -> Result<Shape, String>),
    /// A call that cannot stand in a model, with the reason.
    Refused(&'static str),
    /// DataFusion's.
    Scalar,
}

const MERGEABLE: &str = "count, sum, min, max, avg, bool_and, bool_or, first_value, last_value, arg_min, arg_max, \
                         stddev, variance, delta, approx_distinct, approx_percentile";
const LATER: &str = "is not supported. Allowed: count, sum, min, max, avg, bool_and, bool_or, first_value, \
                     last_value, arg_min, arg_max, stddev, variance, delta, approx_distinct, approx_percentile";
const EVERY_VALUE: &str = "cannot be merged: it needs every value of the group at once, while only a small state per \
                           group is kept. Allowed: approx_percentile(x, 0.5), avg, min, max, stddev";
const GROWS: &str = "cannot be merged: its result depends on the order of all rows and grows without limit. Allowed: \
                     count(DISTINCT x), first_value, last_value; or a model without GROUP BY, and this in the query \
                     that reads it";
const OTHER_WINDOW: &str = "is not supported. Allowed: tumble(interval '…'), hop(interval '…', interval '…'), \
                            session(interval '…'); columns NAME_start and NAME_end follow";
const RANKING: &str =
    "is a window function, which is not supported. Allowed: tumble(interval '…') with GROUP BY";

fn meaning(function: &Function) -> Meaning {
    let spread = |root, sample| Meaning::Aggregate(Aggregate::Spread(Spread { root, sample }));
    match function.name.to_string().to_lowercase().as_str() {
        "count" => Meaning::Aggregate(Aggregate::Count),
        "sum" => Meaning::Aggregate(Aggregate::Sum),
        "min" => Meaning::Aggregate(Aggregate::Min),
        "max" => Meaning::Aggregate(Aggregate::Max),
        "avg" | "mean" => Meaning::Aggregate(Aggregate::Avg),
        "bool_and" | "every" => Meaning::Aggregate(Aggregate::BoolAnd),
        "bool_or" => Meaning::Aggregate(Aggregate::BoolOr),
        "first_value" => Meaning::Aggregate(Aggregate::First),
        "last_value" => Meaning::Aggregate(Aggregate::Last),
        "arg_min" => Meaning::Aggregate(Aggregate::ArgMin),
        "arg_max" => Meaning::Aggregate(Aggregate::ArgMax),
        "delta" => Meaning::Aggregate(Aggregate::Delta),
        "approx_distinct" => Meaning::Aggregate(Aggregate::ApproxDistinct),
        "approx_percentile" => Meaning::Aggregate(Aggregate::ApproxPercentile),
        "stddev" | "stddev_samp" => spread(true, true),
        "stddev_pop" => spread(true, false),
        "variance" | "var_samp" => spread(false, true),
        "var_pop" => spread(false, false),
        "tumble" => Meaning::Window(window::tumble),
        "hop" => Meaning::Window(window::hop),
        "session" => Meaning::Window(window::session),
        "tumble_start" | "tumble_end" | "hop_start" | "hop_end" | "session_start"
        | "session_end" => Meaning::Refused(OTHER_WINDOW),
        "first" | "last" | "any_value" => Meaning::Refused(
            "is not supported. Allowed: first_value(x), last_value(x), which go by event time",
        ),
        "max_by" | "min_by" | "argmax" | "argmin" => {
            Meaning::Refused("is not supported. Allowed: arg_max(x, y), arg_min(x, y)")
        }
        "var" | "var_sample" | "stddev_sample" | "stddev_population" | "var_population" => {
            Meaning::Refused(
                "is not PostgreSQL's. Allowed: stddev, stddev_samp, stddev_pop, variance, \
                 var_samp, var_pop",
            )
        }
        "covar_pop" | "covar_samp" | "corr" | "nth_value" | "bit_and" | "bit_or" | "bit_xor"
        | "regr_slope" | "regr_intercept" | "regr_count" | "regr_r2" | "regr_avgx"
        | "regr_avgy" | "regr_sxx" | "regr_syy" | "regr_sxy" => Meaning::Refused(LATER),
        "median"
        | "percentile_cont"
        | "percentile_disc"
        | "mode"
        | "quantile_cont"
        | "approx_median"
        | "approx_percentile_cont"
        | "approx_percentile_cont_with_weight"
        | "grouping" => Meaning::Refused(EVERY_VALUE),
        "string_agg" | "array_agg" | "json_agg" | "jsonb_agg" | "json_object_agg"
        | "jsonb_object_agg" | "xmlagg" | "listagg" => Meaning::Refused(GROWS),
        "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist" | "ntile" | "lag"
        | "lead" => Meaning::Refused(RANKING),
        _ => Meaning::Scalar,
    }
}

/// The call of an aggregate that this very expression is; None: it is none (or a refused one,
/// which [`refused`] tells).
pub(super) fn aggregate(expr: &Expr, line: usize) -> Option<Result<Call, String>> {
    let Expr::Function(function) = expr else { return None };
    let Meaning::Aggregate(aggregate) = meaning(function) else { return None };
    Some(call(function, aggregate, line_of(expr, line)))
}

fn call(function: &Function, aggregate: Aggregate, line: usize) -> Result<Call, String> {
    let name = aggregate.as_str();
    if function.over.is_some() {
        return Err(format!(
            "{name}(…) OVER is a window function, which is not supported. Allowed: {name}(…) \
             with GROUP BY"
        ));
    }
    if !function.within_group.is_empty() || function.null_treatment.is_some() {
        return Err(format!(
            "{name}(…) with WITHIN GROUP or NULLS. Allowed: {name}(…) [FILTER (WHERE …)]"
        ));
    }
    let FunctionArguments::List(list) = &function.args else {
        return Err(format!("{name} without its arguments. Allowed: {name}(expression)"));
    };
    let mut aggregate = aggregate;
    if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
        match aggregate {
            Aggregate::Count => aggregate = Aggregate::CountDistinct,
            // The least of the distinct values is the least of all.
            Aggregate::Min | Aggregate::Max | Aggregate::BoolAnd | Aggregate::BoolOr => {
                return Err(format!("{name}(DISTINCT x) is {name}(x). Allowed: {name}(x)"));
            }
            _ => {
                return Err(format!(
                    "{name}(DISTINCT …) cannot be merged: it needs every value that was seen. \
                     Allowed: {name}(x), count(DISTINCT x)"
                ));
            }
        }
    }
    if !list.clauses.is_empty() {
        return Err(format!(
            "{name}(… ORDER BY …) and the like are not supported. Allowed: {name}(x) [FILTER \
             (WHERE …)]"
        ));
    }
    let filter = function.filter.as_deref().cloned();
    let mut args = Vec::new();
    for arg in &list.args {
        match (aggregate, arg) {
            (_, FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))) => args.push(unbracketed(arg)),
            (Aggregate::Count, FunctionArg::Unnamed(FunctionArgExpr::Wildcard))
                if list.args.len() == 1 =>
            {
                return Ok(Call { aggregate, args, filter, line });
            }
            _ => args.clear(),
        }
    }
    if args.len() != aggregate.arity() || args.len() != list.args.len() {
        return Err(match aggregate {
            Aggregate::Count => "count takes one argument. Allowed: count(*), count(x)".into(),
            Aggregate::CountDistinct => {
                "count(DISTINCT …) takes one argument. Allowed: count(DISTINCT x)".into()
            }
            Aggregate::ArgMin | Aggregate::ArgMax => {
                format!("{name} takes two arguments. Allowed: {name}(x, y)")
            }
            Aggregate::ApproxPercentile => {
                format!("{name} takes two arguments. Allowed: {name}(x, 0.95)")
            }
            _ => format!("{name} takes one argument. Allowed: {name}(x)"),
        });
    }
    Ok(Call { aggregate, args, filter, line })
}

fn unbracketed(expr: &Expr) -> Expr {
    match expr {
        Expr::Nested(inner) => unbracketed(inner),
        other => other.clone(),
    }
}

/// Shows each expression in this one, itself too. `dyn`: the compiler makes the walk through all of SQL's syntax
/// anew for each type of visitor.
pub(super) fn each(expr: &Expr, visit: &mut dyn FnMut(&Expr)) {
    let _ = visit_expressions(expr, |e| {
        visit(e);
        ControlFlow::<()>::Continue(())
    });
}

/// The aggregates anywhere in the expression that are written as they must be.
pub(super) fn aggregates(expr: &Expr, line: usize) -> Vec<Call> {
    let mut all = Vec::new();
    each(expr, &mut |e| all.extend(aggregate(e, line).and_then(Result::ok)));
    all
}

/// The window that this very expression is: `tumble(interval '5 minutes')`.
pub(super) fn window(expr: &Expr) -> Option<Result<Shape, String>> {
    let Expr::Function(function) = expr else { return None };
    match meaning(function) {
        Meaning::Window(read) => Some(read(function)),
        Meaning::Aggregate(_) | Meaning::Refused(_) | Meaning::Scalar => None,
    }
}

/// Whether there is an aggregate anywhere in the expression.
pub(super) fn has_aggregate(expr: &Expr) -> bool {
    found(expr, |e| match e {
        Expr::Function(function) => matches!(meaning(function), Meaning::Aggregate(_)),
        _ => false,
    })
}

pub(super) fn has_window(expr: &Expr) -> bool {
    found(expr, |e| window(e).is_some())
}

fn found(expr: &Expr, is: impl Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    each(expr, &mut |e| found |= is(e));
    found
}

/// Calls in the expression that no model may hold, with line and reason.
pub(super) fn refused(expr: &Expr, line: usize) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    each(expr, &mut |e| {
        let here = line_of(e, line);
        match e {
            Expr::Function(function) => match meaning(function) {
                Meaning::Refused(why) => all.push((here, format!("{} {why}", function.name))),
                Meaning::Scalar if function.over.is_some() => {
                    all.push((here, format!("{}(…) OVER {RANKING}", function.name)));
                }
                Meaning::Scalar if function.filter.is_some() => all.push((
                    here,
                    format!(
                        "FILTER after {}, which is no aggregate. Allowed: {MERGEABLE}",
                        function.name
                    ),
                )),
                Meaning::Scalar | Meaning::Aggregate(_) | Meaning::Window(_) => {}
            },
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                all.push((
                    here,
                    "a subquery is not supported: each model reads one topic. \
                     Allowed: columns of the topic"
                        .into(),
                ));
            }
            _ => {}
        }
    });
    all
}
