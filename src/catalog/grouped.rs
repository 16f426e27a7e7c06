//! GROUP BY, taken apart: window, keys, mergeable parts, and what follows from them.
//!
//! Owns: what each SELECT item is, the table's columns in order. Does not own: what is kept for an
//! aggregate (see `parts`), the text of generated columns (see `generated`).

use super::{
    Aggregate, Column, Key, ModelKind, PgType, Role, Shape, Window,
    calls::{self, has_aggregate, has_window},
    decompose::{KEYS_MAX, Options, fit_for_key},
    mistake::Page,
    parts::{Bare, Parts},
    scalar::Scalars,
    sql::{Item, Statement, line_of},
};
use datafusion_sql::sqlparser::ast::{Expr as Ast, Value};
use std::collections::BTreeSet;

/// What a SELECT item turns out to be.
enum Slot<'s> {
    Window(String),
    Key(usize),
    Part(usize),
    Beside(usize),
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
    let mut parts = Parts::new(scalars);
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
                Bare::Beside(index) => slots.push(Slot::Beside(index)),
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
            Slot::Part(index) => columns.push(parts.visible_column(*index)),
            Slot::Beside(index) => columns.push(parts.column_beside(*index)),
            Slot::Derived(name, ast) => {
                if let Some(column) = parts.derived(page, name, ast, &keys, &key_texts, &window) {
                    derived.push(column.name.clone());
                    columns.push(column);
                }
            }
        }
    }
    columns.extend(parts.hidden_columns());
    let nothing_kept = parts.is_empty() && !parts.incomplete;
    if nothing_kept && page.mistakes.len() == before {
        page.line(
            statement.line,
            "GROUP BY without an aggregate keeps nothing per group. \
             Allowed: at least one, such as count(*) AS n",
        );
    }

    if let Some((_, shape)) = &window {
        for item in &statement.items {
            for call in calls::aggregates(&item.expr, item.line) {
                if let Some(why) = unfit(shape, call.aggregate) {
                    page.line(call.line, why);
                }
            }
        }
    }
    if parts.has_differences() && window.is_none() && page.mistakes.len() == before {
        page.line(
            statement.line,
            "delta(x) without a window: it is what a counter grew by from one window to the next. \
             Allowed: tumble(interval '…') in SELECT and GROUP BY; last_value(x) for what it has reached",
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
    let parts = parts.into_parts();
    Some((ModelKind::Aggregate(Aggregate { window, keys, parts }), columns))
}

/// Why an aggregate cannot be kept in windows of this shape.
fn unfit(shape: &Shape, aggregate: calls::Aggregate) -> Option<&'static str> {
    use calls::Aggregate as A;
    match (shape, aggregate) {
        (Shape::Tumble(_), _) => None,
        (Shape::Hop(_), A::Delta) => Some(
            "delta(x) with hop: windows that overlap have no window before them, from which a counter grew. \
             Allowed: tumble(interval '…'); first_value(x) and last_value(x) with hop",
        ),
        (Shape::Hop(_), _) => None,
        (Shape::Session { .. }, A::Delta) => Some(
            "delta(x) with session: a late record may join a session with the one before it, from which a \
             counter grew. Allowed: tumble(interval '…'); last_value(x) - first_value(x) with session",
        ),
        (Shape::Session { .. }, A::CountDistinct) => Some(
            "count(DISTINCT …) with session: when two sessions become one, the values counted for each would \
             have to become one set. Allowed: tumble, hop; or a model of rows without GROUP BY, and \
             count(DISTINCT …) in the query that reads it",
        ),
        (Shape::Session { .. }, A::ApproxDistinct | A::ApproxPercentile) => Some(
            "a sketch with session: sessions become one in PostgreSQL, which cannot unite sketches. Allowed: \
             tumble, hop; count, avg, stddev, min, max with session",
        ),
        (Shape::Session { .. }, _) => None,
    }
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
