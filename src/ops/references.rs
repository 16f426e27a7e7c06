//! References: loaded before the first record, looked at again, kept as versions.
//!
//! Owns: from a place (CSV, Parquet, a table) to a [`Version`]; when it is loaded again. Does not
//! own: the lookup (`compute::lookup`), from which offset on a version is used (`pipeline`).
//!
//! A version is known by its content: its rows as text, sorted. It is kept in PostgreSQL before any
//! record is looked up in it, and each cut notes which one it used: so `verify` can make the same
//! rows again. Rows are decoded by the strict rules of topics; one that does not fit refuses the
//! whole version, and the one before stays.

use crate::{
    catalog::{Catalog, FileKind, PgType, Place, Reference},
    compute::lookup::{Version, decoded},
    error::{Error, Result},
    lake::{reader, store::Store},
    pipeline::References,
    warehouse::Warehouse,
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};
use tokio::runtime::Handle;

/// Bytes of a version's content: it is held in memory and in one value of PostgreSQL's.
const CONTENT_BYTES_MAX: usize = 256 << 20;
/// Wait after a load that failed, unless the reference is looked at more often anyway.
const RETRY: Duration = Duration::from_secs(30);

/// Loads each reference of the catalog once.
pub async fn load_all(
    catalog: &Catalog,
    warehouse: &Warehouse,
    store: Option<&Store>,
) -> Result<References> {
    let references = References::default();
    for reference in catalog.references.values() {
        let version = load(reference, warehouse, store).await?;
        tracing::info!(reference = %reference.name, rows = version.rows.num_rows(),
            version = %version.id, "loaded");
        told(&version);
        references.publish(Arc::new(version));
    }
    Ok(references)
}

/// Looks at each reference again and again, for as long as the runtime lives.
pub fn keep_fresh(
    catalog: &Catalog,
    references: &References,
    warehouse: &Warehouse,
    store: Option<&Store>,
    runtime: &Handle,
) {
    for reference in catalog.references.values() {
        let (reference, references) = (reference.clone(), references.clone());
        let (warehouse, store) = (warehouse.clone(), store.cloned());
        runtime.spawn(async move {
            let mut wait = reference.refresh;
            loop {
                tokio::time::sleep(wait).await;
                wait = reference.refresh;
                match load(&reference, &warehouse, store.as_ref()).await {
                    Ok(version) => {
                        told(&version);
                        let (id, rows) = (version.id.clone(), version.rows.num_rows());
                        let before = references.publish(Arc::new(version));
                        if before.is_none_or(|before| before.id != id) {
                            tracing::info!(reference = %reference.name, rows, version = %id, "another version");
                        }
                    }
                    Err(error) => {
                        wait = reference.refresh.min(RETRY);
                        let name = reference.name.to_string();
                        metrics::counter!("highwater_reference_failures_total", "reference" => name)
                            .increment(1);
                        tracing::warn!(reference = %reference.name, "not loaded, the version before stays: {error}");
                    }
                }
            }
        });
    }
}

fn told(version: &Version) {
    let name = version.reference.name.to_string();
    let rows = version.rows.num_rows() as f64;
    metrics::gauge!("highwater_reference_rows", "reference" => name).set(rows);
}

/// Loads and keeps what the place holds now.
async fn load(
    reference: &Arc<Reference>,
    warehouse: &Warehouse,
    store: Option<&Store>,
) -> Result<Version> {
    let lines = match &reference.place {
        Place::Table(table) => warehouse.reference_rows(reference, table).await?,
        Place::Lake { path, kind } => {
            let store = store.ok_or_else(|| {
                Error::config(format!(
                    "reference {} lies in the lake, but --lake is not set",
                    reference.name
                ))
            })?;
            let bytes = store.read(path).await?;
            match kind {
                FileKind::Csv => csv_lines(path, &bytes)?,
                FileKind::Parquet => {
                    let mut lines = Vec::new();
                    for rows in reader::all(path, bytes)? {
                        lines.extend(lines_of(&rows, |_| None));
                    }
                    lines
                }
            }
        }
    };
    let (version, content) = version_of(reference, &lines)?;
    let count = version.rows.num_rows();
    warehouse.keep_reference(&reference.name, &version.id, count, content.as_bytes()).await?;
    Ok(version)
}

/// From rows as JSON objects, with the content that it is known by.
pub fn version_of(reference: &Arc<Reference>, lines: &[String]) -> Result<(Version, String)> {
    let rows = decoded(reference, &reference.rows, lines)?;
    let pg = |name: &str| reference.kept(name);
    let mut lines = lines_of(&rows, pg);
    lines.sort_unstable();
    let content = lines.join("\n");
    if content.len() > CONTENT_BYTES_MAX {
        return Err(Error::halt(format!(
            "reference {} has {} MiB; at most {} are held in memory",
            reference.name,
            content.len() >> 20,
            CONTENT_BYTES_MAX >> 20
        )));
    }
    let id = reader::checksum(content.as_bytes());
    // Made from the content, as it will be when it is needed again.
    Ok((Version::restored(reference, &id, content.as_bytes())?, content))
}

/// Each row by the names of the header; an empty field is NULL.
fn csv_lines(path: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let broken = |e| Error::halt(format!("{path} is not CSV with a header")).because(e);
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let header = reader.headers().map_err(broken)?.clone();
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let mut object = Map::new();
        for (name, value) in header.iter().zip(record.iter()) {
            let value = if value.is_empty() { Value::Null } else { Value::from(value) };
            object.insert(name.trim_start_matches('\u{feff}').to_owned(), value);
        }
        lines.push(Value::Object(object).to_string());
    }
    Ok(lines)
}

/// Each row as a JSON object, each value as the text that its type takes.
fn lines_of(rows: &RecordBatch, pg: impl Fn(&str) -> Option<PgType>) -> Vec<String> {
    let schema = rows.schema();
    let line = |row: usize| {
        let mut object = Map::new();
        for (field, array) in schema.fields().iter().zip(rows.columns()) {
            object.insert(field.name().clone(), value(array, row, pg(field.name())));
        }
        Value::Object(object).to_string()
    };
    (0..rows.num_rows()).map(line).collect()
}

fn value(array: &ArrayRef, row: usize, pg: Option<PgType>) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    if let Some(bytes) = array.as_binary_opt::<i32>() {
        let hex: String = bytes.value(row).iter().map(|byte| format!("{byte:02x}")).collect();
        return Value::from(format!("\\x{hex}"));
    }
    let formatter = ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default());
    let text = formatter.map(|f| f.value(row).to_string()).unwrap_or_default();
    match pg {
        // JSON stays JSON, as its text.
        Some(PgType::Jsonb) => serde_json::from_str(&text).unwrap_or(Value::Null),
        _ => Value::from(text),
    }
}
