//! How two rows of one key become one, in PostgreSQL's words.
//!
//! Owns: the expression of each [`Merge`]. It is symmetric (but for the last bits of doubles), so a
//! delta may meet a stored row, or one stored row another. Sketches are united beforehand, by
//! `sketches`. Does not own: the statement around it.
//!
//! A merge must not fail for any value: the cut could never be committed. PostgreSQL refuses doubles
//! that leave their range, upwards or downwards; `compute::aggregate` gives moments that cannot.

use super::tables::quoted;
use crate::catalog::{Extreme, Merge, Moments, Rank};

/// Below this a difference of means changes nothing that a double keeps, and its square underflows.
const DIFFERENCE_MIN: &str = "1e-140";

/// The column's value after rows `a` and `b` (aliases) have become one.
pub fn merged(column: &str, merge: &Merge, a: &str, b: &str) -> String {
    let (x, y) = (field(a, column), field(b, column));
    match merge {
        // A sum over nothing is NULL, and NULL plus a number would be NULL.
        Merge::Add => format!("coalesce({x} + {y}, {x}, {y})"),
        // Both ignore NULLs, as min and max do.
        Merge::Least => format!("least({x}, {y})"),
        Merge::Greatest => format!("greatest({x}, {y})"),
        Merge::Win(rank) => format!("CASE WHEN {} THEN {y} ELSE {x} END", wins(rank, a, b)),
        // `b` is what both have become, in the process.
        Merge::Sketch(_) => y,
        Merge::Mean(moments) => {
            let m = Two::of(moments, a, b);
            let (n, both, difference) = (&m.counts[1], m.both(), m.difference());
            let moved = format!("{x} + {difference} * ({n}::double precision / {both})");
            let kept = format!("abs({difference}) < {DIFFERENCE_MIN}");
            m.unless_empty(&x, &y, &format!("CASE WHEN {kept} THEN {x} ELSE {moved} END"))
        }
        Merge::SquaredDifferences(moments) => {
            let m = Two::of(moments, a, b);
            let (both, difference) = (m.both(), m.difference());
            let [n, k] = &m.counts;
            let between =
                format!("{difference} * {difference} * ({n}::double precision * {k} / {both})");
            let none = format!("abs({difference}) < {DIFFERENCE_MIN}");
            let sum = format!("{x} + {y} + CASE WHEN {none} THEN 0 ELSE {between} END");
            m.unless_empty(&x, &y, &sum)
        }
    }
}

fn field(table: &str, column: &str) -> String {
    format!("{table}.{}", quoted(column))
}

/// Whether the columns of `b` win; NULL against NULL it does not matter.
fn wins(rank: &Rank, a: &str, b: &str) -> String {
    let sign = |extreme| match extreme {
        Extreme::Least => "<",
        Extreme::Greatest => ">",
    };
    let place = |table| {
        let fields: Vec<_> = rank.place.iter().map(|name| field(table, name)).collect();
        format!("({})", fields.join(", "))
    };
    let place = format!("{} {} {}", place(b), sign(rank.wins), place(a));
    let better = match &rank.by {
        None => place,
        Some((by, extreme)) => {
            let (x, y) = (field(a, by), field(b, by));
            format!("{y} {} {x} OR {y} = {x} AND {place}", sign(*extreme))
        }
    };
    // The comparison is NULL where one side chose nothing.
    format!("coalesce({better}, {} IS NULL)", field(a, &rank.place[0]))
}

/// The moments of two rows.
struct Two {
    counts: [String; 2],
    means: [String; 2],
}

impl Two {
    fn of(moments: &Moments, a: &str, b: &str) -> Self {
        Self {
            counts: [field(a, &moments.count), field(b, &moments.count)],
            means: [field(a, &moments.mean), field(b, &moments.mean)],
        }
    }

    fn both(&self) -> String {
        format!("({} + {})", self.counts[0], self.counts[1])
    }

    fn difference(&self) -> String {
        format!("({} - {})", self.means[1], self.means[0])
    }

    /// A row that has counted nothing leaves the other as it is.
    fn unless_empty(&self, x: &str, y: &str, both: &str) -> String {
        let [n, k] = &self.counts;
        format!("CASE WHEN {k} = 0 THEN {x} WHEN {n} = 0 THEN {y} ELSE {both} END")
    }
}
