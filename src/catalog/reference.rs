//! A reference: a table that a topic's records are looked up in (stops, products, counties).
//!
//! Owns: `topics/NAME.toml` with the key `reference`, and what it says. Does not own: where rows
//! are loaded (`ops`), the lookup (`compute`).

use super::{
    Drift, Format, PgType, Topic, TopicColumn,
    mistake::{Page, unknown},
    toml_table::{Found, Table},
    topic::schema_of,
    topic_file,
};
use crate::record::quantity::duration;
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use toml::de::DeTable;

const KEYS: [&str; 4] = ["reference", "primary_key", "refresh", "columns"];
const REFRESH: Duration = Duration::from_secs(600);
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// One `topics/NAME.toml` with a `reference`.
#[derive(Debug, Clone)]
pub struct Reference {
    /// What models say after LEFT JOIN.
    pub name: Arc<str>,
    pub place: Place,
    /// How often its place is looked at for another version.
    pub refresh: Duration,
    /// Columns of `schema`, in order of the file: each row has another key, and no NULL in it.
    pub key: Vec<usize>,
    /// How its rows are decoded: as JSON records of these columns, by the same strict rules.
    pub rows: Arc<Topic>,
    /// The kept columns, without those of Kafka.
    pub schema: SchemaRef,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file below the lake's root.
    Lake { path: String, kind: FileKind },
    /// A table or view in PostgreSQL, with its schema or without.
    Table(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// With a header.
    Csv,
    Parquet,
}

impl Reference {
    /// The type of a column that is kept.
    pub fn kept(&self, column: &str) -> Option<PgType> {
        self.schema.index_of(column).ok()?;
        self.rows.kept(column)
    }
}

/// A model's LEFT JOIN.
#[derive(Debug, Clone)]
pub struct Join {
    pub reference: Arc<Reference>,
    /// Columns of the topic, in the order of the reference's key, each of the same type.
    pub on: Vec<String>,
}

impl Join {
    /// What a column of the reference is called in the model's expressions.
    pub fn column(&self, name: &str) -> String {
        format!("{}.{name}", self.reference.name)
    }

    /// The reference's columns under those names, each NULL where there is no row.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        let fields = self.reference.schema.fields().iter();
        fields.map(|f| Field::clone(f).with_name(self.column(f.name())).with_nullable(true))
    }
}

/// A reference file, read as far as it could be.
pub(super) struct ReferenceDraft {
    pub reference: Arc<Reference>,
    /// Columns that mean nothing, since their declaration has a mistake.
    pub unsure: BTreeSet<String>,
}

/// None: it is a topic file.
pub(super) fn read(page: &mut Page<'_>) -> Option<ReferenceDraft> {
    let (document, errors) = DeTable::parse_recoverable(page.text);
    if !errors.is_empty() {
        return None;
    }
    let top = Table::new("", 0, document.get_ref());
    if !top.has("reference") {
        return None;
    }
    let mut found = Found::new();
    let draft = draft(page, &top, &mut found);
    for (byte, what) in found {
        page.at(byte, what);
    }
    Some(draft)
}

fn draft(page: &Page<'_>, top: &Table<'_>, found: &mut Found) -> ReferenceDraft {
    let name: Arc<str> = topic_file::stem(&page.file).into();
    if let Err(what) = super::mistake::check_name("reference's file name", &name) {
        found.push((0, what));
    }
    top.only(&KEYS, found);
    let place = top.parsed("reference", place, found).unwrap_or(Place::Table(name.to_string()));
    let refresh = top.parsed("refresh", duration, found).unwrap_or(REFRESH);
    if refresh < REFRESH_MIN {
        found.push((top.byte("refresh"), "refresh is below a second. Allowed: 1s or more".into()));
    }
    let mut unsure = BTreeSet::new();
    let columns = match top.table("columns", found) {
        Some(table) => topic_file::columns(&table, &mut unsure, found),
        None => {
            if !top.has("columns") {
                let what = "the table [columns] is missing. Allowed: [columns] with one \
                            `name = \"type\"` per column";
                found.push((0, what.into()));
            }
            Vec::new()
        }
    };
    if let Some(column) = columns.iter().find(|column| column.pii.is_some()) {
        found.push((
            0,
            format!(
                "column `{}`: personal data in a reference would be kept with its versions. \
                 Allowed: to leave the column out (what is not declared is not read)",
                column.name
            ),
        ));
    }
    let schema = schema_of(&columns, (Format::Json, false), false, false);
    let kept = schema.fields().len() - KAFKAS;
    let own: SchemaRef = Arc::new(Schema::new(schema.fields()[..kept].to_vec()));
    let key = key(top, &columns, &own, &unsure, found);
    let rows = Topic {
        name: name.clone(),
        file: page.file.clone(),
        kafka_topic: String::new(),
        format: Format::Json,
        batched: false,
        columns,
        event_time: None,
        service_day: None,
        time_zone: chrono_tz::UTC,
        max_disorder: Duration::ZERO,
        max_future: None,
        idle: None,
        lake: None,
        stop_above: None,
        forward: None,
        keep_raw: false,
        unique: None,
        changes: None,
        append_only: false,
        csv: None,
        registry: None,
        drift: Drift::Off,
        additions: Vec::new(),
        schema,
    };
    let reference = Reference { name, place, refresh, key, rows: Arc::new(rows), schema: own };
    ReferenceDraft { reference: Arc::new(reference), unsure }
}

/// `_partition`, `_offset` and `_timestamp`, which a reference has not.
const KAFKAS: usize = 3;

fn place(text: &str) -> Result<Place, String> {
    let wrong = || {
        format!(
            "`{text}` is no place of a reference. Allowed: \"lake:PATH.csv\" or \"lake:PATH.parquet\" (below the lake's \
             root), \"postgres:TABLE\" or \"postgres:SCHEMA.TABLE\""
        )
    };
    match text.split_once(':') {
        Some(("lake", path)) => {
            let kind = match path.rsplit_once('.') {
                Some((_, "csv")) => FileKind::Csv,
                Some((_, "parquet")) => FileKind::Parquet,
                _ => return Err(wrong()),
            };
            match path.starts_with('/') || path.split('/').any(|part| part == "..") {
                true => Err(wrong()),
                false => Ok(Place::Lake { path: path.to_owned(), kind }),
            }
        }
        Some(("postgres", table)) if !table.is_empty() => Ok(Place::Table(table.to_owned())),
        _ => Err(wrong()),
    }
}

fn key(
    top: &Table<'_>,
    columns: &[TopicColumn],
    schema: &SchemaRef,
    unsure: &BTreeSet<String>,
    found: &mut Found,
) -> Vec<usize> {
    let mut key = Vec::new();
    let Some(names) = top.texts("primary_key", found) else {
        if !top.has("primary_key") {
            let what = "the key `primary_key` is missing. Allowed: primary_key = [\"column\"], by \
                        which a record finds its row";
            found.push((0, what.into()));
        }
        return key;
    };
    for (byte, name) in names {
        if unsure.contains(&name) {
            continue;
        }
        let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let Ok(place) = schema.index_of(&name) else {
            found.push((byte, unknown("column in primary_key", &name, &known)));
            continue;
        };
        let column = columns.iter().find(|column| column.name == name);
        match column {
            Some(column) if column.optional => found.push((
                byte,
                format!(
                    "primary_key has `{name}`, which is optional. Allowed: a column that is not"
                ),
            )),
            Some(TopicColumn { pg: PgType::Real | PgType::Double | PgType::Jsonb, .. }) => found
                .push((
                    byte,
                    format!(
                        "primary_key has `{name}`, whose values are not told apart safely. \
                         Allowed: any type but real, double precision and jsonb"
                    ),
                )),
            _ if key.contains(&place) => found
                .push((byte, format!("primary_key has `{name}` twice. Allowed: each column once"))),
            _ => key.push(place),
        }
    }
    key
}
