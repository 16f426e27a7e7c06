//! `delta(x)`: from the last value of a counter in each window to the difference to the window before.
//!
//! Owns: the statement that makes differences anew, for the windows of a cut and for the next window
//! of each, whose difference is to one of those. Does not own: the last values, which merge as those
//! of any part do; the lock (`commit`).
//!
//! W-8  A difference is to the last value of the window before of the same key that has one, as both
//!      are when the cut is committed. Only one process at a time changes a table with differences.

use super::{
    keyed::{parameters, same, there},
    tables::{list, quoted},
};
use crate::catalog::{Model, ModelKind, PgType, Role};

#[derive(Debug)]
pub struct Differences {
    table: String,
    /// Without the window.
    pub keys: Vec<(String, PgType)>,
    pub window_start: (String, PgType),
    /// Column, its type, and the column with the last value.
    columns: Vec<(String, PgType, String)>,
    /// By which the window before and the window after are found.
    pub index: String,
}

impl Differences {
    pub fn of(model: &Model) -> Option<Self> {
        let ModelKind::Aggregate(_) = &model.kind else { return None };
        let columns: Vec<_> = model
            .columns
            .iter()
            .filter_map(|c| match &c.role {
                Role::Difference(last) => Some((c.name.clone(), c.pg, last.clone())),
                _ => None,
            })
            .collect();
        let of_role = |role: Role| model.columns.iter().filter(move |c| c.role == role);
        let named = |c: &crate::catalog::Column| (c.name.clone(), c.pg);
        let window_start = of_role(Role::WindowStart).map(named).next()?;
        if columns.is_empty() {
            return None;
        }
        let keys: Vec<_> = of_role(Role::Key).map(named).collect();
        let table = quoted(&model.name);
        let of_index = keys.iter().chain([&window_start]);
        let index =
            format!("CREATE INDEX ON {table} ({})", list(of_index, |(name, _)| quoted(name)));
        Some(Self { table, keys, window_start, columns, index })
    }

    /// Makes the differences anew that a cut's rows touch, and says how many went below zero.
    /// Parameters: arrays of the keys that are not NULL, then of the windows' starts.
    pub fn renew(&self, nulls: &[bool]) -> String {
        let (table, window) = (&self.table, quoted(&self.window_start.0));
        let keys = there(&self.keys, nulls);
        let mut given = keys.clone();
        given.push(&self.window_start);
        let (arrays, names) = (parameters(&given), list(&given, |(name, _)| quoted(name)));
        let of_key =
            keys.iter().map(|(name, _)| format!("g.{}, ", quoted(name))).collect::<String>();
        let same = |a: &str, b: &str| same(&self.keys, nulls, a, b);
        let order = |direction: &str| {
            let columns = self.keys.iter().chain([&self.window_start]);
            list(columns, |(name, _)| format!("s.{} {direction}", quoted(name)))
        };
        let with_value = |last: &str, comparison: &str, direction: &str| {
            format!(
                "FROM {table} AS s WHERE {} AND s.{window} {comparison} g.{window} AND s.{} IS NOT NULL \
                 ORDER BY {} LIMIT 1",
                same("s", "g"),
                quoted(last),
                order(direction)
            )
        };
        // The next window with a value may be another one for each column.
        let next = self.columns.iter().map(|(_, _, last)| {
            format!(
                " UNION SELECT {of_key}n.{window} FROM given AS g \
                 CROSS JOIN LATERAL (SELECT s.{window} {}) AS n",
                with_value(last, ">", "ASC")
            )
        });
        let next: String = next.collect();
        let values = list(self.columns.iter().enumerate(), |(i, (_, pg, last))| {
            let before = format!("(SELECT s.{} {})", quoted(last), with_value(last, "<", "DESC"));
            format!("(m.last_{i}::numeric - coalesce({before}, 0))::{pg} AS new_{i}, m.old_{i}")
        });
        let stored = list(self.columns.iter().enumerate(), |(i, (name, _, last))| {
            format!("s.{} AS last_{i}, s.{} AS old_{i}", quoted(last), quoted(name))
        });
        let numbered = |joint: &str, one: &dyn Fn(usize, &str) -> String| {
            let all = self.columns.iter().enumerate();
            all.map(|(i, (name, ..))| one(i, &quoted(name))).collect::<Vec<_>>().join(joint)
        };
        let sets = numbered(", ", &|i, name| format!("{name} = v.new_{i}"));
        let differ = numbered(" OR ", &|i, _| format!("v.new_{i} IS DISTINCT FROM v.old_{i}"));
        let below = numbered(" + ", &|i, _| {
            format!(
                "coalesce(v.new_{i} < 0 AND v.new_{i} IS DISTINCT FROM v.old_{i}, false)::integer"
            )
        });
        // LIMIT makes each row one look into an index, however large the table is; the row that was
        // found is changed where it lies, which nobody else changes meanwhile.
        format!(
            "WITH given AS (SELECT * FROM unnest({arrays}) AS g ({names})),
               touched AS (SELECT {names} FROM given{next}),
               v AS MATERIALIZED (
                 SELECT m.place, {values} FROM touched AS g CROSS JOIN LATERAL (
                   SELECT s.ctid AS place, {stored} FROM {table} AS s
                   WHERE {} AND s.{window} = g.{window} LIMIT 1) AS m),
               changed AS (UPDATE {table} AS t SET {sets} FROM v
                           WHERE t.ctid = v.place AND ({differ}) RETURNING {below} AS below)
             SELECT coalesce(sum(below), 0)::bigint FROM changed",
            same("s", "g"),
        )
    }
}
