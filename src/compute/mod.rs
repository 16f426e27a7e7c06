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
mod combine;
mod course;
pub mod lookup;
mod plan;
mod rows;
mod runs;
mod sessions;
#[cfg(test)]
mod tests;
pub mod unique;

use crate::{
    catalog::{Aggregate, Late, Model, ModelKind, Topic, Window},
    decode::{Decoded, RejectClass},
    error::Result,
    event_time::{Lateness, Verdict, Windows},
    record::{EventTime, Fates, Mark, Offset, Output, Partition, RawRecord},
};
use aggregate::Deltas;
use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    datatypes::{Int32Type, Int64Type},
};
use course::Courses;
use lookup::Version;
use plan::{Failures, Input, Plan};
use rows::LatestRows;
use runs::{Run, choose, count_duplicates, runs};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

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
    max_disorder: Duration,
    plan: Plan,
    open: OpenModel,
    /// As the model's window says; None: it has none.
    windows: Option<Windows>,
    standings: Standings,
    /// Rows since the last seal of which a window was final before they came.
    late: u64,
    /// Rows since the last seal that found nothing in the reference.
    misses: u64,
}

enum OpenModel {
    Aggregate(Box<Deltas>),
    Rows(LatestRows),
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
    pub tables: Vec<(Arc<str>, RecordBatch)>,
    pub counts: BTreeMap<(Output, Partition), Counted>,
    /// Per model: rows of which a window was final before they came (taken or dropped).
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
        self.admit_empty(records, decoded, from);
        let runs = runs(&decoded.rows, from);
        let mut courses = Courses::new(decoded, &runs);
        let mut refusals = self.admit_rejects(records, decoded, from, &mut courses);
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
            let before = state.event_time_maxima(&runs);
            let failures = state.admit(decoded, &runs, duplicates, None)?;
            for (row, reason) in failures {
                let record = record_of(row, decoded);
                let (partition, offset) = (records[record].partition, records[record].offset);
                let floor = standing(&mut state.standings, partition).floor;
                let in_batch = courses.highest(partition, floor, offset);
                let seen = before.get(&partition).copied().flatten().max(in_batch);
                refusals.push(refused_by_model(state.output(), record, seen, reason));
            }
        }
        Ok(refusals)
    }

    /// Adds rows that were refused in their place, each with the highest event time that its
    /// partition had there: its lateness is judged by that, and it raises no watermark. Rows are
    /// sorted by partition and offset; all of them count, wherever the marks stand.
    pub fn admit_retried(
        &mut self,
        decoded: &Decoded,
        before: &[Option<EventTime>],
    ) -> Result<Vec<Refusal>> {
        assert_eq!(decoded.event_times.len(), before.len(), "each row has its judge");
        let partitions: BTreeSet<i32> = partitions(&decoded.rows).iter().copied().collect();
        let from: Vec<_> = partitions.into_iter().map(|p| (Partition(p), Offset(0))).collect();
        let runs = runs(&decoded.rows, &from);
        let mut refusals = Vec::new();
        for state in &mut self.models {
            for (row, reason) in state.admit(decoded, &runs, &[], Some(before))? {
                let record = record_of(row, decoded);
                refusals.push(refused_by_model(state.output(), record, before[row], reason));
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
                    refused_by.push((output, standing.lateness.watermark.max().max(in_batch)));
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

fn refused_by_model(
    output: Output,
    record: usize,
    seen: Option<EventTime>,
    reason: String,
) -> Refusal {
    let refused_by = vec![(output.clone(), seen)];
    Refusal { record, output, refused_by, class: RejectClass::Model, column: None, reason }
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
        let mut state = Self {
            model: model.clone(),
            max_disorder: topic.max_disorder,
            plan,
            open,
            windows: None,
            standings,
            late: 0,
            misses: 0,
        };
        state.windows = state.window().map(|window| Windows::new(&window.shape));
        Ok(state)
    }

    fn output(&self) -> Output {
        Output::Model(self.model.name.clone())
    }

    /// A row's way: the floor, the judge's verdict, WHERE, lateness, the model's expressions. Where it ends is its
    /// fate. A row that WHERE leaves out is never late, but raises the watermark as any other.
    /// With `retried`, each row is judged by the event time given for it.
    fn admit(
        &mut self,
        decoded: &Decoded,
        runs: &[Run],
        duplicates: &[bool],
        retried: Option<&[Option<EventTime>]>,
    ) -> Result<Failures> {
        let floor = |run: &Run| self.standings.get(&run.partition).expect(ADOPTED).floor;
        let runs: Vec<Run> =
            runs.iter().filter_map(|run| run.above(&decoded.rows, floor(run))).collect();
        let verdicts = match retried {
            None => self.judge(&decoded.event_times, &runs),
            Some(before) => self.judge_retried(&decoded.event_times, before),
        };

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
        let input = self.meet_late(input, &verdicts, &runs)?;
        let (input, more) = self.plan.evaluate(input)?;
        failures.extend(more);
        failures.sort_unstable_by_key(|(row, _)| *row);
        for run in &runs {
            self.fates(run).accepted += input.count_within(&run.rows);
            self.fates(run).dead += count_within(&failures, &run.rows);
        }
        self.open.add(&input, &verdicts)?;
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

    /// Lets each row raise the watermark of its partition, in offset order (M-1). Gives what was
    /// final before each row of the batch came; empty: nothing of any.
    fn judge(&mut self, times: &[EventTime], runs: &[Run]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let allowed = self.window().map(|window| window.allowed_lateness.as_micros() as i64);
        for run in runs {
            let lateness = &mut standing(&mut self.standings, run.partition).lateness;
            let of_run = &times[run.rows.clone()];
            match (&mut self.windows, allowed) {
                (Some(windows), Some(allowed)) => {
                    lateness.judge(of_run, windows, allowed, run.rows.start, &mut verdicts);
                }
                _ => of_run.iter().max().into_iter().for_each(|max| lateness.observe(*max)),
            }
        }
        if !verdicts.is_empty() {
            verdicts.resize(times.len(), Verdict::InTime);
        }
        verdicts
    }

    /// As [`Self::judge`], by what was seen before each row; nothing is raised.
    fn judge_retried(&mut self, times: &[EventTime], before: &[Option<EventTime>]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let allowed = self.window().map(|window| window.allowed_lateness.as_micros() as i64);
        let (Some(windows), Some(allowed)) = (&mut self.windows, allowed) else { return verdicts };
        for (row, (time, before)) in times.iter().zip(before).enumerate() {
            let mut lateness = Lateness::new(*before, self.max_disorder);
            lateness.judge(std::slice::from_ref(time), windows, allowed, row, &mut verdicts);
        }
        if !verdicts.is_empty() {
            verdicts.resize(times.len(), Verdict::InTime);
        }
        verdicts
    }

    fn event_time_maxima(&self, runs: &[Run]) -> BTreeMap<Partition, Option<EventTime>> {
        let max = |run: &Run| {
            let standing = self.standings.get(&run.partition).expect(ADOPTED);
            (run.partition, standing.lateness.watermark.max())
        };
        runs.iter().map(max).collect()
    }

    /// Counts the rows of which something was final, and takes the late ones out where the model
    /// says so.
    fn meet_late<'d>(
        &mut self,
        input: Input<'d>,
        verdicts: &[Verdict],
        runs: &[Run],
    ) -> Result<Input<'d>> {
        if verdicts.is_empty() {
            return Ok(input);
        }
        let verdict = |row| verdicts[input.origin_of(row)];
        self.late += (0..input.rows).filter(|row| verdict(*row) != Verdict::InTime).count() as u64;
        if self.window().is_none_or(|window| window.late == Late::Amend) {
            return Ok(input);
        }
        let taken: BooleanArray =
            (0..input.rows).map(|row| Some(verdict(row) != Verdict::Late)).collect();
        let kept = input.keep(&taken)?;
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
                Self::Aggregate(Box::new(Deltas::new(model, aggregate, plan)?))
            }
            ModelKind::Rows(rows) => Self::Rows(LatestRows::new(model, rows, plan)?),
        })
    }

    fn add(&mut self, input: &Input<'_>, verdicts: &[Verdict]) -> Result<()> {
        match self {
            Self::Aggregate(deltas) => deltas.add(input, verdicts),
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
