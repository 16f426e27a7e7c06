//! A topic with what was added to its source: the file's columns, and those that were recorded since.
//!
//! Owns: what of a topic is another one for records from before an addition. Does not own: which
//! additions there are (`warehouse`), when one is made (`pipeline`).
//!
//! X-3  A record is decoded by the additions that were recorded before its offset: by those a column is
//!      NULL below its addition, and has its narrower type. So whoever reads it, and when, gets the same.

use super::{
    Encoding, PgType, Topic, TopicColumn, toml_table::Found, topic::schema_of,
    topic_file::camel_case,
};
use crate::record::{Offset, Partition};
use std::{collections::BTreeMap, sync::Arc};

/// A column that the source got, or that got wider there, under `drift = "apply"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    pub column: String,
    /// As the source calls it.
    pub field: String,
    pub pg: PgType,
    /// What it was before; None: it was not there.
    pub from: Option<PgType>,
    /// The first offset of each partition that is decoded by it; of others the first of all.
    pub since: BTreeMap<Partition, Offset>,
}

/// By topic, in the order in which they were recorded.
pub type Additions = BTreeMap<Arc<str>, Vec<Addition>>;

/// In place of a column's field, where records do not have it yet: no key of JSON is like it.
const NOT_YET: &str = "\u{0}";

impl Addition {
    fn reads(&self, column: &TopicColumn) -> bool {
        let own = column.path_is_default.then_some(&column.name);
        column.name == self.column
            && (own == Some(&self.field) || column.path == [self.field.clone()])
    }

    fn declared(&self) -> TopicColumn {
        let found = self.field == self.column || self.field == camel_case(&self.column);
        TopicColumn {
            name: self.column.clone(),
            pg: self.pg,
            path: vec![if found { camel_case(&self.column) } else { self.field.clone() }],
            path_is_default: found,
            optional: true,
            pii: None,
            encoding: Encoding::Plain,
        }
    }
}

/// Adds to the file's columns what was recorded; a file that declares it too means the same.
pub(super) fn widen(columns: &mut Vec<TopicColumn>, additions: &[Addition], found: &mut Found) {
    for addition in additions {
        let (name, pg) = (&addition.column, addition.pg);
        let declared = columns.iter_mut().find(|column| column.name == *name);
        match (declared, addition.from) {
            (None, None) => columns.push(addition.declared()),
            (None, Some(_)) => found.push((
                0,
                format!(
                    "`{name}` got wider in the source, which is recorded, and is declared no more. Allowed: \
                     {name} = {{ type = \"{pg}\", … }}"
                ),
            )),
            (Some(column), Some(from)) if column.pg == from => column.pg = pg,
            (Some(column), Some(_)) if super::drift::takes(column.pg, pg) => {}
            (Some(column), None)
                if addition.reads(column) && column.optional && column.kept() == Some(pg) => {}
            (Some(column), _) => found.push((
                0,
                format!(
                    "`{name}` is declared as {}{}, and was added as {pg}, optional, from the field `{}`: rows of both \
                     would mix. Allowed: {name} = {{ type = \"{pg}\", optional = true }}",
                    column.pg,
                    if column.optional { "" } else { ", not optional" },
                    addition.field
                ),
            )),
        }
    }
}

impl Topic {
    /// tells additions of one topic from others of it: how many, and a sum of where they begin.
    pub fn additions_mark(&self) -> (i64, i64) {
        let since = self.additions.iter().flat_map(|addition| addition.since.values());
        (self.additions.len() as i64, since.map(|since| since.0).sum())
    }

    /// Whether these are all; None: nobody told.
    pub fn has_all(&self, additions: Option<(i64, i64)>) -> bool {
        additions.is_none_or(|additions| additions == self.additions_mark())
    }

    /// How many of the additions a record at this place is decoded by.
    pub fn layer_at(&self, partition: Partition, offset: i64) -> usize {
        let began = |a: &&Addition| a.since.get(&partition).is_none_or(|since| since.0 <= offset);
        self.additions.iter().take_while(began).count()
    }

    /// The topic as it is for records from before all but the first additions.
    pub fn layer(&self, additions: usize) -> Self {
        let mut topic = self.clone();
        // The last one first: a column may have got wider twice.
        for addition in self.additions[additions..].iter().rev() {
            let column = topic.columns.iter_mut().find(|column| column.name == addition.column);
            let Some(column) = column else { continue };
            match addition.from {
                Some(from) => column.pg = from,
                None => {
                    column.path = vec![NOT_YET.to_owned()];
                    column.path_is_default = false;
                }
            }
        }
        topic.schema = schema_of(
            &topic.columns,
            (topic.format, topic.append_only),
            topic.service_day.is_some(),
            topic.batched,
        );
        topic
    }
}
