//! A statement on a topic, made into a model.
//!
//! Owns: WHERE, options, models of rows, the names of a table's columns. Does not own: GROUP BY
//! (see `grouped`).

use super::{
    Column, Folding, Late, Model, ModelKind, PgType, Role, Rows,
    calls::{each, has_aggregate, has_window},
    folding, grouped,
    mistake::{Page, check_name, unknown},
    scalar::Scalars,
    sql::{Setting, Statement},
    topic::INDEX,
    topic_file::stem,
};
use crate::record::quantity::{duration, show_duration};
use datafusion_expr::Expr;
use datafusion_sql::sqlparser::ast::Expr as Ast;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
    time::Duration,
};

/// PostgreSQL refuses an index over more; the window's start is one of them.
pub(super) const KEYS_MAX: usize = 32;
/// Columns of one table; PostgreSQL's own limit is 1,600.
const COLUMNS_MAX: usize = 500;

/// Makes the model; mistakes go on the page. None: there were some, here or in the topic's file.
pub(super) fn model(
    page: &mut Page<'_>,
    statement: Statement,
    scalars: &Scalars<'_>,
) -> Option<Model> {
    let before = page.mistakes.len();
    check_model_name(page, &statement);
    check_aliases(page, &statement);
    let mut whole = true;
    let mut filter = None;
    if let Some(ast) = &statement.filter {
        match scalars.read(page, ast, statement.line, "WHERE") {
            Some(scalar) if scalar.pg == PgType::Boolean => filter = Some(scalar.exact()),
            Some(scalar) => page.line(
                super::sql::line_of(ast, statement.line),
                format!("WHERE {ast} is {}. Allowed: a boolean", scalar.pg),
            ),
            None => whole = false,
        }
    }
    let aggregated = statement.items.iter().any(|item| has_aggregate(&item.expr));
    let windowed = statement.items.iter().any(|item| has_window(&item.expr));
    let mut keeps = None;
    let made = if let Some(changes) = scalars.topic().followed() {
        folding::model(page, &statement, scalars, changes).map(|(kind, columns, what)| {
            keeps = Some(what);
            (kind, columns)
        })
    } else if statement.group_by.is_some() {
        grouped::aggregate(page, &statement, scalars)
    } else if aggregated {
        page.line(statement.line, "an aggregate without GROUP BY would be a table of one row without a key. Allowed: \
            GROUP BY a column or window; for one row over everything, SELECT 'all' AS scope, … GROUP BY scope");
        None
    } else if windowed {
        page.line(
            statement.line,
            "a window without GROUP BY. Allowed: GROUP BY window, with at least one aggregate",
        );
        None
    } else {
        rows(page, &statement, scalars)
    };
    let (kind, columns) = made?;
    if statement.items.is_empty() {
        return None;
    }
    check_columns(page, &statement, &columns);
    if !whole || page.mistakes.len() > before {
        return None;
    }
    let mut declaration = declaration(&statement, &kind, &columns, scalars);
    let mut folding = None;
    if let Some(keeps) = keeps {
        let read = (&kind, filter.as_ref());
        let made = Folding::new(page, &statement, scalars, read, keeps)?;
        declaration.push_str(&made.declaration(statement.star.is_some()));
        folding = Some(made);
    }
    Some(Model {
        name: statement.name.as_str().into(),
        file: page.file.clone(),
        topic: Arc::clone(&scalars.topic().name),
        join: scalars.join().cloned(),
        filter,
        kind,
        columns,
        folding,
        declaration,
    })
}

/// What can be said of a statement whose topic is unknown.
pub(super) fn check_model_name(page: &mut Page<'_>, statement: &Statement) {
    let name = &statement.name;
    if name.is_empty() {
        return;
    }
    let stem = stem(&page.file).to_owned();
    if *name != stem {
        page.line(
            1,
            format!(
                "the file is called `{stem}`, its view `{name}`. Allowed: the same name for both"
            ),
        );
    }
    if let Err(what) = check_name("model", name) {
        page.line(1, what);
    }
}

fn check_aliases(page: &mut Page<'_>, statement: &Statement) {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for item in &statement.items {
        let Some(name) = item.name() else {
            // A window has a name by default.
            if !has_window(&item.expr) {
                page.line(
                    item.line,
                    format!(
                        "the expression `{}` has no name. Allowed: {} AS name",
                        item.expr, item.expr
                    ),
                );
            }
            continue;
        };
        let kind = if item.alias.is_some() { "alias" } else { "column" };
        match check_name(kind, name) {
            Ok(()) => {}
            Err(_) if item.alias.is_none() && name.starts_with('_') => {
                page.line(
                    item.line,
                    format!(
                        "the column `{name}` keeps a reserved name. Allowed: {name} AS another_name"
                    ),
                );
            }
            Err(what) => page.line(item.line, what),
        }
        if let Some(first) = names.insert(name, item.line) {
            page.line(
                item.line,
                format!(
                    "the name `{name}` is in SELECT twice (first on line \
                     {first}). Allowed: each name once"
                ),
            );
        }
    }
}

/// Names of the table's columns that differ only after PostgreSQL has cut them off, or not at all.
fn check_columns(page: &mut Page<'_>, statement: &Statement, columns: &[Column]) {
    if columns.len() > COLUMNS_MAX {
        page.line(
            statement.line,
            format!("the table would have {} columns. Allowed: {COLUMNS_MAX}", columns.len()),
        );
    }
    let mut names = BTreeSet::new();
    for column in columns {
        let line = statement
            .items
            .iter()
            .find(|item| item.name().is_some_and(|name| name == column.name))
            .map_or(statement.line, |item| item.line);
        if column.name.len() > super::mistake::NAME_BYTES_MAX {
            page.line(
                line,
                format!(
                    "the table's column `{}` would have {} bytes. Allowed: {}; a shorter alias",
                    column.name,
                    column.name.len(),
                    super::mistake::NAME_BYTES_MAX
                ),
            );
        }
        // Equal aliases and reserved names are told already; here a window's column meets another.
        let told = column.name.starts_with('_')
            || statement.items.iter().filter(|i| i.name() == Some(&column.name)).count() > 1;
        if !names.insert(&column.name) && !told {
            page.line(
                line,
                format!(
                    "the table would have two columns `{}`: a window makes \
                     NAME_start and NAME_end. Allowed: another alias",
                    column.name
                ),
            );
        }
    }
}

/// No GROUP BY: appended rows, or the latest per key.
fn rows(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
) -> Option<(ModelKind, Vec<Column>)> {
    let mut options = Options::new(&statement.options);
    let key = options.take("primary_key");
    options.finish(page, &["primary_key"], "a model of rows (without GROUP BY)");

    let (exprs, mut columns) = selected(page, statement, scalars);
    // Judged by SELECT, so that a column with a mistake of its own is not also called unknown.
    let names: Vec<&str> = statement.items.iter().filter_map(|item| item.name()).collect();
    let mut primary_key = Vec::new();
    if let Some(setting) = key {
        let listed: Vec<&str> = setting.value.split(',').map(str::trim).collect();
        if listed.len() > KEYS_MAX {
            page.line(
                setting.line,
                format!("primary_key has {} columns. Allowed: {KEYS_MAX}", listed.len()),
            );
        }
        for name in listed {
            if !names.contains(&name) {
                page.line(setting.line, unknown("column in primary_key", name, &names));
                continue;
            }
            let Some(index) = columns.iter().position(|c| c.name == name) else { continue };
            if primary_key.contains(&index) {
                page.line(
                    setting.line,
                    format!("primary_key names `{name}` twice. Allowed: each column once"),
                );
                continue;
            }
            if let Err(why) = fit_for_key(columns[index].pg) {
                page.line(setting.line, format!("primary_key has the column `{name}`: {why}"));
            }
            columns[index].role = Role::Key;
            primary_key.push(index);
        }
    }
    for (name, pg) in [
        ("_event_time", PgType::Timestamptz),
        ("_partition", PgType::Integer),
        ("_offset", PgType::BigInt),
    ] {
        columns.push(Column { name: name.to_owned(), pg, role: Role::Position });
    }
    if primary_key.is_empty() && scalars.topic().batched {
        let (name, role) = (INDEX.to_owned(), Role::Position);
        columns.push(Column { name, pg: PgType::Integer, role });
    }
    Some((ModelKind::Rows(Rows { exprs, primary_key }), columns))
}

/// What SELECT lists, each as a value.
pub(super) fn selected(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
) -> (Vec<Expr>, Vec<Column>) {
    let mut exprs: Vec<Expr> = Vec::new();
    let mut columns: Vec<Column> = Vec::new();
    for item in &statement.items {
        let scalar = scalars.read(page, &item.expr, item.line, "a model of rows");
        if let (Some(scalar), Some(name)) = (scalar, item.name()) {
            columns.push(Column { name: name.to_owned(), pg: scalar.pg, role: Role::Value });
            exprs.push(scalar.exact());
        }
    }
    (exprs, columns)
}

/// Keys must be equal in a cut exactly when they are equal in PostgreSQL.
pub(super) fn fit_for_key(pg: PgType) -> Result<(), String> {
    match pg {
        PgType::Real | PgType::Double => Err(format!(
            "a key of {pg} is not exact (0 and -0, NaN). Allowed: a cast to numeric(p,s), bigint \
             or text"
        )),
        PgType::Jsonb => Err(
            "a key of jsonb is equal for PostgreSQL where its text differs. Allowed: text columns \
             with `from` their place in the record"
                .to_owned(),
        ),
        PgType::Text
        | PgType::Boolean
        | PgType::SmallInt
        | PgType::Integer
        | PgType::BigInt
        | PgType::Numeric(..)
        | PgType::NumericAny
        | PgType::Date
        | PgType::Timestamptz
        | PgType::Uuid
        | PgType::Bytea => Ok(()),
    }
}

/// What WITH says; whatever nobody takes is unknown.
pub(super) struct Options<'s> {
    all: &'s [Setting],
}

impl<'s> Options<'s> {
    pub fn new(all: &'s [Setting]) -> Self {
        Self { all }
    }

    pub fn take(&mut self, key: &str) -> Option<&'s Setting> {
        self.all.iter().find(|setting| setting.key == key)
    }

    pub fn finish(&self, page: &mut Page<'_>, allowed: &[&str], model: &str) {
        let mut seen = BTreeSet::new();
        for setting in self.all {
            let key = setting.key.as_str();
            if !allowed.contains(&key) {
                page.line(
                    setting.line,
                    match allowed {
                        [] => format!("the option `{key}` on {model}. Allowed: no option"),
                        _ => format!("{} (options of {model})", unknown("option", key, allowed)),
                    },
                );
            }
            if !seen.insert(key) {
                page.line(
                    setting.line,
                    format!("the option `{key}` twice. Allowed: each option once"),
                );
            }
        }
    }

    /// `allowed_lateness`, `late` of a windowed model.
    pub fn lateness(&mut self, page: &mut Page<'_>) -> (Duration, Late) {
        let mut allowed_lateness = Duration::ZERO;
        if let Some(setting) = self.take("allowed_lateness") {
            match duration(&setting.value) {
                Ok(d) => allowed_lateness = d,
                Err(what) => page.line(setting.line, format!("allowed_lateness: {what}")),
            }
        }
        let mut late = Late::Amend;
        if let Some(setting) = self.take("late") {
            match setting.value.as_str() {
                "amend" => {}
                "drop" => late = Late::Drop,
                "dead-letter" => late = Late::DeadLetter,
                other => page.line(
                    setting.line,
                    format!(
                        "late = '{other}'. Allowed: amend (take late records, and count them), \
                     dead-letter (refuse them, with the reason), drop (leave them out)"
                    ),
                ),
            }
        }
        (allowed_lateness, late)
    }
}

/// Whatever decides the table's rows, one thing a line. The order of options, layout and comments
/// decide nothing; nor does the lateness of a model that amends, for it takes every record.
fn declaration(
    statement: &Statement,
    kind: &ModelKind,
    columns: &[Column],
    scalars: &Scalars<'_>,
) -> String {
    let topic = scalars.topic();
    let mut out = format!("model {} of {}\n", statement.name, topic.kafka_topic);
    let mut read = BTreeSet::new();
    let mut note = |ast: &Ast| {
        each(ast, &mut |e| {
            if let Ast::Identifier(ident) = e {
                read.insert(ident.value.clone());
            }
        });
    };
    for item in &statement.items {
        note(&item.expr);
        let _ = writeln!(out, "select {} as {}", item.expr, item.name().unwrap_or("window"));
    }
    if let Some(filter) = &statement.filter {
        note(filter);
        let _ = writeln!(out, "where {filter}");
    }
    for key in statement.group_by.iter().flatten() {
        note(key);
        let _ = writeln!(out, "group by {key}");
    }
    let timed = match kind {
        ModelKind::Aggregate(aggregate) => {
            if let Some(window) = &aggregate.window {
                let left_out = match window.late {
                    Late::Amend => None,
                    Late::DeadLetter => Some("refuse"),
                    Late::Drop => Some("drop"),
                };
                if let Some(left_out) = left_out {
                    let _ = writeln!(
                        out,
                        "{left_out} after {} behind {}",
                        show_duration(window.allowed_lateness),
                        show_duration(topic.max_disorder)
                    );
                }
            }
            aggregate.window.is_some()
        }
        ModelKind::Rows(rows) => {
            let names = rows.primary_key.iter().map(|place| &columns[*place].name);
            let _ = match statement.star {
                None => writeln!(out, "primary key {:?}", rows.primary_key),
                Some(_) => writeln!(out, "primary key {:?}", names.collect::<Vec<_>>()),
            };
            true
        }
    };
    if timed {
        match topic.service_day {
            Some(day) => {
                let of =
                    [day.date, day.clock].map(|index| topic.schema.field(index).name().clone());
                read.extend(of);
            }
            None => drop(read.insert(topic.event_time_name().to_owned())),
        }
        let _ = writeln!(out, "event time {}", topic.event_time_declaration());
    }
    if let Some(join) = scalars.join() {
        let reference = &join.reference;
        let key = reference.key.iter().map(|place| reference.schema.field(*place).name());
        for (column, key) in join.on.iter().zip(key) {
            read.insert(column.clone());
            let _ = writeln!(out, "left join {} on {column} = {key}", reference.name);
        }
        // Its rows are versions of their own, kept with what was made by them.
        for column in &reference.rows.columns {
            if read.contains(&join.column(&column.name)) {
                let _ = writeln!(out, "{}: {}", reference.name, column.declaration());
            }
        }
    }
    if let Some(csv) = &topic.csv {
        let _ = writeln!(out, "{csv:?}");
    }
    for column in topic.columns.iter().filter(|c| read.contains(&c.name)) {
        let _ = writeln!(out, "{}", column.declaration());
    }
    match statement.star {
        None => out,
        // A column may stand anywhere in the topic file.
        Some(_) => {
            let mut lines: Vec<&str> = out.lines().collect();
            lines.sort_unstable();
            lines.join("\n") + "\n"
        }
    }
}
