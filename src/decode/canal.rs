//! Canal's change events (its flat messages), as TiCDC and Flink write them too.
//!
//! Owns: the envelope. Does not own: values (`convert`).
//!
//! A message has an array of rows. What is read here is one row, which is what TiCDC and Flink write; a
//! message of several is a reject where nothing took it apart (`batched`).
//!
//! Sources: Canal's class FlatMessage; TiCDC's documentation, "TiCDC Canal-JSON Protocol".

use super::{
    change::{Change, Image, Operation, Said, before, is_of, micros, not_json},
    scan::{elements, members, plain, there},
};
use crate::catalog::{ChangeSpec, Order};

/// Reads one topic's events.
pub struct Canal {
    spec: ChangeSpec,
}

/// What is said of a change, as it stands.
#[derive(Default)]
struct Envelope<'a> {
    kind: Option<&'a str>,
    database: Option<&'a str>,
    table: Option<&'a str>,
    data: Option<&'a str>,
    old: Option<&'a str>,
    is_ddl: bool,
    millis: Option<&'a str>,
    /// TiCDC's extension.
    tidb: Option<&'a str>,
}

impl Canal {
    pub fn new(spec: &ChangeSpec) -> Self {
        Self { spec: spec.clone() }
    }

    pub fn read<'a>(&self, value: &'a str) -> Result<Said<'a>, String> {
        let mut envelope = Envelope::default();
        let read = |name: &str, raw: &'a str| {
            let place = match name {
                "type" => &mut envelope.kind,
                "database" => &mut envelope.database,
                "table" => &mut envelope.table,
                "data" => &mut envelope.data,
                "old" => &mut envelope.old,
                "es" => &mut envelope.millis,
                "_tidb" => &mut envelope.tidb,
                "isDdl" => {
                    envelope.is_ddl = raw == "true";
                    return;
                }
                _ => return,
            };
            *place = there(raw);
        };
        members(value, read).map_err(|broken| not_json("value", broken))?;
        let kind = plain(envelope.kind.ok_or("an event of Canal's without `type`")?);
        if !is_of(self.spec.table.as_deref(), envelope.database, envelope.table) {
            return Ok(Said::Nothing);
        }
        let operation = match (kind, envelope.is_ddl) {
            ("INSERT", false) => Operation::Insert,
            ("UPDATE", false) => Operation::Update,
            ("DELETE", false) => Operation::Delete,
            ("TRUNCATE", true) => Operation::Truncate,
            (_, true) | ("TIDB_WATERMARK", _) => return Ok(Said::Nothing),
            _ => return Err("a `type` that Canal does not have".to_owned()),
        };
        let (image, old) = match operation {
            Operation::Truncate => (None, None),
            _ => {
                let row = only(envelope.data.ok_or("an event of Canal's without `data`")?, "data")?;
                let old = envelope.old.map(|old| only(old, "old")).transpose()?;
                (Some(row), old)
            }
        };
        let read =
            |raw| micros(raw, 1_000).ok_or("an `es` that is no whole number of milliseconds");
        let source_time = envelope.millis.map(read).transpose()?;
        Ok(Said::Change(Change {
            operation,
            image: image.map(Image::of),
            before: before(operation, image, old, self.spec.before)?,
            position: self.position(envelope.tidb)?,
            source_time,
            encodings: None,
            left_out: None,
            snapshot: None,
        }))
    }

    fn position(&self, tidb: Option<&str>) -> Result<String, String> {
        if self.spec.order == Order::Offset {
            return Ok(String::new());
        }
        let mut commit = None;
        if let Some(tidb) = tidb {
            let read = |name: &str, raw: &str| {
                if name == "commitTs" {
                    commit = raw.parse::<u64>().ok();
                }
            };
            members(tidb, read).map_err(|broken| not_json("`_tidb`", broken))?;
        }
        commit.map(|commit| format!("{commit:020}")).ok_or_else(|| {
            "no `_tidb.commitTs` in the event (enable-tidb-extension = true of TiCDC); Canal itself \
             gives no position: with changes.order = \"offset\" Kafka's order counts"
                .to_owned()
        })
    }
}

/// The only row of an array.
fn only<'a>(array: &'a str, name: &str) -> Result<&'a str, String> {
    let (mut row, mut count) = (None, 0);
    let read = |element| {
        row = Some(element);
        count += 1;
    };
    elements(array, read).map_err(|broken| {
        format!("`{name}` is not an array: its byte {}: {}", broken.at, broken.why)
    })?;
    match (row, count) {
        (Some(row), 1) => Ok(row),
        _ => Err(format!(
            "a message of {count} rows in `{name}`; with `batched = true` each is a row of its own"
        )),
    }
}
