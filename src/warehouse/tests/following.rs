//! Models over changes against PostgreSQL: streams of changes in cuts of any size, with processes that
//! lose what is open, give the tables that the reference of `compute::tests::changes` has, which takes
//! the changes one by one.

use super::*;
use crate::{
    catalog::Keeps,
    compute::tests::changes::{
        Change, DELETED, Declared, GROUPS, ROWS, Reference, Style, VERSIONS, admit, cuts, declared,
        fresh, steps, stream, style,
    },
    warehouse::swap::{State, Wish, newest},
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use std::collections::BTreeMap;

/// Streams per way of keeping rows; each has a table of its own to begin with.
const STREAMS: u32 = 40;

/// Commits the changes as cuts; gives how many orphans were counted.
async fn follow(
    warehouse: &Warehouse,
    declared: &Declared,
    changes: &[Change],
    sizes: &[u8],
) -> u64 {
    let output = model_output("m");
    let partitions: Vec<i32> = (0..4).collect();
    let (mut orphans, mut next) = (0, BTreeMap::new());
    let mut owned: BTreeMap<i32, Mark> = BTreeMap::new();
    let mut tables = fresh(declared);
    for (i, cut) in cuts(changes, sizes).into_iter().enumerate() {
        if i == 0 || sizes[i % sizes.len()] & 64 > 0 {
            // Another process.
            let claim = claim(std::slice::from_ref(&output), &partitions);
            let taken = warehouse.take(&claim).await.unwrap().marks;
            owned = taken.into_iter().map(|(_, partition, mark)| (partition.0, mark)).collect();
            tables = fresh(declared);
        }
        admit(declared, &mut tables, &cut);
        let mut advances = Vec::new();
        for (partition, mark) in &mut owned {
            let count = cut.iter().filter(|change| change.partition == *partition).count() as u64;
            let from = *next.entry(*partition).or_insert(0);
            assert_eq!(mark.next.0, from);
            advances.push(super::advance(&output, *partition, mark, count));
            mark.next = Offset(from + count as i64);
            next.insert(*partition, mark.next.0);
        }
        let yields = tables.seal().unwrap().tables.into_iter();
        let yields = yields.map(|(model, delta)| Yield::Table { model, delta });
        let cut = super::cut(advances, yields.collect());
        let committed = warehouse.commit(&cut).await.unwrap();
        orphans += committed.followed.iter().map(|(_, f)| f.orphans).sum::<u64>();
        if sizes[i % sizes.len()] & 32 > 0 {
            swap(warehouse, declared, changes, &next).await;
        }
    }
    swap(warehouse, declared, changes, &next).await;
    orphans
}

/// Swaps in what has ended, where all of it was committed; a person accepts what is held.
async fn swap(
    warehouse: &Warehouse,
    declared: &Declared,
    changes: &[Change],
    next: &BTreeMap<i32, i64>,
) {
    let (topic, model) = (&declared.topic, &declared.model);
    let rows = warehouse.snapshots_of(model).await.unwrap();
    let Some(row) = newest(&rows).filter(|row| row.is_over()) else { return };
    let position: u64 = row.position.parse().unwrap();
    let end = changes.iter().rposition(|c| c.position == position && c.snapshot.is_some());
    let end = if row.seen.ended { end.unwrap() } else { changes.len() - 1 };
    let waits = |c: &&Change| c.offset >= next.get(&c.partition).copied().unwrap_or(0);
    if changes[..=end].iter().any(|change| waits(&change)) {
        return;
    }
    let dry = warehouse.swap(topic, model, &Wish::Ended, true).await.unwrap();
    let row = warehouse.swap(topic, model, &Wish::Ended, false).await.unwrap();
    if row.as_ref().is_some_and(|row| row.state == State::Held) {
        let by = "a test".to_owned();
        let row = warehouse.swap(topic, model, &Wish::Accept { by }, false).await.unwrap();
        assert_eq!(row.map(|row| row.state), Some(State::Applied));
    } else {
        assert_eq!(dry.map(|row| row.counts), row.map(|row| row.counts));
    }
    assert_eq!(warehouse.swap(topic, model, &Wish::Ended, false).await.unwrap(), None);
}

/// What the model keeps, as the reference tells it.
async fn table(warehouse: &Warehouse, keeps: &Keeps) -> Vec<String> {
    let micros = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let columns = match keeps {
        Keeps::Rows => "k, a, b, g, c".to_owned(),
        Keeps::Deleted => format!("k, a, b, g, c, {}", micros("_deleted_at")),
        Keeps::Versions => {
            format!("k, a, b, g, c, {}, {}", micros("valid_from"), micros("valid_to"))
        }
        Keeps::Groups { .. } => "g, n, bs, total".to_owned(),
    };
    let mut rows = read(warehouse, &format!("SELECT {columns} FROM m")).await;
    rows.sort();
    rows
}

async fn streams_give_what_the_reference_has(statement: &str) {
    // The second: every delta of two rows or more by COPY.
    let copies = WarehouseSettings { insert_rows_max: 1, ..WarehouseSettings::default() };
    for settings in [WarehouseSettings::default(), copies] {
        let Some(database) = Database::new(&settings, "").await else { return };
        let mut runner = TestRunner::new(Config::default());
        for _ in 0..STREAMS / 2 {
            let sizes = prop::collection::vec(any::<u8>(), 1..9);
            let made = (style(), steps(60), sizes).new_tree(&mut runner).unwrap().current();
            let (style, steps, sizes): (Style, Vec<_>, Vec<u8>) = made;
            let declared = declared(statement, style);
            let keeps = declared.model.folding.as_ref().unwrap().keeps.clone();
            begin_anew(&database.warehouse, &declared.model).await;
            let changes = stream(&steps, style);
            let reference = Reference::of(&changes, style, &keeps);
            let orphans = follow(&database.warehouse, &declared, &changes, &sizes).await;
            let found = table(&database.warehouse, &keeps).await;
            assert_eq!(found, reference.table(), "{style:?} {steps:?} {sizes:?}");
            if !style.truncates && !style.snapshots {
                assert_eq!(orphans, reference.orphans, "{style:?} {steps:?} {sizes:?}");
            }
        }
        database.end().await;
    }
}

#[tokio::test]
async fn a_table_of_rows_is_what_the_source_has() {
    streams_give_what_the_reference_has(ROWS).await;
}

#[tokio::test]
async fn a_table_with_soft_deletes_keeps_what_the_source_had() {
    streams_give_what_the_reference_has(DELETED).await;
}

#[tokio::test]
async fn a_history_keeps_every_version() {
    streams_give_what_the_reference_has(VERSIONS).await;
}

#[tokio::test]
async fn groups_give_back_what_rows_had_added() {
    streams_give_what_the_reference_has(GROUPS).await;
}

/// A source's times need not ascend with its positions: here a row was deleted before a snapshot, at a later time
/// than the snapshot's, and is deleted again behind it, before or after the snapshot is swapped in.
#[tokio::test]
async fn a_row_that_is_deleted_twice_has_the_first_time_whenever_a_snapshot_is_swapped_in() {
    let (partitions, snapshots) = (1, true);
    let style = Style { partitions, sparse: false, by_offset: false, truncates: false, snapshots };
    let steps = [(0, 3, 1, 1), (0, 5, 1, 1), (10, 3, 251, 1), (3, 0, 1, 0), (10, 3, 1, 1)];
    let Some(database) = Database::new(&WarehouseSettings::default(), "").await else { return };
    let declared = declared(DELETED, style);
    let keeps = declared.model.folding.as_ref().unwrap().keeps.clone();
    let changes = stream(&steps, style);
    let told = Reference::of(&changes, style, &keeps).table();
    assert_eq!(told[0], "3|x|NULL|NULL|NULL|1700000000142550");
    for size in [1, 2, 8, 1 + 36, 2 + 36, 8 + 36] {
        begin_anew(&database.warehouse, &declared.model).await;
        follow(&database.warehouse, &declared, &changes, &[size]).await;
        assert_eq!(table(&database.warehouse, &keeps).await, told, "{size}");
    }
    database.end().await;
}
