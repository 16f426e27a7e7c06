//! One model in the open cut: the way of its rows, from the floor to what they leave in the table.
//!
//! Owns: with what fate a row's way ends, and in which order it is asked. Does not own: which
//! records reach the models (`Tables`), who is late (`event_time`), grouping (`aggregate`, `rows`).

use super::{
    late::Verdicts,
    offsets,
    open::OpenModel,
    plan::{Failures, Input, Plan},
    runs::{Run, choose, count_duplicates},
    standing::{Before, Standing, Standings},
};
use crate::{
    catalog::{Late, Model, Topic, Window},
    decode::{Decoded, RejectClass},
    error::Result,
    event_time::{Lateness, Verdict, Windows},
    record::{EventTime, Fates, Output, Partition},
};
use arrow::array::BooleanArray;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

pub(super) struct ModelState {
    pub model: Arc<Model>,
    max_disorder: Duration,
    pub plan: Plan,
    pub open: OpenModel,
    /// As the model's window says; None: it has none.
    windows: Option<Windows>,
    pub standings: Standings,
    /// Rows since the last seal of which a window was final before they came.
    pub late: u64,
    /// Rows since the last seal that found nothing in the reference.
    pub misses: u64,
}

/// Rows that the model refuses.
pub(super) type Refused = Vec<(usize, RejectClass, String)>;

const ADOPTED: &str = "marks are adopted before records";

pub(super) fn standing(standings: &mut Standings, partition: Partition) -> &mut Standing {
    standings.get_mut(&partition).expect(ADOPTED)
}

impl ModelState {
    pub fn new(topic: &Topic, model: &Arc<Model>) -> Result<Self> {
        let plan = Plan::new(topic, model)?;
        let open = OpenModel::new(topic, model, &plan)?;
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

    pub fn output(&self) -> Output {
        Output::Model(self.model.name.clone())
    }

    /// A row's way: the floor, the judge's verdict, WHERE, lateness, the model's expressions. Where
    /// it ends is its fate. A row that WHERE leaves out is never late, but raises the watermark as any other.
    /// With `retried`, each row is judged by the event time given for it.
    pub fn admit(
        &mut self,
        decoded: &Decoded,
        runs: &[Run],
        duplicates: &[bool],
        retried: Option<&[Option<EventTime>]>,
    ) -> Result<Refused> {
        let floor = |run: &Run| self.standings.get(&run.partition).expect(ADOPTED).floor;
        let runs: Vec<Run> =
            runs.iter().filter_map(|run| run.above(&decoded.rows, floor(run))).collect();
        let verdicts = match retried {
            None => self.judge(decoded, &runs),
            Some(before) => self.judge_retried(decoded, before),
        };
        if let OpenModel::Changes(open) = &mut self.open {
            open.add(decoded, &runs)?;
            runs.iter().for_each(|run| self.fates(run).accepted += run.records(decoded));
            return Ok(Vec::new());
        }

        if let Some(several) = &decoded.several {
            return self.admit_several(decoded, several, &runs, &verdicts);
        }
        let chosen = choose(&runs, decoded.rows.num_rows(), duplicates);
        let (input, misses) = self.plan.input(&decoded.rows, &decoded.event_times, chosen)?;
        self.misses += misses;
        let (input, mut failures) = self.plan.filter(input)?;
        for run in &runs {
            let passed = input.count_within(&run.rows) + count_within(&failures, &run.rows);
            let twice = count_duplicates(duplicates, &run.rows);
            self.fates(run).filtered += run.rows.len() as u64 - passed - twice;
            self.fates(run).duplicate += twice;
        }
        let met: Vec<u64> = runs.iter().map(|run| input.count_within(&run.rows)).collect();
        let (input, refused) = self.meet_late(input, &verdicts)?;
        for (run, met) in runs.iter().zip(met) {
            self.fates(run).late +=
                met - input.count_within(&run.rows) - count_within(&refused, &run.rows);
        }
        let (input, more) = self.plan.evaluate(input)?;
        failures.extend(more);
        failures.sort_unstable_by_key(|(row, _)| *row);
        for run in &runs {
            self.fates(run).accepted += input.count_within(&run.rows);
            self.fates(run).dead +=
                count_within(&failures, &run.rows) + count_within(&refused, &run.rows);
        }
        self.open.add(&input, &verdicts.of_rows)?;
        let of_class = |class| move |(row, reason)| (row, class, reason);
        let failures = failures.into_iter().map(of_class(RejectClass::Model));
        Ok(failures.chain(refused.into_iter().map(of_class(RejectClass::Late))).collect())
    }

    /// As [`Self::admit`], where a record may be several rows: one that fails or is refused takes its
    /// record's others with it, and a record of which any row counts is accepted (D-4).
    fn admit_several(
        &mut self,
        decoded: &Decoded,
        several: &[u32],
        runs: &[Run],
        verdicts: &Verdicts,
    ) -> Result<Refused> {
        let chosen = choose(runs, several.len(), &[]);
        let (input, misses) = self.plan.input(&decoded.rows, &decoded.event_times, chosen)?;
        self.misses += misses;
        let (input, failures) = self.plan.filter(input)?;
        let of_class = |class| move |(row, reason)| (row, class, reason);
        let mut refused: Refused = failures.into_iter().map(of_class(RejectClass::Model)).collect();
        let mut late: BTreeSet<u32> =
            (0..input.rows).map(|row| several[input.origin_of(row)]).collect();
        let (input, told) = self.meet_late(input, verdicts)?;
        refused.extend(told.into_iter().map(of_class(RejectClass::Late)));
        let (input, failures) = self.plan.evaluate(input)?;
        refused.extend(failures.into_iter().map(of_class(RejectClass::Model)));
        refused.sort_by_key(|(row, ..)| *row);
        refused.dedup_by_key(|(row, ..)| several[*row]);
        let dead: BTreeSet<u32> = refused.iter().map(|(row, ..)| several[*row]).collect();
        let record = |row| several[input.origin_of(row)];
        let stands: BooleanArray =
            (0..input.rows).map(|row| Some(!dead.contains(&record(row)))).collect();
        let input = input.keep(&stands)?;
        let accepted: BTreeSet<u32> =
            (0..input.rows).map(|row| several[input.origin_of(row)]).collect();
        late.retain(|record| !accepted.contains(record) && !dead.contains(record));
        for run in runs {
            let of = &several[run.rows.clone()];
            let bounds = of[0]..=of[of.len() - 1];
            let within = |records: &BTreeSet<u32>| records.range(bounds.clone()).count() as u64;
            let all = run.records(decoded);
            let fates = self.fates(run);
            fates.accepted += within(&accepted);
            fates.dead += within(&dead);
            fates.late += within(&late);
            fates.filtered += all - within(&accepted) - within(&dead) - within(&late);
        }
        self.open.add(&input, &verdicts.of_rows)?;
        Ok(refused)
    }

    fn fates(&mut self, run: &Run) -> &mut Fates {
        &mut standing(&mut self.standings, run.partition).fates
    }

    fn window(&self) -> Option<&Window> {
        self.model.window()
    }

    /// Lets each row raise the watermark of its partition, in offset order (M-1), and says what was
    /// final before it came.
    fn judge(&mut self, decoded: &Decoded, runs: &[Run]) -> Verdicts {
        let (times, offsets) = (&decoded.event_times, offsets(&decoded.rows));
        let terms = self
            .window()
            .map(|w| (w.allowed_lateness.as_micros() as i64, w.late == Late::DeadLetter));
        let mut verdicts = Verdicts::default();
        for run in runs {
            let standing = standing(&mut self.standings, run.partition);
            let (Some(windows), Some((allowed, tells))) = (&mut self.windows, terms) else {
                standing.observe(offsets, times, &run.rows);
                continue;
            };
            standing.judge(offsets, times, &run.rows, |lateness, piece| {
                let before = *lateness;
                verdicts.judge(lateness, &times[piece.clone()], windows, allowed, piece.start);
                if tells {
                    verdicts.tell(before, times, windows, allowed, piece);
                }
            });
        }
        verdicts.fill(times.len());
        verdicts
    }

    /// As [`Self::judge`], by what was seen before each row; nothing is raised.
    fn judge_retried(&mut self, decoded: &Decoded, before: &[Option<EventTime>]) -> Verdicts {
        let times = &decoded.event_times;
        let terms = self
            .window()
            .map(|w| (w.allowed_lateness.as_micros() as i64, w.late == Late::DeadLetter));
        let mut verdicts = Verdicts::default();
        let (Some(windows), Some((allowed, tells))) = (&mut self.windows, terms) else {
            return verdicts;
        };
        for rows in decoded.rows_by_record() {
            let lateness = Lateness::new(before[rows.start], self.max_disorder);
            let of_record = &times[rows.clone()];
            verdicts.judge(&mut lateness.clone(), of_record, windows, allowed, rows.start);
            if tells {
                verdicts.tell(lateness, times, windows, allowed, rows);
            }
        }
        verdicts.fill(times.len());
        verdicts
    }

    /// What each partition had seen before the runs.
    pub fn before(&self, runs: &[Run]) -> BTreeMap<Partition, Before> {
        let before = |run: &Run| {
            let standing = self.standings.get(&run.partition).expect(ADOPTED);
            (run.partition, standing.before())
        };
        runs.iter().map(before).collect()
    }

    /// Counts the rows of which something was final, and takes the late ones out where the model
    /// says so; those that it refuses are told.
    fn meet_late<'d>(
        &mut self,
        input: Input<'d>,
        verdicts: &Verdicts,
    ) -> Result<(Input<'d>, Failures)> {
        if verdicts.of_rows.is_empty() {
            return Ok((input, Failures::new()));
        }
        let verdict = |row| verdicts.of_rows[input.origin_of(row)];
        self.late += (0..input.rows).filter(|row| verdict(*row) != Verdict::InTime).count() as u64;
        let taken: BooleanArray =
            (0..input.rows).map(|row| Some(verdict(row) != Verdict::Late)).collect();
        match self.window().map_or(Late::Amend, |window| window.late) {
            Late::Amend => Ok((input, Failures::new())),
            Late::Drop => Ok((input.keep(&taken)?, Failures::new())),
            Late::DeadLetter => {
                let late = (0..input.rows).filter(|row| verdict(*row) == Verdict::Late);
                let refused = late.map(|row| verdicts.reason(input.origin_of(row))).collect();
                Ok((input.keep(&taken)?, refused))
            }
        }
    }
}

/// How many of the failures, which ascend, are of these rows.
fn count_within(failures: &Failures, rows: &Range<usize>) -> u64 {
    let below = |end| failures.partition_point(|(row, _)| *row < end);
    (below(rows.end) - below(rows.start)) as u64
}
