//! ⇄ An output made anew from Kafka, beside the live one: reads what the live output has passed, and commits it to
//! the rebuild's own tables and marks.
//!
//! Owns: how far to read, what is followed, when its cuts end. Does not own: its tables and marks, the
//! swap (`warehouse::rebuild`), when to swap (`ops::replay`), what Kafka has no more and the lake has (`lake`).
//!
//! The way of a record is the live one's: the same decoder, lane and commit. Three things differ. It
//! reads outside of the group, so that no partition is taken from anybody. It reads no further than the
//! live marks, below which everything that judges a record stands recorded: verdicts on duplicates,
//! advances of event time, versions of references, what a retry took (B-4). And it is one step after the
//! other, with one cut at a time: a failure leaves its marks where they are, and the next
//! [`Rebuilder::catch_up`] takes them anew (P-4).

mod lake;

use super::{
    tables::{Job, References, TablesLane},
    worker::Move,
};
use crate::{
    catalog::Topic,
    compute::{lookup::Version, unique::Memory},
    cut::Yield,
    decode::{Decoder, Secret},
    error::{Error, Result},
    lake::store::Store,
    record::{
        Epoch, EventTime, Mark, Offset, Output, Partition, RawRecord, Span,
        gap::{self, Gap, Reason},
    },
    source::kafka::{Fetched, Kafka, TopicReader},
    warehouse::{
        Warehouse,
        rebuild::{Change, Rebuild, RetriedPlaces, Standing},
    },
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

const FETCH_RECORDS: usize = 8_192;
const FETCH_WAIT: Duration = Duration::from_millis(50);
const KAFKA_WAIT: Duration = Duration::from_secs(10);
/// Without a record for this long, Kafka counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Parts {
    pub topic: Arc<Topic>,
    pub rebuild: Rebuild,
    /// Loaded already.
    pub references: References,
    pub secret: Option<Secret>,
    pub warehouse: Warehouse,
    /// What Kafka has no more is read from here; None: it is refused.
    pub lake: Option<Store>,
    /// Of this topic; belongs to no group.
    pub kafka: Arc<Kafka>,
    pub owner: String,
    /// Bytes that a cut may hold, and how long it may be open.
    pub memory: usize,
    pub interval: Duration,
}

/// One output's rebuild.
pub struct Rebuilder {
    topic: Arc<Topic>,
    rebuild: Rebuild,
    references: References,
    /// As they were loaded: for records of which no version is noted.
    newest: Option<Arc<Version>>,
    /// Versions of the reference, by id.
    kept: BTreeMap<Arc<str>, Arc<Version>>,
    warehouse: Warehouse,
    kafka: Arc<Kafka>,
    reader: TopicReader,
    decoder: Decoder,
    lane: TablesLane,
    owner: String,
    memory: usize,
    interval: Duration,
    assigned: Vec<Partition>,
    lake: Option<Store>,
    /// Where Kafka begins, of the partitions that are to be read from the lake up to there.
    of_lake: BTreeMap<Partition, Offset>,
}

/// How far it has come, told after each cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Offsets from its beginning: passed, and up to the live marks as they were when it looked.
    pub passed: u64,
    pub all: u64,
}

/// What is read in one version of a reference, if there is one: how far in each partition.
type Segment = (Option<Arc<Version>>, BTreeMap<Partition, Offset>);

/// What is open: by partition, from where the mark stands to where it was read.
struct Open {
    epochs: BTreeMap<Partition, Epoch>,
    spans: BTreeMap<Partition, Span>,
    since: Instant,
}

impl Rebuilder {
    pub fn new(parts: Parts) -> Result<Self> {
        let Parts { topic, rebuild, references, secret, warehouse, kafka, .. } = parts;
        let Parts { owner, memory, interval, lake, .. } = parts;
        let models = [rebuild.shadow.clone()];
        let lane = TablesLane::new(&topic, &models, references.clone(), memory)?;
        let reader = kafka.reader(&topic)?;
        let joined = rebuild.model.join.as_ref().map(|join| join.reference.name.clone());
        let newest =
            references.newest().into_iter().find(|v| joined == Some(v.reference.name.clone()));
        Ok(Self {
            decoder: Decoder::with_schemas(topic.clone(), secret, reader.schemas()),
            topic,
            rebuild,
            references,
            newest,
            kept: BTreeMap::new(),
            warehouse,
            kafka,
            reader,
            lane,
            owner,
            memory,
            interval,
            assigned: Vec::new(),
            lake,
            of_lake: BTreeMap::new(),
        })
    }

    /// Reads and commits up to where the live output stands now; how many offsets that were.
    ///
    /// # Errors
    /// `Fenced`: another process goes on with it, or it is over. `Halt`: Kafka has not what the live
    /// output has read. `Retry`, `Unknown`: a service is away; calling again goes on.
    pub async fn catch_up(&mut self, tell: &mut dyn FnMut(Progress)) -> Result<u64> {
        let standing = self.warehouse.take_rebuild(&self.rebuild, &self.owner).await?;
        let bounds = self.bounds(&standing)?;
        let own: Vec<_> = standing.of(&self.rebuild.beside()).collect();
        let position = |p: Partition| own.iter().find(|m| m.partition == p).map(|m| m.mark.next);
        let mut positions: BTreeMap<Partition, Offset> =
            bounds.keys().filter_map(|p| Some((*p, position(*p)?))).collect();
        let first: i64 = own.iter().map(|m| m.mark.first.0).sum();
        let begun: i64 = positions.values().map(|p| p.0).sum();
        let all = (bounds.values().map(|b| b.0).sum::<i64>() - first) as u64;
        let ahead: Vec<Partition> =
            bounds.iter().filter(|(p, to)| positions[p] < **to).map(|(p, _)| *p).collect();
        if ahead.is_empty() {
            tell(Progress { passed: all, all });
            return Ok(0);
        }
        self.look_into_kafka(&standing, &ahead)?;
        let uses = self.versions_used().await?;
        let mut told = |positions: &BTreeMap<Partition, Offset>| {
            let passed = (positions.values().map(|p| p.0).sum::<i64>() - first) as u64;
            tell(Progress { passed, all });
        };
        told(&positions);
        self.adopt(&standing)?;
        if !self.of_lake.is_empty() {
            let until = self.in_lake_until(&bounds);
            self.read_lake(&standing, &uses, &mut positions, &until, &mut told).await?;
        }
        while let Some((version, bounds)) = self.segment(&uses, &positions, &bounds) {
            // Between two cuts nothing but the version changes: what was seen goes on.
            if let Some(version) = version {
                self.references.publish(version);
                self.lane.renew_references();
            }
            self.read(&standing, &mut positions, &bounds, &mut told).await?;
        }
        Ok((positions.values().map(|p| p.0).sum::<i64>() - begun) as u64)
    }

    /// What is to be read, by partition; the same refusals as those of [`Self::catch_up`].
    pub fn spans(&mut self, standing: &Standing) -> Result<BTreeMap<Partition, Span>> {
        let bounds = self.bounds(standing)?;
        let ahead: Vec<Partition> = bounds.keys().copied().collect();
        self.look_into_kafka(standing, &ahead)?;
        let own = standing.of(&self.rebuild.beside());
        Ok(own.map(|m| (m.partition, Span::new(m.mark.next, bounds[&m.partition]))).collect())
    }

    /// Of what is to be read, offsets that Kafka has no more; after [`Self::spans`].
    pub fn of_lake(&self, spans: &BTreeMap<Partition, Span>) -> u64 {
        let of = spans.iter().filter_map(|(p, span)| {
            let to = self.of_lake.get(p)?.min(&span.to);
            Some((to.0 - span.from.0).max(0) as u64)
        });
        of.sum()
    }

    /// Records that it reads from Kafka, decodes and aggregates in a second; nothing is written.
    pub fn sample(&mut self, standing: &Standing, limit: Duration) -> Result<Option<f64>> {
        let bounds = self.bounds(standing)?;
        self.adopt(standing)?;
        let own = standing.of(&self.rebuild.beside());
        let kafka_begins = |p: Partition| self.of_lake.get(&p).copied().unwrap_or(Offset(0));
        let mut positions: BTreeMap<_, _> =
            own.map(|m| (m.partition, m.mark.next.max(kafka_begins(m.partition)))).collect();
        let begun: i64 = positions.values().map(|at| at.0).sum();
        let mut open =
            Open { epochs: BTreeMap::new(), spans: BTreeMap::new(), since: Instant::now() };
        self.seek(&positions, &bounds);
        let mut first: Option<Instant> = None;
        let started = Instant::now();
        while started.elapsed() < limit
            && self.lane.memory() < self.memory
            && positions.iter().any(|(p, at)| *at < bounds[p])
        {
            self.kafka.serve(Duration::ZERO)?;
            let fetched = self.reader.poll(FETCH_RECORDS, FETCH_WAIT)?;
            if !fetched.is_empty() {
                first.get_or_insert_with(Instant::now);
            }
            self.admit(&fetched, &standing.retried, &mut positions, &bounds, &mut open)?;
        }
        self.lane.abandon()?;
        let passed = positions.values().map(|at| at.0).sum::<i64>() - begun;
        let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        Ok((seconds > 0.0 && passed > 0).then(|| passed as f64 / seconds))
    }

    fn seek(
        &mut self,
        positions: &BTreeMap<Partition, Offset>,
        bounds: &BTreeMap<Partition, Offset>,
    ) {
        for (partition, to) in bounds {
            match positions[partition] < *to {
                true => self.reader.seek(*partition, positions[partition]),
                false => self.reader.stop(*partition),
            }
        }
    }

    /// How far everything that judges is recorded: the live marks, not beyond the judge's.
    fn bounds(&self, standing: &Standing) -> Result<BTreeMap<Partition, Offset>> {
        let mut bounds = BTreeMap::new();
        let is_new = self.rebuild.change == Change::New;
        for live in standing.of(&self.rebuild.leader()) {
            let beside =
                standing.of(&self.rebuild.beside()).find(|m| m.partition == live.partition);
            let later = self.rebuild.since.is_some();
            let begins = |row: &crate::warehouse::MarkRow| {
                is_new
                    || row.mark.first == live.mark.first
                    || later && row.mark.first > live.mark.first
            };
            let same = |row: &&crate::warehouse::MarkRow| {
                (row.generation, row.topic_id) == (live.generation, live.topic_id) && begins(row)
            };
            let place = format!("{}/{}", self.topic.name, live.partition.0);
            let Some(beside) = beside.filter(same) else {
                return Err(Error::halt(format!(
                    "{} of {place} has begun anew since the rebuild began: `highwater replay {} --abort`, \
                     then begin it again",
                    live.output,
                    self.rebuild.output()
                )));
            };
            if !is_new && (live.mark.fates.lost > 0 || live.generation > 1) {
                return Err(Error::halt(format!(
                    "{} holds what Kafka has no more: of {place} offsets were accepted as lost, or the topic was made \
                     again. It cannot be rebuilt from Kafka",
                    self.rebuild.output()
                )));
            }
            let judge = standing.of(&Output::DeadLetters).find(|m| m.partition == live.partition);
            let to = judge.map_or(Offset(0), |judge| judge.mark.next.min(live.mark.next));
            bounds.insert(live.partition, to.max(beside.mark.next));
        }
        Ok(bounds)
    }

    /// That Kafka has what is to be read; then has its client read it.
    fn look_into_kafka(&mut self, standing: &Standing, ahead: &[Partition]) -> Result<()> {
        let logs = self.kafka.logs(&self.topic.kafka_topic, ahead, KAFKA_WAIT)?;
        let mut gaps = Vec::new();
        self.of_lake.clear();
        for (partition, log) in logs {
            let row = standing.of(&self.rebuild.beside()).find(|m| m.partition == partition);
            let Some(row) = row else { continue };
            let (next, topic_id) = (row.mark.next, row.topic_id);
            // Nor may it end below the live mark, up to which it is to be read.
            let live = standing.of(&self.rebuild.leader()).find(|m| m.partition == partition);
            let to = live.map_or(next, |live| live.mark.next);
            let reason = gap::judge(next, topic_id, &log).or(gap::judge(to, topic_id, &log));
            if reason == Some(Reason::Retention) && self.lake.is_some() {
                lake::can_give(
                    &self.topic,
                    standing,
                    partition,
                    (row.mark.first, log.oldest.min(to)),
                )?;
                self.of_lake.insert(partition, log.oldest);
                continue;
            }
            if let Some(reason) = reason {
                let output = self.rebuild.output();
                gaps.push(Gap { output, partition, reason, next, topic_id, log });
            }
        }
        if !gaps.is_empty() {
            let (output, causes) = (self.rebuild.output(), gap::causes(&self.topic.name, &gaps));
            return Err(Error::halt(match self.rebuild.change {
                Change::New => format!(
                    "Kafka has no more what {output} has still to read: {causes}. Where the lake has it, --from-lake reads \
                     it there. Or `highwater replay {output} --abort`, and begin where Kafka begins now"
                ),
                Change::Same | Change::Wider | Change::Changed => format!(
                    "{output} cannot be rebuilt from Kafka, which has not all that it was made of: {causes}. The live \
                     table stays as it is. Where the lake has it, --from-lake reads it there"
                ),
            }));
        }
        let own = standing.of(&self.rebuild.beside());
        let begins = |p| self.of_lake.get(&p).copied().unwrap_or(Offset(0));
        let (partitions, from): (Vec<Partition>, Vec<_>) =
            own.map(|m| (m.partition, (m.partition, m.mark.next.max(begins(m.partition))))).unzip();
        // A client that was sent to where Kafka has nothing stays there.
        if self.assigned != partitions || !self.of_lake.is_empty() {
            self.kafka.assign(&self.topic.kafka_topic, &from)?;
            self.assigned = partitions;
        }
        Ok(())
    }

    /// From which offset on the live output looked up in which version.
    async fn versions_used(&mut self) -> Result<BTreeMap<(Partition, Offset), Arc<Version>>> {
        let mut used = BTreeMap::new();
        let Some(join) = self.rebuild.model.join.clone() else { return Ok(used) };
        let name = &join.reference.name;
        for one in self.warehouse.reference_uses(&self.topic.name).await? {
            if one.output != self.rebuild.output() || one.reference != *name {
                continue;
            }
            if !self.kept.contains_key(&one.version) {
                let content = self.warehouse.reference_content(name, &one.version).await?;
                let version = Version::restored(&join.reference, &one.version, &content)?;
                self.kept.insert(one.version.clone(), Arc::new(version));
            }
            used.insert((one.partition, one.from), self.kept[&one.version].clone());
        }
        Ok(used)
    }

    /// The next piece that is looked up in one version: which, and how far it reaches in each partition.
    /// None: all is read.
    fn segment(
        &self,
        uses: &BTreeMap<(Partition, Offset), Arc<Version>>,
        positions: &BTreeMap<Partition, Offset>,
        bounds: &BTreeMap<Partition, Offset>,
    ) -> Option<Segment> {
        let version_at = |p: Partition, at: Offset| {
            let before = uses.range((p, Offset(i64::MIN))..=(p, at)).next_back();
            before.map(|(_, version)| version).or(self.newest.as_ref()).cloned()
        };
        let (&first, _) = positions.iter().find(|(p, at)| **at < bounds[p])?;
        if self.rebuild.model.join.is_none() {
            return Some((None, bounds.clone()));
        }
        let version = version_at(first, positions[&first])?;
        let reach = |(p, at): (&Partition, &Offset)| {
            let same = version_at(*p, *at).is_some_and(|v| v.id == version.id);
            let after = (*p, Offset::after(at.0))..=(*p, Offset(i64::MAX));
            let other = uses.range(after).next().map(|((_, from), _)| *from);
            let to = if same { other.unwrap_or(bounds[p]).min(bounds[p]) } else { *at };
            (*p, to)
        };
        let reach = positions.iter().map(reach).collect();
        Some((Some(version), reach))
    }

    /// Nothing is open; what comes next is judged from these marks on.
    fn adopt(&mut self, standing: &Standing) -> Result<()> {
        self.lane.abandon()?;
        self.lane.keep_raw(self.topic.keep_raw);
        let mut marks: Vec<(Output, Partition, Mark)> = Vec::new();
        for row in standing.of(&self.rebuild.beside()) {
            marks.push((row.output.clone(), row.partition, row.mark));
            // The letters of decode are written by the live lane: it stands above all that is read.
            let letters = standing.of(&Output::DeadLetters).find(|m| m.partition == row.partition);
            marks.extend(letters.map(|m| (m.output.clone(), m.partition, m.mark)));
        }
        let memory = Memory { verdicts: standing.verdicts.clone(), ..Memory::default() };
        self.lane.adopt(&marks, &standing.advances, &memory);
        Ok(())
    }

    async fn read(
        &mut self,
        standing: &Standing,
        positions: &mut BTreeMap<Partition, Offset>,
        bounds: &BTreeMap<Partition, Offset>,
        tell: &mut dyn FnMut(&BTreeMap<Partition, Offset>),
    ) -> Result<()> {
        let epochs = standing.of(&self.rebuild.beside()).map(|m| (m.partition, m.mark.epoch));
        let mut open =
            Open { epochs: epochs.collect(), spans: BTreeMap::new(), since: Instant::now() };
        self.seek(positions, bounds);
        let mut heard = Instant::now();
        while positions.iter().any(|(p, at)| *at < bounds[p]) {
            self.kafka.serve(Duration::ZERO)?;
            let fetched = self.reader.poll(FETCH_RECORDS, FETCH_WAIT)?;
            if let Some(partition) = fetched.gone.first() {
                // Looked at anew, it is found in the lake.
                let halt = if self.lake.is_some() { Error::retry } else { Error::halt };
                return Err(halt(format!(
                    "Kafka has {}/{}@{} no more: {} cannot be rebuilt from it. The live table stays as it is",
                    self.topic.name,
                    partition.0,
                    positions.get(partition).map_or(0, |at| at.0),
                    self.rebuild.output()
                )));
            }
            if fetched.is_empty() {
                if heard.elapsed() > PATIENCE {
                    let why = fetched.trouble.unwrap_or_else(|| "no record came".to_owned());
                    return Err(Error::retry(format!("read {}: {why}", self.topic.name)));
                }
                continue;
            }
            heard = Instant::now();
            self.admit(&fetched, &standing.retried, positions, bounds, &mut open)?;
            if self.lane.memory() >= self.memory || open.since.elapsed() >= self.interval {
                self.commit(&mut open).await?;
                tell(positions);
            }
        }
        self.commit(&mut open).await?;
        tell(positions);
        Ok(())
    }

    /// What of a fetch lies below the bounds goes into the open cut.
    fn admit(
        &mut self,
        fetched: &Fetched,
        retried: &RetriedPlaces,
        positions: &mut BTreeMap<Partition, Offset>,
        bounds: &BTreeMap<Partition, Offset>,
        open: &mut Open,
    ) -> Result<()> {
        let all = fetched.records();
        let mut usual = Chosen::default();
        let mut again: Vec<(RawRecord<'_>, usize, Option<EventTime>)> = Vec::new();
        let from: Vec<(Partition, Offset)> = positions.iter().map(|(p, at)| (*p, *at)).collect();
        let mut reached: BTreeMap<Partition, Offset> = fetched.passed.iter().copied().collect();
        for (index, record) in all.iter().enumerate() {
            let Some(bound) = bounds.get(&record.partition) else { continue };
            reached.insert(record.partition, Offset::after(record.offset));
            if record.offset >= bound.0 {
                continue;
            }
            // A retry took it: not here, unless decode refuses it again today.
            match retried.get(&(record.partition, record.offset)) {
                Some(before) if self.is_good(record) => again.push((*record, index, *before)),
                Some(_) | None => {
                    usual.records.push(*record);
                    usual.indexes.push(index);
                }
            }
        }
        if !usual.records.is_empty() {
            let headers = |record: usize| fetched.headers(usual.indexes[record]);
            let decoded = self.decoder.decode(&usual.records);
            self.lane.admit(headers, &usual.records, &decoded, &from)?;
        }
        if !again.is_empty() {
            again.sort_by_key(|(record, ..)| (record.partition, record.offset));
            let records: Vec<_> = again.iter().map(|(record, ..)| *record).collect();
            let headers = |record: usize| fetched.headers(again[record].1);
            let decoded = self.decoder.decode(&records);
            // All of them are good, and each of their rows is judged by what came before its record.
            let rows = decoded.rows_by_record().zip(&again);
            let before: Vec<_> =
                rows.flat_map(|(rows, (.., before))| rows.map(|_| *before)).collect();
            self.lane.admit_retried(headers, &records, &decoded, &before, &from)?;
        }
        for (partition, next) in reached {
            let Some(bound) = bounds.get(&partition) else { continue };
            let at = positions.get_mut(&partition).expect("bounds are of the same partitions");
            let to = next.min(*bound).max(*at);
            let span = open.spans.entry(partition).or_insert(Span::new(*at, *at));
            *span = Span::new(span.from, to);
            *at = to;
            if to == *bound {
                self.reader.stop(partition);
            }
        }
        Ok(())
    }

    fn is_good(&mut self, record: &RawRecord<'_>) -> bool {
        !self.decoder.decode(std::slice::from_ref(record)).event_times.is_empty()
    }

    async fn commit(&mut self, open: &mut Open) -> Result<()> {
        let output = self.rebuild.beside();
        let spans = std::mem::take(&mut open.spans);
        let moves: Vec<Move> = spans
            .into_iter()
            .filter(|(_, span)| !span.is_empty())
            .map(|(partition, span)| Move {
                output: output.clone(),
                partition,
                span,
                epoch: open.epochs[&partition],
                sequence: 0,
            })
            .collect();
        open.since = Instant::now();
        if moves.is_empty() {
            return Ok(());
        }
        let Job { mut cut, .. } = self.lane.seal(moves)?;
        // What moves event time is recorded by the live lane, and stays as it is (B-2).
        cut.yields.retain(|one| !matches!(one, Yield::IdleAdvances { .. } | Yield::Verdicts(_)));
        cut.topic_id = self.kafka.topic_id(&self.topic.kafka_topic, KAFKA_WAIT)?;
        self.warehouse.commit(&cut).await.map(drop)
    }
}

/// Records of a fetch, with their places in it.
#[derive(Default)]
struct Chosen<'a> {
    records: Vec<RawRecord<'a>>,
    indexes: Vec<usize>,
}
