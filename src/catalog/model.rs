//! A model: one SELECT over one topic, taken apart into what is kept and how it merges.
//!
//! The table of an aggregate holds *parts* (count, sum, min, max), which merge; what the user
//! selected beyond a bare part (avg, sums divided by counts) is a generated column over parts.
//!
//! Owns: what later stages know of a model. Does not own: how it is made (see `decompose`).
//!
//! Merging: `Add` of two NULLs is NULL (a sum of nothing), of one NULL the other; `Least` and
//! `Greatest` leave NULLs out. Text compares by its bytes everywhere (`COLLATE "C"` in PostgreSQL).
//! Sessions of a key that touch become one row, their parts merging the same way.
//! A NULL in a key is a key like any other (`NULLS NOT DISTINCT`), as GROUP BY has it.

use super::{Join, PgType, Shape, Window, fingerprint::sha256};
use arrow::datatypes::DataType;
use datafusion::logical_expr::Expr;
use std::{path::PathBuf, sync::Arc};

/// One `sql/models/NAME.sql`.
#[derive(Debug, Clone)]
pub struct Model {
    /// The view's name, equal to the file's stem; the table in PostgreSQL has it too.
    pub name: Arc<str>,
    pub file: PathBuf,
    pub topic: Arc<str>,
    /// What each record is looked up in.
    pub join: Option<Join>,
    /// WHERE, over the topic's schema and the reference's.
    pub filter: Option<Expr>,
    pub kind: ModelKind,
    /// Columns of the table in PostgreSQL, in order; see [`Role`].
    pub columns: Vec<Column>,
    /// Whatever decides the table's rows, as text; see [`Model::fingerprint`].
    pub declaration: String,
}

impl Model {
    /// Hexadecimal SHA-256 of the statement, freed of its layout, and of the declarations of the
    /// topic's columns that it reads. Another one means that the table must be rebuilt.
    pub fn fingerprint(&self) -> String {
        sha256(&self.declaration)
    }

    /// Whether its rows are sessions, which grow and join where windows else stand still.
    pub fn is_of_sessions(&self) -> bool {
        match &self.kind {
            ModelKind::Aggregate(Aggregate { window: Some(window), .. }) => {
                matches!(window.shape, Shape::Session { .. })
            }
            ModelKind::Aggregate(_) | ModelKind::Rows(_) => false,
        }
    }
}

#[derive(Debug, Clone)]
pub enum ModelKind {
    Aggregate(Aggregate),
    Rows(Rows),
}

/// GROUP BY.
#[derive(Debug, Clone)]
pub struct Aggregate {
    pub window: Option<Window>,
    /// Group keys without the window, in order of SELECT.
    pub keys: Vec<Key>,
    /// Distinct parts; several columns may share one.
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Taken, and counted as amended.
    Amend,
    /// Not taken; its fate is `late`.
    Drop,
}

#[derive(Debug, Clone)]
pub struct Key {
    pub name: String,
    /// Gives exactly `pg.arrow()`.
    pub expr: Expr,
    pub pg: PgType,
}

/// A mergeable aggregate. In a cut's delta it is one column named `name`.
#[derive(Debug, Clone)]
pub struct Part {
    pub name: String,
    pub function: PartFunction,
    /// None for `count(*)`. For sums already cast so that a cut cannot overflow: whole numbers
    /// up to 32 bits to Int64, bigint to Decimal128(38, 0), numeric(p,s) to Decimal128(38, s),
    /// real to Float64.
    pub arg: Option<Expr>,
    /// `FILTER (WHERE …)`.
    pub filter: Option<Expr>,
    /// Its column in the table. A sum of whole numbers is [`PgType::NumericAny`]: it never
    /// overflows, however long the stream.
    pub pg: PgType,
    /// What the function gives in a cut, and so the delta's column: Int64 for counts; Int64,
    /// Decimal128(38, s) or Float64 for sums; the argument's type for min and max.
    pub arrow: DataType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartFunction {
    Count,
    Sum,
    Min,
    Max,
}

/// No GROUP BY: rows, appended or, with a primary key, the latest per key by
/// (event time, partition, offset), which is a total order and so the same on every replay.
#[derive(Debug, Clone)]
pub struct Rows {
    /// One per selected column, in order of SELECT: the first `Model::columns`. Each gives exactly
    /// its column's `PgType::arrow()`.
    pub exprs: Vec<Expr>,
    /// Indexes in `exprs`; empty: append, each row known by (`_partition`, `_offset`).
    pub primary_key: Vec<usize>,
}

/// A column of the model's table in PostgreSQL.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub pg: PgType,
    pub role: Role,
}

/// What a column is for. All but `Derived` travel in the delta, under the column's name.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    WindowStart,
    WindowEnd,
    /// Part of the table's key.
    Key,
    /// Merges so when the key is there already.
    Part(Merge),
    /// GENERATED ALWAYS AS (this PostgreSQL expression over parts) STORED.
    Derived(String),
    /// A plain value of a row model, outside its key.
    Value,
    /// `_event_time`, `_partition`, `_offset` of a row model: which row is the latest.
    Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    Add,
    Least,
    Greatest,
}
