//! CloudEvents in structured mode: the event's data with its attributes.
//!
//! Owns: the envelope. Does not own: what data and attributes mean (`fields`, `convert`).
//!
//! The row has the members of `data`, and the attributes under the names that the binding to Kafka
//! gives them as headers: `ce_id`, `ce_time`, `ce_NAME` of an extension. What is read here is one event: an
//! array of one is that one, an array of several is a reject where nothing took it apart (`batched`).
//!
//! Sources: CloudEvents 1.0.2, "JSON Event Format", "Kafka Protocol Binding".

use super::{
    change::{Said, not_json},
    scan::{elements, members, plain, there},
};
use crate::catalog::Topic;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{borrow::Cow, collections::BTreeSet};

const PREFIX: &str = "ce_";

pub struct CloudEvents {
    /// Those that a column names, without the prefix.
    attributes: BTreeSet<String>,
}

impl CloudEvents {
    pub fn new(topic: &Topic) -> Self {
        let names = topic.columns.iter().flat_map(|column| {
            let own = column.path_is_default.then_some(&column.name);
            own.into_iter().chain(column.path.first())
        });
        let attributes = names.filter_map(|name| name.strip_prefix(PREFIX));
        Self { attributes: attributes.map(str::to_owned).collect() }
    }

    pub fn read<'a>(&self, value: &'a str) -> Result<Said<'a>, String> {
        let Some(event) = only(value)? else { return Ok(Said::Nothing) };
        let (mut data, mut packed, mut row) = (None, None, String::from("{"));
        let mut required =
            [("specversion", false), ("id", false), ("source", false), ("type", false)];
        let mut version = None;
        members(event, |name, raw| match name {
            "data" => data = there(raw),
            "data_base64" => packed = there(raw),
            _ => {
                if name == "specversion" {
                    version = Some(plain(raw));
                }
                for (wanted, there) in &mut required {
                    *there |= name == *wanted && raw.starts_with('"') && raw != "\"\"";
                }
                if self.attributes.contains(name) {
                    row.push_str(if row.len() > 1 { "," } else { "" });
                    row.push('"');
                    row.push_str(PREFIX);
                    row.push_str(name);
                    row.push_str("\":");
                    row.push_str(raw);
                }
            }
        })
        .map_err(|broken| not_json("event", broken))?;
        if let Some((missing, _)) = required.iter().find(|(_, there)| !there) {
            return Err(format!("an event without the attribute `{missing}`"));
        }
        if version.is_none_or(|version| !version.starts_with("1.")) {
            return Err("an event of another `specversion` than 1".to_owned());
        }
        let data = match (data, packed) {
            (Some(data), None) => Cow::Borrowed(data),
            (None, Some(packed)) => Cow::Owned(unpacked(packed)?),
            (None, None) => Cow::Borrowed("{}"),
            (Some(_), Some(_)) => return Err("an event with `data` and `data_base64`".to_owned()),
        };
        // Told before it is taken apart: within the row it would be broken at another place.
        members(&data, |_, _| {}).map_err(|broken| not_json("`data` of the event", broken))?;
        let inner = data.trim().strip_prefix('{').map_or("", str::trim);
        // Attributes first: of a repeated key the last counts, and data is what columns are for.
        row.push_str(if row.len() > 1 && inner != "}" { "," } else { "" });
        row.push_str(inner);
        Ok(Said::Row(Cow::Owned(row)))
    }
}

/// The event itself; of an array its only one. None: an array of none.
fn only(value: &str) -> Result<Option<&str>, String> {
    if !value.trim_start().starts_with('[') {
        return Ok(Some(value));
    }
    let (mut event, mut count) = (None, 0);
    let read = |element| {
        event = Some(element);
        count += 1;
    };
    elements(value, read)
        .map_err(|broken| format!("not an array: byte {}: {}", broken.at, broken.why))?;
    match count {
        0 | 1 => Ok(event),
        _ => Err(format!("an array of {count} events; with `batched = true` each is a row")),
    }
}

fn unpacked(raw: &str) -> Result<String, String> {
    // A JSON writer may escape the slash of base64.
    let bytes = STANDARD.decode(plain(raw).replace("\\/", "/"));
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| "a `data_base64` that is not base64 of text".to_owned())
}
