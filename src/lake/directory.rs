//! ⇄ A local directory as a lake: the two phases of an upload as a hidden file and a rename.
//!
//! Owns: `.highwater/staging/NAME` below the root, durability (what was answered survives power
//! loss). Does not own: anything async (see `store`), what an error means (see `refusal`).
//!
//! SUBTLE: an upload leaves nothing on the disk before its first part, so that nothing can be listed
//! which is not noted yet (see `leftovers`).
//!
//! SUBTLE: the order of `complete` is: length checked, file synced, folders made and synced,
//! rename, folder synced. Renaming before the sync could show a file of zeros after power loss;
//! without the last sync the rename itself could be lost after it was answered. Parts are synced
//! when they are put, because the cut is committed between the last part and `complete`: syncing
//! only at `complete` could lose rows whose marks had moved.

use super::leftovers::Listed;
use super::refusal::{self, Phase};
use crate::cut::UploadId;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const HIDDEN: &str = ".highwater";

pub struct Directory {
    root: PathBuf,
    staging: PathBuf,
    /// Where each part of the uploads of this process ends, so that a part put again replaces
    /// itself. Only the process that began an upload puts its parts; any may complete it.
    ends: Mutex<HashMap<UploadId, Vec<u64>>>,
}

impl Directory {
    /// Creates the directory if it is not there.
    pub fn open(root: &str) -> Result<Self> {
        let root = PathBuf::from(root);
        let staging = root.join(HIDDEN).join("staging");
        fs::create_dir_all(&staging)
            .map_err(|e| judged_in(Phase::Starting, "lake directory not created", &staging, e))?;
        Ok(Self { root, staging, ends: Mutex::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A name; its file comes with the first part.
    pub fn begin(&self, name: String) -> UploadId {
        let upload = UploadId(name);
        self.ends().insert(upload.clone(), Vec::new());
        upload
    }

    /// The tag is `OFFSET+LENGTH`.
    pub fn put_part(&self, upload: &UploadId, number: usize, bytes: &Bytes) -> Result<String> {
        let staged = self.staged(upload)?;
        let from = match number.checked_sub(1) {
            // Aborted by ourselves: its file must not come back.
            None if !self.ends().contains_key(upload) => return Err(aborted(&staged)),
            None => 0,
            Some(before) => match self.ends().get(upload).map(|ends| ends.get(before)) {
                Some(Some(end)) => *end,
                Some(None) => {
                    return Err(Error::halt(format!(
                        "part out of order: the one before was not put, part={number} file={}",
                        staged.display()
                    )));
                }
                None => return Err(aborted(&staged)),
            },
        };
        let first = number == 0;
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(first).truncate(false).open(&staged)?;
            file.set_len(from)?;
            file.seek(SeekFrom::Start(from))?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(|e| match e.kind() {
            ErrorKind::NotFound if !first && self.staging.is_dir() => aborted(&staged),
            _ => judged("part not written", &staged, e),
        })?;
        if first {
            sync(&self.staging)?;
        }
        let mut ends = self.ends();
        let ends = ends.entry(upload.clone()).or_default();
        ends.truncate(number);
        ends.push(from + bytes.len() as u64);
        Ok(format!("{from}+{}", bytes.len()))
    }

    /// The place is looked at first, and again where nothing is staged: between the two looks
    /// another process may have published it, and what is published is not staged any more.
    pub fn complete(&self, path: &str, upload: &UploadId, bytes: u64) -> Result<()> {
        let (staged, place) = (self.staged(upload)?, self.place(path)?);
        if !is_whole(&place, bytes)? {
            match length(&staged)? {
                Some(length) if length == bytes => self.publish(&staged, &place)?,
                Some(length) => {
                    return Err(Error::halt(format!(
                        "a committed file cannot be published: its bytes are not the committed ones, file={} expected={bytes} staged={length}",
                        place.display()
                    )));
                }
                None if is_whole(&place, bytes)? => {}
                None => return Err(self.lost(&staged, &place)),
            }
        }
        // Also when the rename is not ours: who did it may have died before this.
        sync(parent(&place)).map_err(|e| Error::unknown("file published").because(e))?;
        self.ends().remove(upload);
        Ok(())
    }

    /// Nothing staged, nothing in place: of a lake that is not mounted that says nothing.
    fn lost(&self, staged: &Path, place: &Path) -> Error {
        if !self.staging.is_dir() {
            let absent = io::Error::from(ErrorKind::NotFound);
            return judged("file not published", &self.staging, absent);
        }
        Error::halt(format!(
            "a committed file is lost: neither staged nor in its place, file={} staged={}",
            place.display(),
            staged.display()
        ))
    }

    fn publish(&self, staged: &Path, place: &Path) -> Result<()> {
        let file = match File::open(staged) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && place.exists() => return Ok(()),
            Err(e) => return Err(judged("staged file not read", staged, e)),
        };
        file.sync_all().map_err(|e| judged("staged file not synced", staged, e))?;
        self.make(parent(place))?;
        match fs::rename(staged, place) {
            Ok(()) => Ok(()),
            // Completed by another at the same time: same upload, same bytes.
            Err(e) if e.kind() == ErrorKind::NotFound && place.exists() => Ok(()),
            Err(e) => Err(judged("file not published", place, e)),
        }
    }

    /// Makes a folder so that it survives power loss.
    fn make(&self, folder: &Path) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        self.make(parent(folder))?;
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(judged("folder not created", folder, e)),
        }
        sync(parent(folder))
    }

    pub fn abort(&self, upload: &UploadId) -> Result<()> {
        let staged = self.staged(upload)?;
        self.ends().remove(upload);
        gone(&staged)
    }

    pub fn size(&self, path: &str) -> Result<Option<u64>> {
        length(&self.place(path)?)
    }

    /// Files below a folder, hidden ones left out, in order of path.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut files = Vec::new();
        let mut folders = vec![match prefix.trim_matches('/') {
            "" => self.root.clone(),
            prefix => self.place(prefix)?,
        }];
        while let Some(folder) = folders.pop() {
            for path in entries(&folder)? {
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(below) = path.strip_prefix(&self.root) {
                    files.extend(listed(&path, &below.to_string_lossy())?);
                }
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Staged files whose names begin so.
    pub fn list_staged(&self, start: &str) -> Result<Vec<Listed>> {
        let mut files = Vec::new();
        for path in entries(&self.staging)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(start) {
                files.extend(listed(&path, &name)?);
            }
        }
        Ok(files)
    }

    /// Removes a visible file. Idempotent.
    pub fn remove(&self, path: &str) -> Result<()> {
        gone(&self.place(path)?)
    }

    /// What the clock says that dates the files here: microseconds since 1970.
    pub fn now(&self, name: String) -> Result<i64> {
        let upload = self.begin(name);
        self.put_part(&upload, 0, &Bytes::from_static(b"now"))?;
        let dated = listed(&self.staged(&upload)?, "")?.map(|file| file.modified);
        self.abort(&upload)?;
        dated.ok_or_else(|| Error::retry("a file that was just staged is not there"))
    }

    pub fn read(&self, path: &str) -> Result<Bytes> {
        let place = self.place(path)?;
        match fs::read(&place) {
            Ok(bytes) => Ok(bytes.into()),
            Err(e) if is_absent(&e) => {
                Err(Error::halt(format!("lake file missing, file={}", place.display())))
            }
            Err(e) => Err(judged("lake file not read", &place, e)),
        }
    }

    /// Writes and removes a file where uploads are staged.
    pub fn probe(&self) -> Result<()> {
        // What went wrong is judged anew, as at a start.
        let again = |e: Error| match e.source.as_ref().and_then(|s| s.downcast_ref::<io::Error>()) {
            Some(cause) => judged_in(
                Phase::Starting,
                "the lake cannot be written",
                &self.staging,
                cause.raw_os_error().map_or(cause.kind().into(), io::Error::from_raw_os_error),
            ),
            None => e,
        };
        self.now(Uuid::new_v4().to_string()).map(drop).map_err(again)
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Vec<u64>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staged(&self, upload: &UploadId) -> Result<PathBuf> {
        // A UUID, or two: whose it is, and which.
        let (owner, name) = upload.0.split_once('.').unwrap_or((&upload.0, &upload.0));
        match (Uuid::parse_str(owner), Uuid::parse_str(name)) {
            (Ok(_), Ok(_)) => Ok(self.staging.join(&upload.0)),
            (Err(e), _) | (_, Err(e)) => Err(Error::halt(format!(
                "this upload was not begun in a local directory, upload={}",
                upload.0
            ))
            .because(e)),
        }
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        if path.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(Error::halt(format!("not a path within the lake, path={path}")));
        }
        Ok(self.root.join(path))
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| judged("folder not synced", folder, e))
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn length(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(judged("file not looked at", path, e)),
    }
}

/// Whoever took over aborts the uploads of cuts that were not committed.
fn aborted(staged: &Path) -> Error {
    Error::retry(format!("the upload was aborted meanwhile, file={}", staged.display()))
}

/// Whether the file is there, with this length.
fn is_whole(place: &Path, bytes: u64) -> Result<bool> {
    match length(place)? {
        None => Ok(false),
        Some(found) if found == bytes => Ok(true),
        Some(found) => Err(Error::halt(format!(
            "another file is in the place of a committed one, file={} expected={bytes} found={found}",
            place.display()
        ))),
    }
}

/// What is in a folder, without what is hidden; nothing where there is no folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let wrong = |e| judged("folder not listed", folder, e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(wrong(e)),
    };
    let entries: Vec<_> = entries.collect::<io::Result<_>>().map_err(wrong)?;
    let visible = entries.iter().filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    Ok(visible.map(|entry| entry.path()).collect())
}

/// None: gone meanwhile.
fn listed(path: &Path, name: &str) -> Result<Option<Listed>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(judged("file not looked at", path, e)),
    };
    let modified = metadata.modified().map_err(|e| judged("file not dated", path, e))?;
    Ok(Some(Listed { name: name.to_owned(), bytes: metadata.len(), modified: micros(modified) }))
}

fn micros(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

fn gone(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if is_absent(&e) => Ok(()),
        Err(e) => Err(judged("file not removed", path, e)),
    }
}

fn judged(what: &str, path: &Path, e: io::Error) -> Error {
    judged_in(Phase::Running, what, path, e)
}

fn judged_in(phase: Phase, what: &str, path: &Path, e: io::Error) -> Error {
    let verdict = refusal::of_disk(e.kind(), phase);
    let remedy = verdict.remedy.map(|remedy| format!(": {remedy}")).unwrap_or_default();
    Error::new(verdict.kind, format!("{what}{remedy}, path={}", path.display())).because(e)
}
