//! What differs between a table and its shadow: statements for `verify --deep`.
//!
//! Owns: which columns are compared exactly, and how near the others must be. Does not own: running
//! anything (`snapshot`). Each statement gives a text and the number of all rows, per row.
//!
//! Exact is what no order of merging changes. Sums and moments of doubles do change in their last
//! bits: there nine digits must agree, counted from the largest number that went into them. Columns
//! that PostgreSQL computes from those follow, and are not compared.

use super::tables::{Shape, list, quoted};
use crate::catalog::{Merge, Model, PgType, Role};

const TOLERANCE: &str = "1e-9";

/// Whether the order of merging leaves no trace in the column.
pub fn is_exact(model: &Model, column: &str) -> bool {
    let column = model.columns.iter().find(|c| c.name == column);
    column.is_none_or(|column| match &column.role {
        Role::Part(Merge::Add) | Role::Derived(_) => column.pg != PgType::Double,
        // The bytes of a sketch depend on the order; what is read off them does not.
        Role::Part(Merge::Mean(_) | Merge::SquaredDifferences(_) | Merge::Sketch(_)) => false,
        Role::Part(Merge::Least | Merge::Greatest | Merge::Win(_))
        | Role::Difference(_)
        | Role::Estimate(..)
        | Role::WindowStart
        | Role::WindowEnd
        | Role::Key
        | Role::Value
        | Role::Position => true,
    })
}

/// Rows of one table that the other lacks.
pub fn exactly(kept: &Shape, rebuilt: &Shape, compared: impl Fn(&str) -> bool) -> String {
    let columns = kept.wanted.iter().filter(|column| compared(&column.name));
    let columns = list(columns, |column| quoted(&column.name));
    let (kept, rebuilt) = (quoted(&kept.table), quoted(&rebuilt.table));
    format!(
        "WITH kept AS (SELECT {columns} FROM {kept}), rebuilt AS (SELECT {columns} FROM {rebuilt}),
         wrong AS (
           SELECT 'the table has' AS side, to_jsonb(k)::text AS row
           FROM (TABLE kept EXCEPT ALL TABLE rebuilt) k
           UNION ALL
           SELECT 'the lake gives', to_jsonb(r)::text
           FROM (TABLE rebuilt EXCEPT ALL TABLE kept) r)
         SELECT side || ' ' || row, count(*) OVER () FROM wrong ORDER BY row, side"
    )
}

/// Rows of the same key whose doubles are not near each other; None: no column needs that.
pub fn nearly(model: &Model, kept: &Shape, rebuilt: &Shape) -> Option<String> {
    let far: Vec<String> = model
        .columns
        .iter()
        .filter_map(|column| {
            let both = |name: &str| [format!("k.{}", quoted(name)), format!("r.{}", quoted(name))];
            let scale = match &column.role {
                Role::Part(Merge::Add | Merge::Mean(_)) if column.pg == PgType::Double => {
                    let [k, r] = both(&column.name);
                    format!("greatest(abs({k}::numeric), abs({r}::numeric))")
                }
                // A large mean costs a small variance its digits.
                Role::Part(Merge::SquaredDifferences(moments)) => {
                    let [k, r] = both(&column.name);
                    let [n, _] = both(&moments.count);
                    let [mean, _] = both(&moments.mean);
                    format!(
                        "greatest({k}::numeric, {r}::numeric, {n} * {mean}::numeric * {mean}::numeric)"
                    )
                }
                _ => return None,
            };
            let [k, r] = both(&column.name);
            Some(format!(
                "({k} IS DISTINCT FROM {r} AND coalesce(abs({k}::numeric - {r}::numeric) > {TOLERANCE} * {scale}, true))"
            ))
        })
        .collect();
    if far.is_empty() {
        return None;
    }
    let key = list(&kept.key, |name| quoted(name));
    let (kept, rebuilt) = (quoted(&kept.table), quoted(&rebuilt.table));
    Some(format!(
        "WITH kept AS (SELECT jsonb_build_array({key}) AS of_key, * FROM {kept}),
         rebuilt AS (SELECT jsonb_build_array({key}) AS of_key, * FROM {rebuilt})
         SELECT 'the table has ' || to_jsonb(k)::text || ', the lake gives ' || to_jsonb(r)::text, count(*) OVER ()
         FROM kept k JOIN rebuilt r USING (of_key) WHERE {} ORDER BY 1",
        far.join(" OR ")
    ))
}
