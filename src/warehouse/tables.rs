//! Statements over the tables of models, as text: what creates one, what merges a cut into it, and
//! how a table that is there already differs from what its model keeps.
//!
//! Owns: names, types, keys, merging. Does not own: running anything (`postgres`).
//!
//! W-5  A table's key is what `ON CONFLICT` infers, with NULL equal to NULL as in GROUP BY.
//! W-6  Text is COLLATE "C": the server's least, greatest and order are those of bytes, as in the
//!      process that made the delta.

use super::{
    differences::Differences,
    following::Following,
    merging::merged,
    sessions::{self, Sessions},
    sets,
    sketches::Sketches,
};
use crate::catalog::{Column, Definition, INDEX, Merge, Model, ModelKind, PgType, Role};
use sha2::{Digest, Sha256};
use std::{fmt, fmt::Write as _, sync::Arc};

/// How full pages become at first, in per cent, of tables whose rows change. Where the new version of a
/// row finds room beside the old one, no index hears of it, and the page's next reader frees the room
/// of versions that nobody sees any more.
pub(super) const FILLFACTOR: u32 = 75;
/// Of an aggregate without windows any row may change in any cut, and the rows of one page at once:
/// room for a second version of each. Table and changes cost least so; fuller pages spread the
/// versions over others, and end as large.
const FILLFACTOR_OF_TOTALS: u32 = 50;

/// The column that is the key where a model groups by nothing at all: one row, always true.
const ONLY: &str = "_only";

/// The statements of one model's table.
#[derive(Debug)]
pub struct Table {
    pub model: Arc<str>,
    /// For messages: where the model is written.
    pub file: String,
    /// Columns that travel in a delta, in order.
    pub columns: Vec<(String, PgType)>,
    pub create: String,
    pub comment: String,
    /// The comment's text: another one means that the rows were made by another definition.
    pub definition: String,
    pub consists_of: Definition,
    /// Of sessions: what merges them, instead of the next three.
    pub sessions: Option<Sessions>,
    /// One array parameter per column.
    pub merge_arrays: String,
    /// None where rows are only appended: then COPY goes straight into the table.
    pub staging: Option<Staging>,
    /// COPY into the staging table, or into the table itself.
    pub copy: String,
    pub shape: Shape,
    /// The tables of `count(DISTINCT …)`; None: there is none.
    pub sets: Option<Sets>,
    /// The columns of `delta(…)`; None: there is none.
    pub differences: Option<Differences>,
    /// None: the model keeps no sketch.
    pub sketches: Option<Sketches>,
    /// None: the model is not over changes.
    pub following: Option<Following>,
}

/// What a table is, as far as others can be told from it.
#[derive(Debug)]
pub struct Shape {
    pub table: String,
    pub wanted: Vec<Found>,
    pub key: Vec<String>,
}

/// The distinct values that a model counts, and the statements that count what is new.
#[derive(Debug)]
pub struct Sets {
    pub all: Vec<Set>,
    /// An array parameter per column of each set.
    pub add_arrays: String,
    /// From the staging tables.
    pub add_staged: String,
}

/// One table `MODEL__COLUMN`: the model's key, and a value that a record of that key had.
#[derive(Debug)]
pub struct Set {
    pub shape: Shape,
    /// Key, then value; as in a delta.
    pub columns: Vec<(String, PgType)>,
    pub create: String,
    pub comment: String,
    /// Creates a temporary table of the same columns.
    pub staging: String,
    /// COPY into it.
    pub copy: String,
}

/// A temporary table of the session, emptied at each COMMIT, through which a large cut passes.
#[derive(Debug)]
pub struct Staging {
    pub create: String,
    pub merge: String,
}

/// A column of a table, as `read_table.sql` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    /// As `format_type` spells it, which is also [`PgType`]'s spelling but for timestamptz.
    pub pg: String,
    pub generated: bool,
    /// Empty for types without one.
    pub collation: String,
}

/// A unique key of a table: its columns in order, and whether no two NULLs are distinct in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKey {
    pub columns: Vec<String>,
    pub nulls_equal: bool,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pg)?;
        if !self.collation.is_empty() {
            write!(f, " COLLATE {}", quoted(&self.collation))?;
        }
        if self.generated { f.write_str(" GENERATED") } else { Ok(()) }
    }
}

/// An identifier as PostgreSQL reads it back unchanged.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn list<T>(items: impl IntoIterator<Item = T>, one: impl Fn(T) -> String) -> String {
    items.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The type in a table's definition.
pub(super) fn definition(pg: PgType) -> String {
    match pg {
        PgType::Text => "text COLLATE \"C\"".to_owned(),
        other => other.to_string(),
    }
}

impl Table {
    pub fn new(model: &Model) -> Self {
        let name = quoted(&model.name);
        let carried: Vec<_> = model.columns.iter().filter(|c| c.role.travels()).collect();
        let columns: Vec<_> = carried.iter().map(|c| (c.name.clone(), c.pg)).collect();
        let names = list(&columns, |(name, _)| quoted(name));
        let key = key(model);
        let arrays = columns.iter().enumerate();
        let arrays = list(arrays, |(i, (_, pg))| format!("${}::{}[]", i + 1, array_type(*pg)));
        let conflict = conflict(model, &key);
        let sessions = sessions_of(model, &columns, &conflict);
        let (staging, copy) = if conflict.is_empty() {
            (None, format!("COPY {name} ({names}) FROM STDIN (FORMAT binary)"))
        } else {
            let fields = list(&columns, |(n, pg)| format!("{} {}", quoted(n), definition(*pg)));
            let temp = temporary(&name, &fields);
            let staging = Staging {
                create: create_temporary(&temp, &fields),
                merge: format!(
                    "INSERT INTO {name} AS t ({names}) SELECT {names} FROM {temp}{conflict}"
                ),
            };
            (Some(staging), format!("COPY {temp} ({names}) FROM STDIN (FORMAT binary)"))
        };
        Self {
            model: model.name.clone(),
            file: model.file.display().to_string(),
            create: create(model, &key),
            comment: format!(
                "COMMENT ON TABLE {name} IS '{}'",
                definition_comment(model).replace('\'', "''")
            ),
            definition: definition_comment(model),
            consists_of: model.definition(),
            merge_arrays: format!(
                "INSERT INTO {name} AS t ({names}) SELECT * FROM unnest({arrays}){conflict}"
            ),
            sessions,
            staging,
            copy,
            sets: sets::of(model, &key),
            differences: Differences::of(model),
            sketches: Sketches::of(model),
            following: Following::of(model),
            shape: Shape { table: model.name.to_string(), wanted: wanted(model, &key), key },
            columns,
        }
    }

    /// The model's own table, then those beside it.
    pub fn shapes(&self) -> impl Iterator<Item = &Shape> {
        let sets = self.sets.iter().flat_map(|sets| &sets.all);
        let beside = sets.map(|set| &set.shape);
        let beside = beside.chain(self.following.iter().flat_map(|f| &f.shapes));
        std::iter::once(&self.shape).chain(beside).chain(self.waiting())
    }

    /// Those of them that hold no result: they may be made when others are filled already.
    pub fn waiting(&self) -> impl Iterator<Item = &Shape> {
        self.following.iter().flat_map(|f| &f.swap.shapes)
    }

    /// What makes them, in the same order: a statement and a comment each.
    pub fn creates(&self) -> impl Iterator<Item = (&str, &str)> {
        let sets = self.sets.iter().flat_map(|sets| &sets.all);
        let beside = sets.map(|set| (&set.create, &set.comment));
        let followed = self.following.iter().flat_map(|f| f.creates.iter().zip(&f.comment));
        let all = std::iter::once((&self.create, &self.comment)).chain(beside).chain(followed);
        let waiting = self.following.iter().map(|f| &f.swap);
        let all = all.chain(waiting.flat_map(|swap| swap.creates.iter().zip(&swap.comment)));
        all.map(|(create, comment)| (create.as_str(), comment.as_str()))
    }
}

impl Table {
    /// Whether what a cut writes depends on what other cuts have written: they take turns then.
    pub fn takes_turns(&self) -> bool {
        self.differences.is_some()
            || self.sketches.is_some()
            || self.sessions.is_some()
            || self.following.is_some()
    }
}

impl Shape {
    /// What differs between the table found and the table wanted; empty if nothing does.
    pub fn differences(&self, found: &[Found], keys: &[FoundKey]) -> Vec<[String; 3]> {
        let absent = || "(absent)".to_owned();
        let mut rows = Vec::new();
        for wanted in &self.wanted {
            let there = found.iter().find(|f| f.name == wanted.name);
            if there != Some(wanted) {
                let there = there.map_or_else(absent, Found::to_string);
                rows.push([wanted.name.clone(), wanted.to_string(), there]);
            }
        }
        for extra in found.iter().filter(|f| self.wanted.iter().all(|w| w.name != f.name)) {
            rows.push([extra.name.clone(), absent(), extra.to_string()]);
        }
        // ON CONFLICT infers a key by its set of columns, whatever their order.
        let sorted = |columns: &[String]| {
            let mut columns = columns.to_vec();
            columns.sort();
            columns
        };
        let fits = |k: &FoundKey| k.nulls_equal && sorted(&k.columns) == sorted(&self.key);
        if !keys.iter().any(fits) {
            let there = list(keys, |k| {
                let nulls = if k.nulls_equal { "" } else { " NULLS DISTINCT" };
                format!("({}){nulls}", k.columns.join(", "))
            });
            let there = if there.is_empty() { absent() } else { there };
            rows.push(["(key)".into(), format!("({})", self.key.join(", ")), there]);
        }
        rows
    }
}

pub(super) fn definition_comment(model: &Model) -> String {
    format!("highwater model {}, definition {}", model.name, model.fingerprint())
}

/// A table of three columns for people: column, wanted, found.
pub fn print_differences(rows: &[[String; 3]]) -> String {
    let head = ["column".to_owned(), "wanted".to_owned(), "found".to_owned()];
    let all = || std::iter::once(&head).chain(rows);
    let width = |i: usize| all().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    all().fold(String::new(), |mut text, [column, wanted, found]| {
        let _ = write!(text, "\n  {column:first$}  {wanted:second$}  {found}");
        text
    })
}

/// A staging table's name. Named after what it holds: a model whose columns change finds another
/// one, and long names cannot be cut off into the same one.
pub(super) fn temporary(table: &str, fields: &str) -> String {
    let digest = Sha256::digest(format!("{table} {fields}"));
    format!("pg_temp.\"highwater_{:.20}\"", hex(&digest))
}

pub(super) fn create_temporary(temporary: &str, fields: &str) -> String {
    let name = &temporary["pg_temp.".len()..];
    format!("CREATE TEMP TABLE IF NOT EXISTS {name} ({fields}) ON COMMIT DELETE ROWS")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Arrays have no bounds of numeric: those are the column's, on the way in.
pub(super) fn array_type(pg: PgType) -> String {
    match pg {
        PgType::Numeric(..) => "numeric".to_owned(),
        other => other.to_string(),
    }
}

/// The columns that know a row.
fn key(model: &Model) -> Vec<String> {
    let appended = matches!(&model.kind, ModelKind::Rows(rows) if rows.primary_key.is_empty());
    if appended {
        let place = ["_partition", "_offset", INDEX];
        let is_there = |name: &&str| model.columns.iter().any(|column| column.name == *name);
        return place.into_iter().filter(is_there).map(str::to_owned).collect();
    }
    let is_key = |c: &&Column| matches!(c.role, Role::WindowStart | Role::Key);
    let mut key: Vec<_> = model.columns.iter().filter(is_key).collect();
    if model.is_of_sessions() {
        // A stored session is looked for by its key first.
        key.sort_by_key(|c| c.role == Role::WindowStart);
    }
    let key: Vec<_> = key.into_iter().map(|c| c.name.clone()).collect();
    if key.is_empty() { vec![ONLY.into()] } else { key }
}

/// As a table is made of it, or gets it.
pub(super) fn field(column: &Column) -> String {
    let name = quoted(&column.name);
    match &column.role {
        Role::Derived(expr) => {
            format!("{name} {} GENERATED ALWAYS AS ({expr}) STORED", definition(column.pg))
        }
        Role::WindowStart
        | Role::WindowEnd
        | Role::Key
        | Role::Part(_)
        | Role::Difference(_)
        | Role::Estimate(..)
        | Role::Value
        | Role::Position => format!("{name} {}", definition(column.pg)),
    }
}

fn create(model: &Model, key: &[String]) -> String {
    let mut lines: Vec<String> = model.columns.iter().map(field).collect();
    if key == [ONLY] {
        lines.push(format!("{} boolean NOT NULL DEFAULT true CHECK ({0})", quoted(ONLY)));
    }
    let columns = list(key, |name| quoted(name));
    lines.push(match &model.kind {
        ModelKind::Rows(rows) if rows.primary_key.is_empty() => format!("PRIMARY KEY ({columns})"),
        ModelKind::Rows(_) | ModelKind::Aggregate(_) => {
            format!("UNIQUE NULLS NOT DISTINCT ({columns})")
        }
    });
    // Rows that are only appended fill their pages.
    let full = match &model.kind {
        ModelKind::Rows(rows) if rows.primary_key.is_empty() => 100,
        ModelKind::Rows(_) => FILLFACTOR,
        ModelKind::Aggregate(aggregate) if aggregate.window.is_none() => FILLFACTOR_OF_TOTALS,
        ModelKind::Aggregate(_) => FILLFACTOR,
    };
    let table = format!(
        "CREATE TABLE {} (\n  {}\n) WITH (fillfactor = {full})",
        quoted(&model.name),
        lines.join(",\n  ")
    );
    match Differences::of(model) {
        Some(differences) => format!("{table};\n{}", differences.index),
        None => table,
    }
}

/// What becomes of a row whose key is there already; empty where that cannot be.
fn conflict(model: &Model, key: &[String]) -> String {
    let target = list(key, |name| quoted(name));
    let (sets, guard) = match &model.kind {
        ModelKind::Rows(rows) if rows.primary_key.is_empty() => return String::new(),
        ModelKind::Rows(_) => {
            let position = |table: &str| {
                list(["_event_time", "_partition", "_offset"], |c| format!("{table}.\"{c}\""))
            };
            let sets = model
                .columns
                .iter()
                .filter(|c| matches!(c.role, Role::Value | Role::Position))
                .map(|c| format!("{0} = excluded.{0}", quoted(&c.name)))
                .collect::<Vec<_>>();
            // What is stored of the source has judged already which change is the later one.
            if model.folding.is_some() {
                return update(&target, &sets, "");
            }
            // The total order that makes "the latest" the same on every replay.
            (sets, format!("\nWHERE ({}) > ({})", position("excluded"), position("t")))
        }
        ModelKind::Aggregate(_) => {
            let sets = model.columns.iter().filter_map(|c| {
                let name = quoted(&c.name);
                let merge = match &c.role {
                    Role::Part(merge) => merge,
                    // A session ends with the later of two that are one.
                    Role::WindowEnd if model.is_of_sessions() => &Merge::Greatest,
                    Role::Estimate(..) => return Some(format!("{name} = excluded.{name}")),
                    Role::WindowStart
                    | Role::WindowEnd
                    | Role::Key
                    | Role::Derived(_)
                    | Role::Difference(_)
                    | Role::Value
                    | Role::Position => return None,
                };
                Some(format!("{name} = {}", merged(&c.name, merge, "t", "excluded")))
            });
            (sets.collect(), String::new())
        }
    };
    update(&target, &sets, &guard)
}

fn update(target: &str, sets: &[String], guard: &str) -> String {
    if sets.is_empty() {
        return format!("\nON CONFLICT ({target}) DO NOTHING");
    }
    format!("\nON CONFLICT ({target}) DO UPDATE SET\n  {}{guard}", sets.join(",\n  "))
}

fn sessions_of(model: &Model, columns: &[(String, PgType)], conflict: &str) -> Option<Sessions> {
    if !model.is_of_sessions() {
        return None;
    }
    let of = |role: Role| model.columns.iter().filter(move |c| c.role == role);
    let name = |role: Role| of(role).map(|c| c.name.as_str()).next().unwrap_or_default();
    let keys: Vec<_> = of(Role::Key).map(|c| c.name.clone()).collect();
    let digest = hex(&Sha256::digest(format!("{} {columns:?} {keys:?}", model.name)));
    Some(Sessions::new(&sessions::Shape {
        name: &model.name,
        columns,
        start: name(Role::WindowStart),
        end: name(Role::WindowEnd),
        keys: &keys,
        conflict,
        digest: &digest[..20],
    }))
}

fn wanted(model: &Model, key: &[String]) -> Vec<Found> {
    let generated = |role: &Role| matches!(role, Role::Derived(_));
    let columns = model.columns.iter();
    let mut wanted: Vec<_> = columns
        .map(|c| Found { generated: generated(&c.role), ..Found::plain(&c.name, c.pg) })
        .collect();
    if key == [ONLY] {
        wanted.push(Found::plain(ONLY, PgType::Boolean));
    }
    wanted
}

impl Found {
    /// A column that is not generated.
    pub(super) fn plain(name: &str, pg: PgType) -> Self {
        Self {
            name: name.to_owned(),
            pg: match pg {
                PgType::Timestamptz => "timestamp with time zone".into(),
                other => other.to_string(),
            },
            generated: false,
            collation: if pg == PgType::Text { "C".into() } else { String::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::tests::{aggregate, append, global, latest};

    #[test]
    fn an_aggregate_merges_its_parts_by_its_key() {
        let table = Table::new(&aggregate("taps_5m"));
        assert!(
            table.create.contains("UNIQUE NULLS NOT DISTINCT (\"window_start\", \"stop_id\")"),
            "{}",
            table.create
        );
        assert!(table.create.contains("\"stop_id\" text COLLATE \"C\""), "{}", table.create);
        assert!(
            table.merge_arrays.contains(
                "\"fare\" = coalesce(t.\"fare\" + excluded.\"fare\", t.\"fare\", excluded.\"fare\")"
            ),
            "{}",
            table.merge_arrays
        );
        assert!(!table.merge_arrays.contains("\"window_end\" ="), "{}", table.merge_arrays);
        assert!(!table.merge_arrays.contains("\"mean\""), "derived columns do not travel");
    }

    #[test]
    fn sessions_are_known_by_their_keys_and_then_their_start() {
        let table = Table::new(&crate::warehouse::tests::sessions::sessions("journeys", true));
        let key = "UNIQUE NULLS NOT DISTINCT (\"card\", \"zone\", \"s_start\")";
        assert!(table.create.contains(key), "{}", table.create);
        let end = "\"s_end\" = greatest(t.\"s_end\", excluded.\"s_end\")";
        assert!(table.merge_arrays.contains(end), "{}", table.merge_arrays);
        assert!(table.sessions.is_some() && Table::new(&aggregate("taps_5m")).sessions.is_none());
    }

    #[test]
    fn a_model_that_groups_by_nothing_has_one_row() {
        let table = Table::new(&global("all_taps"));
        assert!(table.create.contains("UNIQUE NULLS NOT DISTINCT (\"_only\")"), "{}", table.create);
        assert!(table.merge_arrays.contains("ON CONFLICT (\"_only\")"), "{}", table.merge_arrays);
    }

    #[test]
    fn the_latest_row_wins_by_its_position() {
        let table = Table::new(&latest("orders"));
        assert!(
            table.merge_arrays.ends_with(
                "WHERE (excluded.\"_event_time\", excluded.\"_partition\", excluded.\"_offset\") \
                 > (t.\"_event_time\", t.\"_partition\", t.\"_offset\")"
            ),
            "{}",
            table.merge_arrays
        );
    }

    #[test]
    fn appended_rows_need_no_staging() {
        let table = Table::new(&append("taps_raw"));
        assert!(table.staging.is_none());
        assert!(!table.merge_arrays.contains("CONFLICT"), "{}", table.merge_arrays);
        assert!(table.create.contains("PRIMARY KEY (\"_partition\", \"_offset\")"));
    }

    #[test]
    fn names_are_quoted_so_that_they_read_back() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn staging_tables_of_models_with_long_names_differ() {
        let long = "m".repeat(62);
        let a = Table::new(&aggregate(&format!("{long}a"))).copy;
        let b = Table::new(&aggregate(&format!("{long}b"))).copy;
        assert_ne!(a, b);
    }

    #[test]
    fn a_difference_names_column_wanted_and_found() {
        let table = Table::new(&aggregate("taps_5m"));
        let key = FoundKey { columns: table.shape.key.clone(), nulls_equal: true };
        assert!(
            table.shape.differences(&table.shape.wanted, std::slice::from_ref(&key)).is_empty()
        );

        let mut found = table.shape.wanted.clone();
        found[3].pg = "integer".into();
        found.remove(2);
        let rows = table.shape.differences(&found, &[FoundKey { nulls_equal: false, ..key }]);
        let text = print_differences(&rows);
        assert!(text.contains("stop_id  text COLLATE \"C\"         (absent)"), "{text}");
        assert!(text.contains("taps     bigint                   integer"), "{text}");
        assert!(text.contains("(window_start, stop_id) NULLS DISTINCT"), "{text}");
    }
}
