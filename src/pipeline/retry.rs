//! Dead letters once more: decoded under today's topic file, put through today's models, and taken
//! where they are good now.
//!
//! Owns: what becomes of each letter, the lake files of those that are taken. Does not own: the
//! transaction (`warehouse::retry`), which letters are asked for (`ops`).
//!
//! A retried record is judged as in its place: late by the highest event time that its partition had
//! there, which stands with each refusal. It raises no watermark: what was taken since has been judged.
//! Of a topic with `unique` it passes the judge as well (`compute::unique::retried`), once.
//! An output that has not come to the record yet will read it from Kafka by itself, and by whatever
//! topic file it runs; so such a record waits.
//!
//! SUBTLE, the steps of one batch: `plan` (pure but for reading), `upload` (files, each noted at the
//! lake mark's epoch before its first part, and sealed), `commit` (one transaction), `complete`. Ended
//! before the commit, the notes name uploads that no cut will claim: the partition's next owner aborts
//! them. Ended after it, the files are owed: the next retry, or the next owner, completes them.

mod concerned;

use super::{owed, whole};
use crate::{
    catalog::{Model, Topic},
    compute::{
        Tables,
        lookup::Version,
        unique::{
            Hashing, Verdicts,
            retried::{self, Earlier, Record},
        },
    },
    cut::UploadId,
    decode::{Decoded, Decoder, Reject, Secret},
    error::{Error, Result},
    lake::{
        layout::{FileName, Origin},
        store::Store,
        writer::{LakeWriter, WriterSettings},
    },
    record::{EventTime, Fates, Offset, Output, Partition, RawRecord},
    source::{
        kafka::{KafkaSettings, Lookup},
        registry::{Registry, referred},
    },
    warehouse::{
        MarkRow, Unfinished, Warehouse,
        retry::{
            Change, LetterKey, Moved, RawBytes, Refreshed, Retried, Retry, RetryFiles, RetryFilter,
            RetryLetter,
        },
    },
};
use arrow::array::RecordBatch;
use concerned::{Concerned, apart};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Taken by all outputs that had refused it.
    Taken,
    /// Taken, but by these, which keep letters of their own.
    TakenBut(Vec<Output>),
    /// Left out by all outputs that had refused it: its key was taken before.
    Duplicate,
    /// Refused today as well.
    Refused { class: &'static str, column: Option<String>, reason: String },
    /// An output has not come to it.
    Waits(String),
    /// Not kept, and not in Kafka any more.
    Lost(String),
}

/// One topic's letters and what they are retried with.
pub struct Retrier {
    topic: Arc<Topic>,
    /// Each alone: which records concern it is its own matter.
    models: BTreeMap<Output, (Arc<Model>, Tables)>,
    decoder: Decoder,
    registry: Option<Registry>,
    /// Of a topic with `unique`.
    hashing: Option<Hashing>,
    /// Versions of references, by id.
    kept: BTreeMap<Arc<str>, Arc<Version>>,
    /// From which offset on a model used which.
    looked_up: BTreeMap<(Output, Partition, Offset), Arc<Version>>,
    warehouse: Warehouse,
    store: Option<Store>,
    kafka: KafkaSettings,
}

/// A batch of letters, decided.
pub struct Plan {
    pub outcomes: Vec<(LetterKey, Outcome)>,
    pub retry: Retry,
    lake: Option<LakeRows>,
}

struct LakeRows {
    rows: RecordBatch,
    event_times: Vec<EventTime>,
    name: FileName,
}

/// A letter and its record.
struct Candidate<'a> {
    letter: &'a RetryLetter,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl Retrier {
    /// The models are those of the topic; their tables are known to the warehouse.
    pub fn new(
        topic: Arc<Topic>,
        models: &[Arc<Model>],
        secret: Option<Secret>,
        warehouse: Warehouse,
        store: Option<Store>,
        kafka: KafkaSettings,
    ) -> Result<Self> {
        let mut alone = BTreeMap::new();
        for model in models {
            let tables = Tables::new(&topic, std::slice::from_ref(model))?;
            alone.insert(Output::Model(model.name.clone()), (model.clone(), tables));
        }
        let registry = Registry::of(&topic)?;
        let schemas = registry.as_ref().map(Registry::schemas).unwrap_or_default();
        let decoder = Decoder::with_schemas(topic.clone(), secret, schemas);
        let hashing = Hashing::new(&topic);
        let (kept, looked_up) = (BTreeMap::new(), BTreeMap::new());
        let models = alone;
        Ok(Self {
            topic,
            models,
            decoder,
            registry,
            hashing,
            kept,
            looked_up,
            warehouse,
            store,
            kafka,
        })
    }

    /// Completes what a retry that was ended left, or anybody else.
    pub async fn tidy(&self) -> Result<()> {
        match &self.store {
            Some(store) => owed::tidy(&self.topic.name, store, &self.warehouse).await,
            None => Ok(()),
        }
    }

    /// The next letters after a place; none: that was all.
    pub async fn letters(
        &self,
        filter: &RetryFilter,
        after: Option<&LetterKey>,
    ) -> Result<Vec<RetryLetter>> {
        self.warehouse.letters_to_retry(&self.topic.name, filter, after).await
    }

    /// Decides about each letter; changes nothing.
    pub async fn plan(&mut self, letters: &[RetryLetter]) -> Result<Plan> {
        let marks = self.warehouse.marks(Some(&self.topic.name)).await?;
        let mut outcomes = Vec::new();
        let mut ripe = Vec::new();
        for letter in letters {
            let never = letter.refused_by.iter().find_map(|(output, _)| {
                let (model, _) = self.models.get(output)?;
                Some(format!("{output} {}", model.takes_no_retry()?))
            });
            match never.or_else(|| self.waits_for(&marks, &letter.key)) {
                Some(why) => outcomes.push((letter.key.clone(), Outcome::Waits(why))),
                None => ripe.push(letter),
            }
        }
        let fetched = self.fetch(&ripe, &marks).await?;
        let mut candidates = Vec::new();
        for letter in ripe {
            let place = (letter.key.partition, letter.key.offset);
            match letter.raw.as_ref().or_else(|| fetched.get(&place)) {
                Some((key, value)) => candidates.push(Candidate {
                    letter,
                    key: key.as_deref(),
                    value: value.as_deref(),
                }),
                None => {
                    let why = format!(
                        "the letter was stored without the record, and Kafka has {}/{}@{} no more",
                        self.topic.kafka_topic, place.0.0, place.1
                    );
                    outcomes.push((letter.key.clone(), Outcome::Lost(why)));
                }
            }
        }
        if let Some(registry) = &self.registry {
            let records: Vec<_> = candidates.iter().map(Candidate::record).collect();
            registry.learn(&referred(&self.topic, &records)).await?;
        }
        self.load_versions(&candidates).await?;
        let mut plan = self.decide(&candidates, &marks).await?;
        plan.outcomes.extend(outcomes);
        plan.outcomes.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(plan)
    }

    /// What a model looked the records of these places up in, so that a retry does as well.
    async fn load_versions(&mut self, candidates: &[Candidate<'_>]) -> Result<()> {
        let refused_by = candidates.iter().flat_map(|c| &c.letter.refused_by);
        let joins = |output: &Output| {
            let (model, _) = self.models.get(output)?;
            model.join.as_ref().map(|join| join.reference.clone())
        };
        let joined: BTreeMap<_, _> =
            refused_by.filter_map(|(output, _)| Some((output, joins(output)?))).collect();
        if joined.is_empty() {
            return Ok(());
        }
        for used in self.warehouse.reference_uses(&self.topic.name).await? {
            let Some(reference) = joined.get(&used.output) else { continue };
            if !self.kept.contains_key(&used.version) {
                let content = self.warehouse.reference_content(&reference.name, &used.version);
                let version = Version::restored(reference, &used.version, &content.await?)?;
                self.kept.insert(used.version.clone(), Arc::new(version));
            }
            let place = (used.output, used.partition, used.from);
            self.looked_up.insert(place, self.kept[&used.version].clone());
        }
        Ok(())
    }

    /// Why a record cannot be retried yet: one of today's outputs is still to read it.
    fn waits_for(&self, marks: &[MarkRow], key: &LetterKey) -> Option<String> {
        let lake = self.topic.lake.as_ref().map(|_| Output::Lake);
        let outputs = self.models.keys().cloned().chain(lake).chain([Output::DeadLetters]);
        for output in outputs {
            let mark = marks.iter().find(|m| m.output == output && m.partition == key.partition);
            let next = match mark {
                Some(row) if row.mark.next.0 > key.offset => continue,
                Some(row) => row.mark.next.0.to_string(),
                None => "nothing".to_owned(),
            };
            return Some(format!(
                "{output} has not come to it (its mark is at {next}): let `highwater run` pass the record first, then \
                 retry"
            ));
        }
        None
    }

    /// Records that the letters do not hold.
    async fn fetch(
        &self,
        letters: &[&RetryLetter],
        marks: &[MarkRow],
    ) -> Result<BTreeMap<(Partition, i64), RawBytes>> {
        let mut wanted: BTreeMap<Partition, BTreeSet<i64>> = BTreeMap::new();
        for letter in letters.iter().filter(|letter| letter.raw.is_none()) {
            wanted.entry(letter.key.partition).or_default().insert(letter.key.offset);
        }
        let mut found = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let letters = marks.iter().filter(|m| m.output == Output::DeadLetters);
        let ids: BTreeMap<_, _> = letters.map(|m| (m.partition, m.topic_id)).collect();
        let (kafka, topic) = (self.kafka.clone(), self.topic.kafka_topic.clone());
        let read = tokio::task::spawn_blocking(move || {
            let lookup = Lookup::new(&kafka)?;
            for (partition, offsets) in wanted {
                let offsets: Vec<i64> = offsets.into_iter().collect();
                let id = ids.get(&partition).copied().flatten();
                let records = lookup.read(&topic, partition, id, &offsets)?;
                found.extend(records.into_iter().map(|(offset, raw)| ((partition, offset), raw)));
            }
            Ok(found)
        });
        read.await.map_err(|e| Error::halt("read records once more").because(e))?
    }

    async fn decide(&mut self, candidates: &[Candidate<'_>], marks: &[MarkRow]) -> Result<Plan> {
        let records: Vec<RawRecord<'_>> = candidates.iter().map(Candidate::record).collect();
        let decoded = self.decoder.decode(&records);
        let (mut good, mut silent, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut rejects = decoded.rejects.iter().peekable();
        for (index, candidate) in candidates.iter().enumerate() {
            match rejects.next_if(|reject| reject.record == index) {
                Some(reject) => refused.push(refreshed(candidate.letter, reject)),
                None if decoded.empty.binary_search(&index).is_ok() => {
                    silent.push(candidate.letter)
                }
                None => good.push(candidate.letter),
            }
        }
        let (verdicts, is_duplicate) = self.judge(&good, &decoded, marks).await?;
        let (good, decoded, twice) = apart(good, decoded, &is_duplicate)?;

        let mut taken: BTreeMap<&LetterKey, Vec<Moved>> =
            good.iter().map(|letter| (&letter.key, Vec::new())).collect();
        let mut changes: BTreeMap<(Output, Partition), Change> = BTreeMap::new();
        let mut tables = Vec::new();
        // Who refuses what others take keeps it: a letter of its own stays where it is.
        let mut keeps = |letter: &RetryLetter, output: &Output, class, reason: String| {
            let moved = Moved { letter: letter.key.clone(), output: output.clone(), class, reason };
            taken.get_mut(&letter.key).expect("a good letter").push(moved);
        };
        let outputs: BTreeSet<&Output> =
            good.iter().flat_map(|letter| letter.refused_by.iter().map(|(o, _)| o)).collect();
        for output in outputs {
            let concerned = Concerned::of(output, &good, &decoded)?;
            let fates = match output {
                Output::DeadLetters => concerned.fates(|fates| &mut fates.filtered),
                Output::Lake if self.topic.lake.is_some() => {
                    concerned.fates(|fates| &mut fates.accepted)
                }
                Output::Model(_) if self.models.contains_key(output) => {
                    let (model, alone) = self.models.get_mut(output).expect("looked at");
                    let versions = match model.join {
                        Some(_) => concerned.versions(&self.looked_up)?,
                        None => Vec::new(),
                    };
                    let (fates, delta, failures) = concerned.through(alone, &versions)?;
                    tables.extend(delta.map(|delta| (model.name.clone(), delta)));
                    for (index, class, reason) in failures {
                        keeps(concerned.letters[index], output, class.as_str(), reason);
                    }
                    fates
                }
                Output::Lake | Output::Model(_) => {
                    for letter in &concerned.letters {
                        let why = format!("{output} is not declared any more");
                        keeps(letter, output, "undeclared", why);
                    }
                    concerned.fates(|fates| &mut fates.dead)
                }
            };
            for (partition, fates) in fates {
                change(&mut changes, output, partition, fates);
            }
        }
        // What says nothing of a row, every output leaves out.
        for letter in &silent {
            for (output, _) in &letter.refused_by {
                let fates = Fates { filtered: 1, ..Fates::default() };
                change(&mut changes, output, letter.key.partition, fates);
            }
        }
        for letter in &twice {
            for (output, _) in &letter.refused_by {
                let fates = Fates { duplicate: 1, ..Fates::default() };
                change(&mut changes, output, letter.key.partition, fates);
            }
        }
        let mut plan = Plan {
            outcomes: Vec::new(),
            retry: Retry {
                additions: self.topic.additions_mark(),
                topic: self.topic.name.clone(),
                changes: changes.into_values().collect(),
                tables,
                verdicts,
                ..Retry::default()
            },
            lake: self.lake_rows(&good, &decoded, marks)?,
        };
        for letter in good.into_iter().chain(silent) {
            plan.take(letter, taken.remove(&letter.key).unwrap_or_default());
        }
        for letter in twice {
            plan.leave_out(letter);
        }
        for letter in refused {
            plan.refuse(letter);
        }
        Ok(plan)
    }

    /// Which good records are duplicates.
    async fn judge(
        &self,
        good: &[&RetryLetter],
        decoded: &Decoded,
        marks: &[MarkRow],
    ) -> Result<(Verdicts, Vec<bool>)> {
        let (Some(unique), Some(hashing)) = (&self.topic.unique, &self.hashing) else {
            return Ok((Verdicts::default(), vec![false; good.len()]));
        };
        let keys = hashing.keys(&decoded.rows)?;
        let held = self.warehouse.held_keys(&self.topic.name, &keys).await?;
        let letters = marks.iter().filter(|m| m.output == Output::DeadLetters);
        let reached = letters.filter_map(|m| Some((m.partition, m.mark.event_time_max?))).collect();
        let records = good.iter().zip(keys).zip(&decoded.event_times);
        let records = records.map(|((letter, key), event_time)| {
            let LetterKey { partition, offset, .. } = letter.key;
            let of = marks.iter().filter(|m| m.partition == partition);
            let passed = of.map(|m| (m.output.clone(), m.mark.first, m.mark.next));
            let refused_by: Vec<_> = letter.refused_by.iter().map(|(o, _)| o.clone()).collect();
            let earlier = Earlier::of(passed, offset, &refused_by);
            Record { partition, offset, event_time: *event_time, key, earlier }
        });
        let records: Vec<_> = records.collect();
        Ok(retried::judge(&records, &held, &reached, (unique.within, self.topic.max_disorder)))
    }

    /// What the lake refused and takes now, named after its first row.
    fn lake_rows(
        &self,
        good: &[&RetryLetter],
        decoded: &Decoded,
        marks: &[MarkRow],
    ) -> Result<Option<LakeRows>> {
        if self.topic.lake.is_none() {
            return Ok(None);
        }
        let concerned = Concerned::of(&Output::Lake, good, decoded)?;
        let Some(first) = concerned.letters.first() else { return Ok(None) };
        let LetterKey { partition, offset, .. } = first.key;
        let mark = marks.iter().find(|m| m.output == Output::Lake && m.partition == partition);
        let mark = mark.ok_or_else(|| Error::halt("a refusal of a lake without a mark"))?.mark;
        let name = FileName {
            sequence: mark.sequence,
            partition,
            from: Offset(offset),
            epoch: mark.epoch,
            origin: Origin::Retry,
        };
        let Decoded { rows, event_times, .. } = concerned.decoded;
        Ok(Some(LakeRows { rows, event_times, name }))
    }

    /// Puts the plan's files into the store, whole and invisible.
    pub async fn upload(&self, plan: &mut Plan) -> Result<()> {
        let Some(LakeRows { rows, event_times, name }) = plan.lake.take() else { return Ok(()) };
        let store = self.store.as_ref().ok_or_else(|| {
            Error::config(format!("topic {} has a lake, but --lake is not set", self.topic.name))
        })?;
        let mut writer = LakeWriter::new(self.topic.clone(), WriterSettings::default(), name);
        writer.append(&rows, &event_times)?;
        let (partition, epoch) = (name.partition, name.epoch);
        let mut files = Vec::new();
        for file in whole::parts_of(writer)? {
            let note = async |path: &str, upload: &UploadId| {
                self.warehouse.note_upload(&self.topic.name, path, upload, partition, epoch).await
            };
            files.push(whole::put(store, file, note).await?);
        }
        let noted_for = (partition, epoch);
        plan.retry.files = Some(RetryFiles { noted_for, sequence: name.sequence, files });
        Ok(())
    }

    /// Applies the plan, or finds that it is not of today.
    ///
    /// # Errors
    /// `Retry`, `Unknown`: read the letters again and plan anew; those that were taken are gone.
    pub async fn commit(&self, plan: &Plan) -> Result<Retried> {
        self.warehouse.retry(&plan.retry).await
    }

    /// Shows the files of a committed plan to readers.
    pub async fn complete(&self, plan: &Plan) -> Result<()> {
        let (Some(store), Some(RetryFiles { files, .. })) = (&self.store, &plan.retry.files) else {
            return Ok(());
        };
        let owed: Vec<_> = files
            .iter()
            .map(|f| Unfinished { path: f.path.clone(), upload: f.upload.clone(), bytes: f.bytes })
            .collect();
        owed::complete(store, &self.warehouse, &owed).await
    }

    /// Drops uploads that will not be committed; best effort, as a next owner does it as well.
    pub async fn give_up(&self, plan: &Plan) {
        let (Some(store), Some(RetryFiles { files, .. })) = (&self.store, &plan.retry.files) else {
            return;
        };
        for file in files {
            if store.abort(&file.path, &file.upload).await.is_ok() {
                let _ = self.warehouse.forget_uploads(std::slice::from_ref(&file.upload)).await;
            }
        }
    }
}

impl Plan {
    /// Whether there is anything to commit.
    pub fn changes_something(&self) -> bool {
        !self.retry.letters.is_empty() || !self.retry.refreshed.is_empty()
    }

    fn take(&mut self, letter: &RetryLetter, still: Vec<Moved>) {
        let key = &letter.key;
        if let [own] = still.as_slice()
            && own.output.to_string() == key.output
        {
            return self.refuse(Refreshed {
                letter: key.clone(),
                class: own.class,
                column: None,
                reason: own.reason.clone(),
            });
        }
        let refused_by: Vec<Output> = still.iter().map(|moved| moved.output.clone()).collect();
        let takers = letter.refused_by.iter().map(|(output, _)| output);
        let takers = takers.filter(|output| !refused_by.contains(output));
        self.retry.settled.extend(takers.map(|output| (key.clone(), output.clone())));
        self.retry.moved.extend(still);
        self.retry.letters.push(key.clone());
        let outcome = match refused_by.is_empty() {
            true => Outcome::Taken,
            false => Outcome::TakenBut(refused_by),
        };
        self.outcomes.push((key.clone(), outcome));
    }

    fn leave_out(&mut self, letter: &RetryLetter) {
        let key = &letter.key;
        let all = letter.refused_by.iter().map(|(output, _)| (key.clone(), output.clone()));
        self.retry.settled.extend(all);
        self.retry.letters.push(key.clone());
        self.outcomes.push((key.clone(), Outcome::Duplicate));
    }

    fn refuse(&mut self, refreshed: Refreshed) {
        let Refreshed { letter, class, column, reason } = refreshed.clone();
        self.outcomes.push((letter, Outcome::Refused { class, column, reason }));
        self.retry.refreshed.push(refreshed);
    }
}

impl Candidate<'_> {
    fn record(&self) -> RawRecord<'_> {
        RawRecord {
            partition: self.letter.key.partition,
            offset: self.letter.key.offset,
            timestamp: self.letter.timestamp,
            key: self.key,
            value: self.value,
        }
    }
}

/// Dead offsets of an output and partition get these fates.
fn change(
    changes: &mut BTreeMap<(Output, Partition), Change>,
    output: &Output,
    partition: Partition,
    fates: Fates,
) {
    let none =
        || Change { output: output.clone(), partition, was_dead: 0, fates: Fates::default() };
    let change = changes.entry((output.clone(), partition)).or_insert_with(none);
    change.was_dead += fates.total();
    change.fates += fates;
}

fn refreshed(letter: &RetryLetter, reject: &Reject) -> Refreshed {
    Refreshed {
        letter: letter.key.clone(),
        class: reject.class.as_str(),
        column: reject.column.clone(),
        reason: reject.reason.clone(),
    }
}
