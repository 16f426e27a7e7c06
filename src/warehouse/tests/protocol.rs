//! Taking, committing, fencing, lost connections, lake files: W-1, W-3, W-4.

use super::*;
use crate::{
    cut::{DeadLetter, FileRange, LakeFile, Raw, UploadId},
    error::{Error, Kind},
    warehouse::DeadLetterFilter,
};
use bytes::Bytes;
use std::time::Duration;

const MODEL: &str = "all_taps";

async fn with_model(database: &Database) -> Output {
    database.warehouse.ensure_tables(&[Arc::new(global(MODEL))]).await.unwrap();
    model_output(MODEL)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_moves_marks_and_rows_together() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let output = with_model(&database).await;
    let outputs = [Output::DeadLetters, output.clone()];
    let taken = warehouse.take(&claim(&outputs, &[0, 1])).await.unwrap().marks;
    assert_eq!(taken.len(), 4);
    let of = |o: &Output, p: i32| taken.iter().find(|t| t.0 == *o && t.1.0 == p).unwrap().2;
    let mut refused = advance(&Output::DeadLetters, 1, &of(&Output::DeadLetters, 1), 7);
    refused.fates = Fates { filtered: 6, dead: 1, ..Fates::default() };
    let mut mixed = advance(&output, 1, &of(&output, 1), 7);
    mixed.fates =
        Fates { accepted: 2, filtered: 1, late: 1, dead: 1, absent: 1, duplicate: 1, lost: 0 };
    let letter = DeadLetter {
        output: Output::DeadLetters,
        partition: Partition(1),
        offset: 3,
        timestamp: EventTime(1_700_000_000_123_000),
        class: "malformed",
        column: None,
        reason: "a NUL \0 stands here".into(),
        raw: Some(Raw {
            key: None,
            value: Some(Bytes::from_static(b"{\0")),
            headers: vec![("trace".into(), Some(Bytes::from_static(b"abc")))],
        }),
        refused_by: vec![(Output::DeadLetters, Some(EventTime(5))), (output.clone(), None)],
    };
    let yields = vec![rows_of(MODEL, taps(2)), Yield::DeadLetters(vec![letter.clone()])];
    warehouse.commit(&cut(vec![refused, mixed.clone()], yields)).await.unwrap();

    assert_eq!(read(warehouse, "SELECT taps FROM all_taps").await, ["2"]);
    let marks = warehouse.marks(Some(TOPIC)).await.unwrap();
    let mark = marks.iter().find(|m| m.output == output && m.partition == Partition(1)).unwrap();
    assert_eq!(mark.mark.next, Offset(7));
    assert_eq!(mark.mark.fates, mixed.fates);
    assert_eq!(mark.mark.event_time_max, mixed.event_time_max);
    assert!(mark.committed_at.is_some() && mark.owner == "test");
    assert!(marks.iter().any(|m| m.partition == Partition(0) && m.committed_at.is_none()));

    let letters = warehouse.dead_letters(&DeadLetterFilter::default(), 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "a NUL \u{fffd} stands here");
    assert_eq!(letters[0].value.as_deref(), letter.raw.unwrap().value.as_deref());
    assert_eq!(letters[0].timestamp, letter.timestamp);
    assert_eq!(letters[0].headers, r#"[{"name": "trace", "value": "abc"}]"#);
    let counts = warehouse.dead_letter_counts(&DeadLetterFilter::default()).await.unwrap();
    assert_eq!((counts[0].class.as_str(), counts[0].count), ("malformed", 1));
    let (_, refusals) = warehouse.dead_letters_at(TOPIC, Partition(1), 3).await.unwrap();
    let by: Vec<_> = refusals.into_iter().map(|r| (r.output, r.event_time_max)).collect();
    assert_eq!(by, [(Output::DeadLetters, Some(EventTime(5))), (output, None)]);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_an_old_epoch_or_from_elsewhere_changes_nothing_and_is_fenced() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let output = with_model(&database).await;
    let old = take_one(warehouse, &output, 0).await;
    let new = take_one(warehouse, &output, 0).await;
    assert_eq!((old.epoch.0, new.epoch.0), (1, 2));
    let elsewhere = Mark { next: Offset(5), ..new };
    for (mark, found) in [(old, "taps/0@0 epoch 2"), (elsewhere, "taps/0@0 epoch 2")] {
        // One mark of the two is right: it must not move either.
        let lake = take_one(warehouse, &model_output("other"), 1).await;
        let advances =
            vec![advance(&model_output("other"), 1, &lake, 3), advance(&output, 0, &mark, 3)];
        let error =
            warehouse.commit(&cut(advances, vec![rows_of(MODEL, taps(3))])).await.unwrap_err();
        assert_eq!(error.kind, Kind::Fenced, "{error}");
        assert!(error.context.contains(&format!("found={found}")), "{error}");
    }
    assert!(read(warehouse, "SELECT * FROM all_taps").await.is_empty());
    let moved = "SELECT * FROM highwater.marks WHERE next_offset > 0";
    assert!(read(warehouse, moved).await.is_empty());
    // The connection is as good as before.
    let advances = vec![advance(&output, 0, &new, 3)];
    warehouse.commit(&cut(advances, vec![rows_of(MODEL, taps(3))])).await.unwrap();
    assert_eq!(read(warehouse, "SELECT taps FROM all_taps").await, ["3"]);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_fences_models_that_the_taker_does_not_know_but_not_the_other_lane() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let (a, b) = (model_output("a"), model_output("b"));
    let old = take_one(warehouse, &a, 0).await;
    let other_partition = take_one(warehouse, &a, 1).await;
    let lake = take_one(warehouse, &Output::Lake, 0).await;
    let taken = warehouse.take(&claim(std::slice::from_ref(&b), &[0])).await.unwrap().marks;
    assert_eq!(taken.len(), 1, "only what was claimed is told");
    let error = warehouse.commit(&cut(vec![advance(&a, 0, &old, 1)], vec![])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Fenced);
    let advances = vec![advance(&a, 1, &other_partition, 1)];
    warehouse.commit(&cut(advances, vec![])).await.unwrap();
    let advances = vec![advance(&Output::Lake, 0, &lake, 1)];
    warehouse.commit(&cut(advances, vec![])).await.unwrap();
    let error = warehouse.take(&Claim { lane: Lane::Lake, ..claim(&[a], &[0]) }).await.unwrap_err();
    assert_eq!(error.kind, Kind::Halt);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fates_that_do_not_add_up_are_refused_here_and_by_the_server() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let output = with_model(&database).await;
    let mark = take_one(warehouse, &output, 0).await;
    let mut wrong = advance(&output, 0, &mark, 3);
    wrong.fates.dead = 1;
    let error = warehouse.commit(&cut(vec![wrong], vec![])).await.unwrap_err();
    assert!(error.kind == Kind::Halt && error.context.starts_with("I-3"), "{error}");
    let sql = "UPDATE highwater.marks SET next_offset = 9";
    let error = warehouse.query_text(sql).await.unwrap_err();
    assert!(error.to_string().contains("each_offset_has_one_fate"), "{error}");
    database.end().await;
}

fn file(path: &str, upload: &str, rows: u64) -> LakeFile {
    LakeFile {
        path: path.into(),
        upload: UploadId(upload.into()),
        parts: vec!["tag1".into(), "tag2".into()],
        bytes: 1_000,
        rows,
        checksum: "00".into(),
        ranges: vec![FileRange {
            partition: Partition(0),
            span: Span::new(Offset(0), Offset(rows as i64)),
            rows,
            extra_rows: 0,
        }],
        event_time_min: EventTime(1),
        event_time_max: EventTime(2),
        schema: "ff".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_noted_committed_completed_and_an_upload_left_over_is_known() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let lake = Output::Lake;
    let mark = take_one(warehouse, &lake, 0).await;
    let good = file("taps/a.parquet", "u1", 5);
    let committed = |mark: &Mark, file: &LakeFile| {
        let mut advance = advance(&lake, 0, mark, 5);
        advance.sequence = 1;
        cut(vec![advance], vec![Yield::Files(vec![file.clone()])])
    };

    let error = warehouse.commit(&committed(&mark, &good)).await.unwrap_err();
    assert!(error.kind == Kind::Halt && error.context.starts_with("W-4"), "{error}");
    for (path, upload) in [("taps/a.parquet", "u1"), ("taps/b.parquet", "u2")] {
        let upload = UploadId(upload.into());
        warehouse.note_upload(TOPIC, path, &upload, Partition(0), mark.epoch).await.unwrap();
    }
    assert!(warehouse.abandoned(TOPIC).await.unwrap().is_empty(), "both may still be committed");
    warehouse.commit(&committed(&mark, &good)).await.unwrap();
    let unfinished = warehouse.unfinished(TOPIC).await.unwrap();
    assert_eq!(unfinished.len(), 1);
    assert_eq!(unfinished[0].upload, good.upload);

    let again = take_one(warehouse, &lake, 0).await;
    assert_eq!((again.next, again.sequence), (Offset(5), 1));
    let left_over = [("taps/b.parquet".to_owned(), UploadId("u2".into()))];
    assert_eq!(warehouse.abandoned(TOPIC).await.unwrap(), left_over);
    // Nobody can commit it any more: neither its old owner nor, without a new note, the new one.
    for mark in [&Mark { next: Offset(5), ..mark }, &again] {
        let left = file("taps/b.parquet", "u2", 5);
        let error = warehouse.commit(&committed(mark, &left)).await.unwrap_err();
        assert!(matches!(error.kind, Kind::Fenced | Kind::Halt), "{error}");
    }
    warehouse.forget_uploads(&[UploadId("u2".into())]).await.unwrap();
    assert!(warehouse.abandoned(TOPIC).await.unwrap().is_empty());
    warehouse.completed(&[good.path]).await.unwrap();
    assert!(warehouse.unfinished(TOPIC).await.unwrap().is_empty());
    let ranges = "SELECT sum(r.rows) - (SELECT accepted FROM highwater.marks WHERE output = 'lake') \
                  FROM highwater.lake_file_ranges r";
    assert_eq!(read(warehouse, ranges).await, ["0"]);
    database.end().await;
}

/// The whole of a worker's duty after an error: take anew, believe the mark.
async fn commit_until_done(warehouse: &Warehouse, output: &Output, total: i64) -> Vec<Error> {
    let mut errors = Vec::new();
    while errors.len() < 1_000 {
        let mark = match warehouse.take(&claim(std::slice::from_ref(output), &[0])).await {
            Ok(taken) => taken.marks[0].2,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let mut next = mark;
        while next.next.0 < total {
            let cut = cut(vec![advance(output, 0, &next, 1)], vec![rows_of(MODEL, taps(1))]);
            if let Err(error) = warehouse.commit(&cut).await {
                errors.push(error);
                break;
            }
            next.next = Offset(next.next.0 + 1);
        }
        if next.next.0 == total {
            return errors;
        }
    }
    panic!("no end of errors, the last: {:?}", errors.last())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_killed_at_any_time_lose_and_double_nothing() {
    let Some(database) = Database::plain().await else { return };
    let output = with_model(&database).await;
    let total = 1_500;
    let worker = {
        let (warehouse, output) = (database.warehouse.clone(), output.clone());
        tokio::spawn(async move { commit_until_done(&warehouse, &output, total).await })
    };
    let killer = Warehouse::connect(&database.url, &WarehouseSettings::default()).await.unwrap();
    let mut kills = 0;
    while !worker.is_finished() {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        kills += read(&killer, sql).await[0].parse::<u32>().unwrap();
        // Not a wait for anything: it spreads the kills over all steps of a commit.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..60))).await;
    }
    let errors = worker.await.unwrap();
    assert!(!errors.is_empty() && kills > 0);
    for error in &errors {
        assert!(matches!(error.kind, Kind::Retry | Kind::Unknown), "{error}");
    }
    assert_eq!(read(&killer, "SELECT taps FROM all_taps").await, [total.to_string()]);
    let unknown = errors.iter().filter(|error| error.kind == Kind::Unknown).count();
    println!("kills={kills} errors={} of which unknown={unknown}", errors.len());
    killer.close().await;
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_waits_for_the_commit_in_flight_and_sees_what_it_left() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let output = with_model(&database).await;
    let mark = take_one(warehouse, &output, 0).await;
    // Somebody else holds the table's row, so that the commit stands still between mark and COMMIT.
    let advances = vec![advance(&output, 0, &mark, 1)];
    warehouse.commit(&cut(advances, vec![rows_of(MODEL, taps(1))])).await.unwrap();
    let holder = warehouse.begin("hold").await.unwrap();
    holder.batch("hold", "SELECT FROM all_taps FOR UPDATE").await.unwrap();
    let mark = Mark { next: Offset(1), ..mark };
    let commit = {
        let (warehouse, output) = (warehouse.clone(), output.clone());
        let cut = cut(vec![advance(&output, 0, &mark, 1)], vec![rows_of(MODEL, taps(1))]);
        tokio::spawn(async move { warehouse.commit(&cut).await })
    };
    waiting(warehouse, 1).await;
    let take = {
        let (warehouse, output) = (warehouse.clone(), output.clone());
        tokio::spawn(async move { take_one(&warehouse, &output, 0).await })
    };
    waiting(warehouse, 2).await;
    assert!(!take.is_finished());
    holder.roll_back("let go").await.unwrap();
    commit.await.unwrap().unwrap();
    assert_eq!(take.await.unwrap().next, Offset(2));
    database.end().await;
}

/// Until so many sessions wait for a lock.
async fn waiting(warehouse: &Warehouse, count: usize) {
    let sql = "SELECT FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while read(warehouse, sql).await.len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_too_long_did_not_happen() {
    let short = WarehouseSettings {
        statement_timeout: Duration::from_millis(200),
        ..WarehouseSettings::default()
    };
    let Some(database) = Database::new(&short, "").await else { return };
    let output = with_model(&database).await;
    let mark = take_one(&database.warehouse, &output, 0).await;
    let patient = Warehouse::connect(&database.url, &WarehouseSettings::default()).await.unwrap();
    let holder = patient.begin("hold").await.unwrap();
    holder.batch("hold", "LOCK TABLE all_taps").await.unwrap();
    let cut = cut(vec![advance(&output, 0, &mark, 1)], vec![rows_of(MODEL, taps(1))]);
    let error = database.warehouse.commit(&cut).await.unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    assert!(error.context.contains("sqlstate=57014"), "{error}");
    holder.roll_back("let go").await.unwrap();
    database.warehouse.commit(&cut).await.unwrap();
    patient.close().await;
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_halts_and_names_the_model() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let output = with_model(&database).await;
    let mark = take_one(warehouse, &output, 0).await;
    let first = cut(vec![advance(&output, 0, &mark, 1)], vec![rows_of(MODEL, taps(i64::MAX))]);
    warehouse.commit(&first).await.unwrap();
    let mark = Mark { next: Offset(1), ..mark };
    let second = cut(vec![advance(&output, 0, &mark, 1)], vec![rows_of(MODEL, taps(1))]);
    let error = warehouse.commit(&second).await.unwrap_err();
    assert_eq!(error.kind, Kind::Halt, "{error}");
    assert!(error.context.contains("model=all_taps failed, sqlstate=22003"), "{error}");
    assert_eq!(warehouse.marks(None).await.unwrap()[0].mark.next, Offset(1));
    database.end().await;
}
