//! Models over the records of a cut: rows in, deltas out.
//!
//! Owns: which record counts for which output and with what fate (a model's rows: `model`),
//! expressions, grouping, the latest row per key. Does not own: how a delta merges with what is stored (`warehouse`), when a cut
//! ends (`pipeline::worker`). No I/O and no clock: the same records give the same deltas.
//!
//! M-1  A row's fate in a model depends on the records before it in its partition (and, of a topic
//!      with `unique`, on the judge's verdict), and on nothing else: not on batches, cuts, other
//!      partitions or the time of day.
//! M-2  Merging the deltas of any split of the records gives the table of all of them.
//! M-3  An expression that fails on a row makes that row a dead letter of that model, no more.
//!
//! What an event costs grows with the models on its topic: each evaluates and groups it anew, so that none
//! can disturb another (README, Speed). It does not grow with the events before it.

mod aggregate;
pub mod changes;
mod combine;
mod course;
mod distinct;
mod groups;
mod late;
pub mod lookup;
mod model;
mod open;
mod parts;
mod picked;
mod plan;
pub mod read_back;
mod rows;
mod runs;
mod sessions;
pub mod sketch;
mod standing;
#[cfg(test)]
pub(crate) mod tests;
pub mod unique;

use crate::{
    catalog::{INDEX, Model, Topic},
    decode::{Decoded, RejectClass},
    error::Result,
    record::{EventTime, Fates, IdleAdvance, Mark, Offset, Output, Partition, RawRecord},
};
use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Int32Type, Int64Type},
};
use changes::ChangeDelta;
use course::Courses;
use lookup::Version;
use model::{ModelState, standing};
use runs::{count_duplicates, is_wanted, record_of, runs};
use standing::{Standing, Standings, take_counts, take_obsolete};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// All models of one topic, and its dead letters: the outputs of the lane of tables.
pub struct Tables {
    max_disorder: Duration,
    dead_letters: Standings,
    models: Vec<ModelState>,
}

/// A record that one output, or every one, refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Index in the records given to `admit`.
    pub record: usize,
    /// `DeadLetters`: refused by decode; else the one model.
    pub output: Output,
    /// Whose dead it is now (those that have passed it before are not among them), and the highest
    /// event time that each had seen before it.
    pub refused_by: Vec<(Output, Option<EventTime>)>,
    pub class: RejectClass,
    pub column: Option<String>,
    pub reason: String,
}

/// What a cut of the tables yields, without its absent offsets.
pub struct SealedTables {
    /// Per model with any change: unique rows, sorted by key.
    pub tables: Vec<(Arc<str>, Delta)>,
    pub counts: BTreeMap<(Output, Partition), Counted>,
    /// Per model: rows of which a window was final before they came (taken, refused or dropped).
    pub late: BTreeMap<Arc<str>, u64>,
    /// Advances that change nothing any more, since the record after each had come as far by
    /// itself: they need not be kept.
    pub obsolete: Vec<IdleAdvance>,
    /// Per model with a reference: rows that found nothing in it.
    pub misses: BTreeMap<Arc<str>, u64>,
}

/// What a cut yields for one model's table.
#[derive(Debug)]
pub struct Delta {
    /// One row per key, unique and sorted by key; the columns of the model's table that are not
    /// computed from others, in order, by their Arrow types.
    pub rows: RecordBatch,
    /// One per `count(DISTINCT …)`, in order of [`Aggregate::sets`]: the table's key and a value,
    /// unique and sorted. Each key is in `rows` as well.
    pub sets: Vec<RecordBatch>,
    /// Of a model over changes: all that it yields; `rows` is empty then.
    pub changes: Option<ChangeDelta>,
}

impl Delta {
    /// Of a model that counts nothing distinct.
    pub fn of(rows: RecordBatch) -> Self {
        Self { rows, sets: Vec::new(), changes: None }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0 && self.changes.as_ref().is_none_or(ChangeDelta::is_empty)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub fates: Fates,
    pub event_time_max: Option<EventTime>,
}

impl Tables {
    pub fn new(topic: &Topic, models: &[Arc<Model>]) -> Result<Self> {
        let models = models.iter().map(|model| ModelState::new(topic, model));
        Ok(Self {
            max_disorder: topic.max_disorder,
            dead_letters: Standings::new(),
            models: models.collect::<Result<_>>()?,
        })
    }

    /// The outputs that keep marks in this lane.
    pub fn outputs(&self) -> Vec<Output> {
        let models = self.models.iter().map(ModelState::output);
        std::iter::once(Output::DeadLetters).chain(models).collect()
    }

    /// Goes on from these marks; what was open of their partitions has been abandoned. `advances`
    /// are those recorded at or above the marks, ascending per partition.
    pub fn adopt(&mut self, marks: &[(Output, Partition, Mark)], advances: &[IdleAdvance]) {
        for (output, partition, mark) in marks {
            let standings = match output {
                Output::DeadLetters => &mut self.dead_letters,
                Output::Model(name) => match self.models.iter_mut().find(|m| m.model.name == *name)
                {
                    Some(state) => &mut state.standings,
                    None => continue,
                },
                Output::Lake => continue,
            };
            let own = advances.iter().filter(|advance| advance.partition == *partition);
            standings.insert(*partition, Standing::new(mark, self.max_disorder, own));
        }
    }

    /// Nothing is left to read before `advance.before`, up to which everything is admitted. False:
    /// event time had come so far already, and there is nothing to record.
    pub fn advance(&mut self, advance: IdleAdvance) -> bool {
        let models = self.models.iter_mut().map(|state| &mut state.standings);
        let mut rises = false;
        for standings in std::iter::once(&mut self.dead_letters).chain(models) {
            // What stands recorded at this very place came first, and may have come further.
            let standing = standing(standings, advance.partition);
            standing.pass(advance.before);
            rises |= standing.advance(advance);
        }
        rises
    }

    /// The output's cut ends here: what stands recorded up to there counts for its mark.
    pub fn pass(&mut self, output: &Output, partition: Partition, to: Offset) {
        let standings = match output {
            Output::DeadLetters => &mut self.dead_letters,
            Output::Model(name) => match self.models.iter_mut().find(|m| m.model.name == *name) {
                Some(state) => &mut state.standings,
                None => return,
            },
            Output::Lake => return,
        };
        standing(standings, partition).pass(to);
    }

    /// A row that came and is not at hand, such as a duplicate in the lake: it raises watermarks.
    pub fn observe(&mut self, partition: Partition, event_time: EventTime) {
        let models = self.models.iter_mut().map(|state| &mut state.standings);
        for standings in models.chain([&mut self.dead_letters]) {
            if let Some(standing) = standings.get_mut(&partition) {
                standing.raise(event_time);
            }
        }
    }

    /// Forgets the open cut. Marks must be adopted before the next admission.
    pub fn abandon(&mut self) -> Result<()> {
        self.dead_letters.clear();
        for state in &mut self.models {
            state.standings.clear();
            state.late = 0;
            state.misses = 0;
            state.open.abandon(&state.model, &state.plan)?;
        }
        Ok(())
    }

    /// From now on the models that join it look their records up in this version. To be called
    /// between cuts: what a cut holds was made by one version.
    pub fn look_up_in(&mut self, version: &Arc<Version>) {
        for state in &mut self.models {
            if let Some(lookup) = state.plan.lookup() {
                lookup.set(version);
            }
        }
    }

    /// By model: the version in which its records are looked up.
    pub fn versions(&mut self) -> Vec<(Output, Arc<Version>)> {
        let mut versions = Vec::new();
        for state in &mut self.models {
            let output = state.output();
            let version = state.plan.lookup().and_then(|lookup| lookup.version().cloned());
            versions.extend(version.map(|version| (output, version)));
        }
        versions
    }

    pub fn memory(&self) -> usize {
        self.models.iter().map(|state| state.open.memory()).sum()
    }

    /// Adds the records at or above `from`, per partition; others are not looked at. Rows that
    /// the judge calls duplicates (`unique`; empty: none is) raise watermarks, and no more.
    pub fn admit(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
        duplicates: &[bool],
    ) -> Result<Vec<Refusal>> {
        self.admit_empty(records, decoded, from);
        let runs = runs(&decoded.rows, from);
        let mut courses = Courses::new(decoded, &runs);
        let mut refusals = self.admit_rejects(records, decoded, from, &mut courses);
        // For the dead letters a good record is one that they leave out.
        for run in &runs {
            let standing = standing(&mut self.dead_letters, run.partition);
            if let Some(run) = run.above(&decoded.rows, standing.floor) {
                let twice = count_duplicates(duplicates, &run.rows);
                standing.fates.filtered += run.records(decoded) - twice;
                standing.fates.duplicate += twice;
                standing.observe(offsets(&decoded.rows), &decoded.event_times, &run.rows);
            }
        }
        for state in &mut self.models {
            let before = state.before(&runs);
            let failures = state.admit(decoded, &runs, duplicates, None)?;
            for (row, class, reason) in failures {
                let record = record_of(row, decoded);
                let (partition, offset) = (records[record].partition, records[record].offset);
                let floor = standing(&mut state.standings, partition).floor;
                let in_batch = courses.highest(partition, floor, offset);
                let seen = before.get(&partition).and_then(|before| before.at(offset));
                let seen = seen.max(in_batch);
                refusals.push(Refusal::by_model(state.output(), record, seen, class, reason));
            }
        }
        Ok(refusals)
    }

    /// Adds rows that were refused in their place, each with the highest event time that its
    /// partition had there: its lateness is judged by that, and it raises no watermark. Rows are
    /// sorted by partition and offset; all of them count, wherever the marks stand. Duplicates (empty: none
    /// is one) are counted as such.
    pub fn admit_retried(
        &mut self,
        decoded: &Decoded,
        before: &[Option<EventTime>],
        duplicates: &[bool],
    ) -> Result<Vec<Refusal>> {
        assert_eq!(decoded.event_times.len(), before.len(), "each row has its judge");
        let partitions: BTreeSet<i32> = partitions(&decoded.rows).iter().copied().collect();
        let from: Vec<_> = partitions.into_iter().map(|p| (Partition(p), Offset(0))).collect();
        let runs = runs(&decoded.rows, &from);
        let mut refusals = Vec::new();
        for state in &mut self.models {
            for (row, class, reason) in state.admit(decoded, &runs, duplicates, Some(before))? {
                let record = record_of(row, decoded);
                refusals.push(Refusal::by_model(
                    state.output(),
                    record,
                    before[row],
                    class,
                    reason,
                ));
            }
        }
        Ok(refusals)
    }

    fn admit_rejects(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
        courses: &mut Courses<'_>,
    ) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for reject in &decoded.rejects {
            let record = &records[reject.record];
            if !is_wanted(record, from) {
                continue;
            }
            let mut refused_by = Vec::new();
            let models = self.models.iter_mut().map(|s| (s.output(), &mut s.standings));
            let all = std::iter::once((Output::DeadLetters, &mut self.dead_letters)).chain(models);
            for (output, standings) in all {
                let standing = standing(standings, record.partition);
                if standing.refuse(record.offset) {
                    let in_batch = courses.highest(record.partition, standing.floor, record.offset);
                    let before = standing.before().at(record.offset);
                    refused_by.push((output, before.max(in_batch)));
                }
            }
            if !refused_by.is_empty() {
                refusals.push(Refusal {
                    record: reject.record,
                    output: Output::DeadLetters,
                    refused_by,
                    class: reject.class,
                    column: reject.column.clone(),
                    reason: reject.reason.clone(),
                });
            }
        }
        refusals
    }

    /// What says nothing about a row is left out everywhere.
    fn admit_empty(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) {
        for &index in &decoded.empty {
            let record = &records[index];
            if !is_wanted(record, from) {
                continue;
            }
            let outputs = self.models.iter_mut().map(|state| &mut state.standings);
            for standings in outputs.chain([&mut self.dead_letters]) {
                let standing = standing(standings, record.partition);
                standing.fates.filtered += u64::from(record.offset >= standing.floor.0);
            }
        }
    }

    /// Ends the open cut and begins the next.
    pub fn seal(&mut self) -> Result<SealedTables> {
        let (mut tables, mut late) = (Vec::new(), BTreeMap::new());
        let mut misses = BTreeMap::new();
        let mut counts = BTreeMap::new();
        take_counts(&mut counts, &Output::DeadLetters, &mut self.dead_letters);
        for state in &mut self.models {
            let delta = state.open.finish()?;
            let name = &state.model.name;
            if !delta.is_empty() {
                tables.push((name.clone(), delta));
            }
            let late_rows = std::mem::take(&mut state.late);
            if late_rows > 0 {
                late.insert(name.clone(), late_rows);
            }
            if state.model.join.is_some() {
                misses.insert(name.clone(), std::mem::take(&mut state.misses));
            }
            let output = state.output();
            take_counts(&mut counts, &output, &mut state.standings);
            // The dead letters pass every record first, and say it for all.
            take_obsolete(&mut state.standings);
        }
        let obsolete = take_obsolete(&mut self.dead_letters);
        Ok(SealedTables { tables, counts, late, misses, obsolete })
    }
}

/// `_partition` and `_offset` of each row.
pub fn places(batch: &RecordBatch) -> (&[i32], &[i64]) {
    (partitions(batch), offsets(batch))
}

/// `_partition`, by its place in every topic's schema.
fn partitions(batch: &RecordBatch) -> &[i32] {
    batch.column(batch.num_columns() - 3).as_primitive::<Int32Type>().values()
}

/// `_index` of each row; None: each row is a record of its own.
pub fn indexes(batch: &RecordBatch) -> Option<&[i32]> {
    let indexes = batch.column_by_name(INDEX)?;
    Some(indexes.as_primitive::<Int32Type>().values())
}

/// `_offset`, by its place in every topic's schema.
fn offsets(batch: &RecordBatch) -> &[i64] {
    batch.column(batch.num_columns() - 2).as_primitive::<Int64Type>().values()
}
