//! The lane of the lake: rows to files, files to the store, and the commit that makes them count.
//!
//! Owns: the thread that encodes Parquet, uploads of the open and the sealed cut, publishing.
//! Does not own: when a cut ends (`worker`), names and bytes of files (`lake`).
//!
//! SUBTLE, the order of steps of one cut:
//! 1. `begin` an upload and *note* it in PostgreSQL, before its first part;
//! 2. put all parts and seal it: whole, in a hidden place;
//! 3. commit: files, their upload ids and tags, and the marks, in one transaction that also
//!    removes the notes;
//! 4. complete the uploads (see `owed`): only now do the files appear;
//! 5. record them as completed.
//!
//! A crash before 3 leaves noted uploads that no mark stands for: whoever takes the partition
//! aborts them. After 3 the files are owed: whoever takes the partition does 4 and 5. With 4
//! before 3, readers would see rows that a restart writes again; without the note of 1, nobody
//! would ever find what a crash left behind.

use super::{
    counting,
    held::{self, Held},
    owed::Owed,
    parts::{Context, News},
    report,
    tables::{lake_counts, lake_refusals},
    worker::{Input, Move, Size},
};
use crate::{
    catalog::Topic,
    compute::Counted,
    cut::{Advance, Cut, DeadLetter, LakeFile, UploadId, Yield},
    decode::Decoded,
    error::{Error, Result},
    lake::{
        layout::{FileName, Origin},
        store::Store,
        writer::{Finished, LakeWriter, WriterSettings},
    },
    record::{Epoch, EventTime, Lane, Mark, Offset, Output, Partition, RawRecord},
    warehouse::Unfinished,
};
use arrow::array::RecordBatch;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};
use tokio::{sync::mpsc as channel, task::JoinSet};

/// Batches that may wait for the encoder; at the limit the topic stops fetching.
const WAITING_BATCHES: usize = 4;
/// Files of one cut that are uploaded at the same time.
const FILES_AT_ONCE: usize = 16;

/// The driver's end of the lane.
pub struct LakeLane {
    topic: Arc<str>,
    counts: BTreeMap<(Output, Partition), Counted>,
    event_time_max: BTreeMap<Partition, Option<EventTime>>,
    records: BTreeMap<Partition, u64>,
    pub(super) held: Held,
    refused: Vec<DeadLetter>,
    refused_bytes: usize,
    orders: mpsc::Sender<Order>,
    load: Arc<Load>,
    /// Bytes that may be on their way to the store; half as many may wait for the encoder.
    memory_max: usize,
    owed: Owed,
    encoder: Option<std::thread::JoinHandle<()>>,
}

/// What the encoder tells of itself.
#[derive(Default)]
struct Load {
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    memory: AtomicUsize,
    largest_file: AtomicU64,
    files: AtomicUsize,
    /// Bytes on their way to the store.
    uploading: AtomicUsize,
}

enum Order {
    Open { cut: u64, name: FileName },
    Admit { rows: RecordBatch, event_times: Vec<EventTime>, bytes: usize },
    Seal { cut: u64, advances: Vec<Advance>, refused: Vec<DeadLetter> },
    Abandon,
}

impl LakeLane {
    pub fn start(
        topic: Arc<Topic>,
        store: Store,
        settings: WriterSettings,
        context: Context,
    ) -> Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let load = Arc::new(Load::default());
        let memory_max = settings.memory_bytes_max;
        let owed = Owed::new(topic.name.clone(), store.clone(), context.clone());
        let encoder = Encoder {
            topic: topic.clone(),
            store,
            settings,
            context,
            load: load.clone(),
            owed: owed.clone(),
            open: None,
        };
        let thread = std::thread::Builder::new()
            .name(format!("lake-{}", topic.name))
            .spawn(move || encoder.run(&inbox))
            .map_err(|e| Error::halt("start the lake's encoder").because(e))?;
        Ok(Self {
            topic: topic.name.clone(),
            counts: BTreeMap::new(),
            event_time_max: BTreeMap::new(),
            records: BTreeMap::new(),
            held: Held::default(),
            refused: Vec::new(),
            refused_bytes: 0,
            orders,
            load,
            memory_max,
            owed,
            encoder: Some(thread),
        })
    }

    pub fn adopt(&mut self, marks: &[(Output, Partition, Mark)]) {
        for (_, partition, mark) in marks {
            self.event_time_max.insert(*partition, mark.event_time_max);
            self.held.forget(*partition);
        }
    }

    pub fn abandon(&mut self) {
        self.counts.clear();
        self.records.clear();
        self.refused.clear();
        self.refused_bytes = 0;
        self.event_time_max.clear();
        self.held.clear();
        self.order(Order::Abandon);
    }

    pub fn open(
        &mut self,
        cut: u64,
        sequence: i64,
        partition: Partition,
        from: Offset,
        epoch: Epoch,
    ) {
        let name = FileName { sequence, partition, from, epoch, origin: Origin::Cut };
        self.order(Order::Open { cut, name });
    }

    pub fn admit(
        &mut self,
        records: &[RawRecord<'_>],
        decoded: &Decoded,
        from: &[(Partition, Offset)],
    ) -> Result<()> {
        counting::add(&mut self.records, records, from);
        lake_counts(&mut self.counts, records, decoded, from);
        for letter in lake_refusals(records, decoded, from) {
            self.refuse(letter);
        }
        let (rows, event_times) = held::at_or_above(decoded, from)?;
        self.encode(rows, event_times);
        Ok(())
    }

    pub(super) fn refuse(&mut self, letter: DeadLetter) {
        self.refused_bytes += letter.memory();
        self.refused.push(letter);
    }

    pub(super) fn count(&mut self, partition: Partition, records: u64, counted: Counted) {
        *self.records.entry(partition).or_default() += records;
        held::add(&mut self.counts, partition, counted);
    }

    pub(super) fn encode(&mut self, rows: RecordBatch, event_times: Vec<EventTime>) {
        if rows.num_rows() > 0 {
            let bytes = rows.get_array_memory_size();
            self.load.waiting.fetch_add(1, Ordering::Relaxed);
            self.load.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.order(Order::Admit { rows, event_times, bytes });
        }
    }

    pub fn seal(&mut self, cut: u64, moves: Vec<Move>) {
        let mut counts = std::mem::take(&mut self.counts);
        for moved in &moves {
            let counted = counts.entry((Output::Lake, moved.partition)).or_default();
            let max = self.event_time_max.entry(moved.partition).or_default();
            *max = (*max).max(counted.event_time_max);
            counted.event_time_max = *max;
        }
        let records = std::mem::take(&mut self.records);
        let advances = counting::advances(&self.topic, moves, &counts, &records);
        let refused = std::mem::take(&mut self.refused);
        self.refused_bytes = 0;
        self.order(Order::Seal { cut, advances, refused });
    }

    pub fn size(&self) -> Size {
        Size {
            memory: self.load.memory.load(Ordering::Relaxed) + self.refused_bytes,
            largest_file: self.load.largest_file.load(Ordering::Relaxed),
            files: self.load.files.load(Ordering::Relaxed),
        }
    }

    /// Bytes that wait for the encoder, that it holds, and on their way to the store.
    pub fn memory(&self) -> usize {
        let load = &self.load;
        let encoding = load.memory.load(Ordering::Relaxed);
        let waiting = load.waiting_bytes.load(Ordering::Relaxed);
        waiting + encoding + load.uploading.load(Ordering::Relaxed) + self.refused_bytes
    }

    /// Whether there is room for another batch.
    pub fn is_ready(&self) -> bool {
        self.load.waiting.load(Ordering::Relaxed) < WAITING_BATCHES
            && self.load.waiting_bytes.load(Ordering::Relaxed) <= self.memory_max / 2
            && self.load.uploading.load(Ordering::Relaxed) < self.memory_max
    }

    /// Committed files that readers do not see yet, and what else is to be tidied.
    pub fn owed(&self) -> &Owed {
        &self.owed
    }

    fn order(&self, order: Order) {
        // The encoder ends only with its inbox; were it gone, its panic has stopped the topic.
        let _ = self.orders.send(order);
    }
}

impl Drop for LakeLane {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.orders = closed;
        if let Some(thread) = self.encoder.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that encodes.
struct Encoder {
    topic: Arc<Topic>,
    store: Store,
    settings: WriterSettings,
    context: Context,
    load: Arc<Load>,
    owed: Owed,
    open: Option<OpenLake>,
}

struct OpenLake {
    cut: u64,
    writer: LakeWriter,
    uploads: Uploads,
}

impl Encoder {
    fn run(mut self, inbox: &mpsc::Receiver<Order>) {
        while let Ok(order) = inbox.recv() {
            let cut = self.open.as_ref().map(|open| open.cut);
            if let Err(error) = self.follow(order)
                && let Some(cut) = cut
            {
                self.open = None;
                self.context.fail(Lane::Lake, cut, &error);
            }
            self.measure();
        }
    }

    fn follow(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Open { cut, name } => {
                let writer = LakeWriter::new(self.topic.clone(), self.settings.clone(), name);
                let noted_for = (name.partition, name.epoch);
                let uploads = Uploads::new(self, cut, noted_for);
                self.open = Some(OpenLake { cut, writer, uploads });
                Ok(())
            }
            Order::Admit { rows, event_times, bytes } => {
                self.load.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.load.waiting.fetch_sub(1, Ordering::Relaxed);
                // Who found no room sleeps until there is some.
                self.context.tell(News::Room);
                // Failed a moment ago: the worker will hear of it and abandon.
                let Some(open) = &mut self.open else { return Ok(()) };
                open.writer.append(&rows, &event_times)?;
                for part in open.writer.take_parts() {
                    open.uploads.put(part.file, &part.path, part.bytes);
                }
                Ok(())
            }
            Order::Seal { cut, advances, refused } => match self.open.take() {
                Some(open) if open.cut == cut => self.publish(open, advances, refused),
                Some(_) | None => Ok(()),
            },
            Order::Abandon => {
                self.open = None;
                Ok(())
            }
        }
    }

    fn publish(
        &mut self,
        open: OpenLake,
        advances: Vec<Advance>,
        refused: Vec<DeadLetter>,
    ) -> Result<()> {
        let OpenLake { cut, writer, mut uploads } = open;
        let finished = match writer.finish() {
            Ok(finished) => finished,
            Err(error) => {
                self.context.fail(Lane::Lake, cut, &error);
                return Ok(());
            }
        };
        for file in &finished {
            if let Some(last) = &file.last {
                uploads.put(file.file, &file.path, last.clone());
            }
        }
        let publication = Publication {
            cut,
            advances,
            refused,
            finished,
            topic: self.topic.clone(),
            context: self.context.clone(),
            owed: self.owed.clone(),
        };
        self.context.runtime.spawn(publication.run(uploads));
        Ok(())
    }

    fn measure(&self) {
        let (memory, largest, files) = match &self.open {
            Some(open) => {
                (open.writer.memory(), open.writer.largest_file_bytes(), open.writer.open_files())
            }
            None => (0, 0, 0),
        };
        self.load.memory.store(memory, Ordering::Relaxed);
        self.load.largest_file.store(largest, Ordering::Relaxed);
        self.load.files.store(files, Ordering::Relaxed);
    }
}

/// One task per file of a cut, so that its parts go in order and files go side by side.
struct Uploads {
    files: BTreeMap<usize, channel::UnboundedSender<Bytes>>,
    tasks: JoinSet<Result<(usize, UploadId, Vec<String>)>>,
    target: UploadTarget,
}

#[derive(Clone)]
struct UploadTarget {
    cut: u64,
    topic: Arc<str>,
    /// The partition and epoch that the uploads stand and fall with.
    noted_for: (Partition, Epoch),
    store: Store,
    context: Context,
    load: Arc<Load>,
    slots: Arc<tokio::sync::Semaphore>,
}

impl Uploads {
    fn new(encoder: &Encoder, cut: u64, noted_for: (Partition, Epoch)) -> Self {
        let target = UploadTarget {
            cut,
            topic: encoder.topic.name.clone(),
            noted_for,
            store: encoder.store.clone(),
            context: encoder.context.clone(),
            load: encoder.load.clone(),
            slots: Arc::new(tokio::sync::Semaphore::new(FILES_AT_ONCE)),
        };
        Self { files: BTreeMap::new(), tasks: JoinSet::new(), target }
    }

    fn put(&mut self, file: usize, path: &str, bytes: Bytes) {
        let target = &self.target;
        let tasks = &mut self.tasks;
        let parts = self.files.entry(file).or_insert_with(|| {
            let (sender, parts) = channel::unbounded_channel();
            let upload = target.clone().upload(file, path.to_owned(), parts);
            tasks.spawn_on(upload, &target.context.runtime);
            sender
        });
        target.load.uploading.fetch_add(bytes.len(), Ordering::Relaxed);
        if let Err(refused) = parts.send(bytes) {
            // Its task failed and has said so.
            target.load.uploading.fetch_sub(refused.0.len(), Ordering::Relaxed);
        }
    }
}

/// Bytes counted as uploading until dropped, however the task ends.
struct InFlight<'a>(&'a Load, usize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.uploading.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Parts not yet taken when a task ends count no longer.
struct Parts {
    waiting: channel::UnboundedReceiver<Bytes>,
    load: Arc<Load>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.waiting.close();
        while let Ok(bytes) = self.waiting.try_recv() {
            self.load.uploading.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

impl UploadTarget {
    async fn upload(
        self,
        file: usize,
        path: String,
        parts: channel::UnboundedReceiver<Bytes>,
    ) -> Result<(usize, UploadId, Vec<String>)> {
        let mut parts = Parts { waiting: parts, load: self.load.clone() };
        let result = self.put_all(&path, &mut parts.waiting).await;
        if let Err(error) = &result {
            self.context.fail(Lane::Lake, self.cut, error);
        }
        let (upload, tags) = result?;
        Ok((file, upload, tags))
    }

    async fn put_all(
        &self,
        path: &str,
        parts: &mut channel::UnboundedReceiver<Bytes>,
    ) -> Result<(UploadId, Vec<String>)> {
        let mut begun: Option<UploadId> = None;
        let mut tags = Vec::new();
        while let Some(bytes) = parts.recv().await {
            let _counted = InFlight(&self.load, bytes.len());
            let _slot = self.slots.acquire().await.expect("never closed");
            let started = Instant::now();
            let upload = match &begun {
                Some(upload) => upload,
                None => {
                    let upload = self.store.begin(path).await?;
                    let (partition, epoch) = self.noted_for;
                    let warehouse = &self.context.warehouse;
                    warehouse.note_upload(&self.topic, path, &upload, partition, epoch).await?;
                    begun.insert(upload)
                }
            };
            tags.push(self.store.put_part(path, upload, tags.len(), bytes).await?);
            let seconds = started.elapsed().as_secs_f64();
            metrics::histogram!("highwater_upload_seconds", "topic" => self.topic.to_string())
                .record(seconds);
        }
        let upload = begun.ok_or_else(|| Error::halt(format!("{path} has no bytes")))?;
        self.store.seal(path, &upload, &tags).await?;
        Ok((upload, tags))
    }
}

/// Steps 2 to 5 of a sealed cut.
struct Publication {
    cut: u64,
    advances: Vec<Advance>,
    refused: Vec<DeadLetter>,
    finished: Vec<Finished>,
    topic: Arc<Topic>,
    context: Context,
    owed: Owed,
}

impl Publication {
    async fn run(mut self, uploads: Uploads) {
        match self.commit(uploads).await {
            Ok(files) => {
                let files = self.owed.owe(files);
                self.context
                    .tell(News::Worker(Input::Committed { lane: Lane::Lake, cut: self.cut }));
                self.count();
                self.owed.publish(files).await;
            }
            Err(error) => {
                self.context.fail(Lane::Lake, self.cut, &error);
                self.owed.drop_abandoned().await;
            }
        }
    }

    async fn commit(&mut self, uploads: Uploads) -> Result<Vec<Unfinished>> {
        let Uploads { files, mut tasks, .. } = uploads;
        // No more parts: the tasks end when they have put what they have.
        drop(files);
        let mut uploaded = BTreeMap::new();
        while let Some(done) = tasks.join_next().await {
            let (file, upload, tags) =
                done.map_err(|e| Error::halt("an upload's task ended").because(e))??;
            uploaded.insert(file, (upload, tags));
        }
        let mut files = Vec::with_capacity(self.finished.len());
        for file in &self.finished {
            let (upload, parts) = uploaded
                .remove(&file.file)
                .ok_or_else(|| Error::halt(format!("{} was not uploaded", file.path)))?;
            files.push(LakeFile {
                path: file.path.clone(),
                upload,
                parts,
                bytes: file.bytes,
                rows: file.rows,
                checksum: file.checksum.clone(),
                ranges: file.ranges.clone(),
                event_time_min: file.event_time_min,
                event_time_max: file.event_time_max,
                schema: file.schema.clone(),
            });
        }
        let owed = files.iter().map(|f| Unfinished {
            path: f.path.clone(),
            upload: f.upload.clone(),
            bytes: f.bytes,
        });
        let owed = owed.collect();
        let mut yields = if files.is_empty() { Vec::new() } else { vec![Yield::Files(files)] };
        if self.topic.unique.is_some() {
            yields.push(Yield::Judged);
        }
        if !self.refused.is_empty() {
            yields.push(Yield::DeadLetters(std::mem::take(&mut self.refused)));
        }
        let (topic, advances) = (self.topic.name.clone(), self.advances.clone());
        let mut cut = Cut { topic, topic_id: None, advances, yields };
        let started = Instant::now();
        self.context.commit(&self.topic.kafka_topic, &mut cut).await?;
        report::committed(&cut.topic, Lane::Lake, &cut, started.elapsed());
        Ok(owed)
    }

    fn count(&self) {
        let topic = self.topic.name.to_string();
        let bytes: u64 = self.finished.iter().map(|f| f.bytes).sum();
        metrics::counter!("highwater_lake_files_total", "topic" => topic.clone())
            .increment(self.finished.len() as u64);
        metrics::counter!("highwater_lake_bytes_total", "topic" => topic).increment(bytes);
    }
}
