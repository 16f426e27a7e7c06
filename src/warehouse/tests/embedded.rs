//! The database within the process, by the same code.
#![cfg(feature = "embedded")]

use super::{merging, *};
use crate::error::Kind;
use arrow::array::Int64Array;

/// Large enough to go by COPY.
fn many(from: i64) -> RecordBatch {
    let keys = from..from + 3_000;
    batch(vec![
        ("id", Arc::new(Int64Array::from_iter_values(keys.clone()))),
        ("taps", Arc::new(Int64Array::from_iter_values(keys))),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_database_keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", directory.path().join("db").display());
    let settings = WarehouseSettings::default();
    let by_id = grouped(
        "by_id",
        vec![("id", PgType::BigInt, Role::Key), ("taps", PgType::BigInt, Role::Part(Merge::Add))],
    );
    let models = [by_id, append("everything")].map(Arc::new);
    let outputs = ["by_id", "everything"].map(model_output);
    for life in 0..2i64 {
        let warehouse = Warehouse::connect(&url, &settings).await.unwrap();
        warehouse.migrate().await.unwrap();
        warehouse.ensure_tables(&models).await.unwrap();
        let taken = warehouse.take(&claim(&outputs, &[0])).await.unwrap().marks;
        let mut marks: Vec<_> = taken.iter().map(|t| t.2).collect();
        assert_eq!((marks[0].next.0, marks[0].epoch.0), (9 * life, life + 1));
        for _ in 0..3 {
            let offset = marks[0].next.0;
            let advances =
                (0..2).map(|i| advance(&outputs[i], 0, &marks[i], 3)).collect::<Vec<_>>();
            let rows = merging::every_type(offset);
            let yields = vec![rows_of("everything", rows), rows_of("by_id", many(offset))];
            warehouse.commit(&cut(advances, yields)).await.unwrap();
            marks.iter_mut().for_each(|mark| mark.next = Offset(offset + 3));
        }
        // An error in the middle of a transaction, then a refusal: the next one goes well.
        let wrong = vec![rows_of("by_id", many(0)), rows_of("everything", merging::every_type(0))];
        let advances = vec![advance(&outputs[0], 0, &marks[0], 3)];
        let error = warehouse.commit(&cut(advances, wrong)).await.unwrap_err();
        assert_eq!(error.kind, Kind::Halt, "{error}");
        let old = Mark { next: Offset(0), ..marks[0] };
        let cut = cut(vec![advance(&outputs[0], 0, &old, 3)], vec![rows_of("by_id", many(0))]);
        let error = warehouse.commit(&cut).await.unwrap_err();
        assert_eq!(error.kind, Kind::Fenced, "{error}");

        let cuts = 3 * (life + 1);
        let sql = "SELECT count(*), sum(taps) FROM by_id";
        let sum: i64 = (0..cuts).map(|c| (3 * c..3 * c + 3_000).sum::<i64>()).sum();
        let keys = 3_000 + 3 * (cuts - 1);
        assert_eq!(read(&warehouse, sql).await, [format!("{keys}|{sum}")]);
        let rows = read(&warehouse, merging::READ_EVERY_TYPE).await;
        assert_eq!(rows.len() as i64, 3 * cuts);
        assert_eq!(rows[rows.len() - 3..], merging::EVERY_TYPE);
        warehouse.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_client_is_refused_and_a_caller_that_goes_away_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let server = crate::warehouse::embedded::Server::start(&directory.path().join("db")).unwrap();
    // The pool of `embedded:` has one connection; these two do not know of each other.
    let url = format!(
        "postgres://postgres@{}/postgres?sslmode=disable",
        server.socket_directory().display().to_string().replace('/', "%2F")
    );
    let one = WarehouseSettings { max_connections: 1, ..Default::default() };
    let first = Warehouse::connect(&url, &one).await.unwrap();
    let error = Warehouse::connect(&url, &one).await.map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::Retry);
    assert!(error.context.contains("53300"), "{error}");

    first.query_text("CREATE TABLE t (n int)").await.unwrap();
    for _ in 0..3 {
        let session = first.begin("go away").await.unwrap();
        session.batch("go away", "INSERT INTO t VALUES (1)").await.unwrap();
        drop(session);
        assert_eq!(read(&first, "SELECT count(*) FROM t").await, ["0"]);
    }
    first.close().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_opened_is_a_mistake_in_the_settings() {
    let url = "embedded:/dev/null/db";
    let error = Warehouse::connect(url, &WarehouseSettings::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::Config, "{error}");
}
