//! V-6 and V-7: the rows themselves, and tables rebuilt from them.
//!
//! The lake's rows go once more through the models, cut by cut in order, partition by partition in
//! offset order, into tables beside the kept ones; then both are compared. Only offsets below a
//! model's mark count for it. Memory: the rows of one cut.

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
    compute::{concat_batches, filter_record_batch, take_record_batch},
    datatypes::TimestampMicrosecondType,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
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
                match comparable(&marks, &lake) {
                    Ok(()) => Some((model.clone(), marks)),
                    Err(why) => {
                        report.note(format!("{} was not rebuilt: {why}", model.name));
                        None
                    }
                }
            });
            let built: Result<Vec<_>> = models
                .map(|(model, marks)| {
                    let mut tables = Tables::new(topic, std::slice::from_ref(&model))?;
                    tables.adopt(&at_first(&tables.outputs(), &marks));
                    let (duplicates, reached, uses) = Default::default();
                    Ok(RebuildModel { model, tables, marks, duplicates, reached, uses })
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

    /// The files of one cut; `contents` are those that are whole.
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
        let rows = in_order(&topic.topic, &batches)?;
        topic.look(&rows, report);
        for start in (0..rows.num_rows()).step_by(ROWS) {
            let piece = rows.slice(start, ROWS.min(rows.num_rows() - start));
            for model in &mut topic.models {
                for piece in model.by_version(&piece) {
                    model.add(&topic.topic, &piece)?;
                }
            }
        }
        for model in &mut topic.models {
            for (name, delta) in model.tables.seal()?.tables {
                snapshot.add(&name, &delta).await?;
            }
        }
        Ok(())
    }

    pub async fn finish(self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
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
        };
        let mask: BooleanArray = partitions.iter().zip(offsets).map(counts).map(Some).collect();
        let rows = filter_record_batch(rows, &mask)
            .map_err(|e| Error::halt("filter rows of the lake").because(e))?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if self.model.join.is_some() {
            let (partitions, offsets) = places(&rows);
            let version = self.version_at(Partition(partitions[0]), Offset(offsets[0]));
            let version = version.cloned().ok_or_else(|| {
                Error::halt(format!(
                    "no version of its reference is noted for {} from {}/{}@{}",
                    self.model.name, topic.name, partitions[0], offsets[0]
                ))
            })?;
            self.tables.look_up_in(&version);
        }
        let event_times = event_times(topic, &rows);
        let (partitions, offsets) = places(&rows);
        let mut start = 0;
        for row in 0..rows.num_rows() {
            let partition = Partition(partitions[row]);
            if let Some(event_time) = self.raised_before(partition, offsets[row]) {
                self.admit(&rows.slice(start, row - start), &event_times[start..row])?;
                self.tables.observe(partition, event_time);
                self.reached.insert(partition, event_time);
                start = row;
            }
            let reached = self.reached.entry(partition).or_insert(event_times[row]);
            *reached = event_times[row].max(*reached);
        }
        self.admit(&rows.slice(start, rows.num_rows() - start), &event_times[start..])
    }

    /// How far duplicates before this offset have raised the watermark, if they have.
    fn raised_before(&mut self, partition: Partition, offset: i64) -> Option<EventTime> {
        let first = self.marks.get(&partition)?.first.0;
        let ahead = self.duplicates.get_mut(&partition)?;
        let mut highest = None;
        while let Some((at, event_time)) = ahead.front().copied().filter(|(at, _)| *at < offset) {
            ahead.pop_front();
            highest = highest.max(Some(event_time).filter(|_| at >= first));
        }
        highest.filter(|t| self.reached.get(&partition).is_none_or(|reached| t > reached))
    }

    fn admit(&mut self, rows: &RecordBatch, event_times: &[EventTime]) -> Result<()> {
        let (partitions, offsets) = places(rows);
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
        let decoded = Decoded {
            rows: rows.clone(),
            event_times: event_times.to_vec(),
            rejects: Vec::new(),
            empty: Vec::new(),
            before: None,
            unknown_fields: 0,
        };
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

/// The declared column's, or Kafka's timestamp.
fn event_times(topic: &Topic, rows: &RecordBatch) -> Vec<EventTime> {
    let index = topic.event_time.unwrap_or(rows.num_columns() - 1);
    let times = rows.column(index).as_primitive::<TimestampMicrosecondType>();
    times.values().iter().map(|t| EventTime(*t)).collect()
}
