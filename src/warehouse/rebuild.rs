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
//! SUBTLE: the steps of a swap. The live output's marks are locked: no cut of it is under way, and its
//! owner's next one waits. What the rebuild has still to read up to them is committed meanwhile, on
//! another connection, which asks for no lock held here. Then the rebuild's marks are locked, both are
//! compared, tables and totals are exchanged, and the live marks are looked at once more: a partition
//! that the topic got meanwhile has a mark which was not locked, and may have brought rows. Live
//! marks first and the rebuild's second, and nobody else locks a rebuild's marks while it waits for a
//! live one: `lock_lane` and its like leave them out.

mod windows;

use super::{
    MarkRow, Warehouse,
    commit::advance,
    encode::Instant,
    exchange::{Exchange, exchange},
    finality::FinalView,
    listing,
    postgres::{Parameter, Row, Session},
    tables::{self, Table},
};
use crate::{
    catalog::Model,
    error::{Error, Kind, Result},
    record::{EventTime, Fates, IdleAdvance, Mark, Offset, Output, Partition},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Before the name of a model: its rebuild. No declared name begins with a line.
pub const PREFIX: &str = "_rebuild_";

/// One statement of a swap may take so long: it compares whole tables.
const SWAP_STATEMENT: Duration = Duration::from_secs(600);
/// Readers hold a table that is replaced by another one for no longer than this, or the swap is tried again.
const SWAP_LOCK: Duration = Duration::from_secs(5);

/// Which output, and as what it is made anew.
#[derive(Debug, Clone)]
pub struct Rebuild {
    /// As declared: `NAME`.
    pub model: Arc<Model>,
    /// The same by the name of its rebuild.
    pub shadow: Arc<Model>,
    /// Only the windows that begin then or later.
    pub since: Option<EventTime>,
}

impl Rebuild {
    pub fn of(model: &Arc<Model>) -> Self {
        let name = format!("{PREFIX}{}", model.name);
        let shadow = Model { name: name.into(), ..Model::clone(model) };
        Self { model: model.clone(), shadow: Arc::new(shadow), since: None }
    }

    pub fn since(self, since: Option<EventTime>) -> Self {
        Self { since, ..self }
    }

    /// What fills its tables.
    fn definition(&self) -> String {
        let all = self.model.fingerprint();
        self.since.map_or(all.clone(), |since| format!("{all} since {}", since.0))
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

/// What a model's table was filled by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// There is none.
    Absent,
    /// The model as it is declared; or nobody knows, since the comment was taken off.
    Same,
    /// Another definition.
    Other,
}

/// What a swap has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swapped {
    /// Of all partitions: the live output's before, and now.
    pub before: Fates,
    pub after: Fates,
    pub rows_written: u64,
    pub rows_removed: u64,
    /// The definition is another one: the tables themselves were exchanged.
    pub replaced: bool,
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
        let sql = include_str!("../../sql/warehouse/begin_rebuild.sql");
        self.change(&doing, sql, &[&topic, &output, &shadow, &definition]).await?;
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
        let (live, beside) = (rebuild.output(), rebuild.beside());
        let is_there = |partition| {
            let own = |m: &&MarkRow| m.output == beside && m.partition == partition;
            marks.iter().find(own).is_some()
        };
        let starts = match rebuild.since {
            Some(_) => self.rebuild_starts(rebuild).await?,
            None => BTreeMap::new(),
        };
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
        let starts = match rebuild.since {
            Some(_) => self.rebuild_starts(rebuild).await?,
            None => BTreeMap::new(),
        };
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
        let session = self.begin(doing).await?;
        let sql = include_str!("../../sql/warehouse/insert_rebuild_marks.sql");
        let (partitions, from): (Vec<i32>, Vec<i64>) =
            starts.iter().map(|(partition, from)| (partition.0, from.0)).unzip();
        let values: [Parameter; 6] = [&topic, &output, &shadow, &owner, &partitions, &from];
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

    /// Locks the live output's marks. Dropped, it goes on as if nothing had been.
    pub async fn halt(&self, rebuild: &Rebuild) -> Result<Halt> {
        let doing = format!("halt {} for its swap", rebuild.output());
        let (topic, output) = (&*rebuild.model.topic, rebuild.output().to_string());
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
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
    pub async fn swap_rebuild(
        &self,
        halt: Halt,
        rebuild: &Rebuild,
        changed: bool,
    ) -> Result<Swapped> {
        let doing = format!("swap in the rebuild of {}", rebuild.output());
        let Halt { session, partitions, .. } = halt;
        let topic: &str = &rebuild.model.topic;
        let (output, shadow) = (rebuild.output().to_string(), rebuild.beside().to_string());
        let limit = |limit: Duration| format!("{}ms", limit.as_millis());
        let sql = include_str!("../../sql/warehouse/limit_swap.sql");
        session.query(&doing, sql, &[&limit(SWAP_STATEMENT), &limit(SWAP_LOCK)]).await?;
        let sql = include_str!("../../sql/warehouse/lock_output_marks.sql");
        session.query(&doing, sql, &[&topic, &shadow]).await?;
        same_as_begun(&session, &doing, rebuild).await?;
        let sql = include_str!("../../sql/warehouse/unequal_marks.sql");
        if let Some(row) = session
            .query(&doing, sql, &[&topic, &output, &shadow, &rebuild.since.is_some()])
            .await?
            .first()
        {
            let next =
                |at| row.get::<_, Option<i64>>(at).map_or("nothing".into(), |n| n.to_string());
            return Err(Error::retry(format!(
                "{doing}: in {topic}/{} it stands at {}, the live output at {}",
                row.get::<_, i32>(0),
                next(2),
                next(1)
            )));
        }
        let marks = marks_of(&session, &doing, topic).await?;
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
        if rebuild.since.is_some() {
            let swapped =
                windows::swap(session, &doing, rebuild, &partitions, after.absent).await?;
            return Ok(Swapped { before, after: before, ..swapped });
        }
        let live = Table::new(&rebuild.model);
        let beside = Table::new(&rebuild.shadow);
        let mut swapped = match changed {
            true => replace(&session, &doing, rebuild, &live, &beside).await?,
            false => exchange_rows(&session, &doing, rebuild).await?,
        };
        let sql = include_str!("../../sql/warehouse/swap_marks.sql");
        let moved = session.execute(&doing, sql, &[&topic, &output, &shadow, &changed]).await?;
        for sql in [
            include_str!("../../sql/warehouse/swap_letters.sql"),
            include_str!("../../sql/warehouse/refresh_swapped_letters.sql"),
            include_str!("../../sql/warehouse/follow_refusals.sql"),
            include_str!("../../sql/warehouse/drop_swapped_refusals.sql"),
            include_str!("../../sql/warehouse/swap_refusals.sql"),
        ] {
            session.execute(&doing, sql, &[&topic, &output, &shadow]).await?;
        }
        let sql = include_str!("../../sql/warehouse/drop_reference_uses.sql");
        session.execute(&doing, sql, &[&topic, &output]).await?;
        let sql = include_str!("../../sql/warehouse/swap_reference_uses.sql");
        session.execute(&doing, sql, &[&topic, &output, &shadow]).await?;
        let sql = include_str!("../../sql/warehouse/drop_output_marks.sql");
        session.execute(&doing, sql, &[&topic, &shadow]).await?;
        let sql = include_str!("../../sql/warehouse/end_rebuild.sql");
        session.execute(&doing, sql, &[&topic, &output]).await?;
        let mut now = marks_of(&session, &doing, topic).await?;
        now.retain(|m| m.output == rebuild.output());
        let now: Vec<i32> = now.iter().map(|m| m.partition.0).collect();
        if now != partitions || moved != partitions.len() as u64 {
            return Err(Error::retry(format!("{doing}: {topic} got a partition meanwhile")));
        }
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
            let dropped = drop_tables(&session, &doing, &name).await?;
            let sql = include_str!("../../sql/warehouse/end_rebuild.sql");
            let ended = session.execute(&doing, sql, &[&topic, &output]).await?;
            session.commit(&doing).await?;
            Ok(ended > 0 || dropped > 0)
        })
        .await
    }

    /// By which definition the models' tables were filled, in the same order.
    pub async fn filled(&self, models: &[Arc<Model>]) -> Result<Vec<Filled>> {
        let names: Vec<String> = models.iter().map(|model| model.name.to_string()).collect();
        let sql = include_str!("../../sql/warehouse/read_definitions.sql");
        let rows = self.read("read what tables were filled by", sql, &[&names]).await?;
        let filled = |model: &Arc<Model>| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == &*model.name);
            match row.map(|row| row.get::<_, Option<String>>(1)) {
                None => Filled::Absent,
                Some(None) => Filled::Same,
                Some(Some(comment)) if comment == tables::definition_comment(model) => Filled::Same,
                Some(Some(_)) => Filled::Other,
            }
        };
        Ok(models.iter().map(filled).collect())
    }

    /// B-3: a process that knows a model by another definition than its table was filled by would mix rows
    /// of both. Asked under the lock of its marks.
    pub(super) async fn refuse_other_definitions(
        &self,
        session: &Session,
        doing: &str,
        outputs: impl Iterator<Item = &Output>,
    ) -> Result<()> {
        let known = outputs.filter_map(|output| match output {
            Output::Model(name) => self.table(name).ok(),
            Output::Lake | Output::DeadLetters => None,
        });
        let known: Vec<Arc<Table>> = known.collect();
        if known.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = known.iter().map(|table| table.model.to_string()).collect();
        let sql = include_str!("../../sql/warehouse/read_definitions.sql");
        for row in session.query(doing, sql, &[&names]).await? {
            let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
            let ours = known.iter().find(|table| *table.model == *name);
            if let (Some(ours), Some(comment)) = (ours, comment)
                && ours.definition != comment
            {
                return Err(Error::config(format!(
                    "the table of model {name} was rebuilt by another definition than this process runs: start it \
                     again with the model's new file"
                )));
            }
        }
        Ok(())
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
            "{doing}: dead letters of {output} were retried since it began, and it may have passed them: \
             `highwater replay {output} --abort`, then begin it again"
        )));
    }
    Ok(())
}

async fn exchange_rows(session: &Session, doing: &str, rebuild: &Rebuild) -> Result<Swapped> {
    let (live, beside) = (Table::new(&rebuild.model), Table::new(&rebuild.shadow));
    let part = rebuild.part();
    let mut swapped = Swapped::default();
    for (kept, rebuilt) in live.shapes().zip(beside.shapes()) {
        let Exchange { add, is_done, remove } = exchange(kept, rebuilt, part.as_deref());
        swapped.rows_written += session.execute(doing, &add, &[]).await?;
        if !session.query(doing, &is_done, &[]).await?[0].get::<_, bool>(0) {
            swapped.rows_removed += session.execute(doing, &remove, &[]).await?;
        }
    }
    drop_tables(session, doing, &beside.model).await?;
    Ok(swapped)
}

/// The rebuild's tables take the names of the live ones, with their grants.
async fn replace(
    session: &Session,
    doing: &str,
    rebuild: &Rebuild,
    live: &Table,
    beside: &Table,
) -> Result<Swapped> {
    let names: Vec<String> = live.shapes().map(|shape| shape.table.clone()).collect();
    let sql = include_str!("../../sql/warehouse/read_grants.sql");
    let view = rebuild.model.final_view();
    let of_view = session.query(doing, sql, &[&vec![view.as_str()]]).await?;
    let of_tables = session.query(doing, sql, &[&names]).await?;
    // Its columns may be others now; of a model without windows there is none any more.
    if FinalView::is_there(session, doing, &view).await? {
        session.batch(doing, &format!("DROP VIEW {}", tables::quoted(&view))).await?;
    }
    drop_tables(session, doing, &live.model).await?;
    for ((kept, rebuilt), (_, comment)) in live.shapes().zip(beside.shapes()).zip(live.creates()) {
        let (from, to) = (tables::quoted(&rebuilt.table), tables::quoted(&kept.table));
        session.batch(doing, &format!("ALTER TABLE {from} RENAME TO {to}")).await?;
        session.batch(doing, comment).await?;
    }
    if let Some(view) = FinalView::of(&rebuild.model) {
        view.ensure(session).await?;
        grant(session, doing, &of_view).await?;
    }
    grant(session, doing, &of_tables).await?;
    Ok(Swapped { replaced: true, ..Swapped::default() })
}

async fn grant(session: &Session, doing: &str, grants: &[Row]) -> Result<()> {
    for row in grants {
        session.batch(doing, row.get(0)).await?;
    }
    Ok(())
}

/// Whatever a definition of the model has made; how many.
async fn drop_tables(session: &Session, doing: &str, model: &str) -> Result<usize> {
    let sql = include_str!("../../sql/warehouse/tables_of_model.sql");
    let found = session.query(doing, sql, &[&model]).await?;
    for row in &found {
        let name: String = row.get(0);
        let dropped = session.batch(doing, &format!("DROP TABLE {}", tables::quoted(&name))).await;
        dropped.map_err(|error| match error.kind {
            Kind::Halt => Error::halt(format!(
                "{doing}: table {name} cannot be dropped. Views of your own over it are to be dropped first, and made \
                 again afterwards: its columns are others then"
            ))
            .because(error),
            Kind::Retry | Kind::Unknown | Kind::Fenced | Kind::Config => error,
        })?;
    }
    Ok(found.len())
}
