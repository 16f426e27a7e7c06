//! Keys and verdicts in PostgreSQL: U-1 to U-3 where two processes meet.

use super::*;
use crate::{
    compute::unique::{Duplicate, Key, NewKey, Verdicts},
    error::Kind,
    record::gap::{Gap, PartitionLog, Reason},
};

const LETTERS: Output = Output::DeadLetters;

fn key(key: u128, partition: i32, offset: i64, forget_at: i64) -> NewKey {
    let (partition, forget_at) = (Partition(partition), EventTime(forget_at));
    NewKey { key: Key(key), partition, offset, forget_at }
}

/// A cut of the judge: `count` offsets of a partition, up to an event time. It knows nothing.
fn judged(mark: &Mark, partition: i32, count: u64, reached: i64, keys: Vec<NewKey>) -> Cut {
    let mut advance = advance(&LETTERS, partition, mark, count);
    advance.event_time_max = Some(EventTime(reached));
    advance.fates = Fates { filtered: count, ..Fates::default() };
    cut(vec![advance], vec![Yield::Verdicts(Verdicts { keys, ..Verdicts::default() })])
}

fn moved(mark: &Mark, count: i64) -> Mark {
    Mark { next: Offset(mark.next.0 + count), ..*mark }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_once_until_its_partition_has_come_past_it() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let first = take_one(warehouse, &LETTERS, 0).await;
    let second = take_one(warehouse, &LETTERS, 1).await;
    let keys = vec![key(1, 0, 0, 500), key(2, 0, 1, 900)];
    warehouse.commit(&judged(&first, 0, 2, 100, keys)).await.unwrap();
    // U-1: the other process did not know, and nothing of its cut is left.
    let refused = judged(&second, 1, 3, 5_000, vec![key(1, 1, 0, 700), key(3, 1, 1, 700)]);
    let error = warehouse.commit(&refused).await.unwrap_err();
    assert_eq!(error.kind, Kind::Retry);
    assert!(error.context.contains("taken 1 of its 2 keys"), "{error}");
    assert_eq!(take_one(warehouse, &LETTERS, 1).await.next, Offset(0));
    let memory = warehouse.recall(TOPIC, &[(Partition(1), Offset(0))], false).await.unwrap();
    let known: Vec<_> = memory.keys.iter().map(|(key, p, t)| (key.0, p.0, t.0)).collect();
    assert_eq!(known, [(1, 0, 500), (2, 0, 900)]);
    assert_eq!(memory.reached, [(Partition(0), EventTime(100))]);
    // Partition 0 goes on: the first key is forgotten there, so it is free.
    warehouse.commit(&judged(&moved(&first, 2), 0, 1, 500, Vec::new())).await.unwrap();
    let memory = warehouse.recall(TOPIC, &[], false).await.unwrap();
    assert_eq!(memory.keys.iter().map(|(key, ..)| key.0).collect::<Vec<_>>(), [2]);
    let second = take_one(warehouse, &LETTERS, 1).await;
    warehouse.commit(&judged(&second, 1, 3, 100, vec![key(1, 1, 0, 700)])).await.unwrap();
    let numbers = "SELECT partition FROM highwater.unique_keys ORDER BY number";
    assert_eq!(read(warehouse, numbers).await, ["0", "1"]);
    // Within one cut: what its own end has forgotten may be taken again.
    let again = judged(&moved(&first, 3), 0, 1, 2_000, vec![key(2, 0, 3, 3_000)]);
    warehouse.commit(&again).await.unwrap();
    assert_eq!(warehouse.forget(TOPIC).await.unwrap()[0], (Partition(0), EventTime(2_000)));
    assert_eq!(read(warehouse, numbers).await, ["1", "0"], "a batch is forgotten as a whole");
    warehouse.commit(&judged(&moved(&first, 4), 0, 1, 3_000, Vec::new())).await.unwrap();
    warehouse.forget(TOPIC).await.unwrap();
    assert_eq!(
        read(warehouse, numbers).await,
        ["1", "0"],
        "the last one stays, or its number comes again"
    );
    assert_eq!(warehouse.recall(TOPIC, &[], false).await.unwrap().keys.len(), 1);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_kept_and_read_back() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let mark = take_one(warehouse, &LETTERS, 0).await;
    let keys: Vec<_> = (0..120_000).map(|n| key(n << 64 | 7, 0, n as i64, i64::MAX)).collect();
    warehouse.commit(&judged(&mark, 0, 120_000, 100, keys.clone())).await.unwrap();
    let memory = warehouse.recall(TOPIC, &[], false).await.unwrap();
    let wanted: Vec<_> = keys.iter().map(|k| (k.key, k.partition, k.forget_at)).collect();
    assert_eq!(memory.keys, wanted);
    assert_eq!(memory.known_to, 60);
    // The next cut knows them all, or meets them.
    let next = judged(&moved(&mark, 120_000), 0, 1, 100, vec![key(7 << 64 | 7, 0, 120_000, 200)]);
    assert_eq!(warehouse.commit(&next).await.unwrap_err().kind, Kind::Retry);
    let other = judged(&moved(&mark, 120_000), 0, 1, 100, vec![key(1, 0, 120_000, 200)]);
    let learned = warehouse.commit(&other).await.unwrap().learned;
    assert_eq!((learned.keys, learned.known_to), (wanted, 61));
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_that_take_the_same_key_at_the_same_time_take_it_once() {
    let Some(database) = Database::plain().await else { return };
    let mut at_once = tokio::task::JoinSet::new();
    for partition in 0..8 {
        let warehouse = database.warehouse.clone();
        at_once.spawn(async move {
            let mut mark = take_one(&warehouse, &LETTERS, partition).await;
            let (mut known_to, mut taken, mut refused) = (0, 0, 0);
            let mut known: Vec<Key> = Vec::new();
            // Each key is wanted by four of them; those of a process are never wanted by itself.
            for round in 0..30 {
                let wanted = (u128::from(partition as u32 % 2) + round * 2) + 1;
                let own = (u128::from(partition as u32) + 1) << 64 | round;
                let free = [wanted, own].map(Key).into_iter().filter(|key| !known.contains(key));
                let offset = mark.next.0;
                let keys: Vec<_> = free.map(|k| key(k.0, partition, offset, i64::MAX)).collect();
                let mut cut = judged(&mark, partition, 1, 100, keys.clone());
                cut.yields = vec![Yield::Verdicts(Verdicts {
                    keys: keys.clone(),
                    known_to,
                    ..Verdicts::default()
                })];
                match warehouse.commit(&cut).await {
                    Ok(committed) => {
                        mark = moved(&mark, 1);
                        taken += keys.len();
                        known_to = known_to.max(committed.learned.known_to);
                        known.extend(committed.learned.keys.iter().map(|(key, ..)| *key));
                    }
                    Err(error) => {
                        assert_eq!(error.kind, Kind::Retry, "{error}");
                        let memory = warehouse.recall(TOPIC, &[], false).await.unwrap();
                        known = memory.keys.iter().map(|(key, ..)| *key).collect();
                        known_to = memory.known_to;
                        refused += 1;
                    }
                }
            }
            (taken, refused)
        });
    }
    let (mut taken, mut refused) = (0, 0);
    while let Some(done) = at_once.join_next().await {
        let (more_taken, more_refused) = done.unwrap();
        (taken, refused) = (taken + more_taken, refused + more_refused);
    }
    let memory = database.warehouse.recall(TOPIC, &[], false).await.unwrap();
    let different: std::collections::BTreeSet<_> = memory.keys.iter().map(|k| k.0).collect();
    assert_eq!((memory.keys.len(), different.len()), (taken, taken), "each once");
    println!("{taken} keys, {refused} cuts refused");
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_leaves_out_what_was_recorded_and_nothing_else() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let judge = take_one(warehouse, &LETTERS, 0).await;
    let lake = take_one(warehouse, &Output::Lake, 0).await;
    let duplicates: Vec<_> = [3, 5]
        .map(|offset| Duplicate {
            partition: Partition(0),
            offset,
            event_time: EventTime(40 + offset),
        })
        .into();
    let mut letters = advance(&LETTERS, 0, &judge, 8);
    letters.fates = Fates { filtered: 6, duplicate: 2, ..Fates::default() };
    let verdicts = Yield::Verdicts(Verdicts { duplicates, ..Verdicts::default() });
    warehouse.commit(&cut(vec![letters], vec![verdicts])).await.unwrap();
    for (accepted, duplicate, whole) in [(8, 0, false), (6, 3, false), (7, 1, false), (6, 2, true)]
    {
        let mut advance = advance(&Output::Lake, 0, &lake, accepted + duplicate);
        advance.fates = Fates { accepted, duplicate, ..Fates::default() };
        let done = warehouse.commit(&cut(vec![advance], vec![Yield::Judged])).await;
        match done {
            Ok(_) => assert!(whole, "{accepted} {duplicate}"),
            Err(error) => {
                assert!(!whole && error.kind == Kind::Halt, "{error}");
                assert!(error.context.starts_with("U-3"), "{error}");
            }
        }
    }
    // A model that was added later reads from the beginning; the lake's mark alone needs none.
    let of = [(Partition(0), Offset(0))];
    assert_eq!(warehouse.duplicates_ahead(TOPIC, &of, true).await.unwrap(), 0);
    take_one(warehouse, &model_output("later"), 0).await;
    assert_eq!(warehouse.duplicates_ahead(TOPIC, &of, true).await.unwrap(), 2);
    let memory = warehouse.recall(TOPIC, &of, true).await.unwrap();
    assert_eq!(memory.verdicts, [(Partition(0), Offset(0), vec![3, 5])]);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_declared_later_is_told_every_verdict() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let judge = take_one(warehouse, &LETTERS, 0).await;
    let mut letters = advance(&LETTERS, 0, &judge, 4);
    letters.fates = Fates { filtered: 3, duplicate: 1, ..Fates::default() };
    let duplicate = Duplicate { partition: Partition(0), offset: 2, event_time: EventTime(1) };
    let verdicts = Yield::Verdicts(Verdicts { duplicates: vec![duplicate], ..Verdicts::default() });
    warehouse.commit(&cut(vec![letters], vec![verdicts])).await.unwrap();
    let of = [(Partition(0), Offset(1))];
    let none = warehouse.recall(TOPIC, &of, false).await.unwrap();
    assert_eq!(none.verdicts, [(Partition(0), Offset(4), vec![])]);
    let all = warehouse.recall(TOPIC, &of, true).await.unwrap();
    assert_eq!(all.verdicts, [(Partition(0), Offset(1), vec![2])]);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_begin_again_have_verdicts_of_their_own_and_keys_are_remembered() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let of = |mark: &Mark, offset, keys| {
        let mut letters = advance(&LETTERS, 0, mark, 4);
        letters.event_time_max = Some(EventTime(100));
        letters.fates = Fates { filtered: 3, duplicate: 1, ..Fates::default() };
        let duplicate = Duplicate { partition: Partition(0), offset, event_time: EventTime(1) };
        let verdicts = Verdicts { keys, duplicates: vec![duplicate], known_to: 0 };
        cut(vec![letters], vec![Yield::Verdicts(verdicts)])
    };
    let lake = |mark: &Mark| {
        let mut lake = advance(&Output::Lake, 0, mark, 4);
        lake.fates = Fates { accepted: 3, duplicate: 1, ..Fates::default() };
        cut(vec![lake], vec![Yield::Judged])
    };
    let judge = take_one(warehouse, &LETTERS, 0).await;
    let of_lake = take_one(warehouse, &Output::Lake, 0).await;
    warehouse.commit(&of(&judge, 2, vec![key(1, 0, 0, 900)])).await.unwrap();
    warehouse.commit(&lake(&of_lake)).await.unwrap();
    // The log ends below the marks.
    let log = PartitionLog { topic_id: None, oldest: Offset(0), end: Offset(1) };
    let outputs = [LETTERS, Output::Lake];
    let gaps = outputs.clone().map(|output| Gap {
        output,
        partition: Partition(0),
        reason: Reason::Truncated,
        next: Offset(4),
        topic_id: None,
        log,
    });
    warehouse.accept_gaps(TOPIC, &gaps, &outputs, "a test").await.unwrap();
    let judge = take_one(warehouse, &LETTERS, 0).await;
    assert_eq!((judge.next, judge.fates.duplicate), (Offset(0), 0));
    let oldest = [(Partition(0), Offset(0))];
    let memory = warehouse.recall(TOPIC, &oldest, true).await.unwrap();
    assert_eq!(memory.verdicts, [(Partition(0), Offset(0), vec![])], "those of before are over");
    assert_eq!(memory.keys, [(Key(1), Partition(0), EventTime(900))]);
    assert_eq!(memory.reached, [(Partition(0), EventTime(100))], "event time goes on");
    // The same place, another record.
    warehouse.commit(&of(&judge, 2, Vec::new())).await.unwrap();
    let memory = warehouse.recall(TOPIC, &oldest, true).await.unwrap();
    assert_eq!(memory.verdicts, [(Partition(0), Offset(0), vec![2])]);
    let of_lake = take_one(warehouse, &Output::Lake, 0).await;
    warehouse.commit(&lake(&of_lake)).await.unwrap();
    let snapshot = warehouse.snapshot().await.unwrap();
    let recorded = snapshot.duplicates().await.unwrap();
    let mut marks = snapshot.former_marks().await.unwrap();
    marks.extend(snapshot.marks().await.unwrap());
    assert_eq!(marks.len(), 4);
    for m in marks {
        let place = (m.topic.clone(), m.output.clone(), m.partition, m.generation);
        assert_eq!(recorded.get(&place), Some(&m.mark.fates.duplicate), "{place:?}");
    }
    drop(snapshot);
    let proof = read(warehouse, include_str!("../../../sql/queries/proof.sql")).await;
    let differ = proof.iter().any(|line| line.contains("DUPLICATES") || line.contains("NOT ADD"));
    assert!(proof.len() == 4 && !differ, "{proof:?}");
    database.end().await;
}
