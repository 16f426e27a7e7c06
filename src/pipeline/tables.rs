//! The lane of tables: models and dead letters, from admitted records to a commit.
//!
//! Owns: the open cut's yield and counts. Does not own: when it ends (`worker`).

use super::{counting, held, worker::Move};
use crate::{
    catalog::{Model, Topic},
    compute::{
        Counted, Refusal, Tables,
        lookup::Version,
        unique::{Hashing, Judge, KEY_BYTES, Memory},
    },
    cut::{Cut, DeadLetter, Raw, ReferenceUse, Yield},
    decode::{Decoded, Reject},
    error::Result,
    record::{EventTime, IdleAdvance, Mark, Offset, Output, Partition, RawRecord},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Of a record, in order.
pub type Headers = Vec<(String, Option<Bytes>)>;

/// The newest version of each reference. A cut looks up in what was the newest when it began.
#[derive(Clone, Default)]
pub struct References(Arc<RwLock<BTreeMap<Arc<str>, Arc<Version>>>>);

impl References {
    /// Gives the version before.
    pub fn publish(&self, version: Arc<Version>) -> Option<Arc<Version>> {
        let mut newest = self.0.write().unwrap_or_else(PoisonError::into_inner);
        newest.insert(version.reference.name.clone(), version)
    }

    pub fn newest(&self) -> Vec<Arc<Version>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

pub struct TablesLane {
    topic: Arc<str>,
    references: References,
    keep_raw: bool,
    tables: Tables,
    /// Of a topic with `unique`.
    judge: Option<Judge>,
    hashing: Option<Hashing>,
    dead_letters: Vec<DeadLetter>,
    dead_bytes: usize,
    /// Records admitted, counted before anything looked into them: the other side of C-2.
    records: BTreeMap<Partition, u64>,
    /// To be recorded with the open cut.
    advances: BTreeMap<(Partition, Offset), EventTime>,
}

/// One cut of the tables, ready to commit.
pub struct Job {
    pub cut: Cut,
    pub late: BTreeMap<Arc<str>, u64>,
    pub misses: BTreeMap<Arc<str>, u64>,
}

impl TablesLane {
    /// `keys_memory`: bytes for the keys that `unique` remembers.
    pub fn new(
        topic: &Topic,
        models: &[Arc<Model>],
        references: References,
        keys_memory: usize,
    ) -> Result<Self> {
        let mut tables = Tables::new(topic, models)?;
        references.newest().iter().for_each(|version| tables.look_up_in(version));
        Ok(Self {
            topic: topic.name.clone(),
            references,
            keep_raw: topic.keep_raw,
            tables,
            judge: topic.unique.as_ref().map(|unique| {
                Judge::new(unique.within, topic.max_disorder, keys_memory / KEY_BYTES)
            }),
            hashing: Hashing::new(topic),
            dead_letters: Vec::new(),
            dead_bytes: 0,
            records: BTreeMap::new(),
            advances: BTreeMap::new(),
        })
    }

    /// False: what comes is without the record's own bytes.
    pub fn keep_raw(&mut self, keep: bool) {
        self.keep_raw = keep;
    }

    pub fn outputs(&self) -> Vec<Output> {
        self.tables.outputs()
    }

    pub fn adopt(
        &mut self,
        marks: &[(Output, Partition, Mark)],
        advances: &[IdleAdvance],
        memory: &Memory,
    ) {
        if let Some(judge) = &mut self.judge {
            judge.adopt(marks, advances, memory);
        }
        self.tables.adopt(marks, advances);
    }

    pub fn advance(&mut self, advance: IdleAdvance) {
        // By what moves the watermark a key is forgotten, record or not.
        if let Some(judge) = &mut self.judge {
            judge.hear(&[(advance.partition, advance.event_time)]);
        }
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
        if let Some(judge) = &mut self.judge {
            judge.abandon();
        }
        self.tables.abandon()?;
        self.renew_references();
        Ok(())
    }

    /// Between two cuts.
    pub fn renew_references(&mut self) {
        for version in self.references.newest() {
            self.tables.look_up_in(&version);
        }
    }

    /// Of the open cut.
    pub fn memory(&self) -> usize {
        let verdicts = self.judge.as_ref().map_or(0, Judge::open_bytes);
        self.tables.memory() + self.dead_bytes + verdicts
    }

    /// Keys and verdicts that are remembered from cut to cut; None: there is no judge.
    pub fn keys_memory(&self) -> Option<usize> {
        self.judge.as_ref().map(Judge::memory)
    }

    /// The open cut takes a key that another process took before.
    pub fn is_contested(&self) -> bool {
        self.judge.as_ref().is_some_and(Judge::is_contested)
    }

    /// What a commit has found of others.
    pub fn learn(&mut self, memory: &Memory) {
        if let Some(judge) = &mut self.judge {
            judge.learn(memory);
        }
    }

    /// How far other processes have come.
    pub fn hear(&mut self, reached: &[(Partition, EventTime)]) {
        if let Some(judge) = &mut self.judge {
            judge.hear(reached);
        }
    }

    /// Every lane has committed up to here.
    pub fn passed(&mut self, offsets: &[(Partition, Offset)]) {
        if let Some(judge) = &mut self.judge {
            for (partition, offset) in offsets {
                judge.passed(*partition, *offset);
            }
        }
    }

    /// The verdicts on these offsets, for the lake.
    pub fn duplicates(&self, partition: Partition, from: i64, to: Offset) -> Result<Vec<i64>> {
        match &self.judge {
            Some(judge) => judge.duplicates(partition, from, to),
            None => Ok(Vec::new()),
        }
    }

    /// `headers`: of the record with this index; only of those that become dead letters.
    pub fn admit(
        &mut self,
        headers: impl Fn(usize) -> Headers,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) -> Result<()> {
        counting::add(&mut self.records, records, from);
        let duplicates = self.verdicts(decoded, from)?;
        let refusals = self.tables.admit(records, decoded, from, &duplicates)?;
        self.keep_letters(&headers, records, refusals);
        Ok(())
    }

    /// Good records that were taken by a retry when they came first: each is judged by the event time given
    /// for it, and raises no watermark.
    pub fn admit_retried(
        &mut self,
        headers: impl Fn(usize) -> Headers,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        before: &[Option<EventTime>],
        from: &[(Partition, Offset)],
    ) -> Result<()> {
        counting::add(&mut self.records, records, from);
        let duplicates = self.verdicts(decoded, from)?;
        let refusals = self.tables.admit_retried(decoded, before, &duplicates)?;
        self.keep_letters(&headers, records, refusals);
        Ok(())
    }

    fn verdicts(&mut self, decoded: &Decoded, from: &[(Partition, Offset)]) -> Result<Vec<bool>> {
        match (&mut self.judge, &self.hashing) {
            (Some(judge), Some(hashing)) => judge.judge(hashing, decoded, from),
            (Some(_), None) | (None, _) => Ok(Vec::new()),
        }
    }

    fn keep_letters(
        &mut self,
        headers: &impl Fn(usize) -> Headers,
        records: &[RawRecord<'_>],
        refusals: Vec<Refusal>,
    ) {
        for refusal in refusals {
            let letter = dead_letter(headers, records, refusal, self.keep_raw);
            self.dead_bytes += letter.memory();
            self.dead_letters.push(letter);
        }
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
        let mut uses = Vec::new();
        for (output, version) in self.tables.versions() {
            uses.extend(moves.iter().filter(|moved| moved.output == output).map(|moved| {
                ReferenceUse {
                    output: output.clone(),
                    partition: moved.partition,
                    from: moved.span.from,
                    reference: version.reference.name.clone(),
                    version: version.id.clone(),
                }
            }));
        }
        self.renew_references();
        let records = std::mem::take(&mut self.records);
        let advances = counting::advances(&self.topic, moves, &counts, &records);
        let mut yields: Vec<Yield> =
            sealed.tables.into_iter().map(|(model, delta)| Yield::Table { model, delta }).collect();
        if !self.dead_letters.is_empty() {
            yields.push(Yield::DeadLetters(std::mem::take(&mut self.dead_letters)));
        }
        if let Some(judge) = &mut self.judge {
            let verdicts = judge.seal();
            if !verdicts.is_empty() {
                yields.push(Yield::Verdicts(verdicts));
            }
        }
        if !uses.is_empty() {
            yields.push(Yield::References(uses));
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
        let cut = Cut { topic: self.topic.clone(), topic_id: None, advances, yields };
        Ok(Job { cut, late: sealed.late, misses: sealed.misses })
    }
}

impl Job {
    /// What the metrics count of it once it is committed.
    pub fn count(&self) {
        let topic = self.cut.topic.to_string();
        for (model, rows) in &self.late {
            metrics::counter!("highwater_late_total", "topic" => topic.clone(),
                "model" => model.to_string())
            .increment(*rows);
        }
        for (model, rows) in &self.misses {
            metrics::counter!("highwater_reference_misses_total", "topic" => topic.clone(),
                "model" => model.to_string())
            .increment(*rows);
        }
        for advance in &self.cut.advances {
            if let Output::Model(model) = &advance.output
                && advance.fates.filtered > 0
            {
                metrics::counter!("highwater_filtered_total", "topic" => topic.clone(),
                    "model" => model.to_string())
                .increment(advance.fates.filtered);
            }
            if advance.output == Output::DeadLetters && advance.fates.duplicate > 0 {
                metrics::counter!("highwater_duplicates_total", "topic" => topic.clone())
                    .increment(advance.fates.duplicate);
            }
        }
    }
}

fn dead_letter(
    headers: &impl Fn(usize) -> Headers,
    records: &[RawRecord<'_>],
    refusal: Refusal,
    keep_raw: bool,
) -> DeadLetter {
    let record = &records[refusal.record];
    let raw = || Raw {
        key: record.key.map(Bytes::copy_from_slice),
        value: record.value.map(Bytes::copy_from_slice),
        headers: headers(refusal.record),
    };
    DeadLetter {
        raw: keep_raw.then(raw),
        output: refusal.output,
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        class: refusal.class.as_str(),
        column: refusal.column,
        reason: refusal.reason,
        refused_by: refusal.refused_by,
    }
}

/// What the lake refuses: the letters of decode, once more and without the record. The lane of
/// tables, which may be behind or ahead, keeps that.
pub fn lake_refusals<'a>(
    records: &'a [RawRecord<'_>],
    decoded: &'a Decoded,
    from: &'a [(Partition, Offset)],
) -> impl Iterator<Item = DeadLetter> + 'a {
    let letter = |reject: &Reject| {
        let record = &records[reject.record];
        let (_, floor) = from.iter().find(|(p, _)| *p == record.partition)?;
        (record.offset >= floor.0).then(|| lake_refusal(record, reject))
    };
    decoded.rejects.iter().filter_map(letter)
}

pub fn lake_refusal(record: &RawRecord<'_>, reject: &Reject) -> DeadLetter {
    DeadLetter {
        output: Output::DeadLetters,
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        class: reject.class.as_str(),
        column: reject.column.clone(),
        reason: reject.reason.clone(),
        raw: None,
        refused_by: vec![(Output::Lake, None)],
    }
}

/// What the lake counts: it takes every good record, and leaves out what says nothing of a row.
pub fn lake_counts(
    counts: &mut BTreeMap<(Output, Partition), Counted>,
    records: &[RawRecord<'_>],
    decoded: &Decoded,
    from: &[(Partition, Offset)],
) {
    let mut rejects = decoded.rejects.iter().peekable();
    let mut empty = decoded.empty.iter().peekable();
    let mut rows = decoded.rows_by_record();
    let mut index = 0;
    for run in records.chunk_by(|a, b| a.partition == b.partition) {
        let partition = run[0].partition;
        let floor = from.iter().find(|(p, _)| *p == partition).map(|(_, floor)| floor.0);
        let mut counted = Counted::default();
        for record in run {
            let rejected = rejects.next_if(|r| r.record == index).is_some();
            let is_empty = empty.next_if(|e| **e == index).is_some();
            let rows = if rejected || is_empty { None } else { rows.next() };
            if floor.is_some_and(|floor| record.offset >= floor) {
                if rejected {
                    counted.fates.dead += 1;
                } else if let Some(rows) = rows {
                    counted.fates.accepted += 1;
                    let time = decoded.event_times[rows].iter().copied().max();
                    counted.event_time_max = counted.event_time_max.max(time);
                } else {
                    counted.fates.filtered += 1;
                }
            }
            index += 1;
        }
        if counted != Counted::default() {
            held::add(counts, partition, counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog,
        compute::unique::Key,
        record::{Epoch, Fates},
    };

    /// Before the commit, too: what comes next is judged as after it.
    #[test]
    fn the_judge_hears_the_clock_of_an_idle_partition() {
        let topic = "topic = \"events\"\nformat = \"json\"\nunique = [\"id\"]\nwithin = \"1s\"\n\
                     max_disorder = \"1s\"\nidle = \"1s\"\n[columns]\nid = \"text\"\n";
        let files = [("topics/events.toml".into(), topic.to_owned())];
        let topic = catalog::check(&files, &[]).unwrap().topics["events"].clone();
        let mut lane = TablesLane::new(&topic, &[], References::default(), 1 << 20).unwrap();
        let mark = Mark {
            first: Offset(0),
            next: Offset(3),
            epoch: Epoch(1),
            event_time_max: Some(EventTime(0)),
            fates: Fates::default(),
            sequence: 0,
        };
        let (partition, key, second) = (Partition(0), Key(7), 1_000_000);
        let keys = vec![(key, partition, EventTime(2 * second))];
        let memory = Memory { keys, ..Memory::default() };
        lane.adopt(&[(Output::DeadLetters, partition, mark)], &[], &memory);
        let mut is_duplicate = |advance_to: i64| {
            let event_time = EventTime(advance_to);
            lane.advance(IdleAdvance { partition, before: Offset(3), event_time });
            let judge = lane.judge.as_mut().unwrap();
            judge.verdict(partition, 3, EventTime(0), key)
        };
        assert!(is_duplicate(2 * second - 1));
        assert!(!is_duplicate(2 * second), "forgotten");
    }
}
