//! What the user declared: topic files and models, checked as a whole before anything starts.
//!
//! Owns: the meaning of every key and clause, PostgreSQL types <-> Arrow types, all checking.
//! Does not own: reading the file system beyond [`load`], running anything.
//!
//! Every mistake is reported at once, each with file, line, what is wrong and what is allowed.
//! What leaves this stage is complete: later stages never ask whether a column exists.

pub mod model;
pub mod topic;
pub mod types;

mod sql;

pub use model::{
    Aggregate, Column, Key, Late, Merge, Model, ModelKind, Part, PartFunction, Role, Rows, Window,
};
pub use topic::{Format, LakeSpec, PartitionBy, PartitionFunction, Pii, Topic, TopicColumn};
pub use types::PgType;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

/// All topics and models, by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub topics: BTreeMap<Arc<str>, Arc<Topic>>,
    /// In order of name; each names a topic above.
    pub models: BTreeMap<Arc<str>, Arc<Model>>,
}

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
