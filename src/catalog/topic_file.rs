//! `topics/NAME.toml`, read: TOML with the place of every key, so that each mistake has its line.
//!
//! Owns: keys, defaults and limits of a topic file. Does not own: what a topic is (see `topic`).
//!
//! Reading goes on after a mistake: what stays unclear is noted in [`Draft::unsure`], so that the
//! models on the topic are still checked and a column's mistake is not told twice.

use super::{
    Addition, Drift, Encoding, Format, PgType, Pii, ServiceDay, Topic, TopicColumn, changes,
    csv_file, lake_file,
    mistake::{Page, check_name, unknown},
    toml_table::{Found, Row, Table},
    topic::schema_of,
    topic_letters, topic_time,
    unique::unique,
    widened::widen,
};
use std::{collections::BTreeSet, path::Path, sync::Arc};
use toml::de::{DeTable, DeValue};

const TOP: [&str; 17] = [
    "topic",
    "format",
    "batched",
    "registry",
    "drift",
    "changes",
    "csv",
    "event_time",
    "max_disorder",
    "max_future",
    "idle",
    "time_zone",
    "unique",
    "within",
    "columns",
    "lake",
    "dead_letters",
];
const COLUMN: [&str; 5] = ["type", "from", "pii", "optional", "encoding"];

const STOP_ABOVE: f64 = 0.05;

/// PostgreSQL's limit is 1,600 columns; rows of such width are slow everywhere long before.
const COLUMNS_MAX: usize = 1_000;

/// A topic file, read as far as it could be.
pub(super) struct Draft {
    pub topic: Topic,
    /// Where the Kafka topic's name stands.
    pub line: usize,
    /// Columns whose declaration has a mistake: what their users say about them means nothing.
    pub unsure: BTreeSet<String>,
    /// The columns could not be read at all.
    pub blind: bool,
}

/// Reads one topic file, with what was recorded as added to it; mistakes go on the page.
pub(super) fn read(page: &mut Page<'_>, additions: &[Addition]) -> Draft {
    let name = stem(&page.file).to_owned();
    if let Err(what) = check_name("topic's file name", &name) {
        page.line(1, what);
    }
    let (document, errors) = DeTable::parse_recoverable(page.text);
    let mut lines = BTreeSet::new();
    for error in &errors {
        let line = error.span().map_or(1, |span| page.line_of(span.start));
        if lines.insert(line) {
            page.line(line, format!("not TOML: {}", error.message().replace('\n', ", ")));
        }
    }
    let broken = !errors.is_empty();
    let empty = DeTable::new();
    // What recovery makes of broken TOML is a guess; checking a guess would tell tales.
    let top = Table::new("", 0, if broken { &empty } else { document.get_ref() });
    if broken {
        let mut draft = draft(name.as_str().into(), page, &top, &[], &mut Vec::new());
        draft.blind = true;
        return draft;
    }
    let mut mistakes = Vec::new();
    let draft = draft(name.as_str().into(), page, &top, additions, &mut mistakes);
    for (byte, what) in mistakes {
        page.at(byte, what);
    }
    draft
}

/// What comes before the last dot of the file's name.
pub(super) fn stem(file: &Path) -> &str {
    file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("")
}

fn draft(
    name: Arc<str>,
    page: &Page<'_>,
    top: &Table<'_>,
    additions: &[Addition],
    found: &mut Found,
) -> Draft {
    top.only(&TOP, found);
    let kafka_topic = top.required_text("topic", "the topic's name in Kafka", found);
    let line = page.line_of(top.byte("topic"));
    if let Some(topic) = &kafka_topic {
        check_kafka_topic(topic, top.byte("topic"), found);
    }
    let format = top.required_text("format", "such as \"json\"", found);
    let format = format.and_then(|text| format_of(&text, top.byte("format"), found));
    let format = format.unwrap_or(Format::Json);

    let mut unsure = BTreeSet::new();
    let mut columns = match top.table("columns", found) {
        Some(table) => columns(&table, &mut unsure, found),
        None => {
            if !top.has("columns") {
                found.push((
                    0,
                    "the table [columns] is missing. Allowed: [columns] with one \
                     `name = \"type\"` per column"
                        .into(),
                ));
            }
            Vec::new()
        }
    };
    let blind = columns.is_empty();
    widen(&mut columns, additions, found);
    let csv = csv_file::read(top, format, &columns, &unsure, found);
    let changes = changes::read(top, format, csv.as_ref(), &columns, &unsure, found);
    let (changes, append_only) = changes.map_or((None, false), |(spec, only)| (Some(spec), only));
    let zone = top.parsed("time_zone", topic_time::zone, found);
    let time = topic_time::read(top, changes.is_some(), append_only, &columns, &unsure, found);
    let batched = batched(top, format, found);
    let schema = schema_of(&columns, (format, append_only), time.service_day.is_some(), batched);
    let event_time = time.column.as_ref().and_then(|name| schema.index_of(name).ok());
    let service_day = time.service_day.as_ref().and_then(|(date, clock)| {
        Some(ServiceDay { date: schema.index_of(date).ok()?, clock: schema.index_of(clock).ok()? })
    });

    let mut topic = Topic {
        file: page.file.clone(),
        kafka_topic: kafka_topic.unwrap_or_else(|| name.to_string()),
        name,
        format,
        batched,
        columns,
        event_time,
        service_day,
        time_zone: zone.unwrap_or(chrono_tz::UTC),
        max_disorder: time.max_disorder,
        max_future: time.max_future,
        idle: time.idle,
        lake: None,
        stop_above: Some(STOP_ABOVE),
        keep_raw: false,
        unique: None,
        forward: None,
        changes,
        append_only,
        csv,
        registry: registry(top, format, found),
        drift: Drift::Off,
        additions: additions.to_vec(),
        schema,
    };
    topic.keep_raw = topic.columns.iter().all(|column| column.pii.is_none());
    topic.drift = drift(top, &topic, found);
    topic.unique = unique(top, &topic, &unsure, blind, found);
    topic.lake = lake_file::read(top, &topic, &unsure, blind, found);
    topic_letters::read(top, &mut topic, found);
    Draft { topic, line, unsure, blind }
}

/// Whether a record may be several rows.
fn batched(top: &Table<'_>, format: Format, found: &mut Found) -> bool {
    let batched = top.boolean("batched", found).unwrap_or(false);
    if batched && !format.has_batches() {
        let format = format.as_str();
        found.push((
            top.byte("batched"),
            format!(
                "`batched` is of formats whose record may be several rows, cloudevents and canal; the format is \
                 {format}. Allowed: to leave it out"
            ),
        ));
        return false;
    }
    batched
}

/// Where the topic's own schemas are.
fn registry(top: &Table<'_>, format: Format, found: &mut Found) -> Option<String> {
    let place = top.parsed("registry", check_registry, found);
    if place.is_some() && !format.has_schemas() {
        let format = format.as_str();
        found.push((
            top.byte("registry"),
            format!("`registry` is for Avro, and the format is {format}. Allowed: to leave it out"),
        ));
    }
    place
}

/// What is done about columns that the source got.
fn drift(top: &Table<'_>, topic: &Topic, found: &mut Found) -> Drift {
    let parse = |text: &str| {
        let named = Drift::ALL.into_iter().find(|drift| drift.as_str() == text);
        named.ok_or_else(|| unknown("drift", text, &Drift::ALL.map(Drift::as_str)))
    };
    let Some(drift) = top.parsed("drift", parse, found) else { return Drift::Off };
    let format = topic.format.as_str();
    let mut refuse = |what: String| found.push((top.byte("drift"), what));
    let is_personal = |c: &&TopicColumn| matches!(c.pii, Some(Pii::Hash | Pii::Mask));
    if !topic.format.tells_types() && !topic.format.is_change() {
        refuse(format!(
            "`drift` is of topics whose records come of a source's table, and the format is {format}. Allowed: to \
             leave it out; fields that no column names are counted and left out"
        ));
    } else if drift == Drift::Apply && !topic.format.tells_types() {
        refuse(format!(
            "drift = \"apply\" needs the types of new columns, which records of {format} do not say. Allowed: \
             \"plan\" or \"off\""
        ));
    } else if let Some(column) =
        topic.columns.iter().find(is_personal).filter(|_| drift == Drift::Apply)
    {
        refuse(format!(
            "drift = \"apply\" takes a new column as it comes, and `{}` shows that this source has personal data. \
             Allowed: \"plan\" or \"off\"",
            column.name
        ));
    }
    drift
}

/// `http://…`, `https://…` or `file:DIR`.
pub fn check_registry(text: &str) -> Result<String, String> {
    let known = ["http://", "https://", "file:"];
    match known.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
    {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!(
            "`{text}` is no place of a schema registry. Allowed: http://…, https://… or file:DIR"
        )),
    }
}

pub(super) fn check_kafka_topic(topic: &str, byte: usize, found: &mut Found) {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if topic.is_empty()
        || topic.len() > 249
        || topic == "."
        || topic == ".."
        || !topic.bytes().all(legal)
    {
        found.push((byte, format!(
            "`{topic}` is no name of a Kafka topic. Allowed: 1 to 249 of a-z, A-Z, 0-9, `.`, `_` \
             and `-`"
        )));
    }
}

fn format_of(text: &str, byte: usize, found: &mut Found) -> Option<Format> {
    let format = Format::parse(text);
    if format.is_none() {
        found.push((byte, unknown("format", text, &Format::ALL.map(Format::as_str))));
    }
    format
}

/// The columns as declared; those with a mistake are unsure.
pub(super) fn columns(
    table: &Table<'_>,
    unsure: &mut BTreeSet<String>,
    found: &mut Found,
) -> Vec<TopicColumn> {
    if table.rows.is_empty() {
        found.push((
            table.byte,
            "[columns] is empty. Allowed: one `name = \"type\"` per column".into(),
        ));
    }
    if table.rows.len() > COLUMNS_MAX {
        found.push((
            table.byte,
            format!("[columns] has {} columns. Allowed: {COLUMNS_MAX}", table.rows.len()),
        ));
    }
    table
        .rows
        .iter()
        .map(|row| {
            let before = found.len();
            let column = column(row, found);
            if found.len() > before {
                unsure.insert(column.name.clone());
            }
            column
        })
        .collect()
}

fn column(row: &Row<'_>, found: &mut Found) -> TopicColumn {
    let mut column = TopicColumn {
        name: row.key.to_owned(),
        pg: PgType::Text,
        path: vec![camel_case(row.key)],
        path_is_default: true,
        optional: false,
        pii: None,
        encoding: Encoding::Plain,
    };
    if let Err(what) = check_name("column", row.key) {
        found.push((row.byte, what));
    }
    let read_type = |text: &str, byte: usize, found: &mut Found| match PgType::parse(text) {
        Ok(pg) => pg,
        Err(what) => {
            found.push((byte, format!("column `{}`: {what}", row.key)));
            PgType::Text
        }
    };
    match row.value.get_ref() {
        DeValue::String(text) => column.pg = read_type(text, row.byte, found),
        DeValue::Table(table) => {
            let table = Table::new(row.key, row.byte, table);
            table.only(&COLUMN, found);
            if let Some(text) = table.required_text(
                "type",
                "a type of PostgreSQL's, such as \
                 \"text\"",
                found,
            ) {
                column.pg = read_type(&text, table.byte("type"), found);
            }
            if let Some(path) = table.parsed("from", pointer, found) {
                column.path = path;
                column.path_is_default = false;
            }
            column.pii = table.parsed("pii", Pii::parse, found);
            column.optional = table.boolean("optional", found).unwrap_or(false);
            let encoding = |text: &str| {
                let wrong = |fit| {
                    format!(
                        "`{text}` is the encoding of {fit}, not of {}. Allowed: {fit}, or another \
                         encoding",
                        column.pg
                    )
                };
                Encoding::parse(text)?.fitted(column.pg).map_err(wrong)
            };
            column.encoding = table.parsed("encoding", encoding, found).unwrap_or(Encoding::Plain);
        }
        other => found.push((
            row.byte,
            format!(
                "column `{}` is a TOML {}. Allowed: \"type\", or {{ type = …, from = …, pii = …, \
                 optional = …, encoding = … }}",
                row.key,
                other.type_str()
            ),
        )),
    }
    column
}

/// A JSON pointer (RFC 6901), taken apart: `~1` is `/`, `~0` is `~`.
fn pointer(text: &str) -> Result<Vec<String>, String> {
    let Some(rest) = text.strip_prefix('/') else {
        return Err(format!(
            "`{text}` is no JSON pointer. Allowed: `/` before each key, such as \"/payload/tapId\""
        ));
    };
    rest.split('/')
        .map(|key| {
            let plain = key.replace("~0", "").replace("~1", "");
            match plain.contains('~') {
                true => Err(format!(
                    "`{text}` has a `~` that stands for nothing. Allowed: ~0 (for ~) and ~1 (for \
                     /), as in RFC 6901"
                )),
                // In this order: `~01` is `~1`, not `/`.
                false => Ok(key.replace("~1", "/").replace("~0", "~")),
            }
        })
        .collect()
}

/// `tap_id` is `tapId` in most JSON.
pub(super) fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or("").to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        out.extend(letters);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_pointer_is_taken_apart() {
        for (text, path) in [
            ("/tapId", vec!["tapId"]),
            ("/payload/after/id", vec!["payload", "after", "id"]),
            ("/a~1b/c~0d/~01", vec!["a/b", "c~d", "~1"]),
            ("/0", vec!["0"]),
            ("/", vec![""]),
        ] {
            assert_eq!(pointer(text).unwrap(), path, "{text}");
        }
        for text in ["tapId", "", "/a~2", "/a~"] {
            assert!(pointer(text).unwrap_err().contains("Allowed"), "{text}");
        }
    }

    #[test]
    fn the_default_path_is_the_camel_case_of_the_name() {
        for (name, camel) in
            [("tap_id", "tapId"), ("mode", "mode"), ("a_2_b", "a2B"), ("a__b", "aB")]
        {
            assert_eq!(camel_case(name), camel);
        }
    }
}
