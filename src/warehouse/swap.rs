//! Snapshots of the source, beside the table and swapped in: what waits for their end, the transaction that
//! folds it, and what a person has to decide first.
//!
//! Owns: the tables `MODEL__snapshots` and `MODEL__staged`, N-1, N-3 and N-4. Does not own: when every partition
//! has been read far enough (`pipeline::snapshots`), the fold (`compute::changes`).
//!
//! SUBTLE: the model's lock (W-8) is held by cuts and by a swap, so they take turns.
//! 1. A cut that shows a snapshot not seen before writes it down. Where the table has rows, or the cut has
//!    changes of before, the changes of this cut and of all that follow are stored as they came, and neither
//!    the table nor the stored rows change. The first snapshot of an empty table has nothing beside which to
//!    wait: its rows are folded as they come.
//! 2. A swap folds what waited, in the order in which it was stored: pieces of it are cuts like any other
//!    (F-2). Rows of before the snapshot go last, so that those which it read again are not touched twice. The
//!    truncate that takes them is known to the fold from the beginning: the order makes no difference to F-1.
//! 3. What was to go is counted in the same transaction, before it goes. If it is too much, all is rolled back.

mod statements;

pub use statements::Swap;

use super::{
    Warehouse,
    following::{self, Following, fold_in},
    loads,
    merge::Way,
    postgres::Session,
    stored,
    tables::quoted,
};
use crate::{
    catalog::{Model, Topic},
    compute::changes::{self, ChangeDelta, Known, Seen, Truncate},
    error::{Error, Result},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Changes folded at a time while a snapshot is swapped in.
const PIECE_ROWS: i64 = 50_000;
/// A swap touches every row of the table. Cuts of its models wait meanwhile, and try again.
const SWAP_TIME_MAX: Duration = Duration::from_secs(3_600);

/// What has become of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It goes on, or has ended and waits for the partitions.
    Open,
    /// A person decides.
    Held,
    Applied,
    Discarded,
    /// A later one was applied before it had ended.
    Superseded,
}

impl State {
    const ALL: [Self; 5] =
        [Self::Open, Self::Held, Self::Applied, Self::Discarded, Self::Superseded];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Held => "held",
            Self::Applied => "applied",
            Self::Discarded => "discarded",
            Self::Superseded => "superseded",
        }
    }

    pub fn is_decided(self) -> bool {
        match self {
            Self::Open | Self::Held => false,
            Self::Applied | Self::Discarded | Self::Superseded => true,
        }
    }
}

/// A row of `MODEL__snapshots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    pub position: String,
    pub state: State,
    /// Its rows, and what came after them, wait.
    pub staged: bool,
    pub seen: Seen,
    /// A change was told from its position on.
    pub followed: bool,
    /// Of a swap that was tried: rows that go, rows that there were, records refused meanwhile.
    pub counts: Counts,
    pub decided_by: Option<String>,
}

/// What a swap would do, or did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub deletes: u64,
    pub rows: u64,
    pub refused: u64,
}

/// Who wants a snapshot swapped in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Nobody: it has ended.
    Ended,
    Accept {
        by: String,
    },
    Discard {
        by: String,
    },
}

impl SnapshotRow {
    /// Nothing more of it is sent.
    pub fn is_over(&self) -> bool {
        self.seen.ended || self.followed
    }

    /// Why it waits for a person, and what to do; None: it does not.
    pub fn sentence(&self, topic: &Topic, model: &str) -> Option<String> {
        if self.state != State::Held {
            return None;
        }
        let Counts { deletes, rows, refused } = self.counts;
        let share = |part: u64| format!("{:.1}%", part as f64 * 100.0 / rows.max(1) as f64);
        let allowed = topic.changes.as_ref().and_then(|spec| spec.snapshots.max_deletes());
        let allowed = allowed.map_or(0.0, |max_deletes| f64::from(max_deletes) / 1e4);
        let empty = match self.seen.reads {
            0 => "; it has no row at all",
            _ => "",
        };
        let refused = match refused {
            0 => String::new(),
            n => format!("; {n} records were refused since it began, which may be rows of it"),
        };
        let name = &topic.name;
        Some(format!(
            "{name}: a snapshot of the source would delete {deletes} of the {rows} rows of {model} ({}, allowed are \
             {allowed}%){refused}{empty}. The table stays as it was before it, and changes wait beside it, until \
             `highwater snapshot accept {name}` or `highwater snapshot discard {name}`",
            share(deletes)
        ))
    }
}

impl Counts {
    /// N-3. A snapshot that takes nothing needs nobody's leave.
    fn are_held(&self, max_deletes: u32) -> bool {
        let most = u128::from(self.rows) * u128::from(max_deletes);
        self.deletes > 0 && (self.refused > 0 || u128::from(self.deletes) * 1_000_000 > most)
    }
}

/// Writes down what a cut shows of snapshots, and gives the changes that are to be folded now. None: they wait.
pub(super) async fn admit(
    session: &Session,
    doing: &str,
    following: &Following,
    delta: &ChangeDelta,
) -> Result<Option<ChangeDelta>> {
    let swap = &following.swap;
    if swap.replaces.is_none() {
        return Ok(Some(delta.clone()));
    }
    let mut delta = delta.clone();
    if swap.is_bracketed {
        let loads = loads::read(session, doing, &swap.topic).await?;
        delta = delta.bracketed(&loads)?;
    }
    let mut rows: BTreeMap<String, SnapshotRow> = BTreeMap::new();
    for row in swap.read(session, doing).await? {
        rows.insert(row.position.clone(), row);
    }
    let waits = |rows: &BTreeMap<String, SnapshotRow>| {
        rows.values().any(|row| row.staged && !row.state.is_decided())
    };
    let mut changed = BTreeSet::new();
    for (position, seen) in delta.snapshots() {
        if !rows.contains_key(position) {
            if !swap.begins {
                continue;
            }
            let staged = waits(&rows)
                || delta.begins_before(position)
                || session.query(doing, &swap.has_rows, &[]).await?[0].get::<_, bool>(0);
            let row = SnapshotRow {
                position: position.clone(),
                state: State::Open,
                staged,
                seen: Seen::default(),
                followed: false,
                counts: Counts::default(),
                decided_by: None,
            };
            rows.insert(position.clone(), row);
        }
        let row = rows.get_mut(position).expect("just put there");
        let time = row.seen.time;
        row.seen.add(seen);
        if row.state.is_decided() {
            // By this time its truncate is known.
            row.seen.time = time;
        }
        changed.insert(position.clone());
    }
    for row in rows.values_mut().filter(|row| !row.state.is_decided() && !row.followed) {
        if delta.told().is_some_and(|told| told >= row.position.as_str()) {
            row.followed = true;
            changed.insert(row.position.clone());
        }
    }
    for position in &changed {
        swap.note(session, doing, &rows[position]).await?;
    }
    if rows.is_empty() {
        return Ok(Some(delta));
    }
    let known: Known = rows.values().map(|r| (r.position.clone(), r.seen.clone())).collect();
    delta = delta.lifted(&known)?;
    let discarded: BTreeSet<String> = rows
        .values()
        .filter(|row| row.state == State::Discarded)
        .map(|row| row.position.clone())
        .collect();
    if !discarded.is_empty() {
        delta = delta.without_reads(&discarded)?;
    }
    if !waits(&rows) {
        return Ok(Some(delta));
    }
    swap.stage(session, doing, &delta).await?;
    Ok(None)
}

/// All rows of before the snapshot are gone.
fn truncate_of(row: &SnapshotRow) -> Truncate {
    Truncate { position: row.position.clone(), offset: -1, partition: -1, time: row.seen.time }
}

/// The snapshot that is to be swapped in: of those that are not decided, the last one.
pub fn newest(rows: &[SnapshotRow]) -> Option<&SnapshotRow> {
    rows.iter().rev().find(|row| !row.state.is_decided())
}

impl Warehouse {
    /// The next cut of each of these models that deletes too much may do so.
    pub async fn accept_deletes(&self, models: &[Arc<Model>], by: &str) -> Result<()> {
        let doing = "accept deletes";
        self.within(doing, async {
            let session = self.begin(doing).await?;
            let names: Vec<&str> = models.iter().map(|model| &*model.name).collect();
            let sql = include_str!("../../sql/warehouse/accept_deletes.sql");
            session.execute(doing, sql, &[&names, &by]).await?;
            session.commit(doing).await
        })
        .await
    }

    /// Of a model over changes; empty if it has no tables yet.
    pub async fn snapshots_of(&self, model: &Model) -> Result<Vec<SnapshotRow>> {
        let Some(folding) = &model.folding else { return Ok(Vec::new()) };
        let swap = Swap::of(model, folding, "");
        let doing = format!("read the snapshots of {}", model.name);
        self.within(&doing, async {
            let session = self.session().await?;
            let sql = "SELECT to_regclass($1::text) IS NOT NULL";
            let there = session.query(&doing, sql, &[&quoted(&swap.shapes[0].table)]).await?;
            let rows = match there[0].get(0) {
                true => swap.read(&session, &doing).await?,
                false => Vec::new(),
            };
            session.give_back();
            Ok(rows)
        })
        .await
    }

    /// Swaps in the newest snapshot of a model, or discards all that wait. What it would do is told of a dry
    /// run. None: there is nothing to be done, or somebody else did it.
    ///
    /// # Errors
    /// `Retry`, `Unknown`: doing it again is right, whether or not it happened.
    pub async fn swap(
        &self,
        topic: &Topic,
        model: &Arc<Model>,
        wish: &Wish,
        dry_run: bool,
    ) -> Result<Option<SnapshotRow>> {
        let doing = format!("swap in a snapshot, model={}", model.name);
        match tokio::time::timeout(
            SWAP_TIME_MAX,
            self.swap_now(&doing, topic, model, wish, dry_run),
        )
        .await
        {
            Ok(swapped) => swapped,
            Err(_) => Err(Error::retry(format!(
                "{doing}: not done in time, seconds={}",
                SWAP_TIME_MAX.as_secs()
            ))),
        }
    }

    async fn swap_now(
        &self,
        doing: &str,
        topic: &Topic,
        model: &Arc<Model>,
        wish: &Wish,
        dry_run: bool,
    ) -> Result<Option<SnapshotRow>> {
        let table = self.table(&model.name)?;
        let following = table
            .following
            .as_ref()
            .ok_or_else(|| Error::halt(format!("{doing}: the model does not follow changes")))?;
        let swap = &following.swap;
        let changes = Arc::new(changes::Following::new(topic, model)?);
        let session = self.begin(doing).await?;
        let limit = format!("{}s", SWAP_TIME_MAX.as_secs());
        let sql = include_str!("../../sql/warehouse/limit_transaction.sql");
        session.query(doing, sql, &[&limit]).await?;
        self.lock_models(&session, doing, std::iter::once(&model.name)).await?;
        let mut rows = swap.read(&session, doing).await?;
        if swap.is_bracketed {
            self.end_loads(&session, doing, model, swap, &mut rows).await?;
        }
        let fits = |row: &&SnapshotRow| match wish {
            Wish::Ended => row.state == State::Open && row.is_over(),
            Wish::Accept { .. } => row.state == State::Held,
            Wish::Discard { .. } => true,
        };
        let Some(row) = newest(&rows).filter(fits) else {
            session.roll_back(doing).await?;
            return Ok(None);
        };
        let mut row = row.clone();
        row.counts = Counts {
            refused: refused(&session, doing, swap, &row.position).await?,
            rows: count(&session, doing, swap, &row.position).await?.0,
            deletes: 0,
        };
        let applies = !matches!(wish, Wish::Discard { .. });
        let mut truncates = following::truncates(&session, doing, following).await?;
        // Whole ones before it took their rows when they ended, whenever it is that this is done.
        let is_passed = |r: &SnapshotRow| {
            let is_empty = swap.is_bracketed && r.seen.reads == 0;
            applies
                && !is_empty
                && r.state == State::Open
                && r.seen.ended
                && r.position < row.position
        };
        let passed = rows.iter().filter(|r| is_passed(r)).map(truncate_of);
        let own: Vec<Truncate> = passed.chain(applies.then(|| truncate_of(&row))).collect();
        truncates.extend(own.iter().cloned());
        let waiting = |r: &&SnapshotRow| r.staged && !r.state.is_decided();
        let discarded = rows.iter().filter(waiting).map(|r| r.position.clone()).collect();
        let mut last = 0i64;
        loop {
            let found = session.query(doing, &swap.read_staged, &[&last]).await?;
            let Some(end) = found.last() else { break };
            last = end.get(swap.staged_columns.len());
            let piece = stored::batch(&swap.staged_columns, &found)?;
            let mut piece = ChangeDelta::staged(&changes, &piece)?;
            if !applies {
                piece = piece.without_reads(&discarded)?;
            }
            fold_in(&session, doing, &table, &piece, &mut truncates, Way::Arrays).await?;
        }
        row.counts.deletes = count(&session, doing, swap, &row.position).await?.1;
        let is_held = row.counts.are_held(swap.replaces.unwrap_or(0))
            || row.seen.reads == 0 && row.counts.deletes > 0;
        if *wish == Wish::Ended && is_held {
            session.roll_back(doing).await?;
            return match dry_run {
                true => Ok(Some(SnapshotRow { state: State::Held, ..row })),
                false => self.hold(doing, swap, model, row).await.map(Some),
            };
        }
        let nothing = ChangeDelta::nothing(&changes);
        for truncate in &own {
            following::remove(&session, doing, &table, &nothing, truncate).await?;
        }
        session.execute(doing, &swap.empty_staged, &[]).await?;
        let by = match wish {
            Wish::Ended => None,
            Wish::Accept { by } | Wish::Discard { by } => Some(by.clone()),
        };
        // Rows that did not wait are in the table: of such a snapshot only the end is left out.
        let given_up = |r: &SnapshotRow| match applies || !r.staged {
            _ if own.iter().any(|own| own.position == r.position) => State::Applied,
            true => State::Superseded,
            false => State::Discarded,
        };
        for before in rows.iter().filter(|r| !r.state.is_decided() && r.position < row.position) {
            let state = given_up(before);
            let before = SnapshotRow { state, decided_by: by.clone(), ..before.clone() };
            swap.note(&session, doing, &before).await?;
        }
        row.state = given_up(&row);
        row.decided_by = by;
        swap.note(&session, doing, &row).await?;
        match dry_run {
            true => session.roll_back(doing).await?,
            false => session.commit(doing).await?,
        }
        Ok(Some(row))
    }

    /// N-3: writes down why, with nothing else changed.
    async fn hold(
        &self,
        doing: &str,
        swap: &Swap,
        model: &Arc<Model>,
        row: SnapshotRow,
    ) -> Result<SnapshotRow> {
        let session = self.begin(doing).await?;
        self.lock_models(&session, doing, std::iter::once(&model.name)).await?;
        let rows = swap.read(&session, doing).await?;
        // What came meanwhile is kept.
        let now = rows.into_iter().find(|r| r.position == row.position);
        let held = match now {
            Some(now) if now.state == State::Open => {
                SnapshotRow { state: State::Held, counts: row.counts, ..now }
            }
            // Of a load of which nothing came, nobody has written anything.
            None if swap.is_bracketed => SnapshotRow { state: State::Held, ..row },
            Some(_) | None => {
                return Err(Error::retry(format!("{doing}: somebody else decided meanwhile")));
            }
        };
        swap.note(&session, doing, &held).await?;
        session.commit(doing).await?;
        Ok(held)
    }
}

/// How many rows there are, where the topic says how many a cut may delete, and this one may delete some.
pub(super) async fn rows_before(
    session: &Session,
    doing: &str,
    swap: &Swap,
    delta: &ChangeDelta,
) -> Result<Option<u64>> {
    match swap.max_cut_deletes {
        Some(_) if swap.begins && delta.may_delete() => {
            count(session, doing, swap, "").await.map(|(rows, _)| Some(rows))
        }
        Some(_) | None => Ok(None),
    }
}

/// N-4: of a cut that has taken too much, a person's leave is used up, or nothing of it is committed.
pub(super) async fn guard(
    session: &Session,
    doing: &str,
    swap: &Swap,
    model: &str,
    before: u64,
) -> Result<()> {
    let (after, _) = count(session, doing, swap, "").await?;
    let deletes = before.saturating_sub(after);
    let max = swap.max_cut_deletes.unwrap_or(0);
    if u128::from(deletes) * 1_000_000 <= u128::from(before) * u128::from(max) {
        return Ok(());
    }
    let sql = include_str!("../../sql/warehouse/use_accepted_deletes.sql");
    if session.execute(doing, sql, &[&model]).await? > 0 {
        return Ok(());
    }
    let topic = &swap.topic;
    Err(Error::halt(format!(
        "a cut would leave {after} of the {before} rows of {model} (max_cut_deletes = {}%): nothing of it is \
         committed. If the source did delete them: `highwater accept-deletes {topic}`, and start again",
        f64::from(max) / 1e4
    )))
}

/// Rows that the source has, and those of them that were there before the snapshot and are not in it.
async fn count(session: &Session, doing: &str, swap: &Swap, position: &str) -> Result<(u64, u64)> {
    let rows = session.query(doing, &swap.count, &[&position]).await?;
    Ok((rows[0].get::<_, i64>(0) as u64, rows[0].get::<_, i64>(1) as u64))
}

/// Records that were refused since the last change of before the snapshot, in any partition: each may have
/// been a row of it.
async fn refused(session: &Session, doing: &str, swap: &Swap, position: &str) -> Result<u64> {
    let topic: &str = &swap.topic;
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = match swap.is_bracketed {
        true => {
            let loads = loads::read(session, doing, topic).await?;
            let load = loads.iter().find(|load| load.position() == position);
            let from = load.into_iter().flat_map(|load| &load.from);
            from.map(|(partition, from)| (*partition, from - 1)).unzip()
        }
        false => {
            let rows = session.query(doing, &swap.last_before, &[&position]).await?;
            rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))).unzip()
        }
    };
    let sql = include_str!("../../sql/warehouse/refused_since.sql");
    let refused = session.query(doing, sql, &[&topic, &partitions, &offsets]).await?;
    Ok(refused[0].get::<_, i64>(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_takes_more_than_its_share_or_may_lack_a_row() {
        let held = |deletes, rows, refused, max| Counts { deletes, rows, refused }.are_held(max);
        assert!(!held(20, 100, 0, 200_000));
        assert!(held(21, 100, 0, 200_000));
        assert!(held(1, 100, 1, 200_000), "the row may be the one that was refused");
        assert!(!held(0, 100, 7, 0), "it takes nothing");
        assert!(held(1, u64::MAX, 0, 0) && !held(u64::MAX, u64::MAX, 0, 1_000_000));
    }
}
