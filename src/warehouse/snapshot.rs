//! What `verify` reads: marks, manifest, dead letters and tables of one moment, and a table rebuilt
//! beside the kept one to compare them row by row.
//!
//! Owns: one transaction that changes nothing. Does not own: what is right (`ops::verify`).

use super::{
    MarkRow, Warehouse, commit, compare,
    encode::Instant,
    following::Following,
    listing,
    merge::{Way, merge},
    postgres::Session,
    swap::Swap,
    tables::Table,
};
use crate::{
    catalog::Model,
    compute::Delta,
    cut::FileRange,
    error::{Error, Result},
    record::{EventTime, IdleAdvance, Offset, Output, Partition, Span},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// Differing rows that are told.
const TOLD_ROWS: usize = 4;

/// A file of the manifest.
#[derive(Debug, Clone)]
pub struct ManifestFile {
    pub topic: Arc<str>,
    pub path: String,
    pub bytes: u64,
    pub rows: u64,
    pub checksum: String,
    pub schema: String,
    pub sequence: i64,
    /// Readers see it.
    pub completed: bool,
    /// Made by a retry of dead letters: its offsets lie between those of cuts.
    pub retry: bool,
    pub ranges: Vec<FileRange>,
    /// Of each range: a cut has one generation per partition.
    pub generations: BTreeMap<Partition, i32>,
    pub event_time_min: EventTime,
    pub event_time_max: EventTime,
}

/// Offsets that were accepted as gone.
#[derive(Debug, Clone)]
pub struct GapRow {
    pub topic: Arc<str>,
    pub output: Output,
    pub partition: Partition,
    pub generation: i32,
    pub from: Offset,
    pub to: Offset,
    pub lost: u64,
}

/// Per topic, output, partition, generation.
pub type Counts = HashMap<(Arc<str>, Output, Partition, i32), u64>;

/// A record that an output refused in its place and took later.
#[derive(Debug, Clone)]
pub struct RetriedRow {
    pub topic: Arc<str>,
    pub output: Output,
    pub partition: Partition,
    pub generation: i32,
    pub offset: i64,
    pub event_time_max: Option<EventTime>,
}

/// A record that a model refused and the lake has.
#[derive(Debug, Clone)]
pub struct RefusedRow {
    pub topic: Arc<str>,
    pub output: Output,
    pub partition: Partition,
    pub generation: i32,
    pub offset: i64,
}

/// One moment of the warehouse.
pub struct Snapshot {
    session: Session,
    shadows: HashMap<Arc<str>, (Table, Arc<Model>)>,
}

impl Warehouse {
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let session = self.session().await?;
        let sql = include_str!("../../sql/warehouse/begin_snapshot.sql");
        session.batch("begin to verify", sql).await?;
        Ok(Snapshot { session, shadows: HashMap::new() })
    }
}

impl Snapshot {
    pub async fn marks(&self) -> Result<Vec<MarkRow>> {
        let sql = include_str!("../../sql/warehouse/read_marks.sql");
        let all: Option<&str> = None;
        let rows = self.session.query("read marks", sql, &[&all]).await?;
        rows.iter().map(listing::mark_row).collect()
    }

    /// Of generations that are over.
    pub async fn former_marks(&self) -> Result<Vec<MarkRow>> {
        let sql = include_str!("../../sql/warehouse/read_former_marks.sql");
        let rows = self.session.query("read former marks", sql, &[]).await?;
        rows.iter().map(listing::mark_row).collect()
    }

    pub async fn gaps(&self) -> Result<Vec<GapRow>> {
        let sql = include_str!("../../sql/warehouse/read_gaps.sql");
        let rows = self.session.query("read gaps", sql, &[]).await?;
        let gap = |row: &super::postgres::Row| {
            Ok(GapRow {
                topic: row.get::<_, &str>(0).into(),
                output: listing::output(row.get(1))?,
                partition: Partition(row.get(2)),
                generation: row.get(3),
                from: Offset(row.get(4)),
                to: Offset(row.get(5)),
                lost: row.get::<_, i64>(7) as u64,
            })
        };
        rows.iter().map(gap).collect()
    }

    pub async fn files(&self) -> Result<Vec<ManifestFile>> {
        let sql = include_str!("../../sql/warehouse/read_files.sql");
        let rows = self.session.query("read the manifest", sql, &[]).await?;
        let files = rows.iter().map(|row| {
            let partitions: Vec<i32> = row.get(9);
            let [from, to, counts]: [Vec<i64>; 3] = [row.get(10), row.get(11), row.get(12)];
            let generations: Vec<i32> = row.get(13);
            let extra_rows: Vec<i64> = row.get(16);
            let generations = partitions.iter().map(|p| Partition(*p)).zip(generations).collect();
            let ranges = partitions.into_iter().enumerate().map(|(i, partition)| FileRange {
                partition: Partition(partition),
                span: Span::new(Offset(from[i]), Offset(to[i])),
                rows: counts[i] as u64,
                extra_rows: extra_rows[i] as u64,
            });
            ManifestFile {
                topic: row.get::<_, &str>(0).into(),
                path: row.get(1),
                bytes: row.get::<_, i64>(2) as u64,
                rows: row.get::<_, i64>(3) as u64,
                checksum: row.get(4),
                schema: row.get(5),
                sequence: row.get(6),
                completed: row.get(7),
                retry: row.get(8),
                ranges: ranges.collect(),
                generations,
                event_time_min: EventTime(row.get::<_, Instant>(14).0),
                event_time_max: EventTime(row.get::<_, Instant>(15).0),
            }
        });
        Ok(files.collect())
    }

    /// Of all topics: what swaps have replaced and nobody has removed yet.
    pub async fn retired(&self) -> Result<Vec<String>> {
        let sql = include_str!("../../sql/warehouse/read_retired_paths.sql");
        let rows = self.session.query("read which files were replaced", sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Of all topics: what moved event time without a record, by place, with its generation.
    pub async fn advances(&self) -> Result<Vec<(Arc<str>, i32, IdleAdvance)>> {
        let sql = include_str!("../../sql/warehouse/read_all_advances.sql");
        let rows = self.session.query("read advances of event time", sql, &[]).await?;
        let one = |row: &super::postgres::Row| {
            (row.get::<_, &str>(0).into(), row.get(4), commit::advance(row, 1))
        };
        Ok(rows.iter().map(one).collect())
    }

    /// Per (topic, output, partition, generation).
    pub async fn dead_letters(&self) -> Result<Counts> {
        let sql = include_str!("../../sql/warehouse/count_dead_letters.sql");
        self.counts("count dead letters", sql).await
    }

    /// The recorded duplicates that each output has passed.
    pub async fn duplicates(&self) -> Result<Counts> {
        let sql = include_str!("../../sql/warehouse/count_duplicates.sql");
        self.counts("count duplicates", sql).await
    }

    /// Of each partition of a topic and generation: offset and event time, in order.
    pub async fn duplicates_of(
        &self,
        topic: &str,
    ) -> Result<BTreeMap<(Partition, i32), VecDeque<(i64, EventTime)>>> {
        let sql = include_str!("../../sql/warehouse/list_duplicates.sql");
        let rows = self.session.query("read duplicates", sql, &[&topic]).await?;
        let mut found: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
        for row in &rows {
            let event_time = EventTime(row.get::<_, Instant>(2).0);
            let place = (Partition(row.get(0)), row.get(3));
            found.entry(place).or_default().push_back((row.get(1), event_time));
        }
        Ok(found)
    }

    async fn counts(&self, doing: &str, sql: &str) -> Result<Counts> {
        let rows = self.session.query(doing, sql, &[]).await?;
        let count = |row: &super::postgres::Row| {
            let key = (
                Arc::from(row.get::<_, &str>(0)),
                listing::output(row.get(1))?,
                Partition(row.get(2)),
                row.get(4),
            );
            Ok((key, row.get::<_, i64>(3) as u64))
        };
        rows.iter().map(count).collect()
    }

    /// Letters that nobody counts as dead: topic, output, partition, offset; a hundred at most.
    pub async fn stray_letters(&self) -> Result<Vec<(String, String, i32, i64)>> {
        let sql = include_str!("../../sql/warehouse/stray_dead_letters.sql");
        let rows = self.session.query("look for stray dead letters", sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
    }

    /// Rows that outputs took by a retry, with the highest event time each is judged by.
    pub async fn retried(&self) -> Result<Vec<RetriedRow>> {
        let sql = include_str!("../../sql/warehouse/read_retried.sql");
        let rows = self.session.query("read what was retried", sql, &[]).await?;
        let retried = |row: &super::postgres::Row| {
            Ok(RetriedRow {
                topic: row.get::<_, &str>(0).into(),
                output: listing::output(row.get(1))?,
                partition: Partition(row.get(2)),
                offset: row.get(3),
                event_time_max: row.get::<_, Option<Instant>>(4).map(|i| EventTime(i.0)),
                generation: row.get(5),
            })
        };
        rows.iter().map(retried).collect()
    }

    /// Rows of the lake that a model has refused.
    pub async fn refused_alone(&self) -> Result<Vec<RefusedRow>> {
        let sql = include_str!("../../sql/warehouse/refused_alone.sql");
        let rows = self.session.query("read what models refuse", sql, &[]).await?;
        let refused = |row: &super::postgres::Row| {
            Ok(RefusedRow {
                topic: row.get::<_, &str>(0).into(),
                output: listing::output(row.get(1))?,
                partition: Partition(row.get(2)),
                offset: row.get(3),
                generation: row.get(4),
            })
        };
        rows.iter().map(refused).collect()
    }

    /// Records that a model has taken and the lake has not: topic, output, count.
    pub async fn not_in_lake(&self) -> Result<Vec<(String, String, i64)>> {
        let sql = include_str!("../../sql/warehouse/not_in_lake.sql");
        let rows = self.session.query("read what the lake refuses", sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// An empty table beside the model's, of the same shape, seen by nobody else.
    /// False: changes of the model wait for a snapshot, and its table cannot be compared.
    pub async fn shadow(&mut self, model: &Arc<Model>) -> Result<bool> {
        let name = format!("verify_{}", self.shadows.len());
        let mut table = Table::new(&Model { name: name.as_str().into(), ..Model::clone(model) });
        for (create, _) in table.creates() {
            let create = create.replacen("CREATE TABLE", "CREATE TEMP TABLE", 1);
            self.session.batch("make a table to compare with", &create).await?;
        }
        let doing = "make a table to compare with";
        let mut whole = true;
        if let (Some(rebuilt), Some(kept)) = (&mut table.following, Following::of(model)) {
            rebuilt.swap.begins = false;
            whole = Swap::decided(&self.session, doing, &kept, rebuilt).await?;
        }
        self.shadows.insert(model.name.clone(), (table, model.clone()));
        Ok(whole)
    }

    /// Merges a delta into the model's shadow, as a cut merges it into the table.
    pub async fn add(&self, model: &str, delta: &Delta) -> Result<()> {
        let (table, _) = self.shadow_of(model)?;
        merge(&self.session, table, delta, Way::Arrays).await.map(drop)
    }

    /// How many rows differ between the model's tables and their shadows, and some of them.
    pub async fn differences(&self, model: &str) -> Result<(u64, Vec<String>)> {
        let (shadow, model) = self.shadow_of(model)?;
        let table = Table::new(model);
        let (mut count, mut told) = (0, Vec::new());
        let waiting: Vec<&str> = table.waiting().map(|shape| shape.table.as_str()).collect();
        for (kept, rebuilt) in table.shapes().zip(shadow.shapes()) {
            if waiting.contains(&kept.table.as_str()) {
                continue;
            }
            let sql = match kept.table == *model.name {
                true => compare::exactly(kept, rebuilt, |column| compare::is_exact(model, column)),
                false => compare::exactly(kept, rebuilt, |_| true),
            };
            self.compare(&sql, &mut count, &mut told).await?;
        }
        if let Some(sql) = compare::nearly(model, &table.shape, &shadow.shape) {
            self.compare(&sql, &mut count, &mut told).await?;
        }
        told.truncate(TOLD_ROWS);
        Ok((count, told))
    }

    /// Adds the rows of a comparison: what it tells, and how many there are.
    async fn compare(&self, sql: &str, count: &mut u64, told: &mut Vec<String>) -> Result<()> {
        let sql = format!("{sql} LIMIT {TOLD_ROWS}");
        let rows = self.session.query("compare a table with the lake", &sql, &[]).await?;
        *count += rows.first().map_or(0, |row| row.get::<_, i64>(1) as u64);
        told.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        Ok(())
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub async fn end(self) -> Result<()> {
        self.session.roll_back("end verifying").await
    }

    fn shadow_of(&self, model: &str) -> Result<&(Table, Arc<Model>)> {
        let shadow = self.shadows.get(model);
        shadow.ok_or_else(|| Error::halt(format!("no table to compare with, model={model}")))
    }
}
