//! `[csv]` of a topic file: which field of a row is whose.
//!
//! Owns: its keys, and that every column has a field. Does not own: how a row is taken apart
//! (`decode`).

use super::{
    Format, TopicColumn,
    mistake::unknown,
    toml_table::{Found, Table},
};
use std::collections::BTreeSet;

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvSpec {
    /// Names of the fields, in order; without a header in the file those of the columns.
    pub header: Vec<String>,
    pub delimiter: u8,
    /// What stands, without quotes, for NULL.
    pub null: String,
}

/// What Replicate puts in front of a row that is a change.
pub const QLIK_PREFIX: &str = "header__";

const KEYS: [&str; 3] = ["header", "delimiter", "null"];

/// None: the topic's records are no rows of CSV.
pub(super) fn read(
    top: &Table<'_>,
    format: Format,
    columns: &[TopicColumn],
    unsure: &BTreeSet<String>,
    found: &mut Found,
) -> Option<CsvSpec> {
    let may_be_csv = matches!(format, Format::Csv | Format::Qlik);
    if let Some(row) = top.row("csv").filter(|_| !may_be_csv) {
        let format = format.as_str();
        found.push((
            row.byte,
            format!("[csv] is for rows of CSV, and the format is {format}. Allowed: csv, qlik"),
        ));
        return None;
    }
    let table = top.table("csv", found);
    if table.is_none() && format != Format::Csv {
        return None;
    }
    let mut spec = CsvSpec { header: Vec::new(), delimiter: b',', null: String::new() };
    let mut names = None;
    let byte = table.as_ref().map_or(0, |table| table.byte);
    if let Some(table) = &table {
        table.only(&KEYS, found);
        names = table.texts("header", found);
        spec.delimiter = table.parsed("delimiter", delimiter, found).unwrap_or(b',');
        spec.null = table.text("null", found).unwrap_or_default();
    }
    match names {
        Some(names) => spec.header = header(&names, columns, unsure, byte, found),
        None if format == Format::Csv => spec.header = of_columns(columns, found),
        None => found.push((
            byte,
            "the key `csv.header` is missing. Allowed: header = [\"header__change_seq\", \
             \"header__change_oper\", …], the fields of a row in order"
                .into(),
        )),
    }
    Some(spec)
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err(format!("`{text}` delimits nothing. Allowed: one ASCII character, such as \";\"")),
    }
}

/// The fields as named; each column is to find its own among them.
fn header(
    names: &[(usize, String)],
    columns: &[TopicColumn],
    unsure: &BTreeSet<String>,
    byte: usize,
    found: &mut Found,
) -> Vec<String> {
    let mut seen = BTreeSet::new();
    for (byte, name) in names {
        if !seen.insert(name.as_str()) {
            found.push((*byte, format!("csv.header has `{name}` twice. Allowed: each once")));
        }
    }
    let known: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
    for column in columns.iter().filter(|column| !unsure.contains(&column.name)) {
        let is_there = match (&column.path[..], column.path_is_default) {
            ([name], true) => known.contains(&column.name.as_str()) || known.contains(&&name[..]),
            ([name], false) => known.contains(&&name[..]),
            _ => false,
        };
        if !is_there {
            let what = format!("field of column `{}` in csv.header", column.name);
            found.push((byte, unknown(&what, &column.path.join("/"), &known)));
        }
    }
    names.iter().map(|(_, name)| name.clone()).collect()
}

fn of_columns(columns: &[TopicColumn], found: &mut Found) -> Vec<String> {
    for column in columns.iter().filter(|column| !column.path_is_default) {
        found.push((
            0,
            format!(
                "column `{}` has a `from`, and without csv.header the columns are the fields in \
                 order. Allowed: [csv] header = [\"…\"], or no `from`",
                column.name
            ),
        ));
    }
    columns.iter().map(|column| column.name.clone()).collect()
}

impl CsvSpec {
    /// Place of one of Replicate's own fields.
    pub fn qlik(&self, name: &str) -> Option<usize> {
        let is = |field: &String| field.strip_prefix(QLIK_PREFIX) == Some(name);
        self.header.iter().position(is)
    }
}
