//! A folder of a command's own, gone afterwards.

use crate::error::{Error, Result};
use std::path::PathBuf;

/// Where memory is a folder.
const MEMORY: &str = "/dev/shm";

pub struct Scratch {
    pub path: PathBuf,
    keep: bool,
}

impl Scratch {
    pub fn new(name: &str, keep: bool) -> Result<Self> {
        Self::below(std::env::temp_dir(), name, keep)
    }

    /// Where nothing is synced to a disk, if there is such a place.
    pub fn in_memory(name: &str) -> Result<Self> {
        Self::below(MEMORY.into(), name, false)
            .or_else(|_| Self::below(std::env::temp_dir(), name, false))
    }

    fn below(folder: PathBuf, name: &str, keep: bool) -> Result<Self> {
        let path = folder.join(format!("{name}-{}", std::process::id()));
        // Of an ended process that had this number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)
            .map_err(|e| Error::config(format!("make {}", path.display())).because(e))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
