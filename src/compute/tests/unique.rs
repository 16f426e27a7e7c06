//! The judge against an oracle that looks at every earlier record again.

use super::*;
use crate::{
    compute::unique::{Hashing, Judge, Key, Memory, NewKey, Verdicts},
    record::IdleAdvance,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

const KEYS_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy)]
struct Event {
    partition: i32,
    key: u8,
    time: i64,
}

/// Of each record, in the order given: whether one with its key was taken before and is not
/// forgotten by the watermark of the partition where that was.
fn slow(events: &[Event], within: i64, disorder: i64) -> Vec<bool> {
    let mut taken: Vec<usize> = Vec::new();
    let mut verdicts = Vec::new();
    for (now, event) in events.iter().enumerate() {
        let remembered = |&&earlier: &&usize| {
            let first = events[earlier];
            let seen = events[..now].iter().filter(|e| e.partition == first.partition);
            let watermark = seen.map(|e| e.time - disorder).max();
            first.key == event.key && watermark.is_none_or(|mark| mark < first.time + within)
        };
        let duplicate = taken.iter().find(remembered).is_some();
        if !duplicate {
            taken.push(now);
        }
        verdicts.push(duplicate);
    }
    verdicts
}

/// What is committed, as maps.
#[derive(Default)]
struct Stored {
    keys: BTreeMap<Key, NewKey>,
    next: BTreeMap<i32, i64>,
    reached: BTreeMap<i32, i64>,
    duplicates: BTreeMap<i32, Vec<i64>>,
}

impl Stored {
    fn marks(&self) -> Vec<(Output, Partition, Mark)> {
        let of =
            |p: i32| mark(self.next.get(&p).copied().unwrap_or(0), self.reached.get(&p).copied());
        (0..3).map(|p| (Output::DeadLetters, Partition(p), of(p))).collect()
    }

    fn memory(&self) -> Memory {
        let over = |k: &&NewKey| {
            self.reached.get(&k.partition.0).is_some_and(|reached| *reached >= k.forget_at.0)
        };
        let keys = self.keys.values().filter(|k| !over(k));
        let reached = self.reached.iter();
        let verdicts = (0..3).map(|p| {
            let duplicates = self.duplicates.get(&p).cloned().unwrap_or_default();
            (Partition(p), Offset(0), duplicates)
        });
        Memory {
            keys: keys.map(|k| (k.key, k.partition, k.forget_at)).collect(),
            reached: reached.map(|(p, time)| (Partition(*p), EventTime(*time))).collect(),
            verdicts: verdicts.collect(),
            known_to: 0,
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0..3i32, 0..6u8, -20..60i64);
    let event = event.prop_map(|(partition, key, time)| Event { partition, key, time });
    prop::collection::vec(event, 0..120)
}

proptest! {
    /// U-1, U-2: whatever is committed when, and however often the process dies in between.
    #[test]
    fn verdicts_are_the_oracles_whatever_cuts_and_restarts(
        events in events(),
        steps in prop::collection::vec(0..6u8, 120),
        within in 1..40i64, disorder in 0..12i64, drift in 0..3i64,
    ) {
        // Time goes on, so that keys are forgotten.
        let events: Vec<Event> = events.iter().enumerate()
            .map(|(i, e)| Event { time: e.time + drift * i as i64, ..*e }).collect();
        let wanted = slow(&events, within, disorder);
        let us = |n: i64| Duration::from_micros(n as u64);
        let mut judge = Judge::new(us(within), us(disorder), KEYS_MAX);
        let mut stored = Stored::default();
        judge.adopt(&stored.marks(), &[], &stored.memory());
        let mut offsets: Vec<i64> = Vec::new();
        let mut next = BTreeMap::new();
        for event in &events {
            let offset: &mut i64 = next.entry(event.partition).or_default();
            offsets.push(*offset);
            *offset += 1;
        }
        let (mut at, mut committed) = (0, 0);
        let mut steps = steps.into_iter();
        while at < events.len() {
            match steps.next() {
                // A cut is committed.
                Some(0) => {
                    let Verdicts { keys, duplicates: found, .. } = judge.seal();
                    stored.keys.extend(keys.into_iter().map(|k| (k.key, k)));
                    for duplicate in found {
                        stored.duplicates.entry(duplicate.partition.0).or_default().push(duplicate.offset);
                    }
                    for (event, offset) in events[committed..at].iter().zip(&offsets[committed..]) {
                        stored.next.insert(event.partition, offset + 1);
                        let reached = stored.reached.entry(event.partition).or_insert(event.time);
                        *reached = event.time.max(*reached);
                    }
                    committed = at;
                }
                // It dies; the next one reads from the marks on.
                Some(1) => {
                    judge.abandon();
                    judge.adopt(&stored.marks(), &[], &stored.memory());
                    prop_assert!(!judge.is_contested());
                    at = committed;
                }
                // An output that is behind asks again of what is recorded.
                Some(2) if committed > 0 => {
                    judge.abandon();
                    judge.adopt(&stored.marks(), &[], &stored.memory());
                    at = committed;
                    for (i, event) in events[..committed].iter().enumerate() {
                        let (partition, key) = (Partition(event.partition), Key(event.key.into()));
                        let verdict = judge.verdict(partition, offsets[i], EventTime(event.time), key);
                        prop_assert_eq!(verdict, wanted[i], "record {} again", i);
                    }
                }
                Some(_) | None => {
                    let event = events[at];
                    let (partition, key) = (Partition(event.partition), Key(event.key.into()));
                    let verdict = judge.verdict(partition, offsets[at], EventTime(event.time), key);
                    prop_assert_eq!(verdict, wanted[at], "record {}", at);
                    at += 1;
                    let (from, to) = (offsets[at - 1], Offset(offsets[at - 1] + 1));
                    let known = judge.duplicates(partition, from, to).unwrap();
                    prop_assert_eq!(known.len() == 1, wanted[at - 1]);
                }
            }
        }
    }
}

#[test]
fn a_key_is_forgotten_when_the_watermark_has_come_to_its_time_and_the_horizon() {
    let us = Duration::from_micros;
    let mut judge = Judge::new(us(10), us(2), KEYS_MAX);
    judge.adopt(&[(Output::DeadLetters, Partition(0), mark(0, None))], &[], &Memory::default());
    let mut ask =
        |offset, time, key| judge.verdict(Partition(0), offset, EventTime(time), Key(key));
    assert!(!ask(0, 100, 1));
    assert!(ask(1, 100, 1) && ask(2, 103, 1));
    assert!(!ask(3, 111, 2), "the watermark is at 109");
    assert!(ask(4, 50, 1), "however old it is itself");
    assert!(!ask(5, 112, 3), "the watermark is at 110");
    assert!(!ask(6, 100, 1), "so it is forgotten, and taken again");
    assert_eq!(judge.memory() / crate::compute::unique::KEY_BYTES, 3);
    let Verdicts { keys, duplicates, known_to } = judge.seal();
    let places: Vec<_> = keys.iter().map(|k| (k.key.0, k.offset)).collect();
    assert_eq!((places, known_to), (vec![(1, 0), (2, 3), (3, 5), (1, 6)], 0));
    assert_eq!(duplicates.iter().map(|d| d.offset).collect::<Vec<_>>(), [1, 2, 4]);
}

#[test]
fn a_duplicate_raises_the_watermark_or_a_key_that_never_stops_is_never_forgotten() {
    let us = Duration::from_micros;
    let mut judge = Judge::new(us(10), us(0), KEYS_MAX);
    judge.adopt(&[(Output::DeadLetters, Partition(0), mark(0, None))], &[], &Memory::default());
    let taken: Vec<i64> =
        (0..40).filter(|t| !judge.verdict(Partition(0), *t, EventTime(*t), Key(7))).collect();
    assert_eq!(taken, [0, 11, 22, 33]);
}

#[test]
fn a_partition_that_brings_a_key_which_the_open_cut_takes_contests_it() {
    let us = Duration::from_micros;
    let of = |p| (Output::DeadLetters, Partition(p), mark(5, Some(100)));
    let mut judge = Judge::new(us(10), us(0), KEYS_MAX);
    judge.adopt(&[of(0)], &[], &Memory::default());
    assert!(!judge.verdict(Partition(0), 5, EventTime(100), Key(1)));
    let key = (Key(1), Partition(1), EventTime(110));
    let memory = Memory { keys: vec![key], ..Memory::default() };
    judge.adopt(&[of(1)], &[], &memory);
    assert!(judge.is_contested());
    judge.abandon();
    judge.adopt(&[of(0), of(1)], &[], &memory);
    assert!(!judge.is_contested());
    assert!(judge.verdict(Partition(0), 5, EventTime(100), Key(1)));
}

#[test]
fn a_cut_is_compared_with_the_keys_that_were_not_known_when_it_took_its_own() {
    let us = Duration::from_micros;
    let mut judge = Judge::new(us(10), us(0), KEYS_MAX);
    let memory = |key, known_to| Memory {
        keys: vec![(Key(key), Partition(1), EventTime(200))],
        known_to,
        ..Memory::default()
    };
    judge.adopt(&[(Output::DeadLetters, Partition(0), mark(0, None))], &[], &memory(9, 4));
    let take = |judge: &mut Judge, offset, key| {
        assert!(!judge.verdict(Partition(0), offset, EventTime(100), Key(key)));
    };
    take(&mut judge, 0, 1);
    assert_eq!(judge.seal().known_to, 4);
    // Others' keys, none of the open cut.
    take(&mut judge, 1, 2);
    judge.learn(&memory(8, 7));
    assert!(!judge.is_contested());
    assert!(judge.verdict(Partition(0), 2, EventTime(100), Key(8)));
    assert_eq!(judge.seal().known_to, 7);
    // One that is: its commit has to find it, if it comes to that.
    take(&mut judge, 3, 3);
    judge.learn(&memory(3, 9));
    assert!(judge.is_contested());
    assert_eq!(judge.seal().known_to, 7);
    assert_eq!(judge.seal().known_to, 9);
}

#[test]
fn a_key_is_forgotten_by_the_clock_of_an_idle_partition_in_every_life() {
    let us = Duration::from_micros;
    let marks = [(Output::DeadLetters, Partition(0), mark(5, Some(100)))];
    let advance = |before, time| IdleAdvance {
        partition: Partition(0),
        before: Offset(before),
        event_time: EventTime(time),
    };
    let memory = Memory { keys: vec![(Key(1), Partition(0), EventTime(110))], ..Memory::default() };
    let is_duplicate = |advances: &[IdleAdvance], heard: &[i64]| {
        let mut judge = Judge::new(us(10), us(0), KEYS_MAX);
        judge.adopt(&marks, advances, &memory);
        judge.hear(&heard.iter().map(|t| (Partition(0), EventTime(*t))).collect::<Vec<_>>());
        judge.verdict(Partition(0), 5, EventTime(90), Key(1))
    };
    assert!(is_duplicate(&[], &[]));
    assert!(is_duplicate(&[], &[109]) && !is_duplicate(&[], &[110]), "as it happens");
    assert!(is_duplicate(&[advance(5, 109)], &[]) && !is_duplicate(&[advance(5, 110)], &[]));
    assert!(!is_duplicate(&[advance(0, 110)], &[]), "of a partition that was added");
    assert!(is_duplicate(&[advance(6, 110)], &[]), "not reached yet");
}

fn declared_unique(columns: &str) -> Declared {
    let topic = TOPIC.replacen(
        "[columns]",
        &format!("unique = [{columns}]\nwithin = \"1h\"\n[columns]"),
        1,
    );
    let catalog = catalog::check(&[(PathBuf::from("topics/events.toml"), topic)], &[]);
    Declared { topic: catalog.unwrap().topics["events"].clone(), models: Vec::new() }
}

#[test]
fn keys_are_values_after_decoding_and_null_equals_null() {
    let first = |columns: &str, a: &str, b: &str| {
        let declared = declared_unique(columns);
        let events = [event(0, a), event(1, b)];
        let records = records(&events);
        let decoded = declared.decode(&records);
        assert_eq!(decoded.rejects, [], "{a} {b}");
        let hashing = Hashing::new(&declared.topic).unwrap();
        let mut judge = Judge::new(Duration::from_secs(3600), Duration::ZERO, KEYS_MAX);
        judge.adopt(&[(Output::DeadLetters, Partition(0), mark(0, None))], &[], &Memory::default());
        let from = [(Partition(0), Offset(0))];
        judge.judge(&hashing, &decoded, &from).unwrap()
    };
    let (same, other) = (vec![false, true], Vec::<bool>::new());
    assert_eq!(first(r#""k""#, r#""k":"a","n":1"#, r#""k":"a","n":2"#), same);
    assert_eq!(first(r#""k", "n""#, r#""k":"a","n":1"#, r#""k":"a","n":2"#), other);
    assert_eq!(first(r#""k", "n""#, r#""k":"a","n":1"#, r#""k":"a","n":"1""#), same);
    assert_eq!(first(r#""k", "n""#, r#""k":"a""#, r#""k":"a","n":null"#), same);
    assert_eq!(first(r#""k""#, r#""n":1"#, r#""k":"","n":1"#), other, "NULL and blank");
}

#[test]
fn a_judge_without_room_says_so() {
    let declared = declared_unique(r#""n""#);
    let events: Vec<String> = (0..20).map(|n| event(n, &format!(r#""n":{n}"#))).collect();
    let records = records(&events);
    let hashing = Hashing::new(&declared.topic).unwrap();
    let mut judge = Judge::new(Duration::from_secs(3600), Duration::ZERO, 19);
    judge.adopt(&[(Output::DeadLetters, Partition(0), mark(0, None))], &[], &Memory::default());
    let from = [(Partition(0), Offset(0))];
    let error = judge.judge(&hashing, &declared.decode(&records), &from).unwrap_err();
    assert!(error.context.contains("20 keys, and there is room for 19"), "{error}");
}

#[test]
fn duplicates_reach_no_model_and_have_a_fate_in_each() {
    let declared =
        declared(&["sums AS SELECT k, count(*) AS rows FROM events WHERE n > 1 GROUP BY k"]);
    let events: Vec<String> = (0..6).map(|n| event(n, &format!(r#""n":{n}"#))).collect();
    let records = records(&events);
    let mut tables = declared.fresh();
    let twice = [false, true, false, true, true, false];
    let from = [(Partition(0), Offset(0))];
    tables.admit(&records, &declared.decode(&records), &from, &twice).unwrap();
    let sealed = tables.seal().unwrap();
    let fates = |output: Output| sealed.counts[&(output, Partition(0))].fates;
    let model = fates(Output::Model("sums".into()));
    assert_eq!((model.accepted, model.filtered, model.duplicate), (2, 1, 3));
    let letters = fates(Output::DeadLetters);
    assert_eq!((letters.filtered, letters.duplicate), (3, 3));
    assert_eq!(model.total(), 6);
}
