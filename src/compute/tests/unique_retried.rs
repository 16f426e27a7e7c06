//! The judge of retried records.

use super::*;
use crate::compute::unique::{
    Key, Verdicts,
    retried::{Earlier, Held, Record, judge},
};
use std::time::Duration;

fn record(offset: i64, key: u128, second: i64, earlier: Earlier) -> Record {
    let event_time = EventTime(second * 1_000_000);
    Record { partition: Partition(0), offset, event_time, key: Key(key), earlier }
}

/// `within` of a minute, no disorder; partition 0 has come to this second.
fn verdicts(records: &[Record], held: &[u128], reached: i64) -> (Verdicts, Vec<bool>) {
    let held = Held { keys: held.iter().map(|key| Key(*key)).collect(), known_to: 7 };
    let reached = [(Partition(0), EventTime(reached * 1_000_000))].into();
    judge(records, &held, &reached, (Duration::from_secs(60), Duration::ZERO))
}

fn offsets((verdicts, _): &(Verdicts, Vec<bool>)) -> (Vec<i64>, Vec<i64>) {
    let taken = verdicts.keys.iter().map(|key| key.offset).collect();
    (taken, verdicts.duplicates.iter().map(|duplicate| duplicate.offset).collect())
}

#[test]
fn the_first_of_a_batch_takes_its_key_and_what_is_held_is_a_duplicate() {
    let none = Earlier::None;
    let records = [
        record(4, 1, 100, none),
        record(5, 2, 100, none),
        record(6, 1, 101, none),
        record(7, 3, 90, none),
    ];
    let found = verdicts(&records, &[3], 120);
    assert_eq!(found.1, [false, false, true, true]);
    assert_eq!(found.0.known_to, 7);
    assert_eq!(offsets(&found), (vec![4, 5], vec![6, 7]));
    assert_eq!(found.0.duplicates[1].event_time, EventTime(90_000_000));
}

#[test]
fn a_key_that_the_partition_has_left_behind_is_taken_again_and_written_once() {
    let records = [record(4, 1, 100, Earlier::None), record(6, 1, 130, Earlier::None)];
    let at = verdicts(&records, &[], 160);
    assert_eq!((at.1.as_slice(), offsets(&at)), (&[false, false][..], (vec![6], vec![])));
    let before = verdicts(&records, &[], 159);
    assert_eq!(offsets(&before), (vec![4], vec![6]));
}

#[test]
fn a_verdict_that_was_given_is_believed() {
    let records = [record(4, 1, 100, Earlier::Taken), record(5, 2, 100, Earlier::Taken)];
    let found = verdicts(&records, &[1], 120);
    assert_eq!((found.1.as_slice(), offsets(&found)), (&[false, false][..], (vec![5], vec![])));
    let found = verdicts(&[record(4, 1, 100, Earlier::Judged)], &[1], 120);
    assert_eq!((found.1.as_slice(), offsets(&found)), (&[false][..], (vec![], vec![])));
}

#[test]
fn a_verdict_is_open_where_decode_refused_the_record_to_all_that_passed_it() {
    let model = || Output::Model("m".into());
    let passed = [
        (Output::DeadLetters, Offset(0), Offset(20)),
        (Output::Lake, Offset(0), Offset(20)),
        (model(), Offset(10), Offset(20)),
    ];
    let earlier =
        |offset, refused_by: &[Output]| Earlier::of(passed.iter().cloned(), offset, refused_by);
    let both = [Output::DeadLetters, Output::Lake];
    assert_eq!(earlier(5, &both), Earlier::None, "the model began behind it");
    assert_eq!(earlier(10, &both), Earlier::Taken, "the model has it");
    assert_eq!(earlier(10, &[Output::DeadLetters, Output::Lake, model()]), Earlier::None);
    assert_eq!(earlier(10, &[model()]), Earlier::Judged);
    assert_eq!(earlier(10, &[Output::Lake]), Earlier::Judged);
}
