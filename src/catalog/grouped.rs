//! GROUP BY, taken apart: window, keys, mergeable parts, and what follows from them.
//!
//! Owns: what each SELECT item is, the table's columns in order. Does not own: what is kept for an
//! aggregate (see `parts`), the text of generated columns (see `generated`).

use super::{
    Aggregate, Column, Key, ModelKind, PgType, Role, Window,
    calls::{has_aggregate, has_tumble, tumble},
    decompose::{KEYS_MAX, Options, fit_for_key},
    mistake::Page,
    parts::{Bare, Parts},
    scalar::Scalars,
    sql::{Item, Statement, line_of},
};
use datafusion::sql::sqlparser::ast::{Expr as Ast, Value};
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
        if let Some(size) = tumble(&item.expr) {
            let name = item.name().unwrap_or("window").to_owned();
            match size {
                Err(what) => page.line(item.line, what),
                Ok(_) if !grouped => page.line(
                    item.line,
                    format!("tumble is not in GROUP BY. Allowed: GROUP BY {name}"),
                ),
                Ok(_) if window.is_some() => {
                    page.line(item.line, "a second window. Allowed: one tumble per model")
                }
                Ok(size) => window = Some((name.clone(), size)),
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

    if parts.has_differences() && window.is_none() && page.mistakes.len() == before {
        page.line(
            statement.line,
            "delta(x) without a window: it is what a counter grew by from one window to the next. \
             Allowed: tumble(interval '…') in SELECT and GROUP BY; last_value(x) for what it has reached",
        );
    }
    let mut options = Options::new(&statement.options);
    let grouped_by_window = group_by.iter().any(|(key, _)| key.starts_with("tumble("));
    let window = match window {
        Some((name, size)) => {
            let (allowed_lateness, late) = options.lateness(page);
            options.finish(page, &["allowed_lateness", "late"], "a windowed model");
            Some(Window { name, size, allowed_lateness, late })
        }
        // A window that is wrong is still one: its options are not.
        None if grouped_by_window || page.mistakes.len() > before => None,
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
                            && tumble(&item.expr).is_some()
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
        if has_tumble(&expr) && tumble(&expr).is_none() {
            page.line(
                line,
                format!(
                    "GROUP BY {key} computes with a window. Allowed: tumble(interval '…') alone"
                ),
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
