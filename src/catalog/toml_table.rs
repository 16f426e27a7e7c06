//! A TOML table as a user's file: keys in order, each with its place, each value of a wanted kind.
//!
//! Owns: what is said of a missing, unknown or wrongly typed key. Does not own: which keys there are.

use super::mistake::unknown;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Byte of the text, and what is wrong there.
pub(super) type Found = Vec<(usize, String)>;

/// A TOML table with the place of its keys, in order of the file.
pub(super) struct Table<'t> {
    /// What the table is called in messages; empty for the file itself.
    name: &'t str,
    pub byte: usize,
    pub rows: Vec<Row<'t>>,
}

pub(super) struct Row<'t> {
    pub key: &'t str,
    pub byte: usize,
    pub value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Table<'t> {
    pub fn new(name: &'t str, byte: usize, table: &'t DeTable<'t>) -> Self {
        let mut rows: Vec<Row<'t>> = table
            .iter()
            .map(|(key, value)| Row { key: key.get_ref(), byte: key.span().start, value })
            .collect();
        rows.sort_by_key(|row| row.byte);
        Self { name, byte, rows }
    }

    pub fn row(&self, key: &str) -> Option<&Row<'t>> {
        self.rows.iter().find(|row| row.key == key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.row(key).is_some()
    }

    /// Where the key stands; without it, where the table does.
    pub fn byte(&self, key: &str) -> usize {
        self.row(key).map_or(self.byte, |row| row.byte)
    }

    fn called(&self, key: &str) -> String {
        match self.name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }

    pub fn only(&self, allowed: &[&str], found: &mut Found) {
        for row in &self.rows {
            if !allowed.contains(&row.key) {
                found.push((row.byte, unknown("key", &self.called(row.key), allowed)));
            }
        }
    }

    /// The value under a key, by `pick`; anything else is a mistake.
    fn value<T>(
        &self,
        key: &str,
        wanted: &str,
        pick: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
        found: &mut Found,
    ) -> Option<T> {
        let row = self.row(key)?;
        let value = pick(row.value.get_ref());
        if value.is_none() {
            found.push((
                row.byte,
                format!(
                    "`{}` is a TOML {}. Allowed: {wanted}",
                    self.called(key),
                    row.value.get_ref().type_str()
                ),
            ));
        }
        value
    }

    pub fn text(&self, key: &str, found: &mut Found) -> Option<String> {
        self.value(key, "a \"text\"", |v| v.as_str().map(str::to_owned), found)
    }

    pub fn required_text(&self, key: &str, meaning: &str, found: &mut Found) -> Option<String> {
        if !self.has(key) {
            found.push((
                self.byte,
                format!("the key `{}` is missing. Allowed: {key} = {meaning}", self.called(key)),
            ));
        }
        self.text(key, found)
    }

    pub fn boolean(&self, key: &str, found: &mut Found) -> Option<bool> {
        self.value(key, "true or false", DeValue::as_bool, found)
    }

    pub fn table(&self, key: &'t str, found: &mut Found) -> Option<Table<'t>> {
        let byte = self.byte(key);
        let table = self.value(key, "a table", DeValue::as_table, found)?;
        Some(Table::new(key, byte, table))
    }

    pub fn parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        found: &mut Found,
    ) -> Option<T> {
        let text = self.text(key, found)?;
        parse(&text)
            .map_err(|what| found.push((self.byte(key), format!("`{}`: {what}", self.called(key)))))
            .ok()
    }

    pub fn texts(&self, key: &str, found: &mut Found) -> Option<Vec<(usize, String)>> {
        let items = self.value(key, "a list of \"text\"", DeValue::as_array, found)?;
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((item.span().start, text.to_owned())),
                None => found.push((
                    item.span().start,
                    format!(
                        "`{}` has a TOML {}. Allowed: a list of \"text\"",
                        self.called(key),
                        item.get_ref().type_str()
                    ),
                )),
            }
        }
        Some(texts)
    }
}
