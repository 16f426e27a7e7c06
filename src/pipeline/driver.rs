//! ⇄ Clock, threads and tasks: does what the worker decides, and decides nothing.
//!
//! One thread per topic runs the loop: hear the news, let the worker decide, fetch and decode.
//! Everything that waits (PostgreSQL, the store, Kafka's metadata) runs as a task of tokio and
//! answers through the inbox.

use super::{
    breaker::{self, Breaker},
    drift::{Next, Resolved, Watch},
    encoder::LakeLane,
    forward::Forwarder,
    parts::{Lasting, News, Parts},
    report::{self, Reporter, Standing},
    requests::{self, Taking},
    snapshots::Swapper,
    tables::TablesLane,
    worker::{Arrival, Effect, Input, Move, Reason, Ticket, Worker},
};
use crate::{
    catalog::Topic,
    compute::unique::Memory,
    decode::Decoder,
    error::{Error, Kind, Result},
    record::{Lane, Output, Partition, RawRecord},
    source::kafka::{self, Fetched, TopicReader},
    warehouse::Taken,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

/// Records decoded at a time: enough to be fast, few enough to stay in the cache.
const FETCH_RECORDS: usize = 8_192;
/// Longest wait for records, so the longest that other news waits.
const FETCH_WAIT: Duration = Duration::from_millis(50);
const REPORT_EVERY: Duration = Duration::from_secs(1);
const WATERMARKS_EVERY: Duration = Duration::from_secs(5);

/// A running topic.
pub struct Driver {
    topic: Arc<Topic>,
    worker: Worker,
    reader: TopicReader,
    decoder: Decoder,
    breaker: Option<Breaker>,
    tables: TablesLane,
    lake: Option<LakeLane>,
    forwarder: Option<Forwarder>,
    swapper: Option<Swapper>,
    watch: Watch,
    lasting: Lasting,
    inbox: Receiver<News>,
    /// By the group, whatever the worker holds of it.
    assigned: BTreeSet<Partition>,
    /// Asked to end, whatever else is pending.
    leaving: bool,
    /// Revocations not answered yet.
    releases: Vec<(BTreeSet<Partition>, SyncSender<()>)>,
    origin: Instant,
    reporter: Reporter,
    reported: Instant,
    /// When to ask how far event time has come over all processes; one question at a time.
    watermarks_due: Instant,
    asks_watermarks: bool,
    told_caught_up: bool,
    opened: BTreeMap<Lane, (u64, Instant)>,
    /// Came with the take that is just being told to the worker.
    memory: Memory,
}

/// One fetch with what was made of it.
struct Batch<'a> {
    fetched: &'a Fetched,
    records: Vec<RawRecord<'a>>,
    decoded: crate::decode::Decoded,
}

impl Driver {
    pub fn new(parts: Parts) -> Result<Self> {
        let Parts { topic, models, known, lasting, inbox, assigned, numbers } = parts;
        let Lasting { references, secret, store, worker, writer, context, .. } = lasting.clone();
        let tables = TablesLane::new(&topic, &models, references, lasting.keys_memory)?;
        let lake = match (&topic.lake, &store) {
            (Some(_), Some(store)) => {
                Some(LakeLane::start(topic.clone(), store.clone(), writer, context.clone())?)
            }
            (Some(_), None) => {
                let why = format!("topic {} has a lake, but --lake is not set", topic.name);
                return Err(Error::config(why));
            }
            (None, _) => None,
        };
        let forward = |to| Forwarder::start(topic.clone(), to, context.clone());
        let forwarder = topic.forward.clone().map(forward);
        let lanes: &[Lane] =
            if lake.is_some() { &[Lane::Tables, Lane::Lake] } else { &[Lane::Tables] };
        report::register(&topic, &models, lanes, &Kind::ALL.map(Kind::as_str));
        // After its gauges were set to zero.
        let swapper = Swapper::start(topic.clone(), &models, context.clone());
        let mut worker = Worker::new(worker, lanes);
        if let Some(numbers) = numbers {
            worker.number_from(numbers);
        }
        if let Some(targets) = &lasting.targets {
            worker.handle(Input::Targets(targets.clone()));
        }
        if !assigned.is_empty() {
            worker.handle(Input::Assigned(assigned.iter().copied().collect()));
        }
        let reader = context.kafka.reader(&topic)?;
        Ok(Self {
            decoder: Decoder::with_schemas(topic.clone(), secret, reader.schemas()),
            reader,
            breaker: topic.stop_above.map(Breaker::new),
            reporter: Reporter::new(&topic),
            watch: Watch::new(&topic, known, &lasting.catalog),
            releases: Vec::new(),
            origin: Instant::now(),
            reported: Instant::now(),
            watermarks_due: Instant::now(),
            asks_watermarks: false,
            told_caught_up: false,
            opened: BTreeMap::new(),
            memory: Memory::default(),
            leaving: false,
            topic,
            worker,
            tables,
            lake,
            forwarder,
            swapper,
            lasting,
            inbox,
            assigned,
        })
    }

    /// Runs until drained or stopped for good; an error is what stopped it. What it gives goes on.
    pub fn run(mut self) -> Result<Option<Parts>> {
        loop {
            while let Ok(news) = self.inbox.try_recv() {
                self.hear(news)?;
            }
            self.decide(Input::Tick(self.origin.elapsed()), None)?;
            self.report();
            if self.worker.is_drained() {
                if self.watch.is_pending() && !self.leaving && !self.worker.is_stopped() {
                    if self.owes_no_file() {
                        self.watch.resolve(&self.lasting);
                    }
                    if let Some(next) = self.watch.next.take() {
                        return Ok(Some(self.hand_on(*next)));
                    }
                } else if self.owes_nothing() {
                    return self.end().map(|()| None);
                }
            }
            let lake_is_ready = self.lake.as_ref().is_none_or(LakeLane::is_ready);
            if lake_is_ready && self.worker.wants_records() {
                self.fetch()?;
                continue;
            }
            let since = Instant::now();
            let news = self.inbox.recv_timeout(FETCH_WAIT).ok();
            if !lake_is_ready || self.worker.is_over_budget() {
                self.reporter.paused(since.elapsed());
            }
            news.map_or(Ok(()), |news| self.hear(news))?;
        }
    }

    fn end(mut self) -> Result<()> {
        self.publish_status();
        match self.reporter.stopped.take() {
            Some(why) => Err(Error::halt(format!("topic {}: {why}", self.topic.name))),
            None => Ok(()),
        }
    }

    /// For a pipeline that begins anew with what was learned.
    fn hand_on(mut self, next: Next) -> Parts {
        for (_, done) in self.releases.drain(..) {
            // Nothing is held any more.
            let _ = done.try_send(());
        }
        let Next { topic, models, known, lasting } = next;
        let (inbox, assigned, numbers) = (self.inbox, self.assigned, Some(self.worker.numbers()));
        Parts { topic, models, known, lasting, inbox, assigned, numbers }
    }

    fn hear(&mut self, news: News) -> Result<()> {
        let input = match news {
            News::Group(kafka::News::Assigned(partitions)) => {
                self.assigned.extend(&partitions);
                Input::Assigned(partitions)
            }
            News::Group(kafka::News::Revoked(partitions, done)) => {
                for partition in &partitions {
                    self.assigned.remove(partition);
                    self.reader.stop(*partition);
                }
                self.releases.push((partitions.iter().copied().collect(), done));
                Input::Revoked(partitions)
            }
            News::Group(kafka::News::Lost(partitions)) => {
                for partition in &partitions {
                    self.assigned.remove(partition);
                    self.reader.stop(*partition);
                    self.reporter.forget(*partition);
                    self.forget_held(*partition);
                }
                Input::Lost(partitions)
            }
            // The loop asks the lake itself.
            News::Room => return Ok(()),
            News::Halt(why) => Input::Halt { why },
            News::Drain => {
                self.leaving = true;
                Input::Drain
            }
            News::Change(ready) => {
                self.watch.change(ready);
                Input::Drain
            }
            News::Watermarks(told) => {
                self.reporter.watermarks = told.unwrap_or_default();
                self.watermarks_due = Instant::now() + WATERMARKS_EVERY;
                self.asks_watermarks = false;
                return Ok(());
            }
            // a take under way met the definition that is gone on with; then all are taken anew.
            News::Worker(Input::TakeFailed { .. }) if self.watch.stands() => return Ok(()),
            News::Worker(input) => self.note(input),
            // whoever learns of an addition begins anew with it.
            News::Taken { taken, .. } if !self.topic.has_all(taken.additions) => {
                self.watch.begin_anew();
                Input::Drain
            }
            News::Taken { lane, ticket, taken, memory } => {
                let Taken { marks, gaps, advances, .. } = taken;
                self.memory = memory;
                self.decide(Input::Taken { lane, ticket, marks, gaps, advances }, None)?;
                self.memory = Memory::default();
                return self.give_up_contested();
            }
            News::Committed { cut, learned } => {
                // Of a cut that was given up the judge has forgotten the keys.
                if self.worker.is_committing(Lane::Tables, cut) {
                    self.tables.learn(&learned);
                }
                let committed = self.note(Input::Committed { lane: Lane::Tables, cut });
                self.decide(committed, None)?;
                return self.give_up_contested();
            }
            News::Drift(answer) => {
                match answer.map(|resolved| *resolved) {
                    Ok(Resolved::Again(next)) => self.watch.next = Some(next),
                    Ok(Resolved::Stop(why)) => {
                        self.watch.give_up();
                        self.stopped(why);
                    }
                    Err(why) => self.reporter.failed(Lane::Tables, &why),
                }
                return Ok(());
            }
            News::Reached(reached) => {
                self.tables.hear(&reached);
                return Ok(());
            }
        };
        self.decide(input, None)
    }

    /// Counts an answer on its way to the worker.
    fn note(&mut self, input: Input) -> Input {
        match &input {
            Input::Committed { lane, .. } => {
                self.reporter.committed(*lane);
                self.look_for_letters(*lane == Lane::Tables);
            }
            Input::Failed { lane, kind, why, .. } | Input::TakeFailed { lane, kind, why, .. } => {
                tracing::warn!(topic = %self.topic.name, lane = lane.as_str(), ?kind, "{why}");
                metrics::counter!("highwater_commits_refused_total",
                    "topic" => self.topic.name.to_string(), "lane" => lane.as_str(),
                    "kind" => kind.as_str())
                .increment(1);
                self.reporter.failed(*lane, why);
            }
            Input::Assigned(_)
            | Input::Revoked(_)
            | Input::Lost(_)
            | Input::Taken { .. }
            | Input::Arrived { .. }
            | Input::OutOfReach(_)
            | Input::Measured { .. }
            | Input::Halt { .. }
            | Input::Targets(_)
            | Input::Ends { .. }
            | Input::Tick(_)
            | Input::Drain => {}
        }
        input
    }

    fn give_up_contested(&mut self) -> Result<()> {
        if !self.tables.is_contested() {
            return Ok(());
        }
        let why = "keys of the open cut were taken elsewhere before";
        self.give_up(Lane::Tables, &Error::retry(why), None)
    }

    /// The lane's open cut cannot stand.
    fn give_up(&mut self, lane: Lane, error: &Error, batch: Option<&Batch<'_>>) -> Result<()> {
        let Some((cut, _)) = self.opened.get(&lane) else { return Ok(()) };
        let (cut, kind, why) = (*cut, error.kind, error.to_string());
        let failed = self.note(Input::Failed { lane, cut, kind, why });
        self.decide(failed, batch)
    }

    /// Tells who sends letters on that there may be some, and who swaps snapshots in.
    fn look_for_letters(&self, committed: bool) {
        self.swapper.iter().filter(|_| committed).for_each(Swapper::look);
        let Some(forwarder) = &self.forwarder else { return };
        let held = self.worker.positions(Lane::Tables).into_iter().map(|(p, ..)| p).collect();
        if committed || !forwarder.holds(&held) {
            forwarder.look(held);
        }
    }

    fn decide(&mut self, input: Input, batch: Option<&Batch<'_>>) -> Result<()> {
        self.worker.handle(input);
        while let Some(effect) = self.worker.next_effect() {
            self.act(effect, batch)?;
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<()> {
        let fetched = match self.reader.poll(FETCH_RECORDS, FETCH_WAIT) {
            Ok(fetched) => fetched,
            Err(error) => return self.decide(Input::Halt { why: error.to_string() }, None),
        };
        if let Some(why) = &fetched.trouble {
            self.reporter.failed(Lane::Tables, why);
            self.reporter.failed(Lane::Lake, why);
        }
        let mut records = fetched.records();
        let mut decoded = self.decoder.decode(&records);
        let broken = self.breaker.as_mut().and_then(|b| b.read(&records, &decoded.rejects));
        let met = std::mem::take(&mut decoded.met);
        let drifted = self.watch.look(&met, decoded.untold, broken, &self.lasting);
        self.watch.hear_names(self.decoder.take_new_names());
        let sentence = |at| breaker::sentence(&self.topic, &records, &decoded.rejects, at);
        let broken_by = broken.filter(|_| drifted.is_none()).map(sentence);
        if let Some(at) = drifted.or(broken) {
            // What came before it is committed, so that its letters can be looked at.
            records.truncate(at);
            decoded = self.decoder.decode(&records);
        }
        self.reporter.count(&records, &decoded);
        let mut arrivals = Arrival::of(&records);
        for (partition, next) in &fetched.passed {
            arrivals.push(Arrival { partition: *partition, next: *next, records: 0 });
        }
        self.reporter.watch(&records, &decoded);
        let more = fetched.more;
        let batch = Batch { fetched: &fetched, records, decoded };
        self.decide(Input::Arrived { arrivals, more }, Some(&batch))?;
        for partition in &batch.fetched.gone {
            self.decide(Input::OutOfReach(*partition), None)?;
        }
        self.measure()?;
        match broken_by {
            None if drifted.is_none() => return Ok(()),
            None => {}
            Some(why) => self.stopped(why),
        }
        self.decide(Input::Drain, None)
    }

    fn stopped(&mut self, why: String) {
        tracing::error!(topic = %self.topic.name, "stopped: {why}");
        metrics::gauge!("highwater_topic_stopped", "topic" => self.topic.name.to_string()).set(1.0);
        self.reporter.stopped = Some(why);
    }

    fn measure(&mut self) -> Result<()> {
        // What the lake holds waits for the tables' cut, so it is that cut's to end early.
        let held = self.lake.as_ref().map_or(0, |lake| lake.held.bytes());
        let memory = self.tables.memory() + held;
        let size = super::worker::Size { memory, ..Default::default() };
        self.decide(Input::Measured { lane: Lane::Tables, size }, None)?;
        if let Some(lake) = &self.lake {
            let size = lake.size();
            self.decide(Input::Measured { lane: Lane::Lake, size }, None)?;
        }
        Ok(())
    }

    fn act(&mut self, effect: Effect, batch: Option<&Batch<'_>>) -> Result<()> {
        match effect {
            Effect::Take { lane, ticket, partitions } => self.take(lane, ticket, partitions),
            Effect::Adopt { lane, marks, advances } => match (lane, &mut self.lake) {
                (Lane::Tables, _) => {
                    self.tables.adopt(&marks, &advances, &self.memory);
                    self.reporter.adopt(&marks, &advances);
                }
                (Lane::Lake, Some(lake)) => lake.adopt(&marks),
                (Lane::Lake, None) => {}
            },
            Effect::Seek { partition, to } => self.reader.seek(partition, to),
            Effect::Stand { partition } => self.reader.stop(partition),
            Effect::Open { lane, cut, sequence, partition, from, epoch } => {
                self.opened.insert(lane, (cut, Instant::now()));
                if let (Lane::Lake, Some(lake)) = (lane, &mut self.lake) {
                    lake.open(cut, sequence, partition, from, epoch);
                }
            }
            Effect::Admit { lane, from } => {
                let batch = batch.expect("records are admitted only as they arrive");
                match (lane, &mut self.lake) {
                    (Lane::Tables, _) => {
                        let headers = |record| batch.fetched.headers(record);
                        self.tables.admit(headers, &batch.records, &batch.decoded, &from)?;
                    }
                    (Lane::Lake, Some(lake)) => {
                        lake.admit(&batch.records, &batch.decoded, &from)?
                    }
                    (Lane::Lake, None) => {}
                }
            }
            Effect::Hold { from } => {
                let batch = batch.expect("records are held only as they arrive");
                if let Some(lake) = &mut self.lake {
                    lake.hold(&batch.records, &batch.decoded, &from);
                }
            }
            Effect::Follow { to } => {
                let Some(lake) = &mut self.lake else { return Ok(()) };
                let tables = &self.tables;
                match lake.follow(&to, |p, from, to| tables.duplicates(p, from, to)) {
                    Err(error) if error.kind == Kind::Fenced => {
                        self.give_up(Lane::Lake, &error, batch)?;
                    }
                    done => done?,
                }
            }
            Effect::AskEnds { partitions } => {
                let (topic, context) = (self.topic.clone(), self.lasting.context.clone());
                self.lasting.context.runtime.spawn(requests::ends(topic, context, partitions));
            }
            Effect::Advance(advance) => {
                self.tables.advance(advance);
                self.reporter.observe(advance.partition, advance.event_time);
            }
            Effect::Seal { lane, cut, reason, moves } => self.seal(lane, cut, reason, moves)?,
            Effect::Abandon { lane } => match (lane, &mut self.lake) {
                (Lane::Tables, _) => self.tables.abandon()?,
                (Lane::Lake, Some(lake)) => lake.abandon(),
                (Lane::Lake, None) => {}
            },
            Effect::Release { partitions } => self.release(&partitions),
            Effect::Acknowledge { offsets } => {
                self.tables.passed(&offsets);
                self.lasting.context.kafka.acknowledge(&self.topic.kafka_topic, &offsets);
            }
            Effect::Stop { why } => self.stopped(why),
        }
        Ok(())
    }

    fn take(&self, lane: Lane, ticket: Ticket, partitions: Vec<Partition>) {
        let outputs = match lane {
            Lane::Tables => self.tables.outputs(),
            Lane::Lake => vec![Output::Lake],
        };
        let owed =
            self.lake.as_ref().filter(|_| lane == Lane::Lake).map(|lake| lake.owed().clone());
        let taking = Taking { topic: self.topic.clone(), owed, lane, outputs, partitions };
        self.lasting.context.runtime.spawn(taking.run(self.lasting.context.clone(), ticket));
    }

    fn seal(&mut self, lane: Lane, cut: u64, reason: Reason, moves: Vec<Move>) -> Result<()> {
        let topic = self.topic.name.to_string();
        metrics::counter!("highwater_cuts_total", "topic" => topic.clone(),
            "lane" => lane.as_str(), "reason" => reason.as_str())
        .increment(1);
        if let Some((_, opened)) = self.opened.remove(&lane) {
            metrics::histogram!("highwater_cut_open_seconds", "topic" => topic.clone(),
                "lane" => lane.as_str())
            .record(opened.elapsed().as_secs_f64());
        }
        match (lane, &mut self.lake) {
            (Lane::Tables, _) => {
                let job = self.tables.seal(moves)?;
                let commit =
                    requests::commit(self.topic.clone(), self.lasting.context.clone(), cut, job);
                self.lasting.context.runtime.spawn(commit);
            }
            (Lane::Lake, Some(lake)) => {
                metrics::counter!("highwater_lake_rolls_total", "topic" => topic,
                    "reason" => reason.as_str())
                .increment(1);
                lake.seal(cut, moves);
            }
            (Lane::Lake, None) => {}
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[Partition]) {
        for (waiting, done) in &mut self.releases {
            for partition in partitions {
                waiting.remove(partition);
            }
            if waiting.is_empty() {
                // The other end gave up waiting: the partitions counted as lost then.
                let _ = done.try_send(());
            }
        }
        self.releases.retain(|(waiting, _)| !waiting.is_empty());
        for partition in partitions {
            self.reporter.forget(*partition);
            self.forget_held(*partition);
        }
    }

    fn forget_held(&mut self, partition: Partition) {
        if let Some(lake) = &mut self.lake {
            lake.held.forget(partition);
        }
    }

    fn report(&mut self) {
        let caught_up = self.is_caught_up();
        if self.reported.elapsed() < REPORT_EVERY && caught_up == self.told_caught_up {
            return;
        }
        self.reported = Instant::now();
        self.told_caught_up = caught_up;
        if !self.asks_watermarks && Instant::now() >= self.watermarks_due {
            self.asks_watermarks = true;
            let (topic, context) = (self.topic.clone(), self.lasting.context.clone());
            self.lasting.context.runtime.spawn(async move {
                context.tell(News::Watermarks(requests::watermarks(&topic, &context).await));
            });
        }
        self.publish_status();
    }

    fn is_caught_up(&self) -> bool {
        let swapped = || self.swapper.as_ref().is_none_or(Swapper::is_idle);
        self.worker.is_caught_up() && self.owes_nothing() && swapped()
    }

    /// Committed files are visible, dead letters sent on (or nobody takes them).
    fn owes_nothing(&self) -> bool {
        self.owes_no_file() && self.forwarder.as_ref().is_none_or(Forwarder::is_idle)
    }

    fn owes_no_file(&self) -> bool {
        self.lake.as_ref().is_none_or(|lake| lake.owed().count() == 0)
    }

    fn publish_status(&mut self) {
        self.look_for_letters(false);
        for lane in [Lane::Tables, Lane::Lake] {
            for (partition, admitted, committed) in self.worker.positions(lane) {
                self.reporter.stands(Standing { lane, partition, admitted, committed });
            }
        }
        let mut memory = BTreeMap::from([("tables", self.tables.memory() as u64)]);
        if let Some(lake) = &self.lake {
            memory.insert("lake", (lake.memory() + lake.held.bytes()) as u64);
        }
        if let Some(bytes) = self.tables.keys_memory() {
            memory.insert("keys", bytes as u64);
        }
        let (kafka, name) = (&self.lasting.context.kafka, &self.topic.kafka_topic);
        let end = |partition| kafka.known_end(name, partition);
        let mut status = self.reporter.snapshot(end, memory);
        status.gaps = self.reporter.gaps(&self.worker.gaps(), &status.partitions);
        status.recovering = self.worker.is_recovering();
        status.caught_up = self.is_caught_up() && !self.watch.is_pending();
        status.snapshots = self.swapper.as_ref().map_or(Vec::new(), Swapper::held);
        status.drift = self.watch.sentences();
        if let Some(lake) = &self.lake {
            lake.owed().tell(&mut status);
        }
        *self.lasting.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}
