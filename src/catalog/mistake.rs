//! One thing wrong in a user's file, and the words that every such sentence shares.
//!
//! Owns: places (byte to line), suggestions, the rule for names. Does not own: what is right.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// One thing wrong in a user's file. Prints as `topics/taps.toml:7: what. Allowed: what is.`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// A file under examination, and what was found wrong in it so far.
pub(super) struct Page<'a> {
    pub file: PathBuf,
    pub text: &'a str,
    pub mistakes: Vec<Mistake>,
}

impl<'a> Page<'a> {
    pub fn new(file: &Path, text: &'a str) -> Self {
        Self { file: file.to_owned(), text, mistakes: Vec::new() }
    }

    /// A mistake on a line, counted from 1.
    pub fn line(&mut self, line: usize, what: impl Into<String>) {
        let (file, line) = (self.file.clone(), line.max(1));
        self.mistakes.push(Mistake { file, line, what: what.into() });
    }

    /// A mistake at a byte of the text.
    pub fn at(&mut self, byte: usize, what: impl Into<String>) {
        self.line(self.line_of(byte), what);
    }

    pub fn line_of(&self, byte: usize) -> usize {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        1 + before.iter().filter(|b| **b == b'\n').count()
    }

    pub fn last_line(&self) -> usize {
        self.text.lines().count().max(1)
    }
}

/// `` unknown column `taip_id`, did you mean `tap_id`? Allowed: … ``
pub(super) fn unknown(kind: &str, word: &str, allowed: &[&str]) -> String {
    let hint = match nearest(word, allowed) {
        Some(near) => format!(", did you mean `{near}`?"),
        None => ".".to_owned(),
    };
    format!("unknown {kind} `{word}`{hint} Allowed: {}", allowed.join(", "))
}

/// The allowed word that was probably meant: at most a third of its letters differ.
fn nearest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    allowed
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(d, candidate)| *d <= candidate.chars().count().max(word.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// PostgreSQL cuts identifiers off beyond this many bytes, without an error.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// PostgreSQL refuses these as columns: every table has them already.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// Names of topics, columns and models: lower-case snake_case, 63 bytes, not beginning with `_`.
pub(super) fn check_name(kind: &str, name: &str) -> Result<(), String> {
    if name.starts_with('_') {
        return Err(format!(
            "the {kind} `{name}` begins with `_`: such names are reserved (`_partition`, `_offset`, `_timestamp` and \
             hidden columns). Allowed: a letter first"
        ));
    }
    let snake = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !snake {
        let better = snake_case(name);
        let hint =
            if better.is_empty() { String::new() } else { format!(", for example `{better}`") };
        return Err(format!(
            "the {kind} `{name}` is not snake_case. Allowed: a lower-case letter, then a-z, 0-9 \
             and `_`{hint}"
        ));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "the {kind} `{name}` has {} bytes. Allowed: {NAME_BYTES_MAX}, the limit of PostgreSQL",
            name.len()
        ));
    }
    if SYSTEM_COLUMNS.contains(&name) {
        return Err(format!(
            "the {kind} `{name}` is PostgreSQL's own (every table has it). Allowed: any other \
             name than {}",
            SYSTEM_COLUMNS.join(", ")
        ));
    }
    Ok(())
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let mut after_small = false;
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            if c.is_ascii_uppercase() && after_small {
                out.push('_');
            }
            after_small = !c.is_ascii_uppercase();
            out.push(c.to_ascii_lowercase());
        } else {
            if !out.is_empty() && !out.ends_with('_') {
                out.push('_');
            }
            after_small = false;
        }
    }
    out.trim_matches(|c: char| c == '_' || c.is_ascii_digit()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_meant_is_suggested() {
        let allowed = ["max_disorder", "max_future", "columns"];
        assert_eq!(nearest("max_disoder", &allowed), Some("max_disorder"));
        assert_eq!(nearest("Colums", &allowed), Some("columns"));
        assert_eq!(nearest("zzz", &allowed), None);
        assert_eq!(
            unknown("key", "colums", &allowed),
            "unknown key `colums`, did you mean `columns`? Allowed: max_disorder, max_future, \
             columns"
        );
    }

    #[test]
    fn names_are_snake_case_and_a_better_one_is_offered() {
        assert_eq!(check_name("column", "tap_id2"), Ok(()));
        for (name, text) in [
            ("tapId", "for example `tap_id`"),
            ("Tap-ID", "for example `tap_id`"),
            ("2nd", "not snake_case"),
            ("", "not snake_case"),
            ("é", "not snake_case"),
            ("_offset", "reserved"),
            ("ctid", "PostgreSQL's own"),
            (&"a".repeat(64), "has 64 bytes"),
        ] {
            let error = check_name("column", name).unwrap_err();
            assert!(error.contains(text), "{name}: {error}");
        }
    }

    #[test]
    fn a_byte_is_on_the_line_that_holds_it() {
        let page = Page::new(Path::new("x"), "a\nb\n\nc");
        assert_eq!(
            [0, 1, 2, 4, 5, 99].map(|byte| page.line_of(byte)),
            [1, 1, 2, 3, 4, 4],
            "a newline belongs to the line it ends"
        );
    }
}
