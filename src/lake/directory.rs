//! ⇄ A local directory as a lake: the two phases of an upload as a hidden file and a rename.
//!
//! Owns: `.highwater/staging/UUID` below the root, durability (what was answered survives power
//! loss), the kinds of errors of a file system. Does not own: anything async (see `store`).
//!
//! SUBTLE: the order of `complete` is: length checked, file synced, folders made and synced,
//! rename, folder synced. Renaming before the sync could show a file of zeros after power loss;
//! without the last sync the rename itself could be lost after it was answered. Parts are synced
//! when they are put, because the cut is committed between the last part and `complete`: syncing
//! only at `complete` could lose rows whose marks had moved.

use crate::cut::UploadId;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
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
            .map_err(|e| judged("lake directory not created", &staging, e))?;
        Ok(Self { root, staging, ends: Mutex::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn begin(&self) -> Result<UploadId> {
        let upload = UploadId(Uuid::new_v4().to_string());
        let staged = self.staged(&upload)?;
        File::create_new(&staged).map_err(|e| judged("upload not begun", &staged, e))?;
        sync(&self.staging)?;
        self.ends().insert(upload.clone(), Vec::new());
        Ok(upload)
    }

    /// The tag is `OFFSET+LENGTH`.
    pub fn put_part(&self, upload: &UploadId, number: usize, bytes: &Bytes) -> Result<String> {
        let staged = self.staged(upload)?;
        let from = match number.checked_sub(1) {
            None => 0,
            Some(before) => {
                *self.ends().get(upload).and_then(|ends| ends.get(before)).ok_or_else(|| {
                    Error::halt(format!(
                        "part out of order: the one before was not put by this process, part={number} file={}",
                        staged.display()
                    ))
                })?
            }
        };
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(&staged)?;
            file.set_len(from)?;
            file.seek(SeekFrom::Start(from))?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(|e| judged("part not written", &staged, e))?;
        let mut ends = self.ends();
        let ends = ends.entry(upload.clone()).or_default();
        ends.truncate(number);
        ends.push(from + bytes.len() as u64);
        Ok(format!("{from}+{}", bytes.len()))
    }

    pub fn complete(&self, path: &str, upload: &UploadId, bytes: u64) -> Result<()> {
        let (staged, place) = (self.staged(upload)?, self.place(path)?);
        match (length(&staged)?, length(&place)?) {
            (Some(length), None) if length == bytes => {
                self.publish(&staged, &place)?;
            }
            // Renamed before, by us or by whom took the partition over.
            (None, Some(length)) if length == bytes => {}
            (None, None) => {
                // Somebody may have renamed it between the two looks above.
                if length(&place)? != Some(bytes) {
                    return Err(Error::halt(format!(
                        "a committed file is lost: neither staged nor in its place, file={} staged={}",
                        place.display(),
                        staged.display()
                    )));
                }
            }
            (staged_length, length) => {
                return Err(Error::halt(format!(
                    "a committed file cannot be published: its bytes are not the committed ones, or another file is in its place, file={} expected={bytes} staged={staged_length:?} in_place={length:?}",
                    place.display()
                )));
            }
        }
        // Also when the rename is not ours: who did it may have died before this.
        sync(parent(&place)).map_err(|e| Error::unknown("file published").because(e))?;
        self.ends().remove(upload);
        Ok(())
    }

    fn publish(&self, staged: &Path, place: &Path) -> Result<()> {
        let file = File::open(staged).map_err(|e| judged("staged file not read", staged, e))?;
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
        match fs::remove_file(&staged) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(judged("staged file not removed", &staged, e)),
        }
    }

    pub fn size(&self, path: &str) -> Result<Option<u64>> {
        length(&self.place(path)?)
    }

    /// Files below a folder, hidden ones left out, in order of path.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        let mut folders = vec![match prefix.trim_matches('/') {
            "" => self.root.clone(),
            prefix => self.place(prefix)?,
        }];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(judged("folder not listed", &folder, e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| judged("folder not listed", &folder, e))?;
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with('.') {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if let (Some(length), Ok(below)) =
                    (length(&path)?, path.strip_prefix(&self.root))
                {
                    files.push((below.to_string_lossy().into_owned(), length));
                }
            }
        }
        files.sort();
        Ok(files)
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
        let upload = self.begin()?;
        self.put_part(&upload, 0, &Bytes::from_static(b"probe"))?;
        self.abort(&upload)
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Vec<u64>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staged(&self, upload: &UploadId) -> Result<PathBuf> {
        match Uuid::parse_str(&upload.0) {
            Ok(uuid) => Ok(self.staging.join(uuid.to_string())),
            Err(e) => Err(Error::halt(format!(
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

/// None of these operations does half of what it says, so what may get better is `Retry`.
fn judged(what: &str, path: &Path, e: io::Error) -> Error {
    let path = path.display();
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::retry(format!("{what}: the lake's disk is full, free some space, path={path}"))
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::halt(format!(
            "{what}: this user may not write there, give it the directory or name another with --lake, path={path}"
        )),
        ErrorKind::CrossesDevices => Error::halt(format!(
            "{what}: the lake must be one file system, nothing mounted below its root, path={path}"
        )),
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => Error::halt(format!(
            "{what}: a file is where a directory should be, path={path}"
        )),
        _ => Error::retry(format!("{what}, path={path}")),
    }
    .because(e)
}
