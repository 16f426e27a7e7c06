//! An output made anew beside the live one, and the transaction that swaps it in.
//!
//! Owns: the rows of `highwater.rebuilds`, a rebuild's marks, the order of steps of a swap. Does not
//! own: what the rebuild's cuts hold and when it has caught up (`pipeline::rebuild`), the text of the
//! exchange (`exchange`).
//!
//! A rebuild of model NAME is the model `_rebuild_NAME`, a name that no declared model can have: tables,
//! marks, refusals and letters of its own, committed as any cut is.
//!
//! B-1  A rebuild begins where the live output began, and goes on from its own marks.
//! B-2  The live output's tables, marks and owner are untouched until the swap.
//! B-3  The swap is one transaction: it exchanges tables, totals, refusals and letters where both marks
//!      stand at the same offset of the same generation in every partition, or does nothing.
//! B-4  What is recorded is followed: verdicts on duplicates, advances of event time, versions of
//!      references, what a retry took.
//!
//! B-5  Of some windows only: it begins at offsets before which no record is of that time or later, exchanges rows of
//!      those windows and nothing else, and is swapped in only where decode took the same records.
//!
//! B-7  A new output has no live one: its rebuild follows the dead letters' marks, and its swap makes its own (`fresh`).
//!
//! B-9  Of a definition with columns more the live tables get these, and the rows that differ.
//!
//! SUBTLE: the steps of a swap. The live output's marks are locked: no cut of it is under way, and its
//! owner's next one waits. What the rebuild has still to read up to them is committed meanwhile, on
//! another connection, which asks for no lock held here. Then the rebuild's marks are locked, both are
//! compared, tables and totals are exchanged, and the live marks are looked at once more: a partition
//! that the topic got meanwhile has a mark which was not locked, and may have brought rows. Live
//! marks first and the rebuild's second, and nobody else locks a rebuild's marks while it waits for a
//! live one: `lock_lane` and its like leave them out.

pub(in crate::warehouse) mod contents;
mod definitions;
mod fresh;
mod windows;

pub use definitions::Filled;

use super::{
    MarkRow, Warehouse,
    commit::advance,
    encode::Instant,
    listing,
    postgres::{Parameter, Row, Session},
    schema,
    tables::Table,
};
use crate::{
    catalog::Model,
    error::{Error, Kind, Result},
    record::{EventTime, Fates, IdleAdvance, Mark, Offset, Output, Partition},
};
use std::{collections::BTreeMap, ops::AddAssign, sync::Arc, time::Duration};

/// Before the name of a model: its rebuild. No declared name begins with a line.
pub const PREFIX: &str = "_rebuild_";

/// One statement of a swap may take so long: it compares whole tables.
const SWAP_STATEMENT: Duration = Duration::from_secs(600);
/// Readers hold a table that is replaced by another one for no longer than this, or the swap is tried again.
const SWAP_LOCK: Duration = Duration::from_secs(5);

/// What there is before: so what becomes of it at the swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A table that this definition filled: rows that differ are exchanged.
    Same,
    /// A table that a definition of fewer columns filled: it gets them, and the rows that differ are exchanged.
    Wider,
    /// A table that another definition filled: the tables themselves are exchanged.
    Changed,
    /// No output yet: tables and marks of the rebuild become the live ones.
    New,
}

/// Which output, and as what it is made anew.
#[derive(Debug, Clone)]
pub struct Rebuild {
    /// As declared: `NAME`.
    pub model: Arc<Model>,
    /// The same by the name of its rebuild.
    pub shadow: Arc<Model>,
    pub change: Change,
    /// Only the windows that begin then or later,
    pub since: Option<EventTime>,
    /// and before this.
    pub until: Option<EventTime>,
    /// Of a new output: where it begins.
    pub begins: BTreeMap<Partition, Offset>,
}

impl Rebuild {
    pub fn of(model: &Arc<Model>) -> Self {
        let name = format!("{PREFIX}{}", model.name);
        let shadow = Model { name: name.into(), ..Model::clone(model) };
        let (model, shadow) = (model.clone(), Arc::new(shadow));
        Self {
            model,
            shadow,
            change: Change::Same,
            since: None,
            until: None,
            begins: BTreeMap::new(),
        }
    }

    /// Of a table that another definition filled: `Changed` or `Wider`.
    pub fn by(self, change: Change) -> Self {
        Self { change, ..self }
    }

    /// Of an output that is not there yet, and begins at these offsets.
    pub fn new_output(self, begins: BTreeMap<Partition, Offset>) -> Self {
        Self { change: Change::New, begins, ..self }
    }

    /// Of those windows only that begin then or later, and before an end.
    pub fn windows(self, since: Option<EventTime>, until: Option<EventTime>) -> Self {
        Self { since, until, ..self }
    }

    /// Of some windows only (B-5).
    pub fn is_part(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    /// What fills its tables.
    fn definition(&self) -> String {
        let mut all = self.model.fingerprint();
        if self.change == Change::New {
            all += " new";
        }
        for (word, time) in [("since", self.since), ("until", self.until)] {
            all += &time.map_or(String::new(), |time| format!(" {word} {}", time.0));
        }
        all
    }

    /// Up to whose marks it reads, and which stand still at the swap: the live output's. Where there is none, the
    /// dead letters', which every topic has, and which no cut of the tables passes by.
    pub fn leader(&self) -> Output {
        match self.change {
            Change::New => Output::DeadLetters,
            Change::Same | Change::Wider | Change::Changed => self.output(),
        }
    }

    /// Its marks begin where the leader's do.
    fn begins_with_leader(&self) -> bool {
        self.change != Change::New && self.since.is_none()
    }

    pub fn output(&self) -> Output {
        Output::Model(self.model.name.clone())
    }

    pub fn beside(&self) -> Output {
        Output::Model(self.shadow.name.clone())
    }
}

/// Whether this is the output of a rebuild.
pub fn is_rebuild(output: &Output) -> bool {
    matches!(output, Output::Model(name) if name.starts_with(PREFIX))
}

/// Whether this is the output of the rebuild of this model.
pub fn is_rebuild_of(output: &Output, model: &str) -> bool {
    matches!(output, Output::Model(name) if name.strip_prefix(PREFIX) == Some(model))
}

/// A row of `highwater.rebuilds`.
#[derive(Debug, Clone)]
pub struct RebuildRow {
    pub topic: Arc<str>,
    pub output: Output,
    pub definition: String,
    /// Records that a retry had offered to the live output when it began, and has by now.
    pub retried: i64,
    pub retried_now: i64,
    /// Microseconds since 1970.
    pub started_at: i64,
}

/// Records that a retry offered to the live output, with the event time that judges each.
pub type RetriedPlaces = BTreeMap<(Partition, i64), Option<EventTime>>;

/// Where a rebuild stands, and what is recorded of the live output; of one moment or later.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Of the topic, all outputs.
    pub marks: Vec<MarkRow>,
    pub advances: Vec<IdleAdvance>,
    /// The duplicates that it has still to pass, from which offset on.
    pub verdicts: Vec<(Partition, Offset, Vec<i64>)>,
    pub retried: RetriedPlaces,
}

impl Standing {
    pub fn of<'a>(&'a self, output: &Output) -> impl Iterator<Item = &'a MarkRow> + use<'a> {
        let output = output.clone();
        self.marks.iter().filter(move |row| row.output == output)
    }
}

/// The live marks, locked: its owner's next commit waits.
pub struct Halt {
    session: Session,
    partitions: Vec<i32>,
    pub marks: Vec<MarkRow>,
}

/// What a swap has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swapped {
    /// Of all partitions: the live output's before, and now.
    pub before: Fates,
    pub after: Fates,
    pub rows_written: u64,
    pub rows_removed: u64,
    /// The definition is another one: the tables themselves were exchanged,
    pub replaced: bool,
    /// or got columns.
    pub widened: bool,
}

impl AddAssign for Swapped {
    /// What was done to another table.
    fn add_assign(&mut self, other: Self) {
        self.rows_written += other.rows_written;
        self.rows_removed += other.rows_removed;
    }
}

impl Warehouse {
    /// Of one topic or of all.
    pub async fn rebuilds(&self, topic: Option<&str>) -> Result<Vec<RebuildRow>> {
        let sql = include_str!("../../sql/warehouse/read_rebuilds.sql");
        let rows = self.read("read rebuilds", sql, &[&topic]).await?;
        rows.iter().map(rebuild_row).collect()
    }

    /// Notes the rebuild, or goes on with the one that is noted, and makes its tables.
    ///
    /// # Errors
    /// `Config`: one of another definition is half done, or a name is too long.
    pub async fn begin_rebuild(&self, rebuild: &Rebuild) -> Result<RebuildRow> {
        let doing = format!("begin to rebuild {}", rebuild.output());
        let topic: &str = &rebuild.model.topic;
        let (output, shadow) = (rebuild.output().to_string(), rebuild.beside().to_string());
        let definition = rebuild.definition();
        let long = Table::new(&rebuild.shadow);
        if let Some(shape) = long.shapes().find(|shape| shape.table.len() > NAME_BYTES_MAX) {
            return Err(Error::config(format!(
                "{doing}: its table {} has a name of more than {NAME_BYTES_MAX} bytes, the limit of \
                 PostgreSQL. Give the model, or the alias of its count(DISTINCT …), a shorter name",
                shape.table
            )));
        }
        if rebuild.change == Change::New {
            self.refuse_what_is_there(rebuild, &doing).await?;
        }
        let sql = include_str!("../../sql/warehouse/begin_rebuild.sql");
        let leader = rebuild.leader().to_string();
        let values: [Parameter; 5] = [&topic, &output, &shadow, &definition, &leader];
        self.change(&doing, sql, &values).await?;
        let rows = self.rebuilds(Some(topic)).await?;
        let row = rows.into_iter().find(|row| row.output == rebuild.output());
        let row = row.ok_or_else(|| Error::retry(format!("{doing}: it was given up just now")))?;
        if row.definition != definition {
            return Err(Error::config(format!(
                "a rebuild of {output} by another definition, or from another time, stands half done: `highwater replay {output} \
                 --abort` drops it"
            )));
        }
        self.ensure_rebuild_tables(&rebuild.shadow).await?;
        Ok(row)
    }

    /// As [`Self::take_rebuild`] would find it, without changing anything: marks that are not there yet as they
    /// would be made.
    pub async fn look_at_rebuild(&self, rebuild: &Rebuild) -> Result<Standing> {
        let mut marks = self.marks(Some(&*rebuild.model.topic)).await?;
        let (live, beside) = (rebuild.leader(), rebuild.beside());
        let is_there = |partition| {
            let own = |m: &&MarkRow| m.output == beside && m.partition == partition;
            marks.iter().find(own).is_some()
        };
        let starts = self.rebuild_starts(rebuild).await?;
        let absent = marks.iter().filter(|m| m.output == live && !is_there(m.partition));
        let begun = |live: &MarkRow| {
            let first = starts.get(&live.partition).copied().unwrap_or(live.mark.first);
            let mark = Mark {
                first,
                next: first,
                event_time_max: None,
                fates: Fates::default(),
                ..live.mark
            };
            MarkRow { output: beside.clone(), mark, ..live.clone() }
        };
        let absent: Vec<_> = absent.map(begun).collect();
        marks.extend(absent);
        Ok(Standing {
            marks,
            advances: Vec::new(),
            verdicts: Vec::new(),
            retried: RetriedPlaces::new(),
        })
    }

    /// Makes this process the owner of the rebuild, and says what there is to follow.
    ///
    /// # Errors
    /// `Fenced`: the rebuild was swapped in or given up meanwhile. `Halt`: what it has passed was
    /// changed since, so that it can only be begun anew.
    pub async fn take_rebuild(&self, rebuild: &Rebuild, owner: &str) -> Result<Standing> {
        let doing = format!("take the rebuild of {}", rebuild.output());
        let starts = self.rebuild_starts(rebuild).await?;
        let taken =
            self.within(&doing, self.take_rebuild_now(rebuild, owner, &starts, &doing)).await;
        taken.map_err(|error| match error.kind {
            // Taking again is right whether or not it happened.
            Kind::Unknown => Error { kind: Kind::Retry, ..error },
            Kind::Retry | Kind::Fenced | Kind::Halt | Kind::Config => error,
        })
    }

    async fn take_rebuild_now(
        &self,
        rebuild: &Rebuild,
        owner: &str,
        starts: &BTreeMap<Partition, Offset>,
        doing: &str,
    ) -> Result<Standing> {
        let topic: &str = &rebuild.model.topic;
        let (output, shadow) = (rebuild.output().to_string(), rebuild.beside().to_string());
        let leader = rebuild.leader().to_string();
        let session = self.begin(doing).await?;
        let sql = include_str!("../../sql/warehouse/insert_rebuild_marks.sql");
        let (partitions, from): (Vec<i32>, Vec<i64>) =
            starts.iter().map(|(partition, from)| (partition.0, from.0)).unzip();
        let values: [Parameter; 6] = [&topic, &leader, &shadow, &owner, &partitions, &from];
        session.execute(doing, sql, &values).await?;
        let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
        session.query(doing, sql, &[&topic, &shadow]).await?;
        // Under the lock: whoever ends a rebuild removes its marks.
        same_as_begun(&session, doing, rebuild).await?;
        let sql = include_str!("../../sql/warehouse/bump_rebuild_epochs.sql");
        session.execute(doing, sql, &[&topic, &shadow, &owner]).await?;
        // The live marks first: what is recorded below them is there when it is read after them.
        let marks = marks_of(&session, doing, topic).await?;
        let partitions: Vec<i32> =
            marks.iter().filter(|m| m.output == rebuild.beside()).map(|m| m.partition.0).collect();
        let sql = include_str!("../../sql/warehouse/read_advances.sql");
        let advances = session.query(doing, sql, &[&topic, &partitions, &vec![&*shadow]]).await?;
        let sql = include_str!("../../sql/warehouse/read_duplicates_of.sql");
        let verdicts = session.query(doing, sql, &[&topic, &shadow]).await?;
        let sql = include_str!("../../sql/warehouse/read_retried_of.sql");
        let retried = session.query(doing, sql, &[&topic, &output]).await?;
        session.commit(doing).await?;
        let verdict = |row: &Row| (Partition(row.get(0)), Offset(row.get(1)), row.get(2));
        let place = |row: &Row| {
            let event_time = row.get::<_, Option<Instant>>(2).map(|i| EventTime(i.0));
            ((Partition(row.get(0)), row.get(1)), event_time)
        };
        Ok(Standing {
            marks,
            advances: advances.iter().map(|row| advance(row, 0)).collect(),
            verdicts: verdicts.iter().map(verdict).collect(),
            retried: retried.iter().map(place).collect(),
        })
    }

    /// Locks the marks of the live output, or of what leads in its place. Dropped, it goes on as if nothing had been.
    pub async fn halt(&self, rebuild: &Rebuild) -> Result<Halt> {
        let doing = format!("halt {} for its swap", rebuild.leader());
        let (topic, output) = (&*rebuild.model.topic, rebuild.leader().to_string());
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            if rebuild.change == Change::New {
                // Nobody makes its tables, and nobody its marks, while they are looked for.
                schema::lock(&session, &doing).await?;
                let sql = include_str!("../../sql/warehouse/lock_topic.sql");
                session.query(&doing, sql, &[&topic]).await?;
            }
            let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
            let locked = session.query(&doing, sql, &[&topic, &output]).await?;
            let partitions = locked.iter().map(|row| row.get(0)).collect();
            let marks = marks_of(&session, &doing, topic).await?;
            Ok(Halt { session, partitions, marks })
        })
        .await
    }

    /// The swap.
    ///
    /// # Errors
    /// `Retry`: nothing happened, the rebuild does not stand where the live output does. `Unknown`: it
    /// may have happened; then the rebuild is not there any more.
    pub async fn swap_rebuild(&self, halt: Halt, rebuild: &Rebuild) -> Result<Swapped> {
        let doing = format!("swap in the rebuild of {}", rebuild.output());
        let Halt { session, partitions, .. } = halt;
        let topic: &str = &rebuild.model.topic;
        let (output, shadow) = (rebuild.output().to_string(), rebuild.beside().to_string());
        let (leader, with_leader) = (rebuild.leader().to_string(), rebuild.begins_with_leader());
        let limit = |limit: Duration| format!("{}ms", limit.as_millis());
        let sql = include_str!("../../sql/warehouse/limit_swap.sql");
        session.query(&doing, sql, &[&limit(SWAP_STATEMENT), &limit(SWAP_LOCK)]).await?;
        let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
        session.query(&doing, sql, &[&topic, &shadow]).await?;
        same_as_begun(&session, &doing, rebuild).await?;
        let sql = include_str!("../../sql/warehouse/unequal_marks.sql");
        if let Some(row) =
            session.query(&doing, sql, &[&topic, &leader, &shadow, &!with_leader]).await?.first()
        {
            let next =
                |at| row.get::<_, Option<i64>>(at).map_or("nothing".into(), |n| n.to_string());
            return Err(Error::retry(format!(
                "{doing}: in {topic}/{} it stands at {}, {leader} at {}",
                row.get::<_, i32>(0),
                next(2),
                next(1)
            )));
        }
        let marks = marks_of(&session, &doing, topic).await?;
        if rebuild.change == Change::New {
            return fresh::swap(session, &doing, rebuild, &partitions, &marks).await;
        }
        let totals = |output: Output| {
            let of = marks.iter().filter(|m| m.output == output);
            of.fold(Fates::default(), |mut sum, row| {
                sum += row.mark.fates;
                sum
            })
        };
        let (before, after) = (totals(rebuild.output()), totals(rebuild.beside()));
        if after.absent > before.absent {
            return Err(Error::halt(format!(
                "{doing}: Kafka has {} records no more that the live output has passed, as a compacted topic removes \
                 them. The live table stays as it is",
                after.absent - before.absent
            )));
        }
        if rebuild.is_part() {
            let swapped =
                windows::swap(session, &doing, rebuild, &partitions, after.absent).await?;
            return Ok(Swapped { before, after: before, ..swapped });
        }
        let changed = rebuild.change != Change::Same;
        let mut swapped = match rebuild.change {
            Change::Same => contents::exchange_rows(&session, &doing, rebuild).await?,
            Change::Wider => contents::widen(&session, &doing, rebuild).await?,
            Change::Changed | Change::New => contents::replace(&session, &doing, rebuild).await?,
        };
        let sql = include_str!("../../sql/warehouse/swap_marks.sql");
        let moved = session.execute(&doing, sql, &[&topic, &output, &shadow, &changed]).await?;
        take_over(&session, &doing, rebuild).await?;
        stood_still(&session, &doing, rebuild, &partitions, moved).await?;
        session.commit(&doing).await?;
        (swapped.before, swapped.after) = (before, after);
        Ok(swapped)
    }

    /// Drops what there is of a rebuild; false: there was nothing.
    pub async fn abort_rebuild(&self, topic: &str, model: &str) -> Result<bool> {
        let doing = format!("give up the rebuild of model:{model}");
        let output = Output::Model(model.into()).to_string();
        let name = format!("{PREFIX}{model}");
        let shadow = Output::Model(name.as_str().into()).to_string();
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
            session.query(&doing, sql, &[&topic, &shadow]).await?;
            for sql in [
                include_str!("../../sql/warehouse/drop_rebuild_letters.sql"),
                include_str!("../../sql/warehouse/drop_reference_uses.sql"),
                include_str!("../../sql/warehouse/drop_output_marks.sql"),
            ] {
                session.execute(&doing, sql, &[&topic, &shadow]).await?;
            }
            let dropped = contents::drop_tables(&session, &doing, &name, "").await?;
            let sql = include_str!("../../sql/warehouse/end_rebuild.sql");
            let ended = session.execute(&doing, sql, &[&topic, &output]).await?;
            session.commit(&doing).await?;
            Ok(ended > 0 || !dropped.is_empty())
        })
        .await
    }
}

/// As the catalog has it.
const NAME_BYTES_MAX: usize = 63;

fn rebuild_row(row: &Row) -> Result<RebuildRow> {
    Ok(RebuildRow {
        topic: row.get::<_, &str>(0).into(),
        output: listing::output(row.get(1))?,
        definition: row.get(3),
        retried: row.get(4),
        retried_now: row.get(5),
        started_at: row.get::<_, Instant>(6).0,
    })
}

/// What goes with the marks becomes the live output's: letters, refusals, versions that were looked up. The rebuild
/// is over.
async fn take_over(session: &Session, doing: &str, rebuild: &Rebuild) -> Result<()> {
    let topic: &str = &rebuild.model.topic;
    let (output, shadow) = (rebuild.output().to_string(), rebuild.beside().to_string());
    for sql in [
        include_str!("../../sql/warehouse/swap_letters.sql"),
        include_str!("../../sql/warehouse/refresh_swapped_letters.sql"),
        include_str!("../../sql/warehouse/follow_refusals.sql"),
        include_str!("../../sql/warehouse/drop_swapped_refusals.sql"),
        include_str!("../../sql/warehouse/swap_refusals.sql"),
    ] {
        session.execute(doing, sql, &[&topic, &output, &shadow]).await?;
    }
    let sql = include_str!("../../sql/warehouse/drop_reference_uses.sql");
    session.execute(doing, sql, &[&topic, &output]).await?;
    let sql = include_str!("../../sql/warehouse/swap_reference_uses.sql");
    session.execute(doing, sql, &[&topic, &output, &shadow]).await?;
    let sql = include_str!("../../sql/warehouse/drop_output_marks.sql");
    session.execute(doing, sql, &[&topic, &shadow]).await?;
    let sql = include_str!("../../sql/warehouse/end_rebuild.sql");
    session.execute(doing, sql, &[&topic, &output]).await.map(drop)
}

/// No partition came meanwhile: its mark was not locked, and may have brought rows.
async fn stood_still(
    session: &Session,
    doing: &str,
    rebuild: &Rebuild,
    partitions: &[i32],
    moved: u64,
) -> Result<()> {
    let topic = &rebuild.model.topic;
    let mut now = marks_of(session, doing, topic).await?;
    now.retain(|m| m.output == rebuild.leader());
    if now.iter().map(|m| m.partition.0).ne(partitions.iter().copied())
        || moved != partitions.len() as u64
    {
        return Err(Error::retry(format!("{doing}: {topic} got a partition meanwhile")));
    }
    Ok(())
}

async fn marks_of(session: &Session, doing: &str, topic: &str) -> Result<Vec<MarkRow>> {
    let sql = include_str!("../../sql/warehouse/read_marks.sql");
    let rows = session.query(doing, sql, &[&Some(topic)]).await?;
    rows.iter().map(listing::mark_row).collect()
}

/// The rebuild is still there, and what it has passed still stands recorded as it was.
async fn same_as_begun(session: &Session, doing: &str, rebuild: &Rebuild) -> Result<()> {
    let sql = include_str!("../../sql/warehouse/read_rebuilds.sql");
    let rows = session.query(doing, sql, &[&Some(&*rebuild.model.topic)]).await?;
    let rows = rows.iter().map(rebuild_row).collect::<Result<Vec<_>>>()?;
    let output = rebuild.output();
    let Some(row) = rows.iter().find(|row| row.output == output) else {
        return Err(Error::fenced(format!("{doing}: it was swapped in or given up meanwhile")));
    };
    if row.definition != rebuild.definition() {
        return Err(Error::fenced(format!("{doing}: another one was begun meanwhile")));
    }
    if row.retried != row.retried_now {
        return Err(Error::halt(format!(
            "{doing}: dead letters were retried since it began, and it may have passed them: \
             `highwater replay {output} --abort`, then begin it again"
        )));
    }
    Ok(())
}
