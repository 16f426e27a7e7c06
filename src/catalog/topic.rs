//! A topic: what one Kafka topic holds, where its lake goes, when it stops.
//!
//! Owns: the declared columns and the schema they make. Does not own: the spelling of the file
//! (see `topic_file`).
//!
//! Defaults, where the file says nothing: `max_disorder` one minute, `max_future` one day, `idle`
//! never, a lake by the date of the event time in UTC with files of 128 MiB or 60 seconds, and a
//! stop above 5% of dead letters.

use super::{
    Addition, ChangeSpec, CsvSpec, Drift, Encoding, PgType, UniqueSpec, fingerprint::sha256,
    mistake::unknown, types::timestamp,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::{collections::HashMap, fmt::Write, path::PathBuf, sync::Arc, time::Duration};

/// Key of a field's metadata that holds its type in PostgreSQL's spelling.
pub const FIELD_PG: &str = "pg";

/// The event time's column in the schema where no column of the record is it.
pub const EVENT_TIME: &str = "_event_time";

/// The column of a row's place within its record, from 0.
pub const INDEX: &str = "_index";

/// One `topics/NAME.toml`.
#[derive(Debug, Clone)]
pub struct Topic {
    /// The file's stem: what models say after FROM, and the name in marks and metrics.
    pub name: Arc<str>,
    pub file: PathBuf,
    /// The topic's name in Kafka.
    pub kafka_topic: String,
    pub format: Format,
    /// Whether a record may be several rows: an array of events, of a message's rows. Each then has its place
    /// within its record in [`INDEX`].
    pub batched: bool,
    /// In order of the file.
    pub columns: Vec<TopicColumn>,
    /// Index of the event time's column in `schema`, never NULL; None: the Kafka timestamp.
    pub event_time: Option<usize>,
    /// Where the event time follows from a day and a clock: then its column is [`EVENT_TIME`].
    pub service_day: Option<ServiceDay>,
    /// Of service days, and of the lake unless it has its own.
    pub time_zone: chrono_tz::Tz,
    pub max_disorder: Duration,
    pub max_future: Option<Duration>,
    /// A partition whose end is reached and that is silent for so long has its watermark moved by
    /// the clock; None: only records move it.
    pub idle: Option<Duration>,
    pub lake: Option<LakeSpec>,
    /// Share of rejects in the last 10,000 records that stops the topic, 0 to 1; None: never.
    pub stop_above: Option<f64>,
    /// Whether dead letters hold key and value as they came. Without it, so by default of a topic
    /// with personal data, they hold the place and the reason; Kafka still has the record.
    pub keep_raw: bool,
    /// None: every good record is taken.
    pub unique: Option<UniqueSpec>,
    /// The Kafka topic that dead letters are sent on to.
    pub forward: Option<Arc<str>>,
    /// Of a topic whose records are operations on rows.
    pub changes: Option<ChangeSpec>,
    /// Of these: whether rows are only ever added at the source. Then each is an event, and no model follows a table.
    /// Not in the spec, whose text is in the fingerprints of lakes that are there.
    pub append_only: bool,
    /// Of a topic whose records are rows of CSV.
    pub csv: Option<CsvSpec>,
    /// Where the schemas are that its records refer to: `http://…` or `file:DIR`.
    pub registry: Option<String>,
    pub drift: Drift,
    /// Recorded by `drift = "apply"`, in order; `columns` has them.
    pub additions: Vec<Addition>,
    /// `columns` without the dropped ones; of changes the columns of [`CHANGE_COLUMNS`]; `_event_time`
    /// if it is computed; `_index` int32 where a record may be several rows; then `_partition` int32, `_offset` int64, `_timestamp`.
    pub schema: SchemaRef,
}

/// A day of service and a clock that may go beyond 24:00, as indexes in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceDay {
    /// A date, never NULL.
    pub date: usize,
    /// A text such as `28:30`, never NULL.
    pub clock: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
    Avro,
    CloudEvents,
    DebeziumJson,
    DebeziumAvro,
    Maxwell,
    Canal,
    Qlik,
}

#[derive(Debug, Clone)]
pub struct TopicColumn {
    pub name: String,
    pub pg: PgType,
    /// Where in the record: object keys from the outside in (a JSON pointer, taken apart; a
    /// number in it is a key too, not an index). By default the camelCase of `name`.
    pub path: Vec<String>,
    /// Whether `path` was not given: then `name` itself is tried when its camelCase is absent.
    pub path_is_default: bool,
    pub optional: bool,
    pub pii: Option<Pii>,
    /// How its values are written, where the record itself does not say so.
    pub encoding: Encoding,
}

/// What each change has beside its row, with their types, and whether they may be NULL.
pub const CHANGE_COLUMNS: [(&str, PgType, bool); 6] = [
    // `insert`, `update`, `delete`, `read` (of a snapshot) or `truncate`.
    ("_op", PgType::Text, false),
    // The row as it was before, where the topic says that images are whole.
    ("_before", PgType::Jsonb, true),
    // A JSON array of the columns that the image does not hold: they are what they were.
    ("_unchanged", PgType::Jsonb, true),
    // Ascends, byte by byte, in the order of the source's log; empty where offsets are the order.
    ("_source_position", PgType::Text, false),
    // When the source made the change; Kafka's timestamp where it does not say.
    ("_source_time", PgType::Timestamptz, false),
    // Of a read of a snapshot: `row`, `last` or `incremental`.
    ("_snapshot", PgType::Text, true),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pii {
    /// HMAC-SHA-256 under the secret, hexadecimal; the column becomes text.
    Hash,
    /// Replaced by `***`; the column becomes text.
    Mask,
    /// Not decoded at all.
    Drop,
}

#[derive(Debug, Clone)]
pub struct LakeSpec {
    pub partition_by: Vec<PartitionBy>,
    /// Encoded bytes of one file at which the lake's cut ends.
    pub roll_bytes: u64,
    pub roll_age: Duration,
    pub time_zone: chrono_tz::Tz,
}

/// One level of the hive path: `NAME=value`.
#[derive(Debug, Clone)]
pub struct PartitionBy {
    pub name: String,
    pub function: PartitionFunction,
    /// Index in the topic's schema.
    pub column: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionFunction {
    /// `date=2024-03-01`, in the lake's time zone.
    Date,
    /// `hour=08`, in the lake's time zone.
    Hour,
    /// The column's own value, percent-encoded; NULL is `__HIVE_DEFAULT_PARTITION__`. The column
    /// stays in the file as well, so that a file means the same away from its path: DuckDB and
    /// Spark, which read the path as a column, take the path's value, which is equal.
    Value,
}

impl TopicColumn {
    /// The type that is kept: hashes and masks are text; None: dropped.
    pub fn kept(&self) -> Option<PgType> {
        match self.pii {
            None => Some(self.pg),
            Some(Pii::Hash | Pii::Mask) => Some(PgType::Text),
            Some(Pii::Drop) => None,
        }
    }

    /// The declaration in one line, for fingerprints: whatever changes the column's values.
    pub(super) fn declaration(&self) -> String {
        let mut out = format!("{} {} from", self.name, self.pg);
        for key in &self.path {
            // Debug quotes, so that ["a", "b"] and ["a b"] differ.
            let _ = write!(out, " {key:?}");
        }
        let _ = write!(
            out,
            "{}{}{}{}",
            if self.path_is_default { " or the name" } else { "" },
            if self.optional { " optional" } else { "" },
            match self.pii {
                None => "",
                Some(Pii::Hash) => " pii hash",
                Some(Pii::Mask) => " pii mask",
                Some(Pii::Drop) => " pii drop",
            },
            match self.encoding {
                Encoding::Plain => String::new(),
                encoding => format!(" encoding {encoding:?}"),
            }
        );
        out
    }
}

impl Pii {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "hash" => Ok(Self::Hash),
            "mask" => Ok(Self::Mask),
            "drop" => Ok(Self::Drop),
            _ => Err(unknown("treatment of pii", text, &["hash", "mask", "drop"])),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Mask => "mask",
            Self::Drop => "drop",
        }
    }
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Avro => "avro",
            Self::CloudEvents => "cloudevents",
            Self::DebeziumJson => "debezium-json",
            Self::DebeziumAvro => "debezium-avro",
            Self::Maxwell => "maxwell",
            Self::Canal => "canal",
            Self::Qlik => "qlik",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == text)
    }

    /// Whether one of its records may be several rows.
    pub fn has_batches(self) -> bool {
        match self {
            Self::CloudEvents | Self::Canal => true,
            Self::Json | Self::Csv | Self::Avro | Self::DebeziumJson | Self::DebeziumAvro => false,
            Self::Maxwell | Self::Qlik => false,
        }
    }

    /// Whether its records refer to the schema they were written with.
    pub fn has_schemas(self) -> bool {
        match self {
            Self::Avro | Self::DebeziumAvro => true,
            Self::Json | Self::Csv | Self::CloudEvents | Self::DebeziumJson => false,
            Self::Maxwell | Self::Canal | Self::Qlik => false,
        }
    }

    /// Whether its records may say which columns the source has, and of which types.
    pub fn tells_types(self) -> bool {
        match self {
            Self::Avro | Self::DebeziumAvro | Self::DebeziumJson => true,
            Self::Json | Self::Csv | Self::CloudEvents => false,
            Self::Maxwell | Self::Canal | Self::Qlik => false,
        }
    }

    pub(super) const ALL: [Self; 9] = [
        Self::Json,
        Self::Csv,
        Self::Avro,
        Self::CloudEvents,
        Self::DebeziumJson,
        Self::DebeziumAvro,
        Self::Maxwell,
        Self::Canal,
        Self::Qlik,
    ];
}

impl Topic {
    /// The type in PostgreSQL of the schema's column of this name; None: there is no such column
    /// (or it is dropped).
    pub fn kept(&self, name: &str) -> Option<PgType> {
        match name {
            "_partition" => Some(PgType::Integer),
            "_offset" => Some(PgType::BigInt),
            "_timestamp" => Some(PgType::Timestamptz),
            INDEX if self.batched => Some(PgType::Integer),
            EVENT_TIME if self.service_day.is_some() => Some(PgType::Timestamptz),
            _ if self.changes.is_some() && CHANGE_COLUMNS.iter().any(|(n, ..)| *n == name) => {
                CHANGE_COLUMNS.iter().find(|(n, ..)| *n == name).map(|(_, pg, _)| *pg)
            }
            _ => self.columns.iter().find(|c| c.name == name).and_then(TopicColumn::kept),
        }
    }

    /// Of a topic whose records change rows of a table that models follow.
    pub fn followed(&self) -> Option<&ChangeSpec> {
        self.changes.as_ref().filter(|_| !self.append_only)
    }

    /// Name of the event time's column in `schema`.
    pub fn event_time_name(&self) -> &str {
        self.event_time.map_or("_timestamp", |index| self.schema.field(index).name())
    }

    /// What the event time is, in one line, for fingerprints and people.
    pub fn event_time_declaration(&self) -> String {
        match self.service_day {
            Some(day) => format!(
                "{} of the service day {} in {}",
                self.schema.field(day.clock).name(),
                self.schema.field(day.date).name(),
                self.time_zone
            ),
            None => self.event_time_name().to_owned(),
        }
    }

    /// Hexadecimal SHA-256 over whatever decides the rows, columns and paths of the lake. The size
    /// and age at which files roll are not in it: they change no row and no path.
    pub fn lake_fingerprint(&self) -> String {
        let mut out = format!("lake of {} {}\n", self.kafka_topic, self.format.as_str());
        for column in &self.columns {
            let _ = writeln!(out, "{}", column.declaration());
        }
        if let Some(changes) = &self.changes {
            let _ = writeln!(out, "changes {changes:?}");
        }
        if self.append_only {
            out.push_str("append only\n");
        }
        if self.batched {
            out.push_str("batched\n");
        }
        if let Some(csv) = &self.csv {
            let _ = writeln!(out, "{csv:?}");
        }
        let _ = writeln!(out, "event time {}", self.event_time_declaration());
        if let Some(lake) = &self.lake {
            for level in &lake.partition_by {
                let column = self.schema.field(level.column).name();
                let _ = writeln!(out, "by {} {:?} {column}", level.name, level.function);
            }
            let _ = writeln!(out, "in {}", lake.time_zone);
        }
        sha256(&out)
    }
}

/// The kept columns in order, of changes their own, `_event_time` if it is computed, `_index` if records
/// are `batched`, then `_partition`, `_offset` and `_timestamp`.
pub(super) fn schema_of(
    columns: &[TopicColumn],
    (format, append_only): (Format, bool),
    computed_event_time: bool,
    batched: bool,
) -> SchemaRef {
    let field = |name: &str, data_type: DataType, pg: PgType, nullable: bool| {
        Field::new(name, data_type, nullable)
            .with_metadata(HashMap::from([(FIELD_PG.to_owned(), pg.to_string())]))
    };
    let rows_change = format.is_change() && !append_only;
    let mut fields: Vec<Field> = columns
        .iter()
        .filter_map(|c| Some((c, c.kept()?)))
        // A delete has its key alone, a truncate not even that.
        .map(|(c, pg)| field(&c.name, pg.arrow(), pg, c.optional || rows_change))
        .collect();
    if computed_event_time {
        fields.push(field(EVENT_TIME, timestamp(), PgType::Timestamptz, false));
    }
    if format.is_change() {
        let own = CHANGE_COLUMNS.map(|(name, pg, null)| field(name, pg.arrow(), pg, null));
        fields.extend(own);
    }
    if batched {
        fields.push(field(INDEX, DataType::Int32, PgType::Integer, false));
    }
    fields.push(field("_partition", DataType::Int32, PgType::Integer, false));
    fields.push(field("_offset", DataType::Int64, PgType::BigInt, false));
    fields.push(field("_timestamp", timestamp(), PgType::Timestamptz, false));
    Arc::new(Schema::new(fields))
}
