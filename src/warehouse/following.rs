//! The tables of a model over changes: the source's rows as they are stored, its truncates, and what
//! follows from them in the model's own table.
//!
//! Owns: their statements and the order of these in a cut. Does not own: the fold
//! (`compute::changes`), the text of the model's own table (`tables`).
//!
//! SUBTLE: the caller holds the model's lock (W-8) since before the first statement here. So what is
//! read is what is written over (F-2).
//! 1. The cut's truncates are stored, and rows before them go. A cut's other changes come after that in
//!    any case: each is judged by its position, as those of other partitions are that come cuts later.
//! 2. The stored rows of the cut's keys are read, once per cut however many changes there were. So which rows
//!    are not there is known, and these are copied.
//! 3. They are folded, stored, and the model's table follows.

use super::{
    encode::Instant,
    keyed::{self, parameters, same, there},
    merge::{self, Way, elements, key_elements, pieces, send, upsert},
    postgres::{Parameter, Row, Session},
    stored,
    swap::{self, Swap},
    tables::{
        FILLFACTOR, Found, Shape, Table, array_type, definition, definition_comment, list, quoted,
    },
};
use crate::{
    catalog::{
        Folding, Keeps, Model, ModelKind, Order, PgType, Role,
        folding::{DELETED_AT, GROUP_ROWS, VALID_FROM, VALID_TO},
    },
    compute::changes::{ChangeDelta, Changed, Outcome, Truncate},
    error::{Error, Result},
};
use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch, not},
};

/// Blocks of the source's table that are read at once when a truncate takes back what they added.
const BLOCKS: i64 = 1_024;

/// The statements of one model's following.
#[derive(Debug)]
pub struct Following {
    /// Of the source's rows, and of its truncates.
    pub shapes: [Shape; 2],
    pub creates: [String; 2],
    pub comment: [String; 2],
    /// What waits for the end of a snapshot.
    pub swap: Swap,
    /// The source's rows, as they are stored.
    pub(super) columns: Vec<(String, PgType)>,
    keys: Vec<(String, PgType)>,
    /// The same in the model's table, by its names; of groups what they are grouped by.
    table_keys: Vec<(String, PgType)>,
    source: String,
    store: String,
    /// Of rows that are not there.
    copy: String,
    read_truncates: String,
    add_truncate: String,
    /// What a truncate does, by position, offset and partition (and time).
    remove: Vec<(String, bool)>,
    /// Of groups: rows between two blocks that a truncate removes.
    removed: String,
    close: String,
    subtract: String,
    table: String,
}

/// What a cut's changes turned out to be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Updates without a row, and inserts without all of one.
    pub orphans: u64,
    /// Changes that were not later than what was stored of their row.
    pub old: u64,
    /// Rows that an expression of the model fails on.
    pub failed: u64,
    /// The changes wait for the end of a snapshot.
    pub waits: bool,
}

impl Following {
    /// None: the model is not over changes.
    pub fn of(model: &Model) -> Option<Self> {
        let folding = model.folding.as_ref()?;
        let table = quoted(&model.name);
        let source_table = Folding::source_table(&model.name);
        let truncates_table = Folding::truncates_table(&model.name);
        let (source, truncates) = (quoted(&source_table), quoted(&truncates_table));

        let mut columns = as_stored(folding);
        let keys = columns[..folding.keys].to_vec();
        let own = [
            ("_event_time", PgType::Timestamptz),
            ("_source_position", PgType::Text),
            ("_partition", PgType::Integer),
            ("_offset", PgType::BigInt),
            ("_deleted", PgType::Boolean),
            ("_image", PgType::Boolean),
            ("_failed", PgType::Text),
        ];
        columns.extend(own.map(|(name, pg)| (name.to_owned(), pg)));
        let names = list(&columns, |(name, _)| quoted(name));
        let key_names = list(&keys, |(name, _)| quoted(name));
        let arrays = list(columns.iter().enumerate(), |(i, (_, pg))| {
            format!("${}::{}[]", i + 1, array_type(*pg))
        });
        let sets =
            list(&columns[keys.len()..], |(name, _)| format!("{0} = excluded.{0}", quoted(name)));
        let before = match folding.order {
            Order::Source => {
                "(\"_source_position\", \"_offset\", \"_partition\") < ($1::text, $2::bigint, $3::integer)"
            }
            Order::Offset => {
                "\"_partition\" = $3::integer AND \"_offset\" < $2::bigint AND $1::text IS NOT NULL"
            }
        };
        let remove = match folding.keeps {
            Keeps::Rows => vec![
                (format!("DELETE FROM {table} WHERE {before}"), false),
                (format!("DELETE FROM {source} WHERE {before}"), false),
            ],
            Keeps::Groups { .. } => vec![(format!("DELETE FROM {source} WHERE {before}"), false)],
            Keeps::Deleted => vec![(
                format!(
                    "UPDATE {table} SET {0} = least({0}, $4::timestamptz) WHERE {before}",
                    quoted(DELETED_AT)
                ),
                true,
            )],
            Keeps::Versions => vec![(
                format!(
                    "UPDATE {table} SET {to} = greatest({from}, least({to}, $4::timestamptz)) WHERE {before} \
                     AND ({to} IS NULL OR {to} > $4::timestamptz)",
                    from = quoted(VALID_FROM),
                    to = quoted(VALID_TO)
                ),
                true,
            )],
        };
        let table_keys = table_keys(model);
        let subtract = match &folding.keeps {
            Keeps::Groups { sums } => subtract(model, sums),
            Keeps::Rows | Keeps::Deleted | Keeps::Versions => String::new(),
        };
        let truncate_columns = [
            ("_source_position", PgType::Text),
            ("_offset", PgType::BigInt),
            ("_partition", PgType::Integer),
            ("_time", PgType::Timestamptz),
        ];
        let text = definition_comment(model).replace('\'', "''");
        let comment = |table: &str| format!("COMMENT ON TABLE {table} IS '{text}'");
        Some(Self {
            swap: Swap::of(model, folding, &text),
            creates: [
                format!(
                    "CREATE TABLE {source} (\n  {},\n  UNIQUE NULLS NOT DISTINCT ({key_names})\n) WITH (fillfactor = \
                     {FILLFACTOR})",
                    fields(columns.iter().map(|(name, pg)| (name.as_str(), *pg)))
                ),
                format!(
                    "CREATE TABLE {truncates} (\n  {},\n  PRIMARY KEY (\"_source_position\", \"_offset\", \
                     \"_partition\")\n)",
                    fields(truncate_columns)
                ),
            ],
            comment: [comment(&source), comment(&truncates)],
            shapes: [
                Shape {
                    table: source_table,
                    wanted: columns.iter().map(|(name, pg)| Found::plain(name, *pg)).collect(),
                    key: keys.iter().map(|(name, _)| name.clone()).collect(),
                },
                Shape {
                    table: truncates_table,
                    wanted: truncate_columns.map(|(name, pg)| Found::plain(name, pg)).to_vec(),
                    key: truncate_columns[..3].iter().map(|(name, _)| (*name).to_owned()).collect(),
                },
            ],
            store: format!(
                "INSERT INTO {source} AS t ({names}) SELECT * FROM unnest({arrays})\nON CONFLICT ({key_names}) DO \
                 UPDATE SET {sets}"
            ),
            copy: format!("COPY {source} ({names}) FROM STDIN (FORMAT binary)"),
            read_truncates: format!(
                "SELECT \"_source_position\", \"_offset\", \"_partition\", \"_time\" FROM {truncates}"
            ),
            add_truncate: format!(
                "INSERT INTO {truncates} (\"_source_position\", \"_offset\", \"_partition\", \"_time\") VALUES ($1, \
                 $2, $3, $4)"
            ),
            removed: format!(
                "SELECT {} FROM {source} AS s WHERE {before} AND ctid >= format('(%s,0)', $4::bigint)::tid AND ctid \
                 < format('(%s,0)', $5::bigint)::tid",
                stored::selected(&columns)
            ),
            close: format!(
                "UPDATE {table} AS t SET {to} = greatest(t.{from}, least(t.{to}, g.until)) FROM \
                 unnest($1::integer[], $2::bigint[], $3::timestamptz[]) AS g (partition, place, until) WHERE \
                 t.\"_partition\" = g.partition AND t.\"_offset\" = g.place",
                from = quoted(VALID_FROM),
                to = quoted(VALID_TO)
            ),
            remove,
            subtract,
            table_keys,
            source,
            columns,
            keys,
            table,
        })
    }

    /// Gives the place of each key that is there, counted from 1, and its row.
    fn read(&self, nulls: &[bool]) -> String {
        let columns = stored::selected(&self.columns);
        let given = there(&self.keys, nulls);
        let same = same(&self.keys, nulls, "s", "g");
        if given.is_empty() {
            return format!("SELECT {columns} FROM {} AS s WHERE {same}", self.source);
        }
        // LIMIT makes each row one look into the key's index, however large the table is.
        format!(
            "SELECT m.* FROM unnest({}) AS g ({}) CROSS JOIN LATERAL (SELECT {columns} FROM {} AS s WHERE {same} \
             LIMIT 1) AS m",
            parameters(&given),
            list(&given, |(name, _)| quoted(name)),
            self.source
        )
    }

    /// Removes the rows of these keys from the model's table, as far as `and` says.
    fn delete(&self, nulls: &[bool], and: &str) -> String {
        let given = there(&self.table_keys, nulls);
        let same = same(&self.table_keys, nulls, "t", "g");
        if given.is_empty() {
            return format!("DELETE FROM {} AS t WHERE {same}{and}", self.table);
        }
        format!(
            "DELETE FROM {} AS t USING unnest({}) AS g ({}) WHERE {same}{and}",
            self.table,
            parameters(&given),
            list(&given, |(name, _)| quoted(name))
        )
    }
}

/// The source's columns, as they are kept beside the table: jsonb would not give the text back that came.
pub(super) fn as_stored(folding: &Folding) -> Vec<(String, PgType)> {
    let stored = |(name, pg): &(String, PgType)| match pg {
        PgType::Jsonb => (name.clone(), PgType::Text),
        pg => (name.clone(), *pg),
    };
    folding.columns.iter().map(stored).collect()
}

pub(super) fn fields<'a>(columns: impl IntoIterator<Item = (&'a str, PgType)>) -> String {
    let field = |(name, pg): (&str, PgType)| format!("{} {}", quoted(name), definition(pg));
    columns.into_iter().map(field).collect::<Vec<_>>().join(",\n  ")
}

/// By what a row of the model's table is found.
fn table_keys(model: &Model) -> Vec<(String, PgType)> {
    match &model.kind {
        ModelKind::Rows(rows) => {
            let keys = rows.primary_key.iter().map(|place| &model.columns[*place]);
            keys.map(|c| (c.name.clone(), c.pg)).collect()
        }
        ModelKind::Aggregate(_) => {
            let keys = model.columns.iter().filter(|c| c.role == Role::Key);
            keys.map(|c| (c.name.clone(), c.pg)).collect()
        }
    }
}

/// Takes parts from groups, which are there. A sum whose terms are all gone is NULL.
fn subtract(model: &Model, sums: &[(String, String)]) -> String {
    let carried: Vec<_> = model.columns.iter().filter(|c| c.role.travels()).collect();
    let names = list(&carried, |c| quoted(&c.name));
    let arrays =
        list(carried.iter().enumerate(), |(i, c)| format!("${}::{}[]", i + 1, array_type(c.pg)));
    let keys = carried.iter().filter(|c| c.role == Role::Key);
    let keys = list(keys, |c| quoted(&c.name));
    let parts = carried.iter().filter(|c| c.role != Role::Key);
    let sets = list(parts, |c| {
        let name = quoted(&c.name);
        match sums.iter().find(|(sum, _)| *sum == c.name) {
            Some((_, terms)) => format!(
                "{name} = CASE WHEN t.{0} = excluded.{0} THEN NULL ELSE t.{name} - coalesce(excluded.{name}, 0) END",
                quoted(terms)
            ),
            None => format!("{name} = t.{name} - excluded.{name}"),
        }
    });
    format!(
        "INSERT INTO {} AS t ({names}) SELECT * FROM unnest({arrays})\nON CONFLICT ({keys}) DO UPDATE SET {sets}",
        quoted(&model.name)
    )
}

/// Brings a cut's changes into the tables.
pub async fn follow(
    session: &Session,
    doing: &str,
    table: &Table,
    delta: &ChangeDelta,
    way: Way,
) -> Result<Followed> {
    let following = table.following.as_ref().ok_or_else(|| {
        Error::halt(format!("{doing}: changes for a table that does not follow any"))
    })?;
    let Some(delta) = swap::admit(session, doing, following, delta).await? else {
        return Ok(Followed { waits: true, ..Followed::default() });
    };
    let before = swap::rows_before(session, doing, &following.swap, &delta).await?;
    let mut truncates = truncates(session, doing, following).await?;
    let followed = fold_in(session, doing, table, &delta, &mut truncates, way).await?;
    if let Some(before) = before {
        swap::guard(session, doing, &following.swap, &table.model, before).await?;
    }
    Ok(followed)
}

/// Folds changes into the source's rows; `truncates` are those that are known.
pub(super) async fn fold_in(
    session: &Session,
    doing: &str,
    table: &Table,
    delta: &ChangeDelta,
    truncates: &mut Vec<Truncate>,
    way: Way,
) -> Result<Followed> {
    let following = table.following.as_ref().expect("changes are of a table that follows");
    for truncate in delta.truncates() {
        if !truncates.contains(truncate) {
            remove(session, doing, table, delta, truncate).await?;
            truncates.push(truncate.clone());
        }
    }
    let stored = read(session, doing, following, &delta.keys()?).await?;
    let outcome = delta.fold(&stored, truncates)?;
    store(session, doing, following, &outcome).await?;
    match &outcome.table {
        Changed::Rows { there, gone } => {
            delete(session, doing, following, gone, "").await?;
            upsert(session, doing, table, there, way).await?;
        }
        Changed::Versions { new, closed } => {
            let columns: Vec<(String, PgType)> = vec![
                ("_partition".into(), PgType::Integer),
                ("_offset".into(), PgType::BigInt),
                (VALID_TO.into(), PgType::Timestamptz),
            ];
            write(session, doing, &following.close, &columns, closed).await?;
            upsert(session, doing, table, new, way).await?;
        }
        Changed::Groups { added, taken_back } => {
            upsert(session, doing, table, added, way).await?;
            take_back(session, doing, table, following, taken_back).await?;
        }
    }
    let (orphans, old, failed) = (outcome.orphans, outcome.old, outcome.failed);
    Ok(Followed { orphans, old, failed, waits: false })
}

pub(super) async fn truncates(
    session: &Session,
    doing: &str,
    following: &Following,
) -> Result<Vec<Truncate>> {
    let rows = session.query(doing, &following.read_truncates, &[]).await?;
    let truncate = |row: &Row| Truncate {
        position: row.get(0),
        offset: row.get(1),
        partition: row.get(2),
        time: row.get::<_, Instant>(3).0,
    };
    Ok(rows.iter().map(truncate).collect())
}

pub(super) async fn note_truncate(
    session: &Session,
    doing: &str,
    following: &Following,
    truncate: &Truncate,
) -> Result<()> {
    let Truncate { position, offset, partition, time } = truncate;
    let place: [Parameter<'_>; 4] = [position, offset, partition, &Instant(*time)];
    session.execute(doing, &following.add_truncate, &place).await.map(drop)
}

/// A truncate is stored, and what was before it goes.
pub(super) async fn remove(
    session: &Session,
    doing: &str,
    table: &Table,
    delta: &ChangeDelta,
    truncate: &Truncate,
) -> Result<()> {
    let following = table.following.as_ref().expect("a truncate is of a table that follows");
    note_truncate(session, doing, following, truncate).await?;
    let Truncate { position, offset, partition, time } = truncate;
    let time = Instant(*time);
    let place: [Parameter<'_>; 4] = [position, offset, partition, &time];
    if !following.subtract.is_empty() {
        let sql =
            "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint";
        let blocks: i64 = session.query(doing, sql, &[&following.source]).await?[0].get(0);
        for from in (0..=blocks).step_by(BLOCKS as usize) {
            let to = from + BLOCKS;
            let values: [Parameter<'_>; 5] = [position, offset, partition, &from, &to];
            let rows = session.query(doing, &following.removed, &values).await?;
            let rows = stored::batch(&following.columns, &rows)?;
            let rows = without_failed(&rows);
            take_back(session, doing, table, following, &delta.added_by(&rows)?).await?;
        }
    }
    for (sql, timed) in &following.remove {
        let values = if *timed { &place[..] } else { &place[..3] };
        session.execute(doing, sql, values).await?;
    }
    Ok(())
}

/// Each key is asked for once, so remembering answers costs a third of the read (0.9 s against 0.6 s per 200,000 keys)
/// and saves none of it.
const NO_MEMOIZE: &str = "SET LOCAL enable_memoize = off";

/// The stored rows of these keys.
async fn read(
    session: &Session,
    doing: &str,
    following: &Following,
    keys: &RecordBatch,
) -> Result<RecordBatch> {
    let mut found = vec![stored::batch(&following.columns, &[])?];
    session.batch(doing, NO_MEMOIZE).await?;
    for alike in keyed::alike(keys, &following.keys)? {
        let sql = following.read(&alike.nulls);
        let columns = key_elements(&alike, &there(&following.keys, &alike.nulls))?;
        // Piece by piece: as rows they take several times what they take as columns.
        for (_, piece) in pieces(&columns, alike.rows.len()) {
            let rows = session.query(doing, &sql, &merge::parameters(&piece)).await?;
            found.push(stored::batch(&following.columns, &rows)?);
        }
    }
    let found = concat_batches(&found[0].schema(), &found)
        .map_err(|e| Error::halt("read stored rows").because(e))?;
    Ok(without_failed(&found))
}

/// Stores the source's rows as they are from now on. Those that the caller did not find are not there (it holds the
/// model's lock), and COPY takes a third of what an upsert costs PostgreSQL.
async fn store(
    session: &Session,
    doing: &str,
    following: &Following,
    outcome: &Outcome,
) -> Result<()> {
    let chosen = |which: &BooleanArray| {
        filter_record_batch(&outcome.rows, which)
            .map_err(|e| Error::halt("take folded rows").because(e))
    };
    let there = chosen(&not(&outcome.new).expect("a column without NULLs"))?;
    write(session, doing, &following.store, &following.columns, &there).await?;
    let new = chosen(&outcome.new)?;
    if new.num_rows() == 0 {
        return Ok(());
    }
    session.copy(doing, &following.copy, &elements(&following.columns, &new)?, new.num_rows()).await
}

/// The fold makes the reason anew.
fn without_failed(rows: &RecordBatch) -> RecordBatch {
    let mut rows = rows.clone();
    rows.remove_column(rows.num_columns() - 1);
    rows
}

/// Removes rows of the model's table by key.
async fn delete(
    session: &Session,
    doing: &str,
    following: &Following,
    keys: &RecordBatch,
    and: &str,
) -> Result<()> {
    for alike in keyed::alike(keys, &following.table_keys)? {
        let sql = following.delete(&alike.nulls, and);
        let columns = key_elements(&alike, &there(&following.table_keys, &alike.nulls))?;
        send(session, doing, &sql, &columns, alike.rows.len()).await?;
    }
    Ok(())
}

/// Takes from groups what rows had added to them; a group without rows goes.
async fn take_back(
    session: &Session,
    doing: &str,
    table: &Table,
    following: &Following,
    parts: &RecordBatch,
) -> Result<()> {
    write(session, doing, &following.subtract, &table.columns, parts).await?;
    let empty = format!(" AND t.{} = 0", quoted(GROUP_ROWS));
    delete(session, doing, following, parts, &empty).await
}

/// Runs a statement over these rows.
pub(super) async fn write(
    session: &Session,
    doing: &str,
    sql: &str,
    columns: &[(String, PgType)],
    rows: &RecordBatch,
) -> Result<()> {
    send(session, doing, sql, &elements(columns, rows)?, rows.num_rows()).await
}
