//! What a model keeps for its aggregates: mergeable parts, and generated columns over them.
//!
//! Owns: which parts an aggregate needs, their names. Does not own: their columns and types (see
//! `kept`), how two rows merge (`warehouse::merging`), how a cut counts (`compute`), the text of
//! expressions around aggregates (see `generated`).
//!
//! Each distinct part (function, arguments, filter) is kept once: under the alias of the first
//! SELECT item that is that very part, else in a hidden column whose name begins with `_`. What a
//! part keeps besides its first column is hidden too.

use super::{
    Column, Estimate, Key, Part, PgType, Role, Shape, SketchKind,
    calls::{self, Aggregate, Call, Spread},
    generated::{Generator, Leaves, Piece, Wrong, quoted, quotient, unbracketed},
    kept::{Kept, Wanted, kept},
    mistake::{Page, unknown},
    scalar::Scalars,
    sql::{Item, line_of},
};
use datafusion_expr::{Case, Expr, lit};
use datafusion_sql::sqlparser::ast::{Expr as Ast, Value};

struct PartDraft {
    /// What makes it the same part: function, arguments, filter.
    id: (Wanted, Vec<String>, String),
    /// Its first column stands in SELECT.
    visible: bool,
    /// A whole number to PostgreSQL, whatever type keeps it.
    whole: bool,
    part: Part,
}

impl PartDraft {
    fn columns(&self) -> impl Iterator<Item = Column> {
        self.part.columns.iter().map(|c| Column {
            name: c.name.clone(),
            pg: c.pg,
            role: Role::Part(c.merge.clone()),
        })
    }

    fn piece(&self) -> Piece {
        let first = &self.part.columns[0];
        Piece::column(&first.name, first.pg, self.whole)
    }
}

/// A column beside the parts, made of one after rows have merged: a difference, an estimate.
struct Beside {
    visible: bool,
    whole: bool,
    column: Column,
}

/// Whether a SELECT item is just one part, or a column beside one.
pub(super) enum Bare {
    Part(usize),
    Beside(usize),
    /// It would be, but for a mistake that stands on the page.
    Told,
    /// It is more than that, or the same as an earlier item.
    No,
}

pub(super) struct Parts<'s, 't> {
    scalars: &'s Scalars<'t>,
    all: Vec<PartDraft>,
    beside: Vec<Beside>,
    /// Something could not be read: do not conclude from what is missing.
    pub incomplete: bool,
}

impl<'s, 't> Parts<'s, 't> {
    pub fn new(scalars: &'s Scalars<'t>) -> Self {
        Self { scalars, all: Vec::new(), beside: Vec::new(), incomplete: false }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn visible_column(&self, part: usize) -> Column {
        self.all[part].columns().next().expect("a part has a first column")
    }

    pub fn column_beside(&self, index: usize) -> Column {
        self.beside[index].column.clone()
    }

    pub fn has_differences(&self) -> bool {
        self.beside.iter().any(|b| matches!(b.column.role, Role::Difference(_)))
    }

    pub fn hidden_columns(&self) -> impl Iterator<Item = Column> {
        let parts = self.all.iter();
        let parts = parts.flat_map(|part| part.columns().skip(usize::from(part.visible)));
        let beside = self.beside.iter().filter(|b| !b.visible);
        parts.chain(beside.map(|b| b.column.clone()))
    }

    pub fn into_parts(self) -> Vec<Part> {
        self.all.into_iter().map(|p| p.part).collect()
    }

    /// Adds the part that a SELECT item is, under the item's name.
    pub fn visible(&mut self, page: &mut Page<'_>, item: &Item, name: &str) -> Bare {
        let Some(Ok(call)) = calls::aggregate(&item.expr, item.line) else { return Bare::No };
        if let Some(beside) = Besides::of(&call) {
            return match beside.and_then(|beside| self.beside(page, &beside, name, true)) {
                Ok((_, true)) => Bare::No,
                Ok((index, false)) => Bare::Beside(index),
                Err(Wrong::Told) => Bare::Told,
                Err(Wrong::At(line, what)) => {
                    page.line(line, what);
                    Bare::Told
                }
            };
        }
        let Some(wanted) = Wanted::single(call.aggregate) else { return Bare::No };
        if self.find(&id(wanted, &call)).is_some() {
            return Bare::No;
        }
        match self.add(page, wanted, &call, name.to_owned(), true) {
            Some(index) => Bare::Part(index),
            None => Bare::Told,
        }
    }

    /// The column of this call, under its alias or hidden, and whether it was there already.
    fn beside(
        &mut self,
        page: &mut Page<'_>,
        wanted: &Besides,
        alias: &str,
        visible: bool,
    ) -> Result<(usize, bool), Wrong> {
        let of = match self.find(&id(wanted.part, &wanted.call)) {
            Some(of) => of,
            None => {
                let name = self.hidden(alias, wanted.part.word());
                let added = self.add(page, wanted.part, &wanted.call, name, false);
                added.ok_or(Wrong::Told)?
            }
        };
        let part = &self.all[of];
        let first = &part.part.columns[0];
        let (role, pg, whole) = match wanted.estimate {
            None => match first.pg {
                PgType::SmallInt | PgType::Integer => {
                    (Role::Difference(first.name.clone()), PgType::BigInt, true)
                }
                _ => (Role::Difference(first.name.clone()), PgType::NumericAny, part.whole),
            },
            Some(estimate) => {
                let role = Role::Estimate(first.name.clone(), estimate);
                match estimate {
                    Estimate::Distinct => (role, PgType::BigInt, true),
                    Estimate::Quantile(_) => (role, PgType::Double, false),
                }
            }
        };
        if let Some(known) = self.beside.iter().position(|b| b.column.role == role) {
            return Ok((known, true));
        }
        let name = match visible {
            true => alias.to_owned(),
            false => self.hidden(alias, wanted.call.aggregate.as_str()),
        };
        self.beside.push(Beside { visible, whole, column: Column { name, pg, role } });
        Ok((self.beside.len() - 1, false))
    }

    fn find(&self, id: &(Wanted, Vec<String>, String)) -> Option<usize> {
        self.all.iter().position(|p| p.id == *id)
    }

    fn add(
        &mut self,
        page: &mut Page<'_>,
        wanted: Wanted,
        call: &Call,
        name: String,
        visible: bool,
    ) -> Option<usize> {
        let place = format!("{}(…)", call.aggregate.as_str());
        let mut args = Vec::new();
        for arg in &call.args {
            args.push(self.scalars.read(page, arg, call.line, &place)?);
        }
        let filter = match &call.filter {
            Some(filter) => {
                let scalar = self.scalars.read(page, filter, call.line, "FILTER")?;
                if scalar.pg != PgType::Boolean {
                    page.line(
                        call.line,
                        format!("FILTER (WHERE {filter}) is {}. Allowed: a boolean", scalar.pg),
                    );
                    return None;
                }
                Some(scalar.exact())
            }
            None => None,
        };
        let kept =
            match kept(wanted, call.aggregate, args, name, &|name, word| self.hidden(name, word)) {
                Ok(kept) => kept,
                Err(what) => {
                    page.line(call.line, what);
                    return None;
                }
            };
        let Kept { function, args, columns, whole } = kept;
        let filter = match (wanted, args.first()) {
            // What is NULL is no reading of the counter.
            (Wanted::LastKnown, Some(arg)) => Some(there(filter, arg)),
            _ => filter,
        };
        let part = Part { function, args, filter, columns };
        self.all.push(PartDraft { id: id(wanted, call), visible, whole, part });
        Some(self.all.len() - 1)
    }

    /// `_fare_avg_sum`, then `_fare_avg_sum_2`: no name of a user's begins so.
    fn hidden(&self, name: &str, word: &str) -> String {
        let first = format!("_{}_{word}", name.trim_start_matches('_'));
        let all = || {
            let parts = self.all.iter().flat_map(|p| &p.part.columns).map(|c| &c.name);
            parts.chain(self.beside.iter().map(|b| &b.column.name))
        };
        let taken = |name: &String| all().any(|known| known == name);
        std::iter::once(first.clone())
            .chain((2..).map(|n| format!("{first}_{n}")))
            .find(|name| !taken(name))
            .unwrap_or(first)
    }

    /// The column of an expression over keys and parts; the parts it needs are added.
    pub fn derived(
        &mut self,
        page: &mut Page<'_>,
        name: &str,
        ast: &Ast,
        keys: &[Key],
        key_texts: &[String],
        window: &Option<(String, Shape)>,
    ) -> Option<Column> {
        let line = line_of(ast, 1);
        let refused = calls::refused(ast, line);
        if !refused.is_empty() {
            for (line, what) in refused {
                page.line(line, what);
            }
            self.incomplete = true;
            return None;
        }
        let mut leaves = Found { parts: self, page, alias: name, keys, key_texts, window };
        match (Generator { leaves: &mut leaves, line }).piece(ast) {
            Ok(piece) => {
                let bare = piece.sql == quoted(piece.sql.trim_matches('"'));
                let cast = piece.sql.ends_with(&format!(")::{}", piece.pg));
                let sql = if calls::aggregate(ast, line).is_some() && !bare {
                    unbracketed(&piece.sql).to_owned()
                } else if bare || cast {
                    piece.sql
                } else {
                    // PostgreSQL's own opinion of the type must not differ from ours.
                    format!("({})::{}", unbracketed(&piece.sql), piece.pg)
                };
                Some(Column { name: name.to_owned(), pg: piece.pg, role: Role::Derived(sql) })
            }
            Err(Wrong::Told) => {
                self.incomplete = true;
                None
            }
            Err(Wrong::At(line, what)) => {
                page.line(line, what);
                None
            }
        }
    }
}

/// What a column beside a part needs.
struct Besides {
    part: Wanted,
    /// Of the part.
    call: Call,
    /// None: it is a difference.
    estimate: Option<Estimate>,
}

impl Besides {
    /// None: the call is something else.
    fn of(call: &Call) -> Option<Result<Self, Wrong>> {
        let (part, estimate) = match call.aggregate {
            Aggregate::Delta => (Wanted::LastKnown, None),
            Aggregate::ApproxDistinct => {
                (Wanted::Sketch(SketchKind::Distinct), Some(Estimate::Distinct))
            }
            Aggregate::ApproxPercentile => match share(call.args.get(1)) {
                Some(share) => {
                    (Wanted::Sketch(SketchKind::Quantiles), Some(Estimate::Quantile(share)))
                }
                None => {
                    let what = "approx_percentile's second argument is not a number from 0 to 1. \
                                Allowed: approx_percentile(x, 0.95)";
                    return Some(Err(Wrong::At(call.line, what.into())));
                }
            },
            _ => return None,
        };
        let mut call = call.clone();
        // All percentiles of one argument share its sketch.
        call.args.truncate(1);
        Some(Ok(Self { part, call, estimate }))
    }
}

/// A literal from 0 to 1.
fn share(ast: Option<&Ast>) -> Option<f64> {
    let Some(Ast::Value(value)) = ast else { return None };
    let Value::Number(digits, _) = &value.value else { return None };
    digits.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

/// The rows that pass the filter and have a value; the value is not looked at elsewhere.
fn there(filter: Option<Expr>, value: &Expr) -> Expr {
    let there = value.clone().is_not_null();
    match filter {
        None => there,
        Some(filter) => Expr::Case(Case {
            expr: None,
            when_then_expr: vec![(Box::new(filter), Box::new(there))],
            else_expr: Some(Box::new(lit(false))),
        }),
    }
}

fn id(wanted: Wanted, call: &Call) -> (Wanted, Vec<String>, String) {
    let filter = call.filter.as_ref().map_or(String::new(), Ast::to_string);
    (wanted, call.args.iter().map(Ast::to_string).collect(), filter)
}

/// Gives a generated column its keys and parts, and adds the parts that are not there yet.
struct Found<'f, 'p, 's, 't> {
    parts: &'f mut Parts<'s, 't>,
    page: &'f mut Page<'p>,
    alias: &'f str,
    keys: &'f [Key],
    key_texts: &'f [String],
    window: &'f Option<(String, Shape)>,
}

impl Found<'_, '_, '_, '_> {
    fn part(&mut self, wanted: Wanted, call: &Call) -> Result<usize, Wrong> {
        if let Some(index) = self.parts.find(&id(wanted, call)) {
            return Ok(index);
        }
        let name = self.parts.hidden(self.alias, wanted.word());
        self.parts.add(self.page, wanted, call, name, false).ok_or(Wrong::Told)
    }

    /// The name of this part's column, in quotes, and its type.
    fn column(&mut self, wanted: Wanted, call: &Call) -> Result<(String, PgType), Wrong> {
        let part = self.part(wanted, call)?;
        let first = &self.parts.all[part].part.columns[0];
        Ok((quoted(&first.name), first.pg))
    }

    fn beside(&mut self, call: &Call) -> Result<Piece, Wrong> {
        let wanted = Besides::of(call).ok_or(Wrong::Told)??;
        let (index, _) = self.parts.beside(self.page, &wanted, self.alias, false)?;
        let beside = &self.parts.beside[index];
        let column = &beside.column;
        Ok(Piece::column(&column.name, column.pg, beside.whole))
    }

    /// `sum / count` of the same argument: NULL where nothing was counted.
    fn average(&mut self, call: &Call) -> Result<Piece, Wrong> {
        let (sum, pg) = self.column(Wanted::Sum, call)?;
        let (count, _) = self.column(Wanted::Count, call)?;
        let sql = format!("({})", quotient(&sum, &count));
        Ok(match pg {
            PgType::Double => Piece::double(sql),
            _ => Piece::number(sql),
        })
    }

    /// Variance or its root. Of whole numbers and numeric from exact sums, as PostgreSQL has it: no
    /// order of arrival shows. The division is the only step that rounds.
    fn spread(&mut self, call: &Call, spread: Spread) -> Result<Piece, Wrong> {
        let [arg] = call.args.as_slice() else { return Err(Wrong::Told) };
        let place = format!("{}(…)", call.aggregate.as_str());
        let arg = self.parts.scalars.read(self.page, arg, call.line, &place);
        let double = match arg.ok_or(Wrong::Told)?.pg {
            PgType::Real | PgType::Double => true,
            PgType::SmallInt | PgType::Integer | PgType::BigInt | PgType::Numeric(..) => false,
            other => {
                let called = call.aggregate.as_str();
                let what = format!("a {called} of {other}. Allowed: numbers");
                return Err(Wrong::At(call.line, what));
            }
        };
        let sql = if double {
            let part = self.part(Wanted::Moments, call)?;
            let [count, _, squares] = self.parts.all[part].part.columns.as_slice() else {
                return Err(Wrong::Told);
            };
            let (n, squares) = (quoted(&count.name), quoted(&squares.name));
            let (least, divisor) = match spread.sample {
                true => (1, format!("({n} - 1)")),
                false => (0, n.clone()),
            };
            format!("CASE WHEN {n} > {least} THEN {squares} / {divisor}::double precision END")
        } else {
            let (squares, _) = self.column(Wanted::SumOfSquares, call)?;
            let (sum, _) = self.column(Wanted::Sum, call)?;
            let (n, _) = self.column(Wanted::Count, call)?;
            let other = if spread.sample { format!("({n} - 1)") } else { n.clone() };
            let differences = format!("({n}::numeric * {squares} - {sum} * {sum})");
            quotient(&differences, &format!("({n}::numeric * {other})"))
        };
        let sql = if spread.root { format!("sqrt({sql})") } else { format!("({sql})") };
        Ok(if double { Piece::double(sql) } else { Piece::number(sql) })
    }
}

impl Leaves for Found<'_, '_, '_, '_> {
    fn leaf(&mut self, expr: &Ast, line: usize) -> Option<Result<Piece, Wrong>> {
        let text = expr.to_string();
        if let Some(index) = self.key_texts.iter().position(|key| *key == text) {
            let key = &self.keys[index];
            return Some(Ok(Piece::column(&key.name, key.pg, false)));
        }
        let call = match calls::aggregate(expr, line)? {
            Ok(call) => call,
            Err(what) => return Some(Err(Wrong::At(line_of(expr, line), what))),
        };
        let single = Wanted::single(call.aggregate);
        Some(match (single, call.aggregate) {
            (Some(wanted), _) => {
                self.part(wanted, &call).map(|index| self.parts.all[index].piece())
            }
            (None, Aggregate::Spread(spread)) => self.spread(&call, spread),
            (None, Aggregate::Delta | Aggregate::ApproxDistinct | Aggregate::ApproxPercentile) => {
                self.beside(&call)
            }
            (None, _) => self.average(&call),
        })
    }

    fn stray(&self, name: &str) -> String {
        if let Some((window, _)) = self.window
            && window == name
        {
            return format!(
                "the window `{name}` inside an expression. Allowed: the columns {name}_start and \
                 {name}_end, when reading the table"
            );
        }
        if !self.parts.scalars.has_column(name) {
            let names: Vec<&str> = self
                .parts
                .scalars
                .topic()
                .schema
                .fields()
                .iter()
                .map(|f| f.name().as_str())
                .collect();
            return match names.is_empty() {
                true => unknown("column", name, &names),
                false => self.parts.scalars.unknown_column(name),
            };
        }
        format!(
            "the column `{name}` is neither grouped nor aggregated. Allowed: {name} in GROUP BY, \
             or an aggregate such as max({name})"
        )
    }
}
