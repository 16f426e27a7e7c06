//! ⇄ Object stores: uploads that are invisible until completed, on S3, Google, Azure or a disk.
//!
//! Owns: connections, timeouts, status and code of an answer (`refusal` says what they mean).
//! Does not own: when to complete (`pipeline`), which uploads there are (`warehouse` notes them);
//! how a local directory does the same (see `directory`); services and their settings (`services`).
//!
//! S-1  Nothing is deleted but what is staged: an object, once visible, stays. Others are removed by
//!      `highwater sweep` alone, by an operator's word, and by a sweep where `replay` has replaced them.
//! S-2  `complete` and `abort` may be repeated, by any process.
//! S-3  An ambiguous answer to `complete` is resolved by looking for the object and its size.
//! S-4  `begin` leaves nothing that a listing shows: what is listed was noted before.
//!
//! SUBTLE: an upload goes to a hidden object (`.highwater/staging/`), is ended there *before* its cut
//! is committed, and copied to its name afterwards. Completing the multipart upload in place after
//! the commit would spare the copy, and was refused: broken off by a killed client, MinIO's
//! completion can leave an upload whose parts it has lost, and with them rows that are committed.
//! A copy that is broken off leaves its source, so anybody can do it again.

use super::directory::Directory;
use super::leftovers::Listed;
use super::refusal::{self, ACCESS, Phase};
use super::services;
use crate::cut::UploadId;
use crate::error::{Error, Result, UNTRUSTED};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use uuid::Uuid;

/// Where uploads are until they have their names; not below any topic.
const STAGING: &str = ".highwater/staging";

/// Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Store {
    place: Place,
    /// The warehouse that knows what is staged; None: nobody sweeps it.
    owner: Option<Uuid>,
}

#[derive(Clone)]
enum Place {
    Local(Arc<Directory>),
    Remote(Arc<Remote>),
}

struct Remote {
    store: Box<dyn Service>,
    /// Below the bucket, without slashes at its ends.
    prefix: String,
    /// For logs and errors.
    name: String,
    /// What to look at when the service refuses us.
    credentials: &'static str,
}

/// What all three services can do.
pub trait Service: ObjectStore + MultipartStore {}
impl<T: ObjectStore + MultipartStore> Service for T {}

impl Store {
    /// `s3://bucket/prefix`, `file:///directory` (taken as it is typed, nothing decoded; created),
    /// `gs://bucket/prefix` or `az://container/prefix`. Options are `AWS_*` (`GOOGLE_*`, `AZURE_*`)
    /// as object_store reads them, in any case; the environment is not looked at.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| unknown_scheme(url))?;
        if scheme == "file" {
            if !rest.starts_with('/') {
                return Err(Error::config(format!(
                    "a local lake needs three slashes and a full path: file:///srv/lake, lake={url}"
                )));
            }
            let place = Place::Local(Arc::new(Directory::open(rest)?));
            return Ok(Self { place, owner: None });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Error::config(format!("the lake's URL names no bucket, lake={url}")));
        }
        let (store, credentials) =
            services::open(scheme, bucket, options).ok_or_else(|| unknown_scheme(url))??;
        let prefix = prefix.trim_matches('/').to_string();
        let endpoint = options
            .iter()
            .find(|(key, _)| key.to_ascii_lowercase().starts_with("aws_endpoint"))
            .map(|(_, at)| format!(" at {}", at.rsplit('@').next().unwrap_or_default()));
        let name = format!("{scheme}://{bucket}/{prefix}{}", endpoint.unwrap_or_default());
        let place = Place::Remote(Arc::new(Remote { store, prefix, name, credentials }));
        Ok(Self { place, owner: None })
    }

    /// The same lake, with uploads named after the warehouse that notes them.
    pub fn of_warehouse(self, id: Uuid) -> Self {
        Self { owner: Some(id), ..self }
    }

    /// Of a staged object.
    fn new_name(&self) -> String {
        let name = Uuid::new_v4();
        self.owner.map_or(name.to_string(), |owner| format!("{owner}.{name}"))
    }

    /// Where it is, for logs; without secrets.
    pub fn describe(&self) -> String {
        match &self.place {
            Place::Local(directory) => format!("file://{}", directory.root().display()),
            Place::Remote(remote) => remote.name.clone(),
        }
    }

    /// Begins an invisible upload.
    pub async fn begin(&self, path: &str) -> Result<UploadId> {
        match &self.place {
            Place::Local(directory) => Ok(directory.begin(self.new_name())),
            Place::Remote(remote) => remote.begin(path, self.new_name()).await,
        }
    }

    /// Parts count from 0 and are put in order, one at a time; putting one again replaces it.
    /// Gives its tag, by which any process can complete the upload.
    pub async fn put_part(
        &self,
        path: &str,
        upload: &UploadId,
        number: usize,
        bytes: Bytes,
    ) -> Result<String> {
        match &self.place {
            Place::Local(directory) => {
                let upload = upload.clone();
                blocking(directory, move |d| d.put_part(&upload, number, &bytes)).await
            }
            Place::Remote(remote) => {
                let (staged, id) = remote.staged(upload)?;
                let part = remote.store.put_part(&staged, &id, number, bytes.into()).await;
                match part {
                    Ok(part) => Ok(part.content_id),
                    // Whoever took over aborts the uploads of cuts that were not committed.
                    Err(e) if is_absent(&e) => {
                        Err(Error::retry(format!("the upload was aborted meanwhile, file={path}"))
                            .because(e))
                    }
                    Err(e) => {
                        let doing = format!("part {number} of {path} not put");
                        Err(remote.judged_in(Phase::Staging, doing, e))
                    }
                }
            }
        }
    }

    /// Ends an upload: no more parts. It is whole from now on, and as invisible as before. An upload
    /// for which this fails must be given up.
    pub async fn seal(&self, path: &str, upload: &UploadId, tags: &[String]) -> Result<()> {
        match &self.place {
            // Each part is on the disk already.
            Place::Local(_) => Ok(()),
            Place::Remote(remote) => remote.seal(path, upload, tags).await,
        }
    }

    /// Makes a sealed upload visible as the file; `bytes` is its length. Idempotent. `Halt` when
    /// there is neither upload nor file.
    pub async fn complete(&self, path: &str, upload: &UploadId, bytes: u64) -> Result<()> {
        match &self.place {
            Place::Local(directory) => {
                let (path, upload) = (path.to_string(), upload.clone());
                blocking(directory, move |d| d.complete(&path, &upload, bytes)).await
            }
            Place::Remote(remote) => remote.complete(path, upload, bytes).await,
        }
    }

    /// Drops an upload and its parts; a completed file stays. Idempotent.
    pub async fn abort(&self, path: &str, upload: &UploadId) -> Result<()> {
        match &self.place {
            Place::Local(directory) => {
                let upload = upload.clone();
                blocking(directory, move |d| d.abort(&upload)).await
            }
            Place::Remote(remote) => remote.abort(path, upload).await,
        }
    }

    /// Bytes of a visible file; None when there is none.
    pub async fn size(&self, path: &str) -> Result<Option<u64>> {
        match &self.place {
            Place::Local(directory) => {
                let path = path.to_string();
                blocking(directory, move |d| d.size(&path)).await
            }
            Place::Remote(remote) => remote.size(path).await,
        }
    }

    /// Visible files below a folder, with their bytes, in order of path. All are held at once:
    /// about 150 bytes each.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let listed = self.list_dated(prefix).await?;
        Ok(listed.into_iter().map(|file| (file.name, file.bytes)).collect())
    }

    /// As [`Store::list`], with the time of each.
    pub async fn list_dated(&self, prefix: &str) -> Result<Vec<Listed>> {
        match &self.place {
            Place::Local(directory) => {
                let prefix = prefix.to_string();
                blocking(directory, move |d| d.list(&prefix)).await
            }
            Place::Remote(remote) => {
                let mut files = remote.list(prefix).await?;
                files.retain(|file| !file.name.starts_with(".highwater/"));
                Ok(files)
            }
        }
    }

    /// What is staged in the name of this warehouse, whatever became of it. Not among it: multipart
    /// uploads that were not ended, which object_store does not list.
    pub async fn list_staged(&self) -> Result<Vec<Listed>> {
        let Some(owner) = self.owner else { return Ok(Vec::new()) };
        let start = format!("{owner}.");
        match &self.place {
            Place::Local(directory) => blocking(directory, move |d| d.list_staged(&start)).await,
            Place::Remote(remote) => {
                let mut staged = remote.list(STAGING).await?;
                for one in &mut staged {
                    one.name = one.name.split_off((STAGING.len() + 1).min(one.name.len()));
                }
                staged.retain(|one| one.name.starts_with(&start));
                Ok(staged)
            }
        }
    }

    /// What the store's own clock says: microseconds since 1970. Puts a hidden object to learn it.
    pub async fn now(&self) -> Result<i64> {
        let name = self.new_name();
        match &self.place {
            Place::Local(directory) => blocking(directory, move |d| d.now(name)).await,
            Place::Remote(remote) => remote.now(&name).await,
        }
    }

    /// Removes what is staged under this name. Idempotent.
    pub async fn remove_staged(&self, name: &str) -> Result<()> {
        match &self.place {
            Place::Local(directory) => {
                let upload = UploadId(name.to_owned());
                blocking(directory, move |d| d.abort(&upload)).await
            }
            Place::Remote(remote) => remote.remove(&format!("{STAGING}/{name}")).await,
        }
    }

    /// Removes a visible file, by an operator's word. Idempotent.
    pub async fn remove(&self, path: &str) -> Result<()> {
        match &self.place {
            Place::Local(directory) => {
                let path = path.to_owned();
                blocking(directory, move |d| d.remove(&path)).await
            }
            Place::Remote(remote) => remote.remove(path).await,
        }
    }

    /// A whole file.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        match &self.place {
            Place::Local(directory) => {
                let path = path.to_string();
                blocking(directory, move |d| d.read(&path)).await
            }
            Place::Remote(remote) => {
                let location = remote.location(path)?;
                let doing = || format!("{path} not read");
                let object =
                    remote.store.get(&location).await.map_err(|e| remote.judged(doing(), e))?;
                object.bytes().await.map_err(|e| remote.judged(doing(), e))
            }
        }
    }

    /// Whether the lake is there and may be written: begins an upload and aborts it.
    pub async fn probe(&self) -> Result<()> {
        match &self.place {
            Place::Local(directory) => blocking(directory, Directory::probe).await,
            Place::Remote(remote) => {
                let staged = remote.location(&format!("{STAGING}/{}", Uuid::new_v4()))?;
                let refused = |e| {
                    let doing = "the lake cannot be written".to_owned();
                    remote.judged_in(Phase::Starting, doing, e)
                };
                let id = remote.store.create_multipart(&staged).await.map_err(refused)?;
                match remote.store.abort_multipart(&staged, &id).await {
                    Err(e) if !is_absent(&e) => Err(refused(e)),
                    Ok(()) | Err(_) => Ok(()),
                }
            }
        }
    }
}

impl Remote {
    fn location(&self, path: &str) -> Result<Path> {
        let path = match self.prefix.as_str() {
            "" => path.to_string(),
            prefix => format!("{prefix}/{path}"),
        };
        Path::parse(&path)
            .map_err(|e| Error::halt(format!("not a path within the lake, path={path}")).because(e))
    }

    /// The hidden object of an upload, and the store's own id of it.
    fn staged(&self, upload: &UploadId) -> Result<(Path, String)> {
        let parts = upload.0.split_once('/');
        let (name, id) = parts.ok_or_else(|| {
            Error::halt(format!("not an upload of this lake, upload={}", upload.0))
        })?;
        Ok((self.location(&format!("{STAGING}/{name}"))?, id.to_owned()))
    }

    async fn begin(&self, path: &str, name: String) -> Result<UploadId> {
        let staged = self.location(&format!("{STAGING}/{name}"))?;
        let begun = self.store.create_multipart(&staged).await;
        let id = begun.map_err(|e| self.judged(format!("upload of {path} not begun"), e))?;
        Ok(UploadId(format!("{name}/{id}")))
    }

    async fn seal(&self, path: &str, upload: &UploadId, tags: &[String]) -> Result<()> {
        let (staged, id) = self.staged(upload)?;
        let parts = tags.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
        let sealed = self.store.complete_multipart(&staged, &id, parts).await;
        // Refused or not answered, nothing is committed yet: the cut begins anew with another upload,
        // also where whoever took over has aborted this one.
        sealed
            .map(drop)
            .map_err(|e| self.judged_in(Phase::Staging, format!("upload of {path} not ended"), e))
    }

    async fn complete(&self, path: &str, upload: &UploadId, bytes: u64) -> Result<()> {
        if !self.is_whole(path, bytes).await? {
            let (staged, _) = self.staged(upload)?;
            let copied = self.store.copy(&staged, &self.location(path)?).await;
            // Another process may have done it, and dropped what was staged.
            if let Err(answer) = copied
                && !self.is_whole(path, bytes).await?
            {
                if is_absent(&answer) {
                    return Err(Error::halt(format!(
                        "a committed file is lost: it is not there, and neither is what was staged for it; replay the lake for its offsets, file={path} upload={}",
                        upload.0
                    ))
                    .because(answer));
                }
                return Err(self.judged(format!("{path} not copied to its place"), answer));
            }
        }
        self.unstage(path, upload).await
    }

    /// Whether the file is there, with this length.
    async fn is_whole(&self, path: &str, bytes: u64) -> Result<bool> {
        match self.size(path).await? {
            None => Ok(false),
            Some(found) if found == bytes => Ok(true),
            Some(found) => Err(Error::halt(format!(
                "another file is in the place of a committed one, file={path} expected={bytes} found={found}"
            ))),
        }
    }

    async fn unstage(&self, path: &str, upload: &UploadId) -> Result<()> {
        let (staged, _) = self.staged(upload)?;
        self.drop_object(&staged, || format!("what was staged for {path} not dropped")).await
    }

    async fn remove(&self, path: &str) -> Result<()> {
        self.drop_object(&self.location(path)?, || format!("{path} not removed")).await
    }

    async fn drop_object(&self, object: &Path, doing: impl FnOnce() -> String) -> Result<()> {
        match self.store.delete(object).await {
            Ok(()) => Ok(()),
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(self.judged(doing(), e)),
        }
    }

    async fn now(&self, name: &str) -> Result<i64> {
        let clock = self.location(&format!("{STAGING}/{name}"))?;
        let asked = async {
            self.store.put(&clock, Bytes::from_static(b"now").into()).await?;
            self.store.head(&clock).await
        };
        let doing = || "the lake's clock not read".to_owned();
        let answer = asked.await.map_err(|e| self.judged(doing(), e))?;
        self.drop_object(&clock, doing).await?;
        Ok(answer.last_modified.timestamp_micros())
    }

    async fn abort(&self, path: &str, upload: &UploadId) -> Result<()> {
        let (staged, id) = self.staged(upload)?;
        match self.store.abort_multipart(&staged, &id).await {
            Ok(()) => {}
            // Sealed, or aborted before.
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(self.judged(format!("upload of {path} not aborted"), e)),
        }
        self.unstage(path, upload).await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        match self.store.head(&self.location(path)?).await {
            Ok(object) => Ok(Some(object.size)),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.judged(format!("{path} not looked up"), e)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let below = self.location(prefix.trim_matches('/'))?;
        let skip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let mut objects: Vec<_> = self
            .store
            .list(Some(&below))
            .map_ok(|object| Listed {
                name: object.location.as_ref()[skip..].to_string(),
                bytes: object.size,
                modified: object.last_modified.timestamp_micros(),
            })
            .try_collect()
            .await
            .map_err(|e| self.judged(format!("objects below {prefix:?} not listed"), e))?;
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn judged(&self, doing: String, e: StoreError) -> Error {
        self.judged_in(Phase::Running, doing, e)
    }

    /// What a refusal means to the caller. object_store keeps codes in the text of its errors.
    fn judged_in(&self, phase: Phase, doing: String, e: StoreError) -> Error {
        let (text, lake) = (text_of(&e), &self.name);
        let (status, code) = match &e {
            // Answers without a body, and what the client says without asking.
            StoreError::NotFound { .. } => (Some(404), code_of(&text)),
            StoreError::InvalidPath { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::UnknownConfigurationKey { .. } => (Some(501), None),
            _ if text.contains("redirect without LOCATION") => (Some(301), None),
            _ if text.contains(UNTRUSTED) => (None, Some(UNTRUSTED)),
            _ => (status_of(&text), code_of(&text)),
        };
        let verdict = refusal::of_service(status, code, phase);
        let remedy = match verdict.remedy {
            Some(remedy) if remedy == ACCESS => Some(self.credentials.to_owned()),
            // No credentials at all: the client asks the machine it runs on.
            None if text.contains("169.254.") => Some(format!(
                "no credentials are set and the machine's metadata service gave none; {}",
                self.credentials
            )),
            remedy => remedy.map(str::to_owned),
        };
        let remedy = remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
        Error::new(verdict.kind, format!("{doing}{remedy}, lake={lake}")).because(e)
    }
}

fn is_absent(e: &StoreError) -> bool {
    matches!(e, StoreError::NotFound { .. }) && !text_of(e).contains("NoSuchBucket")
}

fn text_of(e: &StoreError) -> String {
    let mut text = e.to_string();
    let mut next = std::error::Error::source(e);
    while let Some(e) = next {
        text.push_str(&format!(": {e}"));
        next = e.source();
    }
    text
}

fn status_of(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// Of S3's error document.
fn code_of(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("<Code>")?;
    after.split_once("</Code>").map(|(code, _)| code)
}

async fn blocking<T: Send + 'static>(
    directory: &Arc<Directory>,
    work: impl FnOnce(&Directory) -> Result<T> + Send + 'static,
) -> Result<T> {
    let directory = directory.clone();
    tokio::task::spawn_blocking(move || work(&directory))
        .await
        .map_err(|e| Error::halt("work on the lake's directory was broken off").because(e))?
}

fn unknown_scheme(url: &str) -> Error {
    Error::config(format!(
        "not the URL of a lake. Allowed: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///directory, lake={url}"
    ))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "answers_tests.rs"]
mod answers_tests;
