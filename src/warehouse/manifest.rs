//! Lake files after their cut was committed, and uploads that never were.
//!
//! Owns: which files still have to be completed, which uploads nobody can commit any more, what of
//! the lake the warehouse knows.
//! Does not own: the object store, whose word goes before: a file is noted as completed, and an
//! upload forgotten, only after the store has done it.

use super::{Unfinished, Warehouse};
use crate::{
    cut::UploadId,
    error::{Error, Result},
    record::{Epoch, Partition},
};
use std::collections::BTreeSet;
use uuid::Uuid;

impl Warehouse {
    /// Notes an upload before its first part, so that a crash leaves nothing unknown (W-4).
    /// `partition` is one whose lake mark the cut will move, `epoch` the epoch it was taken with.
    pub async fn note_upload(
        &self,
        topic: &str,
        path: &str,
        upload: &UploadId,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<()> {
        let doing = format!("note an upload, path={path}");
        let sql = include_str!("../../sql/warehouse/note_upload.sql");
        self.change(&doing, sql, &[&upload.0, &topic, &path, &partition.0, &epoch.0]).await
    }

    /// Files of the topic's lake that are committed and not completed, in order of their cuts.
    pub async fn unfinished(&self, topic: &str) -> Result<Vec<Unfinished>> {
        let doing = format!("list unfinished lake files, topic={topic}");
        let sql = include_str!("../../sql/warehouse/unfinished.sql");
        let rows = self.read(&doing, sql, &[&topic]).await?;
        let unfinished = rows.iter().map(|row| Unfinished {
            path: row.get(0),
            upload: UploadId(row.get(1)),
            bytes: row.get::<_, i64>(2) as u64,
        });
        Ok(unfinished.collect())
    }

    /// The store shows these files to readers now.
    pub async fn completed(&self, paths: &[String]) -> Result<()> {
        let sql = include_str!("../../sql/warehouse/complete_files.sql");
        self.change("note lake files as completed", sql, &[&paths]).await
    }

    /// Noted uploads that no cut can ever commit, as (path, upload): safe to abort at the store.
    ///
    /// SUBTLE: why no cut in flight can still commit one. A cut of epoch e moves the mark
    /// `WHERE epoch = e` and holds that row's lock until it ends; taking the partition needs the
    /// same lock to make it e + 1. So once e + 1 can be read, the cut either was committed before,
    /// and then its note is gone in every snapshot that shows e + 1, or it will find e + 1 and roll
    /// back. Mark and note must be read by one statement: read apart, the note first, a cut could
    /// commit and the partition be taken in between, and a committed upload would be listed.
    /// And the note must name a mark that its cut moves, which `claim_uploads.sql` demands.
    pub async fn abandoned(&self, topic: &str) -> Result<Vec<(String, UploadId)>> {
        let doing = format!("list abandoned uploads, topic={topic}");
        let sql = include_str!("../../sql/warehouse/abandoned_uploads.sql");
        let rows = self.read(&doing, sql, &[&topic]).await?;
        Ok(rows.iter().map(|row| (row.get(0), UploadId(row.get(1)))).collect())
    }

    /// The store has aborted these, or does not know them.
    pub async fn forget_uploads(&self, uploads: &[UploadId]) -> Result<()> {
        let uploads: Vec<_> = uploads.iter().map(|upload| upload.0.as_str()).collect();
        let sql = include_str!("../../sql/warehouse/forget_uploads.sql");
        self.change("forget aborted uploads", sql, &[&uploads]).await
    }

    /// Who this warehouse is, for the names of what it has staged.
    pub async fn id(&self) -> Result<Uuid> {
        let sql = include_str!("../../sql/warehouse/read_id.sql");
        let rows = self.read("read the warehouse's id", sql, &[]).await?;
        let id = rows.first().and_then(|row| Uuid::parse_str(row.get(0)).ok());
        id.ok_or_else(|| Error::halt("highwater.warehouse_id does not hold one id"))
    }

    /// Ids of all uploads that are or may be committed and are needed where they are staged.
    pub async fn named_uploads(&self) -> Result<BTreeSet<String>> {
        let sql = include_str!("../../sql/warehouse/named_uploads.sql");
        let rows = self.read("read which uploads are known", sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Paths of all files of the topic's lake.
    pub async fn paths(&self, topic: &str) -> Result<BTreeSet<String>> {
        let doing = format!("read the manifest of {topic}");
        let sql = include_str!("../../sql/warehouse/read_paths.sql");
        let rows = self.read(&doing, sql, &[&topic]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
