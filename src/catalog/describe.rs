//! What `highwater check` prints: each topic, and what each model keeps and how it merges.
//!
//! Owns: the words. Does not own: anything that they describe.

use super::{
    Catalog, Column, Drift, Estimate, Extreme, Keeps, Late, Merge, Model, ModelKind, Order,
    PartitionFunction, PgType, Place, Reference, Role, Shape, SketchKind, Topic, ValueSet,
    folding::{DELETED_AT, VALID_FROM, VALID_TO},
};
use crate::record::quantity::{show_duration, show_size};
use std::{fmt::Write, time::Duration};

/// All topics, then the references that are joined, then all models, in order of name.
pub fn describe(catalog: &Catalog) -> String {
    let topics = catalog.topics.values().map(|topic| topic.describe());
    let references = catalog.references.values().map(|reference| reference.describe());
    let models = catalog.models.values().map(|model| model.describe());
    topics.chain(references).chain(models).collect::<Vec<_>>().join("\n")
}

impl Topic {
    /// A few lines, ending in a newline.
    pub fn describe(&self) -> String {
        let mut out = format!("topic {}", self.name);
        if *self.kafka_topic != *self.name {
            let _ = write!(out, " (in Kafka: {})", self.kafka_topic);
        }
        let _ = writeln!(out, ": {}, {} columns", self.format.as_str(), self.columns.len());
        let event_time = match self.event_time {
            Some(_) => self.event_time_declaration(),
            None => "the Kafka timestamp".to_owned(),
        };
        let future = match self.max_future {
            Some(limit) => format!("at most {} in the future", show_duration(limit)),
            None => "any time in the future".to_owned(),
        };
        let idle = match self.idle {
            Some(idle) => format!("moved by the clock after {} of silence", show_duration(idle)),
            None => "moved by records alone".to_owned(),
        };
        let disorder = show_duration(self.max_disorder);
        let _ =
            writeln!(out, "  event time   {event_time}; {disorder} out of order; {future}; {idle}");
        let private: Vec<String> = self
            .columns
            .iter()
            .filter_map(|c| Some(format!("{} {}", c.name, c.pii?.as_str())))
            .collect();
        if !private.is_empty() {
            let _ = writeln!(out, "  private      {}", private.join(", "));
        }
        if let Some(unique) = self.describe_unique() {
            let _ = writeln!(out, "  unique       {unique}");
        }
        if self.append_only {
            out.push_str("  changes      rows are only added: each is an event, and any other operation a dead letter\n");
        }
        let _ = writeln!(out, "  lake         {}", self.describe_lake());
        match self.drift {
            Drift::Off => {}
            Drift::Plan => out.push_str(
                "  drift        columns that the source gets are told, with what to do\n",
            ),
            Drift::Apply => {
                out.push_str("  drift        columns that the source gets are followed\n")
            }
        }
        let _ = match self.stop_above {
            Some(share) => writeln!(
                out,
                "  stops        when more than {}% of the last 10,000 records are dead letters",
                // Six places are more than anyone writes, and hide that 0.07 * 100 is not 7.
                (share * 1e8).round() / 1e6
            ),
            None => writeln!(out, "  stops        never, however many dead letters there are"),
        };
        if let Some(to) = &self.forward {
            let _ = writeln!(out, "  forwards     dead letters to the Kafka topic {to}");
        }
        out
    }

    fn describe_lake(&self) -> String {
        let Some(lake) = &self.lake else { return "none".to_owned() };
        let levels: Vec<String> = lake
            .partition_by
            .iter()
            .map(|level| {
                let column = self.schema.field(level.column).name();
                match level.function {
                    PartitionFunction::Date => format!("{}=date({column})", level.name),
                    PartitionFunction::Hour => format!("{}=hour({column})", level.name),
                    PartitionFunction::Value => format!("{}=…", level.name),
                }
            })
            .collect();
        let path = match levels.is_empty() {
            true => "one directory".to_owned(),
            false => format!("{} in {}", levels.join("/"), lake.time_zone),
        };
        let (bytes, age) = (show_size(lake.roll_bytes), show_duration(lake.roll_age));
        format!("{path}; a file ends at {bytes} or {age}")
    }
}

impl Reference {
    /// A line.
    fn describe(&self) -> String {
        let place = match &self.place {
            Place::Lake { path, .. } => format!("the lake's {path}"),
            Place::Table(table) => format!("the table {table}"),
        };
        let key = self.key.iter().map(|place| self.schema.field(*place).name().as_str());
        format!(
            "reference {}: {place} by {}; looked at every {}\n",
            self.name,
            key.collect::<Vec<_>>().join(", "),
            show_duration(self.refresh)
        )
    }
}

impl Model {
    /// The table that the model keeps: columns, types, key, and how each merges. Ends in a newline.
    pub fn describe(&self) -> String {
        let mut out = format!("model {}: from {}, ", self.name, self.topic);
        if let Some(join) = &self.join {
            let name = &join.reference.name;
            let _ = write!(out, "each record looked up in {name} (NULL where it finds nothing), ");
        }
        let _ = match &self.kind {
            _ if self.folding.is_some() => writeln!(out, "{}", self.follows()),
            ModelKind::Aggregate(aggregate) => match &aggregate.window {
                Some(window) => {
                    let late = match window.late {
                        Late::Amend => "taken, and counted as amended",
                        Late::DeadLetter => "a dead letter of this model",
                        Late::Drop => "left out, and counted as late",
                    };
                    let allowed = show_duration(window.allowed_lateness);
                    let after = match (&window.shape, window.allowed_lateness) {
                        (Shape::Session { .. }, _) => {
                            format!("{} behind the watermark", show_duration(window.closes_after()))
                        }
                        (_, Duration::ZERO) => "once its window has ended".to_owned(),
                        (_, _) => format!("{allowed} after its window's end"),
                    };
                    let shape = &window.shape;
                    writeln!(out, "one row per {shape} and key; a record {after} is {late}")
                }
                None => writeln!(out, "one row per key"),
            },
            ModelKind::Rows(rows) if rows.primary_key.is_empty() => {
                writeln!(out, "one row per record, known by _partition and _offset")
            }
            ModelKind::Rows(_) => writeln!(out, "the latest row per key"),
        };
        let name = self.columns.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        let pg = self.columns.iter().map(|c| c.pg.to_string().len()).max().unwrap_or(0);
        for column in &self.columns {
            let text = column.pg.to_string();
            let _ = writeln!(out, "  {:name$}  {text:pg$}  {}", column.name, self.merges(column));
        }
        out
    }

    fn merges(&self, column: &Column) -> String {
        match &column.role {
            Role::WindowStart if self.is_of_sessions() => "key; the first event".to_owned(),
            Role::WindowStart | Role::Key => "key".to_owned(),
            Role::WindowEnd if self.is_of_sessions() => "the last event and the gap".to_owned(),
            Role::WindowEnd => "follows from the key".to_owned(),
            Role::Part(Merge::Add) if column.pg == PgType::Double => {
                "adds (its last digits depend on the order of arrival)".to_owned()
            }
            Role::Part(Merge::Add) if self.counts_distinct(&column.name) => {
                let table = ValueSet::table(&self.name, &column.name);
                format!("adds the values that {table} did not hold yet")
            }
            Role::Part(Merge::Add) if self.folding.is_some() => {
                "adds what comes, takes back what goes".to_owned()
            }
            Role::Part(Merge::Add) => "adds".to_owned(),
            Role::Part(Merge::Least) => "least".to_owned(),
            Role::Part(Merge::Greatest) => "greatest".to_owned(),
            Role::Part(Merge::Win(rank)) => {
                let by = rank.by.as_ref().map_or(String::new(), |(by, extreme)| match extreme {
                    Extreme::Least => format!("the least {by}, then "),
                    Extreme::Greatest => format!("the greatest {by}, then "),
                });
                let time = match rank.wins {
                    Extreme::Least => "the earliest event time",
                    Extreme::Greatest => "the latest event time",
                };
                format!("of the row with {by}{time}")
            }
            Role::Part(Merge::Mean(_) | Merge::SquaredDifferences(_)) => {
                "combines (its last digits depend on the order of arrival)".to_owned()
            }
            Role::Derived(sql) => format!("= {sql}"),
            Role::Part(Merge::Sketch(SketchKind::Distinct)) => {
                "unites (HyperLogLog of DataSketches, 4,096 registers)".to_owned()
            }
            Role::Part(Merge::Sketch(SketchKind::Quantiles)) => "unites (DDSketch)".to_owned(),
            Role::Estimate(sketch, Estimate::Distinct) => {
                format!("about, from {sketch}: 1.6% standard error")
            }
            Role::Estimate(sketch, Estimate::Quantile(share)) => {
                format!("about, from {sketch}: within 1% of the value at {share}")
            }
            Role::Difference(last) => format!("{last} minus that of the window before"),
            Role::Value | Role::Position if self.folding.is_some() => {
                self.followed(&column.name).to_owned()
            }
            Role::Value => match self.has_primary_key() {
                true => "latest by event time".to_owned(),
                false => "as it came".to_owned(),
            },
            Role::Position => match (self.has_primary_key(), column.name.as_str()) {
                (true, _) => "which row is the latest".to_owned(),
                (false, "_event_time") => "as it came".to_owned(),
                (false, _) => "key".to_owned(),
            },
        }
    }

    /// What the rows of a table over changes are.
    fn follows(&self) -> String {
        let Some(folding) = &self.folding else { return String::new() };
        let what = match folding.keeps {
            Keeps::Rows => "the source's rows as they are now",
            Keeps::Deleted => "the source's rows as they are now, and deleted ones as they were",
            Keeps::Versions => "every version of the source's rows",
            Keeps::Groups { .. } => "one row per key over the source's rows as they are now",
        };
        let keys = folding.columns[..folding.keys].iter().map(|(name, _)| name.as_str());
        let keys = keys.collect::<Vec<_>>().join(", ");
        let order = match folding.order {
            Order::Source => "position in the source's log",
            Order::Offset => "offset",
        };
        format!("{what}; a row is known by {keys}, the later of two changes by its {order}")
    }

    fn followed(&self, column: &str) -> &'static str {
        match column {
            DELETED_AT => "when the source deleted the row; NULL: it is there",
            VALID_FROM => "when the source made the version",
            VALID_TO => "when the source changed or deleted it; NULL: it holds",
            "_event_time" | "_source_position" | "_partition" | "_offset" => "of the last change",
            _ => "as the source has it",
        }
    }

    fn counts_distinct(&self, column: &str) -> bool {
        match &self.kind {
            ModelKind::Rows(_) => false,
            ModelKind::Aggregate(aggregate) => aggregate.sets().any(|set| set.column == column),
        }
    }

    fn has_primary_key(&self) -> bool {
        match &self.kind {
            ModelKind::Rows(rows) => !rows.primary_key.is_empty(),
            ModelKind::Aggregate(_) => false,
        }
    }
}
