//! A table in PostgreSQL, as deltas make it: the merge of `warehouse`, one row at a time.

use super::{Value, values};
use crate::catalog::{Merge, Model, ModelKind, Role};
use arrow::array::RecordBatch;
use std::collections::{BTreeMap, btree_map::Entry};

/// Rows by key; a row is its columns in order, without the generated ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merged(pub BTreeMap<Vec<Value>, Vec<Value>>);

impl Merged {
    /// Merges a cut's delta, whose keys must ascend strictly.
    pub fn apply(&mut self, model: &Model, delta: &RecordBatch) {
        let columns: Vec<_> =
            model.columns.iter().filter(|c| !matches!(c.role, Role::Derived(_))).collect();
        assert_eq!(
            delta.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        );
        let mut last: Option<Vec<Value>> = None;
        for row in values(delta) {
            let key = key_of(model, &row);
            assert!(last.as_ref().is_none_or(|last| *last < key), "{last:?} then {key:?}");
            last = Some(key.clone());
            if model.is_of_sessions() {
                self.join(model, row);
                continue;
            }
            let mut stored = match self.0.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(row);
                    continue;
                }
                Entry::Occupied(entry) => entry,
            };
            match &model.kind {
                ModelKind::Aggregate(_) => {
                    for (index, column) in columns.iter().enumerate() {
                        let Role::Part(merge) = &column.role else { continue };
                        let stored = &mut stored.get_mut()[index];
                        *stored = merged(*merge, stored, &row[index]);
                    }
                }
                ModelKind::Rows(rows) => {
                    assert!(!rows.primary_key.is_empty(), "appended twice: {row:?}");
                    let place = |row: &[Value]| row[row.len() - 3..].to_vec();
                    if place(&row) > place(stored.get()) {
                        stored.insert(row);
                    }
                }
            }
        }
    }
}

impl Merged {
    /// Takes out the stored sessions that touch this one, and puts one row for all.
    fn join(&mut self, model: &Model, mut session: Vec<Value>) {
        let columns = model.columns.iter().filter(|c| !matches!(c.role, Role::Derived(_)));
        let roles: Vec<_> = columns.map(|c| &c.role).collect();
        let of = |role: Role| roles.iter().position(|r| **r == role).expect("a window's column");
        let (start, end) = (of(Role::WindowStart), of(Role::WindowEnd));
        let new = session.clone();
        let touches = |row: &Vec<Value>| {
            let same = |i: usize| *roles[i] != Role::Key || row[i] == new[i];
            (0..roles.len()).all(same) && row[start] <= new[end] && new[start] <= row[end]
        };
        let touched: Vec<_> =
            self.0.iter().filter(|(_, row)| touches(row)).map(|(key, _)| key.clone()).collect();
        for key in touched {
            let stored = self.0.remove(&key).expect("it was just there");
            for (index, role) in roles.iter().enumerate() {
                let merge = match role {
                    Role::WindowStart => Merge::Least,
                    Role::WindowEnd => Merge::Greatest,
                    Role::Part(merge) => *merge,
                    Role::Key | Role::Derived(_) | Role::Value | Role::Position => continue,
                };
                session[index] = merged(merge, &session[index], &stored[index]);
            }
        }
        self.0.insert(key_of(model, &session), session);
    }
}

/// In the order that deltas are sorted by: windows and keys as GROUP BY sorts them, positions.
fn key_of(model: &Model, row: &[Value]) -> Vec<Value> {
    let indexes: Vec<usize> = match &model.kind {
        ModelKind::Aggregate(_) => {
            let columns = model.columns.iter().filter(|c| !matches!(c.role, Role::Derived(_)));
            let roles: Vec<_> = columns.map(|c| &c.role).collect();
            let of = |role: Role| (0..roles.len()).filter(move |i| *roles[*i] == role);
            let window = of.clone()(Role::WindowStart);
            window.chain(of(Role::Key)).collect()
        }
        ModelKind::Rows(rows) if rows.primary_key.is_empty() => vec![row.len() - 2, row.len() - 1],
        ModelKind::Rows(rows) => rows.primary_key.clone(),
    };
    indexes.into_iter().map(|i| row[i].clone()).collect()
}

fn merged(merge: Merge, stored: &Value, new: &Value) -> Value {
    match (stored, new) {
        (Value::Null, other) | (other, Value::Null) => other.clone(),
        (a, b) => match merge {
            Merge::Add => add(a, b),
            Merge::Least => {
                if less(b, a) {
                    b.clone()
                } else {
                    a.clone()
                }
            }
            Merge::Greatest => {
                if less(a, b) {
                    b.clone()
                } else {
                    a.clone()
                }
            }
        },
    }
}

pub fn add(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a + b),
        (Value::Double(a), Value::Double(b)) => {
            Value::Double((f64::from_bits(*a) + f64::from_bits(*b)).to_bits())
        }
        other => panic!("no sum of {other:?}"),
    }
}

pub fn less(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => f64::from_bits(*a) < f64::from_bits(*b),
        (a, b) => a < b,
    }
}
