//! A file that is finished, put into the store as an upload that nobody sees.
//!
//! Owns: the order of steps: begun, noted, its parts, sealed. Does not own: where it is noted, what commits it.

use crate::{
    cut::{LakeFile, UploadId},
    error::Result,
    lake::{
        store::Store,
        writer::{Finished, LakeWriter},
    },
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// All that was written, each file with its parts, which have one size but for the last.
pub fn parts_of(mut writer: LakeWriter) -> Result<Vec<(Finished, Vec<Bytes>)>> {
    writer.close()?;
    let mut parts: BTreeMap<usize, Vec<Bytes>> = BTreeMap::new();
    for part in writer.take_parts() {
        parts.entry(part.file).or_default().push(part.bytes);
    }
    let finished = writer.finish()?.into_iter().map(|file| {
        let mut parts = parts.remove(&file.file).unwrap_or_default();
        parts.extend(file.last.clone());
        (file, parts)
    });
    Ok(finished.collect())
}

/// `note` is done before the first part (W-4).
pub async fn put(
    store: &Store,
    (file, parts): (Finished, Vec<Bytes>),
    note: impl AsyncFnOnce(&str, &UploadId) -> Result<()>,
) -> Result<LakeFile> {
    let path = &file.path;
    let upload = store.begin(path).await?;
    note(path, &upload).await?;
    let mut tags = Vec::with_capacity(parts.len());
    for (number, bytes) in parts.into_iter().enumerate() {
        tags.push(store.put_part(path, &upload, number, bytes).await?);
    }
    store.seal(path, &upload, &tags).await?;
    Ok(LakeFile {
        path: file.path,
        upload,
        parts: tags,
        bytes: file.bytes,
        rows: file.rows,
        checksum: file.checksum,
        ranges: file.ranges,
        event_time_min: file.event_time_min,
        event_time_max: file.event_time_max,
        schema: file.schema,
    })
}
