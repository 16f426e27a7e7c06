//! Sessions of a cut and those that are stored, made one where they touch.
//!
//! Owns: the statements over a table of sessions, and their order. Does not own: how parts merge:
//! that is the table's own `ON CONFLICT`, as of any window (`tables`).
//!
//! A session's key is its group's keys and its start. A cut's sessions and the stored ones that
//! they touch make islands; an island becomes one row, whose start is that of its first session.
//! Where that one is stored it stays in place, and a cut's session then is an upsert as of any
//! window. Other stored sessions of the island are removed, and they and the rest of the cut's are
//! merged into the row one after the other.
//!
//! SUBTLE: the caller holds the model's lock (W-8) since before the statement that
//! looks for stored sessions, until the transaction ends. So what was found is all there is, and it
//! is still where it was found (`ctid`).
//!
//! A stored session is found by the table's unique index, keys before start: for each session of
//! the cut the last one that begins before it, and those that begin within it.

use super::{
    encode::Elements,
    postgres::Session,
    tables::{definition, list, quoted},
};
use crate::{catalog::PgType, error::Result};
use std::collections::BTreeSet;

/// The statements of one model's sessions.
#[derive(Debug)]
pub struct Sessions {
    name: String,
    /// Temporary tables: what a cut yields, and pieces of rows.
    create: String,
    empty: String,
    copy: String,
    delete: String,
    fold: String,
    deltas: String,
    pieces: String,
    columns: Vec<String>,
    start: String,
    end: String,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    name: String,
    /// Among the delta's columns.
    index: usize,
}

/// What a table of sessions is made of: its columns in order, and which of them are what.
pub(super) struct Shape<'s> {
    pub name: &'s str,
    pub columns: &'s [(String, PgType)],
    pub start: &'s str,
    pub end: &'s str,
    pub keys: &'s [String],
    /// `ON CONFLICT …`, merging `excluded` into `t`.
    pub conflict: &'s str,
    /// Tells this model's temporary tables from another's.
    pub digest: &'s str,
}

/// As `PARTITION BY` and the like need it: never empty.
fn or_true(list: String) -> String {
    if list.is_empty() { "true".to_owned() } else { list }
}

impl Sessions {
    pub(super) fn new(shape: &Shape<'_>) -> Self {
        let name = quoted(shape.name);
        let (start, end) = (quoted(shape.start), quoted(shape.end));
        let index = |key: &String| shape.columns.iter().position(|(name, _)| name == key);
        let keys =
            shape.keys.iter().filter_map(|key| Some(Key { name: quoted(key), index: index(key)? }));
        let keys: Vec<_> = keys.collect();
        let names: Vec<_> = shape.columns.iter().map(|(name, _)| quoted(name)).collect();
        let fields = list(shape.columns, |(n, pg)| format!("{} {}", quoted(n), definition(*pg)));
        let deltas = format!("\"highwater_{}_sessions\"", shape.digest);
        let pieces = format!("\"highwater_{}_pieces\"", shape.digest);
        let temporary = |table: &str, more: &str| {
            format!(
                "CREATE TEMP TABLE IF NOT EXISTS {table} ({fields}{more}) ON COMMIT DELETE ROWS"
            )
        };
        let create = format!(
            "{};\n{}",
            temporary(&deltas, ""),
            temporary(&pieces, ", _place tid, _target timestamptz, _piece bigint")
        );
        let columns = names.join(", ");
        let values = list(&names, |n| if *n == start { "_target".to_owned() } else { n.clone() });
        let order = list(keys.iter().map(|k| &k.name).chain([&start]), |n| {
            if *n == start { "_target".to_owned() } else { n.clone() }
        });
        Self {
            empty: format!("TRUNCATE {deltas}, {pieces}"),
            copy: format!("COPY {deltas} ({columns}) FROM STDIN (FORMAT binary)"),
            delete: format!(
                "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT _place FROM {pieces} WHERE _place IS NOT NULL))"
            ),
            fold: format!(
                "INSERT INTO {name} AS t ({columns}) SELECT {values} FROM {pieces} WHERE _piece = $1 \
                 ORDER BY {order}{}",
                shape.conflict
            ),
            name,
            create,
            deltas,
            pieces,
            columns: names,
            start,
            end,
            keys,
        }
    }

    /// Merges sessions that a cut yields, of which no two of a key touch. Once per transaction, or
    /// with [`Self::empty`] in between.
    pub(super) async fn merge(
        &self,
        session: &Session,
        doing: &str,
        columns: &[Elements<'_>],
        rows: usize,
    ) -> Result<()> {
        session.batch(doing, &self.create).await?;
        session.copy(doing, &self.copy, columns, rows).await?;
        let nulls: BTreeSet<Vec<bool>> = (0..rows)
            .map(|row| self.keys.iter().map(|key| columns[key.index].is_null(row)).collect())
            .collect();
        // Not prepared: its plan depends on how large the table has grown.
        session.batch(doing, &self.find(&nulls)).await?;
        let sql = format!("SELECT coalesce(max(_piece), 0), count(_place) FROM {}", self.pieces);
        let found = session.query(doing, &sql, &[]).await?;
        let (rounds, removed): (i64, i64) = (found[0].get(0), found[0].get(1));
        if removed > 0 {
            session.execute(doing, &self.delete, &[]).await?;
        }
        for round in 1..=rounds {
            session.execute(doing, &self.fold, &[&round]).await?;
        }
        Ok(())
    }

    /// Ready for another cut in the same transaction; its end empties the tables by itself.
    pub(super) async fn empty(&self, session: &Session, doing: &str) -> Result<()> {
        session.batch(doing, &self.empty).await
    }

    /// Fills the table of pieces. `nulls`: which keys are NULL, as it occurs among the cut's rows:
    /// an index finds `=` and `IS NULL`, and nothing that says both.
    fn find(&self, nulls: &BTreeSet<Vec<bool>>) -> String {
        let Self { name, deltas, pieces, start, end, .. } = self;
        let columns = self.columns.join(", ");
        let of_table = list(&self.columns, |column| format!("t.{column}"));
        let keys = or_true(list(&self.keys, |key| key.name.clone()));
        let backwards =
            self.keys.iter().map(|key| format!("t.{} DESC, ", key.name)).collect::<String>();
        let found = nulls.iter().map(|nulls| {
            let pairs = || self.keys.iter().map(|key| &key.name).zip(nulls);
            let here = pairs().map(|(key, null)| match null {
                true => format!("t.{key} IS NULL AND "),
                false => format!("t.{key} = d.{key} AND "),
            });
            let here: String = here.collect();
            let of_cut = pairs().map(|(key, null)| match null {
                true => format!(" AND d.{key} IS NULL"),
                false => format!(" AND d.{key} IS NOT NULL"),
            });
            let of_cut: String = of_cut.collect();
            format!(
                "SELECT t.* FROM {deltas} d CROSS JOIN LATERAL (
                   (SELECT t.ctid AS _place, {of_table} FROM {name} t
                    WHERE {here}t.{start} <= d.{start} ORDER BY {backwards}t.{start} DESC LIMIT 1)
                   UNION ALL
                   (SELECT t.ctid, {of_table} FROM {name} t
                    WHERE {here}t.{start} > d.{start} AND t.{start} <= d.{end})
                 ) t
                 WHERE t.{end} >= d.{start}{of_cut}"
            )
        });
        let found = found.collect::<Vec<_>>().join("\nUNION ALL\n");
        // Of two that begin at once the stored one is first, as NULL sorts last.
        let order = format!("ORDER BY {start}, _place");
        format!(
            "INSERT INTO {pieces} ({columns}, _place, _target, _piece)
             WITH found AS ({found}),
             together AS (
               SELECT DISTINCT ON (_place) _place, {columns} FROM found
               UNION ALL SELECT NULL, {columns} FROM {deltas}),
             marked AS (
               SELECT *, {start} <= max({end}) OVER (
                   PARTITION BY {keys} {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                 ) AS _touches
               FROM together),
             numbered AS (
               SELECT *, count(*) FILTER (WHERE _touches IS NOT TRUE) OVER (
                   PARTITION BY {keys} {order} ROWS UNBOUNDED PRECEDING
                 ) AS _island
               FROM marked),
             placed AS (
               SELECT *, first_value({start}) OVER island AS _target,
                 row_number() OVER island - (first_value(_place) OVER island IS NOT NULL)::integer
                   AS _piece
               FROM numbered WINDOW island AS (PARTITION BY {keys}, _island {order}))
             SELECT {columns}, _place, _target, _piece FROM placed WHERE _piece > 0"
        )
    }
}
