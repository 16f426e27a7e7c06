//! ⇄ Object stores: uploads that are invisible until completed, on S3, Google, Azure or a disk.
//!
//! Owns: connections, timeouts, what an answer means (did not happen, may have, never will).
//! Does not own: when to complete (`pipeline`), which uploads there are (`warehouse` notes them);
//! how a local directory does the same (see `directory`).
//!
//! S-1  Nothing is deleted but what is staged: an object, once visible, stays.
//! S-2  `complete` and `abort` may be repeated, by any process.
//! S-3  An ambiguous answer to `complete` is resolved by looking for the object and its size.
//!
//! SUBTLE: an upload goes to a hidden object (`.highwater/staging/`), is ended there *before* its cut
//! is committed, and copied to its name afterwards. Completing the multipart upload in place after
//! the commit would spare the copy, and was refused: broken off by a killed client, MinIO's
//! completion can leave an upload whose parts it has lost, and with them rows that are committed.
//! A copy that is broken off leaves its source, so anybody can do it again.

use super::directory::Directory;
use crate::cut::UploadId;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error as StoreError, ObjectStore, ObjectStoreExt, RetryConfig,
};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one request: a part of 8 MiB at 2.5 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A cut that fails is tried again as a whole, so single requests give up soon.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
/// Where uploads are until they have their names; not below any topic.
const STAGING: &str = ".highwater/staging";

/// Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Store {
    place: Place,
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
trait Service: ObjectStore + MultipartStore {}
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
            return Ok(Self { place: Place::Local(Arc::new(Directory::open(rest)?)) });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(Error::config(format!("the lake's URL names no bucket, lake={url}")));
        }
        let (store, credentials) = match scheme {
            "s3" => amazon(bucket, options)?,
            "gs" => google(bucket, options)?,
            "az" => azure(bucket, options)?,
            _ => return Err(unknown_scheme(url)),
        };
        let prefix = prefix.trim_matches('/').to_string();
        let endpoint = options
            .iter()
            .find(|(key, _)| key.to_ascii_lowercase().starts_with("aws_endpoint"))
            .map(|(_, at)| format!(" at {}", at.rsplit('@').next().unwrap_or_default()));
        let name = format!("{scheme}://{bucket}/{prefix}{}", endpoint.unwrap_or_default());
        Ok(Self { place: Place::Remote(Arc::new(Remote { store, prefix, name, credentials })) })
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
            Place::Local(directory) => blocking(directory, Directory::begin).await,
            Place::Remote(remote) => remote.begin(path).await,
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
                    Err(e) => Err(remote.judged(format!("part {number} of {path} not put"), e)),
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
        match &self.place {
            Place::Local(directory) => {
                let prefix = prefix.to_string();
                blocking(directory, move |d| d.list(&prefix)).await
            }
            Place::Remote(remote) => remote.list(prefix).await,
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
                let path = format!(".highwater/probe/{}", Uuid::new_v4());
                let probed = async {
                    let upload = remote.begin(&path).await?;
                    remote.abort(&path, &upload).await
                };
                // What was never allowed is a mistake in the settings.
                probed.await.map_err(|e| match e.context.contains(remote.credentials) {
                    true => Error { kind: Kind::Halt, ..e },
                    false => e,
                })
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

    async fn begin(&self, path: &str) -> Result<UploadId> {
        let name = Uuid::new_v4();
        let staged = self.location(&format!("{STAGING}/{name}"))?;
        let begun = self.store.create_multipart(&staged).await;
        let id = begun.map_err(|e| self.judged(format!("upload of {path} not begun"), e))?;
        Ok(UploadId(format!("{name}/{id}")))
    }

    async fn seal(&self, path: &str, upload: &UploadId, tags: &[String]) -> Result<()> {
        let (staged, id) = self.staged(upload)?;
        let parts = tags.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
        let sealed = self.store.complete_multipart(&staged, &id, parts).await;
        sealed.map(drop).map_err(|e| {
            // Where the first answer was lost, the client's own second try finds it ended.
            let is_gone = is_absent(&e);
            let error = self.judged(format!("upload of {path} not ended"), e);
            match error.kind {
                // Nothing is committed yet: the cut begins anew, with another upload.
                Kind::Unknown | Kind::Fenced => Error { kind: Kind::Retry, ..error },
                Kind::Halt if is_gone => Error { kind: Kind::Retry, ..error },
                Kind::Retry | Kind::Halt | Kind::Config => error,
            }
        })
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
        match self.store.delete(&staged).await {
            Ok(()) => Ok(()),
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(self.judged(format!("what was staged for {path} not dropped"), e)),
        }
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

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let below = self.location(prefix.trim_matches('/'))?;
        let skip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let objects: Vec<_> = self
            .store
            .list(Some(&below))
            .map_ok(|object| (object.location.as_ref()[skip..].to_string(), object.size))
            .try_collect()
            .await
            .map_err(|e| self.judged(format!("objects below {prefix:?} not listed"), e))?;
        let mut objects: Vec<_> =
            objects.into_iter().filter(|(path, _)| !path.starts_with(".highwater/")).collect();
        objects.sort();
        Ok(objects)
    }

    /// What a refusal means to the caller. object_store keeps codes in the text of its errors.
    fn judged(&self, doing: String, e: StoreError) -> Error {
        let (text, lake) = (text_of(&e), &self.name);
        let halt = |remedy: &str| Error::halt(format!("{doing}: {remedy}, lake={lake}"));
        let error = match &e {
            _ if text.contains("NoSuchBucket") => {
                halt("the bucket does not exist, create it or correct --lake")
            }
            _ if text.contains("RequestTimeTooSkewed") => {
                halt("this machine's clock is wrong, set it")
            }
            _ if text.contains("configured region") || text.contains("MalformedRegion") => {
                halt("the bucket is in another region, set AWS_REGION")
            }
            // Keys are rotated and rights given back; and MinIO says AccessDenied when it cleans up
            // an emptied folder in the instant that it is written to (minio issue 15157).
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                Error::retry(format!("{doing}: {}, lake={lake}", self.credentials))
            }
            StoreError::NotFound { .. } => halt("it is not there"),
            StoreError::InvalidPath { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::UnknownConfigurationKey { .. } => halt("the store cannot do this"),
            _ if text.contains("169.254.") => Error::retry(format!(
                "{doing}: no credentials are set and the machine's metadata service gave none; {}, lake={lake}",
                self.credentials
            )),
            _ => match status_of(&text) {
                Some(408 | 409 | 429) | None => Error::retry(format!("{doing}, lake={lake}")),
                Some(400..=499) => halt("the store refuses the request"),
                Some(_) => Error::retry(format!("{doing}, lake={lake}")),
            },
        };
        error.because(e)
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

fn retry() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.,
    };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT)
}

/// The options that a builder knows; one it does not is named in the log, as most come from an
/// environment that other programs use too (`AWS_PROFILE`).
fn known<K: std::str::FromStr>(
    start: &str,
    options: &[(String, String)],
) -> impl Iterator<Item = (K, String)> {
    options.iter().filter_map(move |(name, value)| {
        let key = name.to_ascii_lowercase();
        if !key.starts_with(start) {
            return None;
        }
        let known = key.parse().ok();
        if known.is_none() {
            tracing::debug!(option = name, "the lake does not know this option, it has no effect");
        }
        Some((known?, value.clone()))
    })
}

type Opened = Result<(Box<dyn Service>, &'static str)>;

fn amazon(bucket: &str, options: &[(String, String)]) -> Opened {
    let given = |wanted: &str| {
        let found = options.iter().find(|(key, _)| key.to_ascii_lowercase() == wanted);
        found.map(|(_, value)| value.as_str())
    };
    let plain = ["aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3"]
        .iter()
        .filter_map(|key| given(key))
        .any(|endpoint| endpoint.starts_with("http://"));
    if plain && !given("aws_allow_http").is_some_and(|v| ["true", "1", "yes", "on"].contains(&v)) {
        return Err(Error::config(
            "the S3 endpoint is http://, without encryption; set AWS_ALLOW_HTTP=true if that is meant",
        ));
    }
    let mut builder = AmazonS3Builder::new().with_retry(retry()).with_client_options(client());
    for (key, value) in known::<AmazonS3ConfigKey>("aws_", options) {
        builder = builder.with_config(key, value);
    }
    let store = builder.with_bucket_name(bucket).build().map_err(|e| wrong_options("S3", e))?;
    Ok((
        Box::new(store),
        "access is denied, check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the role, and that it may s3:PutObject, s3:GetObject, s3:ListBucket and s3:AbortMultipartUpload",
    ))
}

#[cfg(feature = "gcs")]
fn google(bucket: &str, options: &[(String, String)]) -> Opened {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    let mut builder =
        GoogleCloudStorageBuilder::new().with_retry(retry()).with_client_options(client());
    for (key, value) in known::<GoogleConfigKey>("google_", options) {
        builder = builder.with_config(key, value);
    }
    let store = builder.with_bucket_name(bucket).build().map_err(|e| wrong_options("GCS", e))?;
    Ok((
        Box::new(store),
        "access is denied, check GOOGLE_SERVICE_ACCOUNT and that it is Storage Object User of the bucket",
    ))
}

#[cfg(not(feature = "gcs"))]
fn google(_: &str, _: &[(String, String)]) -> Opened {
    Err(Error::config("this build cannot write to gs://, build it with --features gcs"))
}

#[cfg(feature = "azure")]
fn azure(container: &str, options: &[(String, String)]) -> Opened {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let mut builder =
        MicrosoftAzureBuilder::new().with_retry(retry()).with_client_options(client());
    for (key, value) in known::<AzureConfigKey>("azure_", options) {
        builder = builder.with_config(key, value);
    }
    let built = builder.with_container_name(container).build();
    let store = built.map_err(|e| wrong_options("Azure", e))?;
    Ok((
        Box::new(store),
        "access is denied, check AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or the identity, and that it is Storage Blob Data Contributor",
    ))
}

#[cfg(not(feature = "azure"))]
fn azure(_: &str, _: &[(String, String)]) -> Opened {
    Err(Error::config("this build cannot write to az://, build it with --features azure"))
}

fn wrong_options(service: &str, e: StoreError) -> Error {
    Error::config(format!("the options of the lake on {service} are not complete")).because(e)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
