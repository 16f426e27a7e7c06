//! What is asked of every format, of any bytes: one fate, the same whatever stands beside them, and
//! never a panic.
//!
//! Owns: a target per format (its topics, one good record), the property, mutations, where the corpus lies.
//! Does not own: who calls it: `tests/it/fuzz.rs` for seconds, `tests/fuzz/main.rs` under libFuzzer
//! for as long as one likes.

use highwater::{
    catalog::{self, Topic},
    decode::{Decoded, Decoder, Reject, Secret},
    record::{
        EventTime, Partition, RawRecord,
        schemas::{SchemaId, Schemas, Told},
    },
};
use rand::{Rng, rngs::SmallRng};
use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

/// Of a topic: what stands before its columns, the columns, and whether the bytes are the key of a
/// record without a value.
type Declared = (&'static str, &'static str, bool);

/// Name, format and topics of each.
const TARGETS: [(&str, &str, &[Declared]); 10] = [
    (
        "json",
        "json",
        &[
            ("event_time = \"at\"\nmax_future = \"1h\"", EVERY_TYPE, false),
            (
                "event_time = { date = \"day\", clock = \"clock\" }\ntime_zone = \"Europe/London\"",
                SERVICE_DAY,
                false,
            ),
        ],
    ),
    ("csv", "csv", &[("[csv]\ndelimiter = \";\"\nnull = \"-\"", CSV, false), ("", CSV, false)]),
    (
        "cloudevents",
        "cloudevents",
        &[("event_time = \"ce_time\"", CLOUDEVENTS, false), ("batched = true", CLOUDEVENTS, false)],
    ),
    ("avro", "avro", &[("registry = \"file:schemas\"\nevent_time = \"at\"", AVRO, false)]),
    (
        "debezium-json",
        "debezium-json",
        &[
            ("[changes]\nkey = [\"id\"]", CHANGED, false),
            ("[changes]\nkey = [\"id\"]\nbefore = \"full\"\ndecimals = \"string\"", CHANGED, false),
            ("[changes]\nkey = [\"id\"]\nunwrapped = true", CHANGED, false),
            (
                "[changes]\nkey = [\"id\"]\norder = \"offset\"\ntombstones = \"delete\"",
                CHANGED,
                true,
            ),
        ],
    ),
    (
        "debezium-avro",
        "debezium-avro",
        &[
            ("registry = \"file:schemas\"\n[changes]\nkey = [\"id\"]", CHANGED, false),
            (
                "registry = \"file:schemas\"\n[changes]\nkey = [\"id\"]\nbefore = \"full\"",
                CHANGED,
                false,
            ),
            (
                "registry = \"file:schemas\"\n[changes]\nkey = [\"id\"]\norder = \"offset\"\ntombstones = \"delete\"",
                CHANGED,
                true,
            ),
        ],
    ),
    (
        "maxwell",
        "maxwell",
        &[
            ("[changes]\nkey = [\"id\"]", CHANGED, false),
            ("[changes]\nkey = [\"id\"]\nbefore = \"full\"\ntable = \"test.e\"", CHANGED, false),
        ],
    ),
    (
        "canal",
        "canal",
        &[
            ("[changes]\nkey = [\"id\"]", CHANGED, false),
            ("[changes]\nkey = [\"id\"]\nbefore = \"full\"\norder = \"offset\"", CHANGED, false),
            ("batched = true\n[changes]\nkey = [\"id\"]", CHANGED, false),
        ],
    ),
    (
        "qlik",
        "qlik",
        &[
            ("[changes]\nkey = [\"id\"]\nbefore = \"full\"", CHANGED, false),
            ("[changes]\nkey = [\"id\"]\nimages = \"sparse\"", CHANGED, false),
            ("[changes]\nkey = [\"id\"]\nimages = \"mask\"", CHANGED, false),
        ],
    ),
    (
        "qlik-csv",
        "qlik",
        &[
            (QLIK_ROWS, REPLICATED, false),
            (
                "[changes]\nkey = [\"id\"]\n[csv]\nheader = [\"id\", \"name\", \"made\"]",
                REPLICATED,
                false,
            ),
        ],
    ),
];

const EVERY_TYPE: &str = r#"
id    = "bigint"
at    = "timestamptz"
name  = { type = "text", pii = "hash" }
token = { type = "text", pii = "mask", optional = true }
gone  = { type = "text", pii = "drop" }
stop  = { type = "text", from = "/place/stop/name", optional = true }
small = { type = "smallint", optional = true }
n     = { type = "integer", optional = true }
fare  = { type = "numeric(9,2)", optional = true }
wide  = { type = "numeric(38,10)", optional = true }
one   = { type = "real", optional = true }
ratio = { type = "double precision", optional = true }
ok    = { type = "boolean", optional = true }
day   = { type = "date", optional = true }
code  = { type = "uuid", optional = true }
doc   = { type = "jsonb", optional = true }
raw   = { type = "bytea", optional = true }
s     = { type = "timestamptz", encoding = "timestamp-s", optional = true }
ms    = { type = "timestamptz", encoding = "timestamp-ms", optional = true }
ns    = { type = "timestamptz", encoding = "timestamp-ns", optional = true }
utc   = { type = "timestamptz", encoding = "timestamp-utc", optional = true }
days  = { type = "date", encoding = "days", optional = true }
time  = { type = "text", encoding = "time-us", optional = true }
lasts = { type = "text", encoding = "duration-ns", optional = true }
b64   = { type = "numeric(20,4)", encoding = "decimal-base64", optional = true }
text  = { type = "jsonb", encoding = "json", optional = true }
"#;

const SERVICE_DAY: &str = "id = \"bigint\"\nday = \"date\"\nclock = \"text\"";

const CSV: &str =
    "id = \"integer\"\nname = \"text\"\nat = \"date\"\ndoc = { type = \"jsonb\", optional = true }";

const CLOUDEVENTS: &str = r#"
tap_id  = "text"
fare    = { type = "numeric(8,2)", optional = true }
doc     = { type = "jsonb", optional = true }
event   = { type = "text", from = "/ce_id" }
ce_time = "timestamptz"
ce_partitionkey = { type = "text", optional = true }
"#;

const AVRO: &str = r#"
id    = "bigint"
name  = { type = "text", optional = true }
fare  = { type = "numeric(9,2)", optional = true }
day   = { type = "date", optional = true }
clock = { type = "text", optional = true }
at    = "timestamptz"
at_ms = { type = "bigint", optional = true }
one   = { type = "real", optional = true }
ratio = { type = "double precision", optional = true }
ok    = { type = "boolean", optional = true }
raw   = { type = "bytea", optional = true }
code  = { type = "uuid", optional = true }
kind  = { type = "text", optional = true }
tags  = { type = "jsonb", optional = true }
words = { type = "jsonb", optional = true }
doc   = { type = "jsonb", optional = true }
stop  = { type = "text", from = "/place/stop", optional = true }
"#;

const CHANGED: &str = r#"
id    = "integer"
name  = { type = "text", optional = true }
price = { type = "numeric(12,2)", optional = true }
made  = { type = "timestamptz", encoding = "timestamp-utc", optional = true }
at    = { type = "timestamptz", encoding = "timestamp-us", optional = true }
doc   = { type = "jsonb", optional = true }
"#;

const REPLICATED: &str = r#"
id   = "integer"
name = { type = "text", optional = true }
made = { type = "timestamptz", encoding = "timestamp-utc", optional = true }
"#;

const QLIK_ROWS: &str = r#"[changes]
key = ["id"]
images = "mask"
[csv]
header = ["header__change_seq", "header__change_oper", "header__change_mask", "header__timestamp", "id", "name", "made"]"#;

/// What the registry tells of 1, 2 and 3; of 4 it tells that there is none.
const SCHEMAS: [&str; 3] = [
    r#"{"type":"record","name":"t.Tap","fields":[{"name":"id","type":"long"},{"name":"name","type":["null","string"]},
    {"name":"fare","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}]},
    {"name":"day","type":{"type":"int","logicalType":"date"}},{"name":"clock","type":{"type":"long","logicalType":"time-micros"}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},{"name":"at_ms","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"one","type":"float"},{"name":"ratio","type":"double"},{"name":"ok","type":"boolean"},{"name":"raw","type":"bytes"},
    {"name":"code","type":{"type":"string","logicalType":"uuid"}},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["IN","OUT"]}},
    {"name":"tags","type":{"type":"array","items":["null","string"]}},{"name":"words","type":{"type":"map","values":"long"}},
    {"name":"doc","type":"string"},{"name":"place","type":["null",{"type":"record","name":"Place","fields":[{"name":"stop","type":"string"},
    {"name":"in","type":["null","Place"]}]}]}]}"#,
    r#"{"type":"record","name":"s.Envelope","fields":[{"name":"before","type":["null",{"type":"record","name":"Value","fields":[
    {"name":"id","type":"int"},{"name":"name","type":["null","string"]},{"name":"price","type":["null",
    {"type":"bytes","scale":2,"precision":12,"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}]},
    {"name":"at","type":["null",{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}]}]}]},{"name":"after","type":["null","Value"]},
    {"name":"source","type":{"type":"record","name":"Source","fields":[{"name":"ts_ms","type":"long"},{"name":"lsn","type":["null","long"]}]}},
    {"name":"op","type":"string"},{"name":"ts_ms","type":["null","long"]}]}"#,
    r#"{"type":"record","name":"s.Key","fields":[{"name":"id","type":"int"}]}"#,
];

pub fn names() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|(name, ..)| *name)
}

/// A folder of inputs for each target. One of them, `row`, is a record that gives a row.
pub fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

pub struct Target {
    decoders: Vec<(Decoder, bool)>,
    row: Vec<u8>,
}

impl Target {
    pub fn new(name: &str) -> Self {
        let (_, format, topics) = TARGETS.iter().find(|(own, ..)| *own == name).expect("a target");
        static TOLD: LazyLock<Arc<Schemas>> = LazyLock::new(told);
        let decoder = |(tables, columns, is_key): &Declared| {
            let secret = Secret(b"a secret of the tests".as_slice().into());
            let topic = declared(format, tables, columns);
            (Decoder::with_schemas(topic, Some(secret), TOLD.clone()), *is_key)
        };
        let row = std::fs::read(corpus(name).join("row")).expect("a row in the corpus");
        Self { decoders: topics.iter().map(decoder).collect(), row }
    }

    /// Panics where the format does not keep its word for this record.
    pub fn check(&mut self, input: &[u8]) {
        for (decoder, is_key) in &mut self.decoders {
            let record = |offset, bytes| match is_key {
                true => raw(offset, Some(bytes), None),
                false => raw(offset, None, Some(bytes)),
            };
            let row = &self.row[..];
            let alone = Fate::of(decoder, &[record(1, input)]);
            let beside = Fate::of(decoder, &[record(0, row), record(1, input), record(2, row)]);
            let rows = Fate::of(decoder, &[record(0, row), record(2, row)]);
            assert_eq!(beside, [&rows[..1], &alone[..], &rows[1..]].concat(), "a record's company");
        }
    }
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    /// Its rows, and what its change says of the rows before.
    Rows(Vec<arrow::array::ArrayRef>, Option<Vec<arrow::array::ArrayRef>>, Vec<EventTime>),
    Reject(Reject),
    Nothing,
}

impl Fate {
    fn of(decoder: &mut Decoder, records: &[RawRecord<'_>]) -> Vec<Self> {
        let decoded = decoder.decode(records);
        let rows_of: Vec<_> = decoded.rows_by_record().collect();
        let mut rows_of = rows_of.into_iter();
        let Decoded { rows, event_times, rejects, empty, before, .. } = decoded;
        let mut fates: Vec<Option<Self>> = vec![None; records.len()];
        for mut reject in rejects {
            assert!(!reject.reason.is_empty());
            let place = std::mem::take(&mut reject.record);
            assert!(fates[place].replace(Self::Reject(reject)).is_none(), "two fates");
        }
        for place in empty {
            assert!(fates[place].replace(Self::Nothing).is_none(), "two fates");
        }
        let mut row = 0;
        for fate in &mut fates {
            fate.get_or_insert_with(|| {
                let own = rows_of.next().expect("one fate each");
                let of = |batch: &arrow::array::RecordBatch| {
                    batch.slice(own.start, own.len()).columns().to_vec()
                };
                let before = before.as_ref().map(|before| of(&before.rows));
                row = own.end;
                Self::Rows(of(&rows), before, event_times[own.clone()].to_vec())
            });
        }
        assert_eq!((row, row), (rows.num_rows(), event_times.len()), "one fate each");
        fates.into_iter().flatten().collect()
    }
}

fn raw<'a>(offset: i64, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> RawRecord<'a> {
    // 2024-03-01 08:00 UTC.
    let timestamp = EventTime(1_709_280_000_000_000);
    RawRecord { partition: Partition(0), offset, timestamp, key, value }
}

fn told() -> Arc<Schemas> {
    let schemas = Schemas::default();
    for (id, text) in (1..).zip(SCHEMAS) {
        schemas.tell(SchemaId(id), Told::Schema([text.to_owned()].into()));
    }
    schemas.tell(SchemaId(4), Told::Denied("there is none".into()));
    Arc::new(schemas)
}

fn declared(format: &str, tables: &str, columns: &str) -> Arc<Topic> {
    let text = format!("topic = \"t\"\nformat = \"{format}\"\n{tables}\n[columns]\n{columns}");
    let catalog = catalog::check(&[("topics/t.toml".into(), text)], &[]);
    catalog.unwrap_or_else(|mistakes| panic!("{mistakes:?}")).topics["t"].clone()
}

/// What formats are sensitive to.
const WORDS: [&str; 28] = [
    "null",
    "true",
    "{}",
    "[]",
    "[[",
    "{\"a\":",
    "\"\"",
    "\"",
    "\\u0000",
    "\\ud800",
    "\\\"",
    ",",
    ":",
    "}",
    "]",
    "-",
    "1e999",
    "-0.0",
    "99999999999999999999999999999999999999999",
    "0001-01-01",
    "9999-12-31T23:59:60Z",
    "24:00:00",
    "NaN",
    "\u{feff}",
    "🔥",
    "\r\n",
    "\u{0}",
    "==",
];

/// Some of what may happen to bytes on their way, a few times over; `other` is of the same corpus.
pub fn altered(random: &mut SmallRng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let (len, at) = (bytes.len(), random.random_range(0..=bytes.len()));
        let end = random.random_range(at..=len.min(at + 24));
        match random.random_range(0..9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 if at < len => bytes[at] ^= 1 << random.random_range(0..8),
            4 if at < len => bytes[at] = random.random(),
            5 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                bytes.splice(at..end, word.bytes());
            }
            6 => {
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len().min(from + 200));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                let count = 1 << random.random_range(0..14);
                let byte = bytes.get(at).copied().unwrap_or(b'[');
                bytes.splice(at..at, std::iter::repeat_n(byte, count));
            }
            _ => bytes.extend_from_slice(&other[random.random_range(0..=other.len())..]),
        }
    }
    bytes
}
