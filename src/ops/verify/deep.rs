//! V-6 and V-7: the rows themselves, and tables rebuilt from them.
//!
//! The lake's rows go once more through the models, cut by cut in order, partition by partition in
//! offset order, into tables beside the kept ones; then both are compared. Only offsets below a
//! model's mark count for it. Rows that a retry of dead letters wrote are put among those of the cut
//! that passed them. A model that took a row by a retry judges it by what the partition had seen at
//! its place, and lets it raise no watermark; a model that was made later and took it in its place
//! does as with any other. Memory: the rows of one cut, and all rows of retries.

use super::{super::references::restored, Report, shallow::Evidence};
use crate::{
    catalog::{Catalog, Model, Topic},
    compute::{Tables, lookup::Version, places},
    decode::Decoded,
    error::{Error, Result},
    lake::reader,
    record::{EventTime, Fates, Mark, Offset, Output, Partition, RawRecord},
    warehouse::{
        references,
        snapshot::{ManifestFile, Snapshot},
    },
};
use arrow::{
    array::{AsArray, BooleanArray, RecordBatch, UInt32Array},
    compute::{concat_batches, filter_record_batch, not, take_record_batch},
    datatypes::TimestampMicrosecondType,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// Rows given to a model at a time.
const ROWS: usize = 8_192;

pub struct Rebuild {
    topics: BTreeMap<Arc<str>, RebuildTopic>,
}

struct RebuildTopic {
    topic: Arc<Topic>,
    models: Vec<RebuildModel>,
    /// Per partition: the last offset seen, and rows.
    seen: BTreeMap<Partition, (i64, u64)>,
    lake_next: BTreeMap<Partition, Offset>,
    /// Of files of retries, not looked at yet; by partition and offset.
    retried: RecordBatch,
    /// A file was missing or unreadable: tables cannot be compared.
    broken: bool,
}

struct RebuildModel {
    model: Arc<Model>,
    tables: Tables,
    marks: BTreeMap<Partition, Mark>,
    /// The lake has no duplicates, but they raised the watermark: those still to come.
    duplicates: BTreeMap<Partition, VecDeque<(i64, EventTime)>>,
    /// The highest event time so far.
    reached: BTreeMap<Partition, EventTime>,
    /// What it took by a retry, with the highest event time to judge by.
    retried: BTreeMap<(i32, i64), Option<EventTime>>,
    /// What it refused although the lake has it.
    refused: BTreeSet<(i32, i64)>,
    /// Of a model with a reference: from which offset on which version was used.
    uses: BTreeMap<(Partition, Offset), Arc<Version>>,
}

impl Rebuild {
    pub fn new(catalog: &Catalog, evidence: &Evidence, report: &mut Report) -> Self {
        let mut topics = BTreeMap::new();
        for topic in catalog.topics.values().filter(|t| t.lake.is_some()) {
            let lake =
                evidence.marks.iter().filter(|m| m.topic == topic.name && m.output == Output::Lake);
            let lake: BTreeMap<Partition, Mark> = lake.map(|m| (m.partition, m.mark)).collect();
            let models = catalog.models.values().filter(|m| m.topic == topic.name);
            let models = models.filter_map(|model| {
                let output = Output::Model(model.name.clone());
                let marks = evidence.marks.iter();
                let marks = marks.filter(|m| m.topic == topic.name && m.output == output);
                let marks: BTreeMap<Partition, Mark> =
                    marks.map(|m| (m.partition, m.mark)).collect();
                let name = output.to_string();
                let missing =
                    evidence.not_in_lake.iter().find(|(t, o, _)| **t == *topic.name && *o == name);
                let comparable = comparable(&marks, &lake).and_then(|()| match missing {
                    None => Ok(()),
                    Some((.., count)) => Err(format!(
                        "the lake refused {count} records that it took; `highwater dead-letters retry` puts that right"
                    )),
                });
                match comparable {
                    Ok(()) => Some((model.clone(), marks)),
                    Err(why) => {
                        report.note(format!("{} was not rebuilt: {why}", model.name));
                        None
                    }
                }
            });
            let advances = evidence.advances.iter().filter(|(of, _)| *of == topic.name);
            let advances: Vec<_> = advances.map(|(_, advance)| *advance).collect();
            let built: Result<Vec<_>> = models
                .map(|(model, marks)| {
                    let mut tables = Tables::new(topic, std::slice::from_ref(&model))?;
                    tables.adopt(&at_first(&tables.outputs(), &marks), &advances);
                    let output = Output::Model(model.name.clone());
                    let retried = evidence.retried.iter();
                    let retried = retried.filter(|r| r.topic == topic.name && r.output == output);
                    let retried = retried.map(|r| ((r.partition.0, r.offset), r.event_time_max));
                    let retried = retried.collect();
                    let name = output.to_string();
                    let refused = evidence.refused_alone.iter();
                    let refused = refused.filter(|(t, o, ..)| **t == *topic.name && *o == name);
                    let refused = refused.map(|(_, _, p, o)| (*p, *o)).collect();
                    Ok(RebuildModel {
                        model,
                        tables,
                        marks,
                        duplicates: BTreeMap::new(),
                        reached: BTreeMap::new(),
                        retried,
                        refused,
                        uses: BTreeMap::new(),
                    })
                })
                .collect();
            match built {
                Ok(models) => drop(topics.insert(
                    topic.name.clone(),
                    RebuildTopic {
                        topic: topic.clone(),
                        models,
                        seen: BTreeMap::new(),
                        lake_next: lake.iter().map(|(p, m)| (*p, m.next)).collect(),
                        retried: RecordBatch::new_empty(topic.schema.clone()),
                        broken: false,
                    },
                )),
                Err(error) => report.note(format!("topic {}: {error}", topic.name)),
            }
        }
        Self { topics }
    }

    pub async fn begin(&mut self, snapshot: &mut Snapshot, evidence: &Evidence) -> Result<()> {
        for (name, topic) in &mut self.topics {
            let duplicates = snapshot.duplicates_of(name).await?;
            for model in &mut topic.models {
                model.duplicates.clone_from(&duplicates);
            }
        }
        for (topic, model) in
            self.topics.iter_mut().flat_map(|(name, t)| t.models.iter_mut().map(move |m| (name, m)))
        {
            snapshot.shadow(&model.model).await?;
            let Some(join) = &model.model.join else { continue };
            let output = Output::Model(model.model.name.clone());
            let mut versions: BTreeMap<Arc<str>, Arc<Version>> = BTreeMap::new();
            let of_model = evidence.references.iter();
            for (_, used) in of_model.filter(|(t, used)| t == topic && used.output == output) {
                let version = match versions.get(&used.version) {
                    Some(version) => version.clone(),
                    None => {
                        let (name, id) = (&join.reference.name, &used.version);
                        let content = references::content(snapshot, name, id).await?;
                        let version = restored(&join.reference, id, &content)?;
                        versions.entry(id.clone()).or_insert(Arc::new(version)).clone()
                    }
                };
                model.uses.insert((used.partition, used.from), version);
            }
        }
        Ok(())
    }

    /// The files of one cut, or of retries, which come first; `contents` are those that are whole.
    pub async fn cut(
        &mut self,
        cut: &[ManifestFile],
        contents: Vec<(&ManifestFile, Bytes)>,
        snapshot: &Snapshot,
        report: &mut Report,
    ) -> Result<()> {
        let Some(topic) = self.topics.get_mut(&cut[0].topic) else {
            return Ok(());
        };
        topic.broken |= contents.len() < cut.len();
        let mut batches = Vec::new();
        for (file, bytes) in contents {
            match reader::rows(&file.path, bytes, &topic.topic.schema) {
                Ok(rows) => {
                    let found: usize = rows.iter().map(RecordBatch::num_rows).sum();
                    if found as u64 != file.rows {
                        report.finding(
                            "V-6",
                            format!("{} holds {found} rows, {} were written", file.path, file.rows),
                        );
                    }
                    batches.extend(rows);
                }
                Err(error) => {
                    topic.broken = true;
                    report.finding("V-6", error.to_string());
                }
            }
        }
        if cut[0].retry {
            batches.push(topic.retried.clone());
            topic.retried = in_order(&topic.topic, &batches)?;
            return Ok(());
        }
        let rows = in_order(&topic.topic, &batches)?;
        let rows = topic.with_retried(rows)?;
        topic.take(&rows, snapshot, report).await
    }

    pub async fn finish(mut self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        for topic in self.topics.values_mut() {
            let rest = RecordBatch::new_empty(topic.topic.schema.clone());
            let rest = std::mem::replace(&mut topic.retried, rest);
            topic.take(&rest, snapshot, report).await?;
        }
        self.compare(snapshot, report).await
    }

    async fn compare(self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        for (name, topic) in self.topics {
            for (partition, next) in &topic.lake_next {
                if let Some((last, _)) = topic.seen.get(partition)
                    && *last >= next.0
                {
                    report.finding(
                        "V-6",
                        format!(
                            "{name}/{}: the lake holds offset {last}, its mark is at {}",
                            partition.0, next.0
                        ),
                    );
                }
            }
            if topic.broken {
                report.note(format!(
                    "tables of {name} were not compared: files are missing or broken"
                ));
                continue;
            }
            for model in &topic.models {
                report.tables += 1;
                let (count, told) = snapshot.differences(&model.model.name).await?;
                if count > 0 {
                    report.finding(
                        "V-7",
                        format!(
                            "table {}: {count} rows differ from what the lake gives, for example: {}",
                            model.model.name,
                            told.join("; ")
                        ),
                    );
                }
            }
        }
        Ok(())
    }
}

impl RebuildTopic {
    /// Looks at rows and gives them to the models.
    async fn take(
        &mut self,
        rows: &RecordBatch,
        snapshot: &Snapshot,
        report: &mut Report,
    ) -> Result<()> {
        self.look(rows, report);
        for start in (0..rows.num_rows()).step_by(ROWS) {
            let piece = rows.slice(start, ROWS.min(rows.num_rows() - start));
            for model in &mut self.models {
                for piece in model.by_version(&piece) {
                    model.add(&self.topic, &piece)?;
                }
            }
        }
        for model in &mut self.models {
            for (name, delta) in model.tables.seal()?.tables {
                snapshot.add(&name, &delta).await?;
            }
        }
        Ok(())
    }

    /// The rows of a cut with those of retries up to where it ends.
    fn with_retried(&mut self, rows: RecordBatch) -> Result<RecordBatch> {
        if self.retried.num_rows() == 0 {
            return Ok(rows);
        }
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        let (partitions, offsets) = places(&rows);
        for (partition, offset) in partitions.iter().zip(offsets) {
            let end = ends.entry(*partition).or_insert(*offset);
            *end = (*end).max(*offset);
        }
        let (partitions, offsets) = places(&self.retried);
        let within = |(p, o): (&i32, &i64)| ends.get(p).is_some_and(|end| o <= end);
        let now: BooleanArray = partitions.iter().zip(offsets).map(within).map(Some).collect();
        let later = not(&now).map_err(|e| Error::halt("filter retried rows").because(e))?;
        let among = in_order(&self.topic, &[rows, only(&self.retried, &now)?])?;
        self.retried = only(&self.retried, &later)?;
        Ok(among)
    }

    /// V-6: offsets ascend over the cuts, so one that does not is there twice.
    fn look(&mut self, rows: &RecordBatch, report: &mut Report) {
        let (partitions, offsets) = places(rows);
        for (partition, offset) in partitions.iter().zip(offsets) {
            let (last, count) = self.seen.entry(Partition(*partition)).or_insert((-1, 0));
            if *offset <= *last {
                report.finding(
                    "V-6",
                    format!("{}/{partition}@{offset} stands in the lake twice", self.topic.name),
                );
            }
            *last = (*last).max(*offset);
            *count += 1;
        }
    }
}

impl RebuildModel {
    /// Pieces whose rows were looked up in one version.
    fn by_version(&self, rows: &RecordBatch) -> Vec<RecordBatch> {
        if self.uses.is_empty() {
            return vec![rows.clone()];
        }
        let (partitions, offsets) = places(rows);
        let mut pieces = Vec::new();
        let mut start = 0;
        let version =
            |row: usize| self.version_at(Partition(partitions[row]), Offset(offsets[row]));
        for row in 1..=rows.num_rows() {
            let same = |a: Option<&Arc<Version>>, b: Option<&Arc<Version>>| {
                a.map(|version| &version.id) == b.map(|version| &version.id)
            };
            if row == rows.num_rows() || !same(version(row), version(start)) {
                pieces.push(rows.slice(start, row - start));
                start = row;
            }
        }
        pieces
    }

    fn version_at(&self, partition: Partition, offset: Offset) -> Option<&Arc<Version>> {
        let mut before = self.uses.range((partition, Offset(0))..=(partition, offset));
        before.next_back().map(|(_, version)| version)
    }

    /// Rows below the model's marks.
    fn add(&mut self, topic: &Topic, rows: &RecordBatch) -> Result<()> {
        let (partitions, offsets) = places(rows);
        let counts = |(p, o): (&i32, &i64)| {
            self.marks.get(&Partition(*p)).is_some_and(|m| *o >= m.first.0 && *o < m.next.0)
                && !self.refused.contains(&(*p, *o))
        };
        let mask: BooleanArray = partitions.iter().zip(offsets).map(counts).map(Some).collect();
        let rows = only(rows, &mask)?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (partitions, offsets) = places(&rows);
        if self.model.join.is_some() {
            let version = self.version_at(Partition(partitions[0]), Offset(offsets[0]));
            let version = version.cloned().ok_or_else(|| {
                Error::halt(format!(
                    "no version of its reference is noted for {} from {}/{}@{}",
                    self.model.name, topic.name, partitions[0], offsets[0]
                ))
            })?;
            self.tables.look_up_in(&version);
        }
        let retried = |(p, o): (&i32, &i64)| self.retried.contains_key(&(*p, *o));
        let retried: BooleanArray = partitions.iter().zip(offsets).map(retried).map(Some).collect();
        if retried.true_count() > 0 {
            let in_place = not(&retried).map_err(|e| Error::halt("filter rows").because(e))?;
            self.add_retried(topic, only(&rows, &retried)?)?;
            return self.add_in_place(topic, &only(&rows, &in_place)?);
        }
        self.add_in_place(topic, &rows)
    }

    fn add_retried(&mut self, topic: &Topic, rows: RecordBatch) -> Result<()> {
        let (partitions, offsets) = places(&rows);
        let before = |(p, o): (&i32, &i64)| self.retried.get(&(*p, *o)).copied().flatten();
        let before: Vec<_> = partitions.iter().zip(offsets).map(before).collect();
        self.tables.admit_retried(&decoded(topic, rows), &before).map(drop)
    }

    /// Between the rows the duplicates, which are not there, raise the watermark.
    fn add_in_place(&mut self, topic: &Topic, rows: &RecordBatch) -> Result<()> {
        let event_times = event_times(topic, rows);
        let (partitions, offsets) = places(rows);
        let mut start = 0;
        for row in 0..rows.num_rows() {
            let partition = Partition(partitions[row]);
            if let Some(event_time) = self.raised_before(partition, offsets[row]) {
                self.admit(topic, rows.slice(start, row - start))?;
                self.tables.observe(partition, event_time);
                self.reached.insert(partition, event_time);
                start = row;
            }
            let reached = self.reached.entry(partition).or_insert(event_times[row]);
            *reached = event_times[row].max(*reached);
        }
        self.admit(topic, rows.slice(start, rows.num_rows() - start))
    }

    /// How far duplicates before this offset have raised the watermark, if they have.
    fn raised_before(&mut self, partition: Partition, offset: i64) -> Option<EventTime> {
        let first = self.marks.get(&partition)?.first.0;
        let ahead = self.duplicates.get_mut(&partition)?;
        let mut highest = None;
        while let Some((at, event_time)) = ahead.front().copied().filter(|(at, _)| *at < offset) {
            ahead.pop_front();
            // What was retried raised none.
            if at >= first && !self.retried.contains_key(&(partition.0, at)) {
                highest = highest.max(Some(event_time));
            }
        }
        highest.filter(|t| self.reached.get(&partition).is_none_or(|reached| t > reached))
    }

    fn admit(&mut self, topic: &Topic, rows: RecordBatch) -> Result<()> {
        let (partitions, offsets) = places(&rows);
        let records: Vec<RawRecord<'_>> = partitions
            .iter()
            .zip(offsets)
            .map(|(p, o)| RawRecord {
                partition: Partition(*p),
                offset: *o,
                timestamp: EventTime(0),
                key: None,
                value: None,
            })
            .collect();
        let from: Vec<(Partition, Offset)> =
            self.marks.iter().map(|(p, m)| (*p, m.first)).collect();
        let decoded = decoded(topic, rows);
        // What a model refuses, it refused then: those stand in the dead letters.
        self.tables.admit(&records, &decoded, &from, &[])?;
        Ok(())
    }
}

/// Every offset that the model has seen must be one that the lake has.
fn comparable(
    model: &BTreeMap<Partition, Mark>,
    lake: &BTreeMap<Partition, Mark>,
) -> Result<(), String> {
    if model.is_empty() {
        return Err("it has no marks yet".to_owned());
    }
    for (partition, mark) in model {
        match lake.get(partition) {
            Some(lake) if lake.first <= mark.first && lake.next >= mark.next => {}
            Some(lake) => {
                return Err(format!(
                    "the lake has {}..{} of partition {}, the table {}..{}; when the lake has caught up it can be",
                    lake.first.0, lake.next.0, partition.0, mark.first.0, mark.next.0
                ));
            }
            None => return Err(format!("the lake has nothing of partition {}", partition.0)),
        }
    }
    Ok(())
}

/// Marks as they were before anything: where the rebuild begins.
fn at_first(
    outputs: &[Output],
    marks: &BTreeMap<Partition, Mark>,
) -> Vec<(Output, Partition, Mark)> {
    let fresh = |mark: &Mark| Mark {
        next: mark.first,
        event_time_max: None,
        fates: Fates::default(),
        ..*mark
    };
    outputs
        .iter()
        .flat_map(|output| marks.iter().map(move |(p, m)| (output.clone(), *p, fresh(m))))
        .collect()
}

/// By partition and offset.
fn in_order(topic: &Topic, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let failed = |e| Error::halt("sort rows of the lake").because(e);
    let all = concat_batches(&topic.schema, batches).map_err(failed)?;
    let (partitions, offsets) = places(&all);
    let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
    order.sort_by_key(|&i| (partitions[i as usize], offsets[i as usize]));
    take_record_batch(&all, &UInt32Array::from(order)).map_err(failed)
}

fn only(rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(rows, mask).map_err(|e| Error::halt("filter rows of the lake").because(e))
}

/// Rows as they were when they were decoded.
fn decoded(topic: &Topic, rows: RecordBatch) -> Decoded {
    let event_times = event_times(topic, &rows);
    Decoded {
        rows,
        event_times,
        rejects: Vec::new(),
        empty: Vec::new(),
        before: None,
        unknown_fields: 0,
    }
}

/// The declared column's, or Kafka's timestamp.
fn event_times(topic: &Topic, rows: &RecordBatch) -> Vec<EventTime> {
    let index = topic.event_time.unwrap_or(rows.num_columns() - 1);
    let times = rows.column(index).as_primitive::<TimestampMicrosecondType>();
    times.values().iter().map(|t| EventTime(*t)).collect()
}
