//! A model: one SELECT over one topic, taken apart into what is kept and how it merges.
//!
//! The table of an aggregate holds *parts* (count, sum, min, the row that is last, …), which merge;
//! what the user selected beyond a bare part (avg, stddev, sums divided by counts) is a generated
//! column over parts.
//!
//! Owns: what later stages know of a model. Does not own: how it is made (see `decompose`).
//!
//! Merging: `Add` of two NULLs is NULL (a sum of nothing), of one NULL the other; `Least` and
//! `Greatest` leave NULLs out. Text compares by its bytes everywhere (`COLLATE "C"` in PostgreSQL).
//! Sessions of a key that touch become one row, their parts merging the same way.
//! A NULL in a key is a key like any other (`NULLS NOT DISTINCT`), as GROUP BY has it.

use super::{Folding, Join, PgType, Shape, Window, fingerprint::sha256};
use arrow::datatypes::DataType;
use datafusion_expr::Expr;
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
    /// Over a topic of changes: how it keeps the source's rows.
    pub folding: Option<Folding>,
    /// Whatever decides the table's rows, as text; see [`Model::fingerprint`].
    pub declaration: String,
}

impl Model {
    /// Hexadecimal SHA-256 of the statement, freed of its layout, and of the declarations of the
    /// topic's columns that it reads. Another one means that the table must be rebuilt.
    pub fn fingerprint(&self) -> String {
        sha256(&self.declaration)
    }

    pub fn window(&self) -> Option<&Window> {
        match &self.kind {
            ModelKind::Aggregate(aggregate) => aggregate.window.as_ref(),
            ModelKind::Rows(_) => None,
        }
    }

    /// Name of the view of the windows that are final, where the model has windows.
    pub fn final_view(&self) -> String {
        format!("{}_final", self.name)
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
    /// Refused by the model, with the window and the watermark as the reason; its fate is `dead`.
    DeadLetter,
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

/// A mergeable aggregate: what a cut keeps per key in one or more columns of the table, and how two
/// rows of the same key become one (each column's [`Merge`]).
#[derive(Debug, Clone)]
pub struct Part {
    pub function: PartFunction,
    /// In order; none for `count(*)`. For sums already cast so that a cut cannot overflow: whole
    /// numbers up to 32 bits to Int64, bigint to Decimal128(38, 0), numeric(p,s) to
    /// Decimal128(38, s), squares to Decimal256(76, 2s), real to Float64.
    pub args: Vec<Expr>,
    /// `FILTER (WHERE …)`.
    pub filter: Option<Expr>,
    /// At least one; see [`PartFunction`] for which.
    pub columns: Vec<PartColumn>,
}

impl Part {
    /// Of its first column.
    pub fn name(&self) -> &str {
        &self.columns[0].name
    }
}

/// A column of a part, in the table and in a cut's delta.
#[derive(Debug, Clone)]
pub struct PartColumn {
    pub name: String,
    /// In the table. A sum of whole numbers is [`PgType::NumericAny`]: it never overflows, however
    /// long the stream.
    pub pg: PgType,
    /// In the delta: Int64 for counts; Int64, a decimal or Float64 for sums; what carries `pg` else.
    pub arrow: DataType,
    pub merge: Merge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartFunction {
    Count,
    Sum,
    Min,
    Max,
    /// `bool_and`: the least of booleans.
    And,
    /// `bool_or`: the greatest.
    Or,
    /// How many values of this type there are. The values themselves are in a table of their own, see
    /// [`Aggregate::sets`]; a delta holds zeros here.
    CountDistinct(PgType),
    /// Of doubles: count, mean, and the sum of squared differences from the mean.
    Moments,
    /// The first argument of one row: value, perhaps what it was chosen by, event time, partition,
    /// offset; NULL where no row was there to choose from.
    Pick(Pick),
    /// One column of bytes; what is read off it stands in columns of [`Role::Estimate`].
    Sketch(SketchKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SketchKind {
    /// HyperLogLog of Apache DataSketches, 2^12 registers.
    Distinct,
    /// DDSketch, within 1 % of the value.
    Quantiles,
}

/// What is read off a sketch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimate {
    Distinct,
    /// From 0 to 1.
    Quantile(f64),
}

/// Which row is chosen. Rows whose second argument is NULL are not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pick {
    First,
    Last,
    /// The earliest of those with the least second argument.
    LeastBy,
    GreatestBy,
}

impl Pick {
    /// Whether a second argument decides before the place does.
    pub fn by(self) -> Option<Extreme> {
        match self {
            Self::First | Self::Last => None,
            Self::LeastBy => Some(Extreme::Least),
            Self::GreatestBy => Some(Extreme::Greatest),
        }
    }

    /// Which place wins: (event time, partition, offset), which no two rows share.
    pub fn place(self) -> Extreme {
        match self {
            Self::First | Self::LeastBy | Self::GreatestBy => Extreme::Least,
            Self::Last => Extreme::Greatest,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extreme {
    Least,
    Greatest,
}

/// A table beside the model's: the distinct values of each key, for one `count(DISTINCT …)`.
#[derive(Debug, Clone, Copy)]
pub struct ValueSet<'m> {
    /// The column that counts them; the table is called `MODEL__COLUMN`.
    pub column: &'m str,
    pub pg: PgType,
}

impl ValueSet<'_> {
    pub fn table(model: &str, column: &str) -> String {
        format!("{model}__{column}")
    }
}

impl Aggregate {
    /// One per `count(DISTINCT …)`, in order of parts.
    pub fn sets(&self) -> impl Iterator<Item = ValueSet<'_>> {
        self.parts.iter().filter_map(|part| match part.function {
            PartFunction::CountDistinct(pg) => Some(ValueSet { column: part.name(), pg }),
            _ => None,
        })
    }
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

impl Role {
    /// Whether a cut's delta has the column.
    pub fn travels(&self) -> bool {
        match self {
            Self::Derived(_) | Self::Difference(_) => false,
            Self::WindowStart
            | Self::WindowEnd
            | Self::Key
            | Self::Part(_)
            | Self::Estimate(..)
            | Self::Value
            | Self::Position => true,
        }
    }
}

/// What a column is for. All but `Derived` and `Difference` travel in the delta, under the column's
/// name.
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
    /// The last value of a counter in its window (in this column) minus the last value in the window
    /// before of the same key that has one; the value itself in the first window. It does not
    /// travel: which window is the one before is known where the rows are.
    Difference(String),
    /// Read off the sketch in this column, wherever that changes.
    Estimate(String, Estimate),
    /// A plain value of a row model, outside its key.
    Value,
    /// `_event_time`, `_partition`, `_offset` of a row model: which row is the latest.
    Position,
}

/// How a column of two rows of the same key becomes one. The SQL of it is in `warehouse::merging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    Add,
    Least,
    Greatest,
    /// The value in the row that wins by these columns.
    Win(Arc<Rank>),
    /// The mean of both, weighed by their counts.
    Mean(Arc<Moments>),
    /// The sum of squared differences from the mean, by Chan, Golub and LeVeque.
    SquaredDifferences(Arc<Moments>),
    /// Not in SQL: what is stored is read, and united in the process (`compute::sketch`).
    Sketch(SketchKind),
}

/// Columns that say which of two rows wins; all NULL where there is nothing to win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    pub by: Option<(String, Extreme)>,
    /// Event time, partition, offset.
    pub place: [String; 3],
    pub wins: Extreme,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moments {
    pub count: String,
    pub mean: String,
    pub squares: String,
}
