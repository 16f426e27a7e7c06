//! A fixture's events through the lane of tables into PostgreSQL, cut and killed where it says so.
//!
//! Owns: the order of steps. Does not own: any of them: it takes, admits, seals and commits as the
//! driver does, with a log of its own instead of Kafka's.

use super::fixture::{Fixture, Record, Step, Test};
use crate::{
    catalog::Topic,
    compute::{lookup::Version, unique::Memory},
    decode::{Decoder, Secret},
    error::Result,
    ops::references,
    pipeline::{References, TablesLane, worker::Move},
    record::{
        EventTime, IdleAdvance, Lane, Mark, Offset, Output, Partition, RawRecord, Span,
        gap::PartitionLog,
    },
    warehouse::{Claim, Warehouse},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Bytes for the keys that `unique` remembers.
const KEYS_MEMORY: usize = 16 << 20;

/// Plays it to the end, which is a cut.
pub async fn play(
    warehouse: &Warehouse,
    fixture: &Fixture,
    test: &Test,
    secret: Secret,
) -> Result<()> {
    warehouse.declare_topics(std::iter::once(&fixture.topic)).await?;
    warehouse.ensure_tables(std::slice::from_ref(&fixture.model)).await?;
    let references = References::default();
    if let Some(join) = &fixture.model.join {
        let (version, content) = references::version_of(&join.reference, &test.reference)?;
        let rows = version.rows.num_rows();
        warehouse
            .keep_reference(&join.reference.name, &version.id, rows, content.as_bytes())
            .await?;
        references.publish(Arc::<Version>::new(version));
    }
    let mut player = Player {
        decoder: Decoder::new(fixture.topic.clone(), Some(secret)),
        life: Life::begin(warehouse, fixture, test, &references).await?,
        log: Vec::new(),
        ends: BTreeMap::new(),
        warehouse,
        fixture,
        references,
    };
    for step in &test.steps {
        match step {
            Step::Record(record) => player.append(record),
            Step::Cut => player.cut().await?,
            Step::Kill => {
                player.read()?;
                let (warehouse, references) = (player.warehouse, &player.references);
                player.life = Life::begin(warehouse, fixture, test, references).await?;
            }
            Step::Clock(at) => player.tick(*at)?,
        }
    }
    player.cut().await
}

struct Player<'a> {
    warehouse: &'a Warehouse,
    fixture: &'a Fixture,
    references: References,
    decoder: Decoder,
    life: Life,
    /// In the order of the file, with the offset of each.
    log: Vec<(&'a Record, i64)>,
    ends: BTreeMap<Partition, Offset>,
}

/// What a process holds; another one has only what was committed.
struct Life {
    lane: TablesLane,
    marks: BTreeMap<(Output, Partition), Mark>,
    /// Admitted up to here.
    positions: BTreeMap<Partition, Offset>,
    advanced: BTreeSet<Partition>,
}

impl Life {
    async fn begin(
        warehouse: &Warehouse,
        fixture: &Fixture,
        test: &Test,
        references: &References,
    ) -> Result<Self> {
        let (topic, models) = (&fixture.topic, std::slice::from_ref(&fixture.model));
        let mut lane = TablesLane::new(topic, models, references.clone(), KEYS_MEMORY)?;
        let all = (0..test.partitions).map(Partition);
        // No mark is compared with an end that is not known: it lies where no offset comes to.
        let log = PartitionLog { topic_id: None, oldest: Offset(0), end: Offset(i64::MAX) };
        let claim = Claim {
            topic: topic.name.clone(),
            lane: Lane::Tables,
            outputs: lane.outputs(),
            partitions: all.clone().map(|partition| (partition, log)).collect(),
            partition_count: test.partitions as usize,
            owner: "highwater test".to_owned(),
        };
        let taken = warehouse.take(&claim).await?;
        let memory = match topic.unique {
            Some(_) => {
                let oldest: Vec<_> = all.map(|partition| (partition, Offset(0))).collect();
                warehouse.recall(&topic.name, &oldest, false).await?
            }
            None => Memory::default(),
        };
        lane.adopt(&taken.marks, &taken.advances, &memory);
        let mut positions: BTreeMap<Partition, Offset> = BTreeMap::new();
        for (_, partition, mark) in &taken.marks {
            let position = positions.entry(*partition).or_insert(mark.next);
            *position = mark.next.min(*position);
        }
        let marks = taken.marks.into_iter().map(|(o, p, mark)| ((o, p), mark)).collect();
        Ok(Self { lane, marks, positions, advanced: BTreeSet::new() })
    }
}

impl<'a> Player<'a> {
    fn append(&mut self, record: &'a Record) {
        let end = self.ends.entry(record.partition).or_default();
        self.log.push((record, end.0));
        *end = Offset::after(end.0);
    }

    /// Admits what is in the log and was not read yet in this life.
    fn read(&mut self) -> Result<()> {
        let life = &mut self.life;
        let fresh = self.log.iter().filter(|(r, offset)| *offset >= life.positions[&r.partition].0);
        let records: Vec<RawRecord<'_>> = fresh
            .map(|(record, offset)| RawRecord {
                partition: record.partition,
                offset: *offset,
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
            })
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        let from: Vec<_> = life.positions.iter().map(|(p, o)| (*p, *o)).collect();
        let decoded = self.decoder.decode(&records);
        life.lane.admit(|_| Vec::new(), &records, &decoded, &from)?;
        for (partition, end) in &self.ends {
            life.positions.insert(*partition, *end);
        }
        Ok(())
    }

    /// What the clock says of each partition, since all of it is read.
    fn tick(&mut self, at: EventTime) -> Result<()> {
        self.read()?;
        let life = &mut self.life;
        for (partition, before) in life.positions.clone() {
            life.lane.advance(IdleAdvance { partition, before, event_time: at });
            life.advanced.insert(partition);
        }
        Ok(())
    }

    async fn cut(&mut self) -> Result<()> {
        self.read()?;
        let life = &mut self.life;
        let mut moves = Vec::new();
        for ((output, partition), mark) in &life.marks {
            let to = life.positions[partition];
            if mark.next < to || life.advanced.contains(partition) {
                moves.push(Move {
                    output: output.clone(),
                    partition: *partition,
                    span: Span::new(mark.next, to),
                    epoch: mark.epoch,
                    sequence: mark.sequence,
                });
            }
        }
        if moves.is_empty() {
            return Ok(());
        }
        life.advanced.clear();
        let job = life.lane.seal(moves.clone())?;
        let committed = self.warehouse.commit(&job.cut).await?;
        life.lane.learn(&committed.learned);
        for moved in moves {
            let mark = life.marks.get_mut(&(moved.output, moved.partition));
            mark.expect("only these are moved").next = moved.span.to;
        }
        let passed: Vec<_> = life.positions.iter().map(|(p, o)| (*p, *o)).collect();
        life.lane.passed(&passed);
        forget(self.warehouse, &self.fixture.topic, &mut life.lane).await
    }
}

/// As after each cut of a judged topic.
async fn forget(warehouse: &Warehouse, topic: &Topic, lane: &mut TablesLane) -> Result<()> {
    if topic.unique.is_some() {
        lane.hear(&warehouse.forget(&topic.name).await?);
    }
    Ok(())
}
