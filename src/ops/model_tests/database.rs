//! The database that tests are played in: made and migrated once, kept, and copied for each run.
//!
//! Owns: where it is kept, when it is made anew. Does not own: the database itself (`warehouse`).
//!
//! To make one takes seconds, to open a copy a fraction of one. Nothing rests on the kept one: where there is none, where
//! it does not open, or cannot be kept, the database is made.

use crate::{
    error::Result,
    ops::scratch::Scratch,
    warehouse::{
        postgres::{Warehouse, WarehouseSettings},
        schema_id,
    },
};
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Gone with it.
pub struct Database {
    pub warehouse: Warehouse,
    _scratch: Scratch,
}

/// Opening one is to copy it.
pub fn is_kept() -> bool {
    kept().is_some_and(|kept| kept.is_dir())
}

/// `number`: of those that are open at the same time.
pub async fn open(number: usize) -> Result<Database> {
    let scratch = Scratch::in_memory(&format!("highwater-test-{number}"))?;
    let home = scratch.path.join("postgres");
    let kept = kept();
    if let Some(kept) = kept.as_deref().filter(|kept| kept.is_dir()) {
        let copied = copy(kept, &home).map_err(|error| error.to_string());
        let opened = match copied {
            Ok(()) => made(&home).await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match opened {
            Ok(warehouse) => return Ok(Database { warehouse, _scratch: scratch }),
            Err(error) => {
                tracing::warn!("the database kept in {} is made anew: {error}", kept.display());
                let _ = fs::remove_dir_all(kept);
                let _ = fs::remove_dir_all(&home);
            }
        }
    }
    let mut warehouse = made(&home).await?;
    if let Some(kept) = &kept {
        // Copied at rest.
        warehouse.close().await;
        if let Err(error) = keep(&home, kept) {
            tracing::warn!("the next run makes its database anew, {}: {error}", kept.display());
        }
        warehouse = made(&home).await?;
    }
    Ok(Database { warehouse, _scratch: scratch })
}

async fn made(home: &Path) -> Result<Warehouse> {
    let url = format!("embedded:{}", home.display());
    let warehouse = Warehouse::connect(&url, &WarehouseSettings::default()).await?;
    warehouse.migrate().await?;
    Ok(warehouse)
}

/// In the user's cache, by what is in it. None: there is no such place.
fn kept() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("highwater/test-databases").join(schema_id()))
}

/// Whole or not at all, in the place of those of other versions.
fn keep(home: &Path, kept: &Path) -> io::Result<()> {
    let Some(folder) = kept.parent() else { return Ok(()) };
    fs::create_dir_all(folder)?;
    for other in fs::read_dir(folder)? {
        let _ = fs::remove_dir_all(other?.path());
    }
    let half = folder.join(format!("half-{}", std::process::id()));
    copy(home, &half)?;
    // Another process may have been first.
    fs::rename(&half, kept).or_else(|_| fs::remove_dir_all(&half))
}

/// Folders and files; there is nothing else in a database of one process.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), &to)?),
        }
    }
    Ok(())
}
