//! V-6 and V-7: the rows themselves, and tables rebuilt from them.
//!
//! The lake's rows go once more through the models, cut by cut in order, partition by partition in
//! offset order, into tables beside the kept ones; then both are compared. Only offsets below a
//! model's mark count for it. Rows that a retry of dead letters wrote are put among those of the cut
//! that passed them. A model that took a row by a retry judges it by what the partition had seen at
//! its place, and lets it raise no watermark; a model that was made later and took it in its place
//! does as with any other. Memory: the rows of one cut, and all rows of retries.
//!
//! Offsets recur from generation to generation of a partition: everything here is by [`Place`]. A cut
//! is of one generation in each of its partitions, and generations follow each other.

mod places;
mod rows;

use super::{Report, shallow::Evidence};
use crate::{
    catalog::{Catalog, Model, Topic},
    compute::{
        Tables, indexes,
        lookup::Version,
        places,
        read_back::{decoded, event_times, in_order},
    },
    error::{Error, Result},
    lake::reader,
    record::{EventTime, Fates, IdleAdvance, Mark, Offset, Output, Partition, RawRecord},
    warehouse::{
        references,
        snapshot::{ManifestFile, Snapshot},
    },
};
use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::not,
};
use bytes::Bytes;
use places::{Marks, Place, comparable, place_of};
use rows::{only, pieces};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

pub struct Rebuild {
    topics: BTreeMap<Arc<str>, RebuildTopic>,
}

struct RebuildTopic {
    topic: Arc<Topic>,
    models: Vec<RebuildModel>,
    /// The last offset seen, and the place within its record.
    seen: BTreeMap<Place, (i64, i32)>,
    lake_next: BTreeMap<Place, Offset>,
    /// Of files of retries, not looked at yet; by offset.
    retried: BTreeMap<Place, RecordBatch>,
    /// A file was missing or unreadable: tables cannot be compared.
    broken: bool,
}

struct RebuildModel {
    model: Arc<Model>,
    tables: Tables,
    /// For a snapshot, so that the table is not what the lake gives.
    waits: bool,
    marks: Marks,
    /// The generation in which each partition stands.
    stands: BTreeMap<Partition, i32>,
    advances: Vec<(i32, IdleAdvance)>,
    /// The lake has no duplicates, but they raised the watermark: those still to come.
    duplicates: BTreeMap<Place, VecDeque<(i64, EventTime)>>,
    /// The highest event time so far.
    reached: BTreeMap<Partition, EventTime>,
    /// What it took by a retry, with the highest event time to judge by.
    retried: BTreeMap<(Place, i64), Option<EventTime>>,
    /// What it refused although the lake has it.
    refused: BTreeSet<(Place, i64)>,
    /// Of a model with a reference: from which offset on which version was used.
    uses: BTreeMap<(Partition, Offset), Arc<Version>>,
}

impl Rebuild {
    pub fn new(catalog: &Catalog, evidence: &Evidence, report: &mut Report) -> Self {
        let mut topics = BTreeMap::new();
        for topic in catalog.topics.values().filter(|t| t.lake.is_some()) {
            let lake = Marks::of(evidence, &topic.name, &Output::Lake);
            let models = catalog.models_of(&topic.name);
            let models = models.filter_map(|model| {
                let output = Output::Model(model.name.clone());
                let marks = Marks::of(evidence, &topic.name, &output);
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
            let built: Result<Vec<_>> = models
                .map(|(model, marks)| RebuildModel::new(topic, model, marks, evidence))
                .collect();
            match built {
                Ok(models) => drop(topics.insert(
                    topic.name.clone(),
                    RebuildTopic {
                        topic: topic.clone(),
                        models,
                        seen: BTreeMap::new(),
                        lake_next: lake.marks.iter().map(|(p, m)| (*p, m.next)).collect(),
                        retried: BTreeMap::new(),
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
            model.waits = !snapshot.shadow(&model.model).await?;
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
                        let version = Version::restored(&join.reference, id, &content)?;
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
            match reader::rows(&file.path, bytes, &topic.topic) {
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
        let files = cut.iter().flat_map(|file| &file.generations);
        let generations: BTreeMap<Partition, i32> = files.map(|(p, g)| (*p, *g)).collect();
        if cut[0].retry {
            return topic.keep_retried(&rows, &generations);
        }
        let ended =
            topic.retried.keys().filter(|(p, g)| generations.get(p).is_some_and(|now| now > g));
        for place in ended.copied().collect::<Vec<_>>() {
            topic.take_rest(place, snapshot, report).await?;
        }
        let rows = topic.with_retried(rows, &generations)?;
        topic.take(&rows, &generations, snapshot, report).await
    }

    pub async fn finish(mut self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        for topic in self.topics.values_mut() {
            for place in topic.retried.keys().copied().collect::<Vec<_>>() {
                topic.take_rest(place, snapshot, report).await?;
            }
        }
        self.compare(snapshot, report).await
    }

    async fn compare(self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        for (name, topic) in self.topics {
            for (place, next) in &topic.lake_next {
                if let Some((last, _)) = topic.seen.get(place)
                    && *last >= next.0
                {
                    report.finding(
                        "V-6",
                        format!(
                            "{name}/{}: the lake holds offset {last}, its mark is at {}",
                            place.0.0, next.0
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
                if model.waits {
                    report.note(format!(
                        "{} was not compared: changes of it wait for a snapshot to be swapped in",
                        model.model.name
                    ));
                    continue;
                }
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
        generations: &BTreeMap<Partition, i32>,
        snapshot: &Snapshot,
        report: &mut Report,
    ) -> Result<()> {
        self.look(rows, generations, report);
        for model in &mut self.models {
            model.stand_in(generations);
        }
        for piece in pieces(rows) {
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

    fn keep_retried(
        &mut self,
        rows: &RecordBatch,
        generations: &BTreeMap<Partition, i32>,
    ) -> Result<()> {
        let (partitions, _) = places(rows);
        for (partition, generation) in generations {
            let own: BooleanArray = partitions.iter().map(|p| Some(*p == partition.0)).collect();
            let place = (*partition, *generation);
            let mut batches = vec![only(rows, &own)?];
            batches.extend(self.retried.remove(&place));
            self.retried.insert(place, in_order(&self.topic, &batches)?);
        }
        Ok(())
    }

    /// The rows of a cut with those of retries up to where it ends.
    fn with_retried(
        &mut self,
        rows: RecordBatch,
        generations: &BTreeMap<Partition, i32>,
    ) -> Result<RecordBatch> {
        let mut ends: BTreeMap<Place, i64> = BTreeMap::new();
        let (partitions, offsets) = places(&rows);
        for (partition, offset) in partitions.iter().zip(offsets) {
            let end = ends.entry(place_of(*partition, generations)).or_insert(*offset);
            *end = (*end).max(*offset);
        }
        let mut batches = vec![rows];
        for (place, end) in ends {
            let Some(retried) = self.retried.remove(&place) else { continue };
            let (_, offsets) = places(&retried);
            let now = offsets.iter().take_while(|offset| **offset <= end).count();
            batches.push(retried.slice(0, now));
            if now < retried.num_rows() {
                self.retried.insert(place, retried.slice(now, retried.num_rows() - now));
            }
        }
        match batches.len() {
            1 => Ok(batches.remove(0)),
            _ => in_order(&self.topic, &batches),
        }
    }

    /// What retries wrote behind the last cut of a generation.
    async fn take_rest(
        &mut self,
        place: Place,
        snapshot: &Snapshot,
        report: &mut Report,
    ) -> Result<()> {
        let Some(rest) = self.retried.remove(&place) else { return Ok(()) };
        self.take(&rest, &BTreeMap::from([place]), snapshot, report).await
    }

    /// V-6: offsets ascend over the cuts, so one that does not is there twice.
    fn look(
        &mut self,
        rows: &RecordBatch,
        generations: &BTreeMap<Partition, i32>,
        report: &mut Report,
    ) {
        let (partitions, offsets) = places(rows);
        let indexes = indexes(rows);
        for (row, (partition, offset)) in partitions.iter().zip(offsets).enumerate() {
            let index = indexes.map_or(0, |indexes| indexes[row]);
            let place = place_of(*partition, generations);
            let last = self.seen.entry(place).or_insert((-1, 0));
            let topic = &self.topic.name;
            if (*offset, index) <= *last {
                let what = format!("{topic}/{partition}@{offset} stands in the lake twice");
                report.finding("V-6", what);
            } else if index != if *offset == last.0 { last.1 + 1 } else { 0 } {
                let what = format!(
                    "{topic}/{partition}@{offset}: row {index} of the record is in the lake, the one before it is not"
                );
                report.finding("V-6", what);
            }
            *last = (*last).max((*offset, index));
        }
    }
}

impl RebuildModel {
    fn new(
        topic: &Arc<Topic>,
        model: Arc<Model>,
        marks: Marks,
        evidence: &Evidence,
    ) -> Result<Self> {
        let tables = Tables::new(topic, std::slice::from_ref(&model))?;
        let output = Output::Model(model.name.clone());
        let advances = evidence.advances.iter().filter(|(of, ..)| *of == topic.name);
        let retried = evidence.retried.iter();
        let retried = retried.filter(|r| r.topic == topic.name && r.output == output);
        let retried =
            retried.map(|r| (((r.partition, r.generation), r.offset), r.event_time_max)).collect();
        let refused = evidence.refused_alone.iter();
        let refused = refused.filter(|r| r.topic == topic.name && r.output == output);
        let refused = refused.map(|r| ((r.partition, r.generation), r.offset)).collect();
        Ok(Self {
            model,
            tables,
            waits: false,
            marks,
            stands: BTreeMap::new(),
            advances: advances.map(|(_, generation, advance)| (*generation, *advance)).collect(),
            duplicates: BTreeMap::new(),
            reached: BTreeMap::new(),
            retried,
            refused,
            uses: BTreeMap::new(),
        })
    }

    /// A generation begins with the event time that the one before came to (G-2).
    fn stand_in(&mut self, generations: &BTreeMap<Partition, i32>) {
        for (&partition, &generation) in generations {
            if self.stands.insert(partition, generation) == Some(generation) {
                continue;
            }
            let Some(mark) = self.marks.marks.get(&(partition, generation)) else { continue };
            let before = self.marks.marks.range((partition, i32::MIN)..(partition, generation));
            let event_time_max = before.last().and_then(|((_, ended), mark)| {
                let own = |(g, a): &&(i32, IdleAdvance)| {
                    (*g, a.partition) == (*ended, partition) && a.before <= mark.next
                };
                let by_clock = self.advances.iter().filter(own).map(|(_, a)| a.event_time).max();
                mark.event_time_max.or(by_clock)
            });
            let fates = Fates::default();
            let fresh = Mark { next: mark.first, event_time_max, fates, ..*mark };
            let outputs = self.tables.outputs();
            let fresh: Vec<_> = outputs.into_iter().map(|o| (o, partition, fresh)).collect();
            let own = |(g, a): &&(i32, IdleAdvance)| *g == generation && a.partition == partition;
            let advances: Vec<_> = self.advances.iter().filter(own).map(|(_, a)| *a).collect();
            self.tables.adopt(&fresh, &advances);
        }
    }

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
            let place = place_of(*p, &self.stands);
            let lost = |(lost, from, to): &(Place, Offset, Offset)| {
                *lost == place && (from.0..to.0).contains(o)
            };
            let mark = self.marks.marks.get(&place);
            mark.is_some_and(|m| *o >= m.first.0 && *o < m.next.0)
                && !self.marks.lost.iter().any(lost)
                && !self.refused.contains(&(place, *o))
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
        let retried =
            |(p, o): (&i32, &i64)| self.retried.contains_key(&(place_of(*p, &self.stands), *o));
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
        let before = |(p, o): (&i32, &i64)| {
            self.retried.get(&(place_of(*p, &self.stands), *o)).copied().flatten()
        };
        let before: Vec<_> = partitions.iter().zip(offsets).map(before).collect();
        self.tables.admit_retried(&decoded(topic, rows), &before, &[]).map(drop)
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
        let place = place_of(partition.0, &self.stands);
        let first = self.marks.marks.get(&place)?.first.0;
        let ahead = self.duplicates.get_mut(&place)?;
        let mut highest = None;
        while let Some((at, event_time)) = ahead.front().copied().filter(|(at, _)| *at < offset) {
            ahead.pop_front();
            // What was retried raised none.
            if at >= first && !self.retried.contains_key(&(place, at)) {
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
        let standing = self.marks.marks.iter();
        let standing = standing.filter(|((p, g), _)| self.stands.get(p) == Some(g));
        let from: Vec<(Partition, Offset)> = standing.map(|((p, _), m)| (*p, m.first)).collect();
        let decoded = decoded(topic, rows);
        // What a model refuses, it refused then: those stand in the dead letters.
        self.tables.admit(&records, &decoded, &from, &[])?;
        Ok(())
    }
}
