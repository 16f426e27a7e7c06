//! What is owed to the lake after a commit: files that wait for their names, uploads to be dropped.
//!
//! Owns: completing committed files for as long as it takes, each once per process; aborting what no
//! cut can commit any more. Does not own: uploading and committing (`encoder`, `retry`), what the warehouse
//! knows (`warehouse::manifest`), leftovers that nobody knows (`ops::sweep`).
//!
//! SUBTLE: a take does not wait for any of this. New cuts may be committed, and even get their names,
//! before files of cuts before them: marks stand for committed rows, not for visible ones; names, not
//! the time of appearing, hold the order of a partition's offsets (L-2); and in one process, too, a
//! cut is committed while the files of the one before are still being copied. What a reader sees is a
//! file that is there a little later.
//!
//! A file may be completed by several processes at once, among them one that has lost its partitions
//! long ago: each copies the same staged bytes to the same name, and finds at the end a file of the
//! committed length. One that wakes when the file is gone again, by the hand of whoever maintains the
//! lake, asks the manifest before it calls the file lost.

use super::{
    parts::{Context, News},
    report::{STALLED_AFTER, TopicStatus},
};
use crate::{
    cut::UploadId,
    error::{Error, Kind, Result},
    lake::store::Store,
    warehouse::{Unfinished, Warehouse},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Files that are completed, or uploads that are aborted, at the same time.
const AT_ONCE: usize = 16;
/// Between two tries, doubling.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(15);

/// One topic's; clones share it.
#[derive(Clone)]
pub struct Owed {
    topic: Arc<str>,
    store: Store,
    context: Context,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    /// Paths that a task of this process is completing.
    files: BTreeSet<String>,
    /// Takes whose leftovers are being looked after.
    tidying: usize,
    /// Since when completing fails, and why it did last.
    trouble: Option<(Instant, String)>,
}

impl Owed {
    pub fn new(topic: Arc<str>, store: Store, context: Context) -> Self {
        Self { topic, store, context, books: Arc::default() }
    }

    /// What is still to be done here; 0: everything committed is visible, as far as we know.
    pub fn count(&self) -> usize {
        let books = self.books();
        books.files.len() + books.tidying
    }

    /// Adds to the topic's status what completing waits for.
    pub fn tell(&self, status: &mut TopicStatus) {
        let Some((since, why)) = self.books().trouble.clone() else { return };
        let (waited, files) = (since.elapsed(), self.count());
        if waited > STALLED_AFTER {
            let seconds = waited.as_secs();
            let stalled =
                format!("{files} committed files wait for their names for {seconds} s: {why}");
            status.stalled.get_or_insert(stalled);
        }
        status.last_error.get_or_insert(why);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes files upon this process; gives those that no task of it completes already.
    pub fn owe(&self, files: Vec<Unfinished>) -> Vec<Unfinished> {
        let mut books = self.books();
        files.into_iter().filter(|file| books.files.insert(file.path.clone())).collect()
    }

    /// What owners before left: committed files are completed, uploads that no cut can commit any
    /// more are aborted. Returns when it is known what is owed; the work goes on beside.
    pub async fn tidy(&self) -> Result<()> {
        let unfinished = self.context.warehouse.unfinished(&self.topic).await?;
        let files = self.owe(unfinished);
        self.books().tidying += 1;
        let this = self.clone();
        self.context.runtime.spawn(async move {
            tokio::join!(this.publish(files), this.drop_abandoned());
            this.books().tidying -= 1;
        });
        Ok(())
    }

    /// Aborts what no cut can commit any more. After a take; and after a cut that was refused: one that
    /// slept over a take may have noted its uploads when that take had looked already.
    pub async fn drop_abandoned(&self) {
        let warehouse = &self.context.warehouse;
        if let Err(error) = abort_abandoned(&self.topic, &self.store, warehouse).await {
            // The next take, or the sweep, comes by here again.
            tracing::warn!(topic = %self.topic, "uploads wait to be aborted: {error}");
        }
    }

    /// Completes committed files, for as long as it takes: they are owed. Should the process end
    /// before, whoever takes the partition does it.
    pub async fn publish(&self, mut files: Vec<Unfinished>) {
        let mut wait = WAIT_MIN;
        while !files.is_empty() {
            let Err(error) = self.complete(&mut files).await else {
                self.books().trouble = None;
                continue;
            };
            self.books().trouble.get_or_insert((Instant::now(), String::new())).1 =
                error.to_string();
            let (topic, count) = (&*self.topic, files.len());
            tracing::warn!(topic, files = count, "committed files wait to be completed: {error}");
            if let Kind::Halt | Kind::Config = error.kind
                && self.is_still_owed(&mut files).await
            {
                self.context.tell(News::Halt(error.to_string()));
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// One try. What is done leaves `files`.
    async fn complete(&self, files: &mut Vec<Unfinished>) -> Result<()> {
        let tried: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        let outcome = complete_some(&self.store, &self.context.warehouse, files).await;
        let left: BTreeSet<&String> = files.iter().map(|file| &file.path).collect();
        let done: Vec<String> = tried.into_iter().filter(|path| !left.contains(path)).collect();
        self.settle(&done);
        outcome
    }

    fn settle(&self, paths: &[String]) {
        let mut books = self.books();
        for path in paths {
            books.files.remove(path);
        }
    }

    /// False where others have completed some of them meanwhile: those leave `files`.
    async fn is_still_owed(&self, files: &mut Vec<Unfinished>) -> bool {
        let Ok(unfinished) = self.context.warehouse.unfinished(&self.topic).await else {
            return false;
        };
        let unfinished: BTreeSet<_> = unfinished.into_iter().map(|file| file.path).collect();
        let (owed, done) = std::mem::take(files)
            .into_iter()
            .partition::<Vec<_>, _>(|file| unfinished.contains(&file.path));
        *files = owed;
        let done: Vec<String> = done.into_iter().map(|file| file.path).collect();
        self.settle(&done);
        done.is_empty()
    }
}

/// One try at files of a commit; all are tried, whichever fails.
pub async fn complete(store: &Store, warehouse: &Warehouse, files: &[Unfinished]) -> Result<()> {
    complete_some(store, warehouse, &mut files.to_vec()).await
}

/// What is done leaves `files`; the error is the one that matters most.
async fn complete_some(
    store: &Store,
    warehouse: &Warehouse,
    files: &mut Vec<Unfinished>,
) -> Result<()> {
    let tried: Vec<(Unfinished, Result<()>)> = stream::iter(std::mem::take(files))
        .map(|file| async move {
            let done = store.complete(&file.path, &file.upload, file.bytes).await;
            (file, done)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let (mut done, mut failed): (Vec<Unfinished>, Option<Error>) = (Vec::new(), None);
    for (file, outcome) in tried {
        match outcome {
            Ok(()) => done.push(file),
            Err(error) => {
                files.push(file);
                let is_final = matches!(error.kind, Kind::Halt | Kind::Config);
                if failed.is_none() || is_final {
                    failed = Some(error);
                }
            }
        }
    }
    let paths: Vec<String> = done.iter().map(|file| file.path.clone()).collect();
    if !paths.is_empty()
        && let Err(error) = warehouse.completed(&paths).await
    {
        files.extend(done);
        return Err(error);
    }
    failed.map_or(Ok(()), Err)
}

/// What others left of a topic, to the end: for a command, which has nothing else to do meanwhile.
pub async fn tidy(topic: &str, store: &Store, warehouse: &Warehouse) -> Result<()> {
    let unfinished = warehouse.unfinished(topic).await?;
    complete(store, warehouse, &unfinished).await?;
    abort_abandoned(topic, store, warehouse).await.map(drop)
}

/// Aborts the topic's uploads that no cut can commit any more; gives how many. Idempotent, and done
/// by any process.
pub async fn abort_abandoned(topic: &str, store: &Store, warehouse: &Warehouse) -> Result<usize> {
    let abandoned = warehouse.abandoned(topic).await?;
    stream::iter(abandoned.clone())
        .map(|(path, upload)| async move { store.abort(&path, &upload).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let uploads: Vec<UploadId> = abandoned.into_iter().map(|(_, upload)| upload).collect();
    if !uploads.is_empty() {
        warehouse.forget_uploads(&uploads).await?;
    }
    Ok(uploads.len())
}

#[cfg(test)]
#[path = "owed_tests.rs"]
mod tests;
