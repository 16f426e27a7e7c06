//! The tables `MODEL__snapshots` and `MODEL__staged`: the statements that make, read and write them.
//!
//! Owns: their text. Does not own: when they run (`swap`).

use super::{
    super::{
        encode::Instant,
        following::{self, Following, as_stored, fields, write},
        postgres::{Parameter, Row, Session},
        stored,
        tables::{FILLFACTOR, Found, Shape, array_type, list, quoted},
    },
    Counts, PIECE_ROWS, SnapshotRow, State, truncate_of,
};
use crate::{
    catalog::{Folding, Model, PgType},
    compute::changes::{ChangeDelta, Seen},
    error::{Error, Result},
};
use std::sync::Arc;

/// The statements over a model's snapshots.
#[derive(Debug)]
pub struct Swap {
    /// Of the snapshots, and of what waits.
    pub shapes: [Shape; 2],
    pub creates: [String; 2],
    pub comment: [String; 2],
    pub replaces: Option<u32>,
    /// A person says where a snapshot begins and ends.
    pub is_bracketed: bool,
    /// Not of a table that is rebuilt to be compared: there everything is known.
    pub begins: bool,
    /// In millionths of the rows: a cut that takes more of them is not committed.
    pub max_cut_deletes: Option<u32>,
    pub topic: Arc<str>,
    pub staged_columns: Vec<(String, PgType)>,
    list: String,
    note: String,
    pub has_rows: String,
    stage: String,
    pub read_staged: String,
    pub empty_staged: String,
    /// Rows that the source has, and those of them of before a position that this transaction has not made.
    pub count: String,
    /// By partition, the last change of before a position.
    pub last_before: String,
}

impl Swap {
    pub(in crate::warehouse) fn of(model: &Model, folding: &Folding, comment: &str) -> Self {
        let names = [Folding::snapshots_table(&model.name), Folding::staged_table(&model.name)];
        let [snapshots, staged] = [quoted(&names[0]), quoted(&names[1])];
        let source = quoted(&Folding::source_table(&model.name));
        let truncates = quoted(&Folding::truncates_table(&model.name));
        let of_snapshot = [
            ("_source_position", PgType::Text),
            ("state", PgType::Text),
            ("staged", PgType::Boolean),
            ("reads", PgType::BigInt),
            ("first", PgType::Text),
            ("_time", PgType::Timestamptz),
            ("ended", PgType::Boolean),
            ("followed", PgType::Boolean),
            ("deletes", PgType::BigInt),
            ("rows", PgType::BigInt),
            ("refused", PgType::BigInt),
            ("decided_by", PgType::Text),
            ("changed_at", PgType::Timestamptz),
        ];
        let mut columns = as_stored(folding);
        let old = columns[..folding.keys].to_vec();
        let own = |columns: &mut Vec<_>, more: &[(&str, PgType)]| {
            columns.extend(more.iter().map(|(name, pg)| ((*name).to_owned(), *pg)));
        };
        own(
            &mut columns,
            &[
                ("_event_time", PgType::Timestamptz),
                ("_source_position", PgType::Text),
                ("_partition", PgType::Integer),
                ("_offset", PgType::BigInt),
                ("_op", PgType::Text),
                ("_unchanged", PgType::Text),
            ],
        );
        columns.extend(old.into_iter().map(|(name, pg)| (format!("_old_{name}"), pg)));
        own(&mut columns, &[("_moved", PgType::Boolean), ("_read", PgType::Boolean)]);
        let all = list(&columns, |(name, _)| quoted(name));
        let arrays = list(columns.iter().enumerate(), |(i, (_, pg))| {
            format!("${}::{}[]", i + 1, array_type(*pg))
        });
        let place = "(t.\"_source_position\", t.\"_offset\", t.\"_partition\") > (s.\"_source_position\", \
                     s.\"_offset\", s.\"_partition\")";
        let numbered = [("_n", PgType::BigInt)];
        let wanted = numbered.iter().map(|(name, pg)| Found::plain(name, *pg));
        let wanted = wanted.chain(columns.iter().map(|(name, pg)| Found::plain(name, *pg)));
        let comment = |table: &str| format!("COMMENT ON TABLE {table} IS '{comment}'");
        Self {
            creates: [
                format!(
                    "CREATE TABLE {snapshots} (\n  {},\n  PRIMARY KEY (\"_source_position\")\n)",
                    fields(of_snapshot)
                ),
                format!(
                    "CREATE TABLE {staged} (\n  \"_n\" bigint GENERATED ALWAYS AS IDENTITY,\n  {},\n  PRIMARY KEY \
                     (\"_n\")\n) WITH (fillfactor = {FILLFACTOR})",
                    fields(columns.iter().map(|(name, pg)| (name.as_str(), *pg)))
                ),
            ],
            comment: [comment(&snapshots), comment(&staged)],
            replaces: folding.snapshots.max_deletes(),
            is_bracketed: folding.snapshots.is_bracketed(),
            begins: true,
            max_cut_deletes: folding.max_cut_deletes,
            topic: model.topic.clone(),
            list: format!(
                "SELECT \"_source_position\", state, staged, reads, first, \"_time\", ended, followed, deletes, rows, refused, \
                 decided_by FROM {snapshots} ORDER BY \"_source_position\""
            ),
            note: format!(
                "INSERT INTO {snapshots} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now())\nON CONFLICT \
                 (\"_source_position\") DO UPDATE SET state = excluded.state, reads = excluded.reads, first = \
                 excluded.first, \"_time\" = excluded.\"_time\", ended = excluded.ended, followed = excluded.followed, deletes = excluded.deletes, \
                 rows = excluded.rows, refused = excluded.refused, decided_by = excluded.decided_by, changed_at = now()"
            ),
            has_rows: format!("SELECT EXISTS (SELECT FROM {source})"),
            stage: format!("INSERT INTO {staged} ({all}) SELECT * FROM unnest({arrays})"),
            read_staged: format!(
                "SELECT {}, s.\"_n\" FROM {staged} AS s WHERE s.\"_n\" > $1 ORDER BY s.\"_n\" LIMIT {PIECE_ROWS}",
                stored::selected(&columns)
            ),
            empty_staged: format!("DELETE FROM {staged}"),
            count: format!(
                "SELECT count(*), count(*) FILTER (WHERE s.\"_source_position\" < $1::text AND s.xmin <> \
                 pg_current_xact_id()::xid) FROM {source} AS s WHERE \
                 NOT s.\"_deleted\" AND s.\"_image\" AND NOT EXISTS (SELECT FROM {truncates} AS t WHERE {place})"
            ),
            last_before: format!(
                "SELECT \"_partition\", max(\"_offset\") FROM (SELECT \"_partition\", \"_offset\", \"_source_position\" \
                 FROM {source} UNION ALL SELECT \"_partition\", \"_offset\", \"_source_position\" FROM {staged}) AS s \
                 WHERE \"_source_position\" < $1::text GROUP BY 1"
            ),
            shapes: [
                Shape {
                    table: names[0].clone(),
                    wanted: of_snapshot.map(|(name, pg)| Found::plain(name, pg)).to_vec(),
                    key: vec!["_source_position".to_owned()],
                },
                Shape {
                    table: names[1].clone(),
                    wanted: wanted.collect(),
                    key: vec!["_n".to_owned()],
                },
            ],
            staged_columns: columns,
        }
    }

    /// What was decided, for a table that is rebuilt: with it every change is folded as it comes. False: there
    /// are changes that wait.
    pub(in crate::warehouse) async fn decided(
        session: &Session,
        doing: &str,
        kept: &Following,
        rebuilt: &Following,
    ) -> Result<bool> {
        let sql = "SELECT to_regclass($1::text) IS NOT NULL";
        let name = quoted(&kept.swap.shapes[0].table);
        if !session.query(doing, sql, &[&name]).await?[0].get::<_, bool>(0) {
            return Ok(true);
        }
        let rows = kept.swap.read(session, doing).await?;
        for row in &rows {
            rebuilt.swap.note(session, doing, row).await?;
            if row.state == State::Applied {
                following::note_truncate(session, doing, rebuilt, &truncate_of(row)).await?;
            }
        }
        Ok(rows.iter().all(|row| row.state.is_decided() || !row.staged))
    }

    pub(in crate::warehouse) async fn read(
        &self,
        session: &Session,
        doing: &str,
    ) -> Result<Vec<SnapshotRow>> {
        let rows = session.query(doing, &self.list, &[]).await?;
        let row = |row: &Row| {
            let state: &str = row.get(1);
            let state = State::ALL.into_iter().find(|known| known.as_str() == state);
            let number = |i| row.get::<_, i64>(i) as u64;
            let position: String = row.get(0);
            Ok(SnapshotRow {
                state: state.ok_or_else(|| {
                    Error::halt(format!("{doing}: a snapshot has no state, position={position}"))
                })?,
                position,
                staged: row.get(2),
                seen: Seen {
                    reads: number(3),
                    first: serde_json::from_str(row.get(4))
                        .map_err(|e| Error::halt(format!("{doing}: read a snapshot")).because(e))?,
                    time: row.get::<_, Instant>(5).0,
                    ended: row.get(6),
                },
                followed: row.get(7),
                counts: Counts { deletes: number(8), rows: number(9), refused: number(10) },
                decided_by: row.get(11),
            })
        };
        rows.iter().map(row).collect()
    }

    pub(in crate::warehouse) async fn note(
        &self,
        session: &Session,
        doing: &str,
        row: &SnapshotRow,
    ) -> Result<()> {
        let SnapshotRow { position, state, staged, seen, followed, counts, decided_by } = row;
        let first = serde_json::to_string(&seen.first).expect("numbers");
        let (state, time, reads) = (state.as_str(), Instant(seen.time), seen.reads as i64);
        let [deletes, rows, refused] =
            [counts.deletes, counts.rows, counts.refused].map(|n| n as i64);
        let values: [Parameter<'_>; 12] = [
            position,
            &state,
            staged,
            &reads,
            &first,
            &time,
            &seen.ended,
            followed,
            &deletes,
            &rows,
            &refused,
            decided_by,
        ];
        session.execute(doing, &self.note, &values).await.map(drop)
    }

    pub(in crate::warehouse) async fn stage(
        &self,
        session: &Session,
        doing: &str,
        delta: &ChangeDelta,
    ) -> Result<()> {
        write(session, doing, &self.stage, &self.staged_columns, delta.ops()).await?;
        let truncates = delta.truncates_as_ops()?;
        write(session, doing, &self.stage, &self.staged_columns, &truncates).await
    }
}
