//! `unique` and `within` of a topic file: which records count as one, and for how long.
//!
//! Owns: what may be a key, the limits. Does not own: what is remembered (`compute::unique`).

use super::{
    PgType, Pii, Topic, TopicColumn,
    mistake::unknown,
    toml_table::{Found, Table},
};
use crate::record::quantity::{duration, show_duration};
use std::{collections::BTreeSet, fmt::Write, ops::RangeInclusive, time::Duration};

/// Shorter than this no second copy ever comes; longer, and it is a table's primary key that is
/// wanted.
const WITHIN_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(366 * 86_400);
const COLUMNS_MAX: usize = 32;

/// Of records with the same key the first is taken; the others are duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueSpec {
    /// Indexes in the topic's schema, in order of the file.
    pub columns: Vec<usize>,
    /// A key is forgotten when the watermark of its partition has passed its event time plus this.
    pub within: Duration,
}

/// Mistakes go to `found`; with one that matters there is no spec.
pub(super) fn unique(
    top: &Table<'_>,
    topic: &Topic,
    unsure: &BTreeSet<String>,
    blind: bool,
    found: &mut Found,
) -> Option<UniqueSpec> {
    if topic.followed().is_some() && top.has("unique") {
        found.push((
            top.byte("unique"),
            "`unique` is not for topics of changes: each record is an operation of its own, known by \
             the source's position. Allowed: no `unique` and no `within` beside [changes], or append_only = true \
             in it"
                .into(),
        ));
        return None;
    }
    if topic.batched && top.has("unique") {
        found.push((
            top.byte("unique"),
            "`unique` judges records, and `batched` lets a record be several rows. Allowed: one of the two; a table \
             WITH (primary_key = '…') takes the later of two rows"
                .into(),
        ));
        return None;
    }
    let names = top.texts("unique", found);
    let within = top.parsed("within", duration, found);
    if let Some(within) = within
        && !WITHIN_RANGE.contains(&within)
    {
        let range = format!(
            "{} to {}",
            show_duration(*WITHIN_RANGE.start()),
            show_duration(*WITHIN_RANGE.end())
        );
        found.push((
            top.byte("within"),
            format!("`within` is {}. Allowed: {range}", show_duration(within)),
        ));
    }
    match (top.has("unique"), top.has("within")) {
        (false, false) => return None,
        (false, true) => found.push((
            top.byte("within"),
            "`within` says how long a key is remembered, but there is no key. Allowed: unique = \
             [\"column\", …] beside it, or neither"
                .into(),
        )),
        (true, false) => found.push((
            top.byte("unique"),
            "`unique` needs to know how long a key is remembered: `within` is missing. Allowed: \
             within = a duration such as \"45m\" beside it"
                .into(),
        )),
        (true, true) => {}
    }
    let names = names?;
    if names.is_empty() || names.len() > COLUMNS_MAX {
        found.push((
            top.byte("unique"),
            format!("`unique` names {} columns. Allowed: 1 to {COLUMNS_MAX}", names.len()),
        ));
    }
    let before = found.len();
    let mut columns = Vec::new();
    for (byte, name) in names {
        let Some(column) = topic.columns.iter().find(|column| column.name == name) else {
            if !blind && !unsure.contains(&name) {
                let fit: Vec<&str> = topic
                    .columns
                    .iter()
                    .filter(|column| why_not(column).is_none())
                    .map(|column| column.name.as_str())
                    .collect();
                found.push((byte, unknown("column of unique", &name, &fit)));
            }
            continue;
        };
        if unsure.contains(&name) {
            continue;
        }
        if let Some(why) = why_not(column) {
            found.push((byte, format!("the column `{name}` of unique {why}")));
            continue;
        }
        let index = topic.schema.index_of(&name).expect("only dropped columns are left out");
        if columns.contains(&index) {
            found.push((byte, format!("unique names `{name}` twice. Allowed: each column once")));
        }
        columns.push(index);
    }
    let whole = found.len() == before && !columns.is_empty();
    Some(UniqueSpec { columns, within: within? }).filter(|_| whole)
}

/// What keeps a column from being part of a key.
fn why_not(column: &TopicColumn) -> Option<String> {
    match (column.pii, column.pg) {
        (Some(Pii::Drop), _) => Some(
            "has pii = \"drop\": it is not read. Allowed: a column that is kept, or pii = \"hash\""
                .to_owned(),
        ),
        (Some(Pii::Mask), _) => Some(
            "has pii = \"mask\": all its values are equal. Allowed: a column that is kept, or pii \
             = \"hash\""
                .to_owned(),
        ),
        (None, PgType::Real | PgType::Double | PgType::Jsonb) => Some(format!(
            "is {}, of which equal values are spelt in more than one way. Allowed: text, numbers \
             that are exact, boolean, date, timestamptz, uuid, bytea",
            column.pg
        )),
        (Some(Pii::Hash) | None, _) => None,
    }
}

impl Topic {
    /// What the key is made of, in one line: keys of another declaration are other keys.
    pub fn unique_declaration(&self) -> Option<String> {
        let spec = self.unique.as_ref()?;
        let mut out = format!("unique of {} by", self.kafka_topic);
        for index in &spec.columns {
            let name = self.schema.field(*index).name();
            let column = self.columns.iter().find(|column| column.name == *name);
            let declared = column.map(TopicColumn::declaration).unwrap_or_default();
            let _ = write!(out, " [{declared}]");
        }
        Some(out)
    }

    pub(super) fn describe_unique(&self) -> Option<String> {
        let spec = self.unique.as_ref()?;
        let names: Vec<&str> =
            spec.columns.iter().map(|index| self.schema.field(*index).name().as_str()).collect();
        Some(format!(
            "by {}; a key is forgotten {} after its event time, by the watermark of its partition",
            names.join(", "),
            show_duration(spec.within)
        ))
    }
}
