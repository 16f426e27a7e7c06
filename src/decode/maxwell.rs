//! Maxwell's change events.
//!
//! Owns: the envelope, the binlog's position as text that sorts. Does not own: values (`convert`).
//!
//! Source: Maxwell's documentation, "Data Format" and "Bootstrapping".

use super::{
    change::{Change, Image, Operation, Said, before, is_of, micros, not_json},
    scan::{members, plain, there},
};
use crate::catalog::{ChangeSpec, Order};

/// Reads one topic's events.
pub struct Maxwell {
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
    position: Option<&'a str>,
    seconds: Option<&'a str>,
}

impl Maxwell {
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
                "position" => &mut envelope.position,
                "ts" => &mut envelope.seconds,
                _ => return,
            };
            *place = there(raw);
        };
        members(value, read).map_err(|broken| not_json("value", broken))?;
        let kind = envelope.kind.ok_or("an event of Maxwell's without `type`")?;
        if !is_of(self.spec.table.as_deref(), envelope.database, envelope.table) {
            return Ok(Said::Nothing);
        }
        let operation = match plain(kind) {
            "insert" => Operation::Insert,
            "update" => Operation::Update,
            "delete" => Operation::Delete,
            "bootstrap-insert" => Operation::Read,
            "bootstrap-start" | "bootstrap-complete" | "heartbeat" => return Ok(Said::Nothing),
            "table-create" | "table-alter" | "table-drop" | "database-create"
            | "database-alter" | "database-drop" => return Ok(Said::Nothing),
            _ => return Err("a `type` that Maxwell does not have".to_owned()),
        };
        let data = envelope.data.ok_or("an event of Maxwell's without `data`")?;
        let read = |raw| micros(raw, 1_000_000).ok_or("a `ts` that is no whole number of seconds");
        let source_time = envelope.seconds.map(read).transpose()?;
        Ok(Said::Change(Change {
            operation,
            image: Some(Image::of(data)),
            before: before(operation, Some(data), envelope.old, self.spec.before)?,
            position: self.position(operation, envelope.position)?,
            source_time,
            encodings: None,
            left_out: None,
            snapshot: None,
        }))
    }

    fn position(&self, operation: Operation, raw: Option<&str>) -> Result<String, String> {
        match (self.spec.order, raw) {
            (Order::Offset, _) => Ok(String::new()),
            (Order::Source, Some(raw)) => of_binlog(plain(raw))
                .ok_or_else(|| "a `position` that is not FILE.NUMBER:OFFSET".to_owned()),
            // Rows of a bootstrap are read from the table, not from the log.
            (Order::Source, None) if operation == Operation::Read => Ok(String::new()),
            (Order::Source, None) => Err(
                "no `position` in the event; let Maxwell write it (output_binlog_position = true), \
                 or take changes.order = \"offset\""
                    .to_owned(),
            ),
        }
    }
}

/// `master.000006:800911`, as text that ascends byte by byte.
fn of_binlog(text: &str) -> Option<String> {
    let (file, offset) = text.split_once(':')?;
    let number: u64 = file.rsplit('.').next()?.parse().ok()?;
    let offset: u64 = offset.parse().ok()?;
    Some(format!("{number:012}:{offset:020}"))
}
