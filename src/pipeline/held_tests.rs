//! What waits for its verdict, taken off piece by piece.

use super::*;
use arrow::{
    array::{AsArray, Int64Array},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use std::sync::Arc;

/// Offset 10 to 17: 11 says nothing of a row, 13 is refused, 15 is not there.
fn run() -> Run {
    let good = vec![10i64, 12, 14, 16, 17];
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    let rows =
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(good.clone()))]);
    let refused = DeadLetter {
        output: Output::DeadLetters,
        partition: Partition(0),
        offset: 13,
        timestamp: EventTime(0),
        class: "malformed",
        column: None,
        reason: String::new(),
        raw: None,
        refused_by: vec![(Output::Lake, None)],
    };
    Run {
        offsets: vec![10, 11, 12, 13, 14, 16, 17],
        refused: vec![refused],
        empty: vec![11],
        event_times: good.iter().map(|offset| EventTime(offset * 100)).collect(),
        good,
        rows: rows.expect("rows"),
        bytes: 700,
    }
}

/// Each piece whole, and together all of it.
#[test]
fn what_is_taken_off_has_its_own_rows_letters_and_records_without_a_row() {
    for first in 9..=19 {
        for second in first..=19 {
            let mut held = Held::default();
            held.add(Partition(0), run());
            let mut passed = Vec::new();
            for to in [first, second, 19] {
                for piece in held.take(Partition(0), Offset(to)) {
                    assert!(piece.offsets.iter().all(|offset| *offset < to), "{to}");
                    let fates = piece.good.len() + piece.refused.len() + piece.empty.len();
                    assert_eq!(fates, piece.offsets.len(), "C-2");
                    let values = piece.rows.column(0).as_primitive::<Int64Type>().values();
                    assert_eq!(values.as_ref(), piece.good);
                    let times: Vec<_> = piece.event_times.iter().map(|t| t.0 / 100).collect();
                    assert_eq!(times, piece.good);
                    passed.extend(piece.offsets);
                }
                assert!(held.runs[&Partition(0)].iter().all(|run| run.offsets[0] >= to));
            }
            assert_eq!(passed, run().offsets, "{first} {second}");
            assert_eq!(held.bytes(), 0);
        }
    }
}

#[test]
fn what_nobody_waits_for_is_not_held() {
    let mut held = Held::default();
    held.add(Partition(0), run());
    held.add(Partition(1), run());
    assert!(held.take(Partition(2), Offset(99)).is_empty());
    held.forget(Partition(0));
    assert_eq!(held.bytes(), 700);
    assert!(held.take(Partition(0), Offset(99)).is_empty());
    held.clear();
    assert_eq!(held.bytes(), 0);
}
