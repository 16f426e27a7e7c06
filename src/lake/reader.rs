//! A file of the lake, read back.
//!
//! Owns: bytes to rows of the topic's schema. Does not own: which files there are.
//!
//! Files of all versions of a topic make one table: what was added to it later is NULL in a file from
//! before, and what got wider is the same value there in its narrower type.

use crate::{
    catalog::Topic,
    error::{Error, Result},
};
use arrow::{
    array::{RecordBatch, new_null_array},
    compute::cast,
};
use bytes::Bytes;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use sha2::{Digest, Sha256};

/// SHA-256 in hexadecimal, as the manifest records it.
pub fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All rows, with the columns of the topic's schema in its order.
///
/// # Errors
/// `Halt`: it is not Parquet, or a column is missing or of another type.
pub fn rows(path: &str, bytes: Bytes, topic: &Topic) -> Result<Vec<RecordBatch>> {
    let schema = &topic.schema;
    let added = |name: &str| topic.additions.iter().any(|a| a.column == name && a.from.is_none());
    let widened = |name: &str| topic.additions.iter().any(|a| a.column == name && a.from.is_some());
    let broken = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::halt(format!("{path} cannot be read")).because(e)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| broken(e.into()))?;
    let file = builder.schema().clone();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        match file.index_of(field.name()) {
            Ok(index) => columns.push(index),
            Err(_) if added(field.name()) => {}
            Err(_) => {
                return Err(Error::halt(format!(
                    "{path} has no column {}: the topic file has changed",
                    field.name()
                )));
            }
        }
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    let reader = builder.with_projection(mask).build().map_err(|e| broken(e.into()))?;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| broken(e.into()))?;
        let columns = schema.fields().iter().map(|f| {
            let Some(column) = batch.column_by_name(f.name()).cloned() else {
                return Ok(new_null_array(f.data_type(), batch.num_rows()));
            };
            match column.data_type() == f.data_type() {
                true => Ok(column),
                false if widened(f.name()) => cast(&column, f.data_type()).map_err(|e| {
                    Error::halt(format!("{path}: column {} cannot be widened", f.name())).because(e)
                }),
                false => Err(Error::halt(format!(
                    "{path}: column {} is {}, the topic file says {}",
                    f.name(),
                    column.data_type(),
                    f.data_type()
                ))),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        batches.push(RecordBatch::try_new(schema.clone(), columns).map_err(|e| broken(e.into()))?);
    }
    Ok(batches)
}

/// All rows, with the columns that the file has.
///
/// # Errors
/// `Halt`: it is not Parquet.
pub fn all(path: &str, bytes: Bytes) -> Result<Vec<RecordBatch>> {
    let broken = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::halt(format!("{path} cannot be read as Parquet")).because(e)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| broken(e.into()))?;
    let reader = builder.build().map_err(|e| broken(e.into()))?;
    reader.map(|batch| batch.map_err(|e| broken(e.into()))).collect()
}
