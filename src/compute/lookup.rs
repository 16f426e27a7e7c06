//! Rows of a reference, found by key.
//!
//! Owns: one version of a reference with its index, and the lookup. Does not own: where versions
//! come from, which one a cut uses (`pipeline`).
//!
//! A record that finds nothing is kept, with NULL in each column of the reference: it is a miss,
//! and counted. A NULL never finds anything, as in SQL.

use crate::{
    catalog::{Join, Reference, Topic, TopicColumn},
    decode::Decoder,
    error::{Error, Result},
    record::{EventTime, Partition, RawRecord},
};
use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt32Array},
    compute::take,
    row::{RowConverter, SortField},
};
use std::{collections::HashMap, sync::Arc};

/// What was loaded at one time.
pub struct Version {
    pub reference: Arc<Reference>,
    /// SHA-256 of the content, hexadecimal.
    pub id: Arc<str>,
    /// The reference's schema.
    pub rows: RecordBatch,
    converter: RowConverter,
    index: HashMap<Box<[u8]>, u32>,
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Version({}, {}, {} rows)", self.reference.name, self.id, self.rows.num_rows())
    }
}

impl Version {
    /// # Errors
    /// `Halt`: two rows have one key.
    pub fn new(reference: Arc<Reference>, id: Arc<str>, rows: RecordBatch) -> Result<Self> {
        let failed = |e| Error::halt(format!("index reference {}", reference.name)).because(e);
        let keys: Vec<ArrayRef> = reference.key.iter().map(|k| rows.column(*k).clone()).collect();
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(failed)?;
        let converted = converter.convert_columns(&keys).map_err(failed)?;
        let mut index = HashMap::with_capacity(rows.num_rows());
        for (row, key) in converted.iter().enumerate() {
            if let Some(first) = index.insert(Box::from(key.as_ref()), row as u32) {
                let number = |row: usize| row + 1;
                return Err(Error::halt(format!(
                    "reference {}: rows {} and {} have the same primary key; each key must have \
                     one row",
                    reference.name,
                    number(first as usize),
                    number(row)
                )));
            }
        }
        Ok(Self { reference, id, rows, converter, index })
    }

    /// From the content that was kept: a JSON object per line.
    pub fn restored(reference: &Arc<Reference>, id: &str, content: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(content)
            .map_err(|e| Error::halt(format!("read reference {}", reference.name)).because(e))?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // Under their own names, wherever they came from.
        let columns: Vec<TopicColumn> = reference.rows.columns.iter().map(renamed).collect();
        let topic = Topic { columns, ..Topic::clone(&reference.rows) };
        let rows = decoded(reference, &Arc::new(topic), &lines)?;
        Self::new(reference.clone(), id.into(), rows)
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        let keys: usize = self.index.keys().map(|key| key.len() + 40).sum();
        self.rows.get_array_memory_size() + keys
    }
}

fn renamed(column: &TopicColumn) -> TopicColumn {
    let path = vec![column.name.clone()];
    TopicColumn { path, path_is_default: true, ..column.clone() }
}

/// Rows of a reference by the strict rules of topics; the first that does not fit refuses all.
pub fn decoded(reference: &Reference, topic: &Arc<Topic>, lines: &[String]) -> Result<RecordBatch> {
    let records: Vec<RawRecord<'_>> = lines
        .iter()
        .enumerate()
        .map(|(row, line)| RawRecord {
            partition: Partition(0),
            offset: row as i64,
            timestamp: EventTime(0),
            key: None,
            value: Some(line.as_bytes()),
        })
        .collect();
    let decoded = Decoder::new(topic.clone(), None).decode(&records);
    if let Some(reject) = decoded.rejects.first() {
        let column = reject.column.as_deref().map(|c| format!(", column {c}")).unwrap_or_default();
        return Err(Error::halt(format!(
            "reference {}: row {}{column}: {} ({} rows of {} do not fit)",
            reference.name,
            reject.record + 1,
            reject.reason,
            decoded.rejects.len(),
            lines.len()
        )));
    }
    let kept: Vec<usize> = (0..reference.schema.fields().len()).collect();
    let rows = decoded.rows.project(&kept);
    rows.map_err(|e| Error::halt(format!("load reference {}", reference.name)).because(e))
}

/// How one model looks its records up.
pub struct Lookup {
    /// Places of the key in the columns given.
    on: Vec<usize>,
    /// Columns of the reference that the model uses.
    columns: Vec<usize>,
    reference: Arc<str>,
    version: Option<Arc<Version>>,
}

impl Lookup {
    /// `columns` are those given to [`Self::join`], by name; `used` names a joined column.
    pub fn new(join: &Join, columns: &[&str], used: impl Fn(&str) -> bool) -> Self {
        let place = |name: &String| {
            let place = columns.iter().position(|column| column == name);
            place.expect("a model's columns hold those of its join")
        };
        let fields = join.reference.schema.fields().iter().enumerate();
        let used = fields.filter(|(_, field)| used(&join.column(field.name())));
        Self {
            on: join.on.iter().map(place).collect(),
            columns: used.map(|(place, _)| place).collect(),
            reference: join.reference.name.clone(),
            version: None,
        }
    }

    /// From now on records are looked up here, if it is of this reference.
    pub fn set(&mut self, version: &Arc<Version>) {
        if version.reference.name == self.reference {
            self.version = Some(version.clone());
        }
    }

    pub fn version(&self) -> Option<&Arc<Version>> {
        self.version.as_ref()
    }

    /// Appends the reference's columns; gives the number of misses.
    pub fn join(&self, columns: &mut Vec<ArrayRef>, rows: usize) -> Result<u64> {
        let failed = |e| Error::halt(format!("look up in reference {}", self.reference)).because(e);
        let version = self.version.as_ref().ok_or_else(|| {
            Error::halt(format!("reference {} was not loaded before records", self.reference))
        })?;
        let keys: Vec<ArrayRef> = self.on.iter().map(|place| columns[*place].clone()).collect();
        let converted = version.converter.convert_columns(&keys).map_err(failed)?;
        let found: UInt32Array = (0..rows)
            .map(|row| match keys.iter().any(|key| key.is_null(row)) {
                true => None,
                false => version.index.get(converted.row(row).as_ref()).copied(),
            })
            .collect();
        for column in &self.columns {
            columns.push(take(version.rows.column(*column), &found, None).map_err(failed)?);
        }
        Ok(found.null_count() as u64)
    }
}
