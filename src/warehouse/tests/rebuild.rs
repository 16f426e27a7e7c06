//! New outputs swapped in, and outputs dropped, against processes that run the same model.

use super::*;
use crate::{
    error::Kind,
    warehouse::rebuild::{Rebuild, Standing},
};
use std::collections::BTreeMap;

const LETTERS: Output = Output::DeadLetters;

/// A topic whose dead letters stand at 5 in partition 0, and a rebuild of a new model that has come as far.
async fn caught_up(database: &Database) -> Rebuild {
    let warehouse = &database.warehouse;
    let declare = "INSERT INTO highwater.topics (topic, max_disorder, partitions, declared_at)
                   VALUES ('taps', '0', 2, now())";
    warehouse.query_text(declare).await.unwrap();
    let mark = take_one(warehouse, &LETTERS, 0).await;
    let moved = cut(vec![advance(&LETTERS, 0, &mark, 5)], Vec::new());
    warehouse.commit(&moved).await.unwrap();
    let begins = BTreeMap::from([(Partition(0), Offset(2))]);
    let rebuild = Rebuild::of(&Arc::new(global("all_taps"))).new_output(begins);
    warehouse.begin_rebuild(&rebuild).await.unwrap();
    let beside = own(&rebuild, &warehouse.take_rebuild(&rebuild, "a").await.unwrap());
    assert_eq!((beside.first, beside.next), (Offset(2), Offset(2)));
    let name = rebuild.shadow.name.clone();
    let advances = vec![advance(&rebuild.beside(), 0, &beside, 3)];
    warehouse.commit(&cut(advances, vec![rows_of(&name, taps(3))])).await.unwrap();
    rebuild
}

fn own(rebuild: &Rebuild, standing: &Standing) -> Mark {
    let mut marks = standing.of(&rebuild.beside());
    marks.next().expect("a mark").mark
}

async fn left_of_rebuilds(warehouse: &Warehouse) -> Vec<String> {
    let sql = "SELECT output FROM highwater.marks WHERE output LIKE '%rebuild%' UNION ALL
               SELECT relname::text FROM pg_class WHERE relname LIKE '\\_rebuild%' AND relkind = 'r' UNION ALL
               SELECT output FROM highwater.rebuilds";
    read(warehouse, sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_partitions_while_a_new_output_is_swapped_in_goes_on_where_it_stands() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let rebuild = caught_up(&database).await;
    let model = rebuild.model.clone();
    // It has the model's new file, and the table that it made is empty.
    let other = Warehouse::connect(&database.url, &WarehouseSettings::default()).await.unwrap();
    other.ensure_tables(&[model]).await.unwrap();
    let halt = warehouse.halt(&rebuild).await.unwrap();
    let outputs = [LETTERS, rebuild.output()];
    let taking = tokio::spawn(async move { other.take(&claim(&outputs, &[0])).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while read(warehouse, waits).await != ["1"] {
        tokio::task::yield_now().await;
    }
    warehouse.swap_rebuild(halt, &rebuild).await.unwrap();
    let taken = taking.await.unwrap().unwrap();
    let found =
        taken.marks.iter().find(|(output, ..)| *output == rebuild.output()).expect("a mark");
    assert_eq!((found.2.first, found.2.next), (Offset(2), Offset(5)));
    assert_eq!(found.2.fates.accepted, 3);
    assert_eq!(read(warehouse, "SELECT taps FROM all_taps").await, ["3"]);
    assert!(left_of_rebuilds(warehouse).await.is_empty());
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_output_that_somebody_has_begun_is_not_swapped_in() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let rebuild = caught_up(&database).await;
    warehouse.ensure_tables(std::slice::from_ref(&rebuild.model)).await.unwrap();
    let mark = take_one(warehouse, &rebuild.output(), 0).await;
    let advances = vec![advance(&rebuild.output(), 0, &mark, 1)];
    warehouse.commit(&cut(advances, vec![rows_of("all_taps", taps(1))])).await.unwrap();
    let halt = warehouse.halt(&rebuild).await.unwrap();
    let error = warehouse.swap_rebuild(halt, &rebuild).await.unwrap_err();
    assert_eq!(error.kind, Kind::Fenced, "{error}");
    assert!(error.context.contains("has begun to fill it by itself"), "{error}");
    let error = warehouse.begin_rebuild(&rebuild).await.unwrap_err();
    assert_eq!(error.kind, Kind::Fenced, "{error}");
    assert!(warehouse.abort_rebuild(TOPIC, "all_taps").await.unwrap());
    assert_eq!(read(warehouse, "SELECT taps FROM all_taps").await, ["1"]);
    assert!(left_of_rebuilds(warehouse).await.is_empty());
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_output_stands_where_the_topic_stands_or_is_not_swapped_in() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let rebuild = caught_up(&database).await;
    let mark = take_one(warehouse, &LETTERS, 0).await;
    warehouse.commit(&cut(vec![advance(&LETTERS, 0, &mark, 1)], Vec::new())).await.unwrap();
    let halt = warehouse.halt(&rebuild).await.unwrap();
    let error = warehouse.swap_rebuild(halt, &rebuild).await.unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    assert!(error.context.contains("it stands at 5, dead_letters at 6"), "{error}");
    assert!(
        read(warehouse, "SELECT FROM highwater.marks WHERE output = 'model:all_taps'")
            .await
            .is_empty()
    );
    // A table that nobody has filled by a mark is somebody's.
    warehouse.query_text("CREATE TABLE all_taps (taps bigint)").await.unwrap();
    warehouse.query_text("INSERT INTO all_taps VALUES (7)").await.unwrap();
    let error = warehouse.begin_rebuild(&rebuild).await.unwrap_err();
    assert!(error.kind == Kind::Config && error.context.contains("holds rows"), "{error}");
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_dropped_is_not_made_again_by_who_still_runs_it() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let other = Warehouse::connect(&database.url, &WarehouseSettings::default()).await.unwrap();
    other.ensure_tables(&[Arc::new(global("all_taps"))]).await.unwrap();
    let output = model_output("all_taps");
    let mark = take_one(&other, &output, 0).await;
    let advances = || vec![advance(&output, 0, &mark, 2)];
    other.commit(&cut(advances(), vec![rows_of("all_taps", taps(2))])).await.unwrap();
    let dropped = warehouse.drop_model("all_taps").await.unwrap();
    assert_eq!((dropped.tables, dropped.marks), (vec!["all_taps".to_owned()], 1));
    let more = cut(advances(), vec![rows_of("all_taps", taps(2))]);
    let error = other.commit(&more).await.unwrap_err();
    assert_eq!(error.kind, Kind::Fenced, "{error}");
    let error = other.take(&claim(std::slice::from_ref(&output), &[0])).await.unwrap_err();
    assert!(error.kind == Kind::Config && error.context.contains("was dropped"), "{error}");
    assert!(read(warehouse, "SELECT FROM highwater.marks").await.is_empty());
    assert_eq!(warehouse.drop_model("all_taps").await.unwrap(), Default::default());
    database.end().await;
}
