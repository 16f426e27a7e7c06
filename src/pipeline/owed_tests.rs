//! Files that are owed, against PostgreSQL and a directory.

use super::*;
use crate::{
    cut::{FileRange, LakeFile, Yield},
    record::{EventTime, Offset, Output, Partition, Span},
    source::kafka::{Kafka, KafkaSettings},
    warehouse::tests::{Database, TOPIC, advance, cut, read, take_one},
};
use std::sync::mpsc::Receiver;

struct World {
    database: Database,
    owed: Owed,
    news: Receiver<News>,
    _folder: tempfile::TempDir,
}

/// A topic of which one file is committed and not completed; None without a server.
async fn world() -> Option<World> {
    let database = Database::plain().await?;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&format!("file://{}", folder.path().display()), &[]).expect("a lake");
    let settings = KafkaSettings {
        brokers: "127.0.0.1:1".into(),
        topic_ids: true,
        group: "none".into(),
        properties: Default::default(),
        fetch_bytes: 1 << 20,
    };
    let (sender, news) = std::sync::mpsc::channel();
    let context = Context {
        runtime: tokio::runtime::Handle::current(),
        kafka: Kafka::new(&settings, Duration::ZERO).expect("a client"),
        warehouse: database.warehouse.clone(),
        owner: "test".into(),
        news: sender,
    };
    let owed = Owed::new(TOPIC.into(), store, context);
    let path = format!("{TOPIC}/1.parquet");
    let mark = take_one(&database.warehouse, &Output::Lake, 0).await;
    let upload = owed.store.begin(&path).await.expect("begin");
    let warehouse = &database.warehouse;
    warehouse.note_upload(TOPIC, &path, &upload, Partition(0), mark.epoch).await.expect("note");
    owed.store.put_part(&path, &upload, 0, "rows".into()).await.expect("put");
    let file = LakeFile {
        path,
        upload,
        parts: vec!["0+4".into()],
        bytes: 4,
        rows: 3,
        checksum: String::new(),
        ranges: vec![FileRange {
            partition: Partition(0),
            span: Span::new(mark.next, Offset(mark.next.0 + 3)),
            rows: 3,
            extra_rows: 0,
        }],
        event_time_min: EventTime(0),
        event_time_max: EventTime(1),
        schema: String::new(),
    };
    let moves = vec![advance(&Output::Lake, 0, &mark, 3)];
    warehouse.commit(&cut(moves, vec![Yield::Files(vec![file])])).await.expect("commit");
    Some(World { database, owed, news, _folder: folder })
}

impl World {
    async fn unfinished(&self) -> Vec<Unfinished> {
        self.database.warehouse.unfinished(TOPIC).await.expect("a list")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_owed_once_per_process_until_it_has_its_name() {
    let Some(world) = world().await else { return };
    let files = world.owed.owe(world.unfinished().await);
    assert_eq!((files.len(), world.owed.count()), (1, 1));
    assert!(world.owed.owe(world.unfinished().await).is_empty(), "a task has it already");
    world.owed.publish(files).await;
    assert_eq!(world.owed.count(), 0);
    assert!(world.unfinished().await.is_empty());
    assert!(world.news.try_recv().is_err(), "nothing to tell");
    world.database.end().await;
}

/// It was stopped before it copied; the file was completed by another, and is gone by the hand of
/// whoever maintains the lake. It is not lost, and nobody has to look.
#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_when_others_have_completed_a_file_does_not_call_it_lost() {
    let Some(world) = world().await else { return };
    let files = world.owed.owe(world.unfinished().await);
    let (path, upload) = (files[0].path.clone(), files[0].upload.clone());
    world.owed.store.complete(&path, &upload, 4).await.expect("the other owner");
    world.database.warehouse.completed(std::slice::from_ref(&path)).await.expect("noted");
    world.owed.store.remove(&path).await.expect("maintenance");
    world.owed.publish(files).await;
    assert_eq!(world.owed.count(), 0);
    assert!(world.news.try_recv().is_err(), "nobody is told to stop");
    assert_eq!(world.owed.store.size(&path).await.expect("asked"), None, "nothing came back");
    world.database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_file_that_is_nowhere_stops_the_topic_with_a_sentence() {
    let Some(world) = world().await else { return };
    let files = world.owed.owe(world.unfinished().await);
    world.owed.store.abort(&files[0].path, &files[0].upload).await.expect("by hand");
    world.owed.publish(files).await;
    let told = world.news.try_recv();
    let Ok(News::Halt(why)) = told else { panic!("not told") };
    assert!(why.contains("a committed file is lost"), "{why}");
    let owed = "SELECT count(*) FROM highwater.lake_files WHERE completed_at IS NULL";
    assert_eq!(read(&world.database.warehouse, owed).await, ["1"], "it stays owed");
    world.database.end().await;
}
