//! `NAME.test.toml`: what is written to a model's topic, and what its table holds then.
//!
//! Owns: the format and its mistakes. Does not own: what events mean (`play`).

use crate::{
    catalog::{Catalog, Format, Mistake, Model, Topic},
    record::{EventTime, Partition},
};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use toml::{Table, Value};

/// Kafka's timestamp of a record that has none: later than any event, so that none is of the future.
const UNTIMED: EventTime = EventTime(253_402_214_400_000_000);

pub struct Fixture {
    pub file: PathBuf,
    pub topic: Arc<Topic>,
    pub model: Arc<Model>,
    pub tests: Vec<Test>,
}

pub struct Test {
    pub name: String,
    pub partitions: i32,
    pub steps: Vec<Step>,
    /// Rows of the reference that the model joins, as JSON objects.
    pub reference: Vec<String>,
    pub rows: Expected,
    /// Of the windows that are final; None: not compared.
    pub finals: Option<Expected>,
    pub rejects: Vec<Reject>,
    pub fates: Fates,
}

/// Rows, and the columns of them that are compared.
pub struct Expected {
    pub columns: Vec<String>,
    /// A JSON array of objects.
    pub rows: Json,
}

pub enum Step {
    Record(Record),
    /// All that came before is committed.
    Cut,
    /// The process ends, and another one goes on from what was committed.
    Kill,
    /// Every partition is read to its end, and this is the time.
    Clock(EventTime),
}

pub struct Record {
    pub partition: Partition,
    pub timestamp: EventTime,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// What is not given is not compared.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reject {
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub output: Option<String>,
    pub class: Option<String>,
    pub column: Option<String>,
    /// A part of it.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fates {
    pub accepted: Option<u64>,
    pub filtered: Option<u64>,
    /// None of them, unless it is said.
    #[serde(default)]
    pub late: u64,
    #[serde(default)]
    pub duplicate: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDraft {
    /// Of each event's value, unless the event has its own.
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    test: Vec<TestDraft>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestDraft {
    name: String,
    partitions: Option<i32>,
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    reference: Vec<Table>,
    events: Vec<StepDraft>,
    /// Compared besides those that rows name.
    #[serde(default)]
    columns: Vec<String>,
    rows: Vec<Table>,
    #[serde(rename = "final")]
    finals: Option<Vec<Table>>,
    #[serde(default)]
    rejects: Vec<Reject>,
    #[serde(default)]
    fates: Fates,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepDraft {
    partition: Option<i32>,
    timestamp: Option<Value>,
    key: Option<Value>,
    value: Option<Table>,
    raw: Option<String>,
    tombstone: Option<bool>,
    cut: Option<bool>,
    kill: Option<bool>,
    clock: Option<Value>,
}

impl Fixture {
    pub fn read(
        file: &Path,
        text: &str,
        catalog: &Catalog,
        model: &Arc<Model>,
    ) -> Result<Self, Vec<Mistake>> {
        let mistake = |line, what: String| Mistake { file: file.to_owned(), line, what };
        let topic = catalog.topics[&model.topic].clone();
        if topic.format.has_schemas() {
            let what = "its topic is in Avro, whose schemas are in a registry. Allowed: topics that need no service";
            return Err(vec![mistake(1, what.to_owned())]);
        }
        let draft: FileDraft = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text[..at.min(text.len())].matches('\n').count() + 1;
            vec![mistake(line, error.message().replace('\n', " "))]
        })?;
        let lines: Vec<usize> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.trim_start().starts_with("[[test]]"))
            .map(|(at, _)| at + 1)
            .collect();
        let mut mistakes = Vec::new();
        let mut tests = Vec::new();
        if draft.test.is_empty() {
            mistakes.push(mistake(1, "it holds no [[test]]. Allowed: at least one".to_owned()));
        }
        for (index, test) in draft.test.into_iter().enumerate() {
            let mut wrong = Vec::new();
            let defaults = overlaid(&draft.defaults, &test.defaults);
            let line = lines.get(index).copied().unwrap_or(1);
            let name = test.name.clone();
            tests.push(Test::of(test, &defaults, &topic, model, &mut wrong));
            mistakes.extend(wrong.into_iter().map(|what| mistake(line, format!("{name}: {what}"))));
        }
        match mistakes.is_empty() {
            true => Ok(Self { file: file.to_owned(), topic, model: model.clone(), tests }),
            false => Err(mistakes),
        }
    }
}

impl Test {
    fn of(
        draft: TestDraft,
        defaults: &Table,
        topic: &Topic,
        model: &Arc<Model>,
        wrong: &mut Vec<String>,
    ) -> Self {
        let mut steps = Vec::new();
        for (index, step) in draft.events.into_iter().enumerate() {
            match Step::of(step, defaults, topic) {
                Ok(step) => steps.push(step),
                Err(what) => wrong.push(format!("event {}: {what}", index + 1)),
            }
        }
        let highest = steps.iter().filter_map(|step| match step {
            Step::Record(record) => Some(record.partition.0 + 1),
            Step::Cut | Step::Kill | Step::Clock(_) => None,
        });
        let highest = highest.max().unwrap_or(1);
        let partitions = draft.partitions.unwrap_or(highest);
        if partitions < highest {
            wrong.push(format!(
                "partitions = {partitions}, but an event is in partition {}",
                highest - 1
            ));
        }
        if !draft.reference.is_empty() && model.join.is_none() {
            wrong.push("`reference` has rows, but the model joins none".to_owned());
        }
        if draft.finals.is_some() && model.window().is_none() {
            wrong.push("`final` is of windows, and the model has none".to_owned());
        }
        let mut expected = |rows| Expected::of(rows, &draft.columns, model, wrong);
        Self {
            rows: expected(draft.rows),
            finals: draft.finals.map(expected),
            name: draft.name,
            partitions,
            steps,
            reference: draft.reference.iter().map(|row| object(row).to_string()).collect(),
            rejects: draft.rejects,
            fates: draft.fates,
        }
    }
}

impl Step {
    fn of(draft: StepDraft, defaults: &Table, topic: &Topic) -> Result<Self, String> {
        let StepDraft { partition, timestamp, key, value, raw, tombstone, cut, kill, clock } =
            draft;
        let is = |flag: Option<bool>| flag.unwrap_or(false);
        let kinds = [
            (value.is_some(), "value"),
            (raw.is_some(), "raw"),
            (is(tombstone), "tombstone"),
            (is(cut), "cut"),
            (is(kill), "kill"),
            (clock.is_some(), "clock"),
        ];
        let given: Vec<&str> = kinds.iter().filter(|(given, _)| *given).map(|(_, k)| *k).collect();
        if given.len() != 1 {
            let found =
                if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") };
            return Err(format!(
                "{found}. Allowed: one of value, raw, tombstone (a record), cut, kill, clock"
            ));
        }
        if !["value", "raw", "tombstone"].contains(&given[0])
            && (partition.is_some() || timestamp.is_some() || key.is_some())
        {
            return Err(format!(
                "`{}` is no record: partition, timestamp and key are of records",
                given[0]
            ));
        }
        if is(cut) {
            return Ok(Self::Cut);
        }
        if is(kill) {
            return Ok(Self::Kill);
        }
        if let Some(clock) = clock {
            if topic.idle.is_none() {
                return Err(format!(
                    "the clock moves nothing: topic {} says nothing of `idle`",
                    topic.name
                ));
            }
            return Ok(Self::Clock(instant(&clock)?));
        }
        let timestamp = match timestamp {
            Some(value) => instant(&value)?,
            None if topic.event_time.is_none() && topic.service_day.is_none() => {
                return Err(format!(
                    "without a `timestamp`, which is the event time of topic {}",
                    topic.name
                ));
            }
            None => UNTIMED,
        };
        let partition = partition.unwrap_or(0);
        if !(0..1000).contains(&partition) {
            return Err(format!("partition = {partition}. Allowed: 0 to 999"));
        }
        let value = match (value, raw) {
            (Some(_), _) if topic.format == Format::Csv => {
                return Err(
                    "`value` is JSON, and the topic is in CSV. Allowed: raw = \"a,b,c\"".to_owned()
                );
            }
            (Some(value), _) => Some(object(&overlaid(defaults, &value)).to_string()),
            (None, raw) => raw,
        };
        let key = key.map(|key| match key {
            Value::String(text) => text,
            other => json(&other).to_string(),
        });
        Ok(Self::Record(Record {
            partition: Partition(partition),
            timestamp,
            key: key.map(String::into_bytes),
            value: value.map(String::into_bytes),
        }))
    }
}

impl Expected {
    fn of(
        rows: Vec<Table>,
        besides: &[String],
        model: &Arc<Model>,
        wrong: &mut Vec<String>,
    ) -> Self {
        let mut columns: Vec<String> = Vec::new();
        for name in rows.iter().flat_map(|row| row.keys()).chain(besides) {
            if columns.contains(name) {
                continue;
            }
            match model.columns.iter().any(|column| column.name == *name) {
                true => columns.push(name.clone()),
                false => wrong.push(format!("no column `{name}`. Allowed: {}", columns_of(model))),
            }
        }
        // Of no rows at all: whichever column, there shall be none.
        if columns.is_empty() {
            columns.extend(model.columns.first().map(|column| column.name.clone()));
        }
        let place = |name: &String| model.columns.iter().position(|column| column.name == *name);
        columns.sort_by_key(place);
        Self {
            columns,
            rows: Json::Array(rows.iter().map(|row| Json::Object(object_map(row))).collect()),
        }
    }
}

/// What `over` does not have is as in `base`; tables within tables, too.
fn overlaid(base: &Table, over: &Table) -> Table {
    let mut both = base.clone();
    for (key, value) in over {
        let value = match (both.get(key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => Value::Table(overlaid(base, over)),
            _ => value.clone(),
        };
        both.insert(key.clone(), value);
    }
    both
}

fn object_map(table: &Table) -> Map<String, Json> {
    table.iter().map(|(key, value)| (key.clone(), json(value))).collect()
}

fn object(table: &Table) -> Json {
    Json::Object(object_map(table))
}

fn json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.as_str()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(flag) => Json::from(*flag),
        Value::Datetime(instant) => Json::from(instant.to_string()),
        Value::Array(values) => Json::Array(values.iter().map(json).collect()),
        Value::Table(table) => object(table),
    }
}

fn instant(value: &Value) -> Result<EventTime, String> {
    let text = match value {
        Value::Datetime(instant) => instant.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match chrono::DateTime::parse_from_rfc3339(&text) {
        Ok(instant) => Ok(EventTime(instant.timestamp_micros())),
        Err(_) => Err(format!("`{text}` is no instant. Allowed: 2024-03-01T08:00:00Z")),
    }
}

/// For messages.
fn columns_of(model: &Arc<Model>) -> String {
    model.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}
