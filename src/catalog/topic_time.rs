//! What a topic file says of time: which columns are the event time, disorder, clocks, idleness, zone.
//!
//! Owns: `event_time`, `max_disorder`, `max_future`, `idle`, `time_zone` with their defaults. Does not own:
//! what they do (`decode`, `event_time`, `pipeline::worker`).
//!
//! Two defaults that need a reason. `max_future` is a day: a clock in the year 2099 would close every
//! window of its partition at once, and a record that is taken cannot be untaken, while one that is
//! refused by mistake stands among the dead letters with a sentence that names the key. `idle` is
//! `never`: a load of old records in bursts, with pauses, would be late after the first pause, and a
//! model that drops late records would lose it.

use super::{
    PgType, TopicColumn,
    mistake::unknown,
    toml_table::{Found, Table},
    topic::EVENT_TIME,
};
use crate::record::quantity::duration;
use std::{collections::BTreeSet, time::Duration};
use toml::de::DeValue;

/// Of a topic of changes: the time at the source.
const SOURCE_TIME: &str = "_source_time";
const SERVICE_DAY: [&str; 2] = ["date", "clock"];
const MAX_DISORDER: Duration = Duration::from_secs(60);
const MAX_FUTURE: Duration = Duration::from_secs(86_400);
/// Less is a pause between two records, not silence.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// What is said of time, defaults filled in.
pub(super) struct Time {
    /// The event time's column; None: Kafka's timestamp.
    pub column: Option<String>,
    /// Columns of the day of service and of the clock, where the event time follows from both.
    pub service_day: Option<(String, String)>,
    pub max_disorder: Duration,
    pub max_future: Option<Duration>,
    pub idle: Option<Duration>,
}

pub(super) fn read(
    top: &Table<'_>,
    of_changes: bool,
    append_only: bool,
    columns: &[TopicColumn],
    unsure: &BTreeSet<String>,
    found: &mut Found,
) -> Time {
    let mut time = Time {
        column: None,
        service_day: None,
        max_disorder: top.parsed("max_disorder", duration, found).unwrap_or(MAX_DISORDER),
        max_future: top
            .parsed("max_future", |text| unless("none", text), found)
            .unwrap_or(Some(MAX_FUTURE)),
        idle: top.parsed("idle", |text| unless("never", text), found).flatten(),
    };
    if time.idle.is_some_and(|idle| idle < IDLE_MIN) {
        found.push((top.byte("idle"), "`idle` is too short. Allowed: 1s or more, or never".into()));
    }
    match top.row("event_time").map(|row| (row, row.value.get_ref())) {
        Some((_, value)) if of_changes && append_only && value.as_str() == Some(SOURCE_TIME) => {
            time.column = Some(SOURCE_TIME.to_owned());
        }
        Some((row, _)) if of_changes && !append_only => {
            time.column = Some(SOURCE_TIME.to_owned());
            if row.value.get_ref().as_str() != Some(SOURCE_TIME) {
                found.push((
                    row.byte,
                    "the event time of a change is the time at which the source made it, since a \
                     delete has no other. Allowed: no event_time (or \"_source_time\", which is the same)"
                        .into(),
                ));
            }
        }
        None if of_changes => time.column = Some(SOURCE_TIME.to_owned()),
        Some((row, DeValue::Table(table))) => {
            let table = Table::new("event_time", row.byte, table);
            table.only(&SERVICE_DAY, found);
            let column = |key: &str, wanted: PgType, found: &mut Found| {
                let name = table.required_text(key, "the name of a column", found)?;
                let place = (name.as_str(), table.byte(key));
                check_column(&format!("event_time.{key}"), place, wanted, columns, unsure, found);
                Some(name)
            };
            let date = column("date", PgType::Date, found);
            let clock = column("clock", PgType::Text, found);
            time.service_day = date.zip(clock);
            time.column = Some(EVENT_TIME.to_owned());
        }
        Some((_, DeValue::String(_))) | None => {
            time.column = top.text("event_time", found);
            if let Some(name) = &time.column {
                let place = (name.as_str(), top.byte("event_time"));
                check_column("event_time", place, PgType::Timestamptz, columns, unsure, found);
            }
        }
        Some((row, other)) => found.push((
            row.byte,
            format!(
                "`event_time` is a TOML {}. Allowed: the name of a timestamptz column, or {{ date = …, \
                 clock = … }}",
                other.type_str()
            ),
        )),
    }
    time
}

/// A duration, or the word for none.
fn unless(none: &str, text: &str) -> Result<Option<Duration>, String> {
    match text == none {
        true => Ok(None),
        false => duration(text).map(Some).map_err(|what| format!("{what}, or {none}")),
    }
}

pub(super) fn zone(text: &str) -> Result<chrono_tz::Tz, String> {
    text.parse::<chrono_tz::Tz>().map_err(|_| {
        format!(
            "unknown time zone `{text}`. Allowed: a name of the IANA data base, such as \
             Europe/London or UTC"
        )
    })
}

/// Every record must have it, as it was sent.
fn check_column(
    key: &str,
    (name, byte): (&str, usize),
    wanted: PgType,
    columns: &[TopicColumn],
    unsure: &BTreeSet<String>,
    found: &mut Found,
) {
    let Some(column) = columns.iter().find(|c| c.name == name) else {
        if !unsure.contains(name) {
            let fit: Vec<&str> =
                columns.iter().filter(|c| c.pg == wanted).map(|c| c.name.as_str()).collect();
            found.push((byte, match fit.is_empty() {
                true => format!(
                    "{key} names no column: `{name}`. Allowed: a {wanted} column (there is none), or no \
                     event_time: then it is the Kafka timestamp"
                ),
                false => unknown(&format!("{key} column"), name, &fit),
            }));
        }
        return;
    };
    if unsure.contains(name) {
        return;
    }
    let mut wrong = |why: String| {
        found.push((byte, format!("the {key} column `{name}` {why}")));
    };
    if column.pg != wanted {
        wrong(format!("is {}. Allowed: {wanted}", column.pg));
    }
    if column.optional {
        wrong(
            "is optional, but every record needs an event time. Allowed: a column that is not \
             optional (a record without it becomes a dead letter)"
                .into(),
        );
    }
    if let Some(pii) = column.pii {
        wrong(format!(
            "has pii = \"{}\", which leaves no time. Allowed: a column without pii",
            pii.as_str()
        ));
    }
}
