//! The fold: stored rows and operations in, rows as they are afterwards out. Pure.
//!
//! Owns: the order of operations, what each does to its row. Does not own: expressions (`follow`).
//!
//! Values are not copied on the way: a row says for each column where its value lies, in what is
//! stored or in an operation.

use super::{
    Truncate,
    keys::{BEFORE, Keys, NOW, Named, STORED},
    open::overrides,
};
use crate::{
    catalog::{Folding, Images, Keeps, Order},
    error::{Error, Result},
};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, UInt32Array, make_comparator, new_null_array,
    },
    compute::{SortOptions, interleave, take_record_batch},
    datatypes::{Int32Type, Int64Type, Schema, TimestampMicrosecondType},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, binary_heap::PeekMut},
    sync::Arc,
};

/// (position, offset, partition): which of two changes is the later one (F-1).
pub type At<'a> = (&'a str, i64, i32);

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The row is this, whatever it was.
    Whole,
    /// The row is this, but for these of the columns beside the key. Without a row it is an orphan.
    Partial(Vec<usize>),
    /// As `Partial`; without a row the columns are NULL, and it is counted as well.
    Incomplete(Vec<usize>),
    Delete,
    Truncate,
}

/// Where operations and stored rows stand in the source's log.
pub struct Places<'a> {
    times: &'a TimestampMicrosecondArray,
    positions: &'a StringArray,
    partitions: &'a Int32Array,
    offsets: &'a Int64Array,
}

impl<'a> Places<'a> {
    pub fn new(folding: &Folding, batch: &'a RecordBatch) -> Self {
        let column = |i: usize| batch.column(folding.columns.len() + i);
        Self {
            times: column(0).as_primitive::<TimestampMicrosecondType>(),
            positions: column(1).as_string::<i32>(),
            partitions: column(2).as_primitive::<Int32Type>(),
            offsets: column(3).as_primitive::<Int64Type>(),
        }
    }

    pub fn at(&self, row: usize) -> At<'a> {
        (self.positions.value(row), self.offsets.value(row), self.partitions.value(row))
    }

    pub fn time(&self, row: usize) -> i64 {
        self.times.value(row)
    }
}

/// A batch of operations, read.
pub struct Ops<'a> {
    pub kind: Vec<Kind>,
    pub places: Places<'a>,
    moved: &'a BooleanArray,
    /// Whether it is a row of a snapshot.
    pub reads: &'a BooleanArray,
    /// The key before, and now.
    old: &'a [ArrayRef],
    new: &'a [ArrayRef],
}

impl<'a> Ops<'a> {
    pub fn new(folding: &Folding, batch: &'a RecordBatch) -> Self {
        let own = folding.columns.len() + 4;
        let ops = batch.column(own).as_string::<i32>();
        let unchanged = batch.column(own + 1).as_string::<i32>();
        let others = || folding.columns[folding.keys..].iter();
        let kind = (0..batch.num_rows()).map(|row| {
            let absent: Vec<usize> = match unchanged.is_valid(row) {
                true => {
                    let names: Vec<String> =
                        serde_json::from_str(unchanged.value(row)).unwrap_or_default();
                    let absent = |(_, (name, _)): &(usize, &(String, _))| names.contains(name);
                    others().enumerate().filter(absent).map(|(i, _)| i).collect()
                }
                false => Vec::new(),
            };
            match ops.value(row) {
                "delete" => Kind::Delete,
                "truncate" => Kind::Truncate,
                "update" if folding.images != Images::Full || !absent.is_empty() => {
                    Kind::Partial(absent)
                }
                _ if !absent.is_empty() => Kind::Incomplete(absent),
                _ => Kind::Whole,
            }
        });
        Self {
            kind: kind.collect(),
            places: Places::new(folding, batch),
            old: &batch.columns()[own + 2..own + 2 + folding.keys],
            new: &batch.columns()[..folding.keys],
            moved: batch.column(own + 2 + folding.keys).as_boolean(),
            reads: batch.column(own + 3 + folding.keys).as_boolean(),
        }
    }

    /// Partition by partition in offset order; of several the one that is behind in the source's log.
    fn in_order(&self) -> Vec<usize> {
        let mut partitions: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for row in (0..self.kind.len()).filter(|row| self.kind[*row] != Kind::Truncate) {
            partitions.entry(self.places.at(row).2).or_default().push(row);
        }
        let mut queues: Vec<_> = partitions
            .into_values()
            .map(|mut rows| {
                rows.sort_by_key(|row| self.places.at(*row).1);
                rows.into_iter()
            })
            .collect();
        let mut heads = BinaryHeap::with_capacity(queues.len());
        for (i, queue) in queues.iter_mut().enumerate() {
            heads.extend(queue.next().map(|row| Reverse((self.places.at(row), row, i))));
        }
        let mut order = Vec::with_capacity(self.kind.len());
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((_, row, i)) = *head;
            order.push(row);
            match queues[i].next() {
                Some(row) => *head = Reverse((self.places.at(row), row, i)),
                None => drop(PeekMut::pop(head)),
            }
        }
        order
    }

    /// Those that it names, beside those of stored rows.
    fn keys(&self, stored: Option<&'a RecordBatch>) -> Result<Keys<'a>> {
        let rows = stored.map_or(0, RecordBatch::num_rows);
        let stored = stored.map_or(self.new, |stored| &stored.columns()[..self.new.len()]);
        let changed = (0..self.kind.len()).filter(|row| self.kind[*row] != Kind::Truncate);
        let moved = changed.clone().filter(|row| self.moved.value(*row)).collect();
        Keys::new([
            Named { keys: stored, rows: (0..rows).collect() },
            Named { keys: self.new, rows: changed.collect() },
            Named { keys: self.old, rows: moved },
        ])
    }
}

/// Each key that an operation names, once, in order.
pub fn keys(folding: &Folding, ops: &RecordBatch) -> Result<RecordBatch> {
    let keys = Ops::new(folding, ops).keys(None)?;
    let schema = Schema::new(ops.schema().fields()[..folding.keys].to_vec());
    RecordBatch::try_new(Arc::new(schema), keys.columns(0..keys.len())?)
        .map_err(|e| Error::halt("take keys of changes").because(e))
}

/// Of each operation, whether it can be left out: truncates, which are known by now, and what the next
/// operation on the row overrides whatever is stored.
pub fn superfluous(folding: &Folding, ops: &RecordBatch) -> Result<Vec<bool>> {
    let read = Ops::new(folding, ops);
    let keys = read.keys(None)?;
    let mut out: Vec<bool> = read.kind.iter().map(|kind| *kind == Kind::Truncate).collect();
    if keys.len() == out.len() && read.moved.true_count() == 0 {
        // Each has a row of its own, as where rows are only inserted.
        return Ok(out);
    }
    let mut last: Vec<Option<usize>> = vec![None; keys.len()];
    for row in read.in_order() {
        let id = keys.id(NOW, row);
        if read.moved.value(row) {
            // The row that it was may give values to the one that it is.
            last[keys.id(BEFORE, row)] = None;
            last[id] = None;
            continue;
        }
        if let Some(before) = last[id].replace(row)
            // A person may discard the snapshot: what it overrides is needed then. And its rows are counted.
            && !read.reads.value(row)
            && !(folding.snapshots.is_bracketed() && read.reads.value(before))
        {
            out[before] |= overrides(&folding.keeps, &read.kind[before], &read.kind[row])
                && read.places.at(row) > read.places.at(before);
        }
    }
    Ok(out)
}

/// A row of the source, as far as it is known.
#[derive(Clone)]
struct Row<'a> {
    /// Of the columns beside the key: where each value lies.
    values: Values,
    at: At<'a>,
    time: i64,
    deleted: bool,
    /// Whether its values are known; of what is deleted they need not be.
    image: bool,
}

/// A batch (stored or operations) and a row of it.
type Place = (usize, usize);

#[derive(Clone)]
enum Values {
    Of(Place),
    Mixed(Arc<[Place]>),
}

impl Values {
    fn of(&self, column: usize) -> Place {
        match self {
            Self::Of(place) => *place,
            Self::Mixed(places) => places[column],
        }
    }
}

/// What the source had for a while.
struct Version<'a> {
    id: usize,
    values: Values,
    at: At<'a>,
    from: i64,
    to: Option<i64>,
}

/// The version of a row that holds.
#[derive(Clone, Copy)]
enum Holds {
    None,
    Stored,
    New(usize),
}

/// What a fold gives.
pub struct Folded {
    /// As they are stored from now on: the rows that an operation changed, by key.
    pub rows: RecordBatch,
    /// Of those, which were not stored.
    pub new: BooleanArray,
    /// Of those, which were stored, as rows of what was stored.
    pub before: Vec<u32>,
    /// Of a model that keeps versions: those that came. Columns as stored, and until when.
    pub versions: RecordBatch,
    pub until: Vec<Option<i64>>,
    /// Stored versions that hold no longer: partition, offset, until when.
    pub closed: Vec<(i32, i64, i64)>,
    pub orphans: u64,
    /// Operations that came too late for their row.
    pub old: u64,
}

/// Whether a change at this place came before the truncate, so that its row is gone.
pub fn removes(order: Order, truncate: &Truncate, at: At<'_>) -> bool {
    match order {
        Order::Source => {
            (truncate.position.as_str(), truncate.offset, truncate.partition) > (at.0, at.1, at.2)
        }
        Order::Offset => truncate.partition == at.2 && truncate.offset > at.1,
    }
}

struct Fold<'a> {
    folding: &'a Folding,
    truncates: &'a [Truncate],
    ops: &'a Ops<'a>,
    /// By key.
    rows: Vec<Option<Row<'a>>>,
    changed: Vec<bool>,
    holds: Vec<Holds>,
    versions: Vec<Version<'a>>,
    /// By key: when the stored version ended.
    closed: BTreeMap<usize, i64>,
    orphans: u64,
    old: u64,
    /// Whether the values at two places are equal, by column beside the key.
    equal: Box<dyn Fn(usize, Place, Place) -> bool + 'a>,
}

pub fn fold(
    folding: &Folding,
    stored: &RecordBatch,
    ops: &RecordBatch,
    truncates: &[Truncate],
) -> Result<Folded> {
    let read = Ops::new(folding, ops);
    let keys = read.keys(Some(stored))?;
    let places = Places::new(folding, stored);
    let flag = |i: usize| stored.column(folding.columns.len() + 4 + i).as_boolean();
    let (deleted, image) = (flag(0), flag(1));
    let mut fold = Fold {
        folding,
        truncates,
        ops: &read,
        rows: vec![None; keys.len()],
        changed: vec![false; keys.len()],
        holds: vec![Holds::None; keys.len()],
        versions: Vec::new(),
        closed: BTreeMap::new(),
        orphans: 0,
        old: 0,
        equal: comparison(folding, stored, ops)?,
    };
    for row in 0..stored.num_rows() {
        let id = keys.id(STORED, row);
        let known = Row {
            values: Values::Of((0, row)),
            at: places.at(row),
            time: places.time(row),
            deleted: deleted.value(row),
            image: image.value(row),
        };
        fold.holds[id] = if known.deleted { Holds::None } else { Holds::Stored };
        fold.rows[id] = Some(known);
    }
    for row in read.in_order() {
        let id = keys.id(NOW, row);
        let mut base = None;
        if read.moved.value(row) {
            let old = keys.id(BEFORE, row);
            base = fold.rows[old].clone().filter(|old| old.at < read.places.at(row));
            fold.delete(old, row);
        }
        fold.apply(id, row, base);
    }
    fold.folded(&keys, stored, ops, &places)
}

impl<'a> Fold<'a> {
    fn keeps_deleted(&self) -> bool {
        match self.folding.keeps {
            Keeps::Rows | Keeps::Groups { .. } => false,
            Keeps::Deleted | Keeps::Versions => true,
        }
    }

    /// F-1: what is stored is as late, or a truncate after it makes it meaningless.
    fn is_old(&self, id: usize, at: At<'_>) -> bool {
        let removed = |t: &Truncate| removes(self.folding.order, t, at);
        self.rows[id].as_ref().is_some_and(|row| at <= row.at)
            || (!self.keeps_deleted() && self.truncates.iter().any(removed))
    }

    /// Whether the row was there just before a change at this place.
    fn was_there(&self, row: &Row<'_>, at: At<'_>) -> bool {
        let between = |t: &Truncate| {
            removes(self.folding.order, t, row.at) && !removes(self.folding.order, t, at)
        };
        row.image && !row.deleted && !self.truncates.iter().any(between)
    }

    fn apply(&mut self, id: usize, op: usize, base: Option<Row<'a>>) {
        let kind = &self.ops.kind[op];
        if *kind == Kind::Delete {
            return self.delete(id, op);
        }
        let at = self.ops.places.at(op);
        if self.is_old(id, at) {
            self.old += 1;
            return;
        }
        let own = self.rows[id].as_ref().filter(|row| self.was_there(row, at));
        let base = base.as_ref().filter(|row| self.was_there(row, at));
        let values = match (kind, base.or(own)) {
            (Kind::Whole, _) => Values::Of((1, op)),
            (Kind::Partial(absent) | Kind::Incomplete(absent), Some(row)) => {
                let of = |column| match absent.contains(&column) {
                    true => row.values.of(column),
                    false => (1, op),
                };
                let others = self.folding.columns.len() - self.folding.keys;
                Values::Mixed((0..others).map(of).collect())
            }
            (Kind::Partial(_), None) => {
                self.orphans += 1;
                return;
            }
            (Kind::Incomplete(_), None) => {
                self.orphans += 1;
                Values::Of((1, op))
            }
            (Kind::Delete | Kind::Truncate, _) => return,
        };
        // Sent again, and not a version of its own.
        if self.folding.keeps == Keeps::Versions
            && let Some(row) = own.filter(|row| !at.0.is_empty() && row.at.0 == at.0)
        {
            let others = 0..self.folding.columns.len() - self.folding.keys;
            if others.into_iter().all(|c| (self.equal)(c, row.values.of(c), values.of(c))) {
                return;
            }
        }
        let time = self.ops.places.time(op);
        self.close(id, time);
        if self.folding.keeps == Keeps::Versions {
            self.holds[id] = Holds::New(self.versions.len());
            let values = values.clone();
            self.versions.push(Version { id, values, at, from: time, to: None });
        }
        self.changed[id] = true;
        self.rows[id] = Some(Row { values, at, time, deleted: false, image: true });
    }

    fn delete(&mut self, id: usize, op: usize) {
        let (at, time) = (self.ops.places.at(op), self.ops.places.time(op));
        if self.is_old(id, at) {
            self.old += 1;
            return;
        }
        self.close(id, time);
        self.changed[id] = true;
        let keeps_image = self.folding.keeps == Keeps::Deleted;
        let tombstone = Row { values: Values::Of((1, op)), at, time, deleted: true, image: false };
        self.rows[id] = Some(match self.rows[id].take() {
            // What is deleted already stays so since then.
            Some(row) if keeps_image && row.deleted => Row { at, ..row },
            Some(row) if keeps_image => Row { at, time, deleted: true, ..row },
            Some(_) | None => tombstone,
        });
    }

    /// The version that holds ends.
    fn close(&mut self, id: usize, time: i64) {
        match std::mem::replace(&mut self.holds[id], Holds::None) {
            Holds::None => {}
            Holds::Stored => drop(self.closed.insert(id, time)),
            Holds::New(version) => self.versions[version].to = Some(time),
        }
    }

    fn folded(
        self,
        keys: &Keys<'_>,
        stored: &RecordBatch,
        ops: &RecordBatch,
        places: &Places<'_>,
    ) -> Result<Folded> {
        let ids: Vec<usize> = (0..self.rows.len()).filter(|id| self.changed[*id]).collect();
        let rows: Vec<&Row<'_>> = ids.iter().filter_map(|id| self.rows[*id].as_ref()).collect();
        let mut columns = keys.columns(ids.iter().copied())?;
        columns.extend(self.values(
            stored,
            ops,
            rows.iter().map(|r| r.image.then_some(&r.values)),
        )?);
        columns.extend(place_columns(rows.iter().map(|row| (row.at, row.time))));
        columns.push(Arc::new(rows.iter().map(|row| Some(row.deleted)).collect::<BooleanArray>()));
        columns.push(Arc::new(rows.iter().map(|row| Some(row.image)).collect::<BooleanArray>()));
        let failed = |e| Error::halt("build folded rows").because(e);
        let rows = RecordBatch::try_new(stored.schema(), columns).map_err(failed)?;

        let new = ids.iter().map(|id| Some(keys.stored(*id).is_none())).collect();
        let before = ids.iter().filter_map(|id| keys.stored(*id)).map(|row| row as u32).collect();

        let mut columns = keys.columns(self.versions.iter().map(|version| version.id))?;
        columns.extend(self.values(stored, ops, self.versions.iter().map(|v| Some(&v.values)))?);
        columns.extend(place_columns(self.versions.iter().map(|v| (v.at, v.from))));
        let count = self.versions.len();
        columns.push(Arc::new(BooleanArray::from(vec![false; count])));
        columns.push(Arc::new(BooleanArray::from(vec![true; count])));
        let versions = RecordBatch::try_new(stored.schema(), columns).map_err(failed)?;
        let until = self.versions.iter().map(|version| {
            let removed = self.truncates.iter();
            let removed = removed.filter(|t| removes(self.folding.order, t, version.at));
            let ends = removed.map(|t| t.time).chain(version.to).min();
            ends.map(|end| end.max(version.from))
        });
        let until = until.collect();
        let closed = self.closed.iter().map(|(id, time)| {
            let row = keys.stored(*id).expect("what is closed was stored");
            let (_, offset, partition) = places.at(row);
            (partition, offset, *time)
        });
        let closed = closed.collect();
        let (orphans, old) = (self.orphans, self.old);
        Ok(Folded { rows, new, before, versions, until, closed, orphans, old })
    }

    /// The columns beside the key of these rows; NULL where there is no image.
    fn values<'r>(
        &self,
        stored: &RecordBatch,
        ops: &RecordBatch,
        rows: impl Iterator<Item = Option<&'r Values>>,
    ) -> Result<Vec<ArrayRef>> {
        let rows: Vec<_> = rows.collect();
        let column = |i: usize| {
            let at = self.folding.keys + i;
            let nothing = new_null_array(ops.column(at).data_type(), 1);
            let arrays: [&dyn Array; 3] = [stored.column(at), ops.column(at), &nothing];
            let places: Vec<Place> =
                rows.iter().map(|row| row.map_or((2, 0), |values| values.of(i))).collect();
            interleave(&arrays, &places).map_err(|e| Error::halt("take folded values").because(e))
        };
        (0..self.folding.columns.len() - self.folding.keys).map(column).collect()
    }
}

/// Event time, position, partition, offset.
fn place_columns<'a>(places: impl Iterator<Item = (At<'a>, i64)> + Clone) -> Vec<ArrayRef> {
    let times = TimestampMicrosecondArray::from_iter_values(places.clone().map(|(_, time)| time));
    vec![
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(places.clone().map(|(at, _)| at.0))),
        Arc::new(Int32Array::from_iter_values(places.clone().map(|(at, _)| at.2))),
        Arc::new(Int64Array::from_iter_values(places.map(|(at, _)| at.1))),
    ]
}

type Equal<'a> = Box<dyn Fn(usize, Place, Place) -> bool + 'a>;

fn comparison<'a>(
    folding: &Folding,
    stored: &'a RecordBatch,
    ops: &'a RecordBatch,
) -> Result<Equal<'a>> {
    if folding.keeps != Keeps::Versions {
        return Ok(Box::new(|_, _, _| false));
    }
    let failed = |e| Error::halt("compare versions").because(e);
    let mut columns = Vec::new();
    for at in folding.keys..folding.columns.len() {
        let sides = [stored.column(at), ops.column(at)];
        let compare = |a: usize, b: usize| {
            make_comparator(sides[a], sides[b], SortOptions::default()).map_err(failed)
        };
        columns.push([[compare(0, 0)?, compare(0, 1)?], [compare(1, 0)?, compare(1, 1)?]]);
    }
    Ok(Box::new(move |column, a, b| columns[column][a.0][b.0](a.1, b.1).is_eq()))
}

/// These of the stored rows.
pub fn chosen(stored: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    take_record_batch(stored, &UInt32Array::from(rows.to_vec()))
        .map_err(|e| Error::halt("take stored rows").because(e))
}
