//! What the records of a topic are: taps in JSON, or the same taps in another form.
//!
//! Owns: topic files, keys and values of each form, the schemas that they refer to. Does not own: the
//! taps and the tables that they must give (`workload`). What a form adds to a tap is from a seed of
//! the tap's own, so the taps are the same in each.
//!
//! Debezium: a model that follows the source's table is over the source's table as it is now, so it has no windows, no
//! lowest and no highest. Its question is the nearest: count and sum per five minutes, stop and mode,
//! where the five minutes are a column's value (`date_bin`).

use super::{DAY_MS, Grouping, MODES, START_MS, TOPIC, Tap};
use clap::ValueEnum;
use highwater::record::schemas::{SchemaId, Schemas, Told};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{io::Write, path::Path, sync::Arc};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Seven columns in JSON.
    Taps,
    /// 93 columns more, of mixed types, some of them absent.
    Wide,
    /// A text of 1.8 KB more, which is kept in the lake.
    Large,
    /// The same text of 10 MiB.
    Huge,
    /// The seven columns in Avro, in a schema registry's frame.
    Avro,
    /// Each tap a row that is inserted at the source, as Debezium tells it in JSON; the tables follow the source's.
    Debezium,
    /// The same records of a table whose rows are only added: events with windows, as `Taps`.
    DebeziumAppend,
    /// Each tap changes the row of its token at the source, whose latest tap it is.
    DebeziumUpdates,
}

/// Of a wide event, beside a tap's: what columns are called, their type, how many there are, a value.
type Columns = (&'static str, &'static str, usize, fn(&mut SmallRng, &mut Vec<u8>));
const WIDE: [Columns; 8] = [
    ("category", "text", 20, |random, out| {
        put(out, format_args!("\"class-{:02}\"", random.random_range(0..30)));
    }),
    ("reference", "text", 12, |random, out| {
        put(out, format_args!("\"{:016x}\"", random.random::<u64>()));
    }),
    ("quantity", "integer", 15, |random, out| {
        put(out, format_args!("{}", random.random_range(0..100_000)));
    }),
    ("counter", "bigint", 10, |random, out| {
        put(out, format_args!("{}", random.random_range(0..1_000_000_000_000u64)));
    }),
    ("amount", "numeric(12,2)", 10, |random, out| {
        let cents = random.random_range(0..10_000_000);
        put(out, format_args!("{}.{:02}", cents / 100, cents % 100));
    }),
    ("measure", "double precision", 8, |random, out| {
        put(out, format_args!("{:.5}", random.random_range(-1000.0..1000.0)));
    }),
    ("flag", "boolean", 10, |random, out| put(out, format_args!("{}", random.random::<bool>()))),
    ("moment", "timestamptz", 8, |random, out| {
        out.push(b'"');
        instant(START_MS + random.random_range(0..3_600_000), out);
        out.push(b'"');
    }),
];
/// One column in so many may be absent, and is in one event of [`ABSENT_ONE_IN`].
const OPTIONAL_ONE_IN: usize = 3;
const ABSENT_ONE_IN: u32 = 4;

const TEXT_BYTES: usize = 1_800;
const WORDS: [&str; 48] = [
    "gate",
    "reader",
    "validator",
    "at",
    "the",
    "northern",
    "entrance",
    "was",
    "closed",
    "for",
    "maintenance",
    "and",
    "passengers",
    "were",
    "sent",
    "to",
    "platform",
    "two",
    "because",
    "of",
    "a",
    "fault",
    "in",
    "barrier",
    "controller",
    "firmware",
    "version",
    "restarted",
    "after",
    "timeout",
    "signal",
    "lost",
    "network",
    "retry",
    "card",
    "accepted",
    "balance",
    "checked",
    "offline",
    "by",
    "staff",
    "inspection",
    "report",
    "filed",
    "supervisor",
    "informed",
    "service",
    "resumed",
];

const AVRO: SchemaId = SchemaId(1);
const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "Tap", "namespace": "fares", "fields": [
  {"name": "tapId", "type": "string"},
  {"name": "tokenId", "type": "string"},
  {"name": "stopId", "type": "string"},
  {"name": "deviceId", "type": "string"},
  {"name": "eventTime", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "mode", "type": "string"},
  {"name": "fareCents", "type": ["null", "long"], "default": null}
]}"#;

/// Where the source's log stands before the first tap, and how far each takes it.
const LSN_FIRST: u64 = 77_935_248;
const LSN_STEP: u64 = 312;

impl Form {
    /// The topic file without its first line; what it refers to is written below `folder`.
    pub fn topic_file(self, folder: &Path) -> String {
        match self {
            Self::Taps => TOPIC.to_owned(),
            Self::Wide => with_columns(&wide_columns()),
            Self::Large | Self::Huge => with_columns("report = \"text\"\n"),
            Self::Avro => {
                let schemas = folder.join("schemas");
                std::fs::create_dir_all(&schemas).expect("a folder");
                std::fs::write(schemas.join(format!("{AVRO}.avsc")), AVRO_SCHEMA).expect("a file");
                let place = format!("\"avro\"\nregistry     = \"file:{}\"", schemas.display());
                TOPIC.replace("\"json\"", &place)
            }
            Self::DebeziumAppend => {
                let changes = "[changes]\nkey = [\"tap_id\"]\nappend_only = true\n\n[columns]";
                TOPIC.replace("\"json\"", "\"debezium-json\"").replace("[columns]", changes)
            }
            Self::Debezium | Self::DebeziumUpdates => {
                // Changes have no event time of the file's: theirs is the source's.
                let (_, rest) = TOPIC.split_once("[columns]").expect("a topic has columns");
                let rest = rest.replace("(event_time)", "(_source_time)");
                let key = if self.is_of_tokens() { "token_id" } else { "tap_id" };
                format!(
                    "format = \"debezium-json\"\n\n[changes]\nkey = [\"{key}\"]\n\n[columns]{rest}"
                )
            }
        }
    }

    /// What a registry tells of the schemas.
    pub fn schemas(self) -> Arc<Schemas> {
        let schemas = Schemas::default();
        if self == Self::Avro {
            schemas.tell(AVRO, Told::Schema([AVRO_SCHEMA.to_owned()].into()));
        }
        Arc::new(schemas)
    }

    pub fn grouping(self) -> Grouping {
        match self {
            Self::Taps | Self::Wide | Self::Large | Self::Huge => Grouping::Window,
            Self::Avro | Self::DebeziumAppend => Grouping::Window,
            Self::Debezium | Self::DebeziumUpdates => Grouping::Bin,
        }
    }

    pub fn has_keys(self) -> bool {
        matches!(self, Self::Debezium | Self::DebeziumAppend | Self::DebeziumUpdates)
    }

    /// Whether the tables are of tokens, each with its latest tap, and not of taps.
    pub fn is_of_tokens(self) -> bool {
        self == Self::DebeziumUpdates
    }

    /// Appends a record's key, of a form that has keys.
    pub fn key(self, tap: &Tap, out: &mut Vec<u8>) {
        match self {
            Self::Debezium | Self::DebeziumAppend => {
                put(out, format_args!(r#"{{"tap_id":"{:016x}"}}"#, tap.id));
            }
            Self::DebeziumUpdates => {
                put(out, format_args!(r#"{{"token_id":"{:016x}"}}"#, tap.token));
            }
            Self::Taps | Self::Wide | Self::Large | Self::Huge | Self::Avro => {}
        }
    }

    /// Appends a record's value.
    pub fn value(self, tap: &Tap, out: &mut Vec<u8>) {
        match self {
            Self::Taps => tap.json(out),
            Self::Wide => with_members(tap, out, wide),
            Self::Large => with_members(tap, out, |random, out| report(random, TEXT_BYTES, out)),
            Self::Huge => with_members(tap, out, |random, out| report(random, 10 << 20, out)),
            Self::Avro => avro(tap, out),
            Self::Debezium | Self::DebeziumAppend => debezium(tap, "c", out),
            Self::DebeziumUpdates => debezium(tap, if tap.is_first { "c" } else { "u" }, out),
        }
    }
}

pub(super) fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("memory");
}

/// Of that day, as ISO 8601.
pub(super) fn instant(at_ms: i64, out: &mut Vec<u8>) {
    let ms = at_ms - DAY_MS;
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    put(out, format_args!("2024-03-01T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"));
}

fn with_columns(more: &str) -> String {
    TOPIC.replace("\n[lake]", &format!("{more}\n[lake]"))
}

fn wide_columns() -> String {
    let mut text = String::new();
    for (name, pg, count, _) in WIDE {
        for number in 0..count {
            let optional = number % OPTIONAL_ONE_IN == 0;
            text += &format!("{name}_{number:02} = {{ type = \"{pg}\", optional = {optional} }}\n");
        }
    }
    text
}

/// The tap as JSON, with members more.
fn with_members(tap: &Tap, out: &mut Vec<u8>, members: fn(&mut SmallRng, &mut Vec<u8>)) {
    tap.json(out);
    out.pop();
    members(&mut SmallRng::seed_from_u64(tap.id), out);
    out.push(b'}');
}

fn wide(random: &mut SmallRng, out: &mut Vec<u8>) {
    for (name, _, count, value) in WIDE {
        for number in 0..count {
            if number % OPTIONAL_ONE_IN == 0 && random.random_ratio(1, ABSENT_ONE_IN) {
                continue;
            }
            put(out, format_args!(",\"{name}{number:02}\":"));
            value(random, out);
        }
    }
}

fn report(random: &mut SmallRng, bytes: usize, out: &mut Vec<u8>) {
    out.extend(b",\"report\":\"");
    let end = out.len() + bytes;
    while out.len() < end {
        match random.random_range(0..16) {
            0 => put(out, format_args!("{}. ", random.random_range(0..10_000))),
            _ => put(out, format_args!("{} ", WORDS[random.random_range(0..WORDS.len())])),
        }
    }
    out.push(b'"');
}

fn avro(tap: &Tap, out: &mut Vec<u8>) {
    out.push(0);
    out.extend(AVRO.0.to_be_bytes());
    string(out, 16, format_args!("{:016x}", tap.id));
    string(out, 16, format_args!("{:016x}", tap.token));
    string(out, 9, format_args!("stop-{:04}", tap.stop));
    string(out, 12, format_args!("device-{:05}", tap.device));
    long(tap.event_ms, out);
    let mode = MODES[tap.mode];
    string(out, mode.len(), format_args!("{mode}"));
    match tap.fare_cents {
        Some(cents) => {
            long(1, out);
            long(cents, out);
        }
        None => long(0, out),
    }
}

fn string(out: &mut Vec<u8>, bytes: usize, text: std::fmt::Arguments<'_>) {
    long(bytes as i64, out);
    let start = out.len();
    put(out, text);
    assert_eq!(out.len() - start, bytes, "the length stands in front");
}

/// Zigzag, seven bits a byte, the lowest first.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// As Debezium 3.7 tells an insert into PostgreSQL or an update (of a table whose replica identity is its key),
/// without schemas: a transaction of its own, which the connector reads 130 ms later.
fn debezium(tap: &Tap, op: &str, out: &mut Vec<u8>) {
    let (id, token, stop, device) = (tap.id, tap.token, tap.stop, tap.device);
    put(out, format_args!(r#"{{"before":null,"after":{{"tap_id":"{id:016x}""#));
    put(out, format_args!(r#","token_id":"{token:016x}","stop_id":"stop-{stop:04}""#));
    put(out, format_args!(r#","device_id":"device-{device:05}","event_time":""#));
    instant(tap.event_ms, out);
    put(out, format_args!(r#"","mode":"{}","fare_cents":"#, MODES[tap.mode]));
    match tap.fare_cents {
        Some(cents) => put(out, format_args!("{cents}")),
        None => out.extend(b"null"),
    }
    let (at, read) = (tap.arrival_ms, tap.arrival_ms + 130);
    let lsn = LSN_FIRST + tap.number * LSN_STEP;
    let (last, transaction) = (lsn - LSN_STEP, 839 + tap.number);
    put(out, format_args!(r#"}},"source":{{"version":"3.7.0.Final","connector":"postgresql""#));
    put(out, format_args!(r#","name":"fares","ts_ms":{at},"snapshot":"false","db":"fares""#));
    put(out, format_args!(r#","sequence":"[\"{last}\",\"{lsn}\"]","ts_us":{at}081"#));
    put(out, format_args!(r#","ts_ns":{at}081000,"schema":"public","table":"taps""#));
    put(out, format_args!(r#","txId":{transaction},"lsn":{lsn},"xmin":null,"origin":null"#));
    put(out, format_args!(r#","origin_lsn":null}},"transaction":null,"op":"{op}""#));
    put(out, format_args!(r#","ts_ms":{read},"ts_us":{read}759,"ts_ns":{read}759378}}"#));
}
