//! Qlik Replicate's changes: messages in JSON, with or without the envelope, and rows of CSV.
//!
//! Owns: the envelope, Replicate's header fields, masks. Does not own: the grammar of CSV (`csv`),
//! values (`convert`), what sparse images leave out (`rows`).
//!
//! Sources: Replicate's documentation, "Metadata and data messages" (Kafka), "The Replicate
//! envelope", "Change Tables".

use super::{
    change::{Change, Image, Operation, Said, not_json},
    csv::{Csv, Fields},
    encoding::in_utc,
    scan::{members, plain, there},
    time::timestamptz,
};
use crate::catalog::{ChangeSpec, CsvSpec, Images, Order, Pii, Topic, TopicColumn};
use std::{borrow::Cow, sync::Arc};

/// Digits of a change sequence: a time to hundredths, and a number.
const SEQUENCE_DIGITS: usize = 35;

/// Reads one topic's changes.
pub struct Qlik {
    spec: ChangeSpec,
    /// Those that are kept, in order, and whether they are of the key.
    columns: Vec<(TopicColumn, bool)>,
    rows: Option<Rows>,
}

/// Rows of CSV, and where Replicate's own fields stand in them.
struct Rows {
    csv: Csv,
    /// None: rows of a full load.
    operation: Option<usize>,
    sequence: Option<usize>,
    time: Option<usize>,
    mask: Option<usize>,
}

/// What Replicate says beside the row.
#[derive(Default)]
struct Header<'a> {
    sequence: Option<&'a str>,
    time: Option<&'a str>,
    /// Which columns the image of an update holds.
    mask: Option<&'a str>,
}

impl Qlik {
    pub fn new(topic: &Topic, spec: &ChangeSpec) -> Self {
        let columns = topic.columns.iter().enumerate();
        let kept = columns.filter(|(_, column)| column.pii != Some(Pii::Drop));
        Self {
            spec: spec.clone(),
            columns: kept
                .map(|(place, column)| (column.clone(), spec.key.contains(&place)))
                .collect(),
            rows: topic.csv.as_ref().map(|csv| Rows::new(topic, csv)),
        }
    }

    pub fn read<'a>(&self, value: &'a str) -> Result<Said<'a>, String> {
        match &self.rows {
            Some(rows) => match rows.csv.fields(value)? {
                Some(fields) => self.row(rows, &fields),
                None => Ok(Said::Nothing),
            },
            None => self.message(value),
        }
    }

    fn row<'a>(&self, rows: &Rows, fields: &Fields<'_>) -> Result<Said<'a>, String> {
        let at = |place: Option<usize>| place.and_then(|place| fields[place].as_deref());
        let operation = match (rows.operation, at(rows.operation)) {
            (None, _) => Operation::Read,
            (_, Some("I")) => Operation::Insert,
            (_, Some("U")) => Operation::Update,
            (_, Some("D")) => Operation::Delete,
            // The row before the update that follows.
            (_, Some("B")) => return Ok(Said::Nothing),
            _ => return Err("a header__change_oper that is none of I, U, D, B".to_owned()),
        };
        let header =
            Header { sequence: at(rows.sequence), time: at(rows.time), mask: at(rows.mask) };
        let names = || {
            let data = |name: &&str| !name.starts_with(crate::catalog::QLIK_PREFIX);
            rows.csv.names().filter(data)
        };
        self.change(operation, rows.csv.object(fields).into(), None, &header, names)
    }

    fn message<'a>(&self, value: &'a str) -> Result<Said<'a>, String> {
        let (mut magic, mut kind, mut message, mut is_metadata) = (None, None, None, false);
        members(value, |name, raw| match name {
            "magic" => magic = Some(plain(raw)),
            "type" => kind = Some(plain(raw)),
            "message" => message = Some(raw),
            "tableStructure" | "dataSchema" | "lineage" => is_metadata = true,
            _ => {}
        })
        .map_err(|broken| not_json("value", broken))?;
        let message = match (magic, kind, message) {
            (None, ..) if is_metadata => return Ok(Said::Nothing),
            (None, ..) => value,
            (Some("atMSG"), Some("MD"), _) => return Ok(Said::Nothing),
            (Some("atMSG"), Some("DT"), Some(message)) => message,
            (Some("atMSG"), ..) => {
                return Err("an envelope that is neither DT with a message nor MD".to_owned());
            }
            (Some(_), ..) => return Err("an envelope whose `magic` is not atMSG".to_owned()),
        };
        let (mut data, mut before, mut headers) = (None, None, None);
        members(message, |name, raw| match name {
            "data" => data = there(raw),
            "beforeData" => before = there(raw),
            "headers" => headers = there(raw),
            _ => {}
        })
        .map_err(|broken| not_json("message", broken))?;
        let headers = headers.ok_or("a message of Replicate's without `headers`")?;
        let (mut operation, mut header, mut changed) = (None, Header::default(), None);
        members(headers, |name, raw| {
            let raw = there(raw).map(plain).filter(|text| !text.is_empty());
            match name {
                "operation" => operation = raw,
                "changeSequence" => header.sequence = raw,
                "timestamp" => header.time = raw,
                "columnMask" => header.mask = raw,
                "changeMask" => changed = raw,
                _ => {}
            }
        })
        .map_err(|broken| not_json("`headers`", broken))?;
        header.mask = header.mask.or(changed);
        let operation = match operation {
            Some("REFRESH") => Operation::Read,
            Some("INSERT") => Operation::Insert,
            Some("UPDATE") => Operation::Update,
            Some("DELETE") => Operation::Delete,
            _ => return Err("an `operation` that Replicate does not have".to_owned()),
        };
        let image = match operation {
            Operation::Delete => data.or(before),
            _ => data,
        };
        let image = image.ok_or("a message of Replicate's without `data`")?;
        let mut names = Vec::new();
        if self.by_mask(operation) {
            members(image, |name, _| names.push(name))
                .map_err(|broken| not_json("`data`", broken))?;
        }
        let before = before.map(Cow::Borrowed);
        self.change(operation, image.into(), before, &header, || names.iter().copied())
    }

    fn change<'a, 'n, N: Iterator<Item = &'n str>>(
        &self,
        operation: Operation,
        image: Cow<'a, str>,
        before: Option<Cow<'a, str>>,
        header: &Header<'_>,
        names: impl Fn() -> N,
    ) -> Result<Said<'a>, String> {
        let before = match operation {
            Operation::Update => before,
            Operation::Delete => before.or(self.spec.before.then(|| image.clone())),
            Operation::Insert | Operation::Read | Operation::Truncate => None,
        };
        let left_out = match (self.by_mask(operation), header.mask) {
            (false, _) => None,
            (true, Some(mask)) => Some(self.left_out(mask, names())?),
            (true, None) => return Err("an update without a mask of its columns".to_owned()),
        };
        Ok(Said::Change(Change {
            operation,
            image: Some(Image::of(image)),
            before,
            position: self.position(operation, header.sequence)?,
            source_time: header.time.map(source_time).transpose()?,
            encodings: None,
            left_out,
            snapshot: None,
        }))
    }

    fn by_mask(&self, operation: Operation) -> bool {
        self.spec.images == Images::Mask && operation == Operation::Update
    }

    /// Of each kept column, whether its bit is not set. Bits go by the place in the row: the first
    /// two digits are the first eight columns. Zeros at the end may be left away.
    fn left_out<'n>(
        &self,
        mask: &str,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Arc<[bool]>, String> {
        let broken = || "a mask that is not of pairs of hexadecimal digits".to_owned();
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(broken);
        let mut bits = Vec::new();
        for pair in mask.as_bytes().chunks(2) {
            let &[high, low] = pair else { return Err(broken()) };
            let byte = digit(high)? << 4 | digit(low)?;
            bits.extend((0..8).map(|bit| byte >> bit & 1 == 1));
        }
        let mut left_out = vec![false; self.columns.len()];
        let mut count = 0;
        for (place, name) in names.enumerate() {
            count += 1;
            let held = bits.get(place).copied().unwrap_or(false);
            for (out, (column, is_key)) in left_out.iter_mut().zip(&self.columns) {
                let named = column.path_is_default && column.name == name || column.path == [name];
                *out |= named && !held && !is_key;
            }
        }
        match bits.get(count..).is_some_and(|rest| rest.contains(&true)) {
            true => Err("a mask that names more columns than the row has".to_owned()),
            false => Ok(left_out.into()),
        }
    }

    fn position(&self, operation: Operation, sequence: Option<&str>) -> Result<String, String> {
        match (self.spec.order, sequence) {
            (Order::Offset, _) => Ok(String::new()),
            (Order::Source, Some(text)) => {
                let digits =
                    text.len() <= SEQUENCE_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
                match digits {
                    true => Ok(format!("{text:0>SEQUENCE_DIGITS$}")),
                    false => Err("a change sequence that is not of up to 35 digits".to_owned()),
                }
            }
            // A full load has none.
            (Order::Source, None) if operation == Operation::Read => Ok(String::new()),
            (Order::Source, None) => Err(
                "no change sequence in the record; with changes.order = \"offset\" Kafka's order \
                 counts"
                    .to_owned(),
            ),
        }
    }
}

impl Rows {
    fn new(topic: &Topic, spec: &CsvSpec) -> Self {
        Self {
            csv: Csv::new(topic, spec),
            operation: spec.qlik("change_oper"),
            sequence: spec.qlik("change_seq"),
            time: spec.qlik("timestamp"),
            mask: spec.qlik("change_mask"),
        }
    }
}

/// Replicate's times are in UTC, and do not say so.
fn source_time(text: &str) -> Result<i64, String> {
    let mut utc = String::new();
    in_utc(text, &mut utc);
    timestamptz(&utc).map_err(|_| "a timestamp of the change that is no instant".to_owned())
}
