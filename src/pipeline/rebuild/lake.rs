//! ⇄ What Kafka has no more, read for a rebuild from the lake's files.
//!
//! Owns: rows of the lake as the records that they were made of; what the lake cannot give. Does not own: cuts and
//! their commits (`rebuild`), which files there are (the manifest), their bytes (`lake::reader`).
//!
//! A row of the lake is what decode made of a record, with its place; so an offset that the lake has passed is
//! one of these: a row; refused by decode, which stands among the refusals; nothing of a row (`filtered`) or
//! no record at all (`absent`). Which of the last two, the lake's totals say: they are told apart only where one
//! of them is zero. The record's own bytes the lake has not: a letter of its own that a model writes here has
//! none, and where the live output has the letter already, that one stays.
//!
//! The files go by in order of their cuts, rows of retries among those of the cut that passed them. Memory: the
//! rows of one cut, and all rows of retries that are to be read.

use super::{Open, Rebuilder};
use crate::{
    catalog::Topic,
    compute::{
        lookup::Version,
        places,
        read_back::{decoded, in_order},
    },
    decode::{Decoded, Reject, RejectClass},
    error::{Error, Result},
    lake::reader,
    record::{EventTime, Offset, Output, Partition, RawRecord, Span},
    warehouse::{
        rebuild::{Change, Standing},
        snapshot::ManifestFile,
    },
};
use arrow::{
    array::{AsArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::TimestampMicrosecondType,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

/// Rows given to the lane at a time.
const ROWS: usize = 8_192;

/// Whether the lake has all of a partition's offsets from the first to where Kafka begins, as it is needed.
pub(super) fn can_give(
    topic: &Topic,
    standing: &Standing,
    partition: Partition,
    (first, to): (Offset, Offset),
) -> Result<()> {
    let place = format!("{}/{}", topic.name, partition.0);
    let refused = |why: String| {
        Err(Error::config(format!(
            "Kafka has the records of {place} below {} no more, and the lake cannot give them: {why}. The live table \
             stays as it is",
            to.0
        )))
    };
    if topic.lake.is_none() {
        return refused("the topic has none".into());
    }
    if topic.batched {
        return refused(
            "its records may be several rows (batched), which are not put together again".into(),
        );
    }
    if topic.unique.is_some() {
        return refused(
            "duplicates (unique) are filtered out of it, and they raise the watermark".into(),
        );
    }
    if topic.followed().is_some() {
        return refused("its rows are changes, of which it does not keep the whole images".into());
    }
    let Some(row) = standing.of(&Output::Lake).find(|m| m.partition == partition) else {
        return refused("it has nothing of this partition".into());
    };
    let mark = row.mark;
    if mark.first > first || mark.next < to || row.generation > 1 || mark.fates.lost > 0 {
        return refused(format!(
            "it holds {}..{}{}",
            mark.first.0,
            mark.next.0,
            if mark.fates.lost > 0 { ", without offsets that were accepted as lost" } else { "" }
        ));
    }
    if mark.fates.filtered > 0 && mark.fates.absent > 0 {
        return refused(format!(
            "of {} records that say nothing of a row and {} offsets without a record it does not tell which are \
             which",
            mark.fates.filtered, mark.fates.absent
        ));
    }
    Ok(())
}

/// Offsets that are to be read, by partition.
type Ends = BTreeMap<Partition, Offset>;

impl Rebuilder {
    /// How far the lake is read; elsewhere nothing is.
    pub(super) fn in_lake_until(&self, bounds: &Ends) -> Ends {
        let until = |(p, to): (&Partition, &Offset)| {
            let begins = self.of_lake.get(p).copied().unwrap_or(Offset(0));
            (*p, begins.min(*to))
        };
        bounds.iter().map(until).collect()
    }

    pub(super) async fn read_lake(
        &mut self,
        standing: &Standing,
        uses: &BTreeMap<(Partition, Offset), Arc<Version>>,
        positions: &mut Ends,
        until: &Ends,
        tell: &mut dyn FnMut(&Ends),
    ) -> Result<()> {
        let snapshot = self.warehouse.snapshot().await?;
        let mut files = snapshot.files().await?;
        let not_in_lake = snapshot.not_in_lake().await?;
        snapshot.end().await?;
        let (topic, output) = (&*self.topic.name, self.rebuild.output().to_string());
        // A new output would take what any other took.
        let is_new = self.rebuild.change == Change::New;
        let has_more = |of: &&(String, String, i64)| of.0 == topic && (is_new || of.1 == output);
        if let Some((_, taker, count)) = not_in_lake.iter().find(has_more) {
            return Err(Error::config(format!(
                "{output} cannot be made from the lake, which refused {count} records that {taker} took: `highwater \
                 dead-letters retry` puts that right"
            )));
        }
        files.retain(|file| *file.topic == *topic);
        self.lane.keep_raw(false);
        while let Some((version, until)) = self.segment(uses, positions, until) {
            if let Some(version) = version {
                self.references.publish(version);
                self.lane.renew_references();
            }
            self.read_files(&files, standing, positions, &until, tell).await?;
        }
        self.lane.keep_raw(self.topic.keep_raw);
        Ok(())
    }

    async fn read_files(
        &mut self,
        files: &[ManifestFile],
        standing: &Standing,
        positions: &mut Ends,
        until: &Ends,
        tell: &mut dyn FnMut(&Ends),
    ) -> Result<()> {
        let epochs = standing.of(&self.rebuild.beside()).map(|m| (m.partition, m.mark.epoch));
        let mut open =
            Open { epochs: epochs.collect(), spans: BTreeMap::new(), since: Instant::now() };
        let wanted = |file: &ManifestFile, positions: &Ends| {
            file.ranges.iter().any(|range| {
                let p = &range.partition;
                let (at, to) = (positions.get(p), until.get(p));
                at.zip(to).is_some_and(|(at, to)| range.span.to > *at && range.span.from < *to)
            })
        };
        let retries = files.iter().filter(|file| file.retry && wanted(file, positions));
        let mut retried = self.rows_of(retries).await?;
        let cuts: Vec<&ManifestFile> = files.iter().filter(|file| !file.retry).collect();
        for cut in cuts.chunk_by(|a, b| a.sequence == b.sequence) {
            if !cut.iter().any(|file| wanted(file, positions)) {
                continue;
            }
            let mut ends = Ends::new();
            for range in cut.iter().flat_map(|file| &file.ranges) {
                let to = until.get(&range.partition).copied().unwrap_or(Offset(0));
                let end = ends.entry(range.partition).or_insert(Offset(0));
                *end = range.span.to.min(to).max(*end);
            }
            let rows = self.rows_of(cut.iter().copied()).await?;
            let rows = in_order(&self.topic, &[rows, retried.clone()])?;
            for (partition, to) in ends {
                self.admit_span(&rows, partition, to, standing, positions, &mut open).await?;
            }
            if self.lane.memory() >= self.memory || open.since.elapsed() >= self.interval {
                self.commit(&mut open).await?;
                tell(positions);
            }
        }
        retried = in_order(&self.topic, &[retried])?;
        for (partition, to) in until {
            self.admit_span(&retried, *partition, *to, standing, positions, &mut open).await?;
        }
        self.commit(&mut open).await?;
        tell(positions);
        Ok(())
    }

    async fn rows_of(&self, files: impl Iterator<Item = &ManifestFile>) -> Result<RecordBatch> {
        let store = self.lake.as_ref().ok_or_else(|| Error::halt("a lake that is not open"))?;
        let mut batches = Vec::new();
        for file in files {
            let bytes = store.read(&file.path).await?;
            if reader::checksum(&bytes) != file.checksum {
                return Err(Error::halt(format!(
                    "{} was altered: `highwater verify` says more. The live table stays as it is",
                    file.path
                )));
            }
            batches.extend(reader::rows(&file.path, bytes, &self.topic)?);
        }
        concat_batches(&self.topic.schema, &batches).map_err(failed)
    }

    /// A partition's offsets from its position to `to`.
    async fn admit_span(
        &mut self,
        rows: &RecordBatch,
        partition: Partition,
        to: Offset,
        standing: &Standing,
        positions: &mut Ends,
        open: &mut Open,
    ) -> Result<()> {
        let Some(&from) = positions.get(&partition).filter(|at| **at < to) else { return Ok(()) };
        let mut lake = standing.of(&Output::Lake).filter(|m| m.partition == partition);
        let lake = lake.next().ok_or_else(|| Error::halt("a lake without a mark"))?;
        let (has_empty, generation) = (lake.mark.fates.filtered > 0, lake.generation);
        let (partitions, offsets) = places(rows);
        let place = |i: usize| (partitions[i], offsets[i]);
        let all: Vec<usize> = (0..rows.num_rows()).collect();
        let begin = all.partition_point(|i| place(*i) < (partition.0, from.0));
        let end = all.partition_point(|i| place(*i) < (partition.0, to.0));
        let refused = self.warehouse.left_out_of_lake(
            &self.topic.name,
            partition,
            generation,
            (from.0, to.0 - 1),
        );
        let refused: BTreeSet<i64> = refused.await?.into_iter().collect();
        let mut at = from;
        let mut start = begin;
        while at < to {
            let stop = end.min(start + ROWS);
            // Up to the first row that is not among these.
            let next = if stop == end { to } else { Offset(offsets[stop]) };
            let piece = rows.slice(start, stop - start);
            self.admit_piece(
                &piece,
                partition,
                Span::new(at, next),
                &refused,
                has_empty,
                standing,
            )?;
            let span = open.spans.entry(partition).or_insert(Span::new(at, at));
            *span = Span::new(span.from, next);
            (at, start) = (next, stop);
        }
        positions.insert(partition, to);
        Ok(())
    }

    fn admit_piece(
        &mut self,
        rows: &RecordBatch,
        partition: Partition,
        span: Span,
        refused: &BTreeSet<i64>,
        has_empty: bool,
        standing: &Standing,
    ) -> Result<()> {
        let from = [(partition, span.from)];
        let (_, offsets) = places(rows);
        let timestamps = rows.column(rows.num_columns() - 1);
        let timestamps = timestamps.as_primitive::<TimestampMicrosecondType>().values();
        let record = |offset, timestamp| RawRecord {
            partition,
            offset,
            timestamp: EventTime(timestamp),
            key: None,
            value: None,
        };
        let (mut usual, mut again, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for (row, offset) in offsets.iter().enumerate() {
            match standing.retried.get(&(partition, *offset)) {
                Some(judged_by) => {
                    again.push(row as u32);
                    before.push(*judged_by);
                }
                None => usual.push(row as u32),
            }
        }
        let (mut records, mut rejects, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = offsets.iter().zip(timestamps).peekable();
        for offset in span.from.0..span.to.0 {
            if let Some((_, timestamp)) = rest.next_if(|(of, _)| **of == offset) {
                if !standing.retried.contains_key(&(partition, offset)) {
                    records.push(record(offset, *timestamp));
                }
            } else if refused.contains(&offset) {
                // Its letter is there already, with class and reason.
                let (class, reason) = (RejectClass::Malformed, String::new());
                rejects.push(Reject { record: records.len(), class, column: None, reason });
                records.push(record(offset, 0));
            } else if has_empty {
                empty.push(records.len());
                records.push(record(offset, 0));
            }
        }
        if rest.peek().is_some() {
            return Err(Error::halt(format!(
                "{}/{}: the lake holds an offset twice: `highwater verify --deep` says more",
                self.topic.name, partition.0
            )));
        }
        if !records.is_empty() {
            let decoded = self.as_decoded(rows, usual, rejects, empty)?;
            self.lane.admit(|_| Vec::new(), &records, &decoded, &from)?;
        }
        if !again.is_empty() {
            let at = |row: &u32| record(offsets[*row as usize], timestamps[*row as usize]);
            let records: Vec<_> = again.iter().map(at).collect();
            let decoded = self.as_decoded(rows, again, Vec::new(), Vec::new())?;
            self.lane.admit_retried(|_| Vec::new(), &records, &decoded, &before, &from)?;
        }
        Ok(())
    }

    /// Rows as they were when they were decoded.
    fn as_decoded(
        &self,
        rows: &RecordBatch,
        wanted: Vec<u32>,
        rejects: Vec<Reject>,
        empty: Vec<usize>,
    ) -> Result<Decoded> {
        let rows = take_record_batch(rows, &UInt32Array::from(wanted)).map_err(failed)?;
        Ok(Decoded { rejects, empty, ..decoded(&self.topic, rows) })
    }
}

fn failed(error: arrow::error::ArrowError) -> Error {
    Error::halt("put rows of the lake in order").because(error)
}
