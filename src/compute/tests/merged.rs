//! A table in PostgreSQL, as deltas make it: the merge of `warehouse`, one row at a time.

use super::{Value, values};
use crate::{
    catalog::{Column, Extreme, Merge, Model, ModelKind, Rank, Role},
    compute::Delta,
};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// Rows by key; a row is its columns in order, without the generated ones. Then the values counted
/// by `count(DISTINCT …)`: which of the model's sets, key and value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merged(pub BTreeMap<Vec<Value>, Vec<Value>>, pub BTreeSet<(usize, Vec<Value>)>);

impl Merged {
    /// Merges a cut's delta, whose keys must ascend strictly.
    pub fn apply(&mut self, model: &Model, delta: &Delta) {
        self.upsert(model, delta);
        let ModelKind::Aggregate(aggregate) = &model.kind else { return };
        assert_eq!(delta.sets.len(), aggregate.sets().count());
        for (set, (counted, pairs)) in aggregate.sets().zip(&delta.sets).enumerate() {
            let column = delta.rows.schema().index_of(counted.column).expect("the count's column");
            let mut last: Option<Vec<Value>> = None;
            for pair in values(pairs) {
                assert!(last.as_ref().is_none_or(|last| *last < pair), "{last:?} then {pair:?}");
                last = Some(pair.clone());
                let key = pair[..pair.len() - 1].to_vec();
                if self.1.insert((set, pair)) {
                    let row = self.0.get_mut(&key).expect("a key of a value is one of a row");
                    row[column] = add(&row[column], &Value::Int(1));
                }
            }
        }
    }

    fn upsert(&mut self, model: &Model, delta: &Delta) {
        let delta = &delta.rows;
        let columns: Vec<_> = model.columns.iter().filter(|c| c.role.travels()).collect();
        let named: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            delta.schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            named,
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
                    let both = merged_row(&columns, stored.get(), &row);
                    stored.insert(both);
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
        let columns: Vec<_> = model.columns.iter().filter(|c| c.role.travels()).collect();
        let roles: Vec<_> = columns.iter().map(|c| &c.role).collect();
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
            let mut both = merged_row(&columns, &stored, &session);
            both[start] = merged(&Merge::Least, &stored[start], &session[start]);
            both[end] = merged(&Merge::Greatest, &stored[end], &session[end]);
            session = both;
        }
        self.0.insert(key_of(model, &session), session);
    }
}

/// Two rows as one: by the first where nothing says how.
fn merged_row(columns: &[&Column], a: &[Value], b: &[Value]) -> Vec<Value> {
    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    let one = |(index, column): (usize, &&Column)| match &column.role {
        Role::Part(Merge::Win(rank)) if wins(rank, &names, a, b) => b[index].clone(),
        Role::Part(Merge::Win(_)) => a[index].clone(),
        Role::Part(merge) => merged(merge, &a[index], &b[index]),
        _ => a[index].clone(),
    };
    columns.iter().enumerate().map(one).collect()
}

/// In the order that deltas are sorted by: windows and keys as GROUP BY sorts them, positions.
fn key_of(model: &Model, row: &[Value]) -> Vec<Value> {
    let indexes: Vec<usize> = match &model.kind {
        ModelKind::Aggregate(_) => {
            let columns = model.columns.iter().filter(|c| c.role.travels());
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

/// Whether what the new row has chosen wins over what is stored.
fn wins(rank: &Rank, names: &[&str], stored: &[Value], new: &[Value]) -> bool {
    let column = |name: &String| names.iter().position(|n| n == name).expect("a column");
    let place = |row: &[Value]| rank.place.each_ref().map(|name| row[column(name)].clone());
    let (stored_place, new_place) = (place(stored), place(new));
    if stored_place[0] == Value::Null || new_place[0] == Value::Null {
        return stored_place[0] == Value::Null;
    }
    if let Some((by, extreme)) = &rank.by {
        let (a, b) = (&stored[column(by)], &new[column(by)]);
        match extreme {
            Extreme::Least if less(b, a) => return true,
            Extreme::Greatest if less(a, b) => return true,
            _ if less(a, b) || less(b, a) => return false,
            _ => {}
        }
    }
    match rank.wins {
        Extreme::Least => new_place < stored_place,
        Extreme::Greatest => new_place > stored_place,
    }
}

fn merged(merge: &Merge, stored: &Value, new: &Value) -> Value {
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
            Merge::Win(_) | Merge::Mean(_) | Merge::SquaredDifferences(_) | Merge::Sketch(_) => {
                panic!("merges with its neighbours: {merge:?}")
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
