//! Files after their commit: completed by whoever is there, so that readers see them.
//!
//! Owns: completing what is owed, aborting what no cut can commit any more. Does not own: what a
//! file holds (`encoder`, `retry`), which files there are (`warehouse`).

use super::driver::{Context, News};
use crate::{
    cut::UploadId,
    error::{Kind, Result},
    lake::store::Store,
    warehouse::{Unfinished, Warehouse},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::time::Duration;

/// Files that are completed or aborted at the same time.
const FILES_AT_ONCE: usize = 16;

/// Completes committed files, for as long as it takes: they are owed. Should the process end
/// before, whoever takes the partition does it.
pub async fn publish_owed(topic: &str, store: &Store, context: &Context, owed: Vec<Unfinished>) {
    let mut wait = Duration::from_millis(200);
    loop {
        match complete(store, &context.warehouse, &owed).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(
                    topic,
                    files = owed.len(),
                    "committed files wait to be completed: {error}"
                );
                if let Kind::Halt | Kind::Config = error.kind {
                    context.tell(News::Halt(error.to_string()));
                    return;
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(15));
    }
}

pub async fn complete(store: &Store, warehouse: &Warehouse, owed: &[Unfinished]) -> Result<()> {
    stream::iter(owed.to_vec())
        .map(|file| {
            let store = store.clone();
            async move { store.complete(&file.path, &file.upload, file.bytes).await }
        })
        .buffer_unordered(FILES_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let paths: Vec<String> = owed.iter().map(|f| f.path.clone()).collect();
    if !paths.is_empty() {
        warehouse.completed(&paths).await?;
    }
    Ok(())
}

/// What owners before left: committed files are completed, uploads that no cut can commit any
/// more are aborted.
pub async fn tidy(topic: &str, store: &Store, warehouse: &Warehouse) -> Result<()> {
    let owed = warehouse.unfinished(topic).await?;
    complete(store, warehouse, &owed).await?;
    let abandoned = warehouse.abandoned(topic).await?;
    stream::iter(abandoned.clone())
        .map(|(path, upload)| {
            let store = store.clone();
            async move { store.abort(&path, &upload).await }
        })
        .buffer_unordered(FILES_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let uploads: Vec<UploadId> = abandoned.into_iter().map(|(_, upload)| upload).collect();
    if !uploads.is_empty() {
        warehouse.forget_uploads(&uploads).await?;
    }
    Ok(())
}
