//! The lane of tables: models and dead letters, from admitted records to a commit.
//!
//! Owns: the open cut's yield and counts. Does not own: when it ends (`worker`).

use super::{counting, driver::Job, worker::Move};
use crate::{
    catalog::{Model, Topic},
    compute::{Counted, Refusal, Tables},
    cut::{Cut, DeadLetter, Yield},
    decode::Decoded,
    error::Result,
    record::{EventTime, IdleAdvance, Mark, Offset, Output, Partition, RawRecord},
    source::kafka::Fetched,
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

pub struct TablesLane {
    topic: Arc<str>,
    keep_raw: bool,
    tables: Tables,
    dead_letters: Vec<DeadLetter>,
    dead_bytes: usize,
    /// Records admitted, counted before anything looked into them: the other side of C-2.
    records: BTreeMap<Partition, u64>,
    /// To be recorded with the open cut.
    advances: BTreeMap<(Partition, Offset), EventTime>,
    rows: u64,
}

impl TablesLane {
    pub fn new(topic: &Topic, models: &[Arc<Model>]) -> Result<Self> {
        Ok(Self {
            topic: topic.name.clone(),
            keep_raw: topic.keep_raw,
            tables: Tables::new(topic, models)?,
            dead_letters: Vec::new(),
            dead_bytes: 0,
            records: BTreeMap::new(),
            advances: BTreeMap::new(),
            rows: 0,
        })
    }

    pub fn outputs(&self) -> Vec<Output> {
        self.tables.outputs()
    }

    pub fn adopt(&mut self, marks: &[(Output, Partition, Mark)], advances: &[IdleAdvance]) {
        self.tables.adopt(marks, advances);
    }

    pub fn advance(&mut self, advance: IdleAdvance) {
        if self.tables.advance(advance) {
            let IdleAdvance { partition, before, event_time } = advance;
            let known = self.advances.entry((partition, before)).or_insert(event_time);
            *known = (*known).max(event_time);
        }
    }

    pub fn abandon(&mut self) -> Result<()> {
        self.dead_letters.clear();
        self.dead_bytes = 0;
        self.records.clear();
        self.advances.clear();
        self.rows = 0;
        self.tables.abandon()
    }

    pub fn memory(&self) -> usize {
        self.tables.memory() + self.dead_bytes
    }

    pub fn admit(
        &mut self,
        fetched: &Fetched,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) -> Result<()> {
        self.rows += counting::add(&mut self.records, records, from);
        for refusal in self.tables.admit(records, decoded, from)? {
            let letter = dead_letter(fetched, records, refusal, self.keep_raw);
            self.dead_bytes += letter.value.as_ref().map_or(0, Bytes::len)
                + letter.key.as_ref().map_or(0, Bytes::len)
                + letter.reason.len()
                + 256;
            self.dead_letters.push(letter);
        }
        Ok(())
    }

    /// The open cut, ended.
    pub fn seal(&mut self, moves: Vec<Move>) -> Result<Job> {
        for moved in &moves {
            self.tables.pass(&moved.output, moved.partition, moved.span.to);
        }
        let mut sealed = self.tables.seal()?;
        let mut counts = BTreeMap::new();
        for moved in &moves {
            let key = (moved.output.clone(), moved.partition);
            let counted = sealed.counts.remove(&key).unwrap_or_default();
            counts.insert(key, counted);
        }
        let records = std::mem::take(&mut self.records);
        let advances = counting::advances(&self.topic, moves, &counts, &records);
        let mut yields: Vec<Yield> =
            sealed.tables.into_iter().map(|(model, rows)| Yield::Table { model, rows }).collect();
        if !self.dead_letters.is_empty() {
            yields.push(Yield::DeadLetters(std::mem::take(&mut self.dead_letters)));
        }
        self.dead_bytes = 0;
        let obsolete: Vec<_> = sealed.obsolete.iter().map(|a| (a.partition, a.before)).collect();
        let idle: Vec<_> = std::mem::take(&mut self.advances)
            .into_iter()
            .filter(|(place, _)| !obsolete.contains(place))
            .map(|((partition, before), event_time)| IdleAdvance { partition, before, event_time })
            .collect();
        if !idle.is_empty() || !obsolete.is_empty() {
            yields.push(Yield::IdleAdvances { recorded: idle, obsolete });
        }
        let cut = Cut { topic: self.topic.clone(), advances, yields };
        Ok(Job { cut, late: sealed.late, rows: std::mem::take(&mut self.rows) })
    }
}

fn dead_letter(
    fetched: &Fetched,
    records: &[RawRecord<'_>],
    refusal: Refusal,
    keep_raw: bool,
) -> DeadLetter {
    let record = &records[refusal.record];
    let raw = |bytes: Option<&[u8]>| bytes.filter(|_| keep_raw).map(Bytes::copy_from_slice);
    DeadLetter {
        output: refusal.output,
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        class: refusal.class.as_str(),
        column: refusal.column,
        reason: refusal.reason,
        key: raw(record.key),
        value: raw(record.value),
        headers: if keep_raw { fetched.headers(refusal.record) } else { Vec::new() },
    }
}

/// What the lake counts: it takes every good record.
pub fn lake_counts(
    counts: &mut BTreeMap<(Output, Partition), Counted>,
    records: &[RawRecord<'_>],
    decoded: &Decoded,
    from: &[(Partition, Offset)],
) {
    let mut rejects = decoded.rejects.iter().peekable();
    let (mut index, mut row) = (0, 0);
    for run in records.chunk_by(|a, b| a.partition == b.partition) {
        let partition = run[0].partition;
        let floor = from.iter().find(|(p, _)| *p == partition).map(|(_, floor)| floor.0);
        let mut counted = Counted::default();
        for record in run {
            let rejected = rejects.next_if(|r| r.record == index).is_some();
            if floor.is_some_and(|floor| record.offset >= floor) {
                if rejected {
                    counted.fates.dead += 1;
                } else {
                    counted.fates.accepted += 1;
                    let time = Some(decoded.event_times[row]);
                    counted.event_time_max = counted.event_time_max.max(time);
                }
            }
            index += 1;
            row += usize::from(!rejected);
        }
        if counted != Counted::default() {
            let total = counts.entry((Output::Lake, partition)).or_default();
            total.fates += counted.fates;
            total.event_time_max = total.event_time_max.max(counted.event_time_max);
        }
    }
}
