//! A model's definition taken apart, so that one with columns more can be told from another one.
//!
//! Owns: what of a declaration a column more adds. Does not own: the declaration (`decompose`), what becomes of the
//! table (`warehouse::rebuild`), whose rows are made equal to a rebuild's either way: what is told here decides whether the
//! table stays the same one, never what it holds.

use super::{Model, Role, fingerprint::sha256};

/// Hexadecimal SHA-256 all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub fingerprint: String,
    /// Whatever is not said of single columns: topic, WHERE, GROUP BY, window, key.
    pub frame: String,
    /// One for each thing said of a column, sorted: of SELECT, of the topic's columns that it reads, of the table's.
    pub pieces: Vec<String>,
}

/// What a line of a declaration begins with that is not of a column.
const OF_FRAME: [&str; 10] = [
    "model ",
    "where ",
    "group by ",
    "refuse after ",
    "drop after ",
    "primary key ",
    "event time ",
    "left join ",
    "of changes by ",
    "CsvSpec",
];

impl Model {
    pub fn definition(&self) -> Definition {
        let is_of_frame = |line: &&str| OF_FRAME.iter().any(|begin| line.starts_with(begin));
        let (mut frame, columns): (Vec<&str>, Vec<&str>) =
            self.declaration.lines().partition(is_of_frame);
        // Tables beside its own follow these; they are made whole.
        let is_difference = |role: &Role| matches!(role, Role::Difference(_));
        let differs = self.columns.iter().any(|column| is_difference(&column.role));
        if self.folding.is_some() || differs {
            frame.push(&self.declaration);
        }
        let stored =
            self.columns.iter().map(|c| format!("column {} {} {:?}", c.name, c.pg, c.role));
        let mut pieces: Vec<String> = columns
            .into_iter()
            .map(str::to_owned)
            .chain(stored)
            .map(|line| sha256(&line))
            .collect();
        pieces.sort_unstable();
        Definition { fingerprint: self.fingerprint(), frame: sha256(&frame.join("\n")), pieces }
    }
}

impl Definition {
    /// Whether it says all that another one said, and of columns perhaps more.
    pub fn widens(&self, frame: &str, pieces: &[String]) -> bool {
        // Both are sorted: each of theirs is found behind the one before it.
        let mut ours = self.pieces.iter();
        self.frame == frame && pieces.iter().all(|piece| ours.any(|own| own == piece))
    }
}
