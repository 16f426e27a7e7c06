//! Models over the records of a cut: rows in, deltas out.
//!
//! Owns: which row counts for which model and with what fate, expressions, grouping, the latest
//! row per key. Does not own: how a delta merges with what is stored (`warehouse`), when a cut
//! ends (`pipeline::worker`). No I/O and no clock: the same records give the same deltas.
//!
//! M-1  A row's fate in a model depends on the records before it in its partition, and on nothing
//!      else: not on batches, cuts, other partitions or the time of day.
//! M-2  Merging the deltas of any split of the records gives the table of all of them.
//! M-3  An expression that fails on a row makes that row a dead letter of that model, no more.

mod aggregate;
mod plan;
mod rows;

use crate::{
    catalog::{Late, Model, ModelKind, Topic},
    decode::{Decoded, RejectClass},
    error::Result,
    event_time::window_start,
    record::{EventTime, Fates, Mark, Offset, Output, Partition, RawRecord},
};
use aggregate::Deltas;
use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    datatypes::{Int32Type, Int64Type},
};
use plan::Plan;
use rows::LatestRows;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// All models of one topic, and its dead letters: the outputs of the lane of tables.
pub struct Tables {
    max_disorder_us: i64,
    models: Vec<ModelState>,
    /// What is known of each output and partition, moved on by every admission.
    standing: BTreeMap<(Output, Partition), Standing>,
    /// The same as of the last seal: where an abandoned cut falls back to.
    counts: BTreeMap<(Output, Partition), Fates>,
    late: BTreeMap<Arc<str>, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    /// Nothing below is the output's any more.
    floor: Offset,
    event_time_max: Option<EventTime>,
}

struct ModelState {
    model: Arc<Model>,
    output: Output,
    plan: Plan,
    open: OpenModel,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub fates: Fates,
    pub event_time_max: Option<EventTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Below the output's floor: counted in an earlier cut.
    Before,
    Accepted,
    Filtered,
    Late,
    Dead,
}

impl Tables {
    pub fn new(topic: &Topic, models: &[Arc<Model>]) -> Result<Self> {
        let models = models.iter().map(|model| {
            let plan = Plan::new(topic, model)?;
            let open = OpenModel::new(model, &plan)?;
            let output = Output::Model(model.name.clone());
            Ok(ModelState { model: model.clone(), output, plan, open })
        });
        Ok(Self {
            max_disorder_us: topic.max_disorder.as_micros() as i64,
            models: models.collect::<Result<_>>()?,
            standing: BTreeMap::new(),
            counts: BTreeMap::new(),
            late: BTreeMap::new(),
        })
    }

    /// The outputs that keep marks in this lane.
    pub fn outputs(&self) -> Vec<Output> {
        let models = self.models.iter().map(|m| m.output.clone());
        std::iter::once(Output::DeadLetters).chain(models).collect()
    }

    /// Goes on from these marks; what was open of their partitions has been abandoned.
    pub fn adopt(&mut self, marks: &[(Output, Partition, Mark)]) {
        for (output, partition, mark) in marks {
            let standing = Standing { floor: mark.next, event_time_max: mark.event_time_max };
            self.standing.insert((output.clone(), *partition), standing);
        }
    }

    /// Forgets the open cut. Marks must be adopted before the next admission.
    pub fn abandon(&mut self) -> Result<()> {
        self.standing.clear();
        self.counts.clear();
        self.late.clear();
        for state in &mut self.models {
            state.open = OpenModel::new(&state.model, &state.plan)?;
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        self.models.iter().map(|state| state.open.memory()).sum()
    }

    /// Adds the records at or above `from`, per partition; others are not looked at.
    pub fn admit(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) -> Result<Vec<Refusal>> {
        let mut refusals = self.admit_rejects(records, decoded, from);
        let runs = runs(&decoded.rows, from);
        self.admit_good(&decoded.rows, &decoded.event_times, &runs);
        for index in 0..self.models.len() {
            refusals.extend(self.admit_model(index, records, decoded, &runs)?);
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
            let wanted =
                |(p, from): &(Partition, Offset)| *p == record.partition && record.offset >= from.0;
            if !from.iter().any(wanted) {
                continue;
            }
            let models = self.models.iter().map(|m| &m.output);
            for output in std::iter::once(&Output::DeadLetters).chain(models) {
                let key = (output.clone(), record.partition);
                if record.offset >= self.standing[&key].floor.0 {
                    self.counts.entry(key).or_default().dead += 1;
                    if *output == Output::DeadLetters {
                        refusals.push(Refusal {
                            record: reject.record,
                            output: Output::DeadLetters,
                            class: reject.class,
                            column: reject.column.clone(),
                            reason: reject.reason.clone(),
                        });
                    }
                }
            }
        }
        refusals
    }

    /// For the dead letters a good record is one that they leave out.
    fn admit_good(&mut self, rows: &RecordBatch, event_times: &[EventTime], runs: &[Run]) {
        for run in runs {
            let key = (Output::DeadLetters, run.partition);
            let standing = self.standing.get_mut(&key).expect("marks are adopted before records");
            let range = run.at_or_above(rows, standing.floor);
            self.counts.entry(key).or_default().filtered += range.len() as u64;
            let max = event_times[range].iter().copied().max();
            standing.event_time_max = standing.event_time_max.max(max);
        }
    }

    fn admit_model(
        &mut self,
        index: usize,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        runs: &[Run],
    ) -> Result<Vec<Refusal>> {
        let mut fates = vec![Fate::Before; decoded.rows.num_rows()];
        self.judge(index, decoded, runs, &mut fates);
        let state = &mut self.models[index];

        let chosen = choose(&fates, Fate::Accepted);
        let input = state.plan.input(&decoded.rows, &decoded.event_times, chosen)?;
        let (input, failures) = state.plan.filter(input)?;
        mark_left_out(&mut fates, &input.origin);
        let (input, more) = state.plan.evaluate(input)?;
        let failures: Vec<_> = failures.into_iter().chain(more).collect();
        for (row, _) in &failures {
            fates[*row] = Fate::Dead;
        }
        match &mut state.open {
            OpenModel::Aggregate(deltas) => deltas.add(&input)?,
            OpenModel::Rows(rows) => rows.add(&input)?,
        }
        self.count(index, runs, &fates);
        let output = &self.models[index].output;
        Ok(refusals_of(output, records, decoded, failures))
    }

    /// Marks each row of the runs accepted or late, in offset order (M-1).
    fn judge(&mut self, index: usize, decoded: &Decoded, runs: &[Run], fates: &mut [Fate]) {
        let state = &self.models[index];
        let window = match &state.model.kind {
            ModelKind::Aggregate(aggregate) => aggregate.window.as_ref(),
            ModelKind::Rows(_) => None,
        };
        let mut late_rows = 0;
        for run in runs {
            let key = (state.output.clone(), run.partition);
            let standing = self.standing.get_mut(&key).expect("marks are adopted before records");
            let range = run.at_or_above(&decoded.rows, standing.floor);
            fates[range.clone()].fill(Fate::Accepted);
            let Some(window) = window else {
                let max = decoded.event_times[range].iter().copied().max();
                standing.event_time_max = standing.event_time_max.max(max);
                continue;
            };
            let size = window.size.as_micros() as i64;
            let grace = window.allowed_lateness.as_micros() as i64 + self.max_disorder_us;
            let mut max = standing.event_time_max.map_or(i64::MIN, |t| t.0);
            for row in range {
                let time = decoded.event_times[row];
                // Only a record behind the highest can be late: spares the division.
                if time.0 < max {
                    let end = window_start(time, size).0.saturating_add(size);
                    if end.saturating_add(grace) <= max {
                        late_rows += 1;
                        if window.late == Late::Drop {
                            fates[row] = Fate::Late;
                        }
                    }
                } else {
                    max = time.0;
                }
            }
            standing.event_time_max = (max > i64::MIN).then_some(EventTime(max));
        }
        if late_rows > 0 {
            *self.late.entry(state.model.name.clone()).or_default() += late_rows;
        }
    }

    fn count(&mut self, index: usize, runs: &[Run], fates: &[Fate]) {
        for run in runs {
            let key = (self.models[index].output.clone(), run.partition);
            let counts = self.counts.entry(key).or_default();
            for fate in &fates[run.rows.clone()] {
                match fate {
                    Fate::Before => {}
                    Fate::Accepted => counts.accepted += 1,
                    Fate::Filtered => counts.filtered += 1,
                    Fate::Late => counts.late += 1,
                    Fate::Dead => counts.dead += 1,
                }
            }
        }
    }

    /// Ends the open cut and begins the next.
    pub fn seal(&mut self) -> Result<SealedTables> {
        let mut tables = Vec::new();
        for state in &mut self.models {
            let rows = match &mut state.open {
                OpenModel::Aggregate(deltas) => deltas.finish()?,
                OpenModel::Rows(rows) => rows.finish()?,
            };
            if rows.num_rows() > 0 {
                tables.push((state.model.name.clone(), rows));
            }
        }
        let mut counts = BTreeMap::new();
        for (key, standing) in &self.standing {
            let fates = self.counts.get(key).copied().unwrap_or_default();
            counts.insert(key.clone(), Counted { fates, event_time_max: standing.event_time_max });
        }
        self.counts.clear();
        Ok(SealedTables { tables, counts, late: std::mem::take(&mut self.late) })
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

    fn memory(&self) -> usize {
        match self {
            Self::Aggregate(deltas) => deltas.memory(),
            Self::Rows(rows) => rows.memory(),
        }
    }
}

/// Neighbouring rows of one partition, without those below the lane's position.
struct Run {
    partition: Partition,
    rows: Range<usize>,
}

impl Run {
    /// Offsets ascend within a run.
    fn at_or_above(&self, batch: &RecordBatch, floor: Offset) -> Range<usize> {
        let offsets = &offsets(batch)[self.rows.clone()];
        match offsets.first() {
            Some(first) if *first >= floor.0 => self.rows.clone(),
            Some(_) | None => {
                self.rows.start + offsets.partition_point(|o| *o < floor.0)..self.rows.end
            }
        }
    }
}

fn runs(batch: &RecordBatch, from: &[(Partition, Offset)]) -> Vec<Run> {
    let partitions = partitions(batch);
    let mut runs = Vec::new();
    let mut start = 0;
    for chunk in partitions.chunk_by(|a, b| a == b) {
        let partition = Partition(chunk[0]);
        let run = Run { partition, rows: start..start + chunk.len() };
        start = run.rows.end;
        if let Some((_, floor)) = from.iter().find(|(p, _)| *p == partition) {
            let rows = run.at_or_above(batch, *floor);
            if !rows.is_empty() {
                runs.push(Run { partition, rows });
            }
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

/// None: all of them.
fn choose(fates: &[Fate], wanted: Fate) -> Option<BooleanArray> {
    if fates.iter().all(|f| *f == wanted) {
        return None;
    }
    Some(fates.iter().map(|f| Some(*f == wanted)).collect())
}

/// Accepted rows that the filter did not let through.
fn mark_left_out(fates: &mut [Fate], kept: &plan::Origin) {
    let plan::Origin::Rows(kept) = kept else { return };
    let mut kept = kept.iter().peekable();
    for (row, fate) in fates.iter_mut().enumerate() {
        if kept.next_if(|k| **k as usize == row).is_none() && *fate == Fate::Accepted {
            *fate = Fate::Filtered;
        }
    }
}

fn refusals_of(
    output: &Output,
    records: &[RawRecord<'_>],
    decoded: &Decoded,
    failures: Vec<(usize, String)>,
) -> Vec<Refusal> {
    if failures.is_empty() {
        return Vec::new();
    }
    let places: BTreeMap<(i32, i64), usize> =
        records.iter().enumerate().map(|(i, r)| ((r.partition.0, r.offset), i)).collect();
    let (partitions, offsets) = (partitions(&decoded.rows), offsets(&decoded.rows));
    let refusal = |(row, reason): (usize, String)| Refusal {
        record: places[&(partitions[row], offsets[row])],
        output: output.clone(),
        class: RejectClass::Model,
        column: None,
        reason,
    };
    failures.into_iter().map(refusal).collect()
}
