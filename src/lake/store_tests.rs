//! One set of promises, kept by a local directory and, where there is one, by an S3 server.

use super::*;
use crate::error::Kind;

/// What every store promises, under a folder of its own.
async fn keeps_its_promises(store: &Store) {
    store.probe().await.unwrap();
    let folder = format!("taps-{}/hour=08", Uuid::new_v4());
    let path = format!("{folder}/value=a%2Fb/1.parquet");
    // S3 wants 5 MiB in all parts but the last.
    let parts = [Bytes::from(vec![1; 5 << 20]), Bytes::from_static(b"end")];
    let total = (5 << 20) + 3;

    let upload = store.begin(&path).await.unwrap();
    let mut tags = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        // Put twice, as after a lost answer.
        store.put_part(&path, &upload, number, part.clone()).await.unwrap();
        tags.push(store.put_part(&path, &upload, number, part.clone()).await.unwrap());
    }
    assert_eq!(store.size(&path).await.unwrap(), None, "visible before it was completed");
    assert_eq!(store.list(&folder).await.unwrap(), []);

    store.seal(&path, &upload, &tags).await.unwrap();
    assert_eq!(store.size(&path).await.unwrap(), None, "visible when it was sealed");
    assert_eq!(store.list("").await.unwrap().iter().filter(|(p, _)| *p == path).count(), 0);

    store.complete(&path, &upload, total).await.unwrap();
    assert_eq!(store.size(&path).await.unwrap(), Some(total));
    assert_eq!(store.list(&folder).await.unwrap(), [(path.clone(), total)]);
    let bytes = store.read(&path).await.unwrap();
    assert_eq!(bytes, parts.concat());

    store.complete(&path, &upload, total).await.expect("completing again changes nothing");
    store.abort(&path, &upload).await.expect("aborting what is completed changes nothing");
    assert_eq!(store.size(&path).await.unwrap(), Some(total));

    let dropped = format!("{folder}/2.parquet");
    let upload = store.begin(&dropped).await.unwrap();
    store.put_part(&dropped, &upload, 0, Bytes::from_static(b"gone")).await.unwrap();
    store.abort(&dropped, &upload).await.unwrap();
    store.abort(&dropped, &upload).await.expect("aborting again changes nothing");
    let error = store.complete(&dropped, &upload, 4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Halt, "{error}");
    assert!(error.to_string().contains(&dropped), "{error}");

    let upload = store.begin(&dropped).await.unwrap();
    let tag = store.put_part(&dropped, &upload, 0, Bytes::from_static(b"gone")).await.unwrap();
    store.seal(&dropped, &upload, &[tag]).await.unwrap();
    store.abort(&dropped, &upload).await.expect("what is sealed can be aborted");
    let error = store.complete(&dropped, &upload, 4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Halt, "{error}");
    assert_eq!(store.list(&folder).await.unwrap(), [(path, total)]);
    assert_eq!(store.list("no-such-folder").await.unwrap(), []);
    let missing = store.read(&dropped).await.unwrap_err();
    assert_eq!(missing.kind, Kind::Halt, "{missing}");
}

fn local() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}/new/lake", dir.path().display()), &[]).unwrap();
    (dir, store)
}

#[tokio::test]
async fn a_local_directory_keeps_the_promises_of_a_store() {
    let (_dir, store) = local();
    keeps_its_promises(&store).await;
}

#[tokio::test]
async fn another_process_can_complete_an_upload_and_aborts_what_a_crash_left() {
    let (_dir, store) = local();
    let root = store.describe();
    let (path, orphan) = ("taps/1.parquet", "taps/2.parquet");
    let upload = store.begin(path).await.unwrap();
    let tag = store.put_part(path, &upload, 0, Bytes::from_static(b"rows")).await.unwrap();
    let left = store.begin(orphan).await.unwrap();
    store.put_part(orphan, &left, 0, Bytes::from_static(b"half")).await.unwrap();
    drop(store);

    let other = Store::open(&root, &[]).unwrap();
    assert_eq!(other.list("").await.unwrap(), [], "staging is hidden");
    other.seal(path, &upload, &[tag]).await.unwrap();
    other.complete(path, &upload, 4).await.unwrap();
    other.abort(orphan, &left).await.unwrap();
    assert_eq!(other.list("").await.unwrap(), [(path.to_string(), 4)]);
    assert_eq!(other.read(path).await.unwrap(), "rows");
}

#[tokio::test]
async fn a_part_put_again_with_less_leaves_nothing_of_the_first() {
    let (_dir, store) = local();
    let path = "taps/1.parquet";
    let upload = store.begin(path).await.unwrap();
    store.put_part(path, &upload, 0, Bytes::from_static(b"abc")).await.unwrap();
    store.put_part(path, &upload, 1, Bytes::from_static(b"defgh")).await.unwrap();
    let tag = store.put_part(path, &upload, 1, Bytes::from_static(b"de")).await.unwrap();
    assert_eq!(tag, "3+2");
    store.complete(path, &upload, 5).await.unwrap();
    assert_eq!(store.read(path).await.unwrap(), "abcde");
}

#[tokio::test]
async fn a_staged_file_of_another_length_is_not_published() {
    let (_dir, store) = local();
    let path = "taps/1.parquet";
    let upload = store.begin(path).await.unwrap();
    store.put_part(path, &upload, 0, Bytes::from_static(b"half")).await.unwrap();
    let error = store.complete(path, &upload, 9).await.unwrap_err();
    assert_eq!(error.kind, Kind::Halt, "{error}");
    assert_eq!(store.size(path).await.unwrap(), None);
}

/// One file, whole and staged by `store`.
async fn staged(store: &Store, path: &str, bytes: &'static [u8]) -> UploadId {
    let upload = store.begin(path).await.unwrap();
    let tag = store.put_part(path, &upload, 0, Bytes::from_static(bytes)).await.unwrap();
    store.seal(path, &upload, &[tag]).await.unwrap();
    upload
}

/// Processes that complete and tidy at once, as after a take-over: none is wrong, none is first.
async fn many_complete_one_file(store: &Store) {
    for round in 0..30 {
        let path = format!("taps-{}/{round}.parquet", Uuid::new_v4());
        let upload = staged(store, &path, b"rows").await;
        let all = (0..4).map(|_| store.complete(&path, &upload, 4));
        for outcome in futures::future::join_all(all).await {
            outcome.expect("whoever comes second finds it done");
        }
        assert_eq!(store.read(&path).await.unwrap(), "rows");
        // A zombie that wakes long after: the same bytes, or nothing at all.
        store.complete(&path, &upload, 4).await.unwrap();
        store.abort(&path, &upload).await.unwrap();
        assert_eq!(store.read(&path).await.unwrap(), "rows");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_completed_by_several_at_once_is_there_once_and_whole() {
    let (_dir, store) = local();
    many_complete_one_file(&store).await;
    if let Some(store) = s3(&bucket(), None) {
        many_complete_one_file(&store).await;
    }
}

/// What an owner before began and a new one aborts is tried again as a whole, and stops nobody.
async fn a_zombie_is_told_to_begin_anew(store: &Store) {
    let path = format!("taps-{}/1.parquet", Uuid::new_v4());
    let upload = store.begin(&path).await.unwrap();
    let tag = store.put_part(&path, &upload, 0, Bytes::from(vec![1; 5 << 20])).await.unwrap();
    store.abort(&path, &upload).await.unwrap();
    let part = store.put_part(&path, &upload, 1, Bytes::from_static(b"end")).await;
    let error = part.unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    assert!(error.to_string().contains("aborted meanwhile"), "{error}");
    if let Place::Remote(_) = store.place {
        let error = store.seal(&path, &upload, &[tag]).await.unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{error}");
    }
    assert_eq!(store.size(&path).await.unwrap(), None);
}

#[tokio::test]
async fn an_upload_that_was_aborted_under_its_owner_begins_anew() {
    let (_dir, store) = local();
    a_zombie_is_told_to_begin_anew(&store).await;
    if let Some(store) = s3(&bucket(), None) {
        a_zombie_is_told_to_begin_anew(&store).await;
    }
}

/// What the sweep needs: only its own, dated by the store, nothing before the first part.
async fn lists_and_removes_what_is_staged(store: Store) {
    let (mine, other) = (Uuid::new_v4(), Uuid::new_v4());
    let foreign = store.clone().of_warehouse(other);
    let store = store.of_warehouse(mine);
    let path = format!("taps-{}/1.parquet", Uuid::new_v4());
    let begun = store.begin(&path).await.unwrap();
    assert_eq!(store.list_staged().await.unwrap(), [], "S-4");
    let before = store.now().await.unwrap();
    let upload = staged(&store, &path, b"rows").await;
    staged(&foreign, &path, b"rows").await;
    let listed = store.list_staged().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].name, crate::lake::leftovers::staged_name(&upload.0));
    let now = store.now().await.unwrap();
    // S3 dates to the second.
    assert!(
        (before - 1_000_000..=now + 1_000_000).contains(&listed[0].modified),
        "{before} {listed:?} {now}"
    );
    store.remove_staged(&listed[0].name).await.unwrap();
    store.remove_staged(&listed[0].name).await.expect("removing again changes nothing");
    assert_eq!(store.list_staged().await.unwrap(), []);
    assert_eq!(foreign.list_staged().await.unwrap().len(), 1, "another warehouse's stays");
    store.abort(&path, &begun).await.unwrap();

    let upload = staged(&store, &path, b"rows").await;
    store.complete(&path, &upload, 4).await.unwrap();
    let folder = path.split_once('/').unwrap().0;
    let listed = store.list_dated(folder).await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, path.as_str()));
    store.remove(&path).await.unwrap();
    store.remove(&path).await.expect("removing again changes nothing");
    assert_eq!(store.list(folder).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_staged_is_listed_for_its_own_warehouse_and_can_be_removed() {
    let (_dir, store) = local();
    lists_and_removes_what_is_staged(store).await;
    if let Some(store) = s3(&bucket(), None) {
        lists_and_removes_what_is_staged(store).await;
    }
}

/// Real folders: what each trouble of a disk is, and that nothing is lost when it is over.
#[tokio::test]
async fn trouble_with_a_directory_passes_and_nothing_committed_is_called_lost() {
    let (dir, store) = local();
    let root = dir.path().join("new/lake");
    let (path, upload) = ("taps/1.parquet", staged(&store, "taps/1.parquet", b"rows").await);

    // Not mounted, or moved away.
    let away = dir.path().join("away");
    std::fs::rename(&root, &away).unwrap();
    let error = store.complete(path, &upload, 4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    assert!(error.to_string().contains("bring it back"), "{error}");
    let other = store.begin(path).await.unwrap();
    let error = store.put_part(path, &other, 0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    assert_eq!(store.probe().await.unwrap_err().kind, Kind::Config);
    std::fs::rename(&away, &root).unwrap();
    store.complete(path, &upload, 4).await.unwrap();

    // A file where a folder should be.
    std::fs::write(root.join("bus"), "in the way").unwrap();
    let upload = staged(&store, "bus/1.parquet", b"rows").await;
    let error = store.complete("bus/1.parquet", &upload, 4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Halt, "{error}");
    std::fs::remove_file(root.join("bus")).unwrap();
    store.complete("bus/1.parquet", &upload, 4).await.unwrap();

    // A disk that is full says so at every write; this one always is.
    let upload = store.begin(path).await.unwrap();
    let full = root.join(".highwater/staging").join(&upload.0);
    std::os::unix::fs::symlink("/dev/full", full).unwrap();
    let error = store.put_part(path, &upload, 0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
}

#[tokio::test]
async fn paths_cannot_leave_the_lake() {
    let (_dir, store) = local();
    for path in ["../x", "taps/../../x", "/etc/passwd", "", ".highwater/staging/x"] {
        assert_eq!(store.size(path).await.unwrap_err().kind, Kind::Halt, "{path}");
    }
}

#[test]
fn what_is_wrong_with_an_url_is_said() {
    let cases = [
        ("taps", "not the URL of a lake"),
        ("ftp://x/y", "not the URL of a lake"),
        ("file://relative", "three slashes"),
        ("s3:///prefix", "no bucket"),
        #[cfg(not(feature = "gcs"))]
        ("gs://bucket", "--features gcs"),
        #[cfg(not(feature = "azure"))]
        ("az://bucket", "--features azure"),
    ];
    for (url, expected) in cases {
        let Err(error) = Store::open(url, &[]) else { panic!("{url} was opened") };
        assert_eq!(error.kind, Kind::Config);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let plain = [("AWS_ENDPOINT".to_string(), "http://127.0.0.1:9000".to_string())];
    let Err(error) = Store::open("s3://bucket", &plain) else { panic!("plain http was taken") };
    assert!(error.to_string().contains("AWS_ALLOW_HTTP=true"), "{error}");
}

#[test]
fn the_description_keeps_secrets() {
    let options = [
        ("AWS_ENDPOINT", "https://user:pass@s3.example"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("aws_secret_access_key", "hidden"),
        ("AWS_PROFILE", "ignored"),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()));
    let store = Store::open("s3://bucket/a/b/", &options).unwrap();
    assert_eq!(store.describe(), "s3://bucket/a/b at s3.example");
}

/// A store on the S3 server of `HIGHWATER_TEST_S3_ENDPOINT`; None, said, without one.
fn s3(bucket: &str, secret: Option<&str>) -> Option<Store> {
    let Ok(endpoint) = std::env::var("HIGHWATER_TEST_S3_ENDPOINT") else {
        println!("skipped: HIGHWATER_TEST_S3_ENDPOINT is not set");
        return None;
    };
    let key = std::env::var("AWS_ACCESS_KEY_ID").unwrap_or_default();
    let right = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap_or_default();
    let options = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", &key),
        ("AWS_SECRET_ACCESS_KEY", secret.unwrap_or(&right)),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()));
    Some(Store::open(&format!("s3://{bucket}/some/prefix"), &options).unwrap())
}

fn bucket() -> String {
    std::env::var("HIGHWATER_TEST_S3_BUCKET").unwrap_or_else(|_| "highwater-test".to_owned())
}

#[tokio::test]
async fn an_s3_server_keeps_the_promises_of_a_store() {
    if let Some(store) = s3(&bucket(), None) {
        keeps_its_promises(&store).await;
    }
}

#[tokio::test]
async fn a_probe_says_what_to_do_about_a_missing_bucket_and_a_wrong_key() {
    for (bucket, secret, expected) in [
        ("no-such-bucket-here", None, "create it or correct --lake"),
        (&bucket(), Some("wrong"), "check AWS_ACCESS_KEY_ID"),
    ] {
        if let Some(store) = s3(bucket, secret) {
            let error = store.probe().await.unwrap_err();
            assert_eq!(error.kind, Kind::Config, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_was_ended_or_aborted_before_is_begun_anew() {
    if let Some(store) = s3(&bucket(), None) {
        let upload = store.begin("ended").await.unwrap();
        let tag = store.put_part("ended", &upload, 0, Bytes::from_static(b"x")).await.unwrap();
        store.abort("ended", &upload).await.unwrap();
        let error = store.seal("ended", &upload, &[tag]).await.unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{error}");
    }
}

#[tokio::test]
async fn access_that_is_denied_while_running_may_be_given_again() {
    if let Some(store) = s3(&bucket(), Some("wrong")) {
        let error = store.begin("x").await.unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{error}");
        assert!(error.to_string().contains("check AWS_ACCESS_KEY_ID"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_later() {
    let options = [
        ("AWS_ENDPOINT", "http://127.0.0.1:1"),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()));
    let store = Store::open("s3://bucket", &options).unwrap();
    assert_eq!(store.begin("x").await.unwrap_err().kind, Kind::Retry);
    assert_eq!(store.size("x").await.unwrap_err().kind, Kind::Retry);
    let upload = UploadId("name/id".into());
    assert_eq!(store.seal("x", &upload, &["t".into()]).await.unwrap_err().kind, Kind::Retry);
    assert_eq!(store.complete("x", &upload, 1).await.unwrap_err().kind, Kind::Retry);
}
