//! What a topic of changes (CDC) declares besides its columns: the source's key, what its images
//! hold, how the connector writes numbers and times.
//!
//! Owns: `[changes]` of a topic file and the `encoding` of a column. Does not own: how a message
//! is taken apart (`decode`), what becomes of an operation (`compute`).

use super::{
    CsvSpec, Format, PgType, TopicColumn,
    mistake::unknown,
    toml_table::{Found, Table},
};
use crate::record::quantity::percent;
use std::collections::BTreeSet;

/// A topic whose records are operations on the rows of a source's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSpec {
    /// The source's primary key: indexes in `Topic::columns`. Empty: it has none, and no table of
    /// rows can be kept by it.
    pub key: Vec<usize>,
    /// Whether an update or a delete brings the whole row as it was before (PostgreSQL's REPLICA
    /// IDENTITY FULL, MySQL's binlog_row_image=FULL). Without it only the key counts there:
    /// connectors fill the rest.
    pub before: bool,
    /// `database.table`: what is of another says nothing; None: all is of one.
    pub table: Option<String>,
    pub images: Images,
    pub decimals: Decimals,
    /// What orders two operations on one key.
    pub order: Order,
    /// Flattened by Debezium's ExtractNewRecordState: the record is the row, with `__op` and others.
    pub unwrapped: bool,
    /// What a record without a value is: nothing (it follows a delete), or the delete itself.
    pub tombstones: Tombstones,
    pub snapshots: Snapshots,
    /// In millionths of the rows: a cut that takes more of them stops the topic. None: whatever it takes.
    pub max_cut_deletes: Option<u32>,
}

/// What a new snapshot of the source means for rows that it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshots {
    /// They go when it has ended.
    Replace {
        /// In millionths of the rows: a snapshot that takes more of them waits for a person.
        max_deletes: u32,
    },
    /// They go when a person has said where the load ended; where it began, a person has said before.
    Bracketed {
        /// As of `Replace`.
        max_deletes: u32,
    },
    /// Nothing: what is read is a row like any other.
    Merge,
}

impl Snapshots {
    pub fn is_bracketed(self) -> bool {
        match self {
            Self::Bracketed { .. } => true,
            Self::Replace { .. } | Self::Merge => false,
        }
    }

    /// None: nothing is deleted.
    pub fn max_deletes(self) -> Option<u32> {
        match self {
            Self::Replace { max_deletes } | Self::Bracketed { max_deletes } => Some(max_deletes),
            Self::Merge => None,
        }
    }
}

/// Of a topic that says nothing.
pub const MAX_DELETES: u32 = 200_000;

/// What an update's image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// Every column.
    Full,
    /// Only what changed: NULL means unchanged.
    Sparse,
    /// A mask in the message says which columns it holds.
    Mask,
}

/// Debezium's `decimal.handling.mode`, where a message does not carry its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decimals {
    /// Big-endian two's complement in base64; the scale is the column's.
    Precise,
    /// Decimal text, or JSON numbers.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The source's own position (LSN, binlog position, change sequence): what a connector sends
    /// again after a restart is known to be old.
    Source,
    /// Kafka's offset.
    Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tombstones {
    Ignore,
    Delete,
}

/// How a connector writes a value that JSON has no type for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As the column's type says.
    Plain,
    /// Days since 1970-01-01.
    Days,
    /// Time of day since midnight.
    TimeOfDay(Unit),
    /// Since 1970-01-01 UTC.
    Instant(Unit),
    Duration(Unit),
    /// Base64 of a big-endian two's complement integer, × 10^-scale.
    Decimal(i8),
    /// `{"scale": …, "value": base64}`.
    VariableDecimal,
    /// JSON in a string.
    Json,
    /// Text of an instant; without an offset it is UTC. Digits below microseconds are cut off.
    Utc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// What is said of rows that change or go.
const OF_ROWS_THAT_CHANGE: [&str; 6] =
    ["before", "images", "tombstones", "snapshots", "max_deletes", "max_cut_deletes"];

const CHANGES: [&str; 12] = [
    "key",
    "append_only",
    "before",
    "table",
    "images",
    "decimals",
    "order",
    "unwrapped",
    "tombstones",
    "snapshots",
    "max_deletes",
    "max_cut_deletes",
];

const ENCODINGS: [(&str, Encoding); 13] = [
    ("days", Encoding::Days),
    ("time-ms", Encoding::TimeOfDay(Unit::Millis)),
    ("time-us", Encoding::TimeOfDay(Unit::Micros)),
    ("time-ns", Encoding::TimeOfDay(Unit::Nanos)),
    ("timestamp-s", Encoding::Instant(Unit::Seconds)),
    ("timestamp-ms", Encoding::Instant(Unit::Millis)),
    ("timestamp-us", Encoding::Instant(Unit::Micros)),
    ("timestamp-ns", Encoding::Instant(Unit::Nanos)),
    ("timestamp-utc", Encoding::Utc),
    ("duration-us", Encoding::Duration(Unit::Micros)),
    ("duration-ns", Encoding::Duration(Unit::Nanos)),
    ("decimal-base64", Encoding::Decimal(0)),
    ("json", Encoding::Json),
];

impl Encoding {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let names = ENCODINGS.map(|(name, _)| name);
        let found = ENCODINGS.iter().find(|(name, _)| *name == text);
        found.map(|(_, encoding)| *encoding).ok_or_else(|| unknown("encoding", text, &names))
    }

    /// For a column of this type; else what it may be used for.
    pub(super) fn fitted(self, pg: PgType) -> Result<Self, &'static str> {
        match (self, pg) {
            (Self::Days, PgType::Date)
            | (Self::TimeOfDay(_) | Self::Duration(_), PgType::Text)
            | (Self::Instant(_) | Self::Utc, PgType::Timestamptz)
            | (Self::Json, PgType::Jsonb)
            | (Self::Plain | Self::VariableDecimal, _) => Ok(self),
            (Self::Decimal(_), PgType::Numeric(_, scale)) => Ok(Self::Decimal(scale)),
            (Self::Days, _) => Err("a date column"),
            (Self::TimeOfDay(_) | Self::Duration(_), _) => Err("a text column"),
            (Self::Instant(_) | Self::Utc, _) => Err("a timestamptz column"),
            (Self::Json, _) => Err("a jsonb column"),
            (Self::Decimal(_), _) => Err("a numeric(p,s) column"),
        }
    }
}

impl Format {
    pub fn is_debezium(self) -> bool {
        match self {
            Self::DebeziumJson | Self::DebeziumAvro => true,
            Self::Json | Self::Csv | Self::Avro | Self::CloudEvents => false,
            Self::Maxwell | Self::Canal | Self::Qlik => false,
        }
    }

    /// Whether its records are operations on rows.
    pub fn is_change(self) -> bool {
        match self {
            Self::Json | Self::Csv | Self::Avro | Self::CloudEvents => false,
            Self::DebeziumJson | Self::DebeziumAvro => true,
            Self::Maxwell | Self::Canal | Self::Qlik => true,
        }
    }
}

/// Reads `[changes]`, and whether rows are only added; None for a format whose records are no operations.
pub(super) fn read(
    top: &Table<'_>,
    format: Format,
    csv: Option<&CsvSpec>,
    columns: &[TopicColumn],
    unsure: &BTreeSet<String>,
    found: &mut Found,
) -> Option<(ChangeSpec, bool)> {
    if !format.is_change() {
        if let Some(row) = top.row("changes") {
            found.push((
                row.byte,
                format!(
                    "[changes] is for topics of changes, and the format is {}. Allowed: such as \
                     format = \"debezium-json\"",
                    format.as_str()
                ),
            ));
        }
        return None;
    }
    let mut spec = ChangeSpec {
        key: Vec::new(),
        before: false,
        table: None,
        images: Images::Full,
        decimals: Decimals::Precise,
        order: Order::Source,
        unwrapped: false,
        tombstones: Tombstones::Ignore,
        snapshots: Snapshots::Merge,
        max_cut_deletes: None,
    };
    let Some(table) = top.table("changes", found) else {
        if !top.has("changes") {
            found.push((
                0,
                "the table [changes] is missing. Allowed: [changes] with key = [\"…\"], the \
                 source's primary key (key = [] where it has none)"
                    .into(),
            ));
        }
        return Some((spec, false));
    };
    table.only(&CHANGES, found);
    let append_only = table.boolean("append_only", found).unwrap_or(false);
    if append_only {
        for key in OF_ROWS_THAT_CHANGE.into_iter().filter(|key| table.has(key)) {
            let what = format!(
                "`changes.{key}` is of rows that change or go, and append_only says that none does"
            );
            found.push((table.byte(key), format!("{what}. Allowed: to leave one of the two out")));
        }
    }
    match table.texts("key", found) {
        Some(names) => spec.key = key(&names, columns, unsure, found),
        None if !table.has("key") => found.push((
            table.byte,
            "the key `changes.key` is missing. Allowed: key = [\"…\"], the source's primary key \
             (key = [] where it has none)"
                .into(),
        )),
        None => {}
    }
    let before = |text: &str| match text {
        "full" => Ok(true),
        "key" => Ok(false),
        _ => Err(unknown("kind of before-image", text, &["full", "key"])),
    };
    let images = |text: &str| match text {
        "full" => Ok(Images::Full),
        "sparse" => Ok(Images::Sparse),
        "mask" => Ok(Images::Mask),
        _ => Err(unknown("kind of images", text, &["full", "sparse", "mask"])),
    };
    let decimals = |text: &str| match text {
        "precise" => Ok(Decimals::Precise),
        "string" | "double" => Ok(Decimals::Text),
        _ => Err(unknown("kind of decimals", text, &["precise", "string", "double"])),
    };
    let order = |text: &str| match text {
        "source" => Ok(Order::Source),
        "offset" => Ok(Order::Offset),
        _ => Err(unknown("order", text, &["source", "offset"])),
    };
    let tombstones = |text: &str| match text {
        "ignore" => Ok(Tombstones::Ignore),
        "delete" => Ok(Tombstones::Delete),
        _ => Err(unknown("meaning of tombstones", text, &["ignore", "delete"])),
    };
    spec.before = table.parsed("before", before, found).unwrap_or(spec.before);
    spec.table = table.parsed("table", table_name, found);
    spec.images = table.parsed("images", images, found).unwrap_or(spec.images);
    spec.decimals = table.parsed("decimals", decimals, found).unwrap_or(spec.decimals);
    spec.order = table.parsed("order", order, found).unwrap_or(spec.order);
    spec.unwrapped = table.boolean("unwrapped", found).unwrap_or(false);
    spec.tombstones = table.parsed("tombstones", tombstones, found).unwrap_or(spec.tombstones);
    spec.check_format(format, csv, &table, found);
    spec.max_cut_deletes = table.parsed("max_cut_deletes", percent, found).map(millionths);
    if !append_only {
        spec.snapshots = spec.read_snapshots(format, &table, found);
    }
    if spec.tombstones == Tombstones::Delete && spec.key.is_empty() {
        found.push((
            table.byte("tombstones"),
            "tombstones that delete need the key of what they delete. Allowed: a key, or \
             tombstones = \"ignore\""
                .into(),
        ));
    }
    Some((spec, append_only))
}

fn millionths(share: f64) -> u32 {
    (share * 1e6).round() as u32
}

fn table_name(text: &str) -> Result<String, String> {
    match text.split_once('.') {
        Some((database, table)) if !database.is_empty() && !table.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no table. Allowed: \"DATABASE.TABLE\"")),
    }
}

impl ChangeSpec {
    /// Where it can be told which rows a snapshot had read before, they go unless the topic says otherwise.
    fn read_snapshots(&self, format: Format, table: &Table<'_>, found: &mut Found) -> Snapshots {
        let told = table.parsed(
            "snapshots",
            |text| match text {
                "replace" => Ok(true),
                "merge" => Ok(false),
                _ => Err(unknown("meaning of snapshots", text, &["replace", "merge"])),
            },
            found,
        );
        let share = table.parsed("max_deletes", percent, found);
        let able = (format.is_debezium() || format == Format::Qlik) && self.order == Order::Source;
        if told == Some(true) && !able {
            found.push((
                table.byte("snapshots"),
                "snapshots replace rows where Debezium's or Replicate's events are ordered by the source's position. \
                 Allowed: to leave it out, which merges them"
                    .into(),
            ));
        }
        let replaces = able && told.unwrap_or(true);
        if share.is_some() && !replaces {
            found.push((
                table.byte("max_deletes"),
                "`changes.max_deletes` is for snapshots that replace, and these merge: nothing is deleted. \
                 Allowed: to leave it out"
                    .into(),
            ));
        }
        let max_deletes = share.map_or(MAX_DELETES, millionths);
        match (replaces, format) {
            (true, Format::Qlik) => Snapshots::Bracketed { max_deletes },
            (true, _) => Snapshots::Replace { max_deletes },
            (false, _) => Snapshots::Merge,
        }
    }

    /// What only some formats say.
    fn check_format(
        &self,
        format: Format,
        csv: Option<&CsvSpec>,
        table: &Table<'_>,
        found: &mut Found,
    ) {
        let debezium = format.is_debezium();
        for (key, told, fits, whose) in [
            ("unwrapped", self.unwrapped, debezium, "Debezium's events"),
            ("decimals", table.has("decimals"), debezium, "Debezium's events"),
            ("tombstones", self.tombstones == Tombstones::Delete, debezium, "Debezium's events"),
            (
                "table",
                self.table.is_some(),
                matches!(format, Format::Maxwell | Format::Canal),
                "Maxwell's and Canal's events",
            ),
            ("images", self.images == Images::Mask, format == Format::Qlik, "Replicate's changes"),
            ("before", self.before, csv.is_none(), "events; a row of CSV has one image"),
        ] {
            if told && !fits {
                let what = format!("`changes.{key}` as it stands is for {whose}");
                found.push((table.byte(key), format!("{what}. Allowed: to leave it out")));
            }
        }
        // A row without an operation is one of a full load.
        let Some(csv) = csv.filter(|csv| csv.qlik("change_oper").is_some()) else { return };
        for (wanted, field, remedy) in [
            (self.order == Order::Source, "change_seq", "order = \"offset\""),
            (self.images == Images::Mask, "change_mask", "images = \"sparse\" or \"full\""),
        ] {
            if wanted && csv.qlik(field).is_none() {
                found.push((
                    table.byte,
                    format!("csv.header has no header__{field}. Allowed: to name it, or {remedy}"),
                ));
            }
        }
    }
}

fn key(
    names: &[(usize, String)],
    columns: &[TopicColumn],
    unsure: &BTreeSet<String>,
    found: &mut Found,
) -> Vec<usize> {
    let mut key = Vec::new();
    for (byte, name) in names {
        if unsure.contains(name) {
            continue;
        }
        let Some(place) = columns.iter().position(|column| column.name == *name) else {
            let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            found.push((*byte, unknown("column in changes.key", name, &known)));
            continue;
        };
        let column = &columns[place];
        if key.contains(&place) {
            found.push((*byte, format!("changes.key has `{name}` twice. Allowed: each once")));
        } else if column.kept().is_none() {
            found.push((
                *byte,
                format!(
                    "changes.key has `{name}`, which pii = \"drop\" leaves out. Allowed: a kept \
                     column (hashed ones too)"
                ),
            ));
        } else if let PgType::Real | PgType::Double | PgType::Jsonb = column.pg {
            found.push((
                *byte,
                format!(
                    "changes.key has the {} column `{name}`, whose values are not told apart \
                     safely. Allowed: any other type",
                    column.pg
                ),
            ));
        } else {
            key.push(place);
        }
    }
    key
}
