//! The function calls that are ours, not DataFusion's: windows and aggregates.
//!
//! Owns: which of them there are, how each is written, why the others are refused. Does not own:
//! what is kept for them (see `decompose`), what windows mean (see `window`).

use super::{Shape, sql::line_of, window};
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    visit_expressions,
};
use std::ops::ControlFlow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
    Avg,
}

impl Aggregate {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
        }
    }
}

/// One call of an aggregate: `function(arg) FILTER (WHERE filter)`.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub aggregate: Aggregate,
    /// None for `count(*)`.
    pub arg: Option<Expr>,
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

const MERGEABLE: &str = "count, sum, min, max, avg";
const LATER: &str = "is not supported yet. Allowed: count, sum, min, max, avg";
const EVERY_VALUE: &str = "cannot be merged: it needs every value of the group at once, while only a small state per \
                           group is kept. Allowed: count, sum, min, max, avg";
const GROWS: &str = "cannot be merged: its result depends on the order of all rows and grows without limit. Allowed: \
                     count, sum, min, max, avg";
const OTHER_WINDOW: &str = "is not supported. Allowed: tumble(interval '…'), hop(interval '…', interval '…'), \
                            session(interval '…'); columns NAME_start and NAME_end follow";
const RANKING: &str =
    "is a window function, which is not supported. Allowed: tumble(interval '…') with GROUP BY";

fn meaning(function: &Function) -> Meaning {
    match function.name.to_string().to_lowercase().as_str() {
        "count" => Meaning::Aggregate(Aggregate::Count),
        "sum" => Meaning::Aggregate(Aggregate::Sum),
        "min" => Meaning::Aggregate(Aggregate::Min),
        "max" => Meaning::Aggregate(Aggregate::Max),
        "avg" | "mean" => Meaning::Aggregate(Aggregate::Avg),
        "tumble" => Meaning::Window(window::tumble),
        "hop" => Meaning::Window(window::hop),
        "session" => Meaning::Window(window::session),
        "tumble_start" | "tumble_end" | "hop_start" | "hop_end" | "session_start"
        | "session_end" => Meaning::Refused(OTHER_WINDOW),
        "stddev" | "stddev_pop" | "stddev_samp" | "variance" | "var" | "var_pop" | "var_samp"
        | "var_sample" | "covar_pop" | "covar_samp" | "corr" | "first_value" | "last_value"
        | "nth_value" | "first" | "last" | "any_value" | "approx_distinct" | "bit_and"
        | "bit_or" | "bit_xor" | "regr_slope" | "regr_intercept" | "regr_count" | "regr_r2"
        | "regr_avgx" | "regr_avgy" | "regr_sxx" | "regr_syy" | "regr_sxy" => {
            Meaning::Refused(LATER)
        }
        "bool_and" | "bool_or" | "every" => Meaning::Refused(
            "is not supported yet. Allowed: count, sum, min, max, avg; count(*) FILTER (WHERE …) \
             = 0 says the same",
        ),
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
    if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
        return Err(match aggregate {
            Aggregate::Count => "count(DISTINCT …) is not supported yet: it needs every value that was seen. Allowed: \
                                 count(*), count(x)"
                .to_owned(),
            // The least of the distinct values is the least of all.
            Aggregate::Min | Aggregate::Max => format!("{name}(DISTINCT x) is {name}(x). \
                Allowed: {name}(x)"),
            Aggregate::Sum | Aggregate::Avg => format!("{name}(DISTINCT …) cannot be merged: it \
                needs every value that was seen. Allowed: {name}(x)"),
        });
    }
    if !list.clauses.is_empty() {
        return Err(format!(
            "{name}(… ORDER BY …) and the like are not supported. Allowed: {name}(x) [FILTER \
             (WHERE …)]"
        ));
    }
    let filter = function.filter.as_deref().cloned();
    let arg = match (aggregate, list.args.as_slice()) {
        (Aggregate::Count, [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)]) => None,
        (_, [FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))]) => Some(unbracketed(arg)),
        (Aggregate::Count, _) => {
            return Err("count takes one argument. Allowed: count(*), count(x)".into());
        }
        _ => return Err(format!("{name} takes one argument. Allowed: {name}(x)")),
    };
    Ok(Call { aggregate, arg, filter, line })
}

fn unbracketed(expr: &Expr) -> Expr {
    match expr {
        Expr::Nested(inner) => unbracketed(inner),
        other => other.clone(),
    }
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
    let visit = visit_expressions(expr, |e| match is(e) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    visit.is_break()
}

/// Calls in the expression that no model may hold, with line and reason.
pub(super) fn refused(expr: &Expr, line: usize) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let _ = visit_expressions(expr, |e| {
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
        ControlFlow::<()>::Continue(())
    });
    all
}
