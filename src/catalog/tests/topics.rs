//! Topic files: what they become, and each mistake with its line.

use super::*;
use arrow::datatypes::DataType;
use std::time::Duration;

const HEAD: &str = "topic = \"t\"\nformat = \"json\"\n";

/// The file's head is lines 1 and 2.
fn with(rest: &str) -> String {
    format!("{HEAD}{rest}")
}

#[test]
fn a_full_file_is_read_as_written() {
    let t = topic(
        r#"
topic        = "Taps.v1"
format       = "json"
event_time   = "event_time"
max_disorder = "90s"
max_future   = "10m"
[columns]
tap_id     = { type = "text", from = "/a~1b/c" }
token_id   = { type = "bigint", pii = "hash", optional = true }
pin        = { type = "text", pii = "drop" }
event_time = "timestamptz"
[columns.fare]
type = "numeric(9,2)"
[lake]
partition_by = ["date(event_time)", "hour(_timestamp)", "tap_id"]
roll         = { bytes = "64KiB", age = "5m" }
time_zone    = "Europe/London"
[dead_letters]
stop_above = "0.5%"
forward    = "taps.dead"
"#,
    );
    assert_eq!((&*t.name, t.kafka_topic.as_str()), ("t", "Taps.v1"));
    let names: Vec<&str> = t.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(
        names,
        ["tap_id", "token_id", "event_time", "fare", "_partition", "_offset", "_timestamp"]
    );
    assert_eq!(t.event_time, Some(2));
    assert_eq!(t.schema.field(1).data_type(), &DataType::Utf8, "a hash is text");
    assert!(t.schema.field(1).is_nullable() && !t.schema.field(0).is_nullable());
    let pg: Vec<&str> = t.schema.fields().iter().map(|f| f.metadata()["pg"].as_str()).collect();
    assert_eq!(
        pg,
        ["text", "text", "timestamptz", "numeric(9,2)", "integer", "bigint", "timestamptz"]
    );
    assert_eq!(t.columns[0].path, ["a/b", "c"]);
    assert!(!t.columns[0].path_is_default);
    assert_eq!((t.columns[1].path[0].as_str(), t.columns[1].path_is_default), ("tokenId", true));
    assert_eq!(t.max_disorder, Duration::from_secs(90));
    assert_eq!(t.max_future, Some(Duration::from_secs(600)));
    assert_eq!(t.stop_above, Some(0.005));
    assert_eq!(t.forward.as_deref(), Some("taps.dead"));
    assert!(!t.keep_raw, "it holds personal data");
    let lake = t.lake.as_ref().unwrap();
    assert_eq!((lake.roll_bytes, lake.roll_age), (65_536, Duration::from_secs(300)));
    assert_eq!(lake.time_zone, chrono_tz::Europe::London);
    let levels: Vec<(&str, usize)> =
        lake.partition_by.iter().map(|l| (l.name.as_str(), l.column)).collect();
    assert_eq!(levels, [("date", 2), ("hour", 6), ("tap_id", 0)]);
}

#[test]
fn what_a_file_leaves_out_has_a_default() {
    let t = topic(&with("[columns]\nx = \"text\""));
    assert_eq!(t.event_time, None);
    assert_eq!((t.max_disorder, t.idle), (Duration::from_secs(60), None));
    assert_eq!(t.max_future, Some(Duration::from_secs(86_400)));
    assert_eq!(t.stop_above, Some(0.05));
    let lake = t.lake.as_ref().unwrap();
    assert_eq!((lake.roll_bytes, lake.roll_age), (128 << 20, Duration::from_secs(60)));
    assert_eq!(lake.partition_by[0].function, PartitionFunction::Date);
    assert_eq!(t.schema.field(lake.partition_by[0].column).name(), "_timestamp");
    assert_eq!(lake.time_zone, chrono_tz::UTC);

    let t = topic(&with(
        "lake = false\n[columns]\ndate = \"date\"\n[dead_letters]\nstop_above = \"100%\"",
    ));
    assert!(t.lake.is_none());
    assert_eq!(t.stop_above, None, "all of them may be dead");
    assert!(t.keep_raw, "nothing in it is personal");
    assert!(
        topic(&with("[columns]\nx = \"text\"\n[lake]\npartition_by = []"))
            .lake
            .as_ref()
            .unwrap()
            .partition_by
            .is_empty()
    );
}

#[test]
fn every_mistake_in_a_topic_file_has_its_line_and_says_what_is_allowed() {
    let columns = "[columns]\nx = \"text\"\nat = \"timestamptz\"\n";
    let cases: Vec<(String, usize, &str)> = vec![
        ("topic = \"t\"\n[columns]\nx = \"text\"".into(), 1, "the key `format` is missing"),
        ("format = \"json\"\n[columns]\nx = \"text\"".into(), 1, "the key `topic` is missing"),
        (HEAD.into(), 1, "the table [columns] is missing"),
        (with("[columns]\n"), 3, "[columns] is empty"),
        (
            with(&format!("max_disoder = \"1s\"\n{columns}")),
            3,
            "unknown key `max_disoder`, did you mean `max_disorder`?",
        ),
        (with(&format!("max_disorder = \"90\"\n{columns}")), 3, "`max_disorder`: `90` has no unit"),
        (with(&format!("max_future = 10\n{columns}")), 3, "`max_future` is a TOML integer"),
        (with(&format!("max_future = \"x\"\n{columns}")), 3, "or none"),
        (with(&format!("idle = \"soon\"\n{columns}")), 3, "or never"),
        (with(&format!("idle = \"10ms\"\n{columns}")), 3, "Allowed: 1s or more, or never"),
        (with(&format!("time_zone = \"Londn\"\n{columns}")), 3, "unknown time zone `Londn`"),
        (with(&format!("event_time = 3\n{columns}")), 3, "`event_time` is a TOML integer"),
        (
            with(&format!("event_time = {{ date = \"x\", clock = \"x\" }}\n{columns}")),
            3,
            "the event_time.date column `x` is text. Allowed: date",
        ),
        (
            with(&format!("event_time = {{ clock = \"x\" }}\n{columns}")),
            3,
            "the key `event_time.date` is missing",
        ),
        (format!("topic = \"a b\"\nformat = \"json\"\n{columns}"), 1, "no name of a Kafka topic"),
        (format!("topic = \"t\"\nformat = \"cannal\"\n{columns}"), 2, "did you mean `canal`"),
        (format!("topic = \"t\"\nformat = \"jason\"\n{columns}"), 2, "did you mean `json`?"),
        (with("columns = 3"), 3, "`columns` is a TOML integer"),
        (with("[columns]\nx = 3"), 4, "column `x` is a TOML integer"),
        (
            with("[columns]\n\nx = \"timestamp\""),
            5,
            "column `x`: the type `timestamp` does not say which instant",
        ),
        (with("[columns]\nx = { type = \"numeric\" }"), 4, "does not say its precision"),
        (with("[columns]\nx = { optional = true }"), 4, "the key `x.type` is missing"),
        (
            with("[columns]\nx = { type = \"text\", nullable = true }"),
            4,
            "unknown key `x.nullable`",
        ),
        (
            with("[columns]\nx = { type = \"text\", optional = \"yes\" }"),
            4,
            "Allowed: true or false",
        ),
        (with("[columns]\nx = { type = \"text\", from = \"a\" }"), 4, "no JSON pointer"),
        (with("[columns]\nx = { type = \"text\", from = \"/a~b\" }"), 4, "RFC 6901"),
        (
            with("[columns]\nx = { type = \"text\", pii = \"hide\" }"),
            4,
            "unknown treatment of pii `hide`",
        ),
        (with("[columns]\ntapId = \"text\""), 4, "for example `tap_id`"),
        (with("[columns]\n_offset = \"bigint\""), 4, "reserved"),
        (with("[columns]\nx = \"text\"\nx = \"text\""), 5, "not TOML: duplicate key"),
        (with("[columns\n"), 3, "not TOML"),
        (with(&format!("event_time = \"when\"\n{columns}")), 3, "unknown event_time column `when`"),
        (with(&format!("event_time = \"x\"\n{columns}")), 3, "is text. Allowed: timestamptz"),
        (
            with("event_time = \"at\"\n[columns]\nx = \"text\""),
            3,
            "event_time names no column: `at`",
        ),
        (
            with(
                "event_time = \"at\"\n[columns]\nat = { type = \"timestamptz\", optional = true }",
            ),
            3,
            "is optional",
        ),
        (
            with(
                "event_time = \"at\"\n[columns]\nat = { type = \"timestamptz\", pii = \"mask\" }\n[lake]\npartition_by = []",
            ),
            3,
            "has pii = \"mask\"",
        ),
        (with(&format!("lake = true\n{columns}")), 3, "neither a table nor false"),
        (with(&format!("{columns}[lake]\ncodec = \"zstd\"")), 7, "unknown key `lake.codec`"),
        (
            with(&format!("{columns}[lake]\npartition_by = \"date(at)\"")),
            7,
            "`lake.partition_by` is a TOML string",
        ),
        (
            with(&format!("{columns}[lake]\npartition_by = [\n\"date(att)\"]")),
            8,
            "unknown column in partition_by `att`, did you mean `at`?",
        ),
        (
            with(&format!("{columns}[lake]\npartition_by = [\"day(at)\"]")),
            7,
            "unknown function in partition_by `day`",
        ),
        (
            with(&format!("{columns}[lake]\npartition_by = [\"date(x)\"]")),
            7,
            "the column is text. Allowed: a timestamptz",
        ),
        (
            with(&format!("{columns}[lake]\npartition_by = [\"at\"]")),
            7,
            "partition_by has the timestamptz column",
        ),
        (
            with(&format!("{columns}[lake]\npartition_by = [\"date(at)\", \"date(_timestamp)\"]")),
            7,
            "two levels named `date`",
        ),
        (
            with(&format!("{columns}hour = \"text\"\n[lake]\npartition_by = [\"hour(at)\"]")),
            8,
            "the name of a column",
        ),
        (
            with(&format!("{columns}date = \"date\"\n")),
            1,
            "the lake's level `date` has the name of a column",
        ),
        (
            with(&format!(
                "{columns}no = {{ type = \"text\", pii = \"drop\" }}\n[lake]\npartition_by = [\"no\"]"
            )),
            8,
            "pii = \"drop\" leaves out",
        ),
        (with(&format!("{columns}[lake]\nroll = {{ bytes = \"128\" }}")), 7, "`128` has no unit"),
        (
            with(&format!("{columns}[lake]\nroll = {{ bytes = \"1B\" }}")),
            7,
            "Allowed: 1KiB to 8GiB",
        ),
        (with(&format!("{columns}[lake]\nroll = {{ age = \"1ms\" }}")), 7, "Allowed: 100ms to 24h"),
        (
            with(&format!("{columns}[lake]\nroll = {{ rows = \"9\" }}")),
            7,
            "unknown key `roll.rows`",
        ),
        (
            with(&format!("{columns}[lake]\ntime_zone = \"London\"")),
            7,
            "unknown time zone `London`",
        ),
        (with(&format!("{columns}[dead_letters]\nstop_above = \"5\"")), 7, "Allowed: 0% to 100%"),
        (
            with(&format!("{columns}[dead_letters]\nstop = \"5%\"")),
            7,
            "unknown key `dead_letters.stop`",
        ),
        (
            with(&format!("{columns}[dead_letters]\nforward = \"a b\"")),
            7,
            "no name of a Kafka topic",
        ),
        (
            "topic = \"x\"\nformat = \"json\"\n[columns]\nx = \"text\"\n[dead_letters]\nforward = \"x\"".to_owned(),
            6,
            "would be read by the topic that they come from",
        ),
    ];
    assert_each(cases, topic_mistakes);
}

#[test]
fn a_file_name_is_a_topics_name_and_so_snake_case() {
    let text = with("[columns]\nx = \"text\"");
    let mistakes = check(&[source("topics/My-Taps.toml", &text)], &[]).unwrap_err();
    assert!(mistakes[0].what.contains("for example `my_taps`"), "{mistakes:#?}");
}

#[test]
fn the_lakes_fingerprint_changes_with_rows_and_paths_alone() {
    let base = "[columns]\nx = \"text\"\nat = \"timestamptz\"\n";
    let first = topic(&with(base)).lake_fingerprint();
    assert_eq!(first.len(), 64);
    for same in [
        format!("{base}# a comment\n[lake]\nroll = {{ age = \"5s\" }}"),
        format!("max_disorder = \"5s\"\n{base}[dead_letters]\nstop_above = \"1%\""),
    ] {
        assert_eq!(topic(&with(&same)).lake_fingerprint(), first, "{same}");
    }
    for other in [
        format!("{base}y = \"text\""),
        format!("{base}[lake]\ntime_zone = \"Europe/London\""),
        format!("{base}[lake]\npartition_by = [\"date(at)\"]"),
        format!("event_time = \"at\"\n{base}"),
        base.replace("x = \"text\"", "x = { type = \"text\", pii = \"hash\" }"),
        base.replace("x = \"text\"", "x = { type = \"text\", from = \"/x\" }"),
    ] {
        assert_ne!(topic(&with(&other)).lake_fingerprint(), first, "{other}");
    }
}

#[test]
fn unique_names_columns_and_says_for_how_long() {
    let t = topic(&with(
        "unique = [\"vehicle\", \"at\"]\nwithin = \"45m\"\n[columns]\nroute = \"text\"\nat = \"timestamptz\"\n\
         vehicle = { type = \"text\", pii = \"hash\", optional = true }",
    ));
    let unique = t.unique.as_ref().unwrap();
    assert_eq!(
        (unique.columns.as_slice(), unique.within),
        (&[2, 1][..], Duration::from_secs(2700))
    );
    let said = t.describe();
    let line = "  unique       by vehicle, at; a key is forgotten 45 min after its event time, by the \
                watermark of its partition\n";
    assert!(said.contains(line), "{said}");
    assert!(topic(&with("[columns]\nx = \"text\"")).unique.is_none());
}

#[test]
fn mistakes_of_unique_have_their_line() {
    let columns = "[columns]\na = \"text\"\nd = { type = \"text\", pii = \"drop\" }\n\
                   m = { type = \"text\", pii = \"mask\" }\nf = \"real\"\nj = \"jsonb\"";
    for (rest, line, text) in [
        ("unique = [\"b\"]\nwithin = \"1h\"", 3, "unknown column of unique `b`"),
        ("unique = [\"b\"]\nwithin = \"1h\"", 3, "Allowed: a"),
        ("unique = [\"d\"]\nwithin = \"1h\"", 3, "it is not read"),
        ("unique = [\"m\"]\nwithin = \"1h\"", 3, "all its values are equal"),
        ("unique = [\"f\"]\nwithin = \"1h\"", 3, "is real, of which equal values"),
        ("unique = [\"a\", \"j\"]\nwithin = \"1h\"", 3, "is jsonb"),
        ("unique = [\"a\", \"a\"]\nwithin = \"1h\"", 3, "names `a` twice"),
        ("unique = []\nwithin = \"1h\"", 3, "names 0 columns"),
        ("unique = \"a\"\nwithin = \"1h\"", 3, "Allowed: a list of"),
        ("unique = [\"a\"]", 3, "`within` is missing"),
        ("within = \"1h\"", 3, "there is no key"),
        ("unique = [\"a\"]\nwithin = \"0s\"", 4, "Allowed: 1 ms to 366 d"),
        ("unique = [\"a\"]\nwithin = \"400d\"", 4, "Allowed: 1 ms to 366 d"),
        ("unique = [\"a\"]\nwithin = \"soon\"", 4, "`within`"),
    ] {
        let told = topic_mistakes(&with(&format!("{rest}\n{columns}")));
        assert_eq!(told.len(), 1, "{rest}: {told:?}");
        assert!(told[0].starts_with(&format!("{line}: ")), "{rest}: {told:?}");
        assert!(told[0].contains(text), "{rest}: {told:?}");
    }
}

const CHANGES: &str = "topic = \"t\"\nformat = \"debezium-json\"\n";

#[test]
fn a_topic_of_changes_has_the_columns_of_its_changes() {
    let t = topic(&format!(
        "{CHANGES}[changes]\nkey = [\"id\"]\nbefore = \"full\"\ndecimals = \"string\"\n\
         [columns]\nid = \"bigint\"\nat = {{ type = \"timestamptz\", encoding = \"timestamp-us\" }}\n"
    ));
    let names: Vec<&str> = t.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(
        names,
        [
            "id",
            "at",
            "_op",
            "_before",
            "_unchanged",
            "_source_position",
            "_source_time",
            "_snapshot",
            "_partition",
            "_offset",
            "_timestamp"
        ]
    );
    assert!(t.schema.field(0).is_nullable(), "a truncate has no key");
    assert_eq!(t.event_time_name(), "_source_time");
    assert_eq!(t.kept("_before"), Some(PgType::Jsonb));
    let changes = t.changes.as_ref().unwrap();
    assert_eq!((&changes.key[..], changes.before), (&[0][..], true));
    assert_eq!(changes.decimals, Decimals::Text);
    assert_eq!(changes.snapshots, Snapshots::Replace { max_deletes: 200_000 });
    assert_eq!(t.columns[1].encoding, Encoding::Instant(Unit::Micros));
}

#[test]
fn mistakes_in_a_topic_of_changes_have_their_lines() {
    let columns = "[columns]\nid = \"bigint\"\nx = { type = \"jsonb\", optional = true }\n";
    let cases = [
        (format!("{CHANGES}{columns}"), 1, "[changes] is missing"),
        (format!("{CHANGES}[changes]\n{columns}"), 3, "`changes.key` is missing"),
        (format!("{CHANGES}[changes]\nkey = [\"di\"]\n{columns}"), 4, "unknown column"),
        (format!("{CHANGES}[changes]\nkey = [\"x\"]\n{columns}"), 4, "not told apart"),
        (
            format!("{CHANGES}[changes]\nkey = [\"id\"]\nsnapshots = \"swap\"\n{columns}"),
            5,
            "unknown meaning of snapshots",
        ),
        (
            format!(
                "{CHANGES}[changes]\nkey = [\"id\"]\norder = \"offset\"\nsnapshots = \"replace\"\n{columns}"
            ),
            6,
            "Allowed: to leave it out, which merges them",
        ),
        (
            format!(
                "{CHANGES}[changes]\nkey = [\"id\"]\nsnapshots = \"merge\"\nmax_deletes = \"5%\"\n{columns}"
            ),
            6,
            "nothing is deleted",
        ),
        (format!("{CHANGES}[changes]\nkey = [\"id\", \"id\"]\n{columns}"), 4, "twice"),
        (
            format!("{CHANGES}[changes]\nkey = []\ntombstones = \"delete\"\n{columns}"),
            5,
            "need the key",
        ),
        (
            format!("{CHANGES}[changes]\nkey = []\nbefore = \"old\"\n{columns}"),
            5,
            "Allowed: full, key",
        ),
        (
            format!("{CHANGES}unique = [\"id\"]\nwithin = \"1h\"\n[changes]\nkey = []\n{columns}"),
            3,
            "not for topics of changes",
        ),
        (format!("{CHANGES}event_time = \"id\"\n[changes]\nkey = []\n{columns}"), 3, "source made"),
        (with(&format!("[changes]\nkey = []\n{columns}")), 3, "is for topics of changes"),
        (
            with("[columns]\nn = { type = \"bigint\", encoding = \"days\" }\n"),
            4,
            "the encoding of a date column",
        ),
        (with("[columns]\nd = { type = \"date\", encoding = \"weeks\" }\n"), 4, "unknown encoding"),
    ];
    assert_each(cases, topic_mistakes);
}

#[test]
fn a_service_day_makes_an_event_time_of_its_own() {
    let t = topic(&with(
        "time_zone = \"Europe/London\"\nidle = \"30s\"\nmax_future = \"none\"\n\
         event_time = { date = \"day\", clock = \"at\" }\n\
         [columns]\nsecret = { type = \"text\", pii = \"drop\" }\nday = \"date\"\nat = \"text\"",
    ));
    let names: Vec<&str> = t.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["day", "at", "_event_time", "_partition", "_offset", "_timestamp"]);
    assert_eq!((t.event_time, t.service_day), (Some(2), Some(ServiceDay { date: 0, clock: 1 })));
    assert_eq!(t.kept("_event_time"), Some(PgType::Timestamptz));
    assert_eq!((t.idle, t.max_future), (Some(Duration::from_secs(30)), None));
    let lake = t.lake.as_ref().unwrap();
    assert_eq!((lake.time_zone, t.time_zone), (t.time_zone, chrono_tz::Europe::London));
    assert_eq!(lake.partition_by[0].column, 2, "by the date of the computed instant");
    assert_eq!(t.event_time_declaration(), "at of the service day day in Europe/London");
}
