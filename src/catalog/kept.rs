//! The columns of each part: arguments as they are computed, types that cannot overflow.
//!
//! Owns: what each part keeps, which types it takes. Does not own: which parts a model needs (see
//! `parts`).

use super::{
    Extreme, Merge, Moments, PartColumn, PartFunction, PgType, Pick, Rank, SketchKind,
    calls::Aggregate, decompose::fit_for_key, scalar::Scalar,
};
use arrow::datatypes::DataType;
use datafusion_expr::Expr;
use std::sync::Arc;

/// A sum of numeric(p,s) in one cut must fit 38 digits: ten are left for the number of its rows.
const SUM_PRECISION_MAX: u8 = 28;

/// What is asked of a part, before the types are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Count,
    CountDistinct,
    Sum,
    SumOfSquares,
    Min,
    Max,
    And,
    Or,
    Moments,
    Pick(Pick),
    /// The last value that is not NULL.
    LastKnown,
    Sketch(SketchKind),
}

impl Wanted {
    /// The single part that an aggregate is; None: it is computed from several.
    pub fn single(aggregate: Aggregate) -> Option<Self> {
        match aggregate {
            Aggregate::Count => Some(Self::Count),
            Aggregate::CountDistinct => Some(Self::CountDistinct),
            Aggregate::Sum => Some(Self::Sum),
            Aggregate::Min => Some(Self::Min),
            Aggregate::Max => Some(Self::Max),
            Aggregate::BoolAnd => Some(Self::And),
            Aggregate::BoolOr => Some(Self::Or),
            Aggregate::First => Some(Self::Pick(Pick::First)),
            Aggregate::Last => Some(Self::Pick(Pick::Last)),
            Aggregate::ArgMin => Some(Self::Pick(Pick::LeastBy)),
            Aggregate::ArgMax => Some(Self::Pick(Pick::GreatestBy)),
            Aggregate::Avg
            | Aggregate::Spread(_)
            | Aggregate::Delta
            | Aggregate::ApproxDistinct
            | Aggregate::ApproxPercentile => None,
        }
    }

    /// The last word of a hidden column's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::CountDistinct => "distinct",
            Self::Sum => "sum",
            Self::SumOfSquares => "squares",
            Self::Min => "min",
            Self::Max => "max",
            Self::And => "and",
            Self::Or => "or",
            Self::Moments => "moments",
            Self::Pick(Pick::First) => "first",
            Self::Pick(Pick::Last) | Self::LastKnown => "last",
            Self::Sketch(_) => "sketch",
            Self::Pick(Pick::LeastBy) => "arg_min",
            Self::Pick(Pick::GreatestBy) => "arg_max",
        }
    }
}

/// A part's types and columns.
pub(super) struct Kept {
    pub function: PartFunction,
    pub args: Vec<Expr>,
    pub columns: Vec<PartColumn>,
    /// A whole number to PostgreSQL, whatever type keeps it.
    pub whole: bool,
}

/// A free name for a hidden column: of the part with this name, ending in this word.
type Hidden<'h> = &'h dyn Fn(&str, &str) -> String;

/// What a part keeps, under this name.
pub(super) fn kept(
    wanted: Wanted,
    aggregate: Aggregate,
    mut args: Vec<Scalar>,
    name: String,
    hidden: Hidden<'_>,
) -> Result<Kept, String> {
    let called = aggregate.as_str();
    let types: Vec<PgType> = args.iter().map(|arg| arg.pg).collect();
    let exact = |args: Vec<Scalar>| args.into_iter().map(Scalar::exact).collect::<Vec<_>>();
    let one = |function, args, pg: PgType, arrow, merge, whole| {
        let columns = vec![PartColumn { name: name.clone(), pg, arrow, merge }];
        Ok(Kept { function, args, columns, whole })
    };
    match (wanted, types.as_slice()) {
        (Wanted::Count, _) => {
            one(PartFunction::Count, exact(args), PgType::BigInt, DataType::Int64, Merge::Add, true)
        }
        (Wanted::CountDistinct, [pg]) => {
            fit_for_key(*pg).map_err(|why| {
                format!("count(DISTINCT …): {}", why.replace("a key of", "a value of"))
            })?;
            let function = PartFunction::CountDistinct(*pg);
            one(function, exact(args), PgType::BigInt, DataType::Int64, Merge::Add, true)
        }
        (Wanted::Sum, [pg]) => {
            let (arrow, kept, whole) = match *pg {
                PgType::SmallInt | PgType::Integer => (DataType::Int64, PgType::NumericAny, true),
                // A sum of bigint is numeric in PostgreSQL too.
                PgType::BigInt => (DataType::Decimal128(38, 0), PgType::NumericAny, false),
                PgType::Numeric(p, _) if p > SUM_PRECISION_MAX => {
                    return Err(too_precise("a sum", called, *pg));
                }
                PgType::Numeric(_, s) => {
                    (DataType::Decimal128(38, s), PgType::Numeric(38, s), false)
                }
                PgType::Real | PgType::Double => (DataType::Float64, PgType::Double, false),
                other => return Err(format!("a sum of {other}. Allowed: numbers")),
            };
            let arg = args.remove(0).into(arrow.clone());
            one(PartFunction::Sum, vec![arg], kept, arrow, Merge::Add, whole)
        }
        (Wanted::SumOfSquares, [pg]) => {
            let (digits, scale) = match *pg {
                PgType::SmallInt | PgType::Integer => (10, 0),
                PgType::BigInt => (19, 0),
                PgType::Numeric(p, _) if p > SUM_PRECISION_MAX => {
                    return Err(too_precise("a sum of squares", called, *pg));
                }
                PgType::Numeric(p, s) => (p, s),
                other => return Err(format!("a {called} of {other}. Allowed: numbers")),
            };
            // 56 digits at most, and room for as many rows as a sum has.
            let root = args.remove(0).into(DataType::Decimal256(digits, scale));
            let arrow = DataType::Decimal256(76, 2 * scale);
            let square = datafusion_expr::cast(root.clone() * root, arrow.clone());
            let args = vec![square];
            one(PartFunction::Sum, args, PgType::NumericAny, arrow, Merge::Add, false)
        }
        (Wanted::Min | Wanted::Max, [pg]) => {
            let whole = match *pg {
                PgType::SmallInt | PgType::Integer | PgType::BigInt => true,
                PgType::Boolean => {
                    return Err(format!(
                        "PostgreSQL has no {called} of boolean. Allowed: bool_and(x), bool_or(x)"
                    ));
                }
                other if is_ordered(other) => false,
                other => {
                    return Err(format!(
                        "a {called} of {other}. Allowed: numbers, text, uuid, date, timestamptz"
                    ));
                }
            };
            let (function, merge) = match wanted {
                Wanted::Min => (PartFunction::Min, Merge::Least),
                _ => (PartFunction::Max, Merge::Greatest),
            };
            one(function, exact(args), *pg, pg.arrow(), merge, whole)
        }
        (Wanted::And | Wanted::Or, [PgType::Boolean]) => {
            let (function, merge) = match wanted {
                Wanted::And => (PartFunction::And, Merge::Least),
                _ => (PartFunction::Or, Merge::Greatest),
            };
            one(function, exact(args), PgType::Boolean, DataType::Boolean, merge, false)
        }
        (Wanted::And | Wanted::Or, [other]) => {
            Err(format!("a {called} of {other}. Allowed: a boolean"))
        }
        (Wanted::Moments, [_]) => {
            let [count, mean, squares] = ["count", "mean", "m2"].map(|word| hidden(&name, word));
            let moments = Arc::new(Moments { count, mean, squares });
            let double = |name: &String, merge| PartColumn {
                name: name.clone(),
                pg: PgType::Double,
                arrow: DataType::Float64,
                merge,
            };
            let columns = vec![
                PartColumn {
                    name: moments.count.clone(),
                    pg: PgType::BigInt,
                    arrow: DataType::Int64,
                    merge: Merge::Add,
                },
                double(&moments.mean, Merge::Mean(moments.clone())),
                double(&moments.squares, Merge::SquaredDifferences(moments.clone())),
            ];
            let args = args.into_iter().map(|arg| arg.into(DataType::Float64)).collect();
            Ok(Kept { function: PartFunction::Moments, args, columns, whole: false })
        }
        (Wanted::Pick(pick), [value, by @ ..]) => {
            if let Some(by) = by.first()
                && !is_ordered(*by)
                && *by != PgType::Boolean
            {
                return Err(format!(
                    "{called}(x, y) by {by}. Allowed: numbers, text, boolean, uuid, date, \
                     timestamptz as y"
                ));
            }
            let whole = matches!(value, PgType::SmallInt | PgType::Integer | PgType::BigInt);
            let columns = picked(pick, *value, by.first().copied(), name, hidden);
            Ok(Kept { function: PartFunction::Pick(pick), args: exact(args), columns, whole })
        }
        (Wanted::LastKnown, [pg]) => {
            let whole = match *pg {
                PgType::SmallInt | PgType::Integer | PgType::BigInt => true,
                PgType::Numeric(..) => false,
                PgType::Real | PgType::Double => {
                    return Err(format!(
                        "a {called} of {pg} is not exact. Allowed: {called}(x::numeric(18,6))"
                    ));
                }
                other => return Err(format!("a {called} of {other}. Allowed: numbers")),
            };
            let columns = picked(Pick::Last, *pg, None, name, hidden);
            let function = PartFunction::Pick(Pick::Last);
            Ok(Kept { function, args: exact(args), columns, whole })
        }
        (Wanted::Sketch(kind), [pg]) => {
            let args = match kind {
                SketchKind::Distinct => {
                    fit_for_key(*pg).map_err(|why| {
                        format!("{called}(…): {}", why.replace("a key of", "a value of"))
                    })?;
                    exact(args)
                }
                SketchKind::Quantiles => match *pg {
                    PgType::SmallInt
                    | PgType::Integer
                    | PgType::BigInt
                    | PgType::Numeric(..)
                    | PgType::Real
                    | PgType::Double => {
                        args.into_iter().map(|arg| arg.into(DataType::Float64)).collect()
                    }
                    other => return Err(format!("{called}(…) of {other}. Allowed: numbers")),
                },
            };
            let merge = Merge::Sketch(kind);
            one(PartFunction::Sketch(kind), args, PgType::Bytea, DataType::Binary, merge, false)
        }
        _ => Err(format!("{called} has the wrong number of arguments. Allowed: {called}(x)")),
    }
}

/// The value chosen, and what says that it was to be chosen.
fn picked(
    pick: Pick,
    value: PgType,
    by: Option<PgType>,
    name: String,
    hidden: Hidden<'_>,
) -> Vec<PartColumn> {
    let place = ["time", "partition", "offset"].map(|word| hidden(&name, word));
    let by: Option<(String, Extreme, PgType)> =
        pick.by().zip(by).map(|(extreme, pg)| (hidden(&name, "by"), extreme, pg));
    let rank = Arc::new(Rank {
        by: by.as_ref().map(|(name, extreme, _)| (name.clone(), *extreme)),
        place: place.clone(),
        wins: pick.place(),
    });
    let column = |name: String, pg: PgType| PartColumn {
        name,
        pg,
        arrow: pg.arrow(),
        merge: Merge::Win(rank.clone()),
    };
    let [time, partition, offset] = place;
    let mut columns = vec![column(name, value)];
    columns.extend(by.map(|(name, _, pg)| column(name, pg)));
    columns.push(column(time, PgType::Timestamptz));
    columns.push(column(partition, PgType::Integer));
    columns.push(column(offset, PgType::BigInt));
    columns
}

fn too_precise(what: &str, called: &str, pg: PgType) -> String {
    format!(
        "{what} of {pg} may not fit 38 digits. Allowed: numeric(p,s) with p up to {SUM_PRECISION_MAX}; \
         {called}(x::numeric({SUM_PRECISION_MAX},s))"
    )
}

/// Whether the process and PostgreSQL agree on which value is less.
fn is_ordered(pg: PgType) -> bool {
    match pg {
        PgType::SmallInt
        | PgType::Integer
        | PgType::BigInt
        | PgType::Text
        | PgType::Real
        | PgType::Double
        | PgType::Numeric(..)
        | PgType::Date
        | PgType::Timestamptz
        | PgType::Uuid => true,
        PgType::Boolean | PgType::NumericAny | PgType::Jsonb | PgType::Bytea => false,
    }
}
