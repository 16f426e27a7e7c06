//! Rows into groups: as a map of their keys says.

use crate::compute::groups::Groups;
use arrow::{
    array::{ArrayRef, AsArray, Float64Array, StringArray},
    datatypes::{DataType, Field, Float64Type, Schema},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

type Key = (Option<&'static str>, Option<f64>);

/// Keys that look alike: NULL beside what is empty or zero, one the beginning of another, in both orders.
fn keys() -> impl Strategy<Value = Vec<Vec<Key>>> {
    let text = prop::sample::select(vec![None, Some(""), Some("a"), Some("ab"), Some("b")]);
    let numbers = vec![None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(-f64::NAN), Some(1.5)];
    let number = prop::sample::select(numbers);
    prop::collection::vec(prop::collection::vec((text, number), 0..40), 1..5)
}

/// What PostgreSQL takes for equal is one text.
fn text(number: Option<f64>) -> Option<String> {
    number.map(|n| (if n == 0.0 { 0.0 } else { n }).to_string())
}

fn columns(batch: &[Key]) -> [ArrayRef; 2] {
    let texts: StringArray = batch.iter().map(|key| key.0).collect();
    let numbers: Float64Array = batch.iter().map(|key| key.1).collect();
    [Arc::new(texts), Arc::new(numbers)]
}

proptest! {
    #[test]
    fn equal_keys_are_one_group_and_groups_are_numbered_as_they_come(batches in keys()) {
        let fields = [("text", DataType::Utf8), ("number", DataType::Float64)];
        let fields = fields.map(|(name, of)| Field::new(name, of, true));
        let mut groups = Groups::new(&Schema::new(fields.to_vec())).unwrap();
        // Twice: what was taken is forgotten.
        for _ in 0..2 {
            let mut known = BTreeMap::new();
            let mut first = Vec::new();
            let mut found = vec![7; 3];
            for batch in &batches {
                groups.intern(&columns(batch), &mut found).unwrap();
                let wanted = batch.iter().map(|key| {
                    let next = known.len();
                    *known.entry((key.0, text(key.1))).or_insert_with(|| {
                        first.push(*key);
                        next
                    })
                });
                prop_assert_eq!(&found, &wanted.collect::<Vec<_>>());
            }
            prop_assert_eq!(groups.len(), known.len());
            prop_assert_eq!(groups.is_empty(), known.is_empty());
            let taken = groups.take().unwrap();
            let texts: Vec<_> = taken[0].as_string::<i32>().iter().collect();
            prop_assert_eq!(texts, first.iter().map(|key| key.0).collect::<Vec<_>>());
            let numbers = taken[1].as_primitive::<Float64Type>().iter();
            let wanted: Vec<_> = first.iter().map(|key| text(key.1)).collect();
            prop_assert_eq!(numbers.map(|n| n.map(|n| n.to_string())).collect::<Vec<_>>(), wanted);
            prop_assert!(groups.is_empty());
        }
    }
}
