//! Good records of a batch, taken apart: by who refused them, and duplicates from the others.
//!
//! Owns: which rows go where, and their way through one model alone. Does not own: what becomes of
//! their letters (`retry`).

use crate::{
    compute::{Delta, Tables, lookup::Version},
    decode::{Decoded, RejectClass},
    error::{Error, Result},
    record::{EventTime, Fates, Mark, Offset, Output, Partition},
    warehouse::retry::RetryLetter,
};
use arrow::{array::BooleanArray, compute::filter_record_batch};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The good records that one output had refused.
pub(super) struct Concerned<'a> {
    pub letters: Vec<&'a RetryLetter>,
    pub decoded: Decoded,
    /// Of each row: the highest event time that the output had seen before its record.
    before: Vec<Option<EventTime>>,
    output: &'a Output,
}

impl<'a> Concerned<'a> {
    pub fn of(output: &'a Output, good: &[&'a RetryLetter], decoded: &Decoded) -> Result<Self> {
        let (mut letters, mut before, mut event_times) = (Vec::new(), Vec::new(), Vec::new());
        let mut mask = Vec::with_capacity(decoded.event_times.len());
        let mut several = Vec::new();
        for (letter, rows) in good.iter().zip(decoded.rows_by_record()) {
            let refusal = letter.refused_by.iter().find(|(by, _)| by == output);
            mask.extend(rows.clone().map(|_| refusal.is_some()));
            if let Some((_, seen)) = refusal {
                several.extend(rows.clone().map(|_| letters.len() as u32));
                letters.push(*letter);
                before.extend(rows.clone().map(|_| *seen));
                event_times.extend_from_slice(&decoded.event_times[rows]);
            }
        }
        let rows = filter_record_batch(&decoded.rows, &BooleanArray::from(mask))
            .map_err(|e| Error::halt("filter rows to retry").because(e))?;
        let several = decoded.several.is_some().then_some(several);
        let decoded = Decoded::good(rows, several, event_times);
        Ok(Self { letters, decoded, before, output })
    }

    /// All of them get this fate.
    pub fn fates(&self, fate: fn(&mut Fates) -> &mut u64) -> BTreeMap<Partition, Fates> {
        let mut fates: BTreeMap<Partition, Fates> = BTreeMap::new();
        for letter in &self.letters {
            *fate(fates.entry(letter.key.partition).or_default()) += 1;
        }
        fates
    }

    /// Of each letter: which version its model looked up in there.
    pub fn versions(
        &self,
        looked_up: &BTreeMap<(Output, Partition, Offset), Arc<Version>>,
    ) -> Result<Vec<Arc<Version>>> {
        let version = |letter: &&RetryLetter| {
            let place = |offset| (self.output.clone(), letter.key.partition, Offset(offset));
            let before = looked_up.range(place(0)..=place(letter.key.offset)).next_back();
            before.map(|(_, version)| version.clone()).ok_or_else(|| {
                let (partition, offset) = (letter.key.partition.0, letter.key.offset);
                Error::halt(format!(
                    "no version of its reference is noted for {} at {partition}@{offset}",
                    self.output
                ))
            })
        };
        self.letters.iter().map(version).collect()
    }

    /// Through one model: fates, its delta, and which of the letters fail with what. `versions` are
    /// those of each letter, if the model looks up.
    pub fn through(&self, alone: &mut Tables, versions: &[Arc<Version>]) -> Result<Through> {
        alone.abandon()?;
        let partitions: BTreeSet<_> = self.letters.iter().map(|l| l.key.partition).collect();
        let marks: Vec<_> =
            partitions.iter().map(|p| (self.output.clone(), *p, Mark::BEGINNING)).collect();
        alone.adopt(&marks, &[]);
        let mut failures = Vec::new();
        if versions.is_empty() {
            let refusals = alone.admit_retried(&self.decoded, &self.before, &[])?;
            failures.extend(refusals.into_iter().map(|r| (r.record, r.class, r.reason)));
        }
        let rows_of = self.decoded.rows_by_record().collect::<Vec<_>>();
        let mut start = 0;
        for run in versions.chunk_by(|a, b| a.id == b.id) {
            alone.look_up_in(&run[0]);
            let Decoded { rows, several, event_times, .. } = &self.decoded;
            let end = start + run.len();
            let within = rows_of[start].start..rows_of[end - 1].end;
            let of_piece = |several: &Vec<u32>| {
                several[within.clone()].iter().map(|letter| letter - start as u32).collect()
            };
            let piece = Decoded {
                rows: rows.slice(within.start, within.len()),
                several: several.as_ref().map(of_piece),
                event_times: event_times[within.clone()].to_vec(),
                ..self.decoded.clone()
            };
            let refusals = alone.admit_retried(&piece, &self.before[within], &[])?;
            failures.extend(refusals.into_iter().map(|r| (start + r.record, r.class, r.reason)));
            start = end;
        }
        let mut sealed = alone.seal()?;
        let mut fates = BTreeMap::new();
        for partition in partitions {
            let counted = sealed.counts.remove(&(self.output.clone(), partition));
            fates.insert(partition, counted.unwrap_or_default().fates);
        }
        Ok((fates, sealed.tables.pop().map(|(_, delta)| delta), failures))
    }
}

pub(super) type Through =
    (BTreeMap<Partition, Fates>, Option<Delta>, Vec<(usize, RejectClass, String)>);

pub(super) type Apart<'a> = (Vec<&'a RetryLetter>, Decoded, Vec<&'a RetryLetter>);

/// Letters to take with their rows, and duplicates.
pub(super) fn apart<'a>(
    letters: Vec<&'a RetryLetter>,
    decoded: Decoded,
    is_duplicate: &[bool],
) -> Result<Apart<'a>> {
    if !is_duplicate.contains(&true) {
        return Ok((letters, decoded, Vec::new()));
    }
    let (mut good, mut twice, mut event_times) = (Vec::new(), Vec::new(), Vec::new());
    let all = letters.into_iter().zip(is_duplicate).zip(&decoded.event_times);
    for ((letter, is_duplicate), time) in all {
        if *is_duplicate {
            twice.push(letter);
        } else {
            good.push(letter);
            event_times.push(*time);
        }
    }
    let mask: BooleanArray = is_duplicate.iter().map(|twice| Some(!twice)).collect();
    let rows = filter_record_batch(&decoded.rows, &mask)
        .map_err(|e| Error::halt("filter rows to retry").because(e))?;
    Ok((good, Decoded { rows, event_times, ..decoded }, twice))
}
