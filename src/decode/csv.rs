//! A record that is one row of CSV, to a JSON object by the names of its fields.
//!
//! Owns: the grammar (RFC 4180, strictly), what is NULL. Does not own: the names (`catalog`), what
//! Replicate's own fields mean (`qlik`).
//!
//! Why not the crate csv, which reads files of references and is the oracle in the tests: it takes
//! a quote that is never closed, or text behind one, and does not tell `""` from nothing.

use super::text::quote;
use crate::catalog::{CsvSpec, Pii, QLIK_PREFIX, Topic};
use std::borrow::Cow;

pub struct Csv {
    delimiter: u8,
    null: String,
    header: Vec<Field>,
}

struct Field {
    name: String,
    /// `"name":`, as in the object.
    key: String,
    whose: Whose,
}

enum Whose {
    Column,
    /// A column that is dropped, or a field of Replicate's that none names.
    Nobody,
    /// Told, so that it is counted; its value is not.
    Unknown,
}

/// The fields of a row; NULL is none.
pub type Fields<'a> = Vec<Option<Cow<'a, str>>>;

impl Csv {
    pub fn new(topic: &Topic, spec: &CsvSpec) -> Self {
        let field = |name: &String| {
            let names = |column: &&crate::catalog::TopicColumn| {
                column.path_is_default && column.name == *name || column.path == [name.as_str()]
            };
            let whose = match topic.columns.iter().find(names) {
                Some(column) if column.pii == Some(Pii::Drop) => Whose::Nobody,
                Some(_) => Whose::Column,
                None if name.starts_with(QLIK_PREFIX) => Whose::Nobody,
                None => Whose::Unknown,
            };
            let mut key = String::new();
            quote(name, &mut key);
            key.push(':');
            Field { name: name.clone(), key, whose }
        };
        Self {
            delimiter: spec.delimiter,
            null: spec.null.clone(),
            header: spec.header.iter().map(field).collect(),
        }
    }

    /// Writes the row as an object; false: it is the header once more, which says nothing.
    pub fn row(&self, text: &str, out: &mut String) -> Result<bool, String> {
        let (mut found, mut is_header) = (0, true);
        out.push('{');
        split(text, self.delimiter, |content, quoted| {
            let field = self.header.get(found);
            found += 1;
            is_header &= field.is_some_and(|field| field.name == *content);
            if let Some(field) = field {
                field.write((quoted || *content != self.null).then_some(&content), out);
            }
        })?;
        out.push('}');
        self.is_whole(found)?;
        Ok(!is_header)
    }

    /// As many as the header has; None: it is the header.
    pub fn fields<'a>(&self, text: &'a str) -> Result<Option<Fields<'a>>, String> {
        let mut fields = Vec::with_capacity(self.header.len());
        let mut is_header = true;
        split(text, self.delimiter, |content, quoted| {
            let name = self.header.get(fields.len()).map(|field| field.name.as_str());
            is_header &= name == Some(&*content);
            fields.push((quoted || *content != self.null).then_some(content));
        })?;
        self.is_whole(fields.len())?;
        Ok((!is_header).then_some(fields))
    }

    fn is_whole(&self, found: usize) -> Result<(), String> {
        match self.header.len() {
            wanted if wanted == found => Ok(()),
            wanted => Err(format!("a row of {found} fields; {wanted} are declared")),
        }
    }

    pub fn object(&self, fields: &[Option<Cow<'_, str>>]) -> String {
        let mut out = String::from("{");
        for (field, value) in self.header.iter().zip(fields) {
            field.write(value.as_deref(), &mut out);
        }
        out.push('}');
        out
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.iter().map(|field| field.name.as_str())
    }
}

impl Field {
    /// As a member of the object that ends with `out`, unless it is nobody's.
    fn write(&self, value: Option<&str>, out: &mut String) {
        let value = match self.whose {
            Whose::Nobody => return,
            Whose::Unknown => None,
            Whose::Column => value,
        };
        if !out.ends_with('{') {
            out.push(',');
        }
        out.push_str(&self.key);
        match value {
            Some(text) => quote(text, out),
            None => out.push_str("null"),
        }
    }
}

/// Calls back for each field of one row, with its content and whether it stood in quotes.
fn split<'a>(
    text: &'a str,
    delimiter: u8,
    mut each: impl FnMut(Cow<'a, str>, bool),
) -> Result<(), String> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        if bytes.get(at) == Some(&b'"') {
            let (content, behind) = quoted(text, at)?;
            each(content, true);
            at = behind;
        } else {
            let ends = |byte: &u8| *byte == delimiter || matches!(byte, b'\r' | b'\n' | b'"');
            let len = bytes[at..].iter().position(ends).unwrap_or(bytes.len() - at);
            each(Cow::Borrowed(&text[at..at + len]), false);
            at += len;
        }
        match &bytes[at..] {
            [] | [b'\n'] | [b'\r'] | [b'\r', b'\n'] => return Ok(()),
            [byte, ..] if *byte == delimiter => at += 1,
            [b'\r' | b'\n', ..] => {
                return Err(format!("byte {at}: another row; a record is one row of CSV"));
            }
            _ => return Err(format!("byte {at}: a delimiter, or quotes around it all, is wanted")),
        }
    }
}

/// What stands between the quotes that open at `start`, and the place behind them.
fn quoted(text: &str, start: usize) -> Result<(Cow<'_, str>, usize), String> {
    let bytes = text.as_bytes();
    let (mut at, mut doubled) = (start + 1, false);
    loop {
        match bytes[at..].iter().position(|byte| *byte == b'"') {
            None => return Err(format!("byte {start}: the quotes that open here never close")),
            Some(len) if bytes.get(at + len + 1) == Some(&b'"') => {
                doubled = true;
                at += len + 2;
            }
            Some(len) => {
                let content = &text[start + 1..at + len];
                let content = match doubled {
                    true => Cow::Owned(content.replace("\"\"", "\"")),
                    false => Cow::Borrowed(content),
                };
                return Ok((content, at + len + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn splits(text: &str, delimiter: u8) -> Result<Vec<(String, bool)>, String> {
        let mut fields = Vec::new();
        split(text, delimiter, |content, quoted| fields.push((content.into_owned(), quoted)))?;
        Ok(fields)
    }

    #[test]
    fn a_row_is_taken_apart_and_quotes_are_told_from_nothing() {
        for (text, fields) in [
            ("", vec![("", false)]),
            ("a,b", vec![("a", false), ("b", false)]),
            ("a,,\"\"\r\n", vec![("a", false), ("", false), ("", true)]),
            ("\"x, \"\"y\"\"\nz\",é\n", vec![("x, \"y\"\nz", true), ("é", false)]),
            (" a ,\"\"\"\"", vec![(" a ", false), ("\"", true)]),
        ] {
            let fields = fields.into_iter().map(|(text, quoted)| (text.to_owned(), quoted));
            assert_eq!(splits(text, b','), Ok(fields.collect()), "{text}");
        }
        assert_eq!(splits("a;b,c", b';').unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_one_row_is_refused_at_its_place() {
        for (text, why) in [
            ("\"a,b", "byte 0: the quotes"),
            ("a,\"b\"\"", "byte 2: the quotes"),
            ("\"a\"b,c", "byte 3: a delimiter"),
            ("a\"b", "byte 1: a delimiter"),
            ("a,b\nc,d", "byte 3: another row"),
            ("a\n\n", "byte 1: another row"),
        ] {
            let refused = splits(text, b',').unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn what_the_csv_crate_writes_is_read_as_it_was(
            row in prop::collection::vec("[a-z,\"\r\n é]{0,6}", 1..5),
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&row).expect("to memory");
            let text = String::from_utf8(writer.into_inner().expect("to memory")).expect("UTF-8");
            let fields = splits(&text, b',').expect("one row");
            prop_assert_eq!(fields.into_iter().map(|(text, _)| text).collect::<Vec<_>>(), row);
        }
    }
}
