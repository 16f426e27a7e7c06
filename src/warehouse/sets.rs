//! The tables beside a model's, one per `count(DISTINCT …)`: each holds the values that were counted.
//!
//! Owns: their names, types, keys, the statements that add values and count what was new. Does not
//! own: running them (`merge`).

use super::tables::{
    Found, Set, Sets, Shape, array_type, create_temporary, definition, definition_comment, list,
    quoted, temporary,
};
use crate::catalog::{Model, ModelKind, PgType, Role, ValueSet};

/// No name of a user's begins so.
const VALUE: &str = "_value";

/// None: the model counts nothing distinct. `key` is what the model's `ON CONFLICT` infers.
pub fn of(model: &Model, key: &[String]) -> Option<Sets> {
    let ModelKind::Aggregate(aggregate) = &model.kind else { return None };
    // As in a delta: the window comes first.
    let of_role = |role: Role| model.columns.iter().filter(move |c| c.role == role);
    let keys: Vec<(String, PgType)> = of_role(Role::WindowStart)
        .chain(of_role(Role::Key))
        .map(|c| (c.name.clone(), c.pg))
        .collect();
    let values: Vec<ValueSet<'_>> = aggregate.sets().collect();
    let all: Vec<Set> = values.iter().map(|value| set(model, *value, &keys)).collect();
    if all.is_empty() {
        return None;
    }
    let width = keys.len() + 1;
    let arrays = all.iter().enumerate().map(|(i, set)| {
        let arrays = list(set.columns.iter().enumerate(), |(j, (_, pg))| {
            format!("${}::{}[]", i * width + j + 1, array_type(*pg))
        });
        format!("SELECT * FROM unnest({arrays})")
    });
    let arrays: Vec<_> = arrays.collect();
    let staged = all.iter().map(|set| {
        let names = list(&set.columns, |(name, _)| quoted(name));
        format!("SELECT {names} FROM {}", temporary_of(set))
    });
    let staged: Vec<_> = staged.collect();
    let counted: Vec<&str> = values.iter().map(|value| value.column).collect();
    let add = |sources: &[String]| add(model, key, &keys, &all, &counted, sources);
    Some(Sets { add_arrays: add(&arrays), add_staged: add(&staged), all })
}

fn set(model: &Model, value: ValueSet<'_>, keys: &[(String, PgType)]) -> Set {
    let table = ValueSet::table(&model.name, value.column);
    let name = quoted(&table);
    let mut columns = keys.to_vec();
    columns.push((VALUE.to_owned(), value.pg));
    let names = list(&columns, |(name, _)| quoted(name));
    let fields = list(&columns, |(name, pg)| format!("{} {}", quoted(name), definition(*pg)));
    let staging = temporary(&name, &fields);
    Set {
        create: format!(
            "CREATE TABLE {name} (\n  {},\n  UNIQUE NULLS NOT DISTINCT ({names})\n)",
            fields.replace(", \"", ",\n  \"")
        ),
        comment: format!(
            "COMMENT ON TABLE {name} IS '{}'",
            definition_comment(model).replace('\'', "''")
        ),
        staging: create_temporary(&staging, &fields),
        copy: format!("COPY {staging} ({names}) FROM STDIN (FORMAT binary)"),
        shape: Shape {
            wanted: columns.iter().map(|(name, pg)| Found::plain(name, *pg)).collect(),
            key: columns.iter().map(|(name, _)| name.clone()).collect(),
            table,
        },
        columns,
    }
}

fn temporary_of(set: &Set) -> String {
    let fields = list(&set.columns, |(name, pg)| format!("{} {}", quoted(name), definition(*pg)));
    temporary(&quoted(&set.shape.table), &fields)
}

/// W-7: stores the values of each source in its set, and adds to the model's counts how many were
/// new, once per key. The rows of these keys are there and locked.
fn add(
    model: &Model,
    key: &[String],
    keys: &[(String, PgType)],
    sets: &[Set],
    counted: &[&str],
    sources: &[String],
) -> String {
    let names = list(keys, |(name, _)| quoted(name));
    let stored = list(sets.iter().zip(sources).enumerate(), |(i, (set, source))| {
        let (table, all) = (quoted(&set.shape.table), list(&set.columns, |(n, _)| quoted(n)));
        format!(
            "\n  new_{i} AS (INSERT INTO {table} ({all}) {source} ON CONFLICT ({all}) DO NOTHING \
             RETURNING {names})"
        )
    });
    let news = (0..sets.len()).map(|i| {
        let ones = list(0..sets.len(), |j| format!("{} AS n_{j}", u8::from(i == j)));
        format!("SELECT {names}, {ones} FROM new_{i}")
    });
    let news = news.collect::<Vec<_>>().join(" UNION ALL ");
    let columns = list(counted, |name| quoted(name));
    let sums = list(0..sets.len(), |i| format!("sum(n_{i})"));
    let sets = list(counted, |name| format!("{0} = t.{0} + excluded.{0}", quoted(name)));
    format!(
        "WITH {stored}\nINSERT INTO {} AS t ({names}, {columns})\nSELECT {names}, {sums} FROM ({news}) AS new \
         GROUP BY {names}\nON CONFLICT ({}) DO UPDATE SET {sets}",
        quoted(&model.name),
        list(key, |name| quoted(name))
    )
}
