//! Models over the records of a cut: rows in, deltas out.
//!
//! Owns: which row counts for which model and with what fate, expressions, grouping, the latest
//! row per key. Does not own: how a delta merges with what is stored (`warehouse`), when a cut
//! ends (`pipeline::worker`). No I/O and no clock: the same records give the same deltas.
//!
//! M-1  A row's fate in a model depends on the records before it in its partition (and, of a topic
//!      with `unique`, on the judge's verdict), and on nothing else: not on batches, cuts, other
//!      partitions or the time of day.
//! M-2  Merging the deltas of any split of the records gives the table of all of them.
//! M-3  An expression that fails on a row makes that row a dead letter of that model, no more.

mod aggregate;
pub mod lookup;
mod plan;
mod rows;
#[cfg(test)]
mod tests;
pub mod unique;

use crate::{
    catalog::{Aggregate, Late, Model, ModelKind, Topic, Window},
    decode::{Decoded, RejectClass},
    error::Result,
    event_time::Lateness,
    record::{EventTime, Fates, Mark, Offset, Output, Partition, RawRecord},
};
use aggregate::Deltas;
use arrow::{
    array::{AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch},
    datatypes::{Int32Type, Int64Type},
};
use lookup::Version;
use plan::{Failures, Input, Plan};
use rows::LatestRows;
use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

/// All models of one topic, and its dead letters: the outputs of the lane of tables.
pub struct Tables {
    max_disorder: Duration,
    dead_letters: Standings,
    models: Vec<ModelState>,
}

type Standings = BTreeMap<Partition, Standing>;

/// Where an output stands in a partition.
struct Standing {
    /// Nothing below is the output's any more.
    floor: Offset,
    /// Moved on by every admission.
    lateness: Lateness,
    /// Since the last seal.
    fates: Fates,
}

struct ModelState {
    model: Arc<Model>,
    plan: Plan,
    open: OpenModel,
    standings: Standings,
    /// Rows since the last seal that came after their window was final.
    late: u64,
    /// Rows since the last seal that found nothing in the reference.
    misses: u64,
}

enum OpenModel {
    Aggregate(Deltas),
    Rows(LatestRows),
}

/// A record that one output, or every one, refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Index in the records given to `admit`.
    pub record: usize,
    /// `DeadLetters`: refused by decode, so by every output.
    pub output: Output,
    pub class: RejectClass,
    pub column: Option<String>,
    pub reason: String,
}

/// What a cut of the tables yields, without its absent offsets.
pub struct SealedTables {
    /// Per model with any change: unique rows, sorted by key.
    pub tables: Vec<(Arc<str>, RecordBatch)>,
    pub counts: BTreeMap<(Output, Partition), Counted>,
    /// Per model: rows that came after their window was final (taken or dropped).
    pub late: BTreeMap<Arc<str>, u64>,
    /// Per model with a reference: rows that found nothing in it.
    pub misses: BTreeMap<Arc<str>, u64>,
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

    /// Goes on from these marks; what was open of their partitions has been abandoned.
    pub fn adopt(&mut self, marks: &[(Output, Partition, Mark)]) {
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
            let lateness = Lateness::new(mark.event_time_max, self.max_disorder);
            let standing = Standing { floor: mark.next, lateness, fates: Fates::default() };
            standings.insert(*partition, standing);
        }
    }

    /// A row that came and is not at hand, such as a duplicate in the lake: it raises watermarks.
    pub fn observe(&mut self, partition: Partition, event_time: EventTime) {
        let models = self.models.iter_mut().map(|state| &mut state.standings);
        for standings in models.chain([&mut self.dead_letters]) {
            if let Some(standing) = standings.get_mut(&partition) {
                standing.lateness.observe(event_time);
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
            state.open = OpenModel::new(&state.model, &state.plan)?;
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
        let mut refusals = self.admit_rejects(records, decoded, from);
        self.admit_empty(records, decoded, from);
        let runs = runs(&decoded.rows, from);
        // For the dead letters a good record is one that they leave out.
        for run in &runs {
            let standing = standing(&mut self.dead_letters, run.partition);
            if let Some(run) = run.above(&decoded.rows, standing.floor) {
                let twice = count_duplicates(duplicates, &run.rows);
                standing.fates.filtered += run.len() - twice;
                standing.fates.duplicate += twice;
                standing.observe(&decoded.event_times[run.rows]);
            }
        }
        for state in &mut self.models {
            let failures = state.admit(decoded, &runs, duplicates)?;
            refusals.extend(failures.into_iter().map(|(row, reason)| Refusal {
                record: record_of(row, decoded),
                output: state.output(),
                class: RejectClass::Model,
                column: None,
                reason,
            }));
        }
        Ok(refusals)
    }

    fn admit_rejects(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for reject in &decoded.rejects {
            let record = &records[reject.record];
            if !is_wanted(record, from) {
                continue;
            }
            for state in &mut self.models {
                standing(&mut state.standings, record.partition).refuse(record.offset);
            }
            if standing(&mut self.dead_letters, record.partition).refuse(record.offset) {
                refusals.push(Refusal {
                    record: reject.record,
                    output: Output::DeadLetters,
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
            let rows = state.open.finish()?;
            let name = &state.model.name;
            if rows.num_rows() > 0 {
                tables.push((name.clone(), rows));
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
        }
        Ok(SealedTables { tables, counts, late, misses })
    }
}

fn is_wanted(record: &RawRecord<'_>, from: &[(Partition, Offset)]) -> bool {
    from.iter().any(|(p, from)| *p == record.partition && record.offset >= from.0)
}

const ADOPTED: &str = "marks are adopted before records";

fn standing(standings: &mut Standings, partition: Partition) -> &mut Standing {
    standings.get_mut(&partition).expect(ADOPTED)
}

fn take_counts(
    counts: &mut BTreeMap<(Output, Partition), Counted>,
    output: &Output,
    standings: &mut Standings,
) {
    for (partition, standing) in standings {
        let fates = std::mem::take(&mut standing.fates);
        let event_time_max = standing.lateness.watermark.max();
        counts.insert((output.clone(), *partition), Counted { fates, event_time_max });
    }
}

impl Standing {
    /// Counts a record that decode refuses; false: it is below the floor.
    fn refuse(&mut self, offset: i64) -> bool {
        let counts = offset >= self.floor.0;
        self.fates.dead += u64::from(counts);
        counts
    }

    fn observe(&mut self, times: &[EventTime]) {
        if let Some(max) = times.iter().max() {
            self.lateness.observe(*max);
        }
    }
}

impl ModelState {
    fn new(topic: &Topic, model: &Arc<Model>) -> Result<Self> {
        let plan = Plan::new(topic, model)?;
        let open = OpenModel::new(model, &plan)?;
        let standings = Standings::new();
        Ok(Self { model: model.clone(), plan, open, standings, late: 0, misses: 0 })
    }

    fn output(&self) -> Output {
        Output::Model(self.model.name.clone())
    }

    /// A row's way: the floor, the judge's verdict, WHERE, lateness, the model's expressions. Where it ends is its
    /// fate. A row that WHERE leaves out is never late, but raises the watermark as any other.
    fn admit(&mut self, decoded: &Decoded, runs: &[Run], duplicates: &[bool]) -> Result<Failures> {
        let floor = |run: &Run| self.standings.get(&run.partition).expect(ADOPTED).floor;
        let runs: Vec<Run> =
            runs.iter().filter_map(|run| run.above(&decoded.rows, floor(run))).collect();
        let late = self.judge(&decoded.event_times, &runs);

        let chosen = choose(&runs, decoded.rows.num_rows(), duplicates);
        let (input, misses) = self.plan.input(&decoded.rows, &decoded.event_times, chosen)?;
        self.misses += misses;
        let (input, mut failures) = self.plan.filter(input)?;
        for run in &runs {
            let passed = input.count_within(&run.rows) + count_within(&failures, &run.rows);
            let twice = count_duplicates(duplicates, &run.rows);
            self.fates(run).filtered += run.len() - passed - twice;
            self.fates(run).duplicate += twice;
        }
        let input = self.meet_late(input, &late, &runs)?;
        let (input, more) = self.plan.evaluate(input)?;
        failures.extend(more);
        failures.sort_unstable_by_key(|(row, _)| *row);
        for run in &runs {
            self.fates(run).accepted += input.count_within(&run.rows);
            self.fates(run).dead += count_within(&failures, &run.rows);
        }
        self.open.add(&input)?;
        Ok(failures)
    }

    fn fates(&mut self, run: &Run) -> &mut Fates {
        &mut standing(&mut self.standings, run.partition).fates
    }

    fn window(&self) -> Option<&Window> {
        match &self.model.kind {
            ModelKind::Aggregate(Aggregate { window, .. }) => window.as_ref(),
            ModelKind::Rows(_) => None,
        }
    }

    /// Lets each row raise the watermark of its partition, in offset order (M-1). Gives for each
    /// row of the batch whether its window was final before it came; empty: none was.
    fn judge(&mut self, times: &[EventTime], runs: &[Run]) -> Vec<bool> {
        let Some(window) = self.window() else {
            for run in runs {
                standing(&mut self.standings, run.partition).observe(&times[run.rows.clone()]);
            }
            return Vec::new();
        };
        let size = window.size.as_micros() as i64;
        let allowed = window.allowed_lateness.as_micros() as i64;
        let (mut late, mut count) = (Vec::new(), 0);
        for run in runs {
            late.resize(run.rows.start, false);
            let lateness = &mut standing(&mut self.standings, run.partition).lateness;
            count += lateness.judge(&times[run.rows.clone()], size, allowed, &mut late);
        }
        late.resize(if count == 0 { 0 } else { times.len() }, false);
        late
    }

    /// Counts the late rows, and takes them out where the model says so.
    fn meet_late<'d>(
        &mut self,
        input: Input<'d>,
        late: &[bool],
        runs: &[Run],
    ) -> Result<Input<'d>> {
        if late.is_empty() {
            return Ok(input);
        }
        let in_time: BooleanArray =
            (0..input.rows).map(|row| Some(!late[input.origin_of(row)])).collect();
        self.late += in_time.false_count() as u64;
        if self.window().is_none_or(|window| window.late == Late::Amend) {
            return Ok(input);
        }
        let kept = input.keep(&in_time)?;
        for run in runs {
            self.fates(run).late += input.count_within(&run.rows) - kept.count_within(&run.rows);
        }
        Ok(kept)
    }
}

impl OpenModel {
    fn new(model: &Model, plan: &Plan) -> Result<Self> {
        Ok(match &model.kind {
            ModelKind::Aggregate(aggregate) => {
                Self::Aggregate(Deltas::new(model, aggregate, plan)?)
            }
            ModelKind::Rows(rows) => Self::Rows(LatestRows::new(model, rows, plan)?),
        })
    }

    fn add(&mut self, input: &Input<'_>) -> Result<()> {
        match self {
            Self::Aggregate(deltas) => deltas.add(input),
            Self::Rows(rows) => rows.add(input),
        }
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        match self {
            Self::Aggregate(deltas) => deltas.finish(),
            Self::Rows(rows) => rows.finish(),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Aggregate(deltas) => deltas.memory(),
            Self::Rows(rows) => rows.memory(),
        }
    }
}

/// Neighbouring rows of one partition, at least one.
struct Run {
    partition: Partition,
    rows: Range<usize>,
}

impl Run {
    fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Its rows at or above the floor: offsets ascend within a run.
    fn above(&self, batch: &RecordBatch, floor: Offset) -> Option<Self> {
        let offsets = &offsets(batch)[self.rows.clone()];
        let below = match offsets[0] >= floor.0 {
            true => 0,
            false => offsets.partition_point(|offset| *offset < floor.0),
        };
        let rows = self.rows.start + below..self.rows.end;
        (!rows.is_empty()).then_some(Self { partition: self.partition, rows })
    }
}

fn runs(batch: &RecordBatch, from: &[(Partition, Offset)]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = 0;
    for chunk in partitions(batch).chunk_by(|a, b| a == b) {
        let run = Run { partition: Partition(chunk[0]), rows: start..start + chunk.len() };
        start = run.rows.end;
        if let Some((_, floor)) = from.iter().find(|(p, _)| *p == run.partition) {
            runs.extend(run.above(batch, *floor));
        }
    }
    runs
}

/// `_partition` and `_offset` of each row.
pub fn places(batch: &RecordBatch) -> (&[i32], &[i64]) {
    (partitions(batch), offsets(batch))
}

/// `_partition`, by its place in every topic's schema.
fn partitions(batch: &RecordBatch) -> &[i32] {
    batch.column(batch.num_columns() - 3).as_primitive::<Int32Type>().values()
}

/// `_offset`, by its place in every topic's schema.
fn offsets(batch: &RecordBatch) -> &[i64] {
    batch.column(batch.num_columns() - 2).as_primitive::<Int64Type>().values()
}

/// The rows of these runs, of so many, without the duplicates; None: all of them.
fn choose(runs: &[Run], rows: usize, duplicates: &[bool]) -> Option<BooleanArray> {
    if !duplicates.is_empty() {
        let mut chosen = vec![false; rows];
        for row in runs.iter().flat_map(|run| run.rows.clone()) {
            chosen[row] = !duplicates[row];
        }
        return Some(BooleanArray::from(chosen));
    }
    if runs.iter().map(|run| run.rows.len()).sum::<usize>() == rows {
        return None;
    }
    let mut chosen = BooleanBufferBuilder::new(rows);
    for run in runs {
        chosen.append_n(run.rows.start - chosen.len(), false);
        chosen.append_n(run.rows.len(), true);
    }
    chosen.append_n(rows - chosen.len(), false);
    Some(BooleanArray::new(chosen.finish(), None))
}

/// How many of these rows are duplicates.
fn count_duplicates(duplicates: &[bool], rows: &Range<usize>) -> u64 {
    match duplicates.is_empty() {
        true => 0,
        false => duplicates[rows.clone()].iter().filter(|twice| **twice).count() as u64,
    }
}

/// How many of the failures, which ascend, are of these rows.
fn count_within(failures: &Failures, rows: &Range<usize>) -> u64 {
    let below = |end| failures.partition_point(|(row, _)| *row < end);
    (below(rows.end) - below(rows.start)) as u64
}

/// Index of the record that a row was: rows are the records without what gives none, in order (D-1).
fn record_of(row: usize, decoded: &Decoded) -> usize {
    let without_row = |upto: usize| {
        decoded.rejects.partition_point(|reject| reject.record <= upto)
            + decoded.empty.partition_point(|empty| *empty <= upto)
    };
    let mut record = row;
    while row + without_row(record) > record {
        record = row + without_row(record);
    }
    record
}
