//! GROUP BY, taken apart: window, keys, mergeable parts, and what follows from them.
//!
//! Owns: which parts a model keeps, their types and names. Does not own: the text of generated
//! columns (see `generated`).
//!
//! Each distinct part (function, argument, filter) is kept once: under the alias of the first
//! SELECT item that is that very part, else in a hidden column whose name begins with `_`.

use super::{
    Aggregate, Column, Key, Merge, ModelKind, Part, PartFunction, PgType, Role, Shape, Window,
    calls::{self, Call, has_aggregate, has_window},
    decompose::{KEYS_MAX, Options, fit_for_key},
    generated::{Generator, Leaves, Piece, Wrong, quoted, quotient, unbracketed},
    mistake::{Page, unknown},
    scalar::{Scalar, Scalars},
    sql::{Item, Statement, line_of},
};
use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{Expr as Ast, Value};
use std::collections::BTreeSet;

/// A sum of numeric(p,s) in one cut must fit 38 digits: ten are left for the number of its rows.
const SUM_PRECISION_MAX: u8 = 28;

/// What a SELECT item turns out to be.
enum Slot<'s> {
    Window(String),
    Key(usize),
    Part(usize),
    /// Computed by PostgreSQL from keys and parts.
    Derived(&'s str, &'s Ast),
}

pub(super) fn aggregate(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
) -> Option<(ModelKind, Vec<Column>)> {
    let before = page.mistakes.len();
    let group_by = group_by(page, statement, scalars);
    let mut window = None;
    let mut keys: Vec<Key> = Vec::new();
    let mut key_texts: Vec<String> = Vec::new();
    let mut parts = Parts { scalars, all: Vec::new(), incomplete: false };
    let mut slots = Vec::new();
    let mut selected = BTreeSet::new();

    for item in &statement.items {
        let text = item.expr.to_string();
        let grouped = group_by.iter().any(|(key, _)| *key == text);
        if let Some(shape) = calls::window(&item.expr) {
            let name = item.name().unwrap_or("window").to_owned();
            match shape {
                Err(what) => page.line(item.line, what),
                Ok(_) if !grouped => page.line(
                    item.line,
                    format!("the window is not in GROUP BY. Allowed: GROUP BY {name}"),
                ),
                Ok(_) if window.is_some() => {
                    page.line(item.line, "a second window. Allowed: one window per model")
                }
                Ok(shape) => window = Some((name.clone(), shape)),
            }
            selected.insert(text);
            slots.push(Slot::Window(name));
            continue;
        }
        let Some(name) = item.name() else { continue };
        if grouped && !selected.contains(&text) {
            selected.insert(text.clone());
            let Some(scalar) = scalars.read(page, &item.expr, item.line, "GROUP BY") else {
                parts.incomplete = true;
                continue;
            };
            if let Err(why) = fit_for_key(scalar.pg) {
                page.line(item.line, format!("GROUP BY `{name}`: {why}"));
            }
            slots.push(Slot::Key(keys.len()));
            key_texts.push(text);
            keys.push(Key { name: name.to_owned(), pg: scalar.pg, expr: scalar.exact() });
        } else {
            match parts.visible(page, item, name) {
                Bare::Part(index) => slots.push(Slot::Part(index)),
                Bare::Told => parts.incomplete = true,
                Bare::No => slots.push(Slot::Derived(name, &item.expr)),
            }
        }
    }
    for (key, line) in &group_by {
        if !selected.contains(key) {
            page.line(
                *line,
                format!(
                    "GROUP BY has `{key}`, SELECT does not: the table's rows \
                     could not be told apart. Allowed: {key} in SELECT as well"
                ),
            );
        }
    }
    if keys.len() + usize::from(window.is_some()) > KEYS_MAX {
        page.line(
            statement.line,
            format!("GROUP BY has {} keys. Allowed: {KEYS_MAX}", group_by.len()),
        );
    }

    let mut derived = Vec::new();
    let mut columns = Vec::new();
    for slot in &slots {
        match slot {
            Slot::Window(name) => {
                for (end, role) in [("start", Role::WindowStart), ("end", Role::WindowEnd)] {
                    columns.push(Column {
                        name: format!("{name}_{end}"),
                        pg: PgType::Timestamptz,
                        role,
                    });
                }
            }
            Slot::Key(index) => columns.push(Column {
                name: keys[*index].name.clone(),
                pg: keys[*index].pg,
                role: Role::Key,
            }),
            Slot::Part(index) => columns.push(parts.all[*index].column()),
            Slot::Derived(name, ast) => {
                if let Some(column) = parts.derived(page, name, ast, &keys, &key_texts, &window) {
                    derived.push(column.name.clone());
                    columns.push(column);
                }
            }
        }
    }
    columns.extend(parts.all.iter().filter(|p| !p.visible).map(PartDraft::column));
    let nothing_kept = parts.all.is_empty() && !parts.incomplete;
    if nothing_kept && page.mistakes.len() == before {
        page.line(
            statement.line,
            "GROUP BY without an aggregate keeps nothing per group. \
             Allowed: at least one, such as count(*) AS n",
        );
    }

    let mut options = Options::new(&statement.options);
    let windowed = statement.items.iter().any(|item| has_window(&item.expr));
    let window = match window {
        Some((name, shape)) => {
            let (allowed_lateness, late) = options.lateness(page);
            options.finish(page, &["allowed_lateness", "late"], "a windowed model");
            Some(Window { name, shape, allowed_lateness, late })
        }
        // A window that is wrong is still one: its options are not.
        None if windowed || page.mistakes.len() > before => None,
        None => {
            options.finish(page, &[], "a model with GROUP BY but without a window");
            None
        }
    };
    if page.mistakes.len() > before || parts.incomplete {
        return None;
    }
    let parts = parts.all.into_iter().map(|p| p.part).collect();
    Some((ModelKind::Aggregate(Aggregate { window, keys, parts }), columns))
}

/// The keys as the text of their expressions, with their lines: ordinals and aliases resolved.
/// A name is a column of the topic before it is an alias, as in PostgreSQL.
fn group_by(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
) -> Vec<(String, usize)> {
    let mut keys: Vec<(String, usize)> = Vec::new();
    for key in statement.group_by.iter().flatten() {
        let line = line_of(key, statement.line);
        let item_of = |item: &Item| item.expr.clone();
        let expr = match key {
            Ast::Value(value) => {
                let Value::Number(digits, _) = &value.value else {
                    page.line(
                        line,
                        format!(
                            "GROUP BY {key} is a literal. Allowed: columns, \
                             aliases, places in SELECT"
                        ),
                    );
                    continue;
                };
                let place = digits.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let Some(item) = place.and_then(|n| statement.items.get(n)) else {
                    page.line(
                        line,
                        format!(
                            "GROUP BY {digits}: SELECT has {} columns. Allowed: 1 to {0}",
                            statement.items.len()
                        ),
                    );
                    continue;
                };
                item_of(item)
            }
            Ast::Identifier(ident) if !scalars.has_column(&ident.value) => {
                let alias = statement.items.iter().find(|item| {
                    item.alias.as_deref() == Some(&ident.value)
                        || item.alias.is_none()
                            && ident.value == "window"
                            && calls::window(&item.expr).is_some()
                });
                match alias {
                    Some(item) => item_of(item),
                    // Told where SELECT has it; else here.
                    None if statement.items.iter().any(|item| item.expr == *key) => key.clone(),
                    None => {
                        page.line(
                            line,
                            format!("GROUP BY: {}", scalars.unknown_column(&ident.value)),
                        );
                        continue;
                    }
                }
            }
            other => other.clone(),
        };
        if has_aggregate(&expr) {
            page.line(
                line,
                format!("GROUP BY {key} is an aggregate. Allowed: columns and scalar expressions"),
            );
            continue;
        }
        if has_window(&expr) && calls::window(&expr).is_none() {
            page.line(
                line,
                format!("GROUP BY {key} computes with a window. Allowed: the window alone"),
            );
            continue;
        }
        let text = expr.to_string();
        if !keys.iter().any(|(known, _)| *known == text) {
            keys.push((text, line));
        }
    }
    keys
}

struct PartDraft {
    /// Function, argument, filter: what makes it the same part.
    id: (PartFunction, String, String),
    visible: bool,
    /// A whole number to PostgreSQL, whatever type keeps it.
    whole: bool,
    part: Part,
}

impl PartDraft {
    fn column(&self) -> Column {
        let merge = match self.part.function {
            PartFunction::Count | PartFunction::Sum => Merge::Add,
            PartFunction::Min => Merge::Least,
            PartFunction::Max => Merge::Greatest,
        };
        Column { name: self.part.name.clone(), pg: self.part.pg, role: Role::Part(merge) }
    }

    fn piece(&self) -> Piece {
        Piece::column(&self.part.name, self.part.pg, self.whole)
    }
}

/// Whether a SELECT item is just one part.
enum Bare {
    Part(usize),
    /// It would be, but for a mistake that stands on the page.
    Told,
    /// It is more than that, or the same as an earlier item.
    No,
}

struct Parts<'s, 't> {
    scalars: &'s Scalars<'t>,
    all: Vec<PartDraft>,
    /// Something could not be read: do not conclude from what is missing.
    incomplete: bool,
}

impl Parts<'_, '_> {
    /// Adds the part that a SELECT item is, under the item's name.
    fn visible(&mut self, page: &mut Page<'_>, item: &Item, name: &str) -> Bare {
        let Some(Ok(call)) = calls::aggregate(&item.expr, item.line) else { return Bare::No };
        let Some(function) = single(call.aggregate) else { return Bare::No };
        if self.find(&id(function, &call)).is_some() {
            return Bare::No;
        }
        match self.add(page, function, &call, name.to_owned(), true) {
            Some(index) => Bare::Part(index),
            None => Bare::Told,
        }
    }

    fn find(&self, id: &(PartFunction, String, String)) -> Option<usize> {
        self.all.iter().position(|p| p.id == *id)
    }

    fn add(
        &mut self,
        page: &mut Page<'_>,
        function: PartFunction,
        call: &Call,
        name: String,
        visible: bool,
    ) -> Option<usize> {
        let place = format!("{}(…)", call.aggregate.as_str());
        let arg = match &call.arg {
            Some(arg) => Some(self.scalars.read(page, arg, call.line, &place)?),
            None => None,
        };
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
        let kept = match kept(function, arg) {
            Ok(kept) => kept,
            Err(what) => {
                page.line(call.line, what);
                return None;
            }
        };
        let part = Part { name, function, arg: kept.arg, filter, pg: kept.pg, arrow: kept.arrow };
        self.all.push(PartDraft { id: id(function, call), visible, whole: kept.whole, part });
        Some(self.all.len() - 1)
    }

    /// The column of an expression over keys and parts; the parts it needs are added.
    fn derived(
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

fn id(function: PartFunction, call: &Call) -> (PartFunction, String, String) {
    let text = |ast: &Option<Ast>| ast.as_ref().map_or(String::new(), Ast::to_string);
    (function, text(&call.arg), text(&call.filter))
}

fn single(aggregate: calls::Aggregate) -> Option<PartFunction> {
    match aggregate {
        calls::Aggregate::Count => Some(PartFunction::Count),
        calls::Aggregate::Sum => Some(PartFunction::Sum),
        calls::Aggregate::Min => Some(PartFunction::Min),
        calls::Aggregate::Max => Some(PartFunction::Max),
        calls::Aggregate::Avg => None,
    }
}

/// A part's types.
struct Kept {
    arg: Option<datafusion::logical_expr::Expr>,
    arrow: DataType,
    pg: PgType,
    whole: bool,
}

fn kept(function: PartFunction, arg: Option<Scalar>) -> Result<Kept, String> {
    let Some(arg) = arg else {
        return Ok(Kept { arg: None, arrow: DataType::Int64, pg: PgType::BigInt, whole: true });
    };
    let pg = arg.pg;
    match function {
        PartFunction::Count => Ok(Kept {
            arg: Some(arg.exact()),
            arrow: DataType::Int64,
            pg: PgType::BigInt,
            whole: true,
        }),
        PartFunction::Sum => {
            let (arrow, pg, whole) = match pg {
                PgType::SmallInt | PgType::Integer => (DataType::Int64, PgType::NumericAny, true),
                // A sum of bigint is numeric in PostgreSQL too.
                PgType::BigInt => (DataType::Decimal128(38, 0), PgType::NumericAny, false),
                PgType::Numeric(p, _) if p > SUM_PRECISION_MAX => {
                    return Err(format!(
                        "a sum of {pg} may not fit 38 digits. Allowed: numeric(p,s) with p up to {SUM_PRECISION_MAX}; \
                         sum(x::numeric({SUM_PRECISION_MAX},s))"
                    ));
                }
                PgType::Numeric(_, s) => {
                    (DataType::Decimal128(38, s), PgType::Numeric(38, s), false)
                }
                PgType::Real | PgType::Double => (DataType::Float64, PgType::Double, false),
                other => return Err(format!("a sum of {other}. Allowed: numbers")),
            };
            Ok(Kept { arg: Some(arg.into(arrow.clone())), arrow, pg, whole })
        }
        PartFunction::Min | PartFunction::Max => {
            let name = if function == PartFunction::Min { "min" } else { "max" };
            let whole = match pg {
                PgType::SmallInt | PgType::Integer | PgType::BigInt => true,
                PgType::Text
                | PgType::Real
                | PgType::Double
                | PgType::Numeric(..)
                | PgType::Date
                | PgType::Timestamptz
                | PgType::Uuid => false,
                PgType::Boolean => {
                    return Err(format!(
                        "PostgreSQL has no {name} of boolean. Allowed: count(*) FILTER (WHERE …)"
                    ));
                }
                PgType::NumericAny | PgType::Jsonb | PgType::Bytea => {
                    return Err(format!(
                        "a {name} of {pg}. Allowed: numbers, text, uuid, date, timestamptz"
                    ));
                }
            };
            Ok(Kept { arg: Some(arg.exact()), arrow: pg.arrow(), pg, whole })
        }
    }
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
    fn part(&mut self, function: PartFunction, call: &Call) -> Result<usize, Wrong> {
        if let Some(index) = self.parts.find(&id(function, call)) {
            return Ok(index);
        }
        let name = self.hidden(function);
        self.parts.add(self.page, function, call, name, false).ok_or(Wrong::Told)
    }

    /// `_fare_avg_sum`, then `_fare_avg_sum_2`: no name of a user's begins so.
    fn hidden(&self, function: PartFunction) -> String {
        let function = match function {
            PartFunction::Count => "count",
            PartFunction::Sum => "sum",
            PartFunction::Min => "min",
            PartFunction::Max => "max",
        };
        let first = format!("_{}_{function}", self.alias);
        let taken = |name: &String| self.parts.all.iter().any(|p| p.part.name == *name);
        std::iter::once(first.clone())
            .chain((2..).map(|n| format!("{first}_{n}")))
            .find(|name| !taken(name))
            .unwrap_or(first)
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
        Some(match single(call.aggregate) {
            Some(function) => self.part(function, &call).map(|index| self.parts.all[index].piece()),
            None => self.average(&call),
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

impl Found<'_, '_, '_, '_> {
    /// `sum / count` of the same argument: NULL where nothing was counted.
    fn average(&mut self, call: &Call) -> Result<Piece, Wrong> {
        let sum = self.part(PartFunction::Sum, call)?;
        let count = self.part(PartFunction::Count, call)?;
        let (sum, count) = (&self.parts.all[sum].part, &self.parts.all[count].part);
        let sql = format!("({})", quotient(&quoted(&sum.name), &quoted(&count.name)));
        Ok(match sum.pg {
            PgType::Double => Piece::double(sql),
            _ => Piece::number(sql),
        })
    }
}
