//! ⇄ Files of the lake written anew from Kafka, beside those that readers read.
//!
//! Owns: reading the spans, which of their records are rows, pieces. Does not own: which spans ([`reach`]), what
//! stands of it in the warehouse and the swap (`warehouse::rewrite`), when to swap (`ops::replay`).
//!
//! What a rewrite changes is how rows are written: columns, types, personal data, paths, sizes of files. Never
//! which: an offset has a row in the new files if and only if the lake's mark counts it as accepted. What was
//! refused stays a dead letter, which `dead-letters retry` gives to all outputs at once; what today's topic file
//! refuses and the lake has stops the rewrite, since the models hold it too. So no mark moves, and no fate changes.
//!
//! One partition after the other, outside of the group, in *pieces* of as many rows as a cut may hold: files
//! uploaded, sealed and noted, then counted by one transaction with the offsets they stand for. Killed, the
//! next process begins at the piece that is not counted.

pub mod reach;

use super::{held::keep, whole};
use crate::{
    catalog::Topic,
    compute::places,
    cut::UploadId,
    decode::{Decoded, Decoder, Secret},
    error::{Error, Result},
    lake::{
        layout::{FileName, Origin},
        store::Store,
        writer::{LakeWriter, WriterSettings},
    },
    record::{
        EventTime, Offset, Partition, RawRecord, Span,
        gap::{self, PartitionLog, Reason},
    },
    source::kafka::{Fetched, Kafka, TopicReader},
    warehouse::{
        Warehouse,
        rewrite::{Piece, Rewrite, RewriteSpan},
        snapshot::ManifestFile,
    },
};
use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const FETCH_RECORDS: usize = 8_192;
const FETCH_WAIT: Duration = Duration::from_millis(50);
const KAFKA_WAIT: Duration = Duration::from_secs(10);
/// Without a record for this long, Kafka counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(30);
/// Files of a piece that are uploaded at the same time.
const FILES_AT_ONCE: usize = 16;

pub struct Parts {
    pub topic: Arc<Topic>,
    pub secret: Option<Secret>,
    pub warehouse: Warehouse,
    /// Named after the warehouse.
    pub store: Store,
    /// Of this topic; belongs to no group.
    pub kafka: Arc<Kafka>,
    /// Bytes that a piece may hold.
    pub memory: usize,
}

/// One topic's.
pub struct Rewriter {
    parts: Parts,
    reader: TopicReader,
    decoder: Decoder,
    settings: WriterSettings,
}

impl Rewriter {
    pub fn new(parts: Parts) -> Result<Self> {
        let reader = parts.kafka.reader(&parts.topic)?;
        let decoder =
            Decoder::with_schemas(parts.topic.clone(), parts.secret.clone(), reader.schemas());
        let defaults = WriterSettings::default();
        let memory_bytes_max = defaults.memory_bytes_max.min(parts.memory);
        let settings = WriterSettings { memory_bytes_max, ..defaults };
        Ok(Self { parts, reader, decoder, settings })
    }

    /// Writes what is left of it; `tell` hears how many offsets are done after each piece.
    ///
    /// # Errors
    /// `Fenced`: another process goes on with it, or it is over. `Halt`: Kafka or today's topic file has not
    /// what the lake holds. `Retry`, `Unknown`: a service is away; taken anew it goes on.
    pub async fn write(
        &mut self,
        rewrite: &Rewrite,
        files: &[ManifestFile],
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        self.look_into_kafka(&rewrite.spans)?;
        let mut done = rewrite.written();
        tell(done);
        for of in &rewrite.spans {
            let begins = reach::sequences(files, of.partition, of.generation);
            let mut at = of.next;
            self.begin(of.partition, at, of.span.to)?;
            while at < of.span.to {
                let sequence = begins.range(..=at).next_back().map_or(0, |(_, sequence)| *sequence);
                let name = FileName {
                    sequence,
                    partition: of.partition,
                    from: at,
                    epoch: rewrite.epoch,
                    origin: Origin::Rewrite(rewrite.number),
                };
                let topic = self.parts.topic.clone();
                let mut writer = LakeWriter::new(topic, self.settings.clone(), name);
                let span = self.fill(&mut writer, of, at).await?;
                self.same_topic(of)?;
                let files = self.upload(writer, of.partition, rewrite).await?;
                let piece = Piece { partition: of.partition, span, sequence, files };
                let (warehouse, topic) = (&self.parts.warehouse, &self.parts.topic.name);
                warehouse.add_piece(topic, rewrite.epoch, &piece).await?;
                done += span.len();
                at = span.to;
                tell(done);
            }
            self.reader.stop(of.partition);
        }
        Ok(())
    }

    /// Records that it reads, decodes and encodes in a second; nothing is written.
    pub async fn sample(&mut self, spans: &[RewriteSpan], limit: Duration) -> Result<Option<f64>> {
        self.look_into_kafka(spans)?;
        let (started, mut passed) = (Instant::now(), 0);
        let mut first = None;
        for of in spans {
            let mut at = of.next;
            self.begin(of.partition, at, of.span.to)?;
            let (partition, epoch) = (of.partition, crate::record::Epoch(0));
            let name = FileName { sequence: 0, partition, from: at, epoch, origin: Origin::Cut };
            let topic = self.parts.topic.clone();
            let mut writer = LakeWriter::new(topic, self.settings.clone(), name);
            while at < of.span.to && started.elapsed() < limit && !writer.should_end() {
                let next = self.step(&mut writer, of, at).await?;
                if next > at {
                    first.get_or_insert_with(Instant::now);
                }
                passed += next.0 - at.0;
                at = next;
            }
            writer.close()?;
            self.reader.stop(partition);
        }
        let seconds = first.map_or(0.0, |first: Instant| first.elapsed().as_secs_f64());
        Ok((seconds > 0.0 && passed > 0).then(|| passed as f64 / seconds))
    }

    fn log(&self, partition: Partition) -> Result<PartitionLog> {
        let topic = &self.parts.topic.kafka_topic;
        let logs = self.parts.kafka.logs(topic, &[partition], KAFKA_WAIT)?;
        let (_, log) = logs.into_iter().next().ok_or_else(|| {
            Error::halt(format!("Kafka does not know partition {} of {topic}", partition.0))
        })?;
        Ok(log)
    }

    fn look_into_kafka(&self, spans: &[RewriteSpan]) -> Result<()> {
        for of in spans.iter().filter(|of| of.next < of.span.to) {
            let log = self.log(of.partition)?;
            let reason = gap::judge(of.next, of.topic_id, &log);
            let reason = reason.or(gap::judge(of.span.to, of.topic_id, &log));
            let place = format!("{}/{}", self.parts.topic.name, of.partition.0);
            let why = match reason {
                None => continue,
                Some(Reason::Retention) => format!(
                    "of {place} Kafka begins at {}, the files to be replaced at {}. Allowed: --from a later offset, so \
                     that no file of before is touched",
                    log.oldest.0, of.next.0
                ),
                Some(Reason::Truncated) => format!(
                    "of {place} Kafka ends at {}, the files to be replaced at {}",
                    log.end.0, of.span.to.0
                ),
                Some(Reason::Recreated) => format!("{place} was deleted and made again"),
            };
            return Err(Error::halt(format!(
                "the lake's files cannot be written anew from Kafka: {why}. The lake stays as it is"
            )));
        }
        Ok(())
    }

    /// G-3, after the last record: what was read is of the topic that the lake is of.
    fn same_topic(&self, of: &RewriteSpan) -> Result<()> {
        let topic = &self.parts.topic.kafka_topic;
        let now = self.parts.kafka.topic_id(topic, KAFKA_WAIT)?;
        match (of.topic_id, now) {
            (Some(ours), Some(now)) if ours != now => {
                Err(Error::halt(format!("{topic} was deleted and made again while it was read")))
            }
            (_, _) => Ok(()),
        }
    }

    fn begin(&mut self, partition: Partition, at: Offset, to: Offset) -> Result<()> {
        if at < to {
            self.parts.kafka.assign(&self.parts.topic.kafka_topic, &[(partition, at)])?;
            self.reader.seek(partition, at);
        }
        Ok(())
    }

    /// A piece: from `at` on, until the writer has enough or the span ends.
    async fn fill(
        &mut self,
        writer: &mut LakeWriter,
        of: &RewriteSpan,
        from: Offset,
    ) -> Result<Span> {
        let mut at = from;
        let mut heard = Instant::now();
        while at < of.span.to && !writer.should_end() {
            let next = self.step(writer, of, at).await?;
            if next > at {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                let name = &self.parts.topic.name;
                return Err(Error::retry(format!(
                    "read {name}/{}: no record came",
                    of.partition.0
                )));
            }
            at = next;
        }
        Ok(Span::new(from, at))
    }

    /// One fetch; where the next one begins.
    async fn step(
        &mut self,
        writer: &mut LakeWriter,
        of: &RewriteSpan,
        at: Offset,
    ) -> Result<Offset> {
        self.parts.kafka.serve(Duration::ZERO)?;
        let fetched = self.reader.poll(FETCH_RECORDS, FETCH_WAIT)?;
        if fetched.gone.contains(&of.partition) {
            return Err(Error::halt(format!(
                "Kafka has {}/{}@{} no more. The lake stays as it is",
                self.parts.topic.name, of.partition.0, at.0
            )));
        }
        let mut next = at;
        for (partition, passed) in &fetched.passed {
            if *partition == of.partition {
                next = next.max(*passed);
            }
        }
        let records = within(&fetched, of, at);
        // The first one behind the span ends it, too.
        let all = fetched.records();
        let last = all.iter().rfind(|record| record.partition == of.partition);
        next = last.map_or(next, |last| next.max(Offset::after(last.offset)));
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            let (warehouse, topic) = (&self.parts.warehouse, &self.parts.topic.name);
            let between = (first.offset, last.offset);
            let left_out =
                warehouse.left_out_of_lake(topic, of.partition, of.generation, between).await?;
            let decoded = self.decoder.decode(&records);
            let (rows, event_times) = self.rows(&records, &decoded, &left_out)?;
            writer.append(&rows, &event_times)?;
        }
        Ok(next.min(of.span.to))
    }

    /// The rows of what the lake has accepted.
    fn rows(
        &self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        left_out: &[i64],
    ) -> Result<(RecordBatch, Vec<EventTime>)> {
        let is_left_out = |offset: &i64| left_out.binary_search(offset).is_ok();
        let refused =
            |reject: &&crate::decode::Reject| !is_left_out(&records[reject.record].offset);
        if let Some(reject) = decoded.rejects.iter().find(refused) {
            let record = &records[reject.record];
            let column = reject.column.as_ref().map(|c| format!(", column {c}"));
            let name = &self.parts.topic.name;
            return Err(Error::halt(format!(
                "the lake has {name}/{}@{}, which today's topic file refuses ({}{}: {}). Mend the topic file so that it \
                 takes the record. The lake stays as it is",
                record.partition.0,
                record.offset,
                reject.class.as_str(),
                column.unwrap_or_default(),
                reject.reason
            )));
        }
        let (_, offsets) = places(&decoded.rows);
        let wanted = offsets.iter().map(|offset| !is_left_out(offset)).collect();
        keep(&decoded.rows, &decoded.event_times, wanted)
    }

    async fn upload(
        &self,
        writer: LakeWriter,
        partition: Partition,
        rewrite: &Rewrite,
    ) -> Result<Vec<crate::cut::LakeFile>> {
        let Parts { store, warehouse, topic, .. } = &self.parts;
        let epoch = rewrite.epoch;
        stream::iter(whole::parts_of(writer)?)
            .map(|file| async move {
                let note = async |path: &str, upload: &UploadId| {
                    warehouse.note_rewrite_upload(&topic.name, path, upload, partition, epoch).await
                };
                whole::put(store, file, note).await
            })
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect()
            .await
    }
}

/// Records of the span, from `at` on.
fn within<'a>(fetched: &'a Fetched, of: &RewriteSpan, at: Offset) -> Vec<RawRecord<'a>> {
    let inside = |record: &RawRecord<'_>| {
        record.partition == of.partition && (at.0..of.span.to.0).contains(&record.offset)
    };
    fetched.records().into_iter().filter(inside).collect()
}
