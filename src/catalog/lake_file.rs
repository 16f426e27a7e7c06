//! `[lake]` of a topic file: levels of the path, when files roll, the time zone.
//!
//! Owns: keys, defaults and limits of that table. Does not own: what a level is (see `topic`).

use super::{
    LakeSpec, PartitionBy, PartitionFunction, PgType, Topic,
    mistake::unknown,
    toml_table::{Found, Table},
    topic_time,
};
use crate::record::quantity::{duration, size};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use toml::de::DeValue;

const LAKE: [&str; 3] = ["partition_by", "roll", "time_zone"];
const ROLL: [&str; 2] = ["bytes", "age"];

const ROLL_BYTES: u64 = 128 << 20;
const ROLL_AGE: Duration = Duration::from_secs(60);
/// Levels of directories in the lake.
const LEVELS_MAX: usize = 8;
/// A file that is smaller than this costs more to open than to read; one that is larger than the
/// upper bound needs parts beyond S3's 10,000.
const ROLL_BYTES_RANGE: std::ops::RangeInclusive<u64> = 1 << 10..=8 << 30;
const ROLL_AGE_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(86_400);

/// None: the topic has no files.
pub(super) fn read(
    top: &Table<'_>,
    topic: &Topic,
    unsure: &BTreeSet<String>,
    blind: bool,
    found: &mut Found,
) -> Option<LakeSpec> {
    let mut spec = LakeSpec {
        partition_by: Vec::new(),
        roll_bytes: ROLL_BYTES,
        roll_age: ROLL_AGE,
        time_zone: topic.time_zone,
    };
    let by_date = || PartitionBy {
        name: "date".to_owned(),
        function: PartitionFunction::Date,
        column: topic.schema.index_of(topic.event_time_name()).unwrap_or(0),
    };
    let row = top.row("lake");
    let table = match row.map(|row| (row, row.value.get_ref())) {
        Some((_, DeValue::Boolean(false))) => return None,
        Some((row, DeValue::Table(table))) => Table::new("lake", row.byte, table),
        Some((row, _)) => {
            found.push((
                row.byte,
                "`lake` is neither a table nor false. Allowed: [lake] with its \
                 keys, or lake = false"
                    .into(),
            ));
            return None;
        }
        None => {
            check_level_name(&by_date(), 0, topic, unsure, found);
            spec.partition_by.push(by_date());
            return Some(spec);
        }
    };
    table.only(&LAKE, found);
    match table.texts("partition_by", found) {
        Some(levels) => {
            if levels.len() > LEVELS_MAX {
                found.push((
                    table.byte("partition_by"),
                    format!("partition_by has {} levels. Allowed: {LEVELS_MAX}", levels.len()),
                ));
            }
            let mut names = BTreeMap::new();
            for (byte, text) in levels {
                let Some(level) = level(&text, byte, topic, unsure, blind, found) else { continue };
                if let Some(first) = names.insert(level.name.clone(), text.clone()) {
                    found.push((
                        byte,
                        format!(
                            "partition_by has two levels named `{}`: `{first}` and `{text}`. \
                             Allowed: each name once",
                            level.name
                        ),
                    ));
                }
                check_level_name(&level, byte, topic, unsure, found);
                spec.partition_by.push(level);
            }
        }
        None if !table.has("partition_by") => {
            check_level_name(&by_date(), table.byte, topic, unsure, found);
            spec.partition_by.push(by_date());
        }
        None => {}
    }
    if let Some(roll) = table.table("roll", found) {
        roll.only(&ROLL, found);
        if let Some(bytes) = roll.parsed("bytes", size, found) {
            if !ROLL_BYTES_RANGE.contains(&bytes) {
                found.push((
                    roll.byte("bytes"),
                    format!("roll.bytes is {bytes} bytes. Allowed: 1KiB to 8GiB"),
                ));
            }
            spec.roll_bytes = bytes;
        }
        if let Some(age) = roll.parsed("age", duration, found) {
            if !ROLL_AGE_RANGE.contains(&age) {
                found.push((
                    roll.byte("age"),
                    "roll.age is out of range. Allowed: 100ms to 24h".into(),
                ));
            }
            spec.roll_age = age;
        }
    }
    spec.time_zone = table.parsed("time_zone", topic_time::zone, found).unwrap_or(topic.time_zone);
    Some(spec)
}

/// Readers of hive paths make a column of each level: it must not meet another one of its name.
fn check_level_name(
    level: &PartitionBy,
    byte: usize,
    topic: &Topic,
    unsure: &BTreeSet<String>,
    found: &mut Found,
) {
    let taken = topic.schema.index_of(&level.name).is_ok() || unsure.contains(&level.name);
    if level.function != PartitionFunction::Value && taken {
        found.push((byte, format!(
            "the lake's level `{0}` has the name of a column: readers of hive paths would see two. Allowed: another \
             name for the column `{0}` (with `from` its place in the record stays), or other levels",
            level.name
        )));
    }
}

/// `date(column)`, `hour(column)` or a plain column.
fn level(
    text: &str,
    byte: usize,
    topic: &Topic,
    unsure: &BTreeSet<String>,
    blind: bool,
    found: &mut Found,
) -> Option<PartitionBy> {
    let trimmed = text.trim();
    let (function, name) = match trimmed.strip_suffix(')').and_then(|t| t.split_once('(')) {
        Some((function, argument)) => {
            let function = match function.trim() {
                "date" => PartitionFunction::Date,
                "hour" => PartitionFunction::Hour,
                other => {
                    found.push((
                        byte,
                        unknown(
                            "function in partition_by",
                            other,
                            &["date(column)", "hour(column)", "column"],
                        ),
                    ));
                    return None;
                }
            };
            (function, argument.trim())
        }
        None => (PartitionFunction::Value, trimmed),
    };
    if blind || unsure.contains(name) {
        return None;
    }
    let Ok(column) = topic.schema.index_of(name) else {
        let dropped = topic.columns.iter().any(|c| c.name == name);
        found.push((
            byte,
            match dropped {
                true => format!(
                    "partition_by uses `{name}`, which pii = \"drop\" leaves out. \
                     Allowed: a kept column"
                ),
                false => {
                    let names: Vec<&str> =
                        topic.schema.fields().iter().map(|f| f.name().as_str()).collect();
                    unknown("column in partition_by", name, &names)
                }
            },
        ));
        return None;
    };
    let pg = topic.kept(name)?;
    let level_name = match function {
        PartitionFunction::Date | PartitionFunction::Hour => {
            if pg != PgType::Timestamptz {
                found.push((
                    byte,
                    format!("`{trimmed}`: the column is {pg}. Allowed: a timestamptz column"),
                ));
                return None;
            }
            if function == PartitionFunction::Date { "date" } else { "hour" }
        }
        PartitionFunction::Value => {
            let fit = matches!(
                pg,
                PgType::Text
                    | PgType::SmallInt
                    | PgType::Integer
                    | PgType::BigInt
                    | PgType::Boolean
                    | PgType::Date
            );
            if !fit {
                found.push((byte, format!(
                    "partition_by has the {pg} column `{name}`. Allowed: text, smallint, integer, bigint, boolean or \
                     date columns, and date(column) or hour(column) of a timestamptz"
                )));
                return None;
            }
            name
        }
    };
    Some(PartitionBy { name: level_name.to_owned(), function, column })
}
